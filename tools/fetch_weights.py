"""Bring a model's official weights into the port's worktree, and say what they are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ..port import hub
from ..port.errors import PortError
from ..port.git import check_revision
from ..port.paths import check_text
from ..port.records import PortRecord, WeightsRecord
from ..port.weights import read_weights
from ..port.weights_link import hub_folder, local_folder, place, weights_root
from ..port.weights_report import ComponentFacts, DuplicateKey, Kind, Layout, UnsafeFile, WeightsReport
from .base import ToolContext, ToolResult, ToolSpec

_SHOWN = 40
_TEXTS_SHOWN = 20
_LONGEST_TEXT = 120


class Component(BaseModel):
    """A component found in the weights."""

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: Kind
    class_name: str | None
    files: int
    tensors: int
    parameters: int
    dtypes: dict[str, int] = Field(description="Elements per dtype.")
    bytes: int


class FetchWeightsResult(ToolResult):
    """The weights that are now in the worktree; lists are cut, `details` has everything."""

    path: str = Field(description="Absolute, in official_weights/.")
    source: str = Field(description="Hub id or absolute path.")
    revision: str | None = Field(description="Hub commit.")
    layout: Layout
    needs_conversion: bool
    why: str = Field(description="Why conversion is or is not needed.")
    components: list[Component]
    files: dict[str, str] = Field(description="Safetensors files and their SHA-256.")
    missing: list[str] = Field(description="Absent shards.")
    index_faults: list[str] = Field(description="Where index and headers disagree.")
    duplicates: list[str] = Field(description="Tensors that several files hold.")
    unsafe_files: list[str] = Field(description="Pickle-like files; never opened.")
    custom_code: list[str] = Field(description="Not run.")
    notes: list[str]
    counts: dict[str, int] = Field(description="Totals, lists uncut: tensors, parameters, bytes, files...")
    digest: str = Field(description="SHA-256 over all safetensors files.")
    details: str = Field(description="JSON file with everything.")


def fetch_weights(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    source: Annotated[str, Field(description="Hub id 'org/name', or a local folder or .safetensors file.")],
    revision: Annotated[
        str | None, Field(description="Hub branch, tag or commit; default main. Not for a path.")
    ] = None,
    allow_patterns: Annotated[list[str] | None, Field(description="Only hub files like these, e.g. 'vae/*'.")] = None,
    ignore_patterns: Annotated[list[str] | None, Field(description="No hub files like these.")] = None,
) -> FetchWeightsResult:
    """Download official weights from the Hugging Face hub (pinned to a commit, resumable) or link a local checkpoint
    into the port, and report layout, components, tensors, dtypes, hashes, missing shards and unsafe pickle files.
    Call again after an interruption. Pickle formats are fetched only if allow_patterns names them."""
    record = ctx.ports.get(port_id)
    worktree = Path(record.worktree)
    check_text(source, "source")
    local = _local(ctx.cwd, source)
    _check_options(revision, allow_patterns, ignore_patterns, local)
    root = weights_root(worktree)
    notes: list[str] = []
    if local is not None:
        commit, shown, target = None, str(local.resolve()), local_folder(local, worktree, root)
        report = read_weights(target, ctx.home, _second_half(ctx))
    else:
        ctx.report(0, None, f"asking the hub for {source}")
        snapshot = hub.resolve(source, revision)
        chosen = hub.select(snapshot, allow_patterns, ignore_patterns)
        commit, shown, target = snapshot.commit, source, hub_folder(root, source, snapshot.commit)
        hub.download(snapshot, chosen, target, ctx.home, _first_half(ctx))
        left = tuple(
            UnsafeFile(path=file.path, bytes=file.size, present=False) for file in snapshot.files if file.unsafe
        )
        report = read_weights(target, ctx.home, _second_half(ctx), left)
        notes += _left_on_hub(snapshot, chosen, report)
    if commit is None and not report.files and not report.unsafe_files:
        raise PortError(
            "The source holds no weights.", seen=shown, fix="Give the folder that holds the model's .safetensors files."
        )
    path = place(root, record.slug, target)
    weights = WeightsRecord(path=str(path), source=shown, revision=commit, digest=report.digest)
    details = _write_details(ctx.home, record, weights, report)
    ctx.ports.update(port_id, lambda known: known.model_copy(update={"weights": weights}))
    return _result(weights, report, details, [*notes, *report.notes])


def _local(cwd: Path, source: str) -> Path | None:
    """The local path that ``source`` means, or none if it is a hub id."""
    path = cwd / Path(source).expanduser() if source.startswith("~") else cwd / source
    written_as_path = (
        source.startswith(("/", "./", "../", "~", ".\\")) or source in (".", "..") or Path(source).is_absolute()
    )
    if written_as_path or not hub.REPO_ID.fullmatch(source):
        return path
    return path if path.exists() else None


def _check_options(revision: str | None, allow: list[str] | None, ignore: list[str] | None, local: Path | None) -> None:
    if local is not None and (revision is not None or allow is not None or ignore is not None):
        raise PortError(
            "revision, allow_patterns and ignore_patterns are for the hub, and the source is a local path.",
            seen=str(local)[:300],
            fix="Leave them out, or give a hub id 'org/name' that is not also a path here.",
        )
    if revision is not None:
        check_revision(revision)
    for pattern in [*(allow or []), *(ignore or [])]:
        if not pattern or len(pattern) > 500 or not pattern.isprintable():
            raise PortError(
                "A pattern is empty or unreadable.", seen=repr(pattern[:80]), fix="Use patterns like 'vae/*'."
            )
    if allow is not None and (not allow or len(allow) > 200):
        raise PortError(
            "allow_patterns names nothing, or too much.", seen=f"{len(allow)}", fix="Give 1 to 200 patterns."
        )


def _left_on_hub(snapshot: hub.Snapshot, chosen: tuple[hub.HubFile, ...], report: WeightsReport) -> list[str]:
    notes = []
    unsafe = sum(not file.present for file in report.unsafe_files)
    other = len(snapshot.files) - len(chosen) - unsafe
    if unsafe:
        notes.append(f"{unsafe} files in formats that can run code stayed on the hub.")
    if other > 0:
        notes.append(f"{other} more files stayed on the hub because of the patterns.")
    extra = {file.path for file in report.files} - {file.path for file in chosen}
    if extra:
        notes.append(f"{len(extra)} safetensors files are here from an earlier call with other patterns.")
    return notes


def _first_half(ctx: ToolContext) -> hub.Report:
    """Progress of the download as 0 to 1 of 2, so that it never falls when hashing follows."""
    return lambda done, total, text: ctx.report(done / total if total else 1, 2, text)


def _second_half(ctx: ToolContext) -> hub.Report:
    return lambda done, total, text: ctx.report(1 + (done / total if total else 1), 2, text)


def _write_details(home: Path, record: PortRecord, weights: WeightsRecord, report: WeightsReport) -> Path:
    folder = home / "ports" / record.port_id
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weights.json"
    text = f'{{"weights": {weights.model_dump_json()}, "report": {report.model_dump_json()}}}\n'
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False, encoding="utf-8") as file:
        file.write(text)
    os.replace(file.name, path)  # noqa: PTH105 - atomic, whoever reads meanwhile sees the old or the new
    return path


def _result(weights: WeightsRecord, report: WeightsReport, details: Path, notes: list[str]) -> FetchWeightsResult:
    counts = {
        name: len(getattr(report, name))
        for name in ("components", "files", "missing", "index_faults", "duplicates", "unsafe_files", "custom_code")
    }
    return FetchWeightsResult(
        path=weights.path,
        source=weights.source,
        revision=weights.revision,
        layout=report.layout,
        needs_conversion=report.needs_conversion,
        why=report.why,
        components=[_short(component) for component in report.components[:_SHOWN]],
        files={_cut(file.path): file.sha256 for file in report.files[:_SHOWN]},
        missing=_texts(report.missing),
        index_faults=_texts(report.index_faults),
        duplicates=_texts(tuple(_duplicate(item) for item in report.duplicates)),
        unsafe_files=_texts(tuple(file.path for file in report.unsafe_files)),
        custom_code=_texts(report.custom_code),
        notes=_texts(tuple(notes)),
        counts=counts | {"tensors": report.tensors, "parameters": report.parameters, "bytes": report.bytes},
        digest=report.digest,
        details=str(details),
        next_step=_next_step(report),
    )


def _duplicate(item: DuplicateKey) -> str:
    index = f"; the index names {item.listed_in}" if item.listed_in else ""
    return f"{item.key[:80]}: {', '.join(item.files)}{index}"


def _next_step(report: WeightsReport) -> str:
    if report.missing:
        return "Call fetch_weights again without patterns that keep the missing files out, or repair the source."
    if not report.files:
        return "Find safetensors weights: call fetch_weights with another source."
    return "Call write_plan with the components to port, the DiT first."


def _short(component: ComponentFacts) -> Component:
    facts = component.model_dump(exclude={"folder", "name", "class_name"})
    return Component(name=_cut(component.name), class_name=_cut(component.class_name or "") or None, **facts)


def _texts(items: tuple[str, ...]) -> list[str]:
    return [_cut(item) for item in items[:_TEXTS_SHOWN]]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


SPEC = ToolSpec(
    fetch_weights,
    title="Fetch official weights",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=True,
)
