"""Import a class by its dotted path, and choose the arguments that its functions take."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from .errors import ParityError


class NoSuchName(ParityError):
    """The module imports and has no such name: a path that is mistyped, or a class that is still to be written."""


def import_class(path: str) -> Any:
    """The object at ``package.module.Name``.

    Raises:
        ParityError: The module does not import.
        NoSuchName: It has no such name; the nearest are named.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ParityError(
            "The class is not named by its whole path.", seen=repr(path), fix="Write it as 'package.module.Class'."
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ParityError(
            f"The module of {name} does not import.",
            seen=f"{module_name}: {type(error).__name__}: {str(error)[:400]}",
            fix="Correct the path in the plan (write_plan), or repair the module: it has to import here.",
        ) from error
    if not hasattr(module, name):
        # Not vars(): a package that imports its names when they are asked for (diffusers) lists them in dir() alone.
        near = difflib.get_close_matches(name, dir(module), n=3, cutoff=0.5)
        raise NoSuchName(
            f"The module has no {name}.",
            seen=f"{module_name}; nearest: {', '.join(near) or 'nothing like it'}",
            fix="Correct the path in the plan (write_plan).",
        )
    return getattr(module, name)


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Named parameters of a function, without ``self`` and without ``*args`` and ``**kwargs``.

    Empty where Python knows no signature. A decorated ``__init__`` (diffusers' ``register_to_config``) is seen through.
    """
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: item for name, item in found.items() if name != "self" and item.kind not in skipped}


def accepted(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``values`` that ``function`` takes by name."""
    names = parameters(function)
    return {name: value for name, value in values.items() if name in names}
