"""The tools, in the order of the work."""

from __future__ import annotations

from .base import ToolSpec
from .cancel_run import SPEC as CANCEL_RUN
from .check_mapping import SPEC as CHECK_MAPPING
from .create_worktree import SPEC as CREATE_WORKTREE
from .fetch_weights import SPEC as FETCH_WEIGHTS
from .gate_status import SPEC as GATE_STATUS
from .list_ports import SPEC as LIST_PORTS
from .run_component_parity import SPEC as RUN_COMPONENT_PARITY
from .run_pipeline_parity import SPEC as RUN_PIPELINE_PARITY
from .run_ssim import SPEC as RUN_SSIM
from .run_status import SPEC as RUN_STATUS
from .show_picture import SPEC as SHOW_PICTURE
from .write_plan import SPEC as WRITE_PLAN

ALL: tuple[ToolSpec, ...] = (
    CREATE_WORKTREE,
    FETCH_WEIGHTS,
    WRITE_PLAN,
    CHECK_MAPPING,
    RUN_COMPONENT_PARITY,
    RUN_PIPELINE_PARITY,
    RUN_SSIM,
    GATE_STATUS,
    RUN_STATUS,
    CANCEL_RUN,
    SHOW_PICTURE,
    LIST_PORTS,
)
"""Every tool that the server offers and the command line repeats."""
