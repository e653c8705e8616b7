"""Numbers that are often mistaken: epsilons, factors, periods, distances, ranges, bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from .variant import Call, Variant, after, argument, given, is_number, of_first, operands, with_argument

EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-4, 1e-3, 1e-7, 0.0)
THETAS = (10000.0, 256.0, 500000.0, 1000000.0, 1000.0, 100.0)
"""Bases of rotary embeddings and longest periods of sinusoidal ones."""
RANGES = ((-1.0, 1.0), (0.0, 1.0))
WEIGHTS = (0.5, 1.0, 2.0)
_SMALL = 1e-2
_QUICK = 1.702
_CLOSE = 1e-9


def adds(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    numbers, tensors = operands(args)
    for i in numbers:
        if 0 < abs(args[i]) <= _SMALL:
            for value in EPSILONS:
                if value != args[i]:
                    yield Variant(f"an epsilon of {value:g} in place of {args[i]:g}", with_argument(i, value))
        elif args[i] == 1:
            yield Variant("no 1 added (x in place of 1 + x)", argument(1 - i))
        elif isinstance(args[i], int) and args[i]:
            yield Variant(f"no {args[i]} added", argument(1 - i))
    if len(tensors) == 2:
        for i in tensors:
            if args[i].shape == result.shape:
                yield Variant(f"the {'first' if i else 'second'} term of the sum left out", argument(i))
        yield Variant("a difference in place of the sum", lambda f, a, k: torch.sub(a[0], a[1]))
        yield Variant("the sum's sign changed (b - a)", lambda f, a, k: torch.sub(a[1], a[0]))


def subtracts(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    numbers, tensors = operands(args)
    if len(tensors) == 2:
        yield Variant("a sum in place of the difference", lambda f, a, k: torch.add(a[0], a[1]))
        yield Variant("the difference taken the other way round", lambda f, a, k: torch.sub(a[1], a[0]))
        if args[0].shape == result.shape:
            yield Variant("nothing subtracted", argument(0))
    for i in numbers:
        yield Variant(f"{args[i]:g} not subtracted", argument(1 - i))


def multiplies(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    numbers, tensors = operands(args)
    for i in numbers:
        value = float(args[i])
        yield Variant(f"the factor {value:g} left out", argument(1 - i))
        others = {1 / value, math.copysign(abs(value) ** 0.5, value), value * abs(value), -value} if value else set()
        for other in sorted(others - {value, 1.0}):
            yield Variant(f"a factor of {other:g} in place of {value:g}", with_argument(i, other))
        if 1.0 < value < 2.5 and value != _QUICK:
            yield Variant(f"a factor of {_QUICK:g} in place of {value:g}", with_argument(i, _QUICK))
        for words, other in _other_periods(value, args[1 - i] if tensors else None):
            yield Variant(words, with_argument(i, other))
    if len(tensors) == 2:
        yield Variant("1 added to the second factor (a * (1 + b))", lambda f, a, k: a[0] * (1 + a[1]))
        yield Variant("1 added to the first factor ((1 + a) * b)", lambda f, a, k: (1 + a[0]) * a[1])
        for i in tensors:
            if args[i].shape == result.shape:
                yield Variant(f"the {'first' if i else 'second'} factor left out", argument(i))


def _other_periods(value: float, steps: torch.Tensor | None) -> Iterator[tuple[str, float]]:
    """The exponent of sinusoidal frequencies, ``-log(period) / (n - shift)`` times 0 ... n - 1, or its numerator."""
    if steps is None or steps.ndim != 1:
        return
    count = steps.numel()
    divisors = {1: "", count: f" / {count}", count - 1: f" / {count - 1}"}
    for now in THETAS:
        for divisor, divided in divisors.items():
            if divisor < 1 or abs(abs(value) * divisor / math.log(now) - 1) > _CLOSE:
                continue
            was = f"log({now:g}){divided}"
            for other in THETAS:
                if other != now:
                    factor = math.copysign(math.log(other) / divisor, value)
                    yield f"a period of {other:g} in place of {now:g} (log({other:g}){divided}, not {was})", factor
            for instead in (count, count - 1):
                if divisor > 1 and instead not in (divisor, 0):
                    factor = math.copysign(math.log(now) / instead, value)
                    yield f"an exponent divided by {instead} in place of {divisor}", factor


def divides(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if len(args) < 2 or not is_number(args[1]) or not args[1]:
        return
    value = args[1]
    yield Variant(f"no division by {value:g}", argument(0))
    yield Variant(f"a product with {value:g} in place of the quotient", lambda f, a, k: a[0] * a[1])
    yield Variant(f"a division by {abs(value) ** 0.5:g}", lambda f, a, k: a[0] / abs(a[1]) ** 0.5)
    if value > 2 and value == int(value):
        for other in (int(value) + 1, int(value) - 1, 2 * int(value), int(value) // 2):
            yield Variant(f"a division by {other} in place of {value:g}", with_argument(1, other))
    size = round(math.exp(value)) if 0 < value < 20 else 0
    if size > 2 and abs(math.log(size) / value - 1) < _CLOSE:
        for other in (2 * size, size // 2, 4 * size, size // 4):
            if other > 1:
                words = f"a division by log({other}) in place of log({size})"
                yield Variant(words, with_argument(1, math.log(other)))


def powers(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if len(args) < 2:
        return
    base = 1 if "rpow" in str(getattr(function, "__name__", "")) else 0
    if is_number(args[base]):
        for theta in THETAS:
            if theta != args[base]:
                yield Variant(f"a base (theta) of {theta:g} in place of {args[base]:g}", with_argument(base, theta))


def ranges(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if not isinstance(result, torch.Tensor) or result.ndim != 1:
        return
    yield Variant("the range moved by one (from 1)", after(lambda value: value + 1), together=True)
    yield Variant("the range moved by one (from -1)", after(lambda value: value - 1), together=True)
    yield Variant("the range reversed", after(lambda value: value.flip(0)), together=True)


def bounds(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Values clamped to the range of a picture, to another one, or not at all."""
    now = (given(1, "min", args, kwargs), given(2, "max", args, kwargs))
    if args and isinstance(args[0], torch.Tensor):
        for low, high in RANGES:
            if now != (low, high) and is_number(now[0]) and is_number(now[1]):
                words = f"a clamp to [{low:g}, {high:g}] in place of [{now[0]:g}, {now[1]:g}]"
                yield Variant(words, of_first(partial(torch.clamp, min=low, max=high)))
        yield Variant("nothing clamped", argument(0))


