"""Tokens out of everything that a run says."""

from __future__ import annotations

import os

from ..port import textsafe
from .launch import is_secret

_SHORTEST = 8


def redact(text: str) -> str:
    """``text`` without what looks like a token (``textsafe.redact``) and without this process's own secrets.

    The environment counts by name (see ``is_secret``); values under 8 characters are too common to be looked for.
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and is_secret(name):
            text = text.replace(value, textsafe.REDACTED)
    return textsafe.redact(text)
