"""Writing a file so that nobody ever sees half of it."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from .errors import PortError


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` in the place of ``path`` in one step, keeping the permissions of a file that was there.

    Raises:
        PortError: The file cannot be written; what was there is untouched.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PortError(
            f"{path.name} cannot be written.",
            seen=f"{path}: {error.strerror}",
            fix="Free disk space or make the folder writable, then try again. The old file is untouched.",
        ) from error
