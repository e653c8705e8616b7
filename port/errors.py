"""The one error that reaches a person or an agent: what was wrong, what was seen, what to do."""

from __future__ import annotations


class PortError(Exception):
    """An expected failure, worded for whoever has to act on it.

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
