"""Can these weights fit that port? Names and shapes only; certain, or no answer."""

from __future__ import annotations

import difflib
import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping

from .mapping import Finding, Plan
from .proof import Proof
from .suggest import Place, suggest
from .weights import Entry

Shape = tuple[int, ...]


def misfit(
    official: Mapping[str, Entry],
    port: Mapping[str, Shape],
    plan: Plan | None,
    *,
    refused: str = "",
    buffers: Collection[str] = (),
    unused: Collection[str] = (),
) -> Proof | None:
    """What cannot fit, or none when it can or when only values can tell.

    Args:
        official: The official tensors.
        port: The port's names and shapes.
        plan: What the rules do, or none if the port loads in another way.
        refused: What the port's own loader said when it refused these names and shapes; empty if it took them.
        buffers: Port tensors that code may compute for itself.
        unused: Official names that are declared to be left out on purpose.
    """
    proof = Proof(tensors=(0, len(official)), parameters=(0, sum(item.elements for item in official.values())))
    claimed: set[str] = set()
    placed: set[str] = set()
    for target, sources in plan.targets.items() if plan is not None else ():
        if target not in port:
            continue
        names = [source.name for source in sources]
        claimed.add(target)
        placed.update(names)
        shape = _merged([official[name].shape for name in names]) if sources[0].index is not None else None
        shape = shape if sources[0].index is not None else official[names[-1]].shape
        if shape != port[target]:
            proof.shape_mismatches.append((" + ".join(names), target, shape or (), port[target]))
    stray = [name for name in official if name not in placed and name not in unused]
    empty = [target for target in port if target not in claimed and target not in buffers]
    if refused:
        # A padded vocabulary, or a tensor of as many elements, may be what a loader of its own makes of it.
        hard = [row for row in proof.shape_mismatches if not _may_hold(row[2], row[3])]
        if plan is None or not (stray or empty or hard):
            return None  # the loader refused something else: only the real load can tell
    else:
        # The loader takes them, in a way that rules may not describe: certain is only what has no place left at all.
        proof.shape_mismatches = []
        if plan is None or any(_may_hold(official[name].shape, port[t]) for name in stray for t in empty):
            return None
        fed = {port[target] for target in claimed}
        held = {official[name].shape for name in placed}
        stray = [name for name in stray if official[name].shape not in held]  # else it may be tied to one of them
        empty = [target for target in empty if port[target] not in fed]
        if any(_larger(port[target], official[name].shape) for name in stray for target in claimed):
            return None  # rows of a tensor that another one feeds as well
        if not (stray or empty):
            return None
    proof.unexpected, proof.missing = stray, empty
    if refused:
        proof.findings.append(Finding("load-failed", f"The port's loader refused the weights: {refused}"))
    if plan is not None:
        proof.findings += plan.findings
        places = nearest({n: official[n].shape for n in stray}, {t: port[t] for t in empty})
        proof.suggestions = suggest(places, plan.rules, official, "by names and shapes; no value was read")
    return proof


def _merged(shapes: list[Shape]) -> Shape | None:
    if not all(shapes) or len({shape[1:] for shape in shapes}) != 1:
        return None
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _may_hold(one: Shape, other: Shape) -> bool:
    """Whether one tensor may be the other, or rows of it: as many elements, or rows of one size."""
    return math.prod(one) == math.prod(other) or (bool(one) and len(one) == len(other) and one[1:] == other[1:])


def _larger(port: Shape, official: Shape) -> bool:
    return bool(official) and len(port) == len(official) and port[1:] == official[1:] and port[0] > official[0]


def nearest(stray: Mapping[str, Shape], empty: Mapping[str, Shape]) -> list[Place]:
    """The empty target for each stray tensor: equal shapes, equal numbers, the nearest name; block by block alike."""
    strays, goals = _families(stray), _families(empty)
    scores = []
    for family, names in strays.items():
        for goal, targets in goals.items():
            pairs = [(numbers, name, targets.get(numbers)) for numbers, name in names.items()]
            if all(target is not None and stray[name] == empty[target] for _, name, target in pairs):
                same = len(set(family.split(".")) & set(goal.split(".")))
                score = (same, difflib.SequenceMatcher(None, family, goal).ratio())
                scores.append((score, family, goal, [(name, str(target)) for _, name, target in pairs]))
    places, used = [], set()
    for _, family, goal, rows in sorted(scores, reverse=True):
        if family not in used and goal not in used:
            used |= {family, goal}
            places += [Place(name, target) for name, target in rows]
    return places


def _families(names: Mapping[str, Shape]) -> dict[str, dict[tuple[str, ...], str]]:
    """Names that differ in block numbers only (a number behind the first part of a name that has several)."""
    found: dict[str, dict[tuple[str, ...], str]] = defaultdict(dict)
    for name in names:
        numbers = re.search(r"\.(\d+)(?=\.)", name)
        key = name if numbers is None else f"{name[: numbers.start()]}.#{name[numbers.end() :]}"
        found[key][(numbers.group(1),) if numbers else ()] = name
    return found
