"""What an adapter changes inside of the models that it only has to load and call."""

from __future__ import annotations

import sys
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .adapter import MODULE_NAME


class Meddling:
    """Notes attributes of modules that code of the adapter's file sets to another value.

    A module's own code, a loader or torch may set what they like; wrappers that the adapter defines are its own.
    """

    def __init__(self, adapter: Path) -> None:
        self.adapter = str(adapter.resolve())
        self._set: list[tuple[weakref.ref[torch.nn.Module], str, str]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs."""
        kind: Any = torch.nn.Module
        known = kind.__setattr__

        def setattr_(part: torch.nn.Module, name: str, value: Any) -> None:
            if sys._getframe(1).f_code.co_filename == self.adapter:
                self._note(part, name, value)
            known(part, name, value)

        kind.__setattr__ = setattr_
        try:
            yield
        finally:
            kind.__setattr__ = known

    def _note(self, part: torch.nn.Module, name: str, value: Any) -> None:
        missing = object()
        before = getattr(part, name, missing)
        plain = (bool, int, float, str, tuple, type(None))
        same = before is value or (isinstance(value, plain) and isinstance(before, plain) and before == value)
        if before is missing or same or name == "forward" or type(part).__module__ == MODULE_NAME:
            return
        self._set.append((weakref.ref(part), name, f" from {before} to {value}" if isinstance(value, plain) else ""))

    def in_model(self, model: torch.nn.Module) -> list[str]:
        """What was set in parts of ``model``, a phrase each."""
        names = {id(part): name for name, part in model.named_modules()}
        rows = [(ref(), name, change) for ref, name, change in self._set]
        return [
            f"{name} of {names[id(part)] or 'the model'} set{change[:80]}"
            for part, name, change in rows
            if part is not None and id(part) in names
        ]

    def in_code(self, model: torch.nn.Module) -> list[str]:
        """Functions and classes of the adapter that stand in the modules and classes that the model is made of."""
        found: dict[str, None] = {}
        classes = {cls for part in model.modules() for cls in type(part).__mro__ if cls.__module__ != MODULE_NAME}
        homes = {cls.__module__ for cls in classes} | {"torch", "torch.nn.functional"}
        owners = [(cls.__qualname__, dict(vars(cls))) for cls in classes]
        owners += [(home, dict(vars(sys.modules[home]))) for home in homes if home in sys.modules]
        for owner, members in sorted(owners, key=lambda row: row[0]):
            for name, value in members.items():
                if name != "forward" and self._mine(value):
                    found[f"{owner}.{name}"] = None
        return list(found)

    def _mine(self, value: Any) -> bool:
        if isinstance(value, types.FunctionType):
            return value.__code__.co_filename == self.adapter
        return isinstance(value, type) and value.__module__ == MODULE_NAME
