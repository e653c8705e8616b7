"""Processes by identity: who is alive, who belongs to a run, and how to end them all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import psutil

from .models import ProcessIdentity

MARKER = "FASTVIDEO_PORT_RUN"
"""Environment variable that marks every process of a run, also those that left its session."""

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 30.0
_ENDED = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})


@lru_cache(maxsize=1)
def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of the process that has this number now, or none."""
    try:
        if sys.platform == "linux":
            # Start in ticks since boot. psutil's create_time is derived from the wall clock and moves when that is set.
            born = f"{_boot()}:{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
        else:
            born = repr(psutil.Process(pid).create_time())
    except (OSError, psutil.Error, IndexError):
        return None
    return ProcessIdentity(pid=pid, born=born)


def is_alive(identity: ProcessIdentity | None) -> bool:
    """Whether exactly this process still runs; a zombie does not."""
    if identity is None or identify(identity.pid) != identity:
        return False
    try:
        return psutil.Process(identity.pid).status() not in _ENDED
    except psutil.Error:
        return False


def send(identity: ProcessIdentity | None, number: signal.Signals) -> bool:
    """Send a signal to this process if it still runs; whether it did."""
    if identity is None or not is_alive(identity):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(identity.pid, number)
        return True
    return False


def become_subreaper() -> None:
    """Let orphans among our descendants become our children, so that none escapes (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """All living processes below this one."""
    living = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() not in _ENDED:
                living.append(process)
    return living


def resident() -> int:
    """Resident memory of all processes below this one, in bytes; pages that they share count for each."""
    total = 0
    for process in descendants():
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def marked(run_id: str) -> list[psutil.Process]:
    """All living processes of this user that carry the run's mark, except this one.

    Looks through every process: for the rare case that the supervisor, whose descendants they were, is gone.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and process.environ().get(MARKER) == run_id
                and process.status() not in _ENDED
            ):
                found.append(process)
    return found


def kill(processes: Iterable[psutil.Process], number: signal.Signals = signal.SIGKILL) -> int:
    """Send ``number`` to each; how many there were. psutil checks that a number was not given to another process."""
    count = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
            count += 1
    return count


def end_descendants(grace: float) -> int:
    """End every process below this one: SIGTERM, ``grace`` seconds (0: none), then SIGKILL until none is left.

    Returns how many had to be ended.
    """
    ended = 0
    if grace > 0:
        ended = kill(descendants(), signal.SIGTERM)
        deadline = time.monotonic() + grace
        while descendants() and time.monotonic() < deadline:
            time.sleep(0.02)
    # More than once: a process may fork between being listed and being killed, and one with much memory dies slowly.
    deadline = time.monotonic() + _PATIENCE_S
    while (rest := descendants()) and time.monotonic() < deadline:
        ended = max(ended, kill(rest))
        time.sleep(0.01)
    return ended


def reap(worker: int) -> None:
    """Take the exit codes of orphans that became our children, so that no zombies pile up; ``worker`` is left alone."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if child.pid != worker and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def end_marked(run_id: str) -> int:
    """SIGKILL to every process that carries the run's mark, until none is left; how many there were."""
    ended = 0
    deadline = time.monotonic() + _PATIENCE_S
    while (rest := marked(run_id)) and time.monotonic() < deadline:
        ended = max(ended, kill(rest))
        time.sleep(0.02)
    return ended
