"""The report of a port as files, from everything that is known of it."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from ..port import git
from ..port.approval_policy import Policy, read_policy
from ..port.errors import PortError
from ..port.gate import GateItem
from ..port.ledger import Entry
from ..port.plan import PlanStep, read_plan, step_states, ticked_steps
from ..port.plan_blocks import gate_asks_for
from ..port.plan_evidence import evidence_of
from ..port.plan_markdown import section_heading, split_lines
from ..port.plan_steps import steps_of_port
from ..port.records import PortRecord
from ..port.report import Gallery, Picture, ReportData, RunRow, StepRow, is_picture, write_report
from ..port.report_data import report_of
from ..port.textsafe import one_line
from ..port.workspace import uncommitted
from ..runs.models import Run
from ._advice import next_of
from ._artifacts import read_artifact
from ._divergence import NAME as DIVERGENCE
from ._reproduce import commands_of
from .base import ToolContext

_MOST_PICTURES = 12
_PER_RUN = 4
_MOST_RISKS = 40
_MOST_RUNS = 200
_CAPTIONS = {DIVERGENCE: "errors of port and official code, module by module"}
_NO_RISK = "None known yet."
"""What the plan's template writes where no risk was named."""
_NOTE = "  - Note: "
"""How update_step begins a note below a step."""


def write_port_report(
    ctx: ToolContext,
    port: PortRecord,
    entries: list[Entry],
    runs: list[Run],
    items: list[GateItem],
    *,
    problem: str = "",
) -> tuple[ReportData, Path, Path]:
    """Write the report into the state folder and return what it says, the page and its Markdown twin.

    Args:
        ctx: The tool's context.
        port, entries, runs: What is known; without a ledger that can be trusted, no entries.
        items: The gate's items over these entries.
        problem: Why the ledger cannot be trusted; empty when it can.
    """
    oldest_first = sorted(runs, key=lambda run: (run.created_at, run.run_id))
    newest = _newest(oldest_first)
    pictures, refused = _pictures(ctx, newest)
    ssim = {run.run_id: pictures.get(run.run_id, []) for run in newest if run.tool == "run_ssim"}
    policy = read_policy(ctx.home)
    steps, plan_problem = _steps(port, entries, runs, policy)
    claimed = [step.id for step in steps if step.state == "claimed"]
    data = report_of(
        port,
        entries,
        [_row(run) for run in oldest_first[-_MOST_RUNS:]],
        head_commit=_head(port),
        uncommitted=_uncommitted(port),
        policy=policy,
        steps=[
            StepRow(id=s.id, title=s.title, state=s.state, acceptance=s.acceptance, asked=gate_asks_for(s.id))
            for s in steps
        ],
        pictures=ssim,
        gallery=[
            Gallery(title=_title(run), pictures=tuple(pictures[run.run_id]))
            for run in newest
            if run.run_id not in ssim and pictures.get(run.run_id)
        ],
        residual_risks=[f"Plan: {text}" for text in _plan_risks(port)],
        not_measured=[
            *([f"Steps ticked by hand, with nothing measured behind them: {', '.join(claimed)}"] if claimed else []),
            *_read_not_run(steps),
            *([plan_problem] if plan_problem else []),
            *refused,
            *([f"{len(oldest_first) - _MOST_RUNS} older runs are not listed."] * (len(oldest_first) > _MOST_RUNS)),
        ],
        reproduce=list(
            commands_of(
                ctx.home,
                port,
                _newest(oldest_first, whole=True),
                checked=any(entry.kind == "integration" for entry in entries),
            )
        ),
        next_steps={item.id: next_of(item) for item in items},
        problem=problem,
    )
    page, twin = write_report(ctx.home / "reports" / port.port_id, data)
    return data, page, twin


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


def _head(port: PortRecord) -> str | None:
    worktree = Path(port.worktree)
    if not worktree.is_dir():
        return None
    try:
        found = git.run(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], cwd=worktree, check=False, limit_s=10)
    except PortError:
        return None  # a report without the newest commit is better than none
    return found.stdout if found.code == 0 and re.fullmatch(r"[0-9a-f]{40,64}", found.stdout) else None


