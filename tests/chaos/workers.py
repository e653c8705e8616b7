"""What a worker can do to itself, to its run and to its supervisor."""

from __future__ import annotations

import signal

from fastvideo_port.runs import store as store_module

from .audit import ALL_STEPS, FAULTS, HELD, Fault, Promise, Seen, fault, seen_of_run
from .lab import Lab, until

# name, what the job does after its second step, in words, promise, options of the run
MISCHIEF: list[tuple[str, str, str, Promise, dict[str, object]]] = [
    ("exit-0", "exit 0", "exits with 0 and no result",
     Promise("crashed", progress=HELD, words="exit code 0 but without a result", how="exit 0"), {}),
    ("exit-3", "exit 3", "exits with 3 and no result",
     Promise("failed", progress=HELD, words="exit code 3", how="exit 3"), {}),
    ("sys-exit", "sys.exit", "calls sys.exit(0)",
     Promise("failed", progress=HELD, words="sys.exit()", how="exit 0"), {}),
    ("segfault", "segfault", "reads address 0",
     Promise("crashed", progress=HELD, words="segmentation fault", how="SIGSEGV"), {}),
    ("segfault-at-exit", "segfault at the end", "reads address 0 after its result was written",
     Promise("done", "kept", ALL_STEPS, how="SIGSEGV"), {}),
    ("hang-after-progress", "tell and hang", "tells its progress twice at once and hangs",
     Promise("failed", progress="the last", words="time limit of 2 s"), {"time_limit_s": 2}),
    ("raise-after-progress", "tell and raise", "tells its progress twice at once and raises",
     Promise("failed", progress="the last", words="ValueError"), {}),
    ("hang", "hang", "hangs until its time limit",
     Promise("failed", progress=HELD, words="time limit of 2 s", how="SIGTERM"), {"time_limit_s": 2}),
    ("ignores-sigterm", "ignore SIGTERM", "ignores SIGTERM and hangs until its time limit",
     Promise("failed", progress="thinking", words="time limit of 2 s", how="SIGKILL"), {"time_limit_s": 2}),
    ("hang-after-result", "linger", "hangs after its result was written, until its time limit",
     Promise("done", "kept", ALL_STEPS), {"time_limit_s": 3}),
    ("eat", "eat", "takes more memory than it may have",
     Promise("failed", words="memory limit of 0.20 GiB"), {"memory_limit": 200 << 20}),
    ("daemon", "leave a daemon", "leaves a daemon behind that ignores SIGTERM", Promise("done", "kept", ALL_STEPS), {}),
    ("fork-returns", "return twice", "forks, and the fork returns another value first",
     Promise("done", "kept", ALL_STEPS), {}),
    ("fork-returns-alone", "return twice and die", "forks; the fork returns a value and the worker never does",
     Promise("crashed", words="exit code 0 but without a result"), {}),
    ("shout", "shout", "prints 8 MB into a log of 64 KiB", Promise("done", "kept", ALL_STEPS),
     {"spec": {"megabytes": 8}, "log_limit": 65536}),
    ("close-everything", "close everything", "closes stdin, stdout and stderr",
     Promise("done", "kept", ALL_STEPS, log=False), {}),
    ("forge", "forge", "writes a result by hand and dies",
     Promise("crashed", words="not what the worker wrote", how="exit 0"), {}),
    ("fifo", "spoil", "puts FIFOs in place of result and progress, and dies",
     Promise("crashed", words="not a regular file"), {"spec": {"with": "fifo"}}),
    ("endless-device", "spoil", "links result and progress to /dev/zero, and dies",
     Promise("crashed", words="cannot be read"), {"spec": {"with": "zero"}}),
    ("fifo-log", "block the log", "puts FIFOs in place of the log, prints 1 MB, goes on",
     Promise("done", "kept", ALL_STEPS, log=False), {"spec": {"megabytes": 1}, "log_limit": 65536}),
    ("folder-gone", "remove the folder", "removes the run's folder, goes on",
     Promise("failed", words="exit code 1 and without a result", log=False), {}),
    ("progress-is-folder", "spoil progress", "puts a folder in place of the progress, goes on",
     Promise("done", "kept", ""), {}),
    ("kills-supervisor", "end the supervisor", "kills its supervisor",
     Promise("crashed", progress=HELD, words="supervisor of this run died"), {}),
]  # fmt: skip


