"""Jobs as hostile as a port can be."""

import ctypes
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.job import Job

Spec = dict[str, Any]


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def add(spec: Spec, job: Job) -> Spec:
    job.progress(1, 2, "half")
    _say("adding")
    (job.files / "note.txt").write_text("an artifact")
    job.progress(2, 2, "whole")
    return {"sum": spec["a"] + spec["b"]}


def works(spec: Spec, job: Job) -> Spec:
    """Five steps; each is printed and told, then noted outside the run's folder for whoever checks the store's word.

    ``then``: mischief after the second step. ``hold``: wait for this file after that.
    """
    witness = Path(spec["witness"])

    def note(text: str) -> None:
        with witness.open("a") as file:
            file.write(text + "\n")

    note("begun")
    for step in range(1, 6):
        _say(f"step {step}")
        job.progress(step, 5, f"step {step}")
        job.flush()
        note(f"step {step}")
        if step == 2 and spec.get("then"):
            _MISCHIEF[spec["then"]](spec, job)
        if step == 2 and spec.get("hold"):
            note("holds")
            while not Path(spec["hold"]).exists():
                time.sleep(0.01)
    note("returned")
    return {"token": spec["token"]}


def raises(spec: Spec, job: Job) -> Spec:
    raise ValueError("the adapter is wrong")


def refuses(spec: Spec, job: Job) -> Spec:
    raise ParityError("No case was given.", seen="CASES = {}", fix="Add a case.")


def segfaults(spec: Spec, job: Job) -> Spec:
    ctypes.string_at(0)
    return {}


def hangs(spec: Spec, job: Job) -> Spec:
    job.progress(3, 10, "thinking")
    _say("hanging")
    while True:
        time.sleep(60)


def ignores_term(spec: Spec, job: Job) -> Spec:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return hangs(spec, job)


def forks(spec: Spec, job: Job) -> Spec:
    """A child, a grandchild, and one that left session and parents; then hangs."""
    grandchild = "import subprocess, sys, time; subprocess.Popen(['sleep', '1000']); time.sleep(1000)"
    subprocess.Popen([sys.executable, "-c", grandchild])
    _daemon()
    (job.files / "ready").write_text("")
    return hangs(spec, job)


def _daemon() -> None:
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork():
            os._exit(0)
        os.execvp("sleep", ["sleep", "1000"])


def shouts(spec: Spec, job: Job) -> Spec:
    os.write(1, b"the very beginning\n")
    line = b"x" * 1023 + b"\n"
    for _ in range(spec["megabytes"]):
        sys.stdout.buffer.write(line * 1024)
    sys.stdout.buffer.write(b"the very end\n")
    return {"sum": 0}


def binary(spec: Spec, job: Job) -> Spec:
    os.write(1, bytes(range(256)) * 64 + b"\xff\xfe\x00 \x1b[31mred\x1b[0m end\n")
    return {"sum": 0}


def sleeps(spec: Spec, job: Job) -> Spec:
    begun = time.time()
    time.sleep(spec["seconds"])
    return {"begun": begun, "ended": time.time()}


def not_json(spec: Spec, job: Job) -> Spec:
    return {"thing": object()}


def numbers(spec: Spec, job: Job) -> Spec:
    return {"nan": float("nan"), "inf": float("inf"), "least": float("-inf"), "one": 1.0}


def environment(spec: Spec, job: Job) -> Spec:
    return {"environment": dict(os.environ), "cwd": str(Path.cwd()), "path": sys.path[0]}


def counts(spec: Spec, job: Job) -> Spec:
    for done in range(200):
        job.progress(done if done != 150 else 3, 200, f"step {done}")
        time.sleep(0.005)
    return {}


def leaks(spec: Spec, job: Job) -> Spec:
    _say("login with hf_abcdefghijklmnop")
    raise ValueError("401 for hf_abcdefghijklmnop")


def eats(spec: Spec, job: Job) -> Spec:
    food = b"x" * (300 << 20)
    hangs(spec, job)
    return {"food": len(food)}


def spoils(spec: Spec, job: Job) -> Spec:
    """Puts a FIFO or a link to an endless device where the server reads, and dies."""
    for name in ("progress.json", "result.json", "result.mac"):
        (job.run_dir / name).unlink(missing_ok=True)
        if spec["with"] == "fifo":
            os.mkfifo(job.run_dir / name)
        else:
            (job.run_dir / name).symlink_to("/dev/zero")
    os._exit(0)


