"""Python code of others as a syntax tree."""

from __future__ import annotations

import ast
import threading

_ONE = threading.Lock()
"""CPython 3.11 raises SystemError where two threads make trees (python/cpython issue 106905)."""


def parsed(text: str) -> ast.Module:
    """The tree of ``text``, made by one thread at a time.

    Raises:
        SyntaxError, ValueError: It is no Python.
    """
    with _ONE:
        return ast.parse(text)
