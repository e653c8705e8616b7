"""Run a script as a user runs it, in its own process, and learn what it and its descendants executed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from . import import_watch
from .errors import ParityError

_TAIL_BYTES = 256 << 10
_MOST_NOTES = 1000
PATIENCE_S = 10.0
"""Seconds that the end of the output is waited for: a process that the script left behind may hold it open."""


@dataclass
class ScriptRun:
    """How a script went.

    Attributes:
        exit_code: Of the process; none when a signal ended it.
        signal: That signal's name.
        timed_out: Whether it was ended at the time limit.
        seconds: Wall time.
        output: The end of what it printed, at most 256 KiB.
        files: Modules of the worktree that it executed, with the SHA-256 that they had then.
        data: Other files of the worktree that it read, likewise.
        again: Those that were executed or read a second time with other content.
        official: Modules of the official repository that it executed.
        foreign: ``(module, file:line)``: files with model classes of diffusers or transformers, first asked for there.
        media: Videos that it opened, renamed or named to a subprocess.
        watched: Process ids that reported.
        python: Version of the interpreter.
    """

    exit_code: int | None = None
    signal: str | None = None
    timed_out: bool = False
    seconds: float = 0.0
    output: str = ""
    files: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    official: list[str] = field(default_factory=list)
    foreign: list[tuple[str, str]] = field(default_factory=list)
    media: list[str] = field(default_factory=list)
    watched: list[int] = field(default_factory=list)
    python: str = ""
    pid: int = 0

    def take(self, message: dict[str, Any]) -> None:
        """Take in one message of the watch."""
        kind = message.get("kind")
        if kind in ("file", "data"):
            # The first execution counts; a file that was changed and executed again is named.
            known = self.files if kind == "file" else self.data
            if known.setdefault(str(message["path"]), str(message["sha256"])) != message["sha256"]:
                self.again.add(str(message["path"]))
        elif kind == "official" and len(self.official) < _MOST_NOTES:
            self.official.append(str(message["path"]))
        elif kind == "foreign" and len(self.foreign) < _MOST_NOTES:
            self.foreign.append((str(message["module"]), str(message["by"])))
        elif kind == "media" and len(self.media) < _MOST_NOTES:
            self.media.append(str(message["path"]))
        elif kind == "start":
            self.watched.append(int(message["pid"]))
            self.python = self.python or str(message["python"])


def run_script(
    python: str,
    script: Path,
    arguments: Sequence[str],
    *,
    worktree: Path,
    official: str | None,
    patches: Sequence[str],
    time_limit_s: float,
    each: Callable[[float], None],
) -> ScriptRun:
    """Run ``python script arguments`` with the worktree as current folder and before everything on the path.

    Args:
        python: The port's interpreter.
        script: Absolute path.
        arguments: Handed on as they are.
        worktree: Its ``fastvideo`` is what the script imports.
        official: Folder of the official repository, if there is one.
        patches: Names of environment patches.
        time_limit_s: Seconds after which the script and its processes are killed.
        each: Called with the seconds gone, about twice a second.

    Raises:
        ParityError: The interpreter cannot be started.
    """
    result = ScriptRun()
    with tempfile.TemporaryDirectory(prefix="fvp-") as short, _listening(Path(short) / "s", result) as address:
        # A socket's path may have 107 bytes only, so it cannot lie in the run's folder.
        hook = Path(short) / "hook"
        hook.mkdir()
        shutil.copyfile(import_watch.__file__, hook / "sitecustomize.py")
        settings = {"socket": address, "worktree": str(worktree), "official": official, "patches": list(patches)}
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(hook), str(worktree)]),
            import_watch.VARIABLE: json.dumps(settings),
        }
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                [python, str(script), *arguments],
                cwd=worktree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ParityError(
                "The interpreter could not be started.",
                seen=f"{python}: {error.strerror}",
                fix="Create the port again with a python that exists and can be executed.",
            ) from error
        result.pid = process.pid
        assert process.stdout is not None
        tail = bytearray()
        reader = threading.Thread(target=pass_on, args=(process.stdout, tail), daemon=True)
        reader.start()
        try:
            _wait(process, result, began, time_limit_s, each)
        finally:
            # What the script left behind must not go on writing while its files are looked at.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reader.join(PATIENCE_S)
        result.output = bytes(tail).decode("utf-8", "replace")
        result.seconds = time.monotonic() - began
    return result


def _wait(
    process: subprocess.Popen[bytes], result: ScriptRun, began: float, limit: float, each: Callable[[float], None]
) -> None:
    while True:
        try:
            code = process.wait(0.5)
            break
        except subprocess.TimeoutExpired:
            gone = time.monotonic() - began
            each(gone)
            if gone > limit:
                result.timed_out = True
                return
    if code >= 0:
        result.exit_code = code
    else:
        try:
            result.signal = signal.Signals(-code).name
        except ValueError:
            result.signal = f"signal {-code}"


def pass_on(stream: IO[bytes], tail: bytearray) -> None:
    """Hand what the script prints on to the log and keep its end."""
    while block := os.read(stream.fileno(), 1 << 16):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
        tail += block
        del tail[:-_TAIL_BYTES]


@contextmanager
def _listening(path: Path, result: ScriptRun) -> Iterator[str]:
    """Take in the watch's messages on a socket of this user alone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(path))
        line.settimeout(0.2)
        done = threading.Event()
        thread = threading.Thread(target=_listen, args=(line, done, result), daemon=True)
        thread.start()
        try:
            yield str(path)
        finally:
            done.set()
            thread.join()


def _listen(line: socket.socket, done: threading.Event, result: ScriptRun) -> None:
    while True:
        try:
            data = line.recv(1 << 16)
        except TimeoutError:
            # Everything sent before the script ended has been received by now: datagrams wait in the socket's queue.
            if done.is_set():
                return
            continue
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            result.take(json.loads(data))
