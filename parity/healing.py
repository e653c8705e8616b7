"""Where both sides round alike: excuse the first difference, and put the official values in its place.

Official code computes some things in float32 whatever it is asked for (the sinusoids of a timestep: at t = 1000 a last
bit of a frequency is 6e-5 of an angle). The float64 reference keeps these casts, so a port that rounds there in another
order looks wrong, although it is as near to the exact value as the official code is. It is excused if, and only if, in
a reference without any cast the port is no farther from the truth than the official model, and this is the place where
the official model itself begins to round: not one that only hands on what was rounded within. The port is then run once
more with the official values at that place, so that what comes after is judged as strictly as ever: lifting the casts
everywhere would hide an epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .boundaries import Boundary, Comparison
from .leaves import leaves, swap_leaf
from .passing import Where, passing
from .sketch import sketch_distance
from .trace import Call, Trace
from .verdict import BIAS_FAIL, BOUNDARY_FAIL, FLOOR, OUTPUT_PASS

EXCUSABLE = 2.0
"""How much farther from the exact values the port may be than the official model, where both round."""
_BEGINS = 4.0
"""How much the official model's rounding must grow at a place to begin there."""


@dataclass(frozen=True)
class Excuse:
    """One tensor that both sides round, each in its own way.

    Attributes:
        port, official: Modules whose input (or output) it is.
        occurrence: Which of their calls.
        where: ``inputs`` or ``outputs``.
        port_name, official_name: Names of the leaf among them.
        ratio: Port's over official error against the reference without casts.
        error: The official model's error there.
    """

    port: str
    official: str
    occurrence: int
    where: str
    port_name: str
    official_name: str
    ratio: float
    error: float

    def to_json(self) -> dict[str, Any]:
        """The excuse as JSON."""
        return asdict(self)


def find_excuse(comparison: Comparison, boundaries: list[Boundary], lifted: Trace, done: list[Excuse]) -> Excuse | None:
    """The first tensor at which the port differs, if it is excusable; else none."""
    calls = comparison.port.calls
    truth = {(call.module, call.occurrence): call for call in lifted.calls}
    compared = {(boundary.official, calls[boundary.index].occurrence) for boundary in boundaries}
    for boundary in sorted(boundaries, key=lambda b: calls[b.index].ended):
        if boundary.ratio <= OUTPUT_PASS and boundary.bias <= _BEGINS * OUTPUT_PASS:
            continue
        mine = calls[boundary.index]
        key = (boundary.official, mine.occurrence)
        theirs, exact = comparison.official_calls.get(key), truth.get(key)
        if theirs is None or exact is None:
            return None
        for where in ("inputs", "outputs"):
            found = _excuse(comparison, lifted, mine, theirs, exact, where, compared)
            if found is not None:
                repeated = any((e.port, e.occurrence, e.where) == (found.port, found.occurrence, where) for e in done)
                return None if repeated else found
        if not boundary.ratio <= BOUNDARY_FAIL or boundary.bias > BIAS_FAIL:
            return None  # a place that is wrong comes before any that only rounds
    return None


def _excuse(
    comparison: Comparison,
    lifted: Trace,
    mine: Call,
    theirs: Call,
    exact: Call,
    where: str,
    compared: set[tuple[str, int]],
) -> Excuse | None:
    ours, official, truth = (getattr(call, where) for call in (mine, theirs, exact))
    if len(official) != len(truth):
        return None
    for place, (name, index) in enumerate(official):
        reference, original = lifted.tensors[truth[place][1]], comparison.official.tensors[index]
        for port_name, port_index in ours:
            tensor = comparison.port.tensors[port_index]
            if not tensor.elements == reference.elements == original.elements > 1:
                continue
            own = sketch_distance(original, reference)
            error = sketch_distance(tensor, reference)
            direct = sketch_distance(tensor, original)
            if not math.isfinite(error) or direct <= FLOOR or own <= _BEGINS * FLOOR:
                continue
            if error <= EXCUSABLE * own and _begins_here(comparison, lifted, theirs, index, own, compared):
                return Excuse(mine.module, theirs.module, mine.occurrence, where, port_name, name, error / own, own)
    return None


