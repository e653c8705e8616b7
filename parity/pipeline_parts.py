"""What a pipeline object consists of: its models, and the classes of everything in it that computes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch

from .conduct import class_file

_DEPTH = 4
_LEAVES = (str, bytes, int, float, complex, torch.Tensor, torch.dtype, torch.device, type, FunctionType, ModuleType)
_COMPUTES = ("__call__", "forward", "step")


class Parts:
    """The parts of a pipeline.

    Attributes:
        models: Path in the pipeline -> model, as one module; a path's dots are slashes.
        code: Class -> file of the pipeline, its stages, schedulers and whatever else in it can be called; tokenizers,
            which a port may share with the official code, are left out.
    """

    def __init__(self, pipeline: Any, adapter: Path) -> None:
        models: dict[str, torch.nn.Module] = {}
        self.code: dict[str, str] = {}
        home = str(adapter.resolve())
        for path, value in _reachable(pipeline, "", 0, set()):
            if isinstance(value, torch.nn.Module):
                models[f"pipeline/{path}".replace(".", "/").rstrip("/")] = value
            else:
                cls = type(value)
                file = _file(cls)
                if file and file != home and _computes(cls):
                    self.code[f"{cls.__module__}.{cls.__qualname__}"] = file
        self.models = torch.nn.ModuleDict(models)


def _reachable(value: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if value is None or isinstance(value, _LEAVES) or id(value) in seen or depth > _DEPTH:
        return
    seen.add(id(value))
    if isinstance(value, torch.nn.Module):
        yield path, value
        return
    if isinstance(value, Mapping):
        rows = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple, set)):
        rows = [(str(number), item) for number, item in enumerate(value)]
    else:
        yield path, value
        rows = list(getattr(value, "__dict__", {}).items())
        rows = [] if type(value).__module__.split(".")[0] in ("torch", "numpy", "tokenizers", "logging") else rows
    for name, item in rows:
        yield from _reachable(item, f"{path}.{name}" if path else name, depth + 1, seen)


def _computes(cls: type) -> bool:
    tokenizer = any("Tokenizer" in base.__name__ for base in cls.__mro__)
    return not tokenizer and any(callable(getattr(cls, name, None)) for name in _COMPUTES)


def _file(cls: type) -> str:
    if issubclass(cls, torch.nn.Module):
        return class_file(cls)
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return str(Path(file).resolve()) if file.endswith(".py") else ""
