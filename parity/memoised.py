"""Tables that code keeps in a dictionary of its module once they are made, so that their making is run again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .leaves import leaves


class Memoised:
    """The dictionaries of tensors in the modules of a model's packages whose names say that they are caches.

    Args:
        model: Its classes say which packages.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        packages = {type(module).__module__.partition(".")[0] for module in model.modules()} - {"torch", "builtins"}
        self.tables: list[dict[Any, Any]] = [
            value
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] in packages
            for key, value in list(getattr(module, "__dict__", {}).items())
            if isinstance(value, dict) and "cache" in key.lower() and _holds_tensors(value)
        ]

    @contextmanager
    def forgotten(self) -> Iterator[None]:
        """In the block they are empty at first; at its end they hold what they held before it."""
        before = [dict(table) for table in self.tables]
        for table in self.tables:
            table.clear()
        try:
            yield
        finally:
            for table, kept in zip(self.tables, before, strict=True):
                table.clear()
                table.update(kept)


def _holds_tensors(table: dict[Any, Any]) -> bool:
    return bool(table) and all(any(True for _ in leaves(value)) for value in table.values())
