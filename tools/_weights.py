"""Weights that arrived while nobody asked: they become the port's before a tool needs them."""

from __future__ import annotations

from ..port.errors import PortError
from ..port.records import PortRecord
from ._finish import finish
from .base import ToolContext


def settle_weights(ctx: ToolContext, port: PortRecord) -> PortRecord:
    """The port with the weights, official code and conversion of its latest finished runs.

    Raises:
        PortError: Those weights cannot be linked into the worktree.
    """
    settled = False
    for tool, order, started, known in (
        ("fetch_weights", "fetch", port.fetches, port.weights.fetch if port.weights else 0),
        ("fetch_official_repo", "fetch", port.official_fetches, port.official_fetch),
        ("convert_weights", "conversion", port.conversions, port.converted.conversion if port.converted else 0),
    ):
        if started <= known:
            continue
        done = [run for run in ctx.runs.list(port.port_id) if run.tool == tool and run.state == "done"]
        latest = max(done, key=lambda run: int(run.arguments[order]), default=None)
        if latest is not None and latest.arguments[order] > known:
            finish(ctx, latest)
            settled = True
    return ctx.ports.get(port.port_id) if settled else port


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