def _begins_here(
    comparison: Comparison, lifted: Trace, where: Call, index: int, own: float, compared: set[tuple[str, int]]
) -> bool:
    """Whether what the tensor was computed from is not already off by as much.

    That is: the inputs of the call that returned it, and what was compared inside of that call (the whole model's
    inputs are exact, and what it returns is rounded where one of its modules rounds); or, where code between two calls
    made it, the inputs of the enclosing call and the outputs of the calls before it in there.
    """
    calls = comparison.official.calls
    exact = {(call.module, call.occurrence): call for call in lifted.calls}

    def off(call: Call, side: str) -> float:
        twin = exact.get((call.module, call.occurrence))
        mine, theirs = getattr(call, side), getattr(twin, side) if twin else []
        if len(mine) != len(theirs):
            return 0.0
        return max((_off(comparison, lifted, a, b) for (_, a), (_, b) in zip(mine, theirs, strict=True)), default=0.0)

    makers = [call for call in calls if any(tensor == index for _, tensor in call.outputs)]
    if makers:
        maker = min(makers, key=lambda call: call.ended)
        inner = [call for call in _inside(calls, maker) if (call.module, call.occurrence) in compared]
        before = [off(call, side) for call in inner for side in ("inputs", "outputs")]
        return max([off(maker, "inputs"), *before]) * _BEGINS <= own
    around = [calls[where.parent]] if where.parent >= 0 else []
    earlier = [call for call in calls if call.parent == where.parent and call.ended < where.ended]
    return max([off(c, "inputs") for c in around] + [off(c, "outputs") for c in earlier], default=0.0) * _BEGINS <= own


def _inside(calls: list[Call], maker: Call) -> Iterator[Call]:
    """The calls that were made while ``maker`` ran."""
    inside = {next(index for index, call in enumerate(calls) if call is maker)}
    for index, call in enumerate(calls):
        if call.parent in inside:
            inside.add(index)
            yield call


def _off(comparison: Comparison, lifted: Trace, original: int, exact: int) -> float:
    a, b = comparison.official.tensors[original], lifted.tensors[exact]
    return sketch_distance(a, b) if a.elements == b.elements and a.elements > 1 else 0.0


def looked_past(excuses: list[Excuse], port: Trace) -> set[tuple[str, str]]:
    """``(module, where)`` of every call that takes or returns a tensor of the excuses: a caller hands it on to a part.

    Args:
        excuses: What was excused.
        port: The port's trace in float32.
    """
    found = {(excuse.port, excuse.where) for excuse in excuses}
    tensors = {
        dict(getattr(call, excuse.where)).get(excuse.port_name)
        for excuse in excuses
        for call in port.calls
        if (call.module, call.occurrence) == (excuse.port, excuse.occurrence)
    } - {None}
    for call in port.calls:
        for where in ("inputs", "outputs"):
            if any(index in tensors for _, index in getattr(call, where)):
                found.add((call.module, where))
    return found


@contextmanager
def capturing(model: torch.nn.Module, excuses: list[Excuse], folder: Path, key: str) -> Iterator[None]:
    """Save the official tensors of the excuses while the block runs, one file each."""

    def take(module: str, occurrence: int, where: Where, values: Any) -> None:
        for number, excuse in enumerate(excuses):
            if (excuse.official, excuse.occurrence, excuse.where) == (module, occurrence, where):
                tensor = dict(leaves(values))[excuse.official_name]
                torch.save(tensor.detach().cpu().clone(), _file(folder, number, key))

    with passing(model, take, {excuse.official for excuse in excuses}):
        yield


@contextmanager
def healing(model: torch.nn.Module, excuses: list[Excuse], folder: Path, key: str) -> Iterator[None]:
    """Put the saved official tensors in place of the port's while the block runs."""

    def put(module: str, occurrence: int, where: Where, values: Any) -> Any:
        for number, excuse in enumerate(excuses):
            if (excuse.port, excuse.occurrence, excuse.where) == (module, occurrence, where):
                tensor = torch.load(_file(folder, number, key), weights_only=True)
                values = swap_leaf(values, excuse.port_name, tensor)
        return values

    with passing(model, put, {excuse.port for excuse in excuses}):
        yield


def _file(folder: Path, number: int, key: str) -> Path:
    return folder / f"heal.{number}.{key}.pt"
