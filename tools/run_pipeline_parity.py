"""Run the official pipeline and the port's from the same noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..parity.verdict import Verdict
from ..port.errors import PortError
from ..port.ledger import Ledger
from ..port.paths import resolve_inside
from ..port.plan_steps import default_adapter
from ..port.records import PortRecord
from ..port.textsafe import clean, sentences
from ..runs.models import Run, RunState
from ._components import choose_device, dependencies, port_spec, reference_cache, trusted_references, uses_converted
from ._runs import no_result_yet, require_value, start_and_wait
from ._weights import require_weights
from .base import ToolContext, ToolResult, ToolSpec
from .run_component_parity import PRODUCTION, SEEDS, ParityFinding, SelfTest, finding_of, number_of

_SHOWN = 16
_MOST_STEPS = 50


class PipelineStep(BaseModel):
    """The latents after one denoising step; the worst over all inputs."""

    model_config = ConfigDict(extra="forbid")

    step: int
    error: float | None = Field(description="Relative L2 of the port's latents against the float64 reference.")
    reference_error: float | None = Field(description="The same of the official run in float32.")
    max_abs: float | None = Field(description="Largest difference between port and official run, float32.")
    gain: float | None = Field(description="Error over that of the step before.")
    logic_ratio: float | None
    precision_ratio: float | None


class PipelineStageResult(BaseModel):
    """A stage or a part of one, judged with all before it taken from the official side."""

    model_config = ConfigDict(extra="forbid")

    name: str
    verdict: Verdict
    logic_ratio: float | None
    error: float | None
    precision_ratio: float | None
    first_step: int | None
    why: str


class EndResult(BaseModel):
    """The final latents, or the decoded video."""

    model_config = ConfigDict(extra="forbid")

    name: Literal["final", "decoded"]
    verdict: Verdict
    error: float | None
    reference_error: float | None
    logic_ratio: float | None
    max_abs: float | None


class RunPipelineParityResult(ToolResult):
    """Whether the port's pipeline computes what the official one does. Lists hold at most 16 entries, steps 50."""

    run_id: str
    state: RunState
    verdict: Verdict | None = Field(default=None, description="None while running.")
    guilty: list[str] = Field(default=[], description="Stages that differ on their own, in order.")
    stages: list[PipelineStageResult] = Field(default=[])
    steps: list[PipelineStep] = Field(default=[])
    ends: list[EndResult] = Field(default=[], description="Final latents and decoded video.")
    findings: list[ParityFinding] = Field(default=[])
    self_test: SelfTest | None = None
    notes: list[str] = Field(default=[], description="The reference, and the environment patches in use.")


def run_pipeline_parity(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    adapter: Annotated[str | None, Field(description="Default parity_pipeline.py.")] = None,
    cases: Annotated[list[str] | None, Field(description="Names in CASES; default all.")] = None,
    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N.")] = "auto",
    wait_s: Annotated[float, Field(description="0 to 45 s, default 45.")] = 45,
) -> RunPipelineParityResult:
    """Pipeline parity: official pipeline and port from the same noise; latent error per denoising step, its gain,
    decoded video, and the guilty stage (text, latents, timesteps, denoising, decode)."""
    port = ctx.ports.working(port_id)
    path = pipeline_adapter(port, adapter)
    if cases is not None and not cases:
        raise PortError("No case was chosen.", seen="cases=[]", fix="Name cases of the adapter, or leave cases out.")
    chosen = choose_device(device)
    port = require_weights(ctx, port)
    run = start_and_wait(
        ctx,
        port=port,
        tool="run_pipeline_parity",
        arguments={
            "adapter": str(path),
            "cases": cases,
            "device": device,
            "weights": port.weights.digest if port.weights else None,
            "converted": uses_converted(port),
            "plan": "",
            "complete": cases is None and path == _planned(port).resolve(),
        },
        job="pipeline_parity",
        spec={
            **port_spec(port, path, chosen),
            "cases": cases,
            "seeds": list(SEEDS),
            "dtypes": list(PRODUCTION),
            "reference_cache": str(reference_cache(ctx)),
            "trusted_references": trusted_references(ctx, port_id),
        },
        wait_s=wait_s,
    )
    return finish(ctx, run)


def _planned(port: PortRecord) -> Path:
    return Path(port.worktree) / default_adapter(port.slug, "pipeline")


def pipeline_adapter(port: PortRecord, adapter: str | None) -> Path:
    """The pipeline's adapter file, confined to the worktree.

    Raises:
        PortError: It is absent or lies elsewhere.
    """
    if adapter is None and not _planned(port).exists():
        raise PortError(
            "The pipeline has no adapter yet.",
            seen=str(_planned(port)),
            fix="Write it there with load_official(ctx), load_port(ctx), make_inputs(ctx), "
            "call_official(pipeline, inputs, ctx), call_port(pipeline, inputs, ctx); each call hands every stage's "
            "tensor to ctx.record(stage, tensor, step) and goes on with what that returns.",
        )
    argument = adapter if adapter is not None else default_adapter(port.slug, "pipeline")
    return resolve_inside(Path(port.worktree), argument, name="adapter", kind="file")


