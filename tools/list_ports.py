"""The ports that this state folder knows."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ..port.records import PortRecord
from ._weights import try_settle_weights
from .base import ToolContext, ToolResult, ToolSpec

_SHOWN = 40


class PortSummary(BaseModel):
    """One port in a line."""

    model_config = ConfigDict(extra="forbid")

    port_id: str
    model_name: str
    worktree: str = Field(description="Absolute path.")
    present: bool = Field(description="Whether that folder is still there.")
    branch: str
    weights: str | None = Field(description="Source and commit of the weights, if fetched.")
    components: list[str] = Field(description="Names of the planned components.")
    created_at: str = Field(description="UTC, ISO 8601.")


class ListPortsResult(ToolResult):
    """Ports, the newest first."""

    ports: list[PortSummary] = Field(description="At most 40, newest first.")
    count: int = Field(description="How many there are.")


def list_ports(ctx: ToolContext) -> ListPortsResult:
    """List the ports begun on this machine, newest first, with port_id, worktree, branch, weights and components.
    Use it to resume a port after a restart or when a port_id is lost."""
    records = [try_settle_weights(ctx, record) for record in ctx.ports.list()]
    here = [record for record in records if Path(record.worktree).is_dir()]
    if here:
        next_step = f"Go on with port_id {here[0].port_id}: call gate_status to see what is missing."
    else:
        next_step = "Call create_worktree to begin a port."
    return ListPortsResult(
        ports=[_summary(record) for record in records[:_SHOWN]], count=len(records), next_step=next_step
    )


def _summary(record: PortRecord) -> PortSummary:
    weights = record.weights
    return PortSummary(
        port_id=record.port_id,
        model_name=record.model_name,
        worktree=record.worktree,
        present=Path(record.worktree).is_dir(),
        branch=record.branch,
        weights=f"{weights.source}{'@' + weights.revision[:12] if weights.revision else ''}" if weights else None,
        components=[component.name for component in record.components][:_SHOWN],
        created_at=record.created_at,
    )


SPEC = ToolSpec(list_ports, title="List ports", read_only=True, destructive=False, idempotent=True, open_world=False)
