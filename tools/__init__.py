"""The tools, in the order of the work."""

from __future__ import annotations

from .base import ToolSpec
from .create_worktree import SPEC as CREATE_WORKTREE
from .list_ports import SPEC as LIST_PORTS
from .show_picture import SPEC as SHOW_PICTURE

ALL: tuple[ToolSpec, ...] = (
    CREATE_WORKTREE,
    LIST_PORTS,
    SHOW_PICTURE,
)
"""Every tool that the server offers and the command line repeats."""
