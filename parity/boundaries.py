"""The logic ratio at every paired boundary."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from .pairing import Pair
from .passing import Where
from .sketch import Fingerprint, same_values_in_any_order, sketch_distance
from .trace import Call, Trace
from .verdict import BOUNDARY_FAIL, BOUNDARY_PASS, UNIT, ratio, severity

_LAYOUT_TOLERANCE = 1e-6
_REORDERED = 0.1
"""Values in another order are far from where they were; nearer ones are the same values with an error."""
GROSS = 1e-2
"""Relative error at a boundary that no later layer can hide from the output, a hundred thousand times the noise."""
_WITNESSES = 3
_SAME = 1e-5
"""A tensor as it was returned, and as the forced one (of the float32 model) that took its place."""


@dataclass(frozen=True)
class Boundary:
    """The outputs of one call of a paired module.

    Attributes:
        index: Of the port's call in its trace.
        port, official: Module names.
        ratio: Worst logic ratio over the outputs; NaN when the port is not finite where the reference is.
        port_error, reference_error: Relative L2 of that output against the reference.
        layout: The values agree but stand in another order.
        bias: Ratio of the systematic part of the error, `bias_ratio`; the largest over the outputs.
    """

    index: int
    port: str
    official: str
    ratio: float
    port_error: float
    reference_error: float
    layout: bool
    bias: float


Returned = tuple[str, int, int]
"""Module, occurrence of its call, place among what it returned."""


class Comparison:
    """Three traces of one input: the port's (float32), the official one (float32) and the reference.

    Args:
        port, official, reference: The traces.
        pairs: Port module -> its official counterpart.
        lengths: What the official rounding does to lengths over all inputs, as `official_lengths` returns it; of this
            input alone if not given.

    Attributes:
        mispaired: Port modules whose pairs turned out to be none (see `boundaries`).
        other_masks: `Forcer.other_masks` of a port upon which official tensors were forced.
    """

    def __init__(
        self,
        port: Trace,
        official: Trace,
        reference: Trace,
        pairs: dict[str, Pair],
        lengths: Mapping[Returned, float] | None = None,
    ) -> None:
        self.port = port
        self.official = official
        self.reference = reference
        self.pairs = pairs
        self._tables: dict[int, tuple[list[int], torch.Tensor]] = {}
        groups: dict[int, list[int]] = defaultdict(list)
        for index, tensor in enumerate(reference.tensors):
            groups[tensor.elements].append(index)
        for elements, indices in groups.items():
            self._tables[elements] = (indices, torch.stack([reference.tensors[i].sketch for i in indices]))
        self._explained: dict[int, int | None] = {}
        self._rearranged: dict[tuple[str, int], bool] = {}
        self.official_calls = {(call.module, call.occurrence): call for call in official.calls}
        self.reference_calls = {(call.module, call.occurrence): call for call in reference.calls}
        self._twins = self._align()
        self._lengths: dict[int, float] = {}
        for (module, occurrence, place), share in (lengths or {}).items():
            call = self.reference_calls.get((module, occurrence))
            if call is not None and place < len(call.outputs):
                index = call.outputs[place][1]
                self._lengths[index] = max(self._lengths.get(index, 0.0), share)
        self.mispaired: set[str] = set()
        self.other_masks: set[tuple[str, int, str]] = set()

    def _align(self) -> dict[int, int]:
        """Reference tensor -> the same boundary's tensor in the official float32 trace.

        The two traces need not number their tensors alike: a cast that does nothing in float32 makes a new tensor in
        float64.
        """
        twins: dict[int, int] = {}
        for key, call in self.reference_calls.items():
            other = self.official_calls.get(key)
            if other is None:
                continue
            for mine, theirs in ((call.inputs, other.inputs), (call.outputs, other.outputs)):
                if len(mine) == len(theirs):
                    twins.update({a: b for (_, a), (_, b) in zip(mine, theirs, strict=True)})
        return twins

    def reference_error(self, index: int) -> float:
        """The official model's own float32 error at tensor ``index`` of the reference trace."""
        twin = self._twins.get(index)
        if twin is None:
            return 0.0
        official, reference = self.official.tensors[twin], self.reference.tensors[index]
        return sketch_distance(official, reference) if official.elements == reference.elements else 0.0

    def own_error(self, module: str, occurrence: int, where: Where) -> float:
        """The official model's own rounding where a call of the port is handed its inputs, or returns."""
        call = self.reference_calls.get((self.pairs[module].official, occurrence))
        if call is None:
            return 0.0
        return max((self.reference_error(index) for _, index in getattr(call, where)), default=0.0)

    def errors(self, port_index: int, reference_index: int) -> tuple[float, float, bool] | None:
        """``(port error, reference error, layout)``; none when the two cannot be compared."""
        mine, theirs = self.port.tensors[port_index], self.reference.tensors[reference_index]
        if mine.elements != theirs.elements or mine.elements == 0:
            return None
        if mine.non_finite != theirs.non_finite:
            return math.nan, 0.0, False
        error, own = sketch_distance(mine, theirs), self.reference_error(reference_index)
        # Values in another order but in the same shape went to the wrong places.
        if (
            error > _REORDERED
            and [size for size in mine.shape if size > 1] != [size for size in theirs.shape if size > 1]
            and same_values_in_any_order(mine, theirs, max(_LAYOUT_TOLERANCE, 4 * own))
        ):
            return own, own, True
        return error, own, False

    def bias_ratio(self, port_index: int, reference_index: int) -> float:
        """How much the port's tensor is longer or shorter than the reference, over what rounding can do.

        Rounding errors point anywhere, so they change the length of a tensor of ``n`` elements by only
        ``error / sqrt(n)``; a wrong epsilon or scale changes it by the whole error. That makes small systematic
        mistakes visible below the noise of single elements. Errors that a large tensor inherits from a small one
        (upsampled frames, statistics of a norm) have fewer directions than it has elements: what the official rounding
        does to its length for any of the inputs counts as what rounding can do.
        """
        mine, theirs = self.port.tensors[port_index], self.reference.tensors[reference_index]
        if not theirs.norm or mine.non_finite or theirs.non_finite:
            return 0.0
        twin = self._twins.get(reference_index)
        own = abs(self.official.tensors[twin].norm / theirs.norm - 1) if twin is not None else 0.0
        error = max(self.reference_error(reference_index), UNIT)
        spread = error * max(4 / math.sqrt(theirs.elements), self._lengths.get(reference_index, 0.0))
        return abs(mine.norm / theirs.norm - 1) / max(own, spread, UNIT / 4)

    def boundaries(self, *, keep_mispaired: bool = False) -> list[Boundary]:
        """Every paired call whose outputs can be compared, in the order in which the port's calls returned.

        Args:
            keep_mispaired: Judge every pair, also those that cannot be counterparts since nothing follows from their
                difference; with official tensors forced upon the port nothing ever follows.
        """
        found = []
        for index, call in sorted(enumerate(self.port.calls), key=lambda pair: pair[1].ended):
            boundary = self._boundary(index, call)
            if boundary is not None:
                found.append(boundary)
        return found if keep_mispaired else self._without_mispaired(found)

    def _without_mispaired(self, found: list[Boundary]) -> list[Boundary]:
        """Leave out pairs whose gross disagreement has no consequence: they are not counterparts.

        An error of more than a hundredth cannot vanish further on. If every later boundary of a module that holds
        weights agrees (or, for a pair that was only inferred, the next few), the pairing was wrong and not the port.
        The next few may belong to another branch: they are not enough where a module with weights inside goes wrong as
        well, or where both sides hand the tensor to the same next module.
        """
        kept = []
        anchors = [b for b in found if self.pairs[b.port].how in ("weights", "adapter") and not self._is_container(b)]
        for boundary in found:
            if _gross(boundary) and self.pairs[boundary.port].how != "adapter":
                ended = self.port.calls[boundary.index].ended
                witnesses = [b for b in anchors if self.port.calls[b.index].ended > ended]
                inferred = self.pairs[boundary.port].how != "weights" or self._is_container(boundary)
                inside = any(a.port.startswith(f"{boundary.port}.") and _gross(a) for a in anchors)
                if inferred and not inside and not self._handed_alike(boundary):
                    witnesses = witnesses[:_WITNESSES]
                if witnesses and all(b.ratio <= BOUNDARY_PASS for b in witnesses):
                    self.mispaired.add(boundary.port)
                    continue
            kept.append(boundary)
        return kept

    def _handed_alike(self, boundary: Boundary) -> bool:
        """Whether a later pair takes what the two calls returned, each from its own side and in the same place."""
        mine = self.port.calls[boundary.index]
        theirs = self.reference_calls[boundary.official, mine.occurrence]
        own = {index for _, index in mine.outputs}
        for call in self.port.calls:
            other = self.counterpart(call)
            if other is None:
                continue
            for (_, a), (_, b) in zip(call.inputs, other.inputs, strict=False):
                if a in own and any(self._same(b, index) for _, index in theirs.outputs):
                    return True
        return False

    def one_value(self, a: int, b: int) -> bool:
        """Whether two tensors of the reference hold the same values, in whatever shape and order."""
        first, second = self.reference.tensors[a], self.reference.tensors[b]
        if a == b or first.elements != second.elements:
            return a == b
        return sketch_distance(first, second) <= _SAME or same_values_in_any_order(first, second, _SAME)

    def forced_alike(self, trace: Trace, a: int, b: int) -> bool:
        """Whether two tensors of a forced trace hold the same values in this order; what is forced is a copy."""
        first, second = trace.tensors[a], trace.tensors[b]
        if a == b or first.elements != second.elements or first.non_finite != second.non_finite:
            return a == b
        return sketch_distance(first, second) <= _SAME

    def _same(self, a: int, b: int) -> bool:
        """Whether two tensors of the reference are one; a cast or a view in between makes another of it."""
        first, second = self.reference.tensors[a], self.reference.tensors[b]
        return a == b or (first.elements == second.elements > 1 and sketch_distance(first, second) == 0)

    def counterpart(self, call: Call) -> Call | None:
        """The official call that a port's call stands for, in the reference; none if it has no such call."""
        pair = self.pairs.get(call.module)
        return self.reference_calls.get((pair.official, call.occurrence)) if pair else None

    def _is_container(self, boundary: Boundary) -> bool:
        return any("::" not in self.port.calls[child].module for child in self.port.children(boundary.index))

    def rearranged(self, call: Call, other: Call) -> bool:
        """Whether an attention takes the official queries, keys and values, and answers, with tokens in another order.

        FastVideo joins text behind video; attention does not mind, as long as keys and values stand alike. That they
        do is seen from the answers.
        """
        if "attention" not in call.cls.lower():
            return False
        key = (call.module, call.occurrence)
        if key not in self._rearranged:
            self._rearranged[key] = self._same_in_any_order(call, other)
        return self._rearranged[key]

    def _same_in_any_order(self, call: Call, other: Call) -> bool:
        moved = []
        for mine, theirs in ((call.inputs, other.inputs), (call.outputs, other.outputs)):
            tensors = [
                (self.port.tensors[a], self.reference.tensors[b], self.reference_error(b))
                for (_, a), (_, b) in zip(mine, theirs, strict=False)
                if self.port.tensors[a].elements > 1 and "float" in self.port.tensors[a].dtype
            ]
            if not all(same_values_in_any_order(a, b, max(_LAYOUT_TOLERANCE, 4 * own)) for a, b, own in tensors):
                return False
            moved.append(any(sketch_distance(a, b) > _REORDERED for a, b, _ in tensors))
        return all(moved)  # a table in another order with an answer in the official one is no way to order tokens

    def parts_of_one(self, module: str) -> bool:
        """Whether the port calls a module on the parts (video, then text) of what the official code hands it at once.

        Together its calls return as much as the official ones, which are fewer.
        """
        pair = self.pairs.get(module)
        mine = [call for call in self.port.calls if call.module == module]
        theirs = [call for call in self.reference.calls if pair is not None and call.module == pair.official]
        return len(mine) > len(theirs) > 0 and _returned(self.port, mine) == _returned(self.reference, theirs)

    def _boundary(self, index: int, call: Call) -> Boundary | None:
        pair, other = self.pairs.get(call.module), self.counterpart(call)
        if pair is None or other is None:
            return None
        if self.rearranged(call, other):
            own = max((self.reference_error(index) for _, index in other.outputs), default=0.0)
            return Boundary(index, call.module, pair.official, ratio(own, own), own, own, True, 0.0)
        measured, biases = [], []
        for mine, theirs in self._outputs(call, other):
            errors = self.errors(mine, theirs)
            if errors is not None:
                biases.append(self.bias_ratio(mine, theirs))
                measured.append((ratio(errors[0], errors[1]), *errors))
        if not measured:
            return None
        worst = max(measured, key=lambda row: severity(row[0]))
        return Boundary(index, call.module, pair.official, *worst, bias=max(biases))

    def _outputs(self, call: Call, other: Call) -> list[tuple[int, int]]:
        """Which tensors two calls returned belong together.

        By place; where one side returns more (all hidden states, say), each official tensor with the nearest one.
        """
        mine, theirs = [index for _, index in call.outputs], [index for _, index in other.outputs]
        if len(mine) == len(theirs):
            return list(zip(mine, theirs, strict=True))
        found = []
        for index in theirs:
            errors = {a: result[0] for a in mine if (result := self.errors(a, index)) is not None}
            if errors:
                found.append((min(errors, key=lambda a: severity(errors[a])), index))
        return found[: len(mine)] if len(mine) < len(theirs) else found

    def explained(self, index: int) -> int | None:
        """The reference tensor that a port tensor is equal to within the noise, in this or another order; or none."""
        if index not in self._explained:
            self._explained[index] = self._explain(self.port.tensors[index])
        return self._explained[index]

    def as_it_stands(self, index: int) -> bool:
        """Whether a port tensor is equal to an official one within the noise, in this order."""
        official = self.explained(index)
        if official is None:
            return False
        distance = sketch_distance(self.port.tensors[index], self.reference.tensors[official])
        return ratio(distance, self.reference_error(official)) <= BOUNDARY_PASS

    def only_one_in_order(self, first: int, second: int) -> bool:
        """Whether port tensor ``first`` is an official one as it stands, and ``second`` that one in another order."""
        official = self.explained(first)
        if official is None:
            return False
        theirs, own = self.reference.tensors[official], self.reference_error(official)
        one, other = (
            ratio(sketch_distance(self.port.tensors[index], theirs), own) <= BOUNDARY_PASS for index in (first, second)
        )
        return one and not other

    def _explain(self, mine: Fingerprint) -> int | None:
        indices, table = self._tables.get(mine.elements, ([], torch.zeros(0)))
        if not indices or mine.elements == 0:
            return None
        distances = (table - mine.sketch).norm(dim=1)
        best = indices[int(distances.argmin())]
        theirs = self.reference.tensors[best]
        if ratio(sketch_distance(mine, theirs), self.reference_error(best)) <= BOUNDARY_PASS:
            return best
        for candidate in indices:
            theirs, own = self.reference.tensors[candidate], self.reference_error(candidate)
            reordered = sketch_distance(mine, theirs) > _REORDERED
            if reordered and same_values_in_any_order(mine, theirs, max(_LAYOUT_TOLERANCE, 4 * own)):
                return candidate
        return None


