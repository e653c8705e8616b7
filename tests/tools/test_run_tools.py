"""run_status and cancel_run over real runs."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.records import PortRecord, now
from fastvideo_port.runs.models import Run
from fastvideo_port.runs.store import RunStore
from fastvideo_port.tools._runs import require_value, start_and_wait
from fastvideo_port.tools.base import ToolContext, ToolResult
from fastvideo_port.tools.cancel_run import cancel_run
from fastvideo_port.tools.run_status import run_status
from fastvideo_port.tools.show_picture import show_picture

ENGINE = Path(__file__).parent.parent / "runs" / "fake_engine"
TOOL = "tool_of_this_test"

Start = Callable[..., Run]


class _Sum(ToolResult):
    sum: int


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToolContext:
    """A context whose runs use the engine of misbehaving jobs, and a tool that knows how to finish them."""
    home = tmp_path / "home"
    home.mkdir()
    ctx = ToolContext(home=home, cwd=tmp_path)
    ctx.__dict__["runs"] = RunStore(home, parity_dir=ENGINE)

    def finish(ctx: ToolContext, run: Run) -> _Sum:
        return _Sum(sum=require_value(ctx, run)["sum"], next_step="Be glad.")

    module = types.ModuleType(TOOL)
    module.finish = finish  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, f"fastvideo_port.tools.{TOOL}", module)
    return ctx


@pytest.fixture
def start(ctx: ToolContext, tmp_path: Path) -> Start:
    port = PortRecord(
        port_id="port-1",
        model_name="Wan",
        slug="wan",
        worktree=str(tmp_path),
        branch="b",
        base_commit="c",
        mode="worktree",
        repository="r",
        python=sys.executable,
        created_at=now(),
    )

    def start(job: str, *, wait_s: float = 0, tool: str = TOOL, **spec: object) -> Run:
        return start_and_wait(ctx, port=port, tool=tool, arguments={}, job=job, spec=spec, wait_s=wait_s)

    return start


def test_the_result_is_what_the_starting_tool_would_have_returned(ctx: ToolContext, start: Start) -> None:
    status = run_status(ctx, start("add", a=1, b=2).run_id, 45)
    assert status.state == "done" and status.error is None
    assert status.result == {"sum": 3, "next_step": "Be glad."}
    assert status.next_step == "Be glad."
    assert status.log == "[untrusted output of the worker]\nadding"
    assert status.port_id == "port-1" and status.tool == TOOL


def test_a_running_run_returns_at_once_and_says_how_to_go_on(ctx: ToolContext, start: Start) -> None:
    run = start("hangs")
    status = run_status(ctx, run.run_id, 0)
    assert status.state in ("queued", "running") and status.result is None
    assert run.run_id in status.next_step
    cancelled = cancel_run(ctx, run.run_id)
    assert (cancelled.state, cancelled.changed) == ("cancelled", True)
    again = cancel_run(ctx, run.run_id)
    assert (again.state, again.changed) == ("cancelled", False) and "already ended" in again.next_step


def test_a_failed_run_brings_its_error_and_no_result(ctx: ToolContext, start: Start) -> None:
    run = start("refuses", wait_s=45)
    status = run_status(ctx, run.run_id, 0)
    assert status.state == "failed" and status.result is None and status.error is not None
    assert status.error.what == "No case was given." and "Add a case." in status.next_step
    with pytest.raises(PortError) as caught:
        require_value(ctx, run)
    assert caught.value.what == "No case was given." and run.run_id in caught.value.seen


def test_output_is_short_clean_and_marked(ctx: ToolContext, start: Start) -> None:
    status = run_status(ctx, start("binary").run_id, 45)
    assert "\x1b" not in status.log and "\x00" not in status.log and "red" in status.log
    status = run_status(ctx, start("shouts", megabytes=1).run_id, 45)
    assert len(status.log) < 3100 and len(status.log.splitlines()) <= 31 and status.log.endswith("the very end")


def test_no_token_leaves_through_a_log_or_an_error(ctx: ToolContext, start: Start) -> None:
    run = start("leaks", wait_s=45)
    with pytest.raises(PortError) as caught:
        require_value(ctx, run)
    said = run_status(ctx, run.run_id, 0).model_dump_json() + str(caught.value)
    assert "hf_" not in said and said.count("(redacted)") >= 3


def test_an_edited_result_gives_no_result(ctx: ToolContext, start: Start) -> None:
    run = start("add", a=1, b=2, wait_s=45)
    result = ctx.runs.folder(run.run_id) / "result.json"
    result.write_text(result.read_text().replace("3", "4"))
    status = run_status(ctx, run.run_id, 0)
    assert status.result is None and status.error is not None and "changed or removed" in status.error.what


@pytest.mark.parametrize("tool", ["no_such_tool", "_finish", "os.path", "run_status"])
def test_a_run_of_an_unknown_tool_keeps_its_state(ctx: ToolContext, start: Start, tool: str) -> None:
    status = run_status(ctx, start("add", tool=tool, a=1, b=2).run_id, 45)
    assert status.state == "done" and status.result is None
    assert status.error is not None and "not known to this version" in status.error.what


@pytest.mark.parametrize("wait_s", [-1, 45.1, float("nan"), float("inf")])
def test_a_wait_out_of_range_starts_nothing(ctx: ToolContext, start: Start, wait_s: float) -> None:
    with pytest.raises(PortError, match="wait_s is out of range"):
        start("add", wait_s=wait_s)
    assert ctx.runs.list() == []
    with pytest.raises(PortError, match="wait_s is out of range"):
        run_status(ctx, "run-0", wait_s)


def test_an_unknown_run_is_an_error(ctx: ToolContext) -> None:
    for call in (run_status, cancel_run):
        with pytest.raises(PortError, match="no run with this id"):
            call(ctx, "run-guessed")


def test_a_picture_is_awaited_from_a_running_run_only(ctx: ToolContext, start: Start) -> None:
    running = start("sleeps", seconds=60)
    with pytest.raises(PortError, match="call run_status"):
        show_picture(ctx, running.run_id, "a.png")
    cancel_run(ctx, running.run_id)
    with pytest.raises(PortError) as caught:
        show_picture(ctx, running.run_id, "a.png")
    assert "nothing to show" in caught.value.fix and "run_status" not in caught.value.fix
