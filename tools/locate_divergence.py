"""Name the place where the port stops computing what the official component computes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..parity.verdict import Verdict
from ..port.errors import PortError
from ..port.ledger import Ledger
from ..port.textsafe import clean
from ..runs.models import Run, RunState
from ._components import (
    adapter_path,
    choose_device,
    component_spec,
    dependencies,
    planned_component,
    reference_cache,
    started_with,
    trusted_references,
)
from ._culprits import Culprit, culprit_of, trial_words, what_to_compare
from ._divergence import divergence_picture
from ._runs import no_result_yet, require_value, start_and_wait
from ._weights import require_weights
from .base import ToolContext, ToolResult, ToolSpec
from .picture import PictureFile

_DTYPES = ["float32", "bfloat16"]
_MOST = 6


class Rung(BaseModel):
    """A cause, in the order in which they are worth looking at."""

    model_config = ConfigDict(extra="forbid")

    rung: Literal["mapping", "attention-backend", "scheduler", "activations"]
    state: Literal["agrees", "explains", "differs", "unmeasured", "unreached"]
    evidence: str


class LocateDivergenceResult(ToolResult):
    """Where the port is wrong, and why that is known."""

    run_id: str
    state: RunState
    verdict: Verdict | None = None
    culprit: Culprit | None = None
    confirmed: bool = Field(default=False, description="Official tensors there alone make the outputs right.")
    more_culprits: list[Culprit] = Field(default=[], description="Independent faults, in order.")
    ladder: list[Rung] = Field(default=[])
    trials: list[str] = Field(default=[], description="Changes of one call that remove the error.")
    case: str = Field(default="", description="The input that was taken apart.")
    notes: list[str] = Field(default=[])
    pictures: list[PictureFile] = Field(default=[])


def locate_divergence(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    component: Annotated[str, Field(description="Planned component.")],
    case: Annotated[str | None, Field(description="One of CASES; default the simplest failing.")] = None,
    adapter: Annotated[str | None, Field(description="Default: the plan's.")] = None,
    device: Annotated[str, Field(description="auto (default), cpu, cuda or cuda:N.")] = "auto",
    wait_s: Annotated[float, Field(description="0 to 45 s, default 45.")] = 45,
) -> LocateDivergenceResult:
    """First divergence: which module, file and line of a failing port is wrong, found by forcing official activations
    on it; climbs mapping, attention backend, scheduler, activations; tries the usual mistakes; draws the curve."""
    port = ctx.ports.working(port_id)
    planned = planned_component(port, component)
    if planned.kind == "tokenizer":
        raise PortError(
            "locate_divergence takes modules apart, and a tokenizer has none.",
            seen=f"{planned.name} is planned as a tokenizer",
            fix="Call run_component_parity: it compares the ids prompt by prompt and names the first that differs.",
        )
    path = adapter_path(port, planned, adapter)
    port = require_weights(ctx, port)
    spec = component_spec(port, planned, path, choose_device(device))
    spec.update(
        cases=[case] if case is not None else None, seeds=[0], dtypes=_DTYPES, align_backends=False, trials=True
    )
    spec.update(reference_cache=str(reference_cache(ctx)), trusted_references=trusted_references(ctx, port_id))
    run = start_and_wait(
        ctx,
        port=port,
        tool="locate_divergence",
        arguments={**started_with(port, planned, path), "case": case, "device": device},
        job="locate",
        spec=spec,
        wait_s=wait_s,
    )
    return finish(ctx, run)


def finish(ctx: ToolContext, run: Run) -> LocateDivergenceResult:
    """The result of a run of this tool; a finished one is entered in the ledger once, as a partial run."""
    if not run.finished or run.state == "cancelled":
        return LocateDivergenceResult(run_id=run.run_id, state=run.state, next_step=no_result_yet(run))
    value = require_value(ctx, run)
    verdict: Verdict = value["verdict"]
    port = ctx.ports.get(str(run.port_id))
    planned = port.component(run.arguments["component"])
    if planned is not None:
        Ledger(ctx.home).append(
            port_id=port.port_id,
            kind="component_parity",
            component=planned.name,
            verdict=verdict,
            run_id=run.run_id,
            complete=False,
            summary={
                "why": clean(_why(value))[:400],
                "cases": len(value["cases"]),
                "culprit": value["culprit"],
                "reference": value["reference"]["digest"],
            },
            depends_on=dependencies(port, run.arguments, value["depends_on"]),
        )
    worktree = Path(port.worktree)
    found = [culprit for row in value["culprits"][:_MOST] if (culprit := culprit_of(row, worktree)) is not None]
    trials = trial_words(value["trials"])
    return LocateDivergenceResult(
        run_id=run.run_id,
        state=run.state,
        verdict=verdict,
        culprit=found[0] if found else None,
        confirmed=value["confirmed"],
        more_culprits=found[1:],
        ladder=[Rung(**{**row, "evidence": clean(row["evidence"])[:500]}) for row in value["ladder"]],
        trials=trials,
        case=str(value["curve"]["case"]),
        notes=[clean(note)[:400] for note in value["notes"][:_MOST]],
        pictures=divergence_picture(ctx, run, value),
        next_step=_next_step(verdict, found[0] if found else None, trials, value),
    )


def _why(value: dict[str, Any]) -> str:
    if value["culprit"]:
        return str(value["culprit"]["why"])
    return next((str(row["message"]) for row in value["findings"] if row["verdict"] == value["verdict"]), "")


def _next_step(verdict: Verdict, culprit: Culprit | None, trials: list[str], value: dict[str, Any]) -> str:
    if verdict == "pass":
        return "Nothing parts here: call run_component_parity, whose full run the gate asks for."
    if verdict in ("inconclusive", "error"):
        return f"Repair the check, not the port ({clean(_why(value))[:300]}), then call locate_divergence again."
    if culprit is None:
        return f"No place was found ({clean(_why(value))[:300]}); look at the findings of run_component_parity."
    if culprit.kind == "backend":
        return "Give the port the attention backend of the official code, or show why not; then run_component_parity."
    return f"{what_to_compare(culprit, trials)}."


SPEC = ToolSpec(
    locate_divergence,
    title="Locate the first divergence",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=False,
)
