"""One run per card, in the order of asking, given back however the holder ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.runs.leases import Lease, lease_keys
from fastvideo_port.runs.store import RunStore

from .conftest import Begin, until


def test_the_queue_is_fair_and_only_common_devices_collide(tmp_path: Path) -> None:
    first = Lease(tmp_path, "run-1", ["cuda:0"])
    second = Lease(tmp_path, "run-2", ["cuda:0", "cuda:1"])
    third = Lease(tmp_path, "run-3", ["cuda:1"])
    other = Lease(tmp_path, "run-4", ["cuda:2"])
    assert (first.ahead(), second.ahead(), third.ahead(), other.ahead()) == ([], ["run-1"], ["run-2"], [])
    first.release()
    assert (second.ahead(), third.ahead()) == ([], ["run-2"])
    second.release()
    assert third.ahead() == []
    third.release()
    other.release()
    assert list((tmp_path / "leases").glob("*.ticket")) == []


def test_a_ticket_of_a_dead_holder_is_given_back(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fastvideo_port.runs.leases import Lease;"
        "lease = Lease(Path(sys.argv[1]), 'run-dead', ['cuda:0']); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    mine = Lease(tmp_path, "run-mine", ["cuda:0"])
    assert mine.ahead() == ["run-dead"]
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert mine.ahead() == []
    mine.release()


def test_device_names_become_cards() -> None:
    assert lease_keys(["cpu"], {}) == []
    assert lease_keys(["cuda", "cuda:0", "cuda:3"], {}) == ["cuda:0", "cuda:3"]
    assert lease_keys(["cuda:1"], {"CUDA_VISIBLE_DEVICES": "2, GPU-7"}) == ["cuda:GPU-7"]
    for wrong in ("", "gpu", "cuda:", "cuda:x", "../x", "cuda:0\n"):
        with pytest.raises(PortError, match="name of a device"):
            lease_keys([wrong], {})


def test_runs_on_one_card_follow_each_other_and_say_who_is_ahead(store: RunStore, begin: Begin) -> None:
    first = begin("hangs", devices=["cuda:0"])
    until(lambda: store.get(first.run_id).state == "running")
    second = begin("sleeps", seconds=0.3, devices=["cuda:0"])
    third = begin("add", a=1, b=2, devices=["cpu"])
    assert store.wait(third.run_id, 30).state == "done"

    def waits() -> bool:
        progress = store.get(second.run_id).progress
        return progress is not None and f"1 ahead, next is {first.run_id}" in progress.message

    until(waits)
    assert store.get(second.run_id).state == "queued"
    store.cancel(first.run_id)
    done = store.wait(second.run_id, 30)
    assert done.state == "done" and done.progress is None


def test_a_run_can_be_cancelled_while_it_waits(store: RunStore, begin: Begin) -> None:
    first = begin("hangs", devices=["cuda:0"])
    until(lambda: store.get(first.run_id).state == "running")
    second = begin("hangs", devices=["cuda:0"])
    until(lambda: store.get(second.run_id).progress is not None)
    cancelled = store.cancel(second.run_id)
    assert cancelled.state == "cancelled" and cancelled.started_at is None
    store.cancel(first.run_id)
