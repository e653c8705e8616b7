"""Converted weights of a port: whether they are still those that were proven, and made of the present official ones."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

from .records import PortRecord

FOLDER = "converted_weights"


def converted_folder(port: PortRecord) -> Path:
    """Where a port's converted weights belong."""
    return Path(port.worktree) / FOLDER / port.slug


def stamp_of(folder: Path) -> str:
    """SHA-256 over name, size and times of every file; the engine's ``convert_layout.stamp`` says the same."""
    rows = []
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        if not stat.S_ISDIR(facts.st_mode):
            rows.append([path.relative_to(folder).as_posix(), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def why_unproven(port: PortRecord) -> str:
    """Why the converted weights may not stand for the official ones; empty where they may."""
    if port.converted is None:
        return "convert_weights has not made them"
    if port.weights is None or port.converted.source != port.weights.digest:
        return "they were made of other official weights"
    folder = Path(port.converted.path)
    if not folder.is_dir():
        return "they are gone"
    return "" if stamp_of(folder) == port.converted.stamp else "they were changed after the conversion"
