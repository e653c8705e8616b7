"""cancel_run: end a run with everything it started."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..runs.models import RunState
from .base import ToolContext, ToolResult, ToolSpec


class CancelRunResult(ToolResult):
    """What became of the run."""

    run_id: str = Field(description="The run.")
    state: RunState = Field(description="Its final state; 'cancelled' unless it had ended before.")
    changed: bool = Field(description="False: it was already finished.")


def cancel_run(
    ctx: ToolContext, run_id: Annotated[str, Field(description="Id that the starting tool returned.")]
) -> CancelRunResult:
    """Stop a queued or running run: ends all its processes (SIGTERM, 5 s, SIGKILL) and frees its GPU."""
    before = ctx.runs.get(run_id)
    after = before if before.finished else ctx.runs.cancel(run_id)
    changed = not before.finished and after.state == "cancelled"
    if changed:
        next_step = f"Call {after.tool} again if the result is still needed."
    else:
        next_step = f"The run had already ended as {after.state}; call run_status for its result or error."
    return CancelRunResult(run_id=run_id, state=after.state, changed=changed, next_step=next_step)


SPEC = ToolSpec(cancel_run, title="Cancel a run", read_only=False, destructive=True, idempotent=True, open_world=False)
