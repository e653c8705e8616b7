"""What must be seen after a fault, and what is seen: without believing the store."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastvideo_port.port.errors import PortError
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.runs.models import Run
from fastvideo_port.runs.store import RunStore

from .lab import ENGINE, Lab, until

ALL_STEPS, HELD = "step 5", "step 2"


@dataclass(frozen=True)
class Promise:
    """What a fault must end in.

    Attributes:
        state: Allowed states; or words of the refusal, where nothing was begun or nothing can be read.
        result: ``kept``, ``none``, ``refused`` (there, and not accepted).
        progress: Message of the last progress; none: not looked at.
        words: What the reason must say.
        how: Exit code or signal of the worker; none: not looked at.
        log: Whether the log must end with what the job said last.
        bystander: What is told of the run that was over before: ``kept``, or what refuses it.
    """

    state: tuple[str, ...] | str
    result: tuple[str, ...] | str = "none"
    progress: str | None = None
    words: str = ""
    how: str | None = None
    log: bool = True
    bystander: str = "kept"


@dataclass
class Seen:
    """What was told and found after a fault."""

    state: str
    result: str = "none"
    progress: str = ""
    log: bool = True
    left: int = 0
    why: str = ""
    how: str = ""
    note: str = ""
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        id: Unique name.
        phase: When it strikes.
        does: What is done.
        promise: What must be seen.
        act: Does it on a lab and returns what is seen.
        slow: Whether it is left out of `make test`.
    """

    id: str
    phase: str
    does: str
    promise: Promise
    act: Callable[[Lab], Seen]
    slow: bool = False


FAULTS: list[Fault] = []


def fault(
    name: str, phase: str, does: str, promise: Promise, *, slow: bool = False
) -> Callable[[Callable[[Lab], Seen]], Callable[[Lab], Seen]]:
    """Put a function on the list."""

    def keep(act: Callable[[Lab], Seen]) -> Callable[[Lab], Seen]:
        FAULTS.append(Fault(name, phase, does, promise, act, slow))
        return act

    return keep


def seen_of_run(lab: Lab, run_id: str, *, seconds: float = 30) -> Seen:
    """Wait for the end of a run as a new server does, and hold what is told against what is there."""
    try:
        run = RunStore(lab.home, parity_dir=ENGINE).wait(run_id, seconds)
    except PortError as error:
        return Seen("refused", "refused", log=True, why=f"{error.what} {error.seen}")
    with contextlib.suppress(AssertionError):  # a process is killed when the kernel gets round to it
        until(lambda: not lab.left(run_id), "processes are left", 5)
    seen = Seen(run.state, left=len(lab.left(run_id)), why=f"{run.error.what} {run.error.seen}" if run.error else "")
    seen.how = run.signal or ("" if run.exit_code is None else f"exit {run.exit_code}")
    seen.progress = run.progress.message if run.progress else ""
    seen.result = _result(lab, run, seen.wrong)
    _reason(run, seen.wrong)
    said = lab.witnessed(run_id)
    steps = [line for line in said if line.startswith("step")]
    seen.log = not steps or steps[-1] in lab.store.log_tail(run_id, 60)
    if said.count("begun") > 1:
        seen.wrong.append("the job was executed twice")
    if run.finished:
        try:
            until(lambda: not lab.supervisors(run_id), "the supervisor is still there", 10)
        except AssertionError as error:
            seen.left += 1
            seen.wrong.append(str(error))
        if (again := RunStore(lab.home, parity_dir=ENGINE).get(run_id)) != run:
            seen.wrong.append(f"asked again it is {again.state}, {again.finished_at}")
    else:
        seen.wrong.append(f"no end within {seconds:g} s")
    return seen


def seen_of_refusal(act: Callable[[], Any]) -> Seen:
    """``act`` must be refused in words, soon."""
    begun = time.monotonic()
    try:
        value = act()
    except PortError as error:
        seen = Seen("refused", why=f"{error.what} {error.seen}")
        if not error.fix:
            seen.wrong.append("nothing is said to be done")
        if time.monotonic() - begun > 45:
            seen.wrong.append("the refusal came late")
        return seen
    return Seen("accepted", result=str(value)[:80])


