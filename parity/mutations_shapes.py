"""Axes, their order, parts and places: what no check of shapes sees."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from .variant import Call, Variant, after, argument, given, of_first, op_name, set_to, swap_last, with_argument

PADDINGS = ("constant", "replicate", "reflect", "circular")
_MOST_AXES = 4


def parts(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Chunks in another order: scale and shift, query and key, halves of a gated unit."""
    if not isinstance(result, (tuple, list)) or not 2 <= len(result) <= 12:
        return
    if not all(isinstance(part, torch.Tensor) for part in result):
        return
    for i, j in itertools.combinations(range(len(result)), 2):
        if result[i].shape != result[j].shape:
            continue

        def change(f: Call, a: tuple[Any, ...], k: dict[str, Any], i: int = i, j: int = j) -> Any:
            pieces = list(f(*a, **k))
            pieces[i], pieces[j] = pieces[j], pieces[i]
            return tuple(pieces)

        yield Variant(f"parts {i} and {j} of the {op_name(function)} swapped", change)
    halves = len(result) == 2 and result[0].shape == result[1].shape and isinstance(args[0], torch.Tensor)
    if halves and args[0].shape[-1] == 2 * result[0].shape[-1]:
        yield Variant(
            "even and odd elements in place of the two halves",
            lambda f, a, k: (a[0][..., ::2], a[0][..., 1::2]),
            together=True,
        )


