"""What stands in a run's folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from .models import Progress


def run_folder(home: Path, run_id: str) -> Path:
    """``home/runs/<run_id>``: spec.json, log.txt, progress.json, result.json, result.mac, files/, supervisor.log."""
    return home / "runs" / run_id


def last_progress(folder: Path) -> Progress | None:
    """The last progress that was written, or none; a broken file counts as none."""
    try:
        with (folder / "progress.json").open("rb") as file:
            return Progress.model_validate_json(file.read(8192))
    except (OSError, ValidationError):
        return None
