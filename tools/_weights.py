"""Weights that arrived while nobody asked: they become the port's before a tool needs them."""

from __future__ import annotations

from ..port.errors import PortError
from ..port.records import PortRecord
from .base import ToolContext
from .fetch_weights import finish


def settle_weights(ctx: ToolContext, port: PortRecord) -> PortRecord:
    """The port with the weights of its latest finished fetch.

    Raises:
        PortError: Those weights cannot be linked into the worktree.
    """
    known = port.weights.fetch if port.weights else 0
    if port.fetches <= known:
        return port
    done = [run for run in ctx.runs.list(port.port_id) if run.tool == "fetch_weights" and run.state == "done"]
    latest = max(done, key=lambda run: int(run.arguments["fetch"]), default=None)
    if latest is None or latest.arguments["fetch"] <= known:
        return port
    finish(ctx, latest)
    return ctx.ports.get(port.port_id)


def try_settle_weights(ctx: ToolContext, port: PortRecord) -> PortRecord:
    """The same for tools that do not need the weights: where they cannot be put in place, the port as it is."""
    try:
        return settle_weights(ctx, port)
    except PortError:
        return port


def require_weights(ctx: ToolContext, port: PortRecord) -> PortRecord:
    """The port for a tool that reads the weights.

    Raises:
        PortError: They are still on their way, or cannot be linked into the worktree.
    """
    port = settle_weights(ctx, port)
    if port.weights is None and port.fetches:
        for run in ctx.runs.list(port.port_id):
            if run.tool == "fetch_weights" and not run.finished:
                raise PortError(
                    "The official weights are still on their way.",
                    seen=f"{run.run_id} is {run.state}: {run.arguments['source']}",
                    fix=f"Call run_status with run_id={run.run_id} until it is done, then call this tool again.",
                )
    return port