def official_lengths(traces: Iterable[tuple[Trace, Trace]]) -> dict[Returned, float]:
    """How much of the official rounding error lies along what a call returns: the largest share over several inputs.

    Args:
        traces: The official trace with float32 rounding and the reference, for each input.
    """
    found: dict[Returned, float] = {}
    for official, reference in traces:
        rounded = {(call.module, call.occurrence): call for call in official.calls}
        for call in reference.calls:
            other = rounded.get((call.module, call.occurrence))
            if other is None or len(other.outputs) != len(call.outputs):
                continue
            for place, ((_, a), (_, b)) in enumerate(zip(other.outputs, call.outputs, strict=True)):
                mine, theirs = official.tensors[a], reference.tensors[b]
                if mine.elements != theirs.elements or not theirs.norm or mine.non_finite or theirs.non_finite:
                    continue
                share = abs(mine.norm / theirs.norm - 1) / max(sketch_distance(mine, theirs), UNIT)
                key = (call.module, call.occurrence, place)
                found[key] = max(found.get(key, 0.0), min(share, 1.0))
    return found


def _returned(trace: Trace, calls: list[Call]) -> int:
    """Elements of the first tensors that calls returned."""
    return sum(trace.tensors[index].elements for call in calls for _, index in call.outputs[:1])


def _gross(boundary: Boundary) -> bool:
    return not math.isnan(boundary.ratio) and boundary.ratio > BOUNDARY_FAIL and boundary.port_error > GROSS
