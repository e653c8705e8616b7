"""Nested inputs and outputs as a flat list of named tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


def leaves(value: Any, *, strict: bool = False) -> list[tuple[str, torch.Tensor]]:
    """Flatten ``value`` into ``(name, tensor)`` pairs in order.

    Mappings give ``key``, sequences ``[i]``, dataclasses their field names; nested names are joined with ``.``.
    ``None`` is left out, Python numbers become 0-d float64 tensors. A lone tensor is named ``""``.

    Args:
        value: Tensors in dicts, tuples, lists or dataclasses, to any depth.
        strict: Raise `TypeError` for anything that is neither a container nor a number, instead of leaving it out.
    """
    return list(_walk(value, "", strict))


def _walk(value: Any, name: str, strict: bool) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif value is None:
        return
    elif isinstance(value, (bool, int, float)):
        yield name, torch.tensor(float(value), dtype=torch.float64)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(item, f"{name}.{key}" if name else str(key), strict)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _walk(item, f"{name}[{index}]", strict)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _walk(getattr(value, field.name), f"{name}.{field.name}" if name else field.name, strict)
    elif strict:
        raise TypeError(f"{name or 'the output'} is a {type(value).__module__}.{type(value).__qualname__}")


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A copy of ``value`` in which every tensor ``t`` is ``change(t)``; containers are rebuilt, the rest is kept."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map_tensors(item, change) for item in value)
    if isinstance(value, list):
        return [map_tensors(item, change) for item in value]
    return value


def replace_leaf(value: Any, target: str, change: Callable[[torch.Tensor], torch.Tensor], name: str = "") -> Any:
    """A copy of ``value`` in which only the leaf called ``target`` is changed; every tensor is cloned."""
    if isinstance(value, torch.Tensor):
        return change(value.clone()) if name == target else value.clone()
    if isinstance(value, Mapping):
        return {
            key: replace_leaf(item, target, change, f"{name}.{key}" if name else str(key))
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        items = [replace_leaf(item, target, change, f"{name}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def swap_leaf(value: Any, target: str, tensor: torch.Tensor, name: str = "") -> Any:
    """``value`` with the leaf ``target`` replaced by ``tensor``, in that leaf's own shape and dtype.

    Tuples and mappings on the way to the leaf are made anew. Lists and dataclasses are changed in place, and what does
    not hold the leaf stays the same object: models pass caches and metadata around in them and write into them.
    """
    if isinstance(value, torch.Tensor):
        return tensor.to(value.device, value.dtype).reshape(value.shape) if name == target else value
    if isinstance(value, Mapping):
        changed = {
            key: swap_leaf(item, target, tensor, f"{name}.{key}" if name else str(key)) for key, item in value.items()
        }
        if all(changed[key] is item for key, item in value.items()):
            return value
        return changed if type(value) is dict else type(value)(**changed)
    if isinstance(value, (list, tuple)):
        items = [swap_leaf(item, target, tensor, f"{name}[{index}]") for index, item in enumerate(value)]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        if isinstance(value, list):
            value[:] = items
            return value
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        changed = {
            key: swap_leaf(item, target, tensor, f"{name}.{key}" if name else key) for key, item in inside.items()
        }
        different = {key: item for key, item in changed.items() if item is not inside[key]}
        if different and getattr(type(value), "__dataclass_params__").frozen:  # noqa: B009  (not in the stubs)
            return dataclasses.replace(value, **different)
        for key, item in different.items():
            setattr(value, key, item)
        return value
    return value