def _mischief(then: str, options: dict[str, object], lab: Lab) -> Seen:
    return seen_of_run(lab, lab.begin(then=then, **options))


for _name, _then, _words, _promise, _options in MISCHIEF:
    FAULTS.append(
        Fault(f"worker-{_name}", "worker", f"the worker {_words}", _promise,
              lambda lab, then=_then, options=_options: _mischief(then, options, lab))
    )  # fmt: skip


@fault("worker-shout-gigabyte", "worker", "the worker prints 1 GiB into a log of 1 MiB",
       Promise("done", "kept", ALL_STEPS), slow=True)  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(then="shout", spec={"megabytes": 1024})
    seen = seen_of_run(lab, run_id, seconds=60)
    if (size := (lab.folder(run_id) / "log.txt").stat().st_size) > (1 << 20) + 200:
        seen.wrong.append(f"the log has {size} bytes")
    return seen


@fault("worker-stopped", "worker", "the worker is stopped by SIGSTOP until its time limit",
       Promise("failed", progress=HELD, words="time limit of 2 s", how="SIGKILL"), slow=True)  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True, time_limit_s=2)
    lab.kill(lab.held(run_id).worker, number=signal.SIGSTOP)
    return seen_of_run(lab, run_id)


SIGNALS: list[tuple[signal.Signals, Promise]] = [
    (signal.SIGTERM, Promise("crashed", progress=HELD, words="from outside")),
    (signal.SIGINT, Promise("crashed", progress=HELD, words="from outside")),
    (signal.SIGHUP, Promise("done", "kept", ALL_STEPS)),
    (signal.SIGPIPE, Promise("done", "kept", ALL_STEPS)),
    (signal.SIGUSR1, Promise("crashed", progress=HELD, words="supervisor of this run died")),
]


def _signal(number: signal.Signals, lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.kill(lab.held(run_id).supervisor, number=number)
    if number in (signal.SIGHUP, signal.SIGPIPE):
        lab.go(run_id)
    return seen_of_run(lab, run_id)


for _number, _promise in SIGNALS:
    FAULTS.append(
        Fault(f"supervisor-{_number.name.lower()}", "signal", f"{_number.name} to the supervisor", _promise,
              lambda lab, number=_number: _signal(number, lab))
    )  # fmt: skip


@fault("supervisor-stopped-continued", "signal", "SIGSTOP to the supervisor, the job ends, SIGCONT",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    record = lab.held(run_id)
    lab.kill(record.supervisor, number=signal.SIGSTOP)
    lab.go(run_id)
    until((lab.folder(run_id) / "result.json").exists, "the job did not end")
    told = lab.store.get(run_id)
    lab.kill(record.supervisor, number=signal.SIGCONT)
    seen = seen_of_run(lab, run_id)
    if told.state != "running":
        seen.wrong.append(f"while its supervisor was stopped it was {told.state}")
    return seen


@fault("supervisor-stopped-cancelled", "signal", "SIGSTOP to the supervisor, then the run is cancelled",
       Promise("cancelled", progress=HELD, words="cancelled"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.kill(lab.held(run_id).supervisor, number=signal.SIGSTOP)
    patience, store_module._CANCEL_PATIENCE_S = store_module._CANCEL_PATIENCE_S, 1.0
    try:
        lab.store.cancel(run_id)
    finally:
        store_module._CANCEL_PATIENCE_S = patience
    return seen_of_run(lab, run_id)
