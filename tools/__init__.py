"""The tools, in the order of the work."""

from __future__ import annotations

from .base import ToolSpec
from .cancel_run import SPEC as CANCEL_RUN
from .check_integration import SPEC as CHECK_INTEGRATION
from .check_mapping import SPEC as CHECK_MAPPING
from .check_scheduler import SPEC as CHECK_SCHEDULER
from .convert_weights import SPEC as CONVERT_WEIGHTS
from .create_worktree import SPEC as CREATE_WORKTREE
from .fetch_official_repo import SPEC as FETCH_OFFICIAL_REPO
from .fetch_weights import SPEC as FETCH_WEIGHTS
from .final_report import SPEC as FINAL_REPORT
from .gate_status import SPEC as GATE_STATUS
from .list_ports import SPEC as LIST_PORTS
from .locate_divergence import SPEC as LOCATE_DIVERGENCE
from .request_approval import SPEC as REQUEST_APPROVAL
from .run_component_parity import SPEC as RUN_COMPONENT_PARITY
from .run_example import SPEC as RUN_EXAMPLE
from .run_pipeline_parity import SPEC as RUN_PIPELINE_PARITY
from .run_ssim import SPEC as RUN_SSIM
from .run_status import SPEC as RUN_STATUS
from .scaffold_component import SPEC as SCAFFOLD_COMPONENT
from .show_picture import SPEC as SHOW_PICTURE
from .update_step import SPEC as UPDATE_STEP
from .write_plan import SPEC as WRITE_PLAN

ALL: tuple[ToolSpec, ...] = (
    CREATE_WORKTREE,
    FETCH_OFFICIAL_REPO,
    FETCH_WEIGHTS,
    CONVERT_WEIGHTS,
    WRITE_PLAN,
    UPDATE_STEP,
    SCAFFOLD_COMPONENT,
    CHECK_MAPPING,
    REQUEST_APPROVAL,
    RUN_COMPONENT_PARITY,
    LOCATE_DIVERGENCE,
    CHECK_SCHEDULER,
    RUN_PIPELINE_PARITY,
    RUN_SSIM,
    RUN_EXAMPLE,
    CHECK_INTEGRATION,
    GATE_STATUS,
    FINAL_REPORT,
    RUN_STATUS,
    CANCEL_RUN,
    SHOW_PICTURE,
    LIST_PORTS,
)
"""Every tool that the server offers and the command line repeats."""
