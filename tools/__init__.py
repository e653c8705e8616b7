"""The tools, in the order of the work."""

from __future__ import annotations

from .base import ToolSpec
from .cancel_run import SPEC as CANCEL_RUN
from .create_worktree import SPEC as CREATE_WORKTREE
from .list_ports import SPEC as LIST_PORTS
from .run_status import SPEC as RUN_STATUS
from .show_picture import SPEC as SHOW_PICTURE
from .write_plan import SPEC as WRITE_PLAN

ALL: tuple[ToolSpec, ...] = (
    CREATE_WORKTREE,
    WRITE_PLAN,
    RUN_STATUS,
    CANCEL_RUN,
    SHOW_PICTURE,
    LIST_PORTS,
)
"""Every tool that the server offers and the command line repeats."""
