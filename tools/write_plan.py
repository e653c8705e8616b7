"""Write a port's plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ..port.approval_policy import read_policy
from ..port.components_left_out import left_out
from ..port.errors import PortError
from ..port.ledger import Ledger
from ..port.plan import PlanStep, write_plan_file
from ..port.plan_evidence import Evidence, evidence_of
from ..port.plan_steps import (
    MAX_NOTES,
    Kind,
    PlanDraft,
    check_components,
    default_adapter,
    has_weights,
)
from ..port.records import ComponentRecord, PortRecord
from ..port.textsafe import clean_argument
from ._weights import try_settle_weights
from .base import ToolContext, ToolResult, ToolSpec

_SHOWN = 40


class PlanComponent(BaseModel):
    """A component to port."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Stable name, e.g. 'transformer', 'text_encoder_2'.")
    kind: Kind
    official: str = Field(description="Official class, 'package.module.Class'.")
    port: str = Field(description="FastVideo class, 'fastvideo.models....Class'.")
    adapter: str | None = Field(
        default=None, description="Default: tests/local_tests/<model>/parity_<name>.py in the worktree."
    )


class WritePlanResult(ToolResult):
    """The plan as written."""

    plan_path: str = Field(description="Absolute path of PLAN.md.")
    steps: list[PlanStep] = Field(description="In porting order, the DiT first.")
    kept: list[str] = Field(description="Hand edits that were kept (at most 40).")
    removed: list[str] = Field(description="Ids of steps that the new plan no longer has.")


def write_plan(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    scope: Annotated[str, Field(description="What the port covers, and what not; Markdown, 8000 characters.")],
    components: Annotated[list[PlanComponent], Field(description="1-24 components to port.")],
    risks: Annotated[list[str] | None, Field(description="What may go wrong, at most 40 sentences.")] = None,
    constraints: Annotated[list[str] | None, Field(description="Limits to keep, at most 40 sentences.")] = None,
) -> WritePlanResult:
    """Write or update PLAN.md: scope, architecture mapping, component parity milestones (DiT first), pipeline wiring,
    tests, docs, risks, as checkboxes with acceptance criteria. Hand edits stay. A tick is only 'claimed'; evidence
    makes a step done."""
    record = try_settle_weights(ctx, ctx.ports.get(port_id))
    scope = clean_argument("scope", scope)
    if not scope:
        raise PortError(
            "The plan has no scope.",
            seen="scope is empty",
            fix="Say in a few sentences what is ported (tasks, sizes, precisions) and what is left out.",
        )
    checked = check_components([_component(item, record.slug) for item in components])
    draft = PlanDraft(
        model_name=record.model_name,
        branch=record.branch,
        base_commit=record.base_commit,
        goal=clean_argument("goal", record.goal),
        scope=scope,
        components=checked,
        constraints=_notes("constraints", constraints),
        risks=_notes("risks", risks),
    )
    evidence = _evidence(ctx, record, checked)
    written = write_plan_file(Path(record.worktree), ctx.home, record.port_id, draft, evidence)
    record = ctx.ports.update(
        port_id,
        lambda old: old.model_copy(update={"components": list(checked), "plan_path": str(written.path)}),
    )
    return WritePlanResult(
        plan_path=str(written.path),
        steps=written.steps,
        kept=_short(written.kept),
        removed=written.removed[:_SHOWN],
        next_step=_next_step(record),
    )


def _component(item: PlanComponent, slug: str) -> ComponentRecord:
    return ComponentRecord(
        name=item.name,
        kind=item.kind,
        official=item.official,
        port=item.port,
        adapter=item.adapter if item.adapter is not None else default_adapter(slug, item.name),
    )


def _notes(name: str, notes: list[str] | None) -> tuple[str, ...]:
    given = [text for text in (clean_argument(name, note) for note in notes or []) if text]
    if len(given) > MAX_NOTES:
        raise PortError(
            f"There are too many {name}.", seen=f"{len(given)}", fix=f"Keep the {MAX_NOTES} that matter most."
        )
    return tuple(dict.fromkeys(given))


def _short(kept: list[str]) -> list[str]:
    rest = len(kept) - _SHOWN
    return kept if rest <= 0 else [*kept[:_SHOWN], f"and {rest} more"]


def _evidence(ctx: ToolContext, record: PortRecord, components: tuple[ComponentRecord, ...]) -> Evidence:
    planned = record.model_copy(update={"components": list(components)})
    started = {(run.tool, run.arguments.get("component")) for run in ctx.runs.list(record.port_id)}
    return evidence_of(planned, Ledger(ctx.home).entries(record.port_id), started, read_policy(ctx.home))


def _next_step(record: PortRecord) -> str:
    if record.weights is None:
        return "Call fetch_weights: mapping and parity need the official weights."
    absent = left_out(record, ("dit", "vae", "encoder", "scheduler"))
    warning = (
        f"The official model also has {', '.join(absent[:6])}: plan these too, the gate stays closed without them. "
        if absent
        else ""
    )
    return warning + _first_component(record)


def _first_component(record: PortRecord) -> str:
    first = record.components[0]
    adapter = f"Call scaffold_component with component={first.name!r} and write the marked places of {first.adapter}"
    if not has_weights(first):
        check = "check_scheduler" if first.kind == "scheduler" else "run_component_parity"
        return f"{adapter}, then call {check}: it comes first."
    name = first.name
    return f"{adapter}, then call check_mapping with component={name!r}: parity means nothing before it passes."


SPEC = ToolSpec(
    write_plan,
    title="Write the plan",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=False,
)
