"""A log of bounded size that keeps its beginning and its end."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from io import FileIO
from pathlib import Path

from .folder import open_regular, read_regular

LOG = "log.txt"
_NEWER, _OLDER = "log.tail-newer", "log.tail-older"


class LogWriter:
    """Writes ``log.txt`` in a run's folder: half of ``limit`` for the beginning, half for the end.

    While the run goes on, the end lives in two files of a quarter each that take turns; ``close`` appends them.
    Whatever a worker puts in their place: it costs output, never the run.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._head_room = limit // 2
        self._segment = max(limit // 4, 1)
        self._head: FileIO | None = None
        with suppress(OSError):
            self._head = open_regular(folder / LOG, append=True)
        self._tail = 0
        self.dropped = 0

    def write(self, data: bytes) -> None:
        """Append bytes as they came; anything is legal. What a full disk refuses counts as dropped."""
        try:
            self._write(data)
        except OSError:
            self.dropped += len(data)

    def _write(self, data: bytes) -> None:
        if self._head is not None and self._head_room:
            part = data[: self._head_room]
            self._head.write(part)
            self._head_room -= len(part)
            data = data[len(part) :]
        newer, older = self._folder / _NEWER, self._folder / _OLDER
        while data:
            if self._tail == self._segment:
                self.dropped += older.stat().st_size if older.exists() else 0
                newer.replace(older)
                self._tail = 0
            part = data[: self._segment - self._tail]
            with open_regular(newer, append=True) as file:
                file.write(part)
            self._tail += len(part)
            data = data[len(part) :]

    def close(self) -> None:
        """Bring the end behind the beginning and say what is missing between them."""
        if self._head is not None:
            self._head.close()
        merge(self._folder, self.dropped)


def merge(folder: Path, dropped: int | None = None) -> None:
    """Append the end of a log to its beginning; ``dropped`` bytes between them, none: not known.

    What cannot be appended (a full disk, no regular file) stays where it is, and ``tail`` finds it there.
    """
    parts = [folder / name for name in (_OLDER, _NEWER) if os.path.lexists(folder / name)]
    if not parts:
        return
    with suppress(OSError):
        with open_regular(folder / LOG, append=True) as log:
            if dropped is None or dropped:
                count = "an unknown number of" if dropped is None else f"{dropped:,}"
                log.write(f"\n[fastvideo-port: {count} bytes of output were dropped here]\n".encode())
            for path in parts:
                with open_regular(path) as part:
                    shutil.copyfileobj(part, log)
        for path in parts:
            path.unlink()


def tail(folder: Path, lines: int, most: int = 65536) -> str:
    """The last ``lines`` lines, from at most the last ``most`` bytes, with undecodable bytes replaced."""
    data = b""
    for name in (_NEWER, _OLDER, LOG):
        try:
            data = read_regular(folder / name, most - len(data), end=True) + data
        except OSError:
            continue
        if len(data) >= most:
            break
    return "\n".join(data.decode("utf-8", "replace").splitlines()[-lines:])
