"""Every place at which a port with official tensors forced upon it goes wrong by itself."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .blame import Blame, Culprit
from .boundaries import Boundary, Comparison
from .crossed import CrossedWeights
from .passing import Where
from .places import Places
from .proof import Link
from .trace import Call
from .verdict import BIAS_FAIL, BOUNDARY_FAIL


@dataclass
class Fault:
    """One place of the port's code, wherever it is called.

    Attributes:
        culprit: The place, as in its first call.
        error: Relative error that it makes there.
        points: ``(module, where)`` whose official tensors take its effect away, over all its calls.
        target: Module, occurrence and side at which its error is measured.
        modules: Where else the same code is called.
        receiver: `Places.receiver` of the culprit.
    """

    culprit: Culprit
    error: float
    points: list[tuple[str, Where]]
    target: tuple[str, int, Where]
    modules: list[str] = field(default_factory=list)
    receiver: int | None = None

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What two calls of the same code have in common: block numbers are folded."""
        culprit = self.culprit
        return fold(culprit.module), culprit.kind, culprit.file, culprit.line, culprit.end_line


def fold(module: str) -> str:
    """A module name with every number replaced by ``*``."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module)


def local_faults(
    comparison: Comparison, links: Collection[Link], forced: Collection[str], skip: Collection[tuple[str, str]]
) -> list[Fault]:
    """The faults of a port that was traced with official tensors forced upon it, in the order of its calls.

    Args:
        comparison: The forced port, the official model, and the forced reference.
        links: Where the official weights are in the port.
        forced: Port modules upon which official tensors were forced.
        skip: ``(module, where)`` that were looked past (`Excuse`).
    """
    finder = _Finder(comparison, links, forced)
    found: dict[tuple[str, str, str, int, int], Fault] = {}
    for fault in finder.faults():
        if any((module, where) in skip for module, where in fault.points):
            continue
        first = found.setdefault(fault.key, fault)
        if first is not fault:
            first.points += [point for point in fault.points if point not in first.points]
        if fault.culprit.module not in first.modules:
            first.modules.append(fault.culprit.module)
    return list(found.values())


def handed_wrong(
    comparison: Comparison,
    links: Collection[Link],
    forced: Collection[str],
    fault: Fault,
    index: int,
    moved: Sequence[Mapping[str, str | None]],
) -> Fault | None:
    """The same fault, blamed on the code that hands call ``index`` its arguments, or on the weights behind them.

    None if the call is handed what its parameters are named for, or if what is exchanged stands in one argument
    (cosines and sines): then its own code exchanges them.

    Args:
        comparison, links, forced: As for `local_faults`.
        fault: What was found, with the called module as its culprit.
        index: The call that is handed the wrong ones of right tensors.
        moved: As `arguments.exchanged` returns it.
    """
    finder = _Finder(comparison, links, forced)
    call = comparison.port.calls[index]
    inputs = dict(call.inputs)
    wrong = [inputs[str(row["argument"])] for row in moved if row["argument"] in inputs]
    found = "; ".join(f"argument {row['argument']} has to be {row['words']}" for row in moved[:3])
    numbers = f"{found}: then {_named_target(fault)} agrees with the official code"
    culprit = None
    for row in moved:
        if row["was"] and _container(str(row["argument"])) == _container(row["was"]) != "":
            return None
        if row["was"] in inputs and finder.crossed.takes_its_own(call, str(row["argument"]), str(row["was"])):
            return None
        if row["was"] in inputs and row["argument"] in inputs:
            given, expected = (comparison.explained(inputs[str(row[key])]) for key in ("argument", "was"))
            if given is not None and expected is not None:
                culprit = culprit or finder.crossed.merged(given, expected)
    culprit = culprit or finder.places.handed_over(index, wrong, numbers)
    return replace(fault, culprit=culprit, modules=[culprit.module])


def _container(argument: str) -> str:
    """The argument that a leaf lies in: ``[4].freqs_cis`` of ``[4].freqs_cis[0]``; ``""`` for an argument itself."""
    return argument.rpartition("[")[0]


def deaf(
    comparison: Comparison,
    links: Collection[Link],
    forced: Collection[str],
    fault: Fault,
    index: int,
    unused: list[str],
) -> Fault:
    """The same fault, blamed on call ``index``, which makes no use of the arguments ``unused``."""
    finder = _Finder(comparison, links, forced)
    numbers = f"fed with official tensors, {_named_target(fault)} is off by {fault.error:.2g} relative"
    culprit = finder.places.deaf(index, unused, numbers)
    return replace(fault, culprit=culprit, modules=[culprit.module])


def _named_target(fault: Fault) -> str:
    """What a fault's error is measured at, in words."""
    module, _, where = fault.target
    return f"what {module or 'the model'} {'returns' if where == 'outputs' else 'is handed'}"


