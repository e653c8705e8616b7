"""Children of a comparison without each importing torch: forked from a process that has imported it and nothing else.

The coordinator imports torch and what judges, and forks the server before it has read its key; so no child finds a key
in its memory that is not its own. The worktree is not on the path during these imports, and no adapter and no code of a
port ever runs in the coordinator or in the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import IO, Any

_JOBS = ("component_parity", "locate", "pipeline_parity")
_BEFORE = ("component_side", "component_judge")
_TICK_S = 0.02

current: ForkServer | None = None
"""That of this process, once `start` has been called."""


class ForkServer:
    """The coordinator's end.

    Args:
        pid: Of the server.
        control: Where requests go.
    """

    def __init__(self, pid: int, control: socket.socket) -> None:
        self._pid = pid
        self._control = control

    def fork(self, job: str, folder: Path, cwd: Path) -> Forked:
        """Run a job in a process of its own; its key goes to ``stdin``.

        Raises:
            OSError: The server is gone.
        """
        key, stdin = os.pipe()
        ended, end = os.pipe()
        try:
            socket.send_fds(self._control, [b"\n"], [key, end])
            request = {"job": job, "folder": str(folder), "cwd": str(cwd), "environment": dict(os.environ)}
            self._control.sendall(json.dumps(request).encode() + b"\n")
        finally:
            os.close(key)
            os.close(end)
        return Forked(os.fdopen(stdin, "wb"), ended)

    def close(self) -> None:
        """End the server and what still runs below it."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


class Forked:
    """One child, with the part of the interface of `subprocess.Popen` that is used here."""

    def __init__(self, stdin: IO[bytes], end: int) -> None:
        self.stdin = stdin
        self._end = end
        self._code: int | None = None
        said = _number(end)
        if said is None:
            raise OSError("the fork server is gone")
        self.pid = said

    def wait(self) -> int:
        """The exit code, negative for a signal, once it has ended."""
        if self._code is None:
            said = _number(self._end)
            self._code = -signal.SIGKILL if said is None else said
            os.close(self._end)
        return self._code

    def poll(self) -> int | None:
        """The exit code, none while it runs."""
        if self._code is None and not select.select([self._end], [], [], 0)[0]:
            return None
        return self.wait()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def start(job: str, folder: Path) -> ForkServer | None:
    """Import what every child needs and fork the server; none where the job's children are of another interpreter.

    To be called before the coordinator has its key, from the main thread, as the only thread.
    """
    global current
    if job not in _JOBS or sys.platform != "linux":  # elsewhere system libraries do not outlive a fork
        return None
    path, here = list(sys.path), str(Path.cwd())
    try:
        spec = json.loads((folder / "spec.json").read_bytes())
        if not all(_is_own(spec.get(name) or sys.executable) for name in ("python", "official_python")):
            return None
        sys.path[:] = [entry for entry in path if entry not in ("", here)]
        for name in _BEFORE:
            importlib.import_module(f".{name}", __package__)
    except (OSError, ValueError, AttributeError, ImportError):
        return None  # the children say what is wrong
    finally:
        sys.path[:] = path
    ours, theirs = socket.socketpair()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    current = ForkServer(pid, ours)
    return current


def _is_own(python: str) -> bool:
    # By name: the interpreter of a virtual environment is a link to one that has other packages.
    return Path(python).absolute() == Path(sys.executable).absolute()


def _serve(control: socket.socket) -> None:
    """Fork what is asked for and tell how it ended, until the coordinator is gone."""
    running: dict[int, int] = {}
    while True:
        ready = select.select([control], [], [], _TICK_S if running else None)[0]
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                _tell(running[pid], os.waitstatus_to_exitcode(status))
                os.close(running.pop(pid))
        if ready:
            asked, descriptors, _, _ = socket.recv_fds(control, 1, 2)
            if not asked:
                break
            with control.makefile("rb") as lines:
                request = json.loads(lines.readline())
            key, end = descriptors
            pid = os.fork()
            if pid == 0:
                for descriptor in (control.fileno(), end, *running.values()):
                    os.close(descriptor)
                _run(request, key)
            os.close(key)
            running[pid] = end
            _tell(end, pid)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _number(descriptor: int) -> int | None:
    """The next line, byte by byte: what comes after it must stay where `select` sees it. None at the end."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(descriptor, 1)
        if not part:
            return None
        line += part
    return int(line)


def _tell(descriptor: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, f"{number}\n".encode())


def _run(request: dict[str, Any], key: int) -> None:
    """Be the worker of one job; never returns."""
    global current
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: it dies with the server
        current = None
        os.dup2(key, 0)
        os.close(key)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        sys.path[0] = str(Path.cwd())
        sys.argv = [request["job"]]
        # Python seeds its own generator anew after a fork; two sides must not draw the same numbers from numpy's.
        importlib.import_module("numpy").random.seed()
        importlib.import_module(".worker", __package__).main(request["job"], request["folder"])
    finally:
        os._exit(0)
