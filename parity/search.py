"""Find official tensors in the port by their values alone: whole, as rows, split, rearranged, tied."""

from __future__ import annotations

import math
from collections import defaultdict

import torch

from .mapping import Finding
from .proof import Link, Proof
from .suggest import Place
from .values import Rows, Values


class Search:
    """What is known so far of where official tensors are, and the search for the rest."""

    def __init__(self, values: Values, asked: torch.dtype, unused: frozenset[str]) -> None:
        self.values = values
        self.official = values.official
        self.port = values.port
        self.asked = asked
        self.declared = unused
        self.proof = Proof()
        self.fed: set[str] = set()
        self.explained: set[str] = set()
        self.places: list[Place] = []
        self.remarks: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        self._by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, item in self.official.items():
            self._by_shape[item.shape].append(name)
        self._port_by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for target in self.port:
            self._port_by_shape[values.shape(target)].append(target)

    def arrived(self, name: str, target: str, rows: Rows | None, how: str, part: Rows | None = None) -> None:
        self.proof.links.append(Link(name, target, rows, how, part))
        self.explained.add(name)
        self.fed.add(target)

    def spent(self, name: str, target: str) -> None:
        """Both are accounted for by a finding."""
        self.explained.add(name)
        self.fed.add(target)

    def add(self, code: str, message: str, *names: str, wrong: str = "") -> None:
        self.proof.findings.append(Finding(code, message, names, wrong=wrong))

    def rounded(self, name: str, target: str, rows: Rows | None = None) -> bool:
        """Whether the tensor is the official one rounded to the dtype that was asked for: a remark, no damage."""
        mine = self.port[target] if rows is None else self.port[target][rows[0] : rows[1]]
        if not self.values.rounded(name, mine, self.asked):
            return False
        dtype = str(self.asked).removeprefix("torch.")
        self.remarks["cast-loses-bits", dtype].append((name, target))
        self.arrived(name, target, rows, f"rounded to {dtype}")
        return True

    def reshaped(self, name: str, target: str) -> bool:
        """Whether the tensor had to change its shape and did so in a known way."""
        how = self.values.arrangement(name, target)
        if how is None:
            return False
        self.remarks["rearranged", how].append((name, target))
        self.arrived(name, target, None, how)
        return True

    def waiting(self) -> list[str]:
        """Official tensors that nothing explains yet."""
        return [name for name in self.official if name not in self.explained]

    def free(self) -> list[str]:
        """Port tensors that nothing feeds yet."""
        return [target for target in self.port if target not in self.fed]

    def _constant(self, name: str) -> bool:
        return self.values.official_constant(name) is not None

    def by_value(self) -> None:
        """Find what the rules do not explain (encoders load through their own code): whole, rows, split, rearranged."""
        for name in self.waiting():
            found = [t for t in self._port_by_shape[self.official[name].shape] if t not in self.fed]
            found = [target for target in found if self.values.equal(name, target)]
            best = max(found, key=lambda target: _alike(name, target), default=None)
            telling = best is not None and (self.values.official_constant(name) is None or _alike(name, best) > 0)
            if best is not None and telling and not (name in self.declared and self._constant(name)):
                self.arrived(name, best, None, "value")
        by_tail: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name in self.waiting():
            if self.official[name].shape and name not in self.declared:
                by_tail[self.official[name].shape[1:]].append(name)
        for target in self.free():
            names = [n for n in by_tail.get(self.values.shape(target)[1:], []) if n not in self.explained]
            if self.values.shape(target) and names and not self.values.on_meta(target):
                self.some_rows(target, sorted(names, key=lambda name: -_alike(name, target)))
        for name in self.waiting():
            self.split(name)
        for name in self.waiting():
            if not self._constant(name) and self.official[name].elements > 1:
                size = self.official[name].elements
                for target in sorted(self.free(), key=lambda target: -_alike(name, target)):
                    fits = math.prod(self.values.shape(target)) == size and _alike(name, target) > 0
                    if fits and (self.reshaped(name, target) or self.rounded(name, target)):
                        break
        whole = [link for link in self.proof.links if link.rows is None and link.part is None]
        for name in self.waiting():
            tied = next((link for link in whole if self.values.twins(name, link.official)), None)
            if tied is not None and not self._constant(name):
                self.arrived(name, tied.port, None, "tied")

    def some_rows(self, target: str, names: list[str]) -> bool:
        """Find official tensors in rows of a port tensor, and name the rows that hold nothing official."""
        height = self.values.shape(target)[0]
        spans = self._located(target, [name for name in names if not self._constant(name)], [])
        # A constant is told by nothing but its place: it counts only where it fills the last gap.
        bland = [name for name in names if self._constant(name) and _alike(name, target) > 0]
        filled = self._located(target, bland, spans)
        if sum(b - a for (a, b), _ in filled) == height:
            spans = filled
        if not spans:
            return False
        spans.sort()
        for span, name in spans:
            self.arrived(name, target, span, "value")
        edges = [0, *(edge for span, _ in spans for edge in span), height]
        gaps = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
        if not gaps:
            return True
        if len(spans) == 1 and gaps == [(spans[0][0][1], height)] and self._zeros(target, gaps[0]):
            message = f"{target!r} is {spans[0][1]!r} with {height - gaps[0][0]} rows added at its end."
            self.proof.findings.append(Finding("padded", message, (spans[0][1], target), fatal=False))
            return True
        held = ", ".join(f"{name!r} in {a}:{b}" for (a, b), name in spans)
        empty = ", ".join(f"{a}:{b}" + (" (zeros)" if self._zeros(target, (a, b)) else "") for a, b in gaps)
        message = (
            f"Rows {empty} of {target!r} hold nothing official: a part was never written (uninitialised memory or "
            f"initial values). What arrived: {held}."
        )
        self.add("rows-unfilled", message, target, *(name for _, name in spans), wrong=target)
        return True

    def _located(self, target: str, names: list[str], spans: list[tuple[Rows, str]]) -> list[tuple[Rows, str]]:
        """``spans`` and the rows of ``target`` that hold one of ``names`` as well, without an overlap."""
        found = list(spans)
        for name in names:
            if sum(b - a for (a, b), _ in found) == self.values.shape(target)[0]:
                break
            for start, end in self.values.places(name, target):
                clash = any(start < b and a < end for (a, b), _ in found)
                if not clash and self.values.hold(name, [self.port[target][start:end]]):
                    found.append(((start, end), name))
                    break
        return found

    def _zeros(self, target: str, rows: Rows) -> bool:
        return not bool(self.port[target][rows[0] : rows[1]].any())

    def split(self, name: str) -> None:
        """Find an official tensor whose rows are several port tensors, one after the other."""
        shape = self.official[name].shape
        if not shape or self._constant(name):
            return
        shapes = {target: self.values.shape(target) for target in self.free()}
        goals = [t for t, other in shapes.items() if other and other[1:] == shape[1:] and 0 < other[0] < shape[0]]
        goals.sort(key=lambda target: -_alike(name, target))
        parts = self._split_by_digest(name, goals) if self.values.at_hand is None else self._split(name, goals)
        if not parts:
            return
        start = 0
        for target in parts:
            rows = (start, start + self.values.shape(target)[0])
            start = rows[1]
            self.arrived(name, target, None, f"split rows {rows[0]}:{rows[1]}", rows)

    def _split(self, name: str, goals: list[str]) -> list[str]:
        start, parts = 0, []
        height = self.official[name].shape[0]
        while start < height:
            for target in goals:
                end = start + self.values.shape(target)[0]
                if target not in parts and end <= height and self.values.hold(name, [self.port[target]], (start, end)):
                    parts.append(target)
                    start = end
                    break
            else:
                return []
        return parts

    def _split_by_digest(self, name: str, goals: list[str]) -> list[str]:
        """Neighbours in the port's own order (q, k, v): of a tensor known by its digest no part can be read."""
        order = [target for target in self.port if target in goals]
        for begin in range(len(order)):
            rows = 0
            for end in range(begin, len(order)):
                rows += self.values.shape(order[end])[0]
                if rows > self.official[name].shape[0]:
                    break
                chosen = order[begin : end + 1]
                if rows == self.official[name].shape[0] and self.values.hold(name, [self.port[t] for t in chosen]):
                    return chosen
        return []


def _alike(one: str, other: str) -> int:
    """How many parts two dotted names share."""
    return len(set(one.split(".")) & set(other.split(".")))