class _Finder:
    def __init__(self, comparison: Comparison, links: Collection[Link], forced: Collection[str]) -> None:
        self.comparison = comparison
        self.forced = forced
        boundaries = comparison.boundaries(keep_mispaired=True)
        self.blame = Blame(comparison, boundaries)
        self.places = Places(comparison, self.blame, {b.index for b in boundaries})
        self.crossed = CrossedWeights(comparison, self.blame, links)
        self.wrong = {
            b.index: b
            for b in boundaries
            if (not b.ratio <= BOUNDARY_FAIL or b.bias > BIAS_FAIL) and self.counterparts(b)
        }
        self.spoilt: set[int] = set()
        self.handed: dict[int, set[int]] = {}
        self.made_by: dict[int, Culprit] = {}  # where a tensor that the official model does not have was first seen

    def counterparts(self, boundary: Boundary) -> bool:
        """Whether a pair may accuse: one that was only inferred from values has to take the same tensors."""
        if self.comparison.pairs[boundary.port].how != "value":
            return True
        return self.blame.misplaced(self.comparison.port.calls[boundary.index]) == []

    def faults(self) -> list[Fault]:
        calls = self.comparison.port.calls
        found: list[tuple[int, Fault]] = []
        for index, call in enumerate(calls):
            fault = self.inputs(index, call)
            if fault is not None:
                found.append((index, fault))
        for index, boundary in sorted(self.wrong.items(), key=lambda pair: calls[pair[0]].ended):
            if not self.inherited(index):
                found.append((index, self.outputs(index, calls[index], boundary)))
        # In the order in which the places were left: what is wrong inside a module comes before the module.
        return [fault for _, fault in sorted(found, key=lambda pair: calls[pair[0]].ended)]

    def inputs(self, index: int, call: Call) -> Fault | None:
        """The code before a call, when the call is handed something else than the official one."""
        pair = self.comparison.pairs.get(call.module)
        wrong = self.blame.misplaced(call) if pair is not None and pair.how != "value" else None
        if not wrong:
            return None
        self.spoil(index)
        if not all("float" in self.comparison.port.tensors[tensor].dtype for tensor in wrong):
            self.spoilt.add(index)  # ids and boolean masks are not replaced
        if self.handed_on(index, wrong):
            return None
        self.handed[index] = set(wrong)
        error = self.worst_input(call, wrong)
        numbers = f"fed with official tensors, its error is {error:.2g} relative"
        if self.blame.keeps_out_others(call, wrong):
            numbers = "it is a mask that keeps out other positions"
        culprit = self.made_by.get(wrong[0]) if len({self.made_by.get(tensor) for tensor in wrong}) == 1 else None
        culprit = culprit or self.crossed.behind(call, wrong) or self.places.before(index, wrong, numbers)
        for tensor in wrong:
            if not self.comparison.as_it_stands(tensor):
                self.made_by.setdefault(tensor, culprit)
        name = call.module
        if "::" in name:
            owner = name.partition("::")[0]
            point: tuple[str, Where] = (owner, "outputs")
            target = self.next_forced(index) or (owner, self.occurrence_of(call, owner), "outputs")
        else:
            point, target = (name, "inputs"), (name, call.occurrence, "inputs")
        if culprit.kind == "glue":
            self.spoilt.add(call.parent)  # its own code goes on with the wrong tensor
        points = [point]
        # What is handed to one call may be used further on (a residual): the caller's output is mended with it.
        if culprit.kind != "weights" and (around := self.forced_around(culprit.module)) and around != name:
            points.append((around, "outputs"))
        return Fault(culprit, error, points, target)

    def next_forced(self, index: int) -> tuple[str, int, Where] | None:
        """What the next call beside a function's is handed, if that call is forced: behind it the error is gone."""
        calls = self.comparison.port.calls
        for later in self.comparison.port.children(calls[index].parent):
            if later > index and calls[later].module in self.forced:
                return calls[later].module, calls[later].occurrence, "inputs"
        return None

    def forced_around(self, module: str) -> str:
        """The innermost module that contains a module, or is it, and has a counterpart; ``""`` for none."""
        while module and module not in self.forced:
            module = module.rpartition(".")[0]
        return module

    def handed_on(self, index: int, wrong: list[int]) -> bool:
        """Whether an enclosing call was handed these wrong tensors already, and is blamed for them."""
        parent = self.comparison.port.calls[index].parent
        while parent >= 0:
            if set(wrong) <= self.handed.get(parent, set()):
                return True
            parent = self.comparison.port.calls[parent].parent
        return False

    def worst_input(self, call: Call, wrong: list[int]) -> float:
        pair = self.comparison.pairs[call.module]
        other = self.comparison.reference_calls[pair.official, call.occurrence]
        in_place = [(mine, theirs) for (_, mine), (_, theirs) in zip(call.inputs, other.inputs, strict=False)]
        known = [(mine, self.blame.expected[mine]) for mine in wrong if mine in self.blame.expected]
        errors = []
        for mine, theirs in known or in_place:
            if "float" not in self.comparison.port.tensors[mine].dtype:
                continue
            found = self.comparison.errors(mine, theirs)
            if found is not None and math.isfinite(found[0]):
                errors.append(found[0])
        return max(errors, default=math.inf)

    def occurrence_of(self, call: Call, owner: str) -> int:
        parent = call.parent
        while parent >= 0 and self.comparison.port.calls[parent].module != owner:
            parent = self.comparison.port.calls[parent].parent
        return self.comparison.port.calls[parent].occurrence if parent >= 0 else 0

    def spoil(self, index: int) -> None:
        """Note a call whose wrong inputs could not be replaced: what it and its callers return is wrong with them."""
        name = self.comparison.port.calls[index].module
        while index >= 0 and ("::" in name or name not in self.forced):
            self.spoilt.add(index)
            index = self.comparison.port.calls[index].parent
            name = self.comparison.port.calls[index].module if index >= 0 else ""
        if index >= 0 and "::" in self.comparison.port.calls[index].module:
            self.spoilt.add(index)

    def inherited(self, index: int) -> bool:
        """Whether a wrong output is explained by what was already found inside the call or at its inputs."""
        if index in self.spoilt:
            return True
        children = self.comparison.port.children(index)
        return any(child in self.spoilt or self.unforced_and_wrong(child) for child in children)

    def unforced_and_wrong(self, index: int) -> bool:
        call = self.comparison.port.calls[index]
        unforced = "::" in call.module or call.module not in self.forced
        return unforced and index in self.wrong

    def outputs(self, index: int, call: Call, boundary: Boundary) -> Fault:
        numbers = f"fed with official tensors, its error is {_times(boundary)} the official code's own there"
        if boundary.ratio <= BOUNDARY_FAIL:
            numbers += f", and all in one direction ({boundary.bias:.0f} times what rounding does to its length)"
        culprit = self.places.inside(index, numbers)
        owner = call.module.partition("::")[0]
        occurrence = call.occurrence if owner == call.module else self.occurrence_of(call, owner)
        receiver = self.places.receiver.get(culprit)
        target: tuple[str, int, Where] = (owner, occurrence, "outputs")
        return Fault(culprit, boundary.port_error, [(owner, "outputs")], target, receiver=receiver)


def _times(boundary: Boundary) -> str:
    return "not finite, no multiple of" if math.isnan(boundary.ratio) else f"{boundary.ratio:.3g} times"


def in_another_order(culprit: Culprit, layout: str) -> Culprit:
    """The culprit, which says that its values are the official ones in another order."""
    return replace(culprit, why=f"{culprit.why} The values are the official ones, {layout}.")


def with_repeats(fault: Fault) -> Culprit:
    """The culprit, which says where else the same code is wrong."""
    if len(fault.modules) < 2:
        return fault.culprit
    others = ", ".join(name or "the model" for name in fault.modules[1:4])
    more = f" and {len(fault.modules) - 4} more" if len(fault.modules) > 4 else ""
    return replace(fault.culprit, why=f"{fault.culprit.why} The same at {others}{more}.")
