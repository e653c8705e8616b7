"""Jobs as hostile as a port can be."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
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


def raises(spec: Spec, job: Job) -> Spec:
    raise ValueError("the adapter is wrong")


def refuses(spec: Spec, job: Job) -> Spec:
    raise ParityError("No case was given.", seen="CASES = {}", fix="Add a case.")


def kills_itself(spec: Spec, job: Job) -> Spec:
    _say("last words")
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def segfaults(spec: Spec, job: Job) -> Spec:
    ctypes.string_at(0)
    return {}


def sys_exit(spec: Spec, job: Job) -> Spec:
    sys.exit(0)


def os_exit(spec: Spec, job: Job) -> Spec:
    os._exit(spec["code"])


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


def daemonizes(spec: Spec, job: Job) -> Spec:
    """Leaves a daemon behind, with the pipe still open, and returns."""
    _daemon()
    return {"left": "a daemon"}


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


def dies_after_result(spec: Spec, job: Job) -> Spec:
    """Segfaults while the interpreter shuts down, as native libraries do."""
    import atexit

    atexit.register(ctypes.string_at, 0)
    return {"kept": True}


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
