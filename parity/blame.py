"""From the boundaries of one input to one culprit: a module, or the code between two calls."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from .boundaries import Boundary, Comparison
from .passing import MASKED, NEAR
from .proof import Proof
from .sketch import Fingerprint, same_values_in_any_order, sketch_distance
from .trace import Call, ModuleInfo, Trace
from .verdict import BIAS_FAIL, BOUNDARY_FAIL, ratio


@dataclass(frozen=True)
class Culprit:
    """Where the port stops agreeing.

    Attributes:
        module: Port module; for glue the module whose forward holds the code. ``""`` is the root.
        official_module: Its counterpart, or none.
        kind: ``module`` (right inputs, wrong output), ``glue`` (the code between two calls), ``weights``, ``dtype`` or
            ``backend`` (see `other_causes`).
        file, line, end_line: Where to look: the forward of the module, or the lines between the two calls.
        why: The evidence in one or two sentences.
        confidence: ``certain`` when every neighbouring boundary was compared, else ``likely``.
    """

    module: str
    official_module: str | None
    kind: str
    file: str
    line: int
    end_line: int
    why: str
    confidence: str

    def to_json(self) -> dict[str, Any]:
        """The culprit as JSON."""
        return asdict(self)


def find_culprit(comparison: Comparison, boundaries: list[Boundary], limit: float = BOUNDARY_FAIL) -> Culprit | None:
    """The first boundary beyond ``limit``, traced back to where right inputs become a wrong output."""
    first = next((b for b in boundaries if not b.ratio <= limit or b.bias > BIAS_FAIL), None)
    if first is None:
        return None
    return Blame(comparison, boundaries).at(first)


def weights_culprit(proof: Proof, port: Trace) -> Culprit | None:
    """The first module that was given other values than the official ones, if the proof of weights names any.

    Args:
        proof: Of the port's weights.
        port: A trace of the port, for the order of its modules and their code.
    """
    order = {call.module: index for index, call in reversed(list(enumerate(port.calls)))}
    held: list[tuple[int, str, str]] = []
    for finding in proof.findings:
        module = finding.wrong.rpartition(".")[0]
        if finding.fatal and finding.wrong and module in port.modules:
            held.append((order.get(module, len(order)), module, finding.message))
    if not held:
        return None
    _, module, message = min(held, key=lambda row: row[0])
    more = len({row[1] for row in held}) - 1
    info = port.modules[module]
    why = f"{message} Its input is not looked at: with other weights no output can agree."
    if more:
        why += f" {more} more {'modules hold' if more > 1 else 'module holds'} wrong values; check_mapping lists them."
    return Culprit(module, None, "weights", info.file, info.line, info.end_line, why, "certain")


class Blame:
    """Traces a wrong tensor of a comparison back to the code that made it.

    Attributes:
        producer: Port tensor -> the call that returned it, or left it in an argument.
        expected: Port tensor that was found in a wrong place -> the official one that belongs there.
    """

    def __init__(self, comparison: Comparison, boundaries: list[Boundary]) -> None:
        self.comparison = comparison
        self.calls = comparison.port.calls
        self.boundaries = {item.index: item for item in boundaries}
        self.expected: dict[int, int] = {}
        self.producer: dict[int, int] = {}
        for index, call in sorted(enumerate(self.calls), key=lambda pair: pair[1].ended):
            for _, tensor in (*call.outputs, *call.writes):
                self.producer.setdefault(tensor, index)

    def at(self, boundary: Boundary) -> Culprit:
        numbers = f"its error is {_times(boundary.ratio)} the reference's own ({boundary.port_error:.2g} relative)"
        if boundary.ratio <= BOUNDARY_FAIL:
            numbers += f", and all in one direction: {boundary.bias:.0f} times what rounding does to its length"
        return self.resolve(boundary.index, numbers, set())

    def resolve(self, index: int, numbers: str, seen: set[int]) -> Culprit:
        """Blame call ``index``, whose output is wrong."""
        seen.add(index)
        call = self.calls[index]
        pair = self.comparison.pairs.get(call.module)
        if pair is not None and (pair.official, call.occurrence) not in self.comparison.reference_calls:
            return self.extra(index, numbers)
        strange = self.unexplained_inputs(call)
        if not strange:
            return self.inside(index, numbers, seen)
        for tensor in strange:
            # A tensor that equals another official one is right where it was made and wrong where it is used.
            known = self.comparison.explained(tensor) is not None or "int" in self.comparison.port.tensors[tensor].dtype
            source = None if known else self.producer.get(tensor)
            if source is not None and source not in seen and source not in self.boundaries:
                return self.resolve(source, numbers, seen)
        return self.before(index, numbers, seen)

    def extra(self, index: int, numbers: str) -> Culprit:
        """A call that the official model does not make."""
        call = self.calls[index]
        parent = self.calls[call.parent] if call.parent >= 0 else call
        if self.comparison.parts_of_one(call.module):
            return self.apart(index, parent, numbers)
        why = (
            f"{named(parent)} calls {named(call)} once more than the official code does (call {call.occurrence + 1}, "
            f"line {call.line}); after it {numbers.replace('its error', 'the error')}."
        )
        return Culprit(parent.module, self.official(parent), "glue", call.file, call.line, call.line, why, "certain")

    def apart(self, index: int, parent: Call, numbers: str) -> Culprit:
        """Calls on the parts of what the official code hands over at once: nothing in between can be compared."""
        call = self.calls[index]
        siblings = self.comparison.port.children(call.parent)
        before = [i for i in siblings if i < index and i in self.boundaries]
        after = [i for i in siblings if i > index and i in self.boundaries]
        lines = [self.calls[i].line for i in (*before[-1:], index, *after[:1]) if self.calls[i].file == call.file]
        why = (
            f"{named(parent)} calls {named(call)} on parts of what the official code hands it at once, so nothing from "
            f"line {min(lines)} to {max(lines)} can be compared; after it {numbers.replace('its error', 'the error')}. "
            "Look there; if you see nothing, join the parts around such calls as the official code does: then a run "
            "looks between them."
        )
        official = self.official(parent)
        return Culprit(parent.module, official, "glue", call.file, min(lines), max(lines), why, "likely")

    def inside(self, index: int, numbers: str, seen: set[int]) -> Culprit:
        """The call's inputs are right: the module itself, or the code between the calls it makes."""
        call = self.calls[index]
        children = self.comparison.port.children(index)
        for child in children:
            uncompared = child not in seen and child not in self.boundaries
            if uncompared and self.unexplained_outputs(self.calls[child]) and not self.cleared(child, index):
                return self.resolve(child, numbers, seen)
            if self.unexplained_inputs(self.calls[child]):
                return self.before(child, numbers, seen)
        if not children or all("::" in self.calls[child].module for child in children):
            return self.module(call, numbers)
        last = self.calls[children[-1]]
        info = self.comparison.port.modules.get(call.module)
        why = (
            f"All inputs of {named(call)} and all modules it calls agree, but what it returns does not: {numbers}. "
            f"Look at the code after its last call ({named(last)})."
        )
        return Culprit(
            call.module,
            self.official(call),
            "glue",
            info.file if info else last.file,
            last.line if info and info.file == last.file else (info.line if info else 0),
            info.end_line if info else last.line,
            why,
            "certain",
        )

    def cleared(self, child: int, index: int) -> bool:
        """Whether modules that hold weights still agree after an uncompared call returned, so that it was right.

        A call whose counterpart hands its values on in another form is not compared; what follows tells.
        """
        after, until = self.calls[child].ended, self.calls[index].ended
        return any(
            item.ratio <= BOUNDARY_FAIL
            and item.port_error > 0
            and after < self.calls[item.index].ended < until
            and self.calls[item.index].parent >= 0
            and item.index > child
            and self.comparison.pairs[item.port].how == "weights"
            and self.inputs_follow(item.index, child)
            for item in self.boundaries.values()
        )

    def inputs_follow(self, index: int, child: int) -> bool:
        """Whether the call's inputs are the child's outputs, or were made after it returned."""
        newest = max((tensor for _, tensor in self.calls[index].inputs), default=-1)
        return newest >= min((tensor for _, tensor in self.calls[child].outputs), default=newest + 1)

    def before(self, index: int, numbers: str, seen: set[int]) -> Culprit:
        """An input of the call is wrong and no call made it: the code of the caller, before the call."""
        call = self.calls[index]
        if call.parent < 0:
            return self.module(call, numbers)
        parent = self.calls[call.parent]
        siblings = [i for i in self.comparison.port.children(call.parent) if i < index]
        for sibling in reversed(siblings):
            if sibling in self.boundaries or sibling in seen:
                break
            if self.unexplained_inputs(self.calls[sibling]):  # not compared, and wrong already when it was called
                return self.resolve(sibling, numbers, seen)
            if self.returned_unknown(sibling, self.unexplained_inputs(call)):
                return self.inside(sibling, numbers, seen | {sibling})
        previous = self.calls[siblings[-1]] if siblings else None
        unknown = [t for t in self.unexplained_inputs(parent) if self.producer.get(t) is None]
        handed_on = set(self.unexplained_inputs(call)) & set(unknown)
        unpaired = parent.module not in self.comparison.pairs
        suspect = unpaired or bool(self.unexplained_inputs(parent))
        if suspect and previous is None and call.parent not in seen and self.passed_on(call, parent):
            return self.before(call.parent, numbers, seen | {call.parent})
        if unknown and call.parent not in seen and (handed_on or (previous is None and unpaired)):
            return self.before(call.parent, numbers, seen | {call.parent})
        info = self.comparison.port.modules.get(parent.module)
        start = (
            previous.line if previous is not None and previous.file == call.file else (info.line if info else call.line)
        )
        after = (
            f"after the call of {named(previous)} (line {previous.line})" if previous else "at the start of its forward"
        )
        why = (
            f"In {named(parent)}, {after} everything agrees; the input of {named(call)} (line {call.line}) does not: "
            f"{numbers}. Look at the code between the two lines."
        )
        return Culprit(
            parent.module,
            self.official(parent),
            "glue",
            call.file,
            min(start, call.line),
            call.line,
            why,
            "certain" if previous is not None and siblings[-1] in self.boundaries else "likely",
        )

    def returned_unknown(self, index: int, wrong: list[int]) -> bool:
        """Whether an uncompared call returned something unknown that is as large as one of the wrong tensors."""
        sizes = {self.comparison.port.tensors[tensor].elements for tensor in wrong}
        strange = self.unexplained_outputs(self.calls[index])
        return any(self.comparison.port.tensors[tensor].elements in sizes for tensor in strange)

    def module(self, call: Call, numbers: str) -> Culprit:
        name = call.module.partition("::")[0]
        info = self.comparison.port.modules.get(name)
        why = f"The inputs of {named(call)} agree with the official ones and its output does not: {numbers}."
        return Culprit(
            name,
            self.official(call),
            "module",
            *where_to_look(info, call),
            why + how_it_is_built(info),
            "certain" if call.module in self.comparison.pairs else "likely",
        )

    def official(self, call: Call) -> str | None:
        pair = self.comparison.pairs.get(call.module)
        return pair.official if pair else None

    def unexplained_inputs(self, call: Call) -> list[int]:
        """Floating inputs that are not what they should be.

        Of a module whose counterpart takes the same tensors, those that differ from the counterpart's in that place: a
        key in the place of a query is a right tensor in the wrong place. Of any other, those that equal nothing of the
        official model's.
        """
        misplaced = self.misplaced(call)
        return self._unexplained([tensor for _, tensor in call.inputs]) if misplaced is None else misplaced

    def misplaced(self, call: Call) -> list[int] | None:
        """Inputs that differ from the counterpart's in their places; none when the two do not take the same tensors."""
        other = self.comparison.counterpart(call)
        if other is None:
            return None
        if self.comparison.rearranged(call, other):
            return []
        strange_ids = self._other_ids(call, other) or self._other_masks(call, other)
        if strange_ids:
            return strange_ids
        mine = self._floats(self.comparison.port, call)
        theirs = self._floats(self.comparison.reference, other)
        if not mine or len(mine) != len(theirs):
            return self._misplaced_by_name(call, other) if self.comparison.pairs[call.module].how == "weights" else None
        found = []
        for a, b in zip(mine, theirs, strict=True):
            wrong = self._is_another(a, b)
            if wrong is None:
                return None
            if wrong:
                found.append(a)
                self.expected[a] = b
        return found

    def _misplaced_by_name(self, call: Call, other: Call) -> list[int] | None:
        """The same for two modules of the same weights, one of which takes more tensors (a cache, a mask).

        Arguments of one place, name or parameter are compared; if they agree, the rest tells nothing.
        """
        theirs = {_parameter(self.comparison.reference, other, name): b for name, b in other.inputs} | dict(
            other.inputs
        )
        inputs = [(_parameter(self.comparison.port, call, name), name, a) for name, a in call.inputs]
        large = [
            (name if name in theirs else parameter, a)
            for parameter, name, a in inputs
            if self.comparison.port.tensors[a].elements > 1
        ]
        found = [a for name, a in large if name in theirs and self._is_another(a, theirs[name])]
        known = {theirs[name] for name, _ in large if name in theirs}
        rest = [b for _, b in other.inputs if b not in known]
        found += self._near_misses([a for name, a in large if name not in theirs], rest)
        return found or None

    def _near_misses(self, mine: list[int], theirs: list[int]) -> list[int]:
        """Inputs that are nearly one of the counterpart's, under another name, and none of them."""
        found = []
        for a in mine:
            if "float" not in self.comparison.port.tensors[a].dtype:
                continue
            near = []
            for b in theirs:
                errors = self.comparison.errors(a, b)
                if errors is not None and errors[0] < NEAR:
                    near.append((errors[0], b))
            if near and self._is_another(a, min(near)[1]) and self.comparison.explained(a) is None:
                found.append(a)
                self.expected[a] = min(near)[1]
        return found

    def _is_another(self, a: int, b: int) -> bool | None:
        """Whether an input differs from its counterpart; none when the two cannot be compared."""
        mine, theirs = self.comparison.port.tensors[a], self.comparison.reference.tensors[b]
        if self._is_mask(mine) or self._is_mask(theirs):
            return False
        errors = self.comparison.errors(a, b)
        if errors is None:
            return None
        return not errors[2] and not ratio(errors[0], errors[1]) <= BOUNDARY_FAIL

    def _other_ids(self, call: Call, other: Call) -> list[int]:
        """Integer inputs (ids, positions, buckets) that are not the counterpart's, element by element."""
        mine = [self.comparison.port.tensors[i] for _, i in call.inputs]
        theirs = [self.comparison.reference.tensors[i] for _, i in other.inputs]
        if len(mine) != len(theirs):
            return []
        return [
            index
            for (_, index), a, b in zip(call.inputs, mine, theirs, strict=True)
            if "int" in a.dtype and "int" in b.dtype and a.elements == b.elements > 1 and sketch_distance(a, b) > 0
        ]

    def _other_masks(self, call: Call, other: Call) -> list[int]:
        """Masks that keep out other positions than the counterpart's: additive ones, and boolean ones of one sense."""
        theirs = {_parameter(self.comparison.reference, other, name): b for name, b in other.inputs}
        theirs |= dict(other.inputs)
        found = []
        for name, a in call.inputs:
            parameter = _parameter(self.comparison.port, call, name)
            mine, b = self.comparison.port.tensors[a], theirs.get(parameter, theirs.get(name))
            wrong = (call.module, call.occurrence, name) in self.comparison.other_masks
            if b is not None and mine.dtype == self.comparison.reference.tensors[b].dtype == "bool":
                official = self.comparison.reference.tensors[b]
                inverted = mine.moments[0] + official.moments[0] == mine.elements  # may be a convention
                wrong = mine.elements == official.elements and not inverted and sketch_distance(mine, official) > 0
            if wrong and b is not None:
                found.append(a)
                self.expected[a] = b
        return found

    def keeps_out_others(self, call: Call, wrong: list[int]) -> bool:
        """Whether these inputs of a call are masks that `misplaced` found to keep out other positions."""
        masks = [
            tensor
            for name, tensor in call.inputs
            if (call.module, call.occurrence, name) in self.comparison.other_masks
        ]
        return bool(wrong) and all(
            tensor in masks or self.comparison.port.tensors[tensor].dtype == "bool" for tensor in wrong
        )

    def passed_on(self, call: Call, parent: Call) -> bool:
        """Whether the strange inputs of a first call are the caller's own inputs, in the same places."""
        strange = self.unexplained_inputs(call)
        given = self._floats(self.comparison.port, parent)
        places = [place for place, tensor in enumerate(self._floats(self.comparison.port, call)) if tensor in strange]
        taken = self._floats(self.comparison.port, call)
        return bool(places) and all(place < len(given) and self.same(taken[place], given[place]) for place in places)

    def same(self, a: int, b: int) -> bool:
        """Whether two port tensors hold the same values, in whatever shape."""
        first, second = self.comparison.port.tensors[a], self.comparison.port.tensors[b]
        return a == b or same_values_in_any_order(first, second, 1e-9)

    @staticmethod
    def _floats(trace: Trace, call: Call) -> list[int]:
        return [
            index
            for _, index in call.inputs
            if trace.tensors[index].elements > 1 and "float" in trace.tensors[index].dtype
        ]

    @staticmethod
    def _is_mask(tensor: Fingerprint) -> bool:
        """Additive masks hold minus infinity on one side and the lowest number on the other."""
        return bool(tensor.non_finite) or tensor.moments[2] < MASKED

    def unexplained_outputs(self, call: Call) -> list[int]:
        return self._unexplained([tensor for _, tensor in call.outputs])

    def _unexplained(self, tensors: list[int]) -> list[int]:
        return [
            tensor
            for tensor in tensors
            if self.comparison.port.tensors[tensor].elements > 1
            and self.comparison.port.tensors[tensor].norm > 0
            and "float" in self.comparison.port.tensors[tensor].dtype
            and self.comparison.explained(tensor) is None
        ]