def verdict(promise: Promise, seen: Seen, bystander: str) -> list[str]:
    """Everything that is not as promised; empty: nothing."""
    wrong = list(seen.wrong)
    if seen.state not in _some(promise.state):
        wrong.append(f"the state is {seen.state}, promised {' or '.join(_some(promise.state))}: {seen.why[:200]}")
    if seen.result not in _some(promise.result):
        wrong.append(f"the result is {seen.result}, promised {' or '.join(_some(promise.result))}")
    if promise.progress is not None and seen.progress != promise.progress:
        wrong.append(f"the last progress is {seen.progress!r}, promised {promise.progress!r}")
    if promise.how is not None and seen.how != promise.how:
        wrong.append(f"the worker's end is told as {seen.how!r}, promised {promise.how!r}")
    if promise.words not in seen.why:
        wrong.append(f"the reason does not say {promise.words!r}: {seen.why[:200]}")
    if promise.log and not seen.log:
        wrong.append("the end of the log was lost")
    if seen.left:
        wrong.append(f"{seen.left} processes were left")
    if promise.bystander not in bystander:
        wrong.append(f"the run before: {bystander}, promised {promise.bystander}")
    return wrong


def bystander(lab: Lab) -> str:
    """What is told of the run that was over before the fault: ``kept``, a refusal, or what is wrong with it."""
    try:
        store = RunStore(lab.home, parity_dir=ENGINE)
        run = store.get(lab.bystander)
        value = store.value(lab.bystander)
        if problems := Ledger(lab.home).verify():
            return f"ledger: {'; '.join(problems)}"
        if (count := lab.entries(lab.bystander)) != 1:
            return f"stands {count} times in the ledger"
    except PortError as error:
        return f"refused: {error.what}"
    return "kept" if run.state == "done" and value == {"token": run.arguments["token"]} else "LOST"


def genuine(lab: Lab, run_id: str) -> bool:
    """Whether a whole value of the run's worker lies on the disk, found without the store's code."""
    folder = lab.folder(run_id)
    try:
        if not all((folder / name).is_file() for name in ("result.json", "result.mac")):
            return False
        data, mac = (folder / "result.json").read_bytes(), (folder / "result.mac").read_text()
        key = lab.record(run_id).key.encode()
        return mac == hmac.new(key, data, hashlib.sha256).hexdigest() and json.loads(data).get("ok") is True
    except (OSError, ValueError):
        return False


def _result(lab: Lab, run: Run, wrong: list[str]) -> str:
    there = genuine(lab, run.run_id)
    if there and run.finished and run.state != "done":
        wrong.append("A RESULT WAS LOST: the worker's value is whole on the disk")
    try:
        value = lab.store.value(run.run_id)
    except PortError as error:
        if "changed or removed" in error.what or "damaged" in error.what:
            return "refused"
        if run.state == "done":
            wrong.append(f"it is done and has no value: {error.what}")
        return "none"
    if not there:
        wrong.append("A FALSE RESULT: the worker wrote none that is whole")
    if value != {"token": run.arguments["token"]}:
        wrong.append(f"A FALSE RESULT: {str(value)[:80]}")
    return "kept"


def _reason(run: Run, wrong: list[str]) -> None:
    if not run.finished:
        return
    if (run.error is None) != (run.state == "done"):
        wrong.append(f"{run.state} with the error {run.error}")
    elif run.error is not None and not (run.error.what and run.error.fix):
        wrong.append(f"the error is not whole: {run.error}")


def _some(words: tuple[str, ...] | str) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else words


def judged(fault: Fault, place: Path, template: Path, *, thorough: bool = False) -> tuple[Seen, list[str]]:
    """Let a fault happen in a fresh lab; what was seen, and what is not as promised."""
    lab = Lab(place, template, thorough=thorough)
    try:
        seen = fault.act(lab)
        return seen, verdict(fault.promise, seen, bystander(lab))
    except Exception as error:  # whatever escapes from the program or the fault is a row of its own, and red
        seen = Seen("unknown", wrong=[f"{type(error).__name__}: {error}"])
        return seen, seen.wrong
    finally:
        lab.close()
