"""Tokens out of everything that a run says."""

from __future__ import annotations

import os
import re

from .launch import is_secret

_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{8,}|\bgh[pousr]_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
    r"|(?i:(?<=bearer )\S{8,})"
)
_SHORTEST = 8


def redact(text: str) -> str:
    """``text`` with ``[token removed]`` for what looks like a token and for every secret of this process's environment.

    The environment counts by name (see ``is_secret``); values under 8 characters are too common to be looked for.
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and is_secret(name):
            text = text.replace(value, "[token removed]")
    return _SHAPES.sub("[token removed]", text)
