"""SIGKILL at exact points: of the supervisor, the worker, the server, and several of them."""

from __future__ import annotations

import itertools
import signal
import time

from fastvideo_port.port.ledger import Ledger

from . import children
from .audit import ALL_STEPS, FAULTS, HELD, Fault, Promise, Seen, fault, seen_of_run
from .lab import PORT, Lab, until

LOST = Promise("crashed", words="supervisor of this run died")

SUPERVISOR: list[tuple[str, str, str, str, Promise]] = [
    ("before-claim", "start", "supervise.py:_claim:call", "before it takes the run over", LOST),
    ("before-spec", "start", "supervise.py:_check_spec:call", "before it reads the spec", LOST),
    ("before-launch", "start", "launch.py:worker_environment:return", "just before it launches the worker", LOST),
    ("launched", "start", "port/records.py:now:call", "after the launch, before the worker is on record", LOST),
    ("before-key", "start", "runs/records.py:change_record:return@2", "before it hands the key to the worker", LOST),
    ("worker-over", "end", "supervise.py:_attend:return", "when the worker has ended with its result",
     Promise("done", "kept", ALL_STEPS)),
    ("before-judging", "end", "outcome.py:judge:call", "before it reads the result",
     Promise("done", "kept", ALL_STEPS)),
    ("before-record", "end", "supervise.py:_record_end:call", "between the result and the record",
     Promise("done", "kept", ALL_STEPS)),
    ("in-transaction", "end", "outcome.py:settled:return", "inside the transaction that records the end",
     Promise("done", "kept", ALL_STEPS)),
    ("recorded", "end", "supervise.py:_record_end:return", "just after it recorded the end",
     Promise("done", "kept", ALL_STEPS)),
]  # fmt: skip

WORKER: list[tuple[str, str, str, str, Promise]] = [
    ("before-key", "start", "worker.py:_read_key:call", "before it reads its key", Promise("crashed", words="SIGKILL")),
    ("before-spec", "start", "worker.py:_load:call", "before it loads the job", Promise("crashed", words="SIGKILL")),
    ("before-result", "result", "strict_json.py:encode:return@6", "when the result is made and not written",
     Promise("crashed", progress=ALL_STEPS, words="SIGKILL")),
    ("signed", "result", "strict_json.py:write_atomically:return@6", "between the signature and the result",
     Promise("crashed", progress=ALL_STEPS, words="SIGKILL")),
    ("written", "result", "strict_json.py:write_atomically:return@7", "just after the result was written",
     Promise("done", "kept", ALL_STEPS)),
]  # fmt: skip


def _supervisor_dies(point: str, lab: Lab) -> Seen:
    run_id = lab.begin(supervisor_dies_at=point)
    lab.sprung()
    return seen_of_run(lab, run_id)


def _worker_dies(point: str, lab: Lab) -> Seen:
    run_id = lab.begin(worker_dies_at=point)
    lab.sprung()
    return seen_of_run(lab, run_id)


for _name, _phase, _point, _when, _promise in SUPERVISOR:
    FAULTS.append(
        Fault(f"kill-supervisor-{_name}", _phase, f"SIGKILL of the supervisor {_when}", _promise,
              lambda lab, point=_point: _supervisor_dies(point, lab))
    )  # fmt: skip
for _name, _phase, _point, _when, _promise in WORKER:
    FAULTS.append(
        Fault(f"kill-worker-{_name}", _phase, f"SIGKILL of the worker {_when}", _promise,
              lambda lab, point=_point: _worker_dies(point, lab))
    )  # fmt: skip


