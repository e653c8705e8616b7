"""Which module of the port is which module of the official model, although the names differ."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .proof import Link
from .sketch import sketch_distance
from .trace import Call, Trace

_SAME_VALUE = 1e-5


@dataclass(frozen=True)
class Pair:
    """A port module and its official counterpart.

    Attributes:
        port, official: Qualified names.
        how: ``adapter``, ``weights``, ``name``, ``order`` or ``value``.
    """

    port: str
    official: str
    how: str


def _module_of(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _ancestors(name: str) -> Iterable[str]:
    """The module itself and everything around it, up to the root."""
    yield name
    while name:
        name = name.rpartition(".")[0]
        yield name


def pair_modules(links: list[Link], port: Trace, official: Trace, overrides: dict[str, str]) -> dict[str, Pair]:
    """Pair modules: the adapter's word, then the weights they hold, then names below paired parents, order, values."""
    pairs = {p: Pair(p, o, "adapter") for p, o in overrides.items() if p in port.modules and o in official.modules}
    held_official: dict[str, set[str]] = defaultdict(set)
    held_port: dict[str, set[str]] = defaultdict(set)
    for link in links:
        for name in _ancestors(_module_of(link.official)):
            held_official[name].add(link.official)
        home = _module_of(link.port)
        for name in _ancestors(home):
            if (
                link.part is None or name != home
            ):  # of a split tensor each module holds a part: none is the official one
                held_port[name].add(link.official)
    _by_weights(pairs, held_port, held_official, port, official)
    _by_name(pairs, held_port, held_official, port, official)
    _functions_by_order(pairs, port, official)
    _by_value(pairs, held_port, held_official, port, official)
    _activations_by_input(pairs, port, official)
    return pairs


def _by_weights(
    pairs: dict[str, Pair],
    held_port: dict[str, set[str]],
    held_official: dict[str, set[str]],
    port: Trace,
    official: Trace,
) -> None:
    """Modules that hold the same official tensors, the outermost with the outermost."""
    groups: dict[frozenset[str], list[str]] = defaultdict(list)
    for name, held in held_official.items():
        if name in official.modules:
            groups[frozenset(held)].append(name)
    mine: dict[frozenset[str], list[str]] = defaultdict(list)
    for name, held in held_port.items():
        if name in port.modules and name not in pairs:
            mine[frozenset(held)].append(name)
    for tensors, names in mine.items():
        others = sorted(groups.get(tensors, []), key=lambda name: name.count(".") + bool(name))
        names.sort(key=lambda name: name.count(".") + bool(name))
        if len(names) == len(others):
            matched = list(zip(names, others, strict=True))
        elif others and names:
            # One side wraps the other: the innermost modules hold the tensors themselves.
            matched = [(names[-1], others[-1])]
            if len(names) > 1 and len(others) > 1:
                matched.append((names[0], others[0]))
        else:
            matched = []
        for p, o in matched:
            pairs[p] = Pair(p, o, "weights")


def _by_name(
    pairs: dict[str, Pair],
    held_port: dict[str, set[str]],
    held_official: dict[str, set[str]],
    port: Trace,
    official: Trace,
) -> None:
    """Children of one name below paired parents, unless weights, inputs or output sizes say that they differ.

    FastVideo wraps a norm together with its modulation; then the norm inside it is the counterpart.
    """
    taken = {pair.official for pair in pairs.values()}
    mine, theirs = _first_calls(port), _first_calls(official)
    inner: dict[str, list[str]] = defaultdict(list)
    for name in port.modules:
        inner[name.rpartition(".")[0]].append(name)
    for name in sorted(port.modules, key=lambda name: name.count(".")):
        parent, _, child = name.rpartition(".")
        if name in pairs or not name or parent not in pairs:
            continue
        other = f"{pairs[parent].official}.{child}".lstrip(".")
        if other not in official.modules or other in taken:
            continue
        for candidate in (name, *inner[name]):
            same_weights = held_port.get(candidate, set()) == held_official.get(other, set())
            if (
                candidate not in pairs
                and same_weights
                and _alike(port, mine.get(candidate), official, theirs.get(other))
            ):
                pairs[candidate] = Pair(candidate, other, "name")
                taken.add(other)
                break


def _first_calls(trace: Trace) -> dict[str, Call]:
    return {call.module: call for call in reversed(trace.calls)}


