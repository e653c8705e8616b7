"""The fault suite as data: mistakes that a port can contain, and correct rewrites that must not be accused.

Each entry is one text edit of the real FastVideo 0.2.1. The entries stand in ``edits/<pair>.py`` as plain literals;
this module reads them into typed records and can be loaded by path, from any interpreter.
"""

from __future__ import annotations

import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).resolve().parent / "edits"

Shows = Literal["float32", "bfloat16", "load", "call"]
"""Where a fault can be seen: in float32 outputs, in bfloat16 outputs only, or because loading or calling fails."""


@dataclass(frozen=True)
class Edit:
    """One text edit of a FastVideo worktree.

    Attributes:
        id: Unique, readable name; begins with the pair's.
        pair: Key of ``tests/pairs/table.py``.
        file: Path below the worktree.
        old: The exact text that is replaced.
        new: The text that takes its place.
        category: norm, rope, attention, wiring, constant, activation, mapping, dtype, mask, layout, cache, scheduler.
        place: Port modules in which it shows, with ``*`` for any number; empty for a rewrite, or where none does.
        glue: Whether the mistake stands in a parent's own forward, between the calls of its children.
        cases: The adapter's cases that show it; empty when all of them do.
        shows: See ``Shows``.
        traps: Ids of the catalogue of traps that it is drawn from.
        note: What the mistake is, or why the rewrite is right.
        times: How often ``old`` stands in the file.
        nth: Which of these is replaced, counted from one.
    """

    id: str
    pair: str
    file: str
    old: str
    new: str
    category: str
    note: str
    place: tuple[str, ...] = ()
    glue: bool = False
    cases: tuple[str, ...] = ()
    shows: Shows = "float32"
    traps: tuple[str, ...] = field(default=())
    times: int = 1
    nth: int = 1


def _read(name: str) -> tuple[Edit, ...]:
    """The entries called ``name`` in all files, in order."""
    edits = []
    for path in sorted(FOLDER.glob("*.py")):
        entries: list[dict[str, Any]] = runpy.run_path(str(path))[name]
        for entry in entries:
            lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
            edits.append(Edit(**{"pair": path.stem, **entry, **lists}))
    return tuple(edits)


FAULTS: tuple[Edit, ...] = _read("FAULTS")
"""Mistakes: each must be caught and its place named."""

REWRITES: tuple[Edit, ...] = _read("REWRITES")
"""Correct rewrites: none may be accused."""

EDITS: dict[str, Edit] = {edit.id: edit for edit in (*FAULTS, *REWRITES)}
"""All of them by id."""
