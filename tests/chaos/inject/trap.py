"""Ends a process at an exact point of the unchanged program.

A point is ``FILE:FUNCTION:call``, ``FILE:FUNCTION:return`` (files by the end of their path) or ``write`` (just before
something is changed on the disk, in the database or in the table of processes), each with ``@n`` for the n-th time.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any

WRITES = {
    "posix": {"fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "write", "kill"},
    "_posixsubprocess": {"fork_exec"},
    "sqlite3": {"execute", "executescript", "close"},
}


def _is_write(function: Any) -> bool:
    owner = getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__
    return getattr(function, "__name__", "") in WRITES.get(owner, ())


def _fire(fired: str) -> None:
    sys.setprofile(None)
    # Whoever set the trap wants to know that it went off.
    os.close(os.open(fired, os.O_WRONLY | os.O_CREAT))
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, fired: str) -> None:
    """Kill this process at ``point``, after making the file ``fired``."""
    place, _, number = point.partition("@")
    left = int(number or 1)
    file, _, rest = place.partition(":")
    function, _, event = rest.partition(":")

    def watch(frame: FrameType, what: str, argument: Any) -> None:
        nonlocal left
        if place == "write":
            hit = what == "c_call" and _is_write(argument)
        else:
            code = frame.f_code
            hit = what == event and code.co_name == function and code.co_filename.endswith(file)
        if hit:
            left -= 1
            if left == 0:
                _fire(fired)

    sys.setprofile(watch)


def shift_clock(seconds: float, once_there: str) -> None:
    """Let the wall clock jump by ``seconds`` as soon as the file ``once_there`` exists; the monotonic clocks go on."""
    import datetime

    genuine, genuine_ns, jump = time.time, time.time_ns, [0.0]

    def jumped() -> float:
        if not jump[0] and os.path.exists(once_there):  # noqa: PTH110
            jump[0] = seconds
        return jump[0]

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return super().now(tz) + datetime.timedelta(seconds=jumped())

    time.time = lambda: genuine() + jumped()
    time.time_ns = lambda: genuine_ns() + int(jumped() * 1e9)
    datetime.datetime = Clock  # type: ignore[misc]
