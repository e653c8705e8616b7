"""fetch_weights as a run: it outlives the call, is told of, cancelled, taken up again, and its weights are not lost."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.runs.models import Run
from fastvideo_port.runs.processes import marked
from fastvideo_port.runs.store import OWN_JOBS, engine_jobs
from fastvideo_port.tools._weights import require_weights, settle_weights
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.cancel_run import cancel_run
from fastvideo_port.tools.create_worktree import create_worktree
from fastvideo_port.tools.fetch_weights import fetch_weights
from fastvideo_port.tools.list_ports import list_ports
from fastvideo_port.tools.run_status import run_status
from safetensors.numpy import save

_spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
assert _spec is not None and _spec.loader is not None
hub_server = importlib.util.module_from_spec(_spec)
sys.modules["hub_server"] = hub_server
_spec.loader.exec_module(hub_server)

MODEL = "Wan-AI/Wan2.1-T2V"
SMALL, LARGE = "a.safetensors", "b.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub whose second file can be made to come slowly."""
    with hub_server.serving() as hub:
        hub.add(MODEL, {name: save({name: np.ones((2_000_000,), np.float32)}) for name in (SMALL, LARGE)})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(proxy, raising=False)
        yield hub


@pytest.fixture
def port_id(context: ToolContext) -> Iterator[str]:
    """A port; what still runs at the end is ended."""
    yield create_worktree(context, "Wan 2.1", python=sys.executable).port_id
    for run in context.runs.list():
        if not run.finished:
            context.runs.cancel(run.run_id)
        assert marked(run.run_id) == []


def until(condition: Callable[[], Any], seconds: float = 40) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)


def slow(context: ToolContext, port_id: str, hub: Any) -> Run:
    """A fetch that has the small file and a part of the large one."""
    hub.slow.add(LARGE)
    started = fetch_weights(context, port_id, MODEL, wait_s=0)
    assert started.state in ("queued", "running")
    assert started.run_id in started.next_step
    folder = Path(context.ports.get(port_id).worktree) / "official_weights" / ".hub"
    until(lambda: any(folder.glob(f"*/{SMALL}")) and any(folder.rglob("*.incomplete")))
    return context.runs.get(started.run_id)


def test_a_long_download_returns_at_once_and_run_status_has_the_result(
    context: ToolContext, port_id: str, hub: Any
) -> None:
    run = slow(context, port_id, hub)
    status = run_status(context, run.run_id, 0)
    assert status.state == "running" and status.result is None
    assert status.progress is not None and "GiB in all" in status.progress.message
    assert context.ports.get(port_id).weights is None
    with pytest.raises(PortError, match="still on their way") as caught:
        require_weights(context, context.ports.get(port_id))
    assert run.run_id in caught.value.fix
    hub.slow.clear()
    status = run_status(context, run.run_id, 45)
    assert status.state == "done" and status.result is not None
    weights = context.ports.get(port_id).weights
    assert weights is not None and weights.digest == status.result["digest"]
    assert status.result["run_id"] == run.run_id and status.result["state"] == "done"


def test_the_same_call_again_follows_the_run_instead_of_starting_another(
    context: ToolContext, port_id: str, hub: Any
) -> None:
    run = slow(context, port_id, hub)
    assert fetch_weights(context, port_id, MODEL, wait_s=0).run_id == run.run_id
    hub.slow.clear()
    assert fetch_weights(context, port_id, MODEL).run_id == run.run_id
    assert len(context.runs.list(port_id)) == 1


def test_weights_that_arrived_while_nobody_asked_are_the_ports_before_a_tool_needs_them(
    context: ToolContext, port_id: str, hub: Any
) -> None:
    run = slow(context, port_id, hub)
    hub.slow.clear()
    until(lambda: context.runs.get(run.run_id).state == "done")
    assert context.ports.get(port_id).weights is None
    assert settle_weights(context, context.ports.get(port_id)).weights is not None
    (listed,) = list_ports(context).ports
    assert listed.weights is not None and listed.weights.startswith(MODEL)


