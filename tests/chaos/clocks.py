"""The wall clock jumps.

Injected, because setting the machine's clock would harm others: `inject/sitecustomize.py` lets `time.time` and
`datetime.now` of supervisor and worker jump while they run. The monotonic clocks go on, as they do in truth.
"""

from __future__ import annotations

from fastvideo_port.runs.store import RunStore

from . import children
from .audit import ALL_STEPS, HELD, Promise, Seen, fault, seen_of_run
from .inject import trap
from .lab import ENGINE, Lab, until

DAY = 86400.0


def _jump(lab: Lab, seconds: float, **options: object) -> Seen:
    run_id = lab.begin(hold=True, clock=seconds, **options)
    lab.held(run_id)
    (lab.place / "jump").touch()
    lab.go(run_id)
    seen = seen_of_run(lab, run_id)
    run = lab.record(run_id)
    assert run.started_at is not None and run.finished_at is not None
    if (run.finished_at > run.started_at) != (seconds > 0) or run.finished_at[:10] == run.started_at[:10]:
        seen.wrong.append(f"the clock did not jump: {run.started_at}, {run.finished_at}")
    return seen


@fault("clock-back", "clock", "the clock goes back a day while the job works", Promise("done", "kept", ALL_STEPS))
def _(lab: Lab) -> Seen:
    return _jump(lab, -DAY)


@fault("clock-forward", "clock", "the clock goes forward ten years, far beyond the time limit",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    return _jump(lab, 3650 * DAY, time_limit_s=30)


@fault("clock-back-hanging", "clock", "the clock goes back a day while the job hangs: its time limit stays",
       Promise("failed", progress=HELD, words="time limit of 2.5 s"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(then="hang", time_limit_s=2.5, clock=-DAY)
    until(lambda: "step 2" in lab.witnessed(run_id), "the job did not begin")
    (lab.place / "jump").touch()
    return seen_of_run(lab, run_id)


@fault("clock-of-reader", "clock", "the server that asks lives in another year",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.held(run_id)
    told = []
    for years in (-30, 30):

        def elsewhere(years: int = years) -> str:
            trap.shift_clock(years * 365 * DAY, "/")
            return RunStore(lab.home, parity_dir=ENGINE).get(run_id).state

        told.append(children.run(elsewhere).value)
    lab.go(run_id)
    seen = seen_of_run(lab, run_id)
    if told != ["running", "running"]:
        seen.wrong.append(f"while it worked it was {told}")
    return seen


@fault("clock-back-at-end", "clock", "the supervisor dies and whoever finds it out lives a day before",
       Promise("crashed", progress=HELD, words="supervisor of this run died"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.kill(lab.held(run_id).supervisor)

    def yesterday() -> str:
        trap.shift_clock(-DAY, "/")
        return RunStore(lab.home, parity_dir=ENGINE).get(run_id).state

    children.run(yesterday)
    return seen_of_run(lab, run_id)
