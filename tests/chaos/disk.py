"""A disk that is full or may not be written, and power that goes.

A full disk is made with RLIMIT_FSIZE, which refuses growth with EFBIG where a disk says ENOSPC, and with /dev/full,
which says ENOSPC itself. Read-only folders are made with permissions, in a process that gave up root's privileges.
"""

from __future__ import annotations

import resource
import shutil
import sqlite3
import time
from contextlib import closing
from typing import Any

from fastvideo_port.port.database import database_path
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.runs.models import ProcessIdentity
from fastvideo_port.runs.processes import identify
from fastvideo_port.runs.store import RunStore

from . import children
from .audit import ALL_STEPS, HELD, Promise, Seen, fault, seen_of_refusal, seen_of_run
from .lab import ENGINE, PORT, Lab, until


def _limit(identity: ProcessIdentity | None, kind: int, number: int) -> None:
    assert identity is not None
    _, hard = resource.prlimit(identity.pid, kind)
    resource.prlimit(identity.pid, kind, (number, hard))


def _starved(act: Any) -> Any:
    """``act`` in a process that can write nothing; its refusal is raised here."""

    def starving() -> Any:
        children.write_nothing()
        return act()

    return _answer(children.run(starving))


def _answer(child: children.Child) -> Any:
    if child.refused is not None:
        raise child.refused
    if child.signal is not None:
        raise AssertionError(f"killed by signal {child.signal}")
    return child.value


def _nothing_begun(lab: Lab, seen: Seen) -> Seen:
    """After a refusal to create a run: no folder, no record."""
    if (there := sorted(path.name for path in (lab.home / "runs").iterdir())) != [lab.bystander]:
        seen.wrong.append(f"folders: {there}")
    if len(lab.store.list()) != 1:
        seen.wrong.append("a record was left")
    return seen


@fault("full-at-create", "disk", "no byte can be written when a run is created",
       Promise("refused", words="cannot be written"))  # fmt: skip
def _(lab: Lab) -> Seen:
    return _nothing_begun(lab, seen_of_refusal(lambda: _starved(lambda: lab.create().run_id)))


@fault("full-at-start", "disk", "no byte can be written when a run is started, then there is space again",
       Promise(("done", "crashed"), ("kept", "none")))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.create().run_id
    refused = seen_of_refusal(lambda: _starved(lambda: lab.store.start(run_id).state))
    lab.store.start(run_id)
    seen = seen_of_run(lab, run_id)
    if refused.state != "refused":
        seen.wrong.append(f"the start was not refused: {refused.result}")
    return seen