def test_cancelling_keeps_whole_files_and_the_next_call_begins_the_cut_one_anew(
    context: ToolContext, port_id: str, hub: Any
) -> None:
    """The hub's client names each part anew, so it resumes within a call only: huggingface_hub 2.4, issue 4228."""
    run = slow(context, port_id, hub)
    assert cancel_run(context, run.run_id).state == "cancelled"
    status = run_status(context, run.run_id, 0)
    assert status.state == "cancelled" and "fetch_weights again" in status.next_step
    assert context.ports.get(port_id).weights is None
    hub.slow.clear()
    result = fetch_weights(context, port_id, MODEL)
    assert set(result.files) == {SMALL, LARGE}
    assert len(hub.downloads(SMALL)) == 1
    assert hub.downloads(LARGE) == [None, None]  # no Range: from its beginning
    assert list(Path(result.path).rglob("*.incomplete")) == []  # and the part that was left is gone


def test_a_later_fetch_is_not_undone_by_an_earlier_one(
    context: ToolContext, port_id: str, hub: Any, tmp_path: Path
) -> None:
    run = slow(context, port_id, hub)
    local = tmp_path / "mine"
    local.mkdir()
    (local / "x.safetensors").write_bytes(save({"x": np.ones((3,), np.float32)}))
    mine = fetch_weights(context, port_id, str(local))
    hub.slow.clear()
    status = run_status(context, run.run_id, 45)
    assert status.result is not None and "A later fetch_weights" in status.result["notes"][0]
    known = context.ports.get(port_id).weights
    assert known is not None and known.digest == mine.digest != status.result["digest"]
    assert Path(mine.path).resolve() == local
    assert (Path(status.result["path"]) / SMALL).is_file()
    assert settle_weights(context, context.ports.get(port_id)).weights == known


def test_two_calls_for_one_model_with_other_patterns_wait_for_each_other(
    context: ToolContext, port_id: str, hub: Any
) -> None:
    slow(context, port_id, hub)
    other = fetch_weights(context, port_id, MODEL, allow_patterns=[SMALL], wait_s=0)
    until(lambda: "another download" in str(context.runs.get(other.run_id).progress))
    hub.slow.clear()
    assert run_status(context, other.run_id, 45).state == "done"


def test_a_package_of_our_name_where_the_job_runs_is_not_imported(
    context: ToolContext, port_id: str, tmp_path: Path, hub: Any
) -> None:
    for folder in (context.home, Path(context.ports.get(port_id).worktree)):
        (folder / "fastvideo_port").mkdir()
        (folder / "fastvideo_port" / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
        (folder / "huggingface_hub.py").write_text("raise SystemExit('the wrong one')\n")
    assert fetch_weights(context, port_id, MODEL).state == "done"


def test_an_engine_job_is_not_ours_and_ours_is_not_the_engines(context: ToolContext, tmp_path: Path) -> None:
    assert engine_jobs(OWN_JOBS) == ("fetch_official", "fetch_weights")
    for job, own in (("fetch_weights", False), ("ssim", True)):
        with pytest.raises(PortError, match="no such job"):
            context.runs.create(
                port_id=None, tool="t", arguments={}, python=sys.executable, job=job, spec={}, cwd=tmp_path, own=own
            )
    assert list(context.home.glob("runs/*")) == []


@pytest.mark.parametrize("wait_s", [-1, 99, float("nan")])
def test_a_wait_out_of_range_starts_nothing(context: ToolContext, port_id: str, hub: Any, wait_s: float) -> None:
    with pytest.raises(PortError, match="wait_s is out of range"):
        fetch_weights(context, port_id, MODEL, wait_s=wait_s)
    assert context.runs.list() == [] and hub.requests == []
    assert context.ports.get(port_id).fetches == 0
