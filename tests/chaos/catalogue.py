"""All faults, in the order of the table."""

from __future__ import annotations

from dataclasses import replace

from . import clocks, disk, files, holders, kills, rows, servers, workers  # noqa: F401
from .audit import FAULTS as FOUND

PHASES = (
    "start", "work", "result", "end", "server", "servers", "sweep", "worker", "signal", "queue", "clock", "disk",
    "power", "files", "database",
)  # fmt: skip

LEFT_OUT = {
    "kill-supervisor-before-spec", "kill-supervisor-before-judging", "kill-supervisor-worker-over",
    "kill-worker-before-key", "kill-supervisor-in-queue", "sweep-supervisor", "sweep-worker", "client-gone",
    "two-cancel", "worker-hang-after-result", "worker-ignores-sigterm", "worker-exit-3", "supervisor-sigint",
    "supervisor-sigpipe", "no-descriptors-at-end", "power-half-result", "lock-holder-stopped", "row-bytes",
    "row-null-state", "database-cut", "database-pages", "spec.json-fifo-at-start", "spec.json-folder-at-start",
    "log.txt-folder-at-start", "log.txt-loop-at-start", "log.txt-gone-unrecorded", "log.txt-folder-unrecorded",
    "progress.json-gone-unrecorded", "progress.json-folder-unrecorded", "result.json-garbage-unrecorded",
    "result.json-folder-unrecorded", "result.json-loop-unrecorded", "result.mac-garbage-unrecorded",
    "result.mac-fifo-unrecorded", "result.json-cut-recorded", "result.json-folder-recorded",
}  # fmt: skip
"""What `make test` leaves to `make chaos` besides the slow ones: near relatives of faults that stay."""

FAULTS = sorted(
    (replace(fault, slow=fault.slow or fault.id in LEFT_OUT) for fault in FOUND),
    key=lambda fault: PHASES.index(fault.phase),
)
