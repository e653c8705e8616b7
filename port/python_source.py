"""Parsing Python that others wrote, from any thread."""

from __future__ import annotations

import ast
import threading
import warnings

_ONE = threading.Lock()


def parse_python(source: str | bytes) -> ast.Module:
    """The module's tree, without warnings of invalid escapes.

    One thread at a time: CPython 3.11 counts the depth of all trees being made in one place, and raises SystemError
    where the garbage collector lets another thread in (python/cpython issue 106905).

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: As `ast.parse`.
    """
    with _ONE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)