@fault("full-at-end", "disk", "the supervisor cannot write when the job ends, a second later it can",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    record = lab.held(run_id)
    _limit(record.supervisor, resource.RLIMIT_FSIZE, 0)
    lab.go(run_id)
    until((lab.folder(run_id) / "result.json").exists, "the job did not end")
    until(lambda: not lab.left(run_id), "the worker did not end")
    time.sleep(0.7)
    told = lab.store.get(run_id).state
    _limit(record.supervisor, resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
    seen = seen_of_run(lab, run_id)
    seen.log = True  # the limit was there for the log too
    if told != "running":
        seen.wrong.append(f"while nothing could be written it was {told}")
    return seen


@fault("full-and-killed", "disk", "the supervisor is killed and the one who asks can write nothing",
       Promise("crashed", progress=HELD, words="supervisor of this run died"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.kill(lab.held(run_id).supervisor)
    first = seen_of_refusal(lambda: _starved(lambda: RunStore(lab.home, parity_dir=ENGINE).get(run_id).state))
    return _not_running(first, seen_of_run(lab, run_id))


@fault("full-for-worker", "disk", "the worker cannot write its result (RLIMIT_FSIZE)",
       Promise("failed", progress=HELD, words="without a result"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    _limit(lab.held(run_id).worker, resource.RLIMIT_FSIZE, 0)
    lab.go(run_id)
    seen = seen_of_run(lab, run_id)
    seen.wrong = [wrong for wrong in seen.wrong if "step" not in wrong]
    return seen


@fault("full-for-result", "disk", "the result's file says ENOSPC (/dev/full)",
       Promise("failed", progress=ALL_STEPS, words="No space left on device", log=False))  # fmt: skip
def _(lab: Lab) -> Seen:
    return seen_of_run(lab, lab.begin(then="full result"))


@fault("full-for-log", "disk", "the log's file is /dev/full, and the worker prints more than fits",
       Promise("done", "kept", ALL_STEPS, log=False))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.create(then="shout", spec={"megabytes": 1}, log_limit=65536).run_id
    (lab.folder(run_id) / "log.txt").symlink_to("/dev/full")
    lab.store.start(run_id)
    return seen_of_run(lab, run_id)


@fault("full-at-ledger", "disk", "no byte can be written when a result is recorded, then there is space again",
       Promise("refused"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin()
    lab.store.wait(run_id, 30)
    seen = seen_of_refusal(lambda: _starved(lambda: lab.add_entry(run_id).run_id))
    if problems := Ledger(lab.home).verify():
        seen.wrong.append(f"the ledger: {problems}")
    if lab.entries(run_id):
        seen.wrong.append("an entry that was refused is there")
    lab.add_entry(run_id)
    if lab.entries(run_id) != 1:
        seen.wrong.append("the entry is not there once")
    return seen


@fault("no-descriptors-at-end", "disk", "the supervisor can open no file when the job ends, a second later it can",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    record = lab.held(run_id)
    _limit(record.supervisor, resource.RLIMIT_NOFILE, 3)
    lab.go(run_id)
    until((lab.folder(run_id) / "result.json").exists, "the job did not end")
    time.sleep(1.0)
    if record.supervisor is not None and lab.lives(record.supervisor):
        _limit(record.supervisor, resource.RLIMIT_NOFILE, 256)
    return seen_of_run(lab, run_id)


def _read_only(lab: Lab, act: Any) -> Any:
    """``act`` by an owner without root's privileges, while the state folder and its files may not be written."""
    things = [lab.home, *lab.home.rglob("*")]
    modes = {path: path.stat().st_mode & 0o7777 for path in things}
    for path in things:
        path.chmod(0o500 if path.is_dir() else 0o400)

    def owner() -> Any:
        children.give_up_privileges()
        return act()

    try:
        return _answer(children.run(owner))
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@fault("read-only-create", "disk", "the state folder is read-only when a run is created",
       Promise("refused", words="written"))  # fmt: skip
def _(lab: Lab) -> Seen:
    return _nothing_begun(lab, seen_of_refusal(lambda: _read_only(lab, lambda: lab.create().run_id)))


@fault("read-only-ledger", "disk", "the state folder is read-only when a result is recorded, then it is not",
       Promise("refused"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin()
    lab.store.wait(run_id, 30)
    seen = seen_of_refusal(lambda: _read_only(lab, lambda: lab.add_entry(run_id).run_id))
    lab.add_entry(run_id)
    if lab.entries(run_id) != 1:
        seen.wrong.append("the entry is not there once")
    return seen


@fault("read-only-and-killed", "disk", "the supervisor is killed and the state folder is read-only for who asks",
       Promise("crashed", progress=HELD, words="supervisor of this run died"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.kill(lab.held(run_id).supervisor)
    first = seen_of_refusal(lambda: _read_only(lab, lambda: RunStore(lab.home, parity_dir=ENGINE).get(run_id).state))
    return _not_running(first, seen_of_run(lab, run_id))


def _not_running(first: Seen, seen: Seen) -> Seen:
    """What was told first may be that the run crashed, or that the folder cannot be used; never that it goes on."""
    if (first.state, first.result) not in (("accepted", "crashed"), ("refused", "none")):
        seen.wrong.append(f"while nothing could be written it was {first.result}: {first.why}")
    return seen


@fault("file-for-runs", "disk", "a file stands in place of the folder of runs", Promise("refused", words="written"))
def _(lab: Lab) -> Seen:
    (lab.home / "runs").rename(lab.place / "runs")
    (lab.home / "runs").write_text("in the way")
    seen = seen_of_refusal(lambda: lab.create().run_id)
    (lab.home / "runs").unlink()
    (lab.place / "runs").rename(lab.home / "runs")
    return _nothing_begun(lab, seen)


# The power goes: every process is gone, another boot counts, and what was not synchronised is not there.


@fault("power-reboot", "power", "every process ends at once and the machine starts again",
       Promise("crashed", progress=HELD, words="machine restarted"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    record = lab.held(run_id)
    lab.kill(record.supervisor, record.worker)
    # The numbers are given anew: the old supervisor's belongs to somebody else now.
    other = identify(1)
    assert other is not None
    lab.change(run_id, supervisor=ProcessIdentity(pid=other.pid, born=f"another boot:{other.born}"))
    return seen_of_run(lab, run_id)


@fault("power-reboot-with-result", "power", "the same just after the worker wrote its result",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(supervisor_dies_at="outcome.py:judge:call")
    lab.sprung()
    other = identify(1)
    assert other is not None
    lab.change(run_id, supervisor=ProcessIdentity(pid=other.pid, born=f"another boot:{other.born}"))
    return seen_of_run(lab, run_id)


def _torn_result(lab: Lab, name: str, data: bytes | None) -> Seen:
    run_id = lab.begin(supervisor_dies_at="outcome.py:judge:call")
    lab.sprung()
    path = lab.folder(run_id) / name
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data or path.read_bytes()[:10])
    return seen_of_run(lab, run_id)


@fault("power-empty-result", "power", "the result's name is on the disk and its bytes are zeros",
       Promise("crashed", words="not what the worker wrote"))  # fmt: skip
def _(lab: Lab) -> Seen:
    return _torn_result(lab, "result.json", b"\0" * 40)


@fault("power-half-result", "power", "half of the result is on the disk",
       Promise("crashed", words="not what the worker wrote"))  # fmt: skip
def _(lab: Lab) -> Seen:
    return _torn_result(lab, "result.json", b"")


@fault("power-no-signature", "power", "the result is on the disk and its signature is not",
       Promise("crashed", words="result.mac cannot be read"))  # fmt: skip
def _(lab: Lab) -> Seen:
    return _torn_result(lab, "result.mac", None)


@fault("power-torn-log", "power", "SQLite's write-ahead log ends after any frame or in the middle of one",
       Promise("truthful", ("a state that was",)))  # fmt: skip
def _(lab: Lab) -> Seen:
    seen = Seen("truthful", "a state that was")
    # An open reader keeps the log from being emptied.
    with closing(sqlite3.connect(database_path(lab.home))) as reader:
        reader.execute("SELECT COUNT(*) FROM runs").fetchone()
        run_id = lab.begin()
        lab.store.wait(run_id, 30)
        lab.add_entry(run_id)
        kept = lab.place / "kept"
        shutil.copytree(lab.home, kept)
    wal = kept / "state.sqlite3-wal"
    size = wal.stat().st_size
    ends = sorted({0, *range(32, size + 1, 4096 + 24), *range(32 + 2000, size, 4096 + 24)})
    told: dict[str, int] = {}
    for end in ends if lab.thorough else ends[:: max(1, len(ends) // 12)]:
        home = lab.place / f"torn-{end}"
        shutil.copytree(kept, home)
        (home / "state.sqlite3-shm").unlink(missing_ok=True)
        with (home / "state.sqlite3-wal").open("r+b") as file:
            file.truncate(end)
        store = RunStore(home, parity_dir=ENGINE)
        runs = {run.run_id: run for run in store.list()}
        state = runs[run_id].state if run_id in runs else "not there"
        told[state] = told.get(state, 0) + 1
        # Before its end was recorded the result lies in the folder all the same.
        if state not in ("done", "not there") and not (state == "crashed" and runs[run_id].started_at is None):
            seen.wrong.append(f"log cut at {end}: the run is {state}")
        if state == "done" and store.value(run_id) != {"token": runs[run_id].arguments["token"]}:
            seen.wrong.append(f"log cut at {end}: another value")
        if lab.bystander not in runs or runs[lab.bystander].state != "done":
            seen.wrong.append(f"log cut at {end}: the run before is lost")
        problems = Ledger(home).verify()
        entries = 0 if problems else len(Ledger(home).entries(PORT))
        # The head was written after that entry: its absence must be said, and only its absence.
        if not problems and entries != 2:
            seen.wrong.append(f"log cut at {end}: {entries} entries and nobody says so")
        if problems and "newest entries are missing" not in problems[0]:
            seen.wrong.append(f"log cut at {end}: {problems}")
        shutil.rmtree(home)
    seen.note = ", ".join(f"{count} {name}" for name, count in sorted(told.items()))
    return seen
