"""The engine's one expected error; the engine imports nothing of ours, so it has its own."""

from __future__ import annotations


class ParityError(Exception):
    """An expected failure of a job, worded for whoever has to act on it.

    Attributes:
        what: One sentence that says what was wrong.
        seen: The evidence: the value, the file, the line. Empty when there is none.
        fix: What to do next, as an instruction.
    """

    def __init__(self, what: str, *, seen: str = "", fix: str = "") -> None:
        super().__init__(what, seen, fix)
        self.what = what
        self.seen = seen
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.seen:
            lines.append(f"Seen: {self.seen}")
        if self.fix:
            lines.append(f"Do: {self.fix}")
        return "\n".join(lines)
