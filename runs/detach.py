"""Starting a process that no longer belongs to us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .folder import open_regular

# Forked twice: the process is nobody's child, so a client that ends the server's process tree does not reach it.
_DETACH = """\
import os, sys
pid = os.fork()
if pid:
    print(pid, flush=True)
    os._exit(0)
os.dup2(os.open(os.devnull, os.O_RDWR), 1)
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
"""


def start_detached(module: str, arguments: Sequence[str], log: Path) -> int:
    """Run ``python -m module arguments`` in this interpreter, in its own session, as nobody's child.

    Returns the process id; stderr goes to ``log``.

    Raises:
        OSError: The process cannot be started.
    """
    with open_regular(log, append=True) as stderr:
        first = subprocess.Popen(
            [sys.executable, "-c", _DETACH, module, *arguments],
            # Not the current folder: `-m` would import from it.
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            said, _ = first.communicate(timeout=30)
        except subprocess.TimeoutExpired as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(first.pid, signal.SIGKILL)
            first.communicate()
            raise OSError("the process did not start within 30 s") from error
    if first.returncode != 0 or not said.strip().isdigit():
        raise OSError(f"the process did not start (exit {first.returncode}); see {log}")
    return int(said)
