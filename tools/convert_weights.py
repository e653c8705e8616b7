"""Convert official weights to the layout that FastVideo loads, and prove that no value was lost or doubled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..port.convert_file import read_convert_file
from ..port.converted import FOLDER, converted_folder
from ..port.errors import PortError
from ..port.excludes import exclude
from ..port.hashes import hash_files
from ..port.ledger import Ledger
from ..port.official import require_official_code
from ..port.paths import resolve_inside
from ..port.records import ConvertedRecord, PortRecord
from ..port.textsafe import clean, sentences
from ..runs.models import Run, RunState
from ._runs import check_wait, no_result_yet, require_value, start_and_wait
from ._weights import require_weights
from .base import ToolContext, ToolResult, ToolSpec

_SHOWN = 20
_TIME_LIMIT_S = 12 * 3600.0
_LISTS = ("lost", "doubled", "invented", "changed", "findings", "dropped")


class ConversionFinding(BaseModel):
    """Something wrong, or worth knowing, about the conversion."""

    model_config = ConfigDict(extra="forbid")

    code: str
    message: str
    fatal: bool


class Proof(BaseModel):
    """Where every source value went. Lists hold at most 20 entries."""

    model_config = ConfigDict(extra="forbid")

    tensors: list[int] = Field(description="Arrived, all.")
    parameters: list[int] = Field(description="Arrived, all.")
    lost: list[str] = Field(description="Source tensors that arrive nowhere or in part.")
    doubled: list[str] = Field(description="Written although another holds the values.")
    invented: list[str] = Field(description="Written and from no source.")
    changed: list[str] = Field(description="Rounded, reordered or other values.")
    dropped: dict[str, str] = Field(description="Left out on purpose, and why: for review.")
    how: dict[str, int] = Field(description="Tensors by the way they arrived.")
    counts: dict[str, int] = Field(description="Full lengths.")
    digest: str = Field(description="Of the safetensors files.")


class ConvertWeightsResult(ToolResult):
    """What came of the conversion."""

    run_id: str
    state: RunState
    verdict: Literal["pass", "fail", "investigate"] | None = Field(default=None, description="None while running.")
    path: str = Field(default="", description="converted_weights/<model>, or where the rejected result lies.")
    layout: Literal["diffusers", "unknown"] = Field(default="unknown")
    proof: Proof | None = Field(default=None)
    findings: list[ConversionFinding] = Field(default=[], description="At most 20.")
    notes: list[str] = Field(default=[])


def convert_weights(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    script: Annotated[
        str | None, Field(description="Reads $FASTVIDEO_PORT_SOURCE, fills $FASTVIDEO_PORT_OUTPUT.")
    ] = None,
    args: Annotated[list[str] | None, Field(description="For the script; {source}, {output}.")] = None,
    rules: Annotated[str | None, Field(description="JSON/TOML file; with a script only drops.")] = None,
    wait_s: Annotated[float, Field(description="0 to 45 s, default 45.")] = 45,
) -> ConvertWeightsResult:
    """Convert a checkpoint to Diffusers layout by script or by rules (rename, split, merge, transpose, permute,
    reshape, cast, drop; streamed); proves that no value is lost, doubled or changed. Only if needs_conversion."""
    check_wait(wait_s)
    port = ctx.ports.working(port_id)
    if (script is None) == (rules is None) and script is None:
        raise PortError(
            "A conversion needs a script or rules.",
            seen="neither was given",
            fix="Give script or rules, a path in the worktree.",
        )
    port = require_weights(ctx, port)
    if port.weights is None:
        raise PortError("There are no official weights yet.", seen=port_id, fix="Call fetch_weights first.")
    worktree, source = Path(port.worktree), Path(port.weights.path)
    spec: dict[str, Any] = {"rules": [], "args": _arguments(args, script)}
    files = []
    if rules is not None:
        path = resolve_inside(worktree, rules, name="rules", kind="file")
        spec |= read_convert_file(path, worktree, source)
        files.append(path)
        if script is not None and any(not row.get("drop") for row in spec["rules"] if isinstance(row, dict)):
            raise PortError(
                "With a script, rules may only drop.", seen=path.name, fix="Leave the others out: the script decides."
            )
    if script is not None:
        path = resolve_inside(worktree, script, name="script", kind="file")
        require_official_code(port)
        files.append(path)
        spec["script"] = str(path)
    exclude(worktree, ctx.home, (FOLDER,))
    _own_folder(worktree)
    port = ctx.ports.update(port_id, lambda known: known.model_copy(update={"conversions": known.conversions + 1}))
    assert port.weights is not None
    inputs = {path.relative_to(worktree.resolve()).as_posix(): hash_files(ctx.home, [path])[0] for path in files}
    run = start_and_wait(
        ctx,
        port=port,
        tool="convert_weights",
        arguments={
            "script": script,
            "rules": rules,
            "args": args,
            "weights": port.weights.digest,
            "inputs": inputs,
            "conversion": port.conversions,
        },
        job="convert_weights",
        spec={
            **spec,
            "source": str(source),
            "target": str(converted_folder(port)),
            "worktree": str(worktree),
            "official_repo": port.official_repo,
        },
        wait_s=wait_s,
        time_limit_s=_TIME_LIMIT_S,
    )
    return finish(ctx, run)


def finish(ctx: ToolContext, run: Run) -> ConvertWeightsResult:
    """The result of a run of this tool; a finished one is entered in the ledger once, a proven one in the record.

    Raises:
        PortError: The run failed.
    """
    if not run.finished or run.state == "cancelled":
        return ConvertWeightsResult(run_id=run.run_id, state=run.state, next_step=no_result_yet(run))
    value = require_value(ctx, run)
    verdict = value["verdict"]
    port = ctx.ports.update(str(run.port_id), lambda known: _take(known, run, value))
    reasons = [row["message"] for row in value["findings"] if row["fatal"] or verdict == "investigate"]
    Ledger(ctx.home).append(
        port_id=port.port_id,
        kind="convert_weights",
        verdict=verdict,
        run_id=run.run_id,
        summary={
            "why": clean(sentences(reasons[:3]))[:600],
            "tensors": value["arrived"],
            "parameters": value["parameters"],
            "dropped": len(value["dropped"]) if "dropped" in value else 0,
            "digest": value.get("digest", ""),
        },
        depends_on={
            "weights": run.arguments["weights"],
            **{f"worktree:{name}": digest for name, digest in run.arguments["inputs"].items()},
        },
    )
    rows = sorted(value["findings"], key=lambda row: not row["fatal"])
    return ConvertWeightsResult(
        run_id=run.run_id,
        state=run.state,
        verdict=verdict,
        path=value["path"],
        layout="diffusers" if value["path"] and verdict != "fail" else "unknown",
        proof=Proof(
            tensors=value["arrived"],
            parameters=value["parameters"],
            **{name: [clean(item)[:200] for item in value[name][:_SHOWN]] for name in _LISTS[:4]},
            dropped={clean(k)[:200]: clean(v)[:200] for k, v in list(value.get("dropped", {}).items())[:_SHOWN]},
            how=value["how"],
            counts={name: len(value.get(name, [])) for name in _LISTS},
            digest=value.get("digest", ""),
        ),
        findings=[
            ConversionFinding(code=row["code"], message=clean(row["message"])[:400], fatal=row["fatal"])
            for row in rows[:_SHOWN]
        ],
        notes=_notes(port),
        next_step=_next_step(verdict, reasons),
    )


def _take(known: PortRecord, run: Run, value: dict[str, Any]) -> PortRecord:
    if known.converted is not None and known.converted.conversion >= run.arguments["conversion"]:
        return known
    if value["verdict"] == "fail":
        return known
    made = ConvertedRecord(
        path=value["path"],
        digest=value["digest"],
        stamp=value["stamp"],
        source=run.arguments["weights"],
        conversion=run.arguments["conversion"],
    )
    return known.model_copy(update={"converted": made})


def _notes(port: PortRecord) -> list[str]:
    if port.weights is not None and port.weights.needs_conversion is False:
        return [
            "fetch_weights found a Diffusers layout that FastVideo loads as it is: convert only if its loaders refuse "
            "it, and say why."
        ]
    return []


def _arguments(args: list[str] | None, script: str | None) -> list[str]:
    args = args or []
    if args and script is None:
        raise PortError("args are for a script.", seen=f"{len(args)} args", fix="Give script, or leave args out.")
    if len(args) > 100 or any("\0" in item or len(item) > 4000 for item in args):
        raise PortError("args cannot be handed on.", seen=f"{len(args)} args", fix="Give at most 100 short ones.")
    return args


def _own_folder(worktree: Path) -> None:
    root = worktree / FOLDER
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise PortError(
            f"{FOLDER} in the worktree is not a folder of its own.", seen=str(root), fix="Move it away, then try again."
        )


def _next_step(verdict: str, reasons: list[str]) -> str:
    if verdict == "pass":
        return "Call check_mapping: it reads the converted weights now, and proves that they arrive in the port."
    first = clean(reasons[0])[:300] if reasons else "not every value was proven"
    if verdict == "investigate":
        return f"The values are all there, but names look crossed ({first}); check them, then go on with check_mapping."
    return f"Repair the conversion ({first}), then call convert_weights again."


SPEC = ToolSpec(
    convert_weights,
    title="Convert weights",
    read_only=False,
    destructive=True,
    idempotent=True,
    open_world=False,
)
