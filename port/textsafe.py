"""Text that came from outside, made safe to stand inside Markdown that a model or a person reads.

Nothing here judges what a text says. It takes away what cannot be seen (escape sequences, format and direction
characters) and puts the rest where Markdown cannot be closed from inside.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from .errors import PortError

MAX_ARGUMENT = 8000
"""Longest free text, in characters, that is accepted for a template."""

# CSI (ESC [ ... final), OSC (ESC ] ... BEL or ST), other string sequences, two-byte escapes; then the C1 forms.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]?|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)|\x1b[ -/]*[0-~]?|\x9b[0-?]*[ -/]*[@-~]?",
    re.DOTALL,
)
_VARIATION_SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))


def clean(text: str) -> str:
    """``text`` without escape sequences, control, zero-width, bidirectional and other invisible characters.

    Line breaks become ``\\n``, tabs stay; everything that can be seen stays as it was.
    """
    text = _ESCAPES.sub("", text)
    text = re.sub("\r\n?|\u2028|\u2029|\x85|\x0b|\x0c", "\n", text)
    return "".join(char for char in text if char in "\n\t" or not _invisible(char))


def _invisible(char: str) -> bool:
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return True
    return any(ord(char) in block for block in _VARIATION_SELECTORS)


def clean_argument(name: str, text: str) -> str:
    """``text`` cleaned and stripped, for the argument called ``name``.

    Raises:
        PortError: The text is longer than MAX_ARGUMENT.
    """
    if len(text) > MAX_ARGUMENT:
        raise PortError(
            f"{name} is too long.",
            seen=f"{len(text)} characters",
            fix=f"Shorten it to {MAX_ARGUMENT} characters; put long material into a file and name the file.",
        )
    return clean(text).strip()


def one_line(text: str) -> str:
    """``text`` cleaned, with every run of white space as one space."""
    return " ".join(clean(text).split())


def sentences(texts: Iterable[str]) -> str:
    """``texts`` one after the other, each ended, so that none runs into the next."""
    trimmed = (text.strip() for text in texts)
    return " ".join(text if text.endswith((".", "!", "?", "…")) else f"{text}." for text in trimmed if text)


def _longest_run(text: str, char: str) -> int:
    return max((len(run) for run in re.findall(re.escape(char) + "+", text)), default=0)


def inline_code(text: str) -> str:
    """``text`` as a Markdown code span that its own backticks cannot close."""
    line = one_line(text) or "(empty)"
    ticks = "`" * (_longest_run(line, "`") + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def fenced(text: str, info: str = "text") -> str:
    """``text`` as a fenced Markdown block that its own fences cannot close."""
    body = clean(text).strip("\n")
    fence = "`" * max(3, _longest_run(body, "`") + 1)
    return f"{fence}{info}\n{body}\n{fence}"


def quoted(text: str) -> str:
    """``text`` as a Markdown block quote: whatever it opens ends with the quote."""
    return "\n".join(f"> {line}".rstrip() for line in clean(text).strip().split("\n"))


def bullet(text: str) -> str:
    """``text`` as the content of one list item; it cannot begin with a checkbox."""
    line = one_line(text)
    return f"\\{line}" if line.startswith("[") else line


def cell(text: str) -> str:
    """``text`` as one cell of a Markdown table: a line that neither splits the row nor opens markup."""
    return re.sub(r"([\\|`*_<>\[\]~])", r"\\\1", one_line(text))


REDACTED = "(redacted)"
_SECRETS = re.compile(
    r"\bhf_[A-Za-z0-9]{8,}|\b(?:gh[pousr]_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{16,}"
    r"|(?<=://)[^/\s]+(?=@)"  # up to the last @: `user@token@host` is one user name
    r"|(?i:(?<=bearer )\S{8,})"
)
_QUERY = re.compile(r"([?&][\w-]*(?:token|secret|passw|key|auth|sig)[\w-]*=)[^\s&#'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """``text`` with access tokens, and the credentials of URLs also in their queries, replaced by ``(redacted)``."""
    return _QUERY.sub(rf"\1{REDACTED}", _SECRETS.sub(REDACTED, text))
