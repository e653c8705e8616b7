"""Whether the official weights' files are still those that were hashed when they were fetched, without reading them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from .records import WeightsRecord
from .weights_folder import list_files

_KEPT = (".safetensors", ".json", ".txt", ".model", ".py")
"""Weights, their indexes and configs, tokenizers and custom code: what either side reads."""


def identities_of(root: Path) -> dict[str, str]:
    """Size, modification and change time (nanoseconds) of each file below ``root`` that a model is made of.

    The change time cannot be set back, so a file that was overwritten and given its old time shows as well. The
    engine's ``weights_guard`` compares the same.
    """
    names = [name for name in list_files(root).sizes if PurePosixPath(name).suffix.lower() in _KEPT]
    return {name: _identity(root / name) for name in names}


def _identity(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError:
        return "gone"
    return f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"


def changed_since_fetched(weights: WeightsRecord) -> list[str]:
    """Names of the files that are no longer those that were fetched; files that were added do not count."""
    root = Path(weights.path)
    return [name for name, known in weights.identities.items() if _identity(root / name) != known]
