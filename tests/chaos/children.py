"""A process to be killed, starved or robbed of its rights: a fork of this one, which has everything imported."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvideo_port.port.errors import PortError

from .inject import trap


@dataclass(frozen=True)
class Child:
    """How a child ended: what it returned, or what it was refused, or neither because it was killed."""

    value: Any = None
    refused: PortError | None = None
    signal: int | None = None


def begin(act: Callable[[], Any]) -> tuple[int, int]:
    """Start ``act`` in a fork; its process number and the descriptor on which its answer comes."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return pid, ours
    said: dict[str, Any] = {"broken": "nothing"}
    try:
        os.close(ours)
        said = {"value": act()}
    except PortError as error:
        said = {"refused": [error.what, error.seen, error.fix]}
    except BaseException as error:
        said = {"broken": f"{type(error).__name__}: {error}"}
    finally:
        with contextlib.suppress(OSError):
            os.write(theirs, json.dumps(said).encode())
        os._exit(0)


def end(pid: int, answer: int, seconds: float = 60) -> Child:
    """Wait for a child and read its answer; one that hangs is killed, and that is an error."""
    deadline = time.monotonic() + seconds
    data = b""
    try:
        while select.select([answer], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(answer, 65536)
            if not part:
                break
            data += part
        else:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"the child did not answer within {seconds} s")
    finally:
        os.close(answer)
        _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Child(signal=os.WTERMSIG(status))
    said = json.loads(data)
    if "broken" in said:
        raise AssertionError(f"an error that is not worded: {said['broken']}")
    if "refused" in said:
        what, seen, fix = said["refused"]
        return Child(refused=PortError(what, seen=seen, fix=fix))
    return Child(value=said["value"])


def run(act: Callable[[], Any], *, killed_at: str = "", fired: Path | None = None) -> Child:
    """``act`` in a fork, killed at the point ``killed_at`` (see ``inject/trap.py``) if it comes there."""

    def armed() -> Any:
        if killed_at:
            trap.arm(killed_at, str(fired))
        return act()

    return end(*begin(armed))


def write_nothing() -> None:
    """From now on every write that makes a file longer fails, as on a full disk (EFBIG in place of ENOSPC)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def give_up_privileges() -> None:
    """Let permissions count for root too: without its capabilities it is like any owner (Linux)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")
