"""The one error that reaches a person or an agent: what was wrong, what was seen, what to do."""

from __future__ import annotations

import re

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]")


def sendable(text: str) -> str:
    """``text`` with every half of a surrogate pair spelled out (``\\udc80``).

    A file name that is not UTF-8 comes as such halves. No JSON writer takes them, and one that fails in the middle of
    an answer takes the whole connection down.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def visible(text: str) -> str:
    """``text`` with what acts on a terminal or cannot be seen spelled out (``\\x1b``): a file's name may hold it."""
    return _UNSEEN.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


class PortError(Exception):
    """An expected failure, worded for whoever has to act on it.

    Attributes:
        what: One sentence that says what was wrong.
        seen: The evidence: the value, the file, the line. Empty when there is none.
        fix: What to do next, as an instruction.
    """

    def __init__(self, what: str, *, seen: str = "", fix: str = "") -> None:
        what, seen, fix = visible(what), visible(seen), visible(fix)
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
