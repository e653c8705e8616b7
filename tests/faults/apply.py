"""Apply one edit of the catalogue to a FastVideo worktree.

python tests/faults/apply.py WORKTREE ID
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol


class TextEdit(Protocol):
    """What is needed of an entry of the catalogue."""

    @property
    def id(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def old(self) -> str: ...
    @property
    def new(self) -> str: ...
    @property
    def times(self) -> int: ...
    @property
    def nth(self) -> int: ...


class EditRefused(ValueError):
    """The text does not stand in the file exactly as often as the catalogue says."""


def edited(text: str, edit: TextEdit) -> str:
    """``text`` with the edit made.

    Raises:
        EditRefused: ``edit.old`` is not found exactly ``edit.times`` times, or the edit changes nothing.
    """
    found = text.count(edit.old)
    if found != edit.times or not 1 <= edit.nth <= found:
        raise EditRefused(f"{edit.id}: {edit.file} holds the text {found} times, expected {edit.times}: {edit.old!r}")
    start = -1
    for _ in range(edit.nth):
        start = text.index(edit.old, start + 1)
    result = text[:start] + edit.new + text[start + len(edit.old) :]
    if result == text:
        raise EditRefused(f"{edit.id}: the edit of {edit.file} changes nothing")
    compile(result, edit.file, "exec")
    return result


def apply(worktree: Path, edit: TextEdit) -> str:
    """Make the edit in ``worktree`` and return the file's former text.

    Raises:
        EditRefused: As for ``edited``; the file is untouched then.
        FileNotFoundError: The worktree has no such file.
    """
    path = worktree / edit.file
    before = path.read_text()
    path.write_text(edited(before, edit))
    return before


@contextmanager
def applied(worktree: Path, edit: TextEdit) -> Iterator[Path]:
    """Make the edit for as long as the block runs; yields the edited file."""
    path = worktree / edit.file
    before = apply(worktree, edit)
    try:
        yield path
    finally:
        path.write_text(before)


if __name__ == "__main__":
    _spec = importlib.util.spec_from_file_location("catalogue", Path(__file__).with_name("catalogue.py"))
    assert _spec is not None and _spec.loader is not None
    _catalogue = importlib.util.module_from_spec(_spec)
    sys.modules["catalogue"] = _catalogue
    _spec.loader.exec_module(_catalogue)
    apply(Path(sys.argv[1]), _catalogue.EDITS[sys.argv[2]])
