"""Both sides' values: is this official tensor that port tensor, bit for bit?

The official side is at hand (its files) or known by digests only (it lives in another process); the questions are
the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import permutations

import torch

from .digests import constant, head, ordered, same, same_rounded, unordered
from .weights import Entry

Rows = tuple[int, int]


class Values:
    """Official entries and, where they are at hand, their values; the port's tensors.

    Args:
        official: By name; with digests unless ``official_values`` is given.
        official_values: Read when they are asked for, one at a time.
        port: The port's state dict.
    """

    def __init__(
        self,
        official: Mapping[str, Entry],
        official_values: Mapping[str, torch.Tensor] | None,
        port: Mapping[str, torch.Tensor],
    ) -> None:
        self.official = official
        self.at_hand = official_values
        self.port = port
        self._heads: dict[str, bytes] = {}
        self._port_heads: dict[str, bytes] = {}
        self._ordered: dict[str, str] = {}
        self._unordered: dict[str, str] = {}
        self._constants: dict[str, float | None] = {}
        self._port_constants: dict[str, float | None] = {}

    def shape(self, target: str) -> tuple[int, ...]:
        """Shape of a port tensor."""
        return tuple(self.port[target].shape)

    def on_meta(self, target: str) -> bool:
        """Whether a port tensor has no values."""
        return self.port[target].device.type == "meta"

    def ordered(self, target: str) -> str:
        """Digest of a port tensor's values in order, computed once."""
        if target not in self._ordered:
            self._ordered[target] = ordered(self.port[target])
        return self._ordered[target]

    def unordered(self, target: str) -> str:
        """The same whatever their order."""
        if target not in self._unordered:
            self._unordered[target] = unordered(self.port[target])
        return self._unordered[target]

    def official_constant(self, name: str) -> float | None:
        """The value that all elements of an official tensor have, or none."""
        if self.at_hand is None:
            return self.official[name].constant
        if name not in self._constants:
            self._constants[name] = constant(self.at_hand[name])
        return self._constants[name]

    def port_constant(self, target: str) -> float | None:
        """The same of a port tensor."""
        if target not in self._port_constants:
            self._port_constants[target] = None if self.on_meta(target) else constant(self.port[target])
        return self._port_constants[target]

    def equal(self, name: str, target: str) -> bool:
        """Whether a port tensor has the values of an official one, in the same order."""
        if self.on_meta(target) or math.prod(self.shape(target)) != self.official[name].elements:
            return False
        if self.at_hand is None:
            return self.ordered(target) == self.official[name].digest
        if target not in self._port_heads:
            self._port_heads[target] = head(self.port[target])
        return self._head(name) == self._port_heads[target] and same([self.at_hand[name]], [self.port[target]])

    def hold(self, name: str, parts: list[torch.Tensor], rows: Rows | None = None) -> bool:
        """Whether ``parts``, one after the other, have the values of an official tensor (or of some of its rows)."""
        if any(part.device.type == "meta" for part in parts):
            return False
        if self.at_hand is None:
            return rows is None and ordered(*parts) == self.official[name].digest
        if rows is None and parts[0].numel() >= 64 and self._head(name) != head(parts[0]):
            return False
        theirs = self.at_hand[name]
        return same([theirs if rows is None else theirs[rows[0] : rows[1]]], parts)

    def _head(self, name: str) -> bytes:
        assert self.at_hand is not None
        if name not in self._heads:
            self._heads[name] = head(self.at_hand[name])
        return self._heads[name]

    def twins(self, first: str, second: str) -> bool:
        """Whether two official tensors are one (tied weights that are stored twice)."""
        one, two = self.official[first], self.official[second]
        if one.shape != two.shape:
            return False
        if self.at_hand is None:
            return one.digest == two.digest
        return self._head(first) == self._head(second) and same([self.at_hand[first]], [self.at_hand[second]])

    def rounded(self, name: str, mine: torch.Tensor, dtype: torch.dtype) -> bool:
        """Whether ``mine`` is an official tensor rounded to ``dtype``; false where its values are not at hand."""
        return self.at_hand is not None and mine.device.type != "meta" and same_rounded(self.at_hand[name], mine, dtype)

    def places(self, name: str, target: str) -> Iterator[Rows]:
        """Rows of a port tensor that may be a whole official one: every offset, or multiples of its height."""
        shape, goal = self.official[name].shape, self.shape(target)
        if not shape or not shape[0] or len(shape) != len(goal) or shape[1:] != goal[1:] or self.on_meta(target):
            return
        height, last = shape[0], goal[0] - shape[0]
        if last < 0:
            return
        if self.at_hand is None:
            offsets = list(range(0, last + 1, height))
        else:
            mine = self.port[target]
            first = self.at_hand[name][:1].reshape(-1)[:8].to(mine.device)
            columns = mine[: last + 1].reshape(last + 1, -1)[:, : first.numel()]
            offsets = (columns == first).all(1).nonzero().flatten().tolist() if first.numel() else []
        for start in offsets[:64]:
            yield start, start + height

    def arrangement(self, name: str, target: str) -> str | None:
        """How an official tensor was rearranged into a port tensor of as many elements; none if it was not."""
        if self.on_meta(target) or self.official[name].elements != math.prod(self.shape(target)):
            return None
        if self.at_hand is None and self.official[name].bag != self.unordered(target):
            return None
        for how, parts in arrangements(self.port[target], self.official[name].shape):
            if self.hold(name, parts):
                return how
        return None

    def shuffled(self, name: str, target: str) -> bool:
        """Whether the same values are there in an order that no known rearrangement gives."""
        if self.on_meta(target) or self.official[name].elements != math.prod(self.shape(target)):
            return False
        theirs = self.official[name].bag if self.at_hand is None else unordered(self.at_hand[name])
        return theirs == self.unordered(target)


