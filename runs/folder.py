"""What stands in a run's folder."""

from __future__ import annotations

import os
import stat
from io import FileIO
from pathlib import Path

from pydantic import ValidationError

from .models import Progress


def run_folder(home: Path, run_id: str) -> Path:
    """``home/runs/<run_id>``: spec.json, log.txt, progress.json, result.json, result.mac, files/, supervisor.log."""
    return home / "runs" / run_id


def read_regular(path: Path, most: int, *, end: bool = False) -> bytes:
    """The first, or with ``end`` the last, ``most`` bytes of a regular file.

    The folder is written by the worker, so its names may be anything: a link is not followed, and a FIFO or a device
    cannot make the reader wait.

    Raises:
        OSError: The file is absent, cannot be read or is no regular file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if end:
            file.seek(max(0, size - most))
        return file.read(min(most, size))


def open_regular(path: Path, *, append: bool = False) -> FileIO:
    """A regular file to be read, or with ``append`` to be made if absent and lengthened, unbuffered; see above.

    Raises:
        OSError: The file is absent, cannot be opened or is no regular file.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if append else os.O_RDONLY
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is not a regular file")
    return FileIO(fd, "ab" if append else "rb")


def last_progress(folder: Path) -> Progress | None:
    """The last progress that was written, or none; a broken file counts as none."""
    try:
        return Progress.model_validate_json(read_regular(folder / "progress.json", 8192))
    except (OSError, ValidationError):
        return None
