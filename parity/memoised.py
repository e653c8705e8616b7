"""Tables that code keeps once they are made (in a dictionary, by ``functools``), so that their making is run again."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .leaves import leaves

_LRU = type(functools.lru_cache(lambda: None))


class Memoised:
    """The dictionaries of tensors whose names say that they are caches, and the ``lru_cache`` functions that hold some.

    Those of the modules of a model's packages, and of the classes in these.

    Args:
        model: Its classes say which packages.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        packages = {type(module).__module__.partition(".")[0] for module in model.modules()} - {"torch", "builtins"}
        named = [
            pair
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] in packages
            for pair in list(getattr(module, "__dict__", {}).items())
        ]
        self.tables: list[dict[Any, Any]] = [
            value
            for key, value in named
            if isinstance(value, dict) and "cache" in key.lower() and _holds_tensors(value)
        ]
        inside = [value for _, kind in named if isinstance(kind, type) for value in list(vars(kind).values())]
        plain = [getattr(value, "__func__", value) for value in (*(value for _, value in named), *inside)]
        cached = [function for function in plain if _keeps_tensors(function)]
        self.functions: list[Any] = list({id(function): function for function in cached}.values())

    @contextmanager
    def forgotten(self) -> Iterator[None]:
        """In the block they are empty at first; at its end they hold what they held before it, or nothing.

        What a function of ``functools`` held cannot be put back: it is made again when it is asked for.
        """
        before = [dict(table) for table in self.tables]
        for table in self.tables:
            table.clear()
        for function in self.functions:
            function.cache_clear()
        try:
            yield
        finally:
            for function in self.functions:
                function.cache_clear()
            for table, kept in zip(self.tables, before, strict=True):
                table.clear()
                table.update(kept)


def _holds_tensors(table: dict[Any, Any]) -> bool:
    return bool(table) and all(any(True for _ in leaves(value)) for value in table.values())


def _keeps_tensors(function: Any) -> bool:
    """Whether it is an ``lru_cache`` that holds tensors; its results are found as the garbage collector finds them."""
    if not isinstance(function, _LRU) or not function.cache_info().currsize:
        return False
    held = gc.get_referents(function)
    results = [value for table in held if type(table) is dict for value in table.values()]  # of one without a limit
    return any(_has_tensor(value) for value in (*held, *results))


def _has_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (
        isinstance(value, (tuple, list)) and any(isinstance(item, torch.Tensor) for item in value)
    )
