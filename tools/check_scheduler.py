"""Compare a scheduler of the port with the official one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..parity.verdict import Verdict
from ..port.errors import PortError
from ..port.freshness import plan_digest
from ..port.ledger import Ledger
from ..port.paths import resolve_inside
from ..port.plan_steps import check_components
from ..port.records import ComponentRecord, PortRecord
from ..port.report_data import SCHEDULER_REFERENCE
from ..port.textsafe import clean
from ..runs.models import Run, RunState
from ._components import component_spec, planned_component
from ._runs import no_result_yet, require_value, start_and_wait
from ._weights import require_weights
from .base import ToolContext, ToolResult, ToolSpec

MOST_STEPS = 1000
_SHOWN = 16


class SchedulerTable(BaseModel):
    """Sigmas or timesteps of one schedule."""

    model_config = ConfigDict(extra="forbid")

    walk: str = Field(description="Steps, and the shift where it is not the configured one.")
    table: Literal["sigmas", "timesteps"]
    first_index: int | None = Field(description="First differing index; none when equal.")
    port: float | None = None
    official: float | None = None
    cause: str = ""


class SchedulerSteps(BaseModel):
    """A whole rollout on seeded model outputs."""

    model_config = ConfigDict(extra="forbid")

    walk: str
    verdict: Verdict
    worst_ratio: float | None = Field(description="Port error / the official scheduler's own rounding error.")
    first_step: int | None = Field(description="First step that is off.")
    equal: bool | None = Field(default=None, description="Bit for bit.")
    first_error: float | None = None
    last_error: float | None = None
    float64_error: float | None = None


class SchedulerFinding(BaseModel):
    """A named reason."""

    model_config = ConfigDict(extra="forbid")

    code: str
    verdict: Verdict
    message: str


class CheckSchedulerResult(ToolResult):
    """Whether the port's scheduler is the official one. Lists hold at most 16 entries, the wrong ones first."""

    run_id: str
    state: RunState
    verdict: Verdict | None = Field(default=None, description="None while running.")
    cause: str = Field(default="", description="The mistake that explains the difference, found by experiment.")
    first_differing_index: int | None = Field(default=None, description="Of the first table that differs.")
    tables: list[SchedulerTable] = Field(default=[])
    steps: list[SchedulerSteps] = Field(default=[])
    findings: list[SchedulerFinding] = Field(default=[])


def check_scheduler(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    official: Annotated[str, Field(description="Planned component or official class.")],
    port: Annotated[str | None, Field(description="FastVideo class, if not planned.")] = None,
    num_steps: Annotated[int, Field(description="Beside 1, 2, 5, 50.")] = 20,
    wait_s: Annotated[float, Field(description="0 to 45 s.")] = 45,
) -> CheckSchedulerResult:
    """Check a scheduler: sigmas and timesteps exact, step, add_noise; names first differing index and cause (shift,
    sigma_min, terminal zero, rounding)."""
    if not 1 <= num_steps <= MOST_STEPS:
        raise PortError(
            "num_steps is out of range.", seen=f"num_steps={num_steps}", fix=f"Give 1 to {MOST_STEPS} steps."
        )
    record = ctx.ports.working(port_id)
    component, planned = _component(record, official, port)
    path = _adapter(record, component, planned)
    record = require_weights(ctx, record)
    spec = component_spec(record, component, path or Path(record.worktree), "cpu")
    spec.update(
        adapter=str(path) if path else None,
        official_class=component.official,
        port_class=component.port,
        component=component.name,
        num_steps=num_steps,
    )
    run = start_and_wait(
        ctx,
        port=record,
        tool="check_scheduler",
        arguments={
            "official": official,
            "port": port,
            "num_steps": num_steps,
            "component": component.name if planned else None,
            "adapter": str(path) if path else None,
            "weights": record.weights.digest if record.weights else None,
            "plan": plan_digest(record, component.name) if planned else "",
            "complete": planned,
        },
        job="check_scheduler",
        spec=spec,
        wait_s=wait_s,
    )
    return finish(ctx, run)


def _component(record: PortRecord, official: str, port: str | None) -> tuple[ComponentRecord, bool]:
    """The planned scheduler of this name or with these classes, or one made up for the call."""
    if port is None:
        component = planned_component(record, official)
        if component.kind != "scheduler":
            raise PortError(
                "This component is no scheduler.",
                seen=f"{component.name} is planned as {component.kind}",
                fix="Call run_component_parity for it.",
            )
        return component, True
    made_up = ComponentRecord(
        name="scheduler", kind="scheduler", official=official, port=port, adapter="parity_scheduler.py"
    )
    check_components([made_up])
    for item in record.components:
        if item.kind == "scheduler" and (item.official, item.port) == (official, port):
            return item, True
    return made_up, False


