"""Prove that the official weights arrive in the port."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..port.causes import LikelyCause
from ..port.errors import PortError
from ..port.ledger import Ledger
from ..port.plan_steps import has_weights
from ..port.textsafe import clean, sentences
from ..runs.models import Run, RunState
from ._causes import causes_of_mapping
from ._components import (
    adapter_path,
    choose_device,
    component_spec,
    dependencies,
    is_planned,
    planned_component,
    started_with,
)
from ._runs import no_result_yet, require_value, start_and_wait
from ._weights import require_weights
from .base import ToolContext, ToolResult, ToolSpec

_SHOWN = 20
_UNFIT = ("missing", "unexpected", "shape_mismatches")
_REVIEWED = 300
"""Rules and names of left-out tensors that the ledger keeps for a person's review; all are in the digests."""
_COUNTED = ("missing", "unexpected", "unused_on_purpose", "shape_mismatches", "collisions")


class Coverage(BaseModel):
    """How much of the official weights arrived."""

    model_config = ConfigDict(extra="forbid")

    tensors: int
    tensors_total: int
    parameters: int
    parameters_total: int


class MappingFinding(BaseModel):
    """A named problem of rules or values."""

    model_config = ConfigDict(extra="forbid")

    code: str
    message: str
    fatal: bool


class CheckMappingResult(ToolResult):
    """Where the official weights went. Lists hold at most 20 entries."""

    run_id: str
    state: RunState
    verdict: Literal["pass", "fail", "investigate", "inconclusive", "error"] | None = Field(
        default=None, description="None while running."
    )
    coverage: Coverage | None = Field(default=None, description="Proven bit for bit.")
    missing: list[str] = Field(default=[], description="Port parameters that nothing feeds.")
    unexpected: list[str] = Field(default=[], description="Official tensors that arrive nowhere.")
    shape_mismatches: list[str] = Field(default=[])
    collisions: list[MappingFinding] = Field(default=[], description="Two sources for one target.")
    suspects: list[MappingFinding] = Field(default=[], description="Swapped, transposed, zero-filled, careless rules.")
    suggestions: list[str] = Field(default=[], description="Rules, each tried on all keys.")
    unused_on_purpose: list[str] = Field(default=[], description="Left out by the adapter's UNUSED: for review.")
    how: dict[str, int] = Field(default={}, description="Tensors by the way they arrived.")
    headers: str = Field(default="", description="What names and shapes said, before values.")
    headers_s: float | None = Field(default=None, description="Seconds, without imports.")
    source: str = Field(default="", description="Where the official tensors were read.")
    counts: dict[str, int] = Field(default={}, description="Full lengths of the lists.")
    likely_causes: list[LikelyCause] = Field(default=[], description="Usual mistakes that fit; hypotheses to check.")


def check_mapping(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    component: Annotated[str, Field(description="Planned component, e.g. 'transformer'.")],
    adapter: Annotated[str | None, Field(description="Default: the plan's; relative to the worktree.")] = None,
    wait_s: Annotated[float, Field(description="0 to 45 s, default 45.")] = 45,
) -> CheckMappingResult:
    """Check the weight mapping: loads the port with its own loader and param_names_mapping, and proves by value that
    every official tensor (state dict key) arrives. Names missing, unexpected, swapped, transposed, zero-filled
    tensors, collisions, bad regex rules. Run it before parity."""
    port = ctx.ports.working(port_id)
    planned = planned_component(port, component)
    if not has_weights(planned):
        tool = "check_scheduler" if planned.kind == "scheduler" else "run_component_parity"
        raise PortError(
            f"A {planned.kind} has no weights, so there is no mapping to check.",
            seen=f"component={planned.name!r}, kind={planned.kind!r}",
            fix=f"Call {tool} for {planned.name!r}.",
        )
    path = adapter_path(port, planned, adapter)
    port = require_weights(ctx, port)
    spec = component_spec(port, planned, path, choose_device("cpu"))
    run = start_and_wait(
        ctx,
        port=port,
        tool="check_mapping",
        arguments={
            **started_with(port, planned, path),
            "complete": is_planned(port, planned, path),
        },
        job="check_mapping",
        spec=spec,
        wait_s=wait_s,
    )
    return finish(ctx, run)


