"""A module whose weights arrived and that is never called."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from .blame import Culprit
from .pairing import Pair
from .passing import Where
from .trace import Call, Trace

_MORE = 3
"""Lines after the last call of a function in which the next one is looked for."""


def never_called(
    port: Trace, official: Trace, pairs: Mapping[str, Pair], among: Collection[str] | None = None
) -> Culprit | None:
    """The place that should call the innermost such module; none if there is no such module.

    It proves nothing alone: a port may hand the weights to a function. So it is asked only where a port fails and no
    experiment explains why, or for modules on whose weights nothing that the port returns depends.

    Args:
        port, official: One forward of each.
        pairs: Of all modules, by port module; those that hold the same weights count.
        among: Port modules that may be named; all of them if not given.
    """
    allowed = {name: pair for name, pair in pairs.items() if among is None or name in among}
    pair = idle_module(port, official, allowed)
    if pair is None:
        return None
    owner = caller_of(port, pair.port)
    alone = (
        "Nothing else explains the difference." if among is None else "Nothing that the port returns depends on them."
    )
    why = (
        f"The official model calls {pair.official!r}; the port holds its weights in {pair.port!r} and never calls that "
        f"module. {alone} Look at where {owner or 'the model'} should call it."
    )
    file, line, end = _lines(port, official, pairs, pair, owner)
    return Culprit(owner, pairs[owner].official if owner in pairs else None, "glue", file, line, end, why, "likely")


def _lines(port: Trace, official: Trace, pairs: Mapping[str, Pair], idle: Pair, owner: str) -> tuple[str, int, int]:
    """Where the call is missing: between those of the modules that the official code calls before and after it."""
    partner = {pair.official: pair.port for pair in pairs.values()}
    first = next(index for index, call in enumerate(official.calls) if call.module == idle.official)
    around, counterpart = official.calls[first].parent, pairs[owner].official if owner in pairs else ""
    while around >= 0 and official.calls[around].module != counterpart:
        first, around = around, official.calls[around].parent
    beside = [index for index, call in enumerate(official.calls) if call.parent == around and "::" not in call.module]
    calls = {call.module: call for call in reversed(port.calls)}

    def near(indices: Iterable[int]) -> Call | None:
        found = (calls.get(partner.get(official.calls[index].module, "")) for index in indices)
        return next((call for call in found if call is not None and caller_of(port, call.module) == owner), None)

    before, after = near(i for i in reversed(beside) if i < first), near(i for i in beside if i > first)
    if before is not None:
        same = after is not None and (after.file, after.function) == (before.file, before.function)
        end = after.line if after is not None and same and after.line >= before.line else before.line + _MORE
        return before.file, before.line, end
    info = port.modules.get(owner)
    return (info.file, info.line, info.end_line) if info else ("", 0, 0)


def idle_module(port: Trace, official: Trace, pairs: Mapping[str, Pair]) -> Pair | None:
    """The innermost module that only the official model calls; the first in the official order."""
    called = {call.module for call in port.calls}
    order: dict[str, int] = {}
    for number, call in enumerate(official.calls):
        order.setdefault(call.module, number)
    idle = [p for p in pairs.values() if p.how == "weights" and p.port not in called and p.official in order and p.port]
    inner = [p for p in idle if not any(name.startswith(f"{p.port}.") for name in port.modules)]
    return min(inner, key=lambda p: order[p.official], default=None)


def caller_of(port: Trace, module: str) -> str:
    """The innermost called module around one that is not called; ``""`` for the model."""
    called = {call.module for call in port.calls}
    owner = module.rpartition(".")[0]
    while owner and owner not in called:
        owner = owner.rpartition(".")[0]
    return owner


def places_for(port: Trace, module: str) -> list[tuple[str, Where, Call]]:
    """Where the module could be called: after or before each module that its caller calls, the last first."""
    owner = caller_of(port, module)
    beside: dict[str, Call] = {}
    for call in port.calls:
        around = port.calls[call.parent].module if call.parent >= 0 else ""
        if around == owner and call.module and "::" not in call.module:
            beside.setdefault(call.module, call)
    calls = list(reversed(beside.values()))
    return [(c.module, "outputs", c) for c in calls] + [(c.module, "inputs", c) for c in calls]