def _adapter(record: PortRecord, component: ComponentRecord, planned: bool) -> Path | None:
    """The planned adapter if it is written, else none: then the classes' signatures say how to call them."""
    worktree = Path(record.worktree)
    if not planned or not (worktree / component.adapter).exists():
        return None
    return resolve_inside(worktree, component.adapter, name="adapter", kind="file")


def finish(ctx: ToolContext, run: Run) -> CheckSchedulerResult:
    """The result of a run of this tool; a finished one for a planned component is entered in the ledger once."""
    if not run.finished or run.state == "cancelled":
        return CheckSchedulerResult(run_id=run.run_id, state=run.state, next_step=no_result_yet(run))
    value = require_value(ctx, run)
    verdict: Verdict = value["verdict"]
    name = run.arguments["component"]
    record = ctx.ports.get(str(run.port_id))
    # Without its configuration file and without an adapter only the classes' defaults were compared.
    whole = bool(run.arguments["complete"]) and bool(value["config"] or run.arguments["adapter"])
    if name is not None and record.component(name) is not None:
        Ledger(ctx.home).append(
            port_id=record.port_id,
            kind="check_scheduler",
            component=name,
            verdict=verdict,
            run_id=run.run_id,
            complete=whole,
            summary={
                "why": clean(value["cause"] or _reason(value))[:400],
                "cases": len(value["steps"]),
                "reference_kind": SCHEDULER_REFERENCE,
                "self_test": value["self_test"]["passed"],
                "logic_ratio": _worst(value),
                "cause": value["cause_code"],
                "first_differing_index": value["first_differing_index"],
                "environment_patches": value["environment_patches"],
            },
            depends_on={
                **value["depends_on"],
                "weights": run.arguments["weights"] or "",
                "plan": run.arguments["plan"],
            },
        )
    tables = sorted(value["tables"], key=lambda row: row["first_index"] is None)
    steps = sorted(value["steps"], key=lambda row: row["verdict"] == "pass")
    return CheckSchedulerResult(
        run_id=run.run_id,
        state=run.state,
        verdict=verdict,
        cause=clean(value["cause"])[:400],
        first_differing_index=value["first_differing_index"],
        tables=[_table(row) for row in tables[:_SHOWN]],
        steps=[_steps(row) for row in steps[:_SHOWN]],
        findings=[
            SchedulerFinding(code=row["code"], verdict=row["verdict"], message=clean(row["message"])[:500])
            for row in value["findings"][:_SHOWN]
        ],
        next_step=_next_step(value, name, whole),
    )


def _table(row: dict[str, Any]) -> SchedulerTable:
    return SchedulerTable(
        walk=row["walk"],
        table=row["table"],
        first_index=row["first_index"],
        port=_number(row.get("port")),
        official=_number(row.get("official")),
        cause=clean(row.get("cause", ""))[:300],
    )


def _steps(row: dict[str, Any]) -> SchedulerSteps:
    numbers = {name: _number(row.get(name)) for name in ("worst_ratio", "first_error", "last_error", "float64_error")}
    return SchedulerSteps(
        walk=row["walk"], verdict=row["verdict"], first_step=row["first_step"], equal=row.get("equal"), **numbers
    )


def _number(value: Any) -> float | None:
    number = float(value) if value is not None else None
    return number if number is not None and math.isfinite(number) else None


def _worst(value: dict[str, Any]) -> float | None:
    found = [number for row in value["steps"] if (number := _number(row.get("worst_ratio"))) is not None]
    return max(found, default=None)


def _reason(value: dict[str, Any]) -> str:
    return next((str(row["message"]) for row in value["findings"] if row["verdict"] == value["verdict"]), "")


def _next_step(value: dict[str, Any], name: str | None, whole: bool) -> str:
    verdict = value["verdict"]
    if verdict == "pass" and name is None:
        return "Plan this scheduler as a component (write_plan) and call check_scheduler with its name: then it counts."
    if verdict == "pass" and not whole:
        return (
            "This is no evidence yet: fetch the weights with scheduler_config.json, or write the planned adapter "
            "(scaffold_component), then call check_scheduler with the component's name."
        )
    if verdict == "pass":
        return "Call gate_status to see what the gate still asks for, or go on with the next component of the plan."
    why = clean(value["cause"] or _reason(value) or "see findings")[:300]
    if verdict == "inconclusive":
        return f"Repair the check, not the port ({why}), then call check_scheduler again."
    return f"Repair the port's scheduler ({why}), then call check_scheduler again."


SPEC = ToolSpec(
    check_scheduler,
    title="Check the scheduler",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=False,
)
