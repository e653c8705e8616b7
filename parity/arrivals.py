"""Where each official tensor arrived: first where the rules say, then wherever its values are."""

from __future__ import annotations

from collections import defaultdict

import torch

from .fit import nearest
from .mapping import Finding, Plan, Source
from .proof import Proof
from .search import Search
from .suggest import Place, suggest
from .values import interleaved

ZERO_FILLED = ("gate_compress", "proj_l")
"""Parts of names whose tensors FastVideo's loader fills with zeros, also in a strict load, when nothing feeds them."""


class Prover(Search):
    """Builds a `Proof`."""

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
            self.add("never-loaded", f"{target!r} is still on the meta device.", target, wrong=target)
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
                self.add("permuted", message, name, target, wrong=target)
        self.spent(name, target)

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

    def differs(self, name: str, target: str) -> None:
        """The rule leads to a tensor of the right shape that holds other values: say what it holds."""
        constant = self.values.port_constant(target)
        if constant is not None:
            message = f"{target!r} holds {constant:g} everywhere, not the values of {name!r}: never loaded."
            self.add("left-unfilled", message, name, target, wrong=target)
            return
        how = self.values.arrangement(name, target)
        if how is not None:
            code = "transposed" if how == "transposed" else "rows-swapped" if "halves" in how else "permuted"
            message = f"{name!r} arrives {how} in {target!r}, although the shape did not have to change."
            self.add(code, message, name, target, wrong=target)
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
            message = f"{target!r} holds the values of {held!r} instead of {name!r}{where}."
            self.add("swapped", message, name, held, wrong=target)
        elif elsewhere:
            message = f"The values of {name!r} are in {elsewhere!r}, not in {target!r}."
            self.add("wrong-target", message, name, target, wrong=target)
        elif self.values.shuffled(name, target):
            message = f"{target!r} has the values of {name!r} in an order that no known rearrangement gives."
            self.add("permuted", message, name, target, wrong=target)
        else:
            message = f"{target!r} does not hold the values of {name!r}; they changed on the way."
            self.add("values-differ", message, name, target, wrong=target)
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
            self.add("never-loaded", f"{target!r} is still on the meta device.", target, wrong=target)
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
                message = f"{place} hold {holder!r} where the rules put {name!r}."
                self.add("merge-order", message, name, target, wrong=target)
                index = next(s.index for s in ordered if s.name == name)
                self.places.append(Place(holder, target, index, ordered[0].total))
            else:
                self.add("values-differ", f"{place} do not hold the values of {name!r}.", name, target, wrong=target)

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
                self.add("zero-filled", message, target, wrong=target)
            elif constant is not None:
                message = f"{target!r} holds {constant:g} everywhere: zero-filled or left at its initial value."
                self.add("left-unfilled", message, target, wrong=target)

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
