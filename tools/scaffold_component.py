"""Write what a component's comparison begins with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..port.errors import PortError
from ..port.files import replace_file
from ..port.paths import open_regular
from ..port.records import ComponentRecord, PortRecord
from ..port.scaffold import Scaffold, scaffold_files
from ..port.textsafe import clean
from ..runs.models import Run, RunState
from ._components import component_spec, planned_component, weights_folder
from ._runs import no_result_yet, require_value, start_and_wait
from ._weights import try_settle_weights
from .base import ToolContext, ToolResult, ToolSpec


class ScaffoldComponentResult(ToolResult):
    """What was written, relative to the worktree."""

    run_id: str
    state: RunState
    written: list[str] = Field(default=[], description="New files, or files of ours that nobody had edited.")
    kept: list[str] = Field(default=[], description="Files that were there and stay as they are.")
    fill_in: list[str] = Field(default=[], description="Marked places of the adapter: line and what is asked for.")
    signatures: dict[str, str] = Field(default={}, description="File and line of each class, or why it is not known.")


def scaffold_component(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    component: Annotated[str, Field(description="Planned component.")],
    wait_s: Annotated[float, Field(description="0 to 45 s.")] = 45,
) -> ScaffoldComponentResult:
    """Write adapter, pytest parity test and mapping skeleton of a planned component from both signatures; never
    overwrites edits."""
    port = try_settle_weights(ctx, ctx.ports.working(port_id))
    planned = planned_component(port, component)
    target = Path(port.worktree) / planned.adapter
    _inside(Path(port.worktree), target)
    spec = component_spec(port, planned, target.resolve(), "cpu")
    spec.update(official_class=planned.official, port_class=planned.port)
    run = start_and_wait(
        ctx,
        port=port,
        tool="scaffold_component",
        arguments={"component": planned.name},
        job="signatures",
        spec=spec,
        wait_s=wait_s,
    )
    return finish(ctx, run)


def finish(ctx: ToolContext, run: Run) -> ScaffoldComponentResult:
    """The result of a run of this tool; its files are written once, however often the result is asked for.

    Raises:
        PortError: The run failed, or the official module has no class of the planned name.
    """
    if not run.finished or run.state == "cancelled":
        return ScaffoldComponentResult(run_id=run.run_id, state=run.state, next_step=no_result_yet(run))
    known = ctx.home / "scaffolds" / f"{run.run_id}.json"
    if known.is_file():
        return ScaffoldComponentResult.model_validate_json(known.read_bytes())
    value = require_value(ctx, run)
    port = ctx.ports.get(str(run.port_id))
    planned = planned_component(port, run.arguments["component"])
    if value["official"].get("absent"):
        raise PortError(
            f"There is no {planned.official}, so nothing was written.",
            seen=clean(value["official"]["error"])[:300],
            fix=f"Call write_plan with the right official class of {planned.name!r}, then scaffold_component again.",
        )
    folder = weights_folder(port, planned)
    name = Path(folder).name if folder and Path(folder).parent == _weights(port) else planned.name
    files = scaffold_files(planned, name, _relative(port), value, port.environment_patches)
    written, kept = _write(ctx, port, files)
    adapter = next(item for item in files if item.role == "adapter")
    marked = _marked(adapter.text) if adapter.path in written else []
    result = ScaffoldComponentResult(
        run_id=run.run_id,
        state=run.state,
        written=written,
        kept=kept,
        fill_in=marked,
        signatures={side: _where(value[side]) for side in ("official", "port")},
        next_step=" ".join(
            [*_unread(planned, value), _next_step(planned.kind, planned.name, adapter.path, written, kept, marked)]
        ),
    )
    known.parent.mkdir(parents=True, exist_ok=True)
    replace_file(known, result.model_dump_json().encode())
    return result


def _weights(port: PortRecord) -> Path | None:
    return Path(port.weights.path) if port.weights else None


def _relative(port: PortRecord) -> str:
    """The folder of the weights as the plain test names it."""
    folder = _weights(port)
    inside = folder is not None and folder.is_relative_to(port.worktree)
    return folder.relative_to(port.worktree).as_posix() if folder and inside else f"official_weights/{port.slug}"


def _inside(worktree: Path, target: Path) -> None:
    """Refuse a target that a link leads out of the worktree.

    Raises:
        PortError: See above, or what stands there is no regular file.
    """
    root = worktree.resolve()
    if not target.resolve().is_relative_to(root) or target.is_symlink():
        raise PortError(
            "The scaffold's place leaves the worktree.",
            seen=f"{target} is {target.resolve()}",
            fix="Take the link away, or plan another adapter path (write_plan).",
        )
    if target.exists() and not target.is_file():
        raise PortError("A scaffold's place is taken.", seen=f"{target} is no regular file", fix="Move it away.")


def _write(ctx: ToolContext, port: PortRecord, files: list[Scaffold]) -> tuple[list[str], list[str]]:
    """Write what is new or ours and unedited; the hashes of what we wrote are kept in the state folder."""
    record = ctx.home / "scaffolds" / f"{port.port_id}.json"
    ours: dict[str, str] = json.loads(record.read_bytes()) if record.is_file() else {}
    written, kept = [], []
    worktree = Path(port.worktree)
    for item in files:
        _inside(worktree, worktree / item.path)
    for item in files:
        path = worktree / item.path
        if path.exists() and _digest(path) != ours.get(item.path):
            kept.append(item.path)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, item.text.encode())
        ours[item.path] = _digest(path)
        written.append(item.path)
    record.parent.mkdir(parents=True, exist_ok=True)
    replace_file(record, json.dumps(ours).encode())
    return written, kept


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.sha256(file.read()).hexdigest()


def _marked(text: str) -> list[str]:
    """The places to fill in: line number and the words of each."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        _, mark, rest = line.partition('fill_in("')
        if mark:
            found.append(f"{number}: {rest.rpartition(chr(34))[0][:160]}")
    return found[:24]


def _where(facts: dict[str, Any]) -> str:
    return clean(facts["error"])[:300] if facts["error"] else f"{facts['file']}:{facts['line']}"


def _unread(planned: ComponentRecord, value: dict[str, Any]) -> list[str]:
    """What to do about a class that could not be looked at, before what was written without it is filled in."""
    found = []
    for side, name in (("official", planned.official), ("port", planned.port)):
        if value[side]["error"]:
            why = clean(value[side]["error"])[:300].rstrip(".")
            todo = "Write it" if side == "port" else "Repair that"
            found.append(f"{name} could not be read: {why}. {todo}, or correct the plan (write_plan).")
    return found


def _next_step(kind: str, name: str, adapter: str, written: list[str], kept: list[str], marked: list[str]) -> str:
    if not written:
        return (
            f"Nothing was written: {', '.join(kept)} are there and may hold edits. Move a file away and call "
            "scaffold_component again to get a fresh one."
        )
    tool = {"scheduler": "check_scheduler", "tokenizer": "run_component_parity"}.get(kind, "check_mapping")
    if adapter in kept:
        return f"{adapter} stays as it was; call {tool} for {name!r}."
    return f"Write the {len(marked)} fill_in places of {adapter}, then call {tool} for {name!r}: until then it is red."


SPEC = ToolSpec(
    scaffold_component,
    title="Scaffold a component",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=False,
)
