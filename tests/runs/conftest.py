"""A run store over the engine of misbehaving jobs; every process that a test leaves behind is an error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.runs import processes
from fastvideo_port.runs.models import Run
from fastvideo_port.runs.store import RunStore

ENGINE = Path(__file__).parent / "fake_engine"

Begin = Callable[..., Run]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    """A store on an empty state folder; at the end nothing of its runs may be alive."""
    home = tmp_path / "state home"
    home.mkdir()
    store = RunStore(home, parity_dir=ENGINE)
    yield store
    unfinished = [run.run_id for run in store.list() if not run.finished]
    for run_id in unfinished:
        store.cancel(run_id)
    left = [process for run in store.list() for process in processes.marked(run.run_id)]
    processes.kill(left)
    assert not left, f"processes left behind: {left}"


@pytest.fixture
def begin(store: RunStore, tmp_path: Path) -> Begin:
    """``begin(job, **spec)``: a started run in ``tmp_path``."""

    def begin(
        job: str, *, time_limit_s: float = 60, log_limit: int = 1 << 20, memory_limit: int | None = None, **spec: Any
    ) -> Run:
        run = store.create(
            port_id="port-1",
            tool="fake",
            arguments={"job": job},
            python=sys.executable,
            job=job,
            spec=spec,
            cwd=tmp_path,
            time_limit_s=time_limit_s,
            log_limit=log_limit,
            memory_limit=memory_limit,
        )
        return store.start(run.run_id)

    return begin


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
