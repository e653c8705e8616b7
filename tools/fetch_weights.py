"""Bring a model's official weights into the port's worktree, and say what they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ..port import hub
from ..port.errors import PortError
from ..port.git import check_revision
from ..port.paths import check_text
from ..port.records import PortRecord, WeightsRecord
from ..port.textsafe import one_line
from ..port.weights_link import local_folder, place, weights_root
from ..port.weights_report import ComponentFacts, DuplicateKey, Kind, Layout, WeightsReport
from ..runs.models import Run, RunState
from ._runs import check_wait, require_value, start_and_wait
from .base import ToolContext, ToolResult, ToolSpec

_SHOWN = 40
_TEXTS_SHOWN = 20
_LONGEST_TEXT = 120
_TIME_LIMIT_S = 24 * 3600.0


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

    run_id: str
    state: RunState
    path: str = Field(default="", description="Absolute, in official_weights/.")
    source: str = Field(description="Hub id or absolute path.")
    revision: str | None = Field(default=None, description="Hub commit.")
    layout: Layout | None = None
    needs_conversion: bool | None = None
    why: str = Field(default="", description="Why conversion is or is not needed.")
    components: list[Component] = Field(default=[])
    files: dict[str, str] = Field(default={}, description="Safetensors files and their SHA-256.")
    missing: list[str] = Field(default=[], description="Absent shards.")
    index_faults: list[str] = Field(default=[], description="Where index and headers disagree.")
    duplicates: list[str] = Field(default=[], description="Tensors that several files hold.")
    unsafe_files: list[str] = Field(default=[], description="Pickle-like files; never opened.")
    custom_code: list[str] = Field(default=[], description="Not run.")
    notes: list[str] = Field(default=[])
    counts: dict[str, int] = Field(default={}, description="Totals, lists uncut: tensors, parameters, bytes, files...")
    digest: str = Field(default="", description="SHA-256 over all safetensors files.")
    details: str = Field(default="", description="JSON file with everything.")


def fetch_weights(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    source: Annotated[str, Field(description="Hub id 'org/name', local folder or .safetensors.")],
    revision: Annotated[str | None, Field(description="Hub branch, tag or commit; default main.")] = None,
    allow_patterns: Annotated[list[str] | None, Field(description="Only hub files like these, e.g. 'vae/*'.")] = None,
    ignore_patterns: Annotated[list[str] | None, Field(description="No hub files like these.")] = None,
    wait_s: Annotated[float, Field(description="0 to 45 s, default 45.")] = 45,
) -> FetchWeightsResult:
    """Download official weights from the Hugging Face hub (pinned to a commit) or link a local checkpoint into the
    port; reports layout, components, dtypes, hashes, missing shards, pickle files (fetched only if allow_patterns names
    them). It goes on by itself; call again after an interruption."""
    check_wait(wait_s)
    port = ctx.ports.get(port_id)
    check_text(source, "source")
    source = hub.id_of(source)
    local = _local(ctx.cwd, source)
    _check_options(revision, allow_patterns, ignore_patterns, local)
    if local is None:
        hub.check_id(source)
    root = weights_root(Path(port.worktree))
    folder = local_folder(local, Path(port.worktree), root) if local is not None else None
    asked = {
        "source": source if local is None else str(local.resolve()),
        "revision": revision,
        "allow_patterns": allow_patterns,
        "ignore_patterns": ignore_patterns,
    }
    run = _under_way(ctx, port_id, asked)
    if run is not None:
        return finish(ctx, ctx.runs.wait(run.run_id, wait_s, ctx.report))
    port = ctx.ports.update(port_id, lambda known: known.model_copy(update={"fetches": known.fetches + 1}))
    run = start_and_wait(
        ctx,
        port=port,
        tool="fetch_weights",
        arguments={**asked, "fetch": port.fetches},
        job="fetch_weights",
        spec={**asked, "home": str(ctx.home), "root": str(root), "folder": str(folder) if folder else None},
        wait_s=wait_s,
        python=sys.executable,
        cwd=ctx.home,
        time_limit_s=_TIME_LIMIT_S,
        keep_tokens=local is None,
        own=True,
    )
    return finish(ctx, run)


def finish(ctx: ToolContext, run: Run) -> FetchWeightsResult:
    """The result of a run of this tool; weights that arrived become the port's, unless later ones are.

    Raises:
        PortError: The run failed, or the weights cannot be linked into the worktree.
    """
    if not run.finished or run.state == "cancelled":
        return FetchWeightsResult(
            run_id=run.run_id, state=run.state, source=run.arguments["source"], next_step=_wait(run)
        )
    value = require_value(ctx, run)
    report = WeightsReport.model_validate(value["report"])
    weights = _take(ctx, run, value, report)
    notes = [*value["notes"], *report.notes]
    if weights.fetch != run.arguments["fetch"]:
        weights = _record(run, value, report, Path(value["folder"]))
        notes.insert(0, "A later fetch_weights took the place of these weights; path is where these lie.")
    return _result(ctx, run, weights, report, notes)


def _under_way(ctx: ToolContext, port_id: str, asked: dict[str, Any]) -> Run | None:
    """The unfinished run that does what is asked, if there is one: nothing is fetched twice at once."""
    for run in ctx.runs.list(port_id):
        if run.tool == "fetch_weights" and not run.finished and asked.items() <= run.arguments.items():
            return run
    return None


def _take(ctx: ToolContext, run: Run, value: dict[str, Any], report: WeightsReport) -> WeightsRecord:
    """Link the weights into the worktree and record them, once; the record that holds now."""

    def change(known: PortRecord) -> PortRecord:
        if known.weights is not None and known.weights.fetch >= run.arguments["fetch"]:
            return known
        path = place(weights_root(Path(known.worktree)), known.slug, Path(value["folder"]))
        return known.model_copy(update={"weights": _record(run, value, report, path)})

    weights = ctx.ports.update(str(run.port_id), change).weights
    assert weights is not None
    return weights


def _record(run: Run, value: dict[str, Any], report: WeightsReport, path: Path) -> WeightsRecord:
    return WeightsRecord(
        path=str(path),
        source=run.arguments["source"],
        revision=value["commit"],
        digest=report.digest,
        identities=report.identities,
        components={item.name: (item.kind, item.class_name or "") for item in report.components},
        needs_conversion=report.needs_conversion,
        fetch=run.arguments["fetch"],
    )


def _wait(run: Run) -> str:
    if run.state == "cancelled":
        return "Call fetch_weights again if the weights are still needed; files that arrived whole are kept."
    return f"Call run_status with run_id={run.run_id} and wait_s=45 for progress and result; write_plan can come first."


def _local(cwd: Path, source: str) -> Path | None:
    """The local path that ``source`` means, or none if it is a hub id."""
    path = cwd / Path(source).expanduser() if source.startswith("~") else cwd / source
    written_as_path = (
        source.startswith(("/", "./", "../", "~", ".\\")) or source in (".", "..") or Path(source).is_absolute()
    )
    if path.exists() or written_as_path:
        return path
    if not hub.REPO_ID.fullmatch(source):
        raise PortError(
            "The source is neither a path here nor the id of a model on the hub.",
            seen=f"source={source[:200]!r}; no file or folder {str(path)[:300]}",
            fix="Give org/name as in the model page's URL (a branch or commit goes into revision), a local folder, or "
            "a .safetensors file.",
        )
    return None


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


def _result(
    ctx: ToolContext, run: Run, weights: WeightsRecord, report: WeightsReport, notes: list[str]
) -> FetchWeightsResult:
    counts = {
        name: len(getattr(report, name))
        for name in ("components", "files", "missing", "index_faults", "duplicates", "unsafe_files", "custom_code")
    }
    return FetchWeightsResult(
        run_id=run.run_id,
        state=run.state,
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
        details=str(ctx.runs.folder(run.run_id) / "files" / "weights.json"),
        next_step=_next_step(report, bool(ctx.ports.get(str(run.port_id)).components)),
    )


def _duplicate(item: DuplicateKey) -> str:
    index = f"; the index names {item.listed_in}" if item.listed_in else ""
    return f"{item.key[:80]}: {', '.join(item.files)}{index}"


def _next_step(report: WeightsReport, planned: bool) -> str:
    if report.missing:
        return "Call fetch_weights again without patterns that keep the missing files out, or repair the source."
    if not report.files:
        return "Find safetensors weights: call fetch_weights with another source."
    if planned:
        return "Call gate_status: the plan stands, and what was measured on other weights is stale."
    return "Call write_plan with the components to port, the DiT first."


def _short(component: ComponentFacts) -> Component:
    facts = component.model_dump(exclude={"folder", "name", "class_name"})
    return Component(name=_cut(component.name), class_name=_cut(component.class_name or "") or None, **facts)


def _texts(items: tuple[str, ...]) -> list[str]:
    return [_cut(item) for item in items[:_TEXTS_SHOWN]]


def _cut(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


SPEC = ToolSpec(
    fetch_weights,
    title="Fetch official weights",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=True,
)