def arrangements(mine: torch.Tensor, shape: tuple[int, ...]) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """The usual ways in which an official tensor of ``shape`` becomes ``mine``: each with what undoes it.

    Each is a name and tensors that, read in row-major order one after the other, would be the official tensor.
    """
    goal = tuple(mine.shape)
    if goal != shape:
        yield "reshaped", [mine]
    if mine.ndim == 2 and goal[::-1] == shape:
        yield "transposed", [mine.t()]
    if len(shape) == 2 != mine.ndim and mine.is_contiguous():
        yield "transposed and reshaped", [mine.reshape(shape[1], shape[0]).t()]
    if 3 <= len(shape) <= 5:
        for order in permutations(range(len(shape))):
            permuted = tuple(shape[axis] for axis in order)
            same_shape = permuted == goal
            if order == tuple(range(len(shape))) or not (same_shape or len(goal) != len(shape)):
                continue
            back = tuple(order.index(axis) for axis in range(len(shape)))
            how = f"permuted ({','.join(map(str, order))})" + ("" if same_shape else " and reshaped")
            yield how, [mine.reshape(permuted).permute(back)]
    if goal and goal == shape:
        yield from _row_orders(mine)


def _row_orders(mine: torch.Tensor) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Two or three row blocks: swapped, or interleaved by heads on one side and stacked on the other."""
    rows, tail = mine.shape[0], mine.shape[1:]
    if rows % 2 == 0 and rows:
        yield "halves swapped", [mine[rows // 2 :], mine[: rows // 2]]
    for parts in (3, 2):
        if not rows or rows % parts:
            continue
        each = rows // parts
        for heads in (number for number in range(2, each + 1) if each % number == 0):
            stacked = mine.reshape(parts, heads, each // heads, *tail).transpose(0, 1)
            yield f"permuted: {parts} parts interleaved by {heads} heads arrive stacked", [stacked]
            mixed = mine.reshape(heads, parts, each // heads, *tail).transpose(0, 1)
            yield f"permuted: {parts} stacked parts arrive interleaved by {heads} heads", [mixed]


def interleaved(mine: torch.Tensor, parts: int) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """``mine`` as ``parts`` equal official tensors whose rows are interleaved by heads: number of heads, the parts."""
    rows, tail = mine.shape[0], mine.shape[1:]
    if parts < 2 or not rows or rows % parts:
        return
    each = rows // parts
    for heads in (number for number in range(2, each + 1) if each % number == 0):
        mixed = mine.reshape(heads, parts, each // heads, *tail)
        yield heads, [mixed[:, index] for index in range(parts)]
