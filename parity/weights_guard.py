"""The official weights that a run reads are those that fetch_weights hashed, from the run's start to its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ParityError


def check_weights(spec: Mapping[str, Any]) -> None:
    """Compare the files below ``official_weights`` with ``weights_identities``: name -> size, modification and change
    time in nanoseconds.

    Raises:
        ParityError: One of them was changed or is gone.
    """
    root = Path(spec.get("official_weights") or "/")
    changed = [
        name for name, known in (spec.get("weights_identities") or {}).items() if _identity(root / name) != known
    ]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ParityError(
            "The official weights are not those that were fetched.",
            seen=f"{changed[0]}{more} below {root} changed after fetch_weights had hashed it",
            fix="Call fetch_weights again with the same source, then run the tool again; leave the files alone.",
        )


def _identity(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError:
        return "gone"
    return f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"
