"""Equal values in another order: which axes, or which halves, stand otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations

import torch

from .metrics import distance

_NAMES = {5: "B C T H W", 4: "B C H W", 3: "B L C"}
"""What the axes of latents, pictures and tokens usually are; only used to make an order readable."""
_MOST_AXES = 6


def reordering(port: torch.Tensor, official: torch.Tensor, tolerance: float) -> str | None:
    """How the port's tensor holds the official values in another order, in words.

    Args:
        port, official: Of the same number of elements; shapes may differ.
        tolerance: Relative L2 within which two orders count as equal.

    Returns:
        None when the values stand in the same order already, are other values, or no simple order makes them equal.
    """
    if port.numel() != official.numel() or port.numel() < 2:
        return None
    goal = official.detach().to(port.device, torch.float64)
    mine = port.detach().double()
    if _near(mine, goal, tolerance) or not _near(mine.flatten().sort().values, goal.flatten().sort().values, tolerance):
        return None
    for words, candidate in _orders(goal):
        if _near(mine, candidate, tolerance):
            return words
    return "in an order that is no permutation of axes and no interleaving of one axis"


def _orders(official: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    if official.dim() <= _MOST_AXES:
        for order in permutations(range(official.dim())):
            if order != tuple(range(official.dim())):
                yield f"with its axes in the order {_axes(order)}", official.permute(order)
    for axis in range(official.dim()):
        yield f"with axis {axis} reversed", official.flip(axis)
        size = official.shape[axis]
        for parts in (n for n in range(2, size) if size % n == 0):
            rest = size // parts
            cut = official.reshape(*official.shape[:axis], parts, rest, *official.shape[axis + 1 :])
            words = f"with axis {axis} (of {size}) interleaved: {parts} x {rest} became {rest} x {parts}"
            yield words, cut.transpose(axis, axis + 1)
    for axis in range(official.dim()):
        size = official.shape[axis]
        if size % 2 == 0:
            halves = official.chunk(2, axis)
            yield f"with the halves of axis {axis} exchanged", torch.cat([halves[1], halves[0]], axis)


def _axes(order: Sequence[int]) -> str:
    names = _NAMES.get(len(order))
    text = " ".join(map(str, order))
    if names is None:
        return text
    letters = names.split()
    return f"{text} ({' '.join(letters[axis] for axis in order)} in place of {names})"


def _near(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    error = distance(a.reshape(-1), b.reshape(-1)).relative_l2
    return not math.isnan(error) and error <= tolerance
