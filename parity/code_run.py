"""Which functions and lines of some files run in a call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FunctionType


def functions_of(cls: type, files: set[str]) -> dict[CodeType, FunctionType]:
    """The functions of these files that a class has, those of its modules among them, by their code."""
    found: dict[CodeType, FunctionType] = {}
    for kind in cls.__mro__:
        home = sys.modules.get(kind.__module__)
        for value in (*vars(kind).values(), *(vars(home).values() if home else ())):
            function = _plain(value)
            if function is not None and function.__code__.co_filename in files:
                found[function.__code__] = function
    return found


def _plain(value: object) -> FunctionType | None:
    value = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
    while hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    return value if isinstance(value, FunctionType) else None


def lines_run(run: Callable[[], object], files: set[str]) -> dict[CodeType, set[int]]:
    """Which lines of the functions in some files run in a call."""
    found: dict[CodeType, set[int]] = {}

    def local(frame: object, event: str, _: object) -> object:
        found[frame.f_code].add(frame.f_lineno)  # type: ignore[attr-defined]
        return local

    def entered(frame: object, event: str, _: object) -> object:
        code = frame.f_code  # type: ignore[attr-defined]
        if code.co_filename not in files:
            return None
        found.setdefault(code, set())
        return local

    before = sys.gettrace()
    sys.settrace(entered)  # type: ignore[arg-type]
    try:
        run()
    finally:
        sys.settrace(before)
    return found
