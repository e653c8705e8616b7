"""Files of frames, opened so that no pipe, device or link out of the worktree is read, and hashed as they are read."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import IO

from .errors import ParityError


def open_regular(path: Path, root: Path | None) -> IO[bytes]:
    """Open a regular file for reading without ever waiting on a FIFO or device; check what was opened, not the name.

    Raises:
        ParityError: It cannot be opened, is no regular file, or lies outside ``root`` (if given), links resolved.
    """
    try:
        # Non-blocking: opening a FIFO to read would otherwise wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise ParityError(
            "A file of frames cannot be opened.",
            seen=f"{str(path)[:300]!r}: {getattr(error, 'strerror', None) or error}",
            fix="Give a regular file that this user can read.",
        ) from error
    found = os.fstat(handle)
    inside = True
    if root is not None:
        where = path.resolve()
        inside = where.is_relative_to(root.resolve()) and os.path.samestat(found, where.stat())
    if not stat.S_ISREG(found.st_mode) or not inside:
        os.close(handle)
        raise ParityError(
            "A file of frames is not a regular file." if inside else "A file of frames lies outside the worktree.",
            seen=f"{path}" if inside else f"{path} leads to {path.resolve()}",
            fix="Give a regular file, no pipe or device." if inside else "Put the frames into the worktree.",
        )
    return os.fdopen(handle, "rb")


def changed(path: Path) -> ParityError:
    """The error for a file that was written to while it was read."""
    return ParityError(
        "A file of frames changed while it was read.",
        seen=f"{path} is not what was hashed before decoding",
        fix="Wait until whatever writes it has ended, then run the tool again.",
    )


def sha256_of(file: IO[bytes]) -> str:
    """SHA-256 of an open file, which stands at its beginning afterwards."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()
