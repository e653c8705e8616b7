"""What stands in a run's folder."""

from __future__ import annotations

import os
import stat
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
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb") as file:  # noqa: PTH123
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(f"{path} is not a regular file")
        if end:
            file.seek(max(0, facts.st_size - most))
        return file.read(min(most, facts.st_size))


def last_progress(folder: Path) -> Progress | None:
    """The last progress that was written, or none; a broken file counts as none."""
    try:
        return Progress.model_validate_json(read_regular(folder / "progress.json", 8192))
    except (OSError, ValidationError):
        return None
