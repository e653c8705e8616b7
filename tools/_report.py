"""The report of a port as files, from everything that is known of it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from ..port.approval_policy import Policy, read_policy
from ..port.ledger import Entry
from ..port.plan import read_plan, step_states, ticked_steps
from ..port.plan_evidence import evidence_of
from ..port.plan_steps import steps_of_port
from ..port.records import PortRecord
from ..port.report import Picture, RunRow, StepRow, write_report
from ..port.report_data import report_of
from ..runs.models import Run
from .base import ToolContext


def write_port_report(ctx: ToolContext, port: PortRecord, entries: list[Entry], runs: list[Run]) -> tuple[Path, Path]:
    """Write the report into the state folder and return the paths of the page and of its Markdown twin."""
    policy = read_policy(ctx.home)
    oldest_first = sorted(runs, key=lambda run: run.created_at)
    data = report_of(
        port,
        entries,
        [_row(run) for run in oldest_first],
        steps=_steps(port, entries, runs, policy),
        policy=policy,
        pictures={run.run_id: _pictures(ctx, run) for run in runs if run.tool == "run_ssim" and run.state == "done"},
    )
    return write_report(ctx.home / "reports" / port.port_id, data)


def _row(run: Run) -> RunRow:
    seconds = None
    if run.started_at and run.finished_at:
        elapsed = datetime.fromisoformat(run.finished_at) - datetime.fromisoformat(run.started_at)
        seconds = max(0.0, elapsed.total_seconds())
    return RunRow(
        run_id=run.run_id,
        tool=run.tool,
        what=str(run.arguments.get("component") or ""),
        state=run.state,
        started_at=run.started_at,
        seconds=seconds,
    )


def _steps(port: PortRecord, entries: list[Entry], runs: list[Run], policy: Policy) -> list[StepRow]:
    if not port.components:
        return []
    started = {(run.tool, run.arguments.get("component")) for run in runs}
    ticked = ticked_steps(read_plan(Path(port.worktree)) or "") if Path(port.worktree).is_dir() else set()
    steps = step_states(steps_of_port(port), ticked, evidence_of(port, entries, started, policy))
    return [StepRow(id=step.id, title=step.title, state=step.state) for step in steps]


def _pictures(ctx: ToolContext, run: Run) -> list[Picture]:
    files = ctx.runs.folder(run.run_id) / "files"
    return [Picture(path=path, caption=path.stem.replace("_", " ")) for path in sorted(files.glob("*.png"))]