def _alike(port: Trace, mine: Call | None, official: Trace, theirs: Call | None) -> bool:
    """Whether two calls take equally many tensors and return equally large ones; containers that are not called do."""
    if mine is None or theirs is None:
        return mine is theirs
    return _sizes(port, mine.outputs) == _sizes(official, theirs.outputs) and len(_sizes(port, mine.inputs)) == len(
        _sizes(official, theirs.inputs)
    )


def _sizes(trace: Trace, tensors: list[tuple[str, int]]) -> list[int]:
    return [trace.tensors[index].elements for _, index in tensors if trace.tensors[index].elements > 1]


def _functions_by_order(pairs: dict[str, Pair], port: Trace, official: Trace) -> None:
    """Traced functions below paired modules, when both sides call equally many of that name."""
    mine, theirs = _functions_under(port), _functions_under(official)
    for name, function in sorted(mine, key=lambda key: -key[0].count(".")):
        pair = pairs.get(name)
        if pair is None:
            continue
        names, others = mine[name, function], theirs.get((pair.official, function), [])
        if len(names) == len(others):
            for p, o in zip(names, others, strict=True):
                pairs.setdefault(p, Pair(p, o, "order"))


def _functions_under(trace: Trace) -> dict[tuple[str, str], list[str]]:
    """Traced functions by the modules around them and their own name, in order."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for call in trace.calls:
        module, traced, function = call.module.partition("::")
        if traced:
            for name in _ancestors(module):
                if call.module not in found[name, function]:
                    found[name, function].append(call.module)
    return found


def _by_value(
    pairs: dict[str, Pair],
    held_port: dict[str, set[str]],
    held_official: dict[str, set[str]],
    port: Trace,
    official: Trace,
) -> None:
    """What is left, if exactly one free official module returns the same values and holds the same weights."""
    taken = {pair.official for pair in pairs.values()}
    free = [call for call in official.calls if call.module not in taken and call.outputs and call.occurrence == 0]
    for call in port.calls:
        if call.module in pairs or not call.outputs or call.occurrence:
            continue
        same = [
            other
            for other in free
            if held_port.get(call.module, set()) == held_official.get(other.module, set())
            and _same_output(port, call, official, other)
        ]
        if len(same) == 1 and same[0].module not in taken:
            pairs[call.module] = Pair(call.module, same[0].module, "value")
            taken.add(same[0].module)


def _activations_by_input(pairs: dict[str, Pair], port: Trace, official: Trace) -> None:
    """Activations hold nothing and may return something else: the one free activation that takes the same values."""
    taken = {pair.official for pair in pairs.values()}
    free = [
        call for call in official.calls if call.module not in taken and call.occurrence == 0 and _is_activation(call)
    ]
    for call in port.calls:
        if call.module in pairs or call.occurrence or not _is_activation(call):
            continue
        same = [
            other
            for other in free
            if other.module not in taken
            and _sizes(port, call.outputs) == _sizes(official, other.outputs)
            and len(call.inputs) == len(other.inputs) == 1
            and _equal(port, call.inputs[0][1], official, other.inputs[0][1])
        ]
        if len(same) == 1:
            pairs[call.module] = Pair(call.module, same[0].module, "value")
            taken.add(same[0].module)


def _is_activation(call: Call) -> bool:
    return any(name in call.cls.lower() for name in ("gelu", "silu", "swish", "relu", "sigmoid", "tanh", "activation"))


def _equal(port: Trace, mine: int, official: Trace, theirs: int) -> bool:
    a, b = port.tensors[mine], official.tensors[theirs]
    return a.elements == b.elements > 1 and sketch_distance(a, b) < _SAME_VALUE


def _same_output(port: Trace, call: Call, official: Trace, other: Call) -> bool:
    return _equal(port, call.outputs[0][1], official, other.outputs[0][1])


def coverage(pairs: dict[str, Pair], port: Trace) -> dict[str, object]:
    """How many of the port's called modules have a partner, and how the partners were found."""
    called = {call.module for call in port.calls}
    found = [pairs[name] for name in called if name in pairs]
    return {
        "modules": len(called),
        "paired": len(found),
        "how": dict(Counter(pair.how for pair in found)),
        "unpaired": sorted(called - set(pairs))[:20],
    }
