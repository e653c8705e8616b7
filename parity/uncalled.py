"""A module whose weights arrived and that is never called."""

from __future__ import annotations

from collections.abc import Mapping

from .blame import Culprit
from .pairing import Pair
from .passing import Where
from .trace import Call, Trace


def never_called(port: Trace, official: Trace, pairs: Mapping[str, Pair]) -> Culprit | None:
    """The place that should call the innermost such module; none if there is no such module.

    It proves nothing alone: a port may hand the weights to a function. So it is asked only where a port fails and no
    experiment explains why.

    Args:
        port, official: One forward of each.
        pairs: Of all modules, by port module; those that hold the same weights count.
    """
    pair = idle_module(port, official, pairs)
    if pair is None:
        return None
    owner = caller_of(port, pair.port)
    info = port.modules.get(owner)
    why = (
        f"The official model calls {pair.official!r}; the port holds its weights in {pair.port!r} and never calls that "
        f"module. Nothing else explains the difference. Look at where {owner or 'the model'} should call it."
    )
    file, line, end = (info.file, info.line, info.end_line) if info else ("", 0, 0)
    return Culprit(owner, pairs[owner].official if owner in pairs else None, "glue", file, line, end, why, "likely")


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
