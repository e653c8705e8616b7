"""Where each official tensor arrived: first where the rules say, then wherever its values are."""

from __future__ import annotations

import math
from collections import defaultdict

import torch

from .fit import nearest
from .mapping import Finding, Plan, Source
from .proof import Link, Proof
from .suggest import Place, suggest
from .values import Rows, Values, interleaved

ZERO_FILLED = ("gate_compress", "proj_l")
"""Parts of names whose tensors FastVideo's loader fills with zeros, also in a strict load, when nothing feeds them."""


class Prover:
    """Builds a `Proof`."""

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

    def add(self, code: str, message: str, *names: str) -> None:
        self.proof.findings.append(Finding(code, message, names))

    # Where the rules say

    def by_rules(self, plan: Plan) -> None:
        for target, sources in plan.targets.items():
            if target not in self.port:
                continue
            if sources[0].index is not None:
                self.merge(target, sources)
            else:
                # With two sources the loader keeps the last one; the collision itself is the plan's finding.
                self.single(sources[-1].name, target)

    def single(self, name: str, target: str) -> None:
        theirs, mine = self.official[name].shape, self.values.shape(target)
        if self.values.on_meta(target):
            self.add("never-loaded", f"{target!r} is still on the meta device.", target)
        elif theirs == mine:
            if self.values.equal(name, target):
                self.arrived(name, target, None, "rule")
                return
            if self.rounded(name, target):
                return
            self.differs(name, target)
        else:
            if self.padded(name, target) or self.reshaped(name, target):
                return
            self.proof.shape_mismatches.append((name, target, theirs, mine))
            if self.values.shuffled(name, target):
                message = f"{target!r} has the values of {name!r} in an order that no known rearrangement gives."
                self.add("permuted", message, name, target)
        self.spent(name, target)

    def rounded(self, name: str, target: str, rows: Rows | None = None) -> bool:
        """Whether the tensor is the official one rounded to the dtype that was asked for: a remark, no damage."""
        mine = self.port[target] if rows is None else self.port[target][rows[0] : rows[1]]
        if not self.values.rounded(name, mine, self.asked):
            return False
        dtype = str(self.asked).removeprefix("torch.")
        self.remarks["cast-loses-bits", dtype].append((name, target))
        self.arrived(name, target, rows, f"rounded to {dtype}")
        return True

    def padded(self, name: str, target: str) -> bool:
        """Whether the port's tensor is the official one with rows added at its end (vocabularies are padded so)."""
        theirs, mine = self.official[name].shape, self.values.shape(target)
        if len(theirs) != len(mine) or not theirs or theirs[1:] != mine[1:] or not 0 < theirs[0] < mine[0]:
            return False
        if not self.values.hold(name, [self.port[target][: theirs[0]]]):
            return False
        message = f"{target!r} is {name!r} with {mine[0] - theirs[0]} rows added at its end."
        self.proof.findings.append(Finding("padded", message, (name, target), fatal=False))
        self.arrived(name, target, (0, theirs[0]), "rule")
        return True

    def reshaped(self, name: str, target: str) -> bool:
        """Whether the tensor had to change its shape and did so in a known way."""
        how = self.values.arrangement(name, target)
        if how is None:
            return False
        self.remarks["rearranged", how].append((name, target))
        self.arrived(name, target, None, how)
        return True

    def differs(self, name: str, target: str) -> None:
        """The rule leads to a tensor of the right shape that holds other values: say what it holds."""
        constant = self.values.port_constant(target)
        if constant is not None:
            message = f"{target!r} holds {constant:g} everywhere, not the values of {name!r}: never loaded."
            self.add("left-unfilled", message, name, target)
            return
        how = self.values.arrangement(name, target)
        if how is not None:
            code = "transposed" if how == "transposed" else "rows-swapped" if "halves" in how else "permuted"
            message = f"{name!r} arrives {how} in {target!r}, although the shape did not have to change."
            self.add(code, message, name, target)
            return
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            if self.values.rounded(name, self.port[target], dtype):
                lost = str(dtype).removeprefix("torch.")
                message = f"{name!r} lost bits on its way to {target!r} (rounded to {lost}), although "
                asked = str(self.asked).removeprefix("torch.")
                self.add("cast-loses-bits", message + f"{asked} was asked for.", name, target)
                return
        shape = self.official[name].shape
        held = next((n for n in self._by_shape[shape] if n != name and self.values.equal(n, target)), None)
        elsewhere = next((t for t in self._port_by_shape[shape] if t != target and self.values.equal(name, t)), None)
        if held:
            where = f"; the values of {name!r} are in {elsewhere!r}" if elsewhere else ""
            self.add("swapped", f"{target!r} holds the values of {held!r} instead of {name!r}{where}.", name, held)
        elif elsewhere:
            self.add("wrong-target", f"The values of {name!r} are in {elsewhere!r}, not in {target!r}.", name, target)
        elif self.values.shuffled(name, target):
            message = f"{target!r} has the values of {name!r} in an order that no known rearrangement gives."
            self.add("permuted", message, name, target)
        else:
            message = f"{target!r} does not hold the values of {name!r}; they changed on the way."
            self.add("values-differ", message, name, target)
        # What the port's own loader did is not what these rules say; rules that say it can be suggested.
        if held:
            self.places.append(Place(held, target))
        if elsewhere:
            self.places.append(Place(name, elsewhere))

    def merge(self, target: str, sources: list[Source]) -> None:
        goal = self.values.shape(target)
        ordered = sorted(sources, key=lambda source: source.index or 0)
        names = [source.name for source in ordered]
        shapes = [self.official[name].shape for name in names]
        self.fed.add(target)
        self.explained.update(names)
        if self.values.on_meta(target):
            self.add("never-loaded", f"{target!r} is still on the meta device.", target)
            return
        rows = sum(shape[0] for shape in shapes if shape)
        tails = {shape[1:] for shape in shapes}
        if len(tails) != 1 or (rows, *next(iter(tails))) != goal:
            if not self.some_rows(target, names):
                row = (" + ".join(names), target, (rows, *sorted(tails)[0]), goal)
                self.proof.shape_mismatches.append(row)
            return
        start, spans = 0, []
        for shape in shapes:
            spans.append((start, start + shape[0]))
            start += shape[0]
        right = {n: self.values.hold(n, [self.port[target][a:b]]) for n, (a, b) in zip(names, spans, strict=True)}
        if not any(right.values()) and len(set(shapes)) == 1:
            for heads, parts in interleaved(self.port[target], len(names)):
                if all(self.values.hold(name, [part]) for name, part in zip(names, parts, strict=True)):
                    how = f"permuted: rows interleaved by {heads} heads"
                    self.remarks["rearranged", how].extend((name, target) for name in names)
                    for name in names:
                        self.arrived(name, target, None, how)
                    return
        for name, span in zip(names, spans, strict=True):
            if right[name]:
                self.arrived(name, target, span, "rule")
                continue
            if self.rounded(name, target, span):
                continue
            piece = self.port[target][span[0] : span[1]]
            holder = next((n for n in names if n != name and self.values.hold(n, [piece])), None)
            place = f"Rows {span[0]}:{span[1]} of {target!r}"
            if holder:
                self.add("merge-order", f"{place} hold {holder!r} where the rules put {name!r}.", name, target)
                index = next(s.index for s in ordered if s.name == name)
                self.places.append(Place(holder, target, index, ordered[0].total))
            else:
                self.add("values-differ", f"{place} do not hold the values of {name!r}.", name, target)

    # Wherever the values are

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

    def waiting(self) -> list[str]:
        """Official tensors that nothing explains yet."""
        return [name for name in self.official if name not in self.explained]

    def free(self) -> list[str]:
        """Port tensors that nothing feeds yet."""
        return [target for target in self.port if target not in self.fed]

    def _constant(self, name: str) -> bool:
        return self.values.official_constant(name) is not None

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
        self.add("rows-unfilled", message, target, *(name for _, name in spans))
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

    # The end

    def finish(self, plan: Plan | None, buffers: frozenset[str]) -> Proof:
        proof = self.proof
        lost = [name for name in self.official if name not in self.explained]
        proof.unused = [name for name in lost if name in self.declared]
        proof.unexpected = [name for name in lost if name not in self.declared]
        self._missing(buffers)
        self._remarks()
        wrong = [name for name in self.declared if name in {link.official for link in proof.links}]
        if wrong:
            message = (
                f"{len(wrong)} tensors that UNUSED declares to be left out arrive: {', '.join(sorted(wrong)[:3])}."
            )
            self.add("unused-arrives", message, *sorted(wrong))
        complete = self._complete()
        counted = {name: item for name, item in self.official.items() if name not in proof.unused}
        proof.tensors = (len(complete), len(counted))
        proof.parameters = (
            sum(self.official[name].elements for name in complete),
            sum(item.elements for item in counted.values()),
        )
        if plan is not None:
            proof.findings = [*plan.findings, *proof.findings]
            proof.suggestions = suggest(self.places, plan.rules, self.official, "by value")
            lost_shapes = {name: self.official[name].shape for name in proof.unexpected}
            guesses = nearest(lost_shapes, {target: self.values.shape(target) for target in proof.missing})
            because = "a guess: same shape and the nearest name, but other values"
            proof.suggestions += suggest(guesses, plan.rules, self.official, because)
        return proof

    def _complete(self) -> set[str]:
        rows: dict[str, int] = defaultdict(int)
        for link in self.proof.links:
            whole = link.part is None
            rows[link.official] += 1 << 62 if whole else link.part[1] - link.part[0]  # type: ignore[index]
        return {name for name, count in rows.items() if count >= 1 << 62 or count >= self.official[name].shape[0]}

    def _missing(self, buffers: frozenset[str]) -> None:
        fed = [self.port[target] for target in self.fed]
        stored = {(tensor.data_ptr(), tensor.shape) for tensor in fed if tensor.device.type != "meta"}
        for target in self.free():
            value = self.port[target]
            if value.device.type != "meta" and value.numel() and (value.data_ptr(), value.shape) in stored:
                continue  # another name of a tensor that arrived (tied weights)
            if self._copy_of_fed(target):
                continue
            self.proof.missing.append(target)
            if target in buffers:
                continue
            constant = self.values.port_constant(target)
            if constant == 0 and any(part in target for part in ZERO_FILLED):
                part = next(part for part in ZERO_FILLED if part in target)
                message = (
                    f"{target!r} is zero: nothing feeds it, and FastVideo's loader fills targets with {part!r} in "
                    "their names with zeros, also in a strict load."
                )
                self.add("zero-filled", message, target)
            elif constant is not None:
                message = f"{target!r} holds {constant:g} everywhere: zero-filled or left at its initial value."
                self.add("left-unfilled", message, target)

    def _copy_of_fed(self, target: str) -> bool:
        """Whether it holds the same values as a tensor that arrived, which are not all one number."""
        if self.values.port_constant(target) is not None or self.values.on_meta(target):
            return False
        names = {link.official for link in self.proof.links if link.rows is None and link.part is None}
        candidates = [name for name in self._by_shape[self.values.shape(target)] if name in names]
        return any(self.values.equal(name, target) for name in candidates)

    def _remarks(self) -> None:
        for (code, detail), pairs in self.remarks.items():
            shown = ", ".join(f"{name!r} -> {target!r}" for name, target in pairs[:3])
            more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
            if code == "rearranged":
                message = f"{len(pairs)} tensors arrive {detail}: {shown}{more}."
            else:
                message = (
                    f"{len(pairs)} tensors are stored more exactly than {detail}, the dtype of most, and were rounded "
                    f"to it as FastVideo does in production: {shown}{more}."
                )
            names = tuple(name for name, _ in pairs)
            self.proof.findings.append(Finding(code, message, names, fatal=False))


def _alike(one: str, other: str) -> int:
    """How many parts two dotted names share."""
    return len(set(one.split(".")) & set(other.split(".")))
