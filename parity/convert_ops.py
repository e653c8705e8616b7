"""What a conversion rule may do with a tensor: views of it where torch can, and the shape that comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .errors import ParityError

KINDS = ("transpose", "permute", "reshape", "cast")
DTYPES = {
    "float32": "float32", "fp32": "float32", "float16": "float16", "fp16": "float16", "bfloat16": "bfloat16",
    "bf16": "bfloat16", "float64": "float64",
}  # fmt: skip


@dataclass(frozen=True)
class Op:
    """One step: ``kind`` and its numbers, or for a cast the dtype's name."""

    kind: str
    numbers: tuple[int, ...] = ()
    dtype: str = ""


def read_ops(table: Mapping[str, Any], place: str) -> tuple[Op, ...]:
    """The steps of a rule: one of ``transpose``, ``permute``, ``reshape``, ``cast``, or a list ``ops`` of such.

    Raises:
        ParityError: A step has an unknown form, or several stand beside each other without an order.
    """
    single = [kind for kind in KINDS if kind in table]
    if len(single) > 1 or (single and "ops" in table):
        raise ParityError(
            "A rule has several steps without an order.",
            seen=f"{place}: {', '.join([*single, *(['ops'] if 'ops' in table else [])])}",
            fix='Write them in their order: "ops": [{"reshape": [...]}, {"permute": [...]}].',
        )
    rows = table.get("ops", [{kind: table[kind]} for kind in single])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and len(row) == 1 for row in rows):
        raise _bad(place, rows)
    steps = [next(iter(row.items())) for row in rows]
    return tuple(_op(kind, value, place) for kind, value in steps)


def _op(kind: str, value: Any, place: str) -> Op:
    if kind == "cast" and isinstance(value, str) and value in DTYPES:
        return Op("cast", dtype=DTYPES[value])
    numbers = isinstance(value, list) and all(type(item) is int for item in value) and len(value) <= 16
    if kind not in ("transpose", "permute", "reshape") or not numbers:
        raise _bad(place, {kind: value})
    if kind == "transpose" and len(value) != 2:
        raise _bad(place, {kind: value})
    if kind == "permute" and sorted(value) != list(range(len(value))):
        raise _bad(place, {kind: value})
    if kind == "reshape" and (value.count(-1) > 1 or any(size < -1 or size == 0 for size in value)):
        raise _bad(place, {kind: value})
    return Op(kind, tuple(value))


def _bad(place: str, seen: object) -> ParityError:
    return ParityError(
        "A step of a rule has an unknown form.",
        seen=f"{place}: {seen!r:.200}",
        fix='Use {"transpose": [0, 1]}, {"permute": [1, 0, 2]}, {"reshape": [8, -1]} or {"cast": "bfloat16"}.',
    )


def shape_after(shape: tuple[int, ...], ops: Sequence[Op]) -> tuple[int, ...] | str:
    """The shape behind the steps, or a sentence that says why one of them cannot be done."""
    for op in ops:
        if op.kind == "transpose":
            first, second = op.numbers
            if not (0 <= first < len(shape) and 0 <= second < len(shape)):
                return f"transpose {list(op.numbers)} of shape {list(shape)}"
            sizes = list(shape)
            sizes[first], sizes[second] = sizes[second], sizes[first]
            shape = tuple(sizes)
        elif op.kind == "permute":
            if len(op.numbers) != len(shape):
                return f"permute {list(op.numbers)} of shape {list(shape)}"
            shape = tuple(shape[axis] for axis in op.numbers)
        elif op.kind == "reshape":
            known = math.prod(size for size in op.numbers if size != -1)
            total = math.prod(shape)
            fits = total % known == 0 if -1 in op.numbers else total == known
            if not fits:
                return f"reshape {list(op.numbers)} of shape {list(shape)}"
            shape = tuple(total // known if size == -1 else size for size in op.numbers)
    return shape


def dtype_after(dtype: str, ops: Sequence[Op]) -> str:
    """The dtype behind the steps; integers are not cast."""
    for op in ops:
        if op.kind == "cast" and (dtype.startswith(("float", "bfloat")) and not dtype.startswith("float8")):
            dtype = op.dtype
    return dtype


def rearranged(tensor: torch.Tensor, ops: Sequence[Op]) -> torch.Tensor:
    """``tensor`` behind all steps but casts; a view as far as torch has one."""
    for op in ops:
        if op.kind == "transpose":
            tensor = tensor.transpose(*op.numbers)
        elif op.kind == "permute":
            tensor = tensor.permute(op.numbers)
        elif op.kind == "reshape":
            tensor = tensor.reshape(op.numbers)
    return tensor


def undone(tensor: torch.Tensor, shape: tuple[int, ...], ops: Sequence[Op]) -> torch.Tensor:
    """The tensor of ``shape`` that the steps made ``tensor`` of: each step's inverse, the last first."""
    shapes = [shape]
    for op in ops:
        after = shape_after(shapes[-1], (op,))
        assert not isinstance(after, str)
        shapes.append(after)
    for op, before in zip(reversed(ops), reversed(shapes[:-1]), strict=True):
        if op.kind == "transpose":
            tensor = tensor.transpose(*op.numbers)
        elif op.kind == "permute":
            tensor = tensor.permute([op.numbers.index(axis) for axis in range(len(op.numbers))])
        elif op.kind == "reshape":
            tensor = tensor.reshape(before)
    return tensor
