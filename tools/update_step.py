"""Move a step of the plan."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..port.approval_policy import read_policy
from ..port.approval_steps import approvable
from ..port.approvals import stands_now
from ..port.errors import PortError
from ..port.ledger import Entry, Ledger
from ..port.plan import PlanStep, StepState, edit_step, step_states
from ..port.plan_blocks import blocks_of, is_measured
from ..port.plan_evidence import evidence_of
from ..port.plan_steps import StepSpec, steps_of_port
from ..port.records import PortRecord
from ..port.textsafe import clean_argument, one_line
from ._settle import settle
from ._weights import try_settle_weights
from .base import ToolContext, ToolResult, ToolSpec

_MOST_RUNS = 20
_LONGEST_NOTE = 1000


class UpdateStepResult(ToolResult):
    """The step as it stands now."""

    step: PlanStep
    moved: bool = Field(description="Whether the step has the state that was asked for.")
    blocked_by: list[str] = Field(description="What its criterion still lacks.")


def update_step(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    step_id: Annotated[str, Field(description="From write_plan.")],
    state: Annotated[StepState, Field(description="New state.")],
    note: Annotated[str | None, Field(description="One line.")] = None,
    run_ids: Annotated[list[str] | None, Field(description="Runs that prove it.")] = None,
) -> UpdateStepResult:
    """Update a plan step's status in PLAN.md. 'done' needs evidence; says what blocks it."""
    port = try_settle_weights(ctx, ctx.ports.get(port_id))
    spec = _step(port, step_id)
    text = one_line(clean_argument("note", note or ""))
    if len(text) > _LONGEST_NOTE:
        raise PortError(
            "note is too long.", seen=f"{len(text)} characters", fix=f"Shorten it to {_LONGEST_NOTE} characters."
        )
    runs = ctx.runs.list(port_id)
    settle(ctx, port_id)
    entries = Ledger(ctx.home).entries(port_id)
    policy = read_policy(ctx.home)
    named = _named_runs(port, entries, {run.run_id for run in runs}, run_ids or [])
    started = {(run.tool, run.arguments.get("component")) for run in runs}
    done = evidence_of(port, entries, started, policy).get(step_id) == "done"
    declined = _declined(ctx, port, spec) if state != "todo" else None
    blocked = [] if done else blocks_of(port, entries, step_id, policy)
    if declined:
        blocked = [declined, *(reason for reason in blocked if "declined" not in reason)]
    stopped = bool(declined) or (state == "done" and bool(named))
    # A measured step is done by evidence or not at all; asking for it must not leave a tick that looks like it.
    ticked = None if stopped or (state == "done" and not done and is_measured(port, step_id)) else _box(state)
    ticks = edit_step(Path(port.worktree), ctx.home, port_id, step_id, ticked=ticked, note=text)
    if not stopped and state in ("todo", "in_progress"):
        port = ctx.ports.update(port_id, lambda old: _begun(old, step_id, state == "in_progress"))
    evidence = evidence_of(port, entries, started, policy)
    step = step_states([spec], ticks, evidence)[0]
    blocked = [*named, *blocked] if state in ("done", "claimed") or stopped else blocked
    return UpdateStepResult(
        step=step,
        moved=step.state == state and not stopped,
        blocked_by=blocked,
        next_step=_next_step(port, spec, step, state, blocked, declined),
    )


def _step(port: PortRecord, step_id: str) -> StepSpec:
    steps = {step.id: step for step in steps_of_port(port)}
    if step_id in steps:
        return steps[step_id]
    if not steps:
        raise PortError("The port has no plan yet.", seen=f"port_id={port.port_id}", fix="Call write_plan first.")
    near = difflib.get_close_matches(step_id[:100], list(steps), n=3, cutoff=0.6)
    raise PortError(
        "The plan has no step of this id.",
        seen=f"step_id={step_id[:100]!r}",
        fix=f"Did you mean {' or '.join(repr(name) for name in near)}?" if near else f"Use one of: {', '.join(steps)}.",
    )


def _named_runs(port: PortRecord, entries: list[Entry], known: set[str], run_ids: list[str]) -> list[str]:
    """What is wrong with the runs that the agent names as proof; they are looked at, never believed."""
    if len(run_ids) > _MOST_RUNS:
        raise PortError("Too many runs are named.", seen=f"{len(run_ids)}", fix=f"Name at most {_MOST_RUNS}.")
    by_run = {entry.run_id: entry for entry in entries}
    wrong = []
    for run_id in dict.fromkeys(run_ids):
        entry = by_run.get(run_id)
        if entry is None:
            where = "is no run of this port" if run_id not in known else "left no evidence (not finished, or failed)"
            wrong.append(f"{one_line(run_id)[:60]} {where}.")
        elif entry.verdict != "pass":
            wrong.append(f"{run_id} ({entry.kind}) says {entry.verdict}.")
    return wrong


def _declined(ctx: ToolContext, port: PortRecord, step: StepSpec) -> str | None:
    """That a person declined the step's present content, if so."""
    if step.id not in approvable(port):
        return None
    try:
        state, why = stands_now(ctx.home, port, step.id)
    except PortError:
        return None  # nothing is there that could have been declined
    return f"A person stopped this step: {why}." if state == "declined" else None


def _box(state: StepState) -> bool:
    return state in ("claimed", "done")


def _begun(port: PortRecord, step_id: str, begun: bool) -> PortRecord:
    others = [step for step in port.begun if step != step_id]
    return port.model_copy(update={"begun": [*others, step_id] if begun else others})


def _next_step(
    port: PortRecord, spec: StepSpec, step: PlanStep, asked: StepState, blocked: list[str], declined: str | None
) -> str:
    if declined:
        return "Change what the person objects to, run the check again and call request_approval; do not go on with it."
    if asked == "done" and step.state != "done":
        if not is_measured(port, spec.id):
            return "It is claimed, because no tool measures it; name it in the report, and go on with the next step."
        wants_person = spec.needs_approval and any("request_approval" in reason for reason in blocked)
        tool = "request_approval" if wants_person else "the tool that its criterion names"
        return f"Call {tool} for {spec.id!r}: {blocked[0] if blocked else 'its evidence is missing'}"
    if step.state == "done":
        return "Go on with the next step of the plan; gate_status says what is left."
    return f"Work on {spec.id!r}; call update_step with state='done' when its criterion is met."


SPEC = ToolSpec(
    update_step,
    title="Update a plan step",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=False,
)
