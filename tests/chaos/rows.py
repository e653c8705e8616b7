"""The database: rows that are wrong, files that are no database, locks that nobody lets go of."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from fastvideo_port.port.database import database_path
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.runs.models import ProcessIdentity
from fastvideo_port.runs.store import RunStore

from . import children
from .audit import ALL_STEPS, FAULTS, HELD, Fault, Promise, Seen, fault, seen_of_refusal, seen_of_run
from .lab import ENGINE, Lab, until

DAMAGED = Promise("refused", "refused", words="damaged", log=False)

ROWS: list[tuple[str, str, str, Promise]] = [
    ("garbage", "the record is no JSON", "UPDATE runs SET record = 'x{' WHERE run_id = ?", DAMAGED),
    ("bytes", "the record is bytes", "UPDATE runs SET record = x'ff00' WHERE run_id = ?", DAMAGED),
    ("null-state", "the record has an impossible state",
     "UPDATE runs SET record = json_set(record, '$.state', 'fine') WHERE run_id = ?", DAMAGED),
    ("gone", "the row is deleted", "DELETE FROM runs WHERE run_id = ?",
     Promise("refused", "refused", words="no run with this id", log=False)),
    ("key", "the record's key is another",
     "UPDATE runs SET record = json_set(record, '$.key', 'k') WHERE run_id = ?", Promise("done", "refused", ALL_STEPS)),
    ("digest", "the record's digest of the result is another",
     "UPDATE runs SET record = json_set(record, '$.result_digest', '0') WHERE run_id = ?",
     Promise("done", "refused", ALL_STEPS)),
]  # fmt: skip


def _row(statement: str, lab: Lab) -> Seen:
    run_id = lab.begin()
    lab.store.wait(run_id, 30)
    lab.sql(statement, values=(run_id,))
    return seen_of_run(lab, run_id)


for _name, _does, _statement, _promise in ROWS:
    FAULTS.append(
        Fault(f"row-{_name}", "database", f"{_does}, after the run's end", _promise,
              lambda lab, statement=_statement: _row(statement, lab))
    )  # fmt: skip


@fault("row-says-done", "database", "the record of a run that works is changed to done, its supervisor is killed",
       Promise("done", "refused", log=False))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    record = lab.held(run_id)
    lab.kill(record.supervisor, record.worker)
    lab.change(run_id, state="done", finished_at="2020-01-01T00:00:00Z")
    return seen_of_run(lab, run_id)


@fault("row-says-running", "database", "a finished run's record is changed back to running",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin()
    lab.store.wait(run_id, 30)
    until(lambda: not lab.supervisors(run_id), "the supervisor is still there")
    lab.change(run_id, state="running", finished_at=None, result_digest=None)
    return seen_of_run(lab, run_id)


@fault("row-garbage-at-end", "database", "the record is garbage when the job ends, and is put right",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    record = lab.held(run_id)
    go = Path(record.arguments["hold"])
    lab.sql("UPDATE runs SET record = 'x{' WHERE run_id = ?", values=(run_id,))
    go.touch()
    until((lab.folder(run_id) / "result.json").exists, "the job did not end")
    until(lambda: record.supervisor is None or not lab.lives(record.supervisor), "the supervisor did not end")
    lab.sql("UPDATE runs SET record = ? WHERE run_id = ?", values=(record.model_dump_json(), run_id))
    return seen_of_run(lab, run_id)


@fault("pid-reused", "database", "the dead supervisor's number belongs to a stranger now",
       Promise("crashed", progress=HELD, words="supervisor of this run died"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    record = lab.held(run_id)
    lab.kill(record.supervisor)
    stranger, answer = children.begin(lambda: time.sleep(60))
    try:
        assert record.supervisor is not None
        lab.change(run_id, supervisor=ProcessIdentity(pid=stranger, born=record.supervisor.born))
        seen = seen_of_run(lab, run_id)
        if os.waitpid(stranger, os.WNOHANG) != (0, 0):
            seen.wrong.append("the stranger was killed")
        return seen
    finally:
        lab.kill_number(stranger)
        children.end(stranger, answer)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(16384))


def _page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(bytes(data))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FILES: list[tuple[str, str, Callable[[Path], None]]] = [
    ("garbage", "is garbage", _garbage),
    ("cut", "ends in the middle", _truncated),
    ("pages", "has a header and garbage behind it", _page),
    ("folder", "is a folder", _folder),
    ("fifo", "is a FIFO", _fifo),
]


def _database(damage: Callable[[Path], None], lab: Lab) -> Seen:
    """While the file is damaged everything is refused by name; put back, everything is there."""
    with lab.damaged(damage):
        seen = seen_of_refusal(lambda: RunStore(lab.home, parity_dir=ENGINE).get(lab.bystander).state)
        for act in (lambda: lab.create().run_id, lambda: lab.add_entry(lab.bystander).run_id):
            other = seen_of_refusal(act)
            if other.state != "refused":
                seen.wrong.append(f"accepted: {other.result}")
    return seen


for _name, _does, _act in FILES:
    FAULTS.append(
        Fault(f"database-{_name}", "database", f"the database {_does}, and is put back", Promise("refused"),
              lambda lab, act=_act: _database(act, lab))
    )  # fmt: skip


@fault("database-empty", "database", "the database has no bytes", Promise("refused", words="no run with this id",
       bystander="no run with this id"))  # fmt: skip
def _(lab: Lab) -> Seen:
    lab.sql()
    database_path(lab.home).write_bytes(b"")
    seen = seen_of_refusal(lambda: lab.store.get(lab.bystander).state)
    return _ledger_says(lab, seen, "newest entries are missing")


@fault("database-gone", "database", "the database is deleted", Promise("refused", words="no run with this id",
       bystander="no run with this id"))  # fmt: skip
def _(lab: Lab) -> Seen:
    lab.sql()
    database_path(lab.home).unlink()
    seen = seen_of_refusal(lambda: lab.store.get(lab.bystander).state)
    return _ledger_says(lab, seen, "newest entries are missing")


@fault("database-older", "database", "an older copy of the database is put back after a result was recorded",
       Promise("refused", words="no run with this id", bystander="newest entries are missing"))  # fmt: skip
def _(lab: Lab) -> Seen:
    lab.sql()
    older = database_path(lab.home).read_bytes()
    run_id = lab.begin()
    lab.store.wait(run_id, 30)
    lab.add_entry(run_id)
    until(lambda: not lab.supervisors(run_id), "the supervisor is still there")
    lab.sql()
    database_path(lab.home).write_bytes(older)
    return _ledger_says(lab, seen_of_refusal(lambda: lab.store.get(run_id).state), "newest entries are missing")


def _ledger_says(lab: Lab, seen: Seen, words: str) -> Seen:
    if words not in " ".join(Ledger(lab.home).verify()):
        seen.wrong.append(f"the ledger does not say {words!r}: {Ledger(lab.home).verify()}")
    return seen


@fault("wal-garbage", "database", "the write-ahead log is garbage", Promise("done", "kept", ALL_STEPS))
def _(lab: Lab) -> Seen:
    run_id = lab.begin()
    lab.store.wait(run_id, 30)
    until(lambda: not lab.supervisors(run_id), "the supervisor is still there")
    lab.sql()
    Path(f"{database_path(lab.home)}-wal").write_bytes(os.urandom(9000))
    Path(f"{database_path(lab.home)}-shm").write_bytes(os.urandom(32768))
    return seen_of_run(lab, run_id)


@fault("database-garbage-at-end", "database", "the database is garbage when the job ends, and is put back",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    record = lab.held(run_id)
    go = Path(record.arguments["hold"])
    with lab.damaged(_garbage):
        go.touch()
        until((lab.folder(run_id) / "result.json").exists, "the job did not end")
        until(lambda: record.supervisor is None or not lab.lives(record.supervisor), "the supervisor did not end")
    return seen_of_run(lab, run_id)


def _holds_lock(lab: Lab, ready: Path) -> None:
    with closing(sqlite3.connect(database_path(lab.home), isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM runs")
        ready.touch()
        time.sleep(60)


@fault("lock-holder-killed", "database", "a process that has deleted every run is killed before it commits",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.held(run_id)
    holder, answer = children.begin(lambda: _holds_lock(lab, lab.place / "locked"))
    until((lab.place / "locked").exists, "the lock was not taken")
    lab.go(run_id)
    until((lab.folder(run_id) / "result.json").exists, "the job did not end")
    lab.kill_number(holder)
    children.end(holder, answer)
    return seen_of_run(lab, run_id)


@fault("lock-holder-stopped", "database", "a process with the database's lock is stopped while the job ends",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.held(run_id)
    holder, answer = children.begin(lambda: _holds_lock(lab, lab.place / "locked"))
    until((lab.place / "locked").exists, "the lock was not taken")
    os.kill(holder, signal.SIGSTOP)
    lab.go(run_id)
    until((lab.folder(run_id) / "result.json").exists, "the job did not end")
    time.sleep(1)
    told = lab.store.get(run_id).state  # readers do not wait for a writer
    lab.kill_number(holder)
    children.end(holder, answer)
    seen = seen_of_run(lab, run_id)
    if told != "running":
        seen.wrong.append(f"while the end could not be recorded it was {told}")
    return seen