def _uncommitted(port: PortRecord) -> tuple[int, int] | None:
    """How many known files are changed and how many new ones there are, outside commits; none where git cannot say."""
    try:
        paths = uncommitted(Path(port.worktree), "all", limit_s=10)
    except PortError:
        return None  # as with the newest commit
    new = sum(path.startswith("??") for path in paths)
    return len(paths) - new, new


def _read_not_run(steps: list[PlanStep]) -> list[str]:
    """That a plain test which is there was not run by any tool."""
    names = [step.id.removeprefix("test-") for step in steps if step.id.startswith("test-") and step.state == "done"]
    if not names:
        return []
    return [f"Plain tests of {', '.join(names)}: check_integration read them, no tool ran them; How to reproduce does"]


def _steps(port: PortRecord, entries: list[Entry], runs: list[Run], policy: Policy) -> tuple[list[PlanStep], str]:
    """The plan's steps with their states, and what kept PLAN.md from being read."""
    if not port.components:
        return [], ""
    started = {(run.tool, run.arguments.get("component")) for run in runs}
    text, problem = _plan(port)
    return step_states(steps_of_port(port), ticked_steps(text), evidence_of(port, entries, started, policy)), problem


def _plan(port: PortRecord) -> tuple[str, str]:
    if not Path(port.worktree).is_dir():
        return "", "The worktree is gone."
    try:
        return read_plan(Path(port.worktree)) or "", ""
    except PortError as error:
        return "", f"{error.what} ({error.seen})"


def _plan_risks(port: PortRecord) -> list[str]:
    """The risks that PLAN.md lists, as people left them: claims, not evidence."""
    text, _ = _plan(port)
    lines = split_lines(text)
    heading = section_heading("7")
    if heading not in lines:
        return []
    found = []
    for line in lines[lines.index(heading) + 1 :]:
        if line.startswith("## ") or line.strip() == "Steps:":
            break
        if line.startswith("- ") and not re.match(r"- \[[ xX]\]", line):
            found.append(one_line(line[2:])[:400])
    settled = next((at for at, line in enumerate(lines) if re.match(r"- \[[ xX]\] `settle-risks`", line)), len(lines))
    for line in lines[settled + 1 :]:
        if not line.startswith("  "):
            break
        if line.startswith(_NOTE):
            found.append(f"on settling them: {one_line(line.removeprefix(_NOTE))[:400]}")
    return [text for text in found if text != _NO_RISK][:_MOST_RISKS]


def _newest(oldest_first: list[Run], *, whole: bool = False) -> list[Run]:
    """The newest finished run of each tool and component, in the order in which they were started.

    With ``whole`` the newest that was not only a part, where there is one: what a gate takes.
    """
    newest: dict[tuple[str, str], Run] = {}
    for run in oldest_first:
        key = (run.tool, str(run.arguments.get("component") or ""))
        part = not run.arguments.get("complete", True)
        if run.state == "done" and not (whole and part and key in newest):
            newest[key] = run
    return [run for run in oldest_first if run in newest.values()]


def _pictures(ctx: ToolContext, runs: list[Run]) -> tuple[dict[str, list[Picture]], list[str]]:
    """The pictures of each run that can be embedded, and a sentence for each that cannot."""
    found: dict[str, list[Picture]] = {}
    refused: list[str] = []
    left = _MOST_PICTURES
    for run in runs:
        files = ctx.runs.folder(run.run_id) / "files"
        names = sorted(path.name for path in files.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
        for name in names[: min(_PER_RUN, left)]:
            try:
                content, _ = read_artifact(files, name)
                problem = "" if is_picture(content) else "no PNG or JPEG"
            except PortError as error:
                problem = error.seen
            if problem:
                refused.append(f"The picture {name[:80]} of {run.run_id} is not shown: {problem}")
                continue
            caption = _CAPTIONS.get(name, Path(name).stem.replace("_", " "))
            found.setdefault(run.run_id, []).append(Picture(path=files / name, caption=caption))
            left -= 1
        if len(names) > _PER_RUN or (names and not left):
            refused.append(f"Not all pictures of {run.run_id} are shown; they lie in its folder.")
    return found, refused


def _title(run: Run) -> str:
    about = run.arguments.get("component")
    return f"{run.tool.replace('_', ' ')}{f' of {about}' if about else ''} ({run.run_id})"