def forges(spec: Spec, job: Job) -> Spec:
    """Writes a result by hand and dies before the real one."""
    Path(job.run_dir / "result.json").write_text('{"ok": true, "value": {"verdict": "pass"}}')
    Path(job.run_dir / "result.mac").write_text("0" * 64)
    threading.Event().wait(0.05)
    os._exit(0)


def _tell(job: Job) -> None:
    for message in ("the last but one", "the last"):
        job.progress(3, 5, message)


def _tell_and_hang(spec: Spec, job: Job) -> None:
    _tell(job)
    time.sleep(600)


def _tell_and_raise(spec: Spec, job: Job) -> None:
    _tell(job)
    raise ValueError("the adapter is wrong")


def _close_everything(spec: Spec, job: Job) -> None:
    for number in (0, 1, 2):
        os.close(number)
    sys.stdout = sys.stderr = io.StringIO()


def _end_the_supervisor(spec: Spec, job: Job) -> None:
    time.sleep(0.3)  # what was said is on its way into the log
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def _return_twice(spec: Spec, job: Job) -> None:
    """A fork that comes back from the job as well, with another value and before the job itself."""
    if os.fork() == 0:
        spec["token"] = "a fork's"
    else:
        time.sleep(0.7)


def _return_twice_and_die(spec: Spec, job: Job) -> None:
    """The same, and the job itself never returns: its fork's word must not stand for it."""
    if os.fork() == 0:
        spec["token"] = "a fork's"
    else:
        time.sleep(0.7)
        os._exit(0)


class _Stream:
    """Does something when it is flushed and the result is on disk: that is the last that a worker does."""

    def __init__(self, result: Path, act: Callable[[], object]) -> None:
        self.result = result
        self.act = act

    def write(self, text: str) -> int:
        return os.write(1, text.encode())

    def flush(self) -> None:
        if self.result.exists():
            self.act()


def _at_the_end(job: Job, act: Callable[[], object]) -> None:
    sys.stdout = _Stream(job.files.parent / "result.json", act)


def _linger(spec: Spec, job: Job) -> None:
    """Returns, and hangs at the end."""
    _at_the_end(job, lambda: time.sleep(600))


def _shout(spec: Spec, job: Job) -> None:
    line = b"x" * 1023 + b"\n"
    for _ in range(spec["megabytes"]):
        os.write(1, line * 1024)


def _block_the_log(spec: Spec, job: Job) -> None:
    """FIFOs that nobody writes or reads where the supervisor keeps the log, and then more output than fits."""
    for name in ("log.tail-newer", "log.tail-older"):
        (job.run_dir / name).unlink(missing_ok=True)
        os.mkfifo(job.run_dir / name)
    _shout(spec, job)


def _full_result(spec: Spec, job: Job) -> None:
    """The result goes to a device that is always full."""
    (job.run_dir / f".result.json.{os.getpid()}").symlink_to("/dev/full")


def _remove_the_folder(spec: Spec, job: Job) -> None:
    shutil.rmtree(job.run_dir)


def _spoil_progress(spec: Spec, job: Job) -> None:
    (job.run_dir / "progress.json").unlink()
    (job.run_dir / "progress.json").mkdir()


_MISCHIEF = {
    "close everything": _close_everything,
    "end the supervisor": _end_the_supervisor,
    "return twice": _return_twice,
    "return twice and die": _return_twice_and_die,
    "linger": _linger,
    "shout": _shout,
    "block the log": _block_the_log,
    "full result": _full_result,
    "remove the folder": _remove_the_folder,
    "spoil progress": _spoil_progress,
    "leave a daemon": lambda spec, job: _daemon(),
    "tell and hang": _tell_and_hang,
    "tell and raise": _tell_and_raise,
    "segfault": lambda spec, job: ctypes.string_at(0),
    "segfault at the end": lambda spec, job: _at_the_end(job, lambda: ctypes.string_at(0)),
    "exit 0": lambda spec, job: os._exit(0),
    "exit 3": lambda spec, job: os._exit(3),
    "sys.exit": lambda spec, job: sys.exit(0),
    "ignore SIGTERM": lambda spec, job: ignores_term(spec, job),
    "hang": lambda spec, job: time.sleep(600),
    "forge": forges,
    "spoil": spoils,
    "eat": lambda spec, job: eats(spec, job),
}