def where_to_look(info: ModuleInfo | None, call: Call) -> tuple[str, int, int]:
    """File and lines of a module's forward; of one of torch's own, the line that calls it: nobody repairs torch."""
    if info is None or _of_torch(info):
        return call.file, call.line, call.line
    return info.file, info.line, info.end_line


def how_it_is_built(info: ModuleInfo | None) -> str:
    """What to look at besides, if a module's class is torch's own; else empty."""
    return " Its class is torch's own: look at the arguments that it is built with." if _of_torch(info) else ""


def _of_torch(info: ModuleInfo | None) -> bool:
    return info is not None and "/torch/nn/" in info.file


def _parameter(trace: Trace, call: Call, name: str) -> str:
    """The parameter of the forward that an input is handed to, by its place or by keyword; ``name`` if unknown."""
    place, _, rest = name.removeprefix("[").partition("]")
    info = trace.modules.get(call.module)
    if rest.startswith("."):
        return rest[1:]
    if rest or info is None or not place.isdigit() or int(place) >= len(info.parameters):
        return name
    return info.parameters[int(place)]


def named(call: Call) -> str:
    """A call for a person: its module and class."""
    return f"{call.module or 'the model'} ({call.cls})"


def _times(value: float) -> str:
    return "not finite where the reference is; no multiple of" if math.isnan(value) else f"{value:.3g} times"
