"""From a finished run to what the tool that started it would have returned."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ..port.errors import PortError
from ..runs.models import Run
from .base import ToolContext, ToolResult


def finish(ctx: ToolContext, run: Run) -> ToolResult:
    """Call ``finish(ctx, run)`` of the tool's module; idempotent, as that is.

    Raises:
        PortError: This version has no such tool, or its ``finish`` refuses the run.
    """
    function: Callable[[ToolContext, Run], ToolResult] | None = None
    if run.tool.isidentifier() and not run.tool.startswith("_"):
        try:
            module = importlib.import_module(f".{run.tool}", __package__)
        except ModuleNotFoundError as error:
            if error.name != f"{__package__}.{run.tool}":
                raise
        else:
            function = getattr(module, "finish", None)
    if function is None:
        raise PortError(
            "The tool that started this run is not known to this version.",
            seen=f"tool={run.tool[:80]!r}",
            fix="Start the run again with a tool of this version.",
        )
    return function(ctx, run)
