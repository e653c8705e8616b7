"""Kills at many moments of a run: never a lost result, never a false one, never a process left."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from fastvideo_port.runs import processes
from fastvideo_port.runs.models import ProcessIdentity, RunRecord
from fastvideo_port.runs.records import read_record
from fastvideo_port.runs.store import RunStore

from .conftest import until

MOMENTS = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7]
"""Seconds after the start (of the worker, where it is the victim): around import, launch, job, result and record."""


def _victims(record: RunRecord, whom: str) -> list[ProcessIdentity | None]:
    return {
        "supervisor": [record.supervisor],
        "worker": [record.worker],
        "both": [record.supervisor, record.worker],
    }[whom]


@pytest.mark.parametrize("whom", ["supervisor", "worker", "both"])
def test_kill_at_any_moment(store: RunStore, tmp_path: Path, whom: str) -> None:
    killed = []
    begun = []
    for moment in [*MOMENTS, None]:
        run = store.create(
            port_id=None,
            tool="f",
            arguments={},
            python=sys.executable,
            job="sleeps",
            spec={"seconds": 0.3},
            cwd=tmp_path,
        )
        begun.append(run.run_id)
        store.start(run.run_id)
        if moment is None:
            until((store.folder(run.run_id) / "result.json").exists)
        else:
            if whom != "supervisor":
                until(lambda run_id=run.run_id: read_record(store.home, run_id).worker)
            time.sleep(moment)
        record = read_record(store.home, run.run_id)
        for victim in _victims(record, whom):
            if processes.send(victim, signal.SIGKILL):
                killed.append(run.run_id)
    assert killed, "this test must kill somebody"
    states = set()
    for run_id in begun:
        run = store.wait(run_id, 30)
        states.add(run.state)
        assert run.state in ("done", "crashed"), run
        assert (run.error is None) == (run.state == "done")
        if run.state == "done":
            assert store.value(run_id)["ended"] >= store.value(run_id)["begun"] + 0.3
        else:
            assert run_id in killed
        assert processes.marked(run_id) == []
        # The record says what the disk says: an intact result is never thrown away.
        intact = (store.folder(run_id) / "result.json").exists()
        assert intact == (run.state == "done")
    assert states == {"done", "crashed"}
