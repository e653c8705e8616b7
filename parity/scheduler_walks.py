"""Which schedules are walked: several numbers of steps, several shifts, given sigmas, resolutions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import ParityError
from .scheduler_drive import Walk

CONFIG = "scheduler_config.json"
STEPS = (1, 2, 5, 50)
"""Numbers of steps that are always walked, besides the one that is asked for."""
SHIFTS = (1.0, 5.0)
"""Shifts that are walked besides the configured one."""
MUS = (0.5, 1.15)


def make_walks(spec: dict[str, Any], variants: Path) -> tuple[list[Walk], str | None]:
    """The walks, and the configuration file that they come from (none: the classes' defaults, or the adapter's).

    A walk with another shift has a folder of weights of its own, below ``variants``, in which only the configuration
    file is changed, so that an adapter that reads it needs to know nothing about this.
    """
    file, config = official_config(spec)
    counts = sorted({*STEPS, int(spec["num_steps"])})
    name = next((name for name in ("shift", "flow_shift") if isinstance(config.get(name), (int, float))), None)
    if config.get("use_dynamic_shifting"):
        walks = [Walk(f"{n}-mu{mu:g}", n, mu=mu, config=config) for mu in MUS for n in counts]
        return walks, str(file) if file else None
    shift = float(config[name]) if name else None
    walks = [Walk(f"{n}", n, shift=shift, config=config) for n in counts]
    if name and file:
        for other in SHIFTS:
            if other != shift:
                changed = {**config, name: other}
                folder = _variant(spec, file, changed, variants / f"shift-{other:g}")
                walks += [Walk(f"{n}-shift{other:g}", n, other, None, None, changed, folder) for n in (2, 5, 50)]
    elif not spec.get("adapter"):
        walks += [Walk(f"{n}-shift{s:g}", n, s, config={"shift": s}) for s in (3.0, 5.0) for n in (2, 5, 50)]
    if not spec.get("adapter"):
        given = [1.0, 0.8, 0.55, 0.2]
        walks.append(Walk("sigmas", len(given), shift=shift, sigmas=given, config=config))
    return walks, str(file) if file else None


def official_config(spec: dict[str, Any]) -> tuple[Path | None, dict[str, Any]]:
    """The configuration file of the official scheduler and what it says; none and nothing without one.

    Raises:
        ParityError: It is there, but cannot be read.
    """
    file = _find(spec)
    return file, _read(file) if file else {}


def _find(spec: dict[str, Any]) -> Path | None:
    if not spec.get("official_weights"):
        return None
    root = Path(spec["official_weights"])
    places = (root / str(spec.get("component") or "scheduler"), root / "scheduler", root)
    return next((place / CONFIG for place in places if (place / CONFIG).is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ParityError(
            "The configuration of the scheduler cannot be read.",
            seen=f"{file}: {error}",
            fix="Fetch the weights again (fetch_weights), or repair the file.",
        ) from error
    if not isinstance(value, dict):
        raise ParityError(
            "The configuration of the scheduler is no JSON object.",
            seen=f"{file}: {type(value).__name__}",
            fix="Fetch the weights again (fetch_weights), or repair the file.",
        )
    return value


def _variant(spec: dict[str, Any], file: Path, config: dict[str, Any], folder: Path) -> str:
    root = Path(spec["official_weights"])
    folder.mkdir(parents=True, exist_ok=True)
    inside = file.parent.relative_to(root)
    for entry in root.iterdir():
        if entry.name != (inside.parts[0] if inside.parts else CONFIG):
            (folder / entry.name).symlink_to(entry.resolve())
    (folder / inside).mkdir(parents=True, exist_ok=True)
    (folder / inside / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return str(folder)