def constants(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """A tensor made of one number: a weight of one half, of one."""
    data = given(0, "data", args, kwargs)
    if isinstance(data, (list, tuple)) and len(data) == 1 and isinstance(data[0], float) and data[0] in WEIGHTS:
        for value in WEIGHTS:
            if value != data[0]:
                words = f"[{value:g}] in place of [{data[0]:g}]"
                yield Variant(words, after(partial(torch.full_like, fill_value=value)))


def casts(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    narrow = isinstance(result, torch.Tensor) and result.dtype in (torch.bfloat16, torch.float16)
    if narrow and args[0].is_floating_point() and args[0].dtype.itemsize > result.dtype.itemsize:
        yield Variant(f"no cast to {str(result.dtype).removeprefix('torch.')}", argument(0))


def variances(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    for correction in (0, 1):
        rest = {"dim": kwargs.get("dim", args[1] if len(args) > 1 else None), "keepdim": kwargs.get("keepdim", False)}
        words = f"a variance divided by n{' - 1' if correction else ''}"
        yield Variant(words, of_first(partial(torch.var, correction=correction, **rest)))


def indices(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """The rows of a table that an embedding reads."""
    for step in (-1, 1, -2, 2):

        def change(f: Call, a: tuple[Any, ...], k: dict[str, Any], step: int = step) -> Any:
            return f(a[0] + step, *a[1:], **k)

        yield Variant(f"the indices moved by {step}", change)