@fault("kill-supervisor-working", "work", "SIGKILL of the supervisor while the job works",
       Promise("crashed", progress=HELD, words="supervisor of this run died"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.kill(lab.held(run_id).supervisor)
    return seen_of_run(lab, run_id)


@fault("kill-supervisor-daemon", "work", "SIGKILL of the supervisor after the worker started a daemon",
       Promise("crashed", progress=HELD, words="supervisor of this run died"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(then="leave a daemon", hold=True)
    lab.kill(lab.held(run_id).supervisor)
    return seen_of_run(lab, run_id)


@fault("kill-worker-working", "work", "SIGKILL of the worker while the job works, as the out-of-memory killer does",
       Promise("crashed", progress=HELD, words="killed by SIGKILL", how="SIGKILL"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.kill(lab.held(run_id).worker)
    return seen_of_run(lab, run_id)


@fault("kill-both-working", "work", "SIGKILL of supervisor and worker while the job works",
       Promise("crashed", progress=HELD, words="supervisor of this run died"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    record = lab.held(run_id)
    lab.kill(record.supervisor, record.worker)
    return seen_of_run(lab, run_id)


@fault("kill-supervisor-log-unmerged", "end", "SIGKILL of the supervisor before the two ends of a long log are joined",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(then="shout", spec={"megabytes": 1}, log_limit=65536, supervisor_dies_at="log.py:merge:call")
    lab.sprung()
    return seen_of_run(lab, run_id)


@fault("kill-supervisor-in-queue", "start", "SIGKILL of a supervisor that waits for a GPU",
       Promise("crashed", words="supervisor of this run died"))  # fmt: skip
def _(lab: Lab) -> Seen:
    first = lab.begin(hold=True, spec={"devices": ["cuda:0"]})
    lab.held(first)
    second = lab.begin(spec={"devices": ["cuda:0"]})
    until(lambda: (lab.folder(second) / "progress.json").exists(), "the second run does not wait")
    lab.kill(lab.record(second).supervisor)
    seen = seen_of_run(lab, second)
    lab.go(first)
    if seen_of_run(lab, first).state != "done":
        seen.wrong.append("the run that had the GPU was harmed")
    return seen


def _server_dies(lab: Lab, point: str) -> list[str]:
    """A server that creates and starts a run and is killed at ``point``; the runs that are there afterwards."""

    def serve() -> None:
        run = lab.create()
        lab.store.start(run.run_id)

    lab.fired.unlink(missing_ok=True)
    before = {run.run_id for run in lab.store.list()}
    ended = children.run(serve, killed_at=point, fired=lab.fired)
    if lab.fired.exists() != (ended.signal == signal.SIGKILL):
        raise AssertionError(f"the server ended otherwise: {ended}")
    return [run.run_id for run in lab.store.list() if run.run_id not in before]


# Who asks before the supervisor has taken over finds a run that was never started, and then it is none.
SERVER: list[tuple[str, str, str, tuple[str, ...]]] = [
    ("before-record", "records.py:add_record:call", "before the run is on record", ("not there",)),
    ("recorded", "store.py:create:return", "after the run is on record, before its start", ("crashed",)),
    ("before-supervisor", "detach.py:start_detached:call", "just before it starts the supervisor", ("crashed",)),
    ("supervisor-started", "detach.py:start_detached:return", "after the supervisor's start, before that is on record",
     ("done", "crashed")),
    ("started", "store.py:start:return", "just after the start", ("done",)),
]  # fmt: skip


def _server_row(point: str, lab: Lab) -> Seen:
    runs = _server_dies(lab, point)
    if not lab.fired.exists():
        raise AssertionError("the server did not come to the point where it should die")
    return seen_of_run(lab, runs[0]) if runs else Seen("not there")


for _name, _point, _when, _state in SERVER:
    FAULTS.append(
        Fault(f"kill-server-{_name}", "server", f"SIGKILL of the server {_when}",
              Promise(_state, tuple({"done": "kept"}.get(state, "none") for state in _state)),
              lambda lab, point=_point: _server_row(point, lab))
    )  # fmt: skip


@fault(
    "kill-server-waiting", "server", "SIGKILL of a server that waits for the run", Promise("done", "kept", ALL_STEPS)
)
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.held(run_id)
    waiting, answer = children.begin(lambda: lab.store.wait(run_id, 60).state)
    time.sleep(0.1)
    lab.kill_number(waiting)
    children.end(waiting, answer)
    lab.go(run_id)
    return seen_of_run(lab, run_id)


@fault("kill-all-three", "work", "SIGKILL of server, supervisor and worker at once",
       Promise("crashed", progress=HELD, words="supervisor of this run died"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    record = lab.held(run_id)
    waiting, answer = children.begin(lambda: lab.store.wait(run_id, 60).state)
    time.sleep(0.1)
    lab.kill_number(waiting)
    lab.kill(record.supervisor, record.worker)
    children.end(waiting, answer)
    return seen_of_run(lab, run_id)


@fault("kill-reader-recovering", "end", "SIGKILL of the server that finds out that a supervisor died, as it records it",
       Promise("crashed", progress=HELD, words="supervisor of this run died"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.kill(lab.held(run_id).supervisor)
    children.run(lambda: lab.store.get(run_id).state, killed_at="outcome.py:settled:return", fired=lab.fired)
    lab.sprung()
    return seen_of_run(lab, run_id)


@fault("kill-canceller", "server", "SIGKILL of the server between recording that a run is to end and ending it",
       Promise("cancelled", progress=HELD, words="cancelled"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.held(run_id)
    children.run(lambda: lab.store.cancel(run_id).state, killed_at="processes.py:send:call", fired=lab.fired)
    lab.sprung()
    return seen_of_run(lab, run_id)


def _numbers(lab: Lab, stride: int) -> itertools.count[int]:
    return itertools.count(1, 1 if lab.thorough else stride)


@fault("sweep-server", "sweep", "SIGKILL of the server before each of its writes from creating to starting a run",
       Promise("truthful", ("all kept or none begun",)))  # fmt: skip
def _(lab: Lab) -> Seen:
    total = Seen("truthful", "all kept or none begun")
    ends: dict[str, int] = {}
    for number in _numbers(lab, 7):
        runs = _server_dies(lab, f"write@{number}")
        if not lab.fired.exists():
            break
        for run_id in runs:
            _add(total, ends, f"write {number}", seen_of_run(lab, run_id))
        if not runs:
            ends["not there"] = ends.get("not there", 0) + 1
    total.note = _counts(ends)
    return total


@fault("sweep-supervisor", "sweep", "SIGKILL of the supervisor before each of its writes, from start to end",
       Promise("truthful", ("all kept or none begun",)))  # fmt: skip
def _(lab: Lab) -> Seen:
    total = Seen("truthful", "all kept or none begun")
    ends: dict[str, int] = {}
    for number in _numbers(lab, 9):
        lab.fired.unlink(missing_ok=True)
        run_id = lab.begin(supervisor_dies_at=f"write@{number}")
        _add(total, ends, f"write {number}", seen_of_run(lab, run_id))
        if not lab.fired.exists():
            break
    total.note = _counts(ends)
    return total


@fault("sweep-worker", "sweep", "SIGKILL of the worker before each of its writes, from start to end",
       Promise("truthful", ("all kept or none begun",)))  # fmt: skip
def _(lab: Lab) -> Seen:
    total = Seen("truthful", "all kept or none begun")
    ends: dict[str, int] = {}
    for number in _numbers(lab, 5):
        lab.fired.unlink(missing_ok=True)
        run_id = lab.begin(worker_dies_at=f"write@{number}")
        _add(total, ends, f"write {number}", seen_of_run(lab, run_id))
        if not lab.fired.exists():
            break
    total.note = _counts(ends)
    return total


@fault("sweep-ledger", "sweep", "SIGKILL before each write of recording a result in the ledger, then again",
       Promise("sound", ("once",)))  # fmt: skip
def _(lab: Lab) -> Seen:
    seen = Seen("sound", "once")
    ends: dict[str, int] = {}
    for number in _numbers(lab, 1):
        run_id = f"run-{number:016x}"

        def record(run_id: str = run_id) -> str:
            return (
                Ledger(lab.home)
                .append(port_id=PORT, kind="fake", verdict="pass", run_id=run_id, summary={}, depends_on={})
                .run_id
            )

        lab.fired.unlink(missing_ok=True)
        children.run(record, killed_at=f"write@{number}", fired=lab.fired)
        if problems := Ledger(lab.home).verify():
            seen.wrong.append(f"write {number}: {problems}")
            break
        kept = "entry kept" if lab.entries(run_id) else "no entry"
        ends[kept] = ends.get(kept, 0) + 1
        record()
        if lab.entries(run_id) != 1:
            seen.wrong.append(f"write {number}: the entry stands {lab.entries(run_id)} times")
        if not lab.fired.exists():
            break
    seen.note = _counts(ends)
    return seen


@fault("sweep-moments", "sweep", "SIGKILL of supervisor, worker or both at many moments of the clock",
       Promise("truthful", ("all kept or none begun",)), slow=True)  # fmt: skip
def _(lab: Lab) -> Seen:
    total = Seen("truthful", "all kept or none begun")
    ends: dict[str, int] = {}
    for whom, moment in itertools.product(("supervisor", "worker", "both"), range(12)):
        run_id = lab.begin()
        if whom != "supervisor":
            until(lambda run_id=run_id: lab.record(run_id).worker, "the worker was not launched")
        time.sleep(moment * 0.05)
        record = lab.record(run_id)
        for victim in {"supervisor": [record.supervisor], "worker": [record.worker]}.get(
            whom, [record.supervisor, record.worker]
        ):
            if victim is not None and lab.lives(victim):
                lab.kill(victim)
        _add(total, ends, f"{whom} after {moment * 0.05:g} s", seen_of_run(lab, run_id))
    total.note = _counts(ends)
    return total


def _add(total: Seen, ends: dict[str, int], where: str, seen: Seen) -> None:
    total.wrong.extend(f"{where}: {wrong}" for wrong in seen.wrong)
    total.left += seen.left
    ends[seen.state] = ends.get(seen.state, 0) + 1
    if (seen.state, seen.result) not in (("done", "kept"), ("crashed", "none")):
        total.wrong.append(f"{where}: {seen.state}, result {seen.result}: {seen.why[:200]}")


def _counts(ends: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(ends.items()))