def joined(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    tensors = args[0] if args else kwargs.get("tensors")
    if isinstance(tensors, (tuple, list)) and 2 <= len(tensors) <= 4:
        for order in itertools.permutations(range(len(tensors))):
            if order == tuple(range(len(tensors))):
                continue

            def change(f: Call, a: tuple[Any, ...], k: dict[str, Any], order: tuple[int, ...] = order) -> Any:
                pieces = a[0] if a else k["tensors"]
                rest = {name: value for name, value in k.items() if name != "tensors"}
                return f([pieces[i] for i in order], *a[1:], **rest)

            yield Variant(f"the parts of the {op_name(function)} in the order {list(order)}", change)


def shapes(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Pairs of neighbours against halves, interleaved heads against stacked ones, rows against columns."""
    before, now = args[0].shape, result.shape
    if len(now) == len(before) + 1 and min(now[-2:]) > 1 and before[-1] == now[-1] * now[-2]:

        def split(f: Call, a: tuple[Any, ...], k: dict[str, Any]) -> Any:
            return swap_last(a[0].reshape(*now[:-2], now[-1], now[-2]))

        yield Variant("the last axis split the other way (neighbours against halves)", split, together=True)
    if len(before) == len(now) + 1 and min(before[-2:]) > 1 and now[-1] == before[-1] * before[-2]:

        def join(f: Call, a: tuple[Any, ...], k: dict[str, Any]) -> Any:
            return swap_last(a[0]).reshape(now)

        yield Variant("the last two axes joined the other way (neighbours against halves)", join, together=True)
    start, end = _changed_axes(before, now)
    for i, j in itertools.combinations(range(start, len(before) - end), 2):
        if len(before) > len(now) and min(before[i], before[j]) > 1:
            words = f"axes {i} and {j} exchanged before they are joined by the {op_name(function)}"
            yield Variant(words, lambda f, a, k, i=i, j=j: a[0].transpose(i, j).reshape(now))  # type: ignore[misc]
    made = range(start, len(now) - end)
    for i, j in itertools.combinations(made if len(made) <= _MOST_AXES else (), 2):
        if len(now) > len(before) and min(now[i], now[j]) > 1:
            other = list(now)
            other[i], other[j] = other[j], other[i]

            def columns(f: Call, a: Any, k: Any, i: int = i, j: int = j, other: list[int] = other) -> Any:
                return a[0].reshape(other).transpose(i, j)

            yield Variant(f"axes {i} and {j} made by the {op_name(function)} in the other order", columns)


def _changed_axes(before: torch.Size, now: torch.Size) -> tuple[int, int]:
    """How many axes at the front and at the end are the same."""
    shortest = min(len(before), len(now))
    front = next((i for i in range(shortest) if before[i] != now[i]), shortest)
    end = next((i for i in range(shortest - front) if before[-1 - i] != now[-1 - i]), shortest - front)
    return front, end


def items(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Every second element against halves; a slice that begins or ends elsewhere."""
    index = args[1] if len(args) > 1 else None
    if not isinstance(args[0], torch.Tensor) or args[0].ndim == 0:
        return
    place = index if isinstance(index, tuple) else (index,)
    if isinstance(result, torch.Tensor):  # none is returned where the slice is written to
        yield from _every_second(args[0], place, result)
    if all(part is None or part is Ellipsis or isinstance(part, (slice, int)) for part in place):
        yield from _other_slices(args[0], place)


def _every_second(value: torch.Tensor, place: tuple[Any, ...], result: torch.Tensor) -> Iterator[Variant]:
    last, width = place[-1], value.shape[-1]
    if not isinstance(last, slice) or width % 2 or result.shape[-1:] != (width // 2,):
        return
    first = (last.start or 0) == 0
    other = slice(None, width // 2) if last.step == 2 else slice(0, None, 2)
    if not first:
        other = slice(width // 2, None) if last.step == 2 else slice(1, None, 2)
    words = "halves in place of every second element" if last.step == 2 else "every second element in place of halves"
    yield Variant(words, with_argument(1, (*place[:-1], other)), together=True)


def _other_slices(value: torch.Tensor, place: tuple[Any, ...]) -> Iterator[Variant]:
    if Ellipsis in [part for part in place if not isinstance(part, slice)]:
        return
    axis = 0
    for number, part in enumerate(place):
        if part is None:
            continue
        size, axis = value.shape[axis], axis + 1
        if not isinstance(part, slice) or part.step not in (None, 1) or part == slice(None):
            continue
        start, stop, _ = part.indices(size)
        if isinstance(part.start, int) and part.start < 0 and part.stop is None:
            for count in (-part.start + 1, -part.start - 1):
                if 0 < count <= size:
                    new = (*place[:number], slice(-count, None), *place[number + 1 :])
                    words = f"the last {count} in place of the last {-part.start} along axis {axis - 1}"
                    yield Variant(words, with_argument(1, new))
        others = {(start - 1, stop - 1), (start + 1, stop + 1)}
        if start == 0:
            others |= {(0, 2 * stop), (0, stop // 2), (size - stop, size)}
        if stop == size:
            others |= {(0, size - start)}
        for low, high in sorted(others):
            if 0 <= low < high <= size and (low, high) != (start, stop):
                new = (*place[:number], slice(low, high), *place[number + 1 :])
                words = f"[{low}:{high}] in place of [{start}:{stop}] along axis {axis - 1}"
                yield Variant(words, with_argument(1, new))


def axes(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Axes of one size in another order, or left where they are, or only renamed."""
    for i, j in itertools.combinations(range(result.ndim), 2):
        if result.shape[i] == result.shape[j] > 1:
            yield Variant(
                f"axes {i} and {j} of the {op_name(function)} swapped",
                after(partial(torch.transpose, dim0=i, dim1=j)),
            )
    shape = result.shape
    if sum(size > 1 for size in shape) > 1:
        yield Variant(f"no {op_name(function)}", argument(0))
        yield Variant(
            f"a reshape to the same shape in place of the {op_name(function)}", of_first(lambda x: x.reshape(shape))
        )


def sums(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """The axes of an einsum's result, where two are as long, in another order."""
    if not args or not isinstance(args[0], str):
        return
    for i, j in itertools.combinations(range(result.ndim), 2):
        if result.shape[i] == result.shape[j] > 1:
            words = f"axes {i} and {j} of the result of {args[0]!r} swapped"
            yield Variant(words, after(partial(torch.transpose, dim0=i, dim1=j)))


def repeats(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    grown = [d for d in range(min(args[0].ndim, result.ndim)) if result.shape[d] != args[0].shape[d]]
    if args[0].ndim != result.ndim or len(grown) != 1:
        return
    dim, times = grown[0], result.shape[grown[0]] // args[0].shape[grown[0]]
    if op_name(function) == "repeat_interleave":
        tiles = [times if d == dim else 1 for d in range(result.ndim)]
        yield Variant("repeat in place of repeat_interleave", lambda f, a, k: a[0].repeat(tiles), together=True)
    else:
        yield Variant(
            "repeat_interleave in place of repeat",
            lambda f, a, k: a[0].repeat_interleave(times, dim=dim),
            together=True,
        )


def paddings(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """The same amount of padding on the other side or on one side only; other values."""
    now, mode = given(1, "pad", args, kwargs), given(2, "mode", args, kwargs, "constant")
    pairs = list(zip(now[::2], now[1::2], strict=True))
    seen = [pairs]
    for number, (low, high) in enumerate(pairs):
        total = low + high
        for pair in ((total, 0), (0, total), (total // 2, total - total // 2)):
            seen.append([*pairs[:number], pair, *pairs[number + 1 :]])
    seen.append([(high, low) for low, high in pairs])
    for place, other in enumerate(seen):
        if other not in seen[:place]:
            flat = [size for pair in other for size in pair]
            yield Variant(f"a padding of {flat} in place of {list(now)}", set_to(1, "pad", flat))
    for kind in PADDINGS:
        if kind != mode:

            def change(f: Call, a: tuple[Any, ...], k: dict[str, Any], kind: str = kind) -> Any:
                return f(a[0], now, mode=kind)

            yield Variant(f"padding by {kind!r} in place of {mode!r}", change)
