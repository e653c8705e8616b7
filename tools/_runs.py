"""What the tools that start a run have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..port.approval_official import admit_official_code
from ..port.errors import PortError
from ..port.records import PortRecord
from ..port.textsafe import clean
from ..runs.models import Run, RunError
from ..runs.redact import redact
from .base import ToolContext

MAX_WAIT_S = 45.0
"""Longest wait of one call, in seconds; some clients end a call after 60."""

TIME_LIMIT_S = 7200.0

_LOG_LINES, _LOG_CHARS, _LINE_CHARS = 30, 3000, 400


def check_wait(wait_s: float) -> float:
    """``wait_s`` if it lies between 0 and MAX_WAIT_S.

    Raises:
        PortError: It does not.
    """
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise PortError(
            "wait_s is out of range.",
            seen=f"wait_s={wait_s}",
            fix=f"Give 0 to {MAX_WAIT_S:g} seconds; a longer run goes on, and run_status follows it.",
        )
    return wait_s


def start_and_wait(
    ctx: ToolContext,
    *,
    port: PortRecord,
    tool: str,
    arguments: Mapping[str, Any],
    job: str,
    spec: Mapping[str, Any],
    wait_s: float,
    python: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    keep_tokens: bool = False,
    own: bool = False,
) -> Run:
    """Create and start a run of ``port``, wait up to ``wait_s`` seconds and return it as it is then.

    Args:
        ctx: The tool's context; progress goes to ``ctx.report``.
        port: The port; its interpreter and worktree are the defaults of ``python`` and ``cwd``.
        tool: The calling tool's name; ``run_status`` finds its ``finish`` by it.
        arguments: The calling tool's arguments.
        job, spec: What the engine shall do; ``spec["devices"]`` names the devices to lease.
        wait_s: 0 to 45.
        python, cwd, env, time_limit_s, keep_tokens, own: See ``RunStore.create``.

    Raises:
        PortError: ``wait_s`` is out of range, the policy asks for an approval of the official code and there is none,
            or the run cannot be created.
    """
    from ._settle import settle  # it knows the tools, which import this file

    check_wait(wait_s)
    settle(ctx, port.port_id)
    if spec.get("official_repo"):
        admit_official_code(ctx.home, port)
    run = ctx.runs.create(
        port_id=port.port_id,
        tool=tool,
        arguments=arguments,
        python=python or port.python,
        job=job,
        spec=spec,
        cwd=cwd or Path(port.worktree),
        env=env,
        time_limit_s=time_limit_s,
        keep_tokens=keep_tokens,
        own=own,
    )
    ctx.runs.start(run.run_id)
    return ctx.runs.wait(run.run_id, wait_s, ctx.report)


def no_result_yet(run: Run) -> str:
    """The next step while a run goes on, or after it was cancelled."""
    if run.state == "cancelled":
        return f"Call {run.tool} again if the result is still needed."
    return f"Call run_status with run_id={run.run_id} and wait_s=45 for the result."


def require_value(ctx: ToolContext, run: Run) -> dict[str, Any]:
    """The value of a run that is done, verified.

    Raises:
        PortError: The run failed, crashed, was cancelled or is not finished; its own error is passed on.
    """
    if run.finished and run.state != "done" and run.error is not None:
        error = safe_error(run.error)
        seen = error.seen or safe_log(ctx, run.run_id)
        raise PortError(error.what, seen=f"run {run.run_id} {run.state}; {seen}", fix=error.fix)
    return ctx.runs.value(run.run_id)


def safe_error(error: RunError) -> RunError:
    """A run's error without anything invisible and without tokens; each part at most 2,000 characters."""
    texts = {name: redact(clean(text))[:2000] for name, text in error.model_dump().items()}
    return RunError(**texts)


def safe_log(ctx: ToolContext, run_id: str) -> str:
    """The end of a run's log as data: at most 30 lines and 3,000 characters, nothing invisible, no tokens."""
    text = redact(clean(ctx.runs.log_tail(run_id, _LOG_LINES)))
    lines = [line[:_LINE_CHARS].rstrip() for line in text.splitlines()]
    return "\n".join(lines[-_LOG_LINES:])[-_LOG_CHARS:]
