"""A module whose weights arrived and that is never called."""

from __future__ import annotations

from collections.abc import Mapping

from .blame import Culprit
from .pairing import Pair
from .trace import Trace


def never_called(port: Trace, official: Trace, pairs: Mapping[str, Pair]) -> Culprit | None:
    """The innermost such module, if the official model calls its counterpart; the first in the official order.

    It proves nothing alone: a port may hand the weights to a function. So it is asked only where a port fails and no
    experiment explains why.

    Args:
        port, official: One forward of each.
        pairs: Of all modules, by port module; those that hold the same weights count.
    """
    called = {call.module for call in port.calls}
    order: dict[str, int] = {}
    for number, call in enumerate(official.calls):
        order.setdefault(call.module, number)
    idle = [p for p in pairs.values() if p.how == "weights" and p.port not in called and p.official in order and p.port]
    inner = [p for p in idle if not any(name.startswith(f"{p.port}.") for name in port.modules)]
    if not inner:
        return None
    pair = min(inner, key=lambda p: order[p.official])
    owner = pair.port.rpartition(".")[0]
    while owner and owner not in called:
        owner = owner.rpartition(".")[0]
    info = port.modules.get(owner)
    why = (
        f"The official model calls {pair.official!r}; the port holds its weights in {pair.port!r} and never calls that "
        f"module. Nothing else explains the difference. Look at where {owner or 'the model'} should call it."
    )
    file, line, end = (info.file, info.line, info.end_line) if info else ("", 0, 0)
    return Culprit(owner, pairs[owner].official if owner in pairs else None, "glue", file, line, end, why, "likely")