def finish(ctx: ToolContext, run: Run) -> CheckMappingResult:
    """The result of a run of this tool; a finished one is entered in the ledger once."""
    if not run.finished or run.state == "cancelled":
        return CheckMappingResult(run_id=run.run_id, state=run.state, next_step=no_result_yet(run))
    value = require_value(ctx, run)
    verdict = value["verdict"]
    reasons = _reasons(value)
    only_unexpected = bool(value["unexpected"]) and len(reasons) == 1
    port = ctx.ports.get(str(run.port_id))
    planned = port.component(run.arguments["component"])
    if planned is not None:
        Ledger(ctx.home).append(
            port_id=port.port_id,
            kind="check_mapping",
            component=planned.name,
            verdict=verdict,
            run_id=run.run_id,
            complete=bool(run.arguments["complete"]),
            summary={
                "why": sentences(reasons[:3]),
                "tensors": value["tensors"],
                "parameters": value["parameters"],
                **{name: len(value[name]) for name in _COUNTED},
                "unused_names": [clean(name) for name in value["unused_on_purpose"][:_REVIEWED]],
                # What a person reviews; see port/approval_content.py.
                "unused_patterns": {clean(key): count for key, count in value.get("unused_patterns", {}).items()},
                "rule_lines": [clean(line)[:400] for line in value.get("rule_lines", [])[:_REVIEWED]],
                "rules_digest": hashlib.sha256(json.dumps(value.get("rule_lines", [])).encode()).hexdigest(),
                "rules": value.get("rules", 0),
                "how": value["how"],
                "arrivals": value.get("arrivals", ""),
            },
            depends_on=dependencies(port, run.arguments, value["depends_on"]),
        )
    lists = (*_COUNTED, "suspects", "suggestions")
    # A rule for another variant of the model matches nothing; where all is well that is no suspicion.
    suspects = [row for row in value["suspects"] if row["code"] != "rule-never-matches" or verdict != "pass"]
    suspects.sort(key=lambda row: not row["fatal"])
    return CheckMappingResult(
        run_id=run.run_id,
        state=run.state,
        verdict=verdict,
        coverage=Coverage(
            tensors=value["tensors"][0],
            tensors_total=value["tensors"][1],
            parameters=value["parameters"][0],
            parameters_total=value["parameters"][1],
        ),
        missing=[clean(name) for name in value["missing"][:_SHOWN]],
        unexpected=[clean(name) for name in value["unexpected"][:_SHOWN]],
        shape_mismatches=[clean(_shape_row(row)) for row in value["shape_mismatches"][:_SHOWN]],
        collisions=[_finding(row) for row in value["collisions"][:_SHOWN]],
        suspects=[_finding(row) for row in suspects[:_SHOWN]],
        suggestions=[clean(text) for text in value["suggestions"][:_SHOWN]],
        unused_on_purpose=[clean(name) for name in value["unused_on_purpose"][:_SHOWN]],
        how=dict(sorted(value["how"].items(), key=lambda row: -row[1])[:_SHOWN]),
        headers=clean(value["headers"]),
        headers_s=value["headers_s"],
        source=value["source"],
        counts={
            **{name: len(value[name]) for name in lists},
            "suspects": len(suspects),
            "unused_rules": sum(row["code"] == "rule-never-matches" for row in value["suspects"]),
        },
        likely_causes=causes_of_mapping(value, planned),
        next_step=_repair_the_loading(value["load_error"])
        if value["load_error"] and not any(value[name] for name in _UNFIT)
        else _next_step(verdict, reasons, planned.name if planned else "", value["unused_on_purpose"], only_unexpected),
    )


def _finding(row: dict[str, Any]) -> MappingFinding:
    return MappingFinding(code=row["code"], message=clean(row["message"])[:400], fatal=row["fatal"])


def _shape_row(row: list[Any]) -> str:
    official, port, theirs, mine = row
    return f"{official} {tuple(theirs)} -> {port} {tuple(mine)}"


def _reasons(value: dict[str, Any]) -> list[str]:
    found = []
    for name in _UNFIT:
        if value[name]:
            found.append(f"{len(value[name])} {name.replace('_', ' ')}.")
    found += [row["message"] for row in value["collisions"] + value["suspects"] if row["fatal"]]
    return found


def _repair_the_loading(error: dict[str, str]) -> str:
    """Nothing is known of the mapping yet: the port has to load first."""
    first, *frames = clean(error["seen"] or error["what"]).splitlines()
    where = f" ({'; '.join(line.strip() for line in frames)[:500]})" if frames else ""
    why = f"{error['what']} {first[:300]}{where}"
    return f"The mapping was not judged, because the port did not load: {why}. {error['fix']}"


def _next_step(verdict: str, reasons: list[str], component: str, unused: list[str], only_unexpected: bool) -> str:
    if verdict == "pass":
        left_out = (
            f"{len(unused)} official tensors are left out on purpose; whoever reviews sees them. " if unused else ""
        )
        return (
            f"{left_out}Call run_component_parity for {component!r}: the weights are proven, now compare what the "
            "code computes."
        )
    if verdict == "inconclusive":
        return "No official tensor was found; call fetch_weights, or check the component's folder, then check_mapping."
    if verdict == "fail" and only_unexpected:
        return (
            "Official tensors arrive nowhere: add them to the port or its mapping, or, if the port leaves them out on "
            'purpose, say so in the adapter (UNUSED = (r"^pattern",), for review); then call check_mapping again.'
        )
    first = clean(reasons[0])[:300].rstrip(".") if reasons else "not every tensor arrived"
    return f"Repair the mapping ({first}) in the port's param_names_mapping, then call check_mapping again."


SPEC = ToolSpec(
    check_mapping,
    title="Check the weight mapping",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=False,
)