def finish(ctx: ToolContext, run: Run) -> RunPipelineParityResult:
    """The result of a run of this tool; a finished one is entered in the ledger once."""
    if not run.finished or run.state == "cancelled":
        return RunPipelineParityResult(run_id=run.run_id, state=run.state, next_step=no_result_yet(run))
    value = require_value(ctx, run)
    verdict: Verdict = value["verdict"]
    complete = bool(run.arguments["complete"])
    reasons = [clean(row["message"])[:400] for row in value["findings"] if row["verdict"] == verdict != "pass"]
    guilty = [str(row["name"]) for row in value["guilty"]]
    port = ctx.ports.get(str(run.port_id))
    Ledger(ctx.home).append(
        port_id=port.port_id,
        kind="pipeline_parity",
        verdict=verdict,
        run_id=run.run_id,
        complete=complete,
        summary=_summary(value, reasons, guilty),
        depends_on=dependencies(port, run.arguments, value["depends_on"]),
    )
    trials = value["self_test"]["trials"]
    again = "; the official pipeline was not run again" if value["reference"]["reused"] else ""
    return RunPipelineParityResult(
        run_id=run.run_id,
        state=run.state,
        verdict=verdict,
        guilty=guilty[:_SHOWN],
        stages=[_stage(row) for row in value["stages"][:_SHOWN]],
        steps=_steps(value["cases"]),
        ends=[end for name in ("final", "decoded") if (end := _end(value["cases"], name)) is not None],
        findings=[finding_of(row) for row in value["findings"][:_SHOWN]],
        self_test=SelfTest(
            passed=value["self_test"]["passed"],
            red=[trial["perturbed"] for trial in trials if trial["red"]],
            not_red=[trial["perturbed"] for trial in trials if not trial["red"]],
        ),
        notes=[
            f"reference {value['reference']['kind']}: {clean(value['reference']['why'])}{again}",
            *value["environment_patches"],
        ],
        next_step=_next_step(verdict, guilty, reasons, complete),
    )


def _stage(row: dict[str, Any]) -> PipelineStageResult:
    precisions = [found for value in row["precision"].values() if (found := number_of(value)) is not None]
    return PipelineStageResult(
        name=row["name"],
        verdict=row["verdict"],
        logic_ratio=number_of(row["logic_ratio"]),
        error=number_of(row["error"]),
        precision_ratio=max(precisions, default=None),
        first_step=row["first_step"],
        why=clean(row["why"])[:300],
    )


def _steps(cases: list[dict[str, Any]]) -> list[PipelineStep]:
    worst: dict[int, dict[str, Any]] = {}
    for case in cases:
        for row in case["steps"]:
            kept = worst.get(row["step"])
            if kept is None or _size(row) > _size(kept):
                worst[row["step"]] = row
    rows = [worst[step] for step in sorted(worst)][:_MOST_STEPS]
    return [
        PipelineStep(step=row["step"], **{name: number_of(row[name]) for name in row if name != "step"}) for row in rows
    ]


def _size(row: dict[str, Any]) -> float:
    """How bad a row is: its ratio, and worse than any number when that is none."""
    found = number_of(row["logic_ratio"])
    return float("inf") if found is None else found


def _end(cases: list[dict[str, Any]], name: Literal["final", "decoded"]) -> EndResult | None:
    rows = [case[name] for case in cases if case[name] is not None]
    if not rows:
        return None
    row = max(rows, key=_size)
    numbers = {key: number_of(row[key]) for key in ("error", "reference_error", "logic_ratio", "max_abs")}
    return EndResult(name=name, verdict=row["verdict"], **numbers)


def _summary(value: dict[str, Any], reasons: list[str], guilty: list[str]) -> dict[str, Any]:
    final, decoded = _end(value["cases"], "final"), _end(value["cases"], "decoded")
    precisions = [row.precision_ratio for row in _steps(value["cases"]) if row.precision_ratio is not None]
    return {
        "why": sentences(reasons[:2]),
        "guilty": guilty,
        "steps": max((len(case["steps"]) for case in value["cases"]), default=0),
        "final_error": final.error if final else None,
        "logic_ratio": final.logic_ratio if final else None,
        "decoded_logic_ratio": decoded.logic_ratio if decoded else None,
        "precision_ratio": max(precisions, default=None),
        "step_rows": [row.model_dump() for row in _steps(value["cases"])],
        "ends": [end.model_dump() for end in (final, decoded) if end],
        "stages": [_stage(row).model_dump(exclude={"why"}) for row in value["stages"][:_SHOWN]],
        "self_test": value["self_test"]["passed"],
        "perturbed": len(value["self_test"]["trials"]),
        "turned_red": sum(trial["red"] for trial in value["self_test"]["trials"]),
        "environment_patches": value["environment_patches"],
        "reference": value["reference"]["digest"],
    }


def _next_step(verdict: Verdict, guilty: list[str], reasons: list[str], complete: bool) -> str:
    if verdict == "pass":
        if not complete:
            return "Call run_pipeline_parity without cases and adapter: the gate asks for the full run."
        return "Call run_ssim on the official video and the port's; gate_status says what else the gate asks for."
    why = reasons[0] if reasons else "see findings"
    if verdict in ("inconclusive", "error"):
        return f"Repair the check, not the port ({why}), then call it again."
    if guilty:
        return f"Compare stage {guilty[0]!r} of the port with the official code, repair it, then call this tool again."
    return f"Look at the findings ({why}), repair, then call run_pipeline_parity again."


SPEC = ToolSpec(
    run_pipeline_parity,
    title="Compare port and official pipeline",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=False,
)
