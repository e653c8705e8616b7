"""Files by which one process tells another that something is there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from .errors import ParityError

_WAIT_S = 1800.0


def announce(path: Path, document: Any) -> None:
    """Write a file that another process waits for, whole."""
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(document))
    draft.replace(path)


def await_file(path: Path, what: str) -> None:
    """Wait until ``path`` is there; ``what`` is what the other process does until then.

    Raises:
        ParityError: It did not come within half an hour.
    """
    deadline = time.monotonic() + _WAIT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise ParityError(
                f"The other side did not come to the end of {what}.",
                seen=f"waited {_WAIT_S:.0f} s",
                fix=f"Make {what} faster, or the case smaller.",
            )
        time.sleep(0.02)
