"""Servers and supervisors die; runs, records and results do not suffer."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from fastvideo_port.port.database import transaction
from fastvideo_port.port.errors import PortError
from fastvideo_port.runs import processes
from fastvideo_port.runs.records import read_record
from fastvideo_port.runs.store import RunStore

from .conftest import ENGINE, Begin, until


def test_the_supervisor_is_nobodys_child_and_leads_its_own_session(store: RunStore, begin: Begin) -> None:
    run = begin("hangs")
    until(lambda: store.get(run.run_id).state == "running")
    record = read_record(store.home, run.run_id)
    assert record.supervisor is not None and record.worker is not None
    assert record.supervisor.pid not in {child.pid for child in psutil.Process().children(recursive=True)}
    sessions = {os.getsid(0), os.getsid(record.supervisor.pid), os.getsid(record.worker.pid)}
    assert len(sessions) == 3
    store.cancel(run.run_id)


def test_a_killed_supervisor_is_found_out_and_its_worker_ended(store: RunStore, begin: Begin) -> None:
    run = begin("forks")
    until(lambda: (store.folder(run.run_id) / "files" / "ready").exists())
    assert processes.send(read_record(store.home, run.run_id).supervisor, signal.SIGKILL)
    until(lambda: not processes.is_alive(read_record(store.home, run.run_id).worker), 5)  # before anybody asks
    ended = store.get(run.run_id)
    assert ended.state == "crashed" and ended.error is not None
    assert "supervisor of this run died" in ended.error.what and "hanging" in ended.error.seen
    assert ended.progress is not None and ended.progress.done == 3
    assert processes.marked(run.run_id) == []


def test_a_result_forged_after_the_supervisor_was_killed_is_not_accepted(store: RunStore, begin: Begin) -> None:
    run = begin("hangs")
    until(lambda: store.log_tail(run.run_id) == "hanging")
    processes.send(read_record(store.home, run.run_id).supervisor, signal.SIGKILL)
    (store.folder(run.run_id) / "result.json").write_text('{"ok": true, "value": {"verdict": "pass"}}')
    (store.folder(run.run_id) / "result.mac").write_text("0" * 64)
    until(lambda: store.get(run.run_id).finished)
    assert store.get(run.run_id).state == "crashed"
    with pytest.raises(PortError):
        store.value(run.run_id)


def test_a_reused_process_number_is_not_taken_for_the_supervisor() -> None:
    me = processes.identify(os.getpid())
    assert me is not None and processes.is_alive(me)
    assert not processes.is_alive(me.model_copy(update={"born": "another boot:1"}))
    assert not processes.send(me.model_copy(update={"born": "another boot:1"}), signal.SIGKILL)


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["sleep", "100"])
    identity = processes.identify(child.pid)
    assert processes.is_alive(identity)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_alive(identity)
    child.wait()


def test_two_stores_on_one_home_see_and_start_a_run_once(store: RunStore, tmp_path: Path) -> None:
    other = RunStore(store.home, parity_dir=ENGINE)
    run = store.create(
        port_id="port-2", tool="f", arguments={}, python=sys.executable, job="sleeps", spec={"seconds": 0.5},
        cwd=tmp_path,
    )  # fmt: skip
    starters = [threading.Thread(target=each.start, args=(run.run_id,)) for each in (store, other) * 4]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    until(lambda: store.get(run.run_id).state == "running")
    commands = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert sum(run.run_id in line and "supervise" in line for line in commands) == 1
    assert other.wait(run.run_id, 30) == store.get(run.run_id)
    assert [found.run_id for found in other.list("port-2")] == [run.run_id]
    assert other.cancel(run.run_id).state == "done"


def test_twenty_runs_at_once(store: RunStore, begin: Begin) -> None:
    runs = [begin("add", a=number, b=1) for number in range(20)]
    for number, run in enumerate(runs):
        assert store.wait(run.run_id, 90).state == "done"
        assert store.value(run.run_id) == {"sum": number + 1}


def test_an_unknown_id_names_the_nearest(store: RunStore, begin: Begin) -> None:
    run = store.wait(begin("add", a=1, b=2).run_id, 30)
    for wrong in (run.run_id[:-1] + "z", "../../etc", "run-\x00", "x" * 5000, ""):
        with pytest.raises(PortError, match="no run with this id") as caught:
            store.get(wrong)
        assert run.run_id in caught.value.seen and len(caught.value.seen) < 400


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"job": "no_such_job"}, "no such job"),
        ({"env": {"HF_TOKEN": "x"}}, "token"),
        ({"spec": {"devices": ["cuda:-1"]}}, "name of a device"),
        ({"time_limit_s": 0}, "limit"),
        ({"time_limit_s": float("nan")}, "limit"),
        ({"log_limit": 0}, "limit"),
        ({"memory_limit": 0}, "limit"),
    ],
)
def test_a_run_that_cannot_be_is_refused_and_leaves_nothing(
    store: RunStore, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    legal = {"port_id": None, "tool": "f", "arguments": {}, "python": "p", "job": "add", "spec": {}, "cwd": tmp_path}
    with pytest.raises(PortError, match=words):
        store.create(**{**legal, **change})  # type: ignore[arg-type]
    assert store.list() == [] and not (store.home / "runs").exists()


def test_a_supervisor_that_cannot_begin_is_recorded_with_its_last_words(
    store: RunStore, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastvideo_port.runs.store.__package__", "fastvideo_port.no_such_room")
    run = store.wait(begin("add", a=1, b=2).run_id, 30)
    assert run.state == "crashed" and run.error is not None and "no_such_room" in run.error.seen


def test_a_state_folder_that_cannot_be_written_is_named_and_nothing_is_left(store: RunStore, begin: Begin) -> None:
    (store.home / "runs").write_text("in the way")
    with pytest.raises(PortError, match="cannot be written"):
        begin("add", a=1, b=2)
    (store.home / "runs").unlink()
    assert store.list() == []


def test_a_database_that_is_full_leaves_no_folder(
    store: RunStore, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("fastvideo_port.runs.store.add_record", full)
    with pytest.raises(PortError, match="cannot be written") as caught:
        begin("add", a=1, b=2)
    assert "disk is full" in caught.value.seen
    assert list((store.home / "runs").iterdir()) == []


def test_the_truth_is_told_even_if_it_cannot_be_kept(
    store: RunStore, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin("hangs")
    until(lambda: store.log_tail(run.run_id) == "hanging")
    processes.send(read_record(store.home, run.run_id).supervisor, signal.SIGKILL)
    until(lambda: not processes.is_alive(read_record(store.home, run.run_id).supervisor))
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        patch.setattr("fastvideo_port.runs.recover.change_record", full)
        assert store.get(run.run_id).state == "crashed"
        assert read_record(store.home, run.run_id).state == "running"
    assert store.get(run.run_id).state == "crashed"


def test_a_damaged_record_is_named_and_hides_no_other(store: RunStore, begin: Begin) -> None:
    good, bad = (store.wait(begin("add", a=1, b=b).run_id, 30) for b in (1, 2))
    with transaction(store.home) as db:
        db.execute("UPDATE runs SET record = ? WHERE run_id = ?", ('{"run_id": "nonsense"}', bad.run_id))
    with pytest.raises(PortError, match="damaged"):
        store.get(bad.run_id)
    assert [run.run_id for run in store.list()] == [good.run_id]
