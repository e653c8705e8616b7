"""Has anything that a side's measurement rests on been replaced since the side began?

An adapter runs in the process that measures it. The verdict is reached elsewhere, but outputs, traces and proofs are
made here; so what makes them is noted before the adapter is imported, and looked at again at the end. A change that
is taken back in time cannot be seen in this way.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

_TORCH = str(Path(torch.__file__).parent)
_WATCHED: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        torch,
        ("save", "load", "manual_seed", "no_grad", "isfinite", "equal", "where", "zeros", "stack", "randn"),
    ),
    (
        torch.Tensor,
        ("norm", "abs", "square", "sum", "to", "clone", "detach", "double", "contiguous", "cpu", "copy_", "numpy"),
    ),
    (
        torch.nn.Module,
        ("__call__", "_call_impl", "named_modules", "named_parameters", "named_buffers", "state_dict", "eval", "double",
         "register_forward_hook", "register_forward_pre_hook"),
    ),
    (torch.autograd, ("grad",)),
    (np, ("abs", "array", "bincount", "frombuffer", "isfinite", "save", "load", "take_along_axis", "where")),
    (safetensors.torch, ("save_file", "load_file")),
    (hashlib, ("sha256", "blake2b")),
    (json, ("dumps", "loads")),
    (time, ("monotonic", "time", "sleep")),
    (Path, ("read_text", "write_text", "read_bytes", "write_bytes", "open", "replace")),
)  # fmt: skip


_TORCH = str(Path(torch.__file__).parent)


class Seal:
    """What the engine consists of at one moment."""

    def __init__(self) -> None:
        self._noted = dict(_state())

    def broken(self) -> list[str]:
        """Names of what is no longer what it was, sorted; empty when nothing was touched."""
        now = dict(_state())
        return sorted(name for name, value in self._noted.items() if now.get(name) != value)


def _state() -> Iterator[tuple[str, Any]]:
    for owner, names in _WATCHED:
        for name in names:
            yield f"{owner.__name__}.{name}", _origin(getattr(owner, name))
    prefix = __package__ + "."
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith(prefix) or module is None:
            continue
        short = module_name.removeprefix(prefix)
        for name, value in list(vars(module).items()):
            if name.startswith("__"):
                continue
            yield f"parity.{short}.{name}", _mark(value)
            if isinstance(value, type) and value.__module__ == module_name:
                for key, member in list(vars(value).items()):
                    if isinstance(member, (types.FunctionType, property, staticmethod, classmethod)):
                        yield f"parity.{short}.{name}.{key}", _mark(member)


def _origin(function: Any) -> Any:
    """The function itself, or just "torch": torch.compile wraps some of torch's functions when it is first imported."""
    code = getattr(function, "__code__", None)
    return "torch" if code is not None and code.co_filename.startswith(_TORCH) else _mark(function)


def _mark(value: Any) -> Any:
    """Something that is equal as long as ``value`` is the same; functions also count by their code and defaults."""
    if isinstance(value, types.FunctionType) and value.__code__.co_filename.startswith(_TORCH):
        value = inspect.unwrap(value)  # torch._dynamo, when it is first imported, wraps torch.manual_seed
    if isinstance(value, types.FunctionType):
        return id(value), id(value.__code__), repr(value.__defaults__)
    if isinstance(value, (bool, int, float, str, bytes, tuple, frozenset)):
        return repr(value)
    if isinstance(value, dict):
        return id(value), [(repr(key), id(item)) for key, item in value.items()]
    return id(value)
