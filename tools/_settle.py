"""Entering finished runs in the ledger that nobody has asked about since."""

from __future__ import annotations

from ..port.errors import PortError
from ..port.ledger import Ledger
from ._finish import finish
from .base import ToolContext

EVIDENCE = (
    "convert_weights",
    "check_mapping",
    "run_component_parity",
    "locate_divergence",
    "check_scheduler",
    "run_pipeline_parity",
    "run_ssim",
    "run_example",
)
"""Tools whose finished runs are entered in the ledger."""


def settle(ctx: ToolContext, port_id: str) -> None:
    """Enter the port's finished runs, oldest first; a run that failed is no evidence.

    It happens before a new run begins, too: the ledger's order decides which of two results is the newer one, so an
    older pass must not be entered after a newer failure.
    """
    waiting = [run for run in ctx.runs.list(port_id) if run.state == "done" and run.tool in EVIDENCE]
    if not waiting:
        return
    known = {entry.run_id for entry in Ledger(ctx.home).entries(port_id)}
    for run in reversed(waiting):
        if run.run_id not in known:
            try:
                finish(ctx, run)
            except PortError:
                continue  # its result was changed on disk: it is not evidence, and run_status says why
