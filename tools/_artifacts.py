"""Reading a run's files by name, and nothing else."""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path

from ..port.errors import PortError

MIME_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".json": "application/json",
    ".txt": "text/plain",
    ".log": "text/plain",
    ".csv": "text/csv",
    ".md": "text/markdown",
}
"""What a run may show. Anything else in its folder stays on disk."""

MAX_BYTES = 4 * 1024 * 1024
"""Largest file that is handed to a client: image limits of models are near 5 MB."""


def read_artifact(files: Path, name: str, finished: bool = True) -> tuple[bytes, str]:
    """Return the bytes and the MIME type of the file ``name`` directly inside ``files``.

    ``finished``: whether the run is; an unfinished one may still make the file.

    Raises:
        PortError: The name is not a plain file name of a known kind, there is no such regular file, or it is larger
            than ``MAX_BYTES``.
    """
    mime = MIME_TYPES.get(Path(name).suffix.lower()) if len(name) <= 255 else None
    if mime is None or name != Path(name).name or name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise PortError(
            "This is not the name of a file that a run shows.",
            seen=repr(name[:80]),
            fix=f"Pass a plain file name ending in {', '.join(sorted(MIME_TYPES))}. {_names(files, name, finished)}",
        )
    try:
        # O_NOFOLLOW and fstat on what was opened: a link cannot be put in place after the check. O_NONBLOCK: a FIFO.
        handle = os.open(files / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise PortError(
            "The run has no such file.", seen=f"{name!r}: {error.strerror}", fix=_names(files, name, finished)
        ) from error
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise PortError("This is not a regular file.", seen=repr(name), fix=_names(files, name, finished))
    with os.fdopen(handle, "rb") as stream:
        if found.st_size > MAX_BYTES:
            raise PortError(
                "The file is too large to be shown.",
                seen=f"{name!r}: {found.st_size:,} bytes; the limit is {MAX_BYTES:,}",
                fix=f"Open it on disk: {files / name}",
            )
        return stream.read(MAX_BYTES), mime


def _names(files: Path, wanted: str, finished: bool) -> str:
    """The run's files as advice, the nearest names first."""
    try:
        names = sorted(entry.name for entry in files.iterdir() if entry.is_file() and not entry.is_symlink())
    except OSError:
        names = []
    near = difflib.get_close_matches(wanted[:255], names, n=3, cutoff=0.4)
    listed = (near + [name for name in names if name not in near])[:8]
    if listed:
        return f"The run's files: {', '.join(listed)}."
    return "The run ended without files: it has nothing to show." if finished else "It has none yet; call run_status."
