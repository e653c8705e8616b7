"""The alignment gate of a port."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..port.approval_policy import read_policy
from ..port.freshness import made_stale
from ..port.gate import GateItem, gate, is_open
from ..port.ledger import Ledger
from ._advice import compared_by, next_of, tool_of, waits_for_person
from ._report import write_port_report
from ._settle import settle
from ._weights import try_settle_weights
from .base import ToolContext, ToolResult, ToolSpec


class GateItemNow(GateItem):
    """One of the seven conditions, and what to do about it."""

    changed: list[str] = Field(description="What made it stale, by file.")
    next: str = Field(description="What to do; empty when it passes.")


class GateStatusResult(ToolResult):
    """The gate as it stands now."""

    gate: Literal["open", "closed"]
    items: list[GateItemNow] = Field(description="Seven; all must pass.")
    report: str = Field(description="HTML report, written anew; report.md stands beside it.")


def gate_status(
    ctx: ToolContext, port_id: Annotated[str, Field(description="From create_worktree.")]
) -> GateStatusResult:
    """Alignment gate of the port: seven items (mapping reviewed, keys, component parity, pipeline parity, SSIM, example
    video, docs), computed from fresh, signed evidence; says what is missing, failed or went stale and why."""
    port = try_settle_weights(ctx, ctx.ports.get(port_id))
    runs = ctx.runs.list(port_id)
    settle(ctx, port_id)
    entries = Ledger(ctx.home).entries(port_id)
    items = gate(port, entries, read_policy(ctx.home))
    opened = is_open(items)
    _, page, _ = write_port_report(ctx, port, entries, runs, items)
    return GateStatusResult(
        gate="open" if opened else "closed",
        items=[
            GateItemNow(
                **item.model_dump(),
                changed=made_stale(item.evidence, port, entries) if item.state != "pass" else [],
                next=next_of(item),
            )
            for item in items
        ],
        report=str(page),
        next_step=next_step(items, opened),
    )


def next_step(items: list[GateItem], opened: bool) -> str:
    """What to do first about the items as a whole."""
    if opened:
        return "The gate is open: call final_report and ask a person to review the branch with it."
    first = next(item for item in items if item.state != "pass")
    tool = tool_of(first)
    if waits_for_person(first):
        # A person decides in their own time: meanwhile there is other work.
        following = next((item for item in items if item.state != "pass" and not waits_for_person(item)), None)
        meanwhile = tool_of(following) if following else None
        waits = f"Item '{first.id}' waits for a person: call request_approval"
        return f"{waits}, and {meanwhile} for item '{following.id}'." if following and meanwhile else f"{waits}."
    if tool is None:
        return f"Item '{first.id}' has no tool in this version; do it by hand and report it as unproven."
    return f"Call {compared_by(first) or tool}: item '{first.id}' is {first.state}."


SPEC = ToolSpec(gate_status, title="Gate status", read_only=True, destructive=False, idempotent=True, open_world=False)
