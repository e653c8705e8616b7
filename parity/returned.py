"""A port that computes the official output and returns something else: another layer's, or one step too far."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .blame import Culprit, named
from .metrics import distance
from .pairing import Pair
from .sketch import fingerprint, sketch_distance
from .trace import Call, Trace

_SAME = 1e-5
"""Relative L2 below which a tensor of the port is the official output."""
_OTHER = 1e-3
"""Relative L2 above which the port's output is another one."""


def returned_instead(
    port: Trace, pairs: Mapping[str, Pair], outputs: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> Culprit | None:
    """The code after the call that returned the official output, if there is one for every output that is wrong.

    Args:
        port: A free run of the port, in float32.
        pairs: For the name of the official counterpart.
        outputs, expected: What the port and the official model returned in that run, by name.
    """
    wrong = [name for name, tensor in expected.items() if name in outputs and _differs(outputs[name], tensor)]
    makers = [_maker(port, expected[name]) for name in wrong]
    found = [call for call in makers if call is not None]
    if not wrong or len(found) < len(wrong):
        return None
    call = max(found, key=lambda one: one.ended)
    if not call.module:
        return None  # the model itself returns it: the adapter hands on another output
    caller = port.calls[call.parent] if call.parent >= 0 else None  # none: a method that is not its forward calls it
    module = caller.module if caller else ""
    info = port.modules.get(module)
    name = named(caller) if caller else "the model"
    why = (
        f"What {named(call)} (line {call.line}) returns is the official output {wrong[0]!r}, and the port returns "
        f"something else. Look at what {name} and its callers do with it afterwards: which of the hidden states is "
        "returned, and what is still applied to it."
    )
    pair = pairs.get(module)
    inside = caller is not None and info is not None and info.file == call.file
    return Culprit(
        module,
        pair.official if pair else None,
        "glue",
        call.file,
        call.line,
        info.end_line if info is not None and inside else call.line,
        why,
        "certain",
    )


def _differs(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    if mine.shape != theirs.shape:
        return True
    return not distance(mine, theirs).relative_l2 <= _OTHER


def _maker(port: Trace, expected: torch.Tensor) -> Call | None:
    """The first call that returned a tensor, or the outermost around it that returned nothing but that tensor."""
    if expected.numel() < 2 or not expected.is_floating_point():
        return None
    wanted = fingerprint(expected)
    same = {
        index
        for index, tensor in enumerate(port.tensors)
        if tensor.elements == wanted.elements and sketch_distance(tensor, wanted) <= _SAME
    }
    made = [c for c in port.calls if "::" not in c.module and c.ended >= 0 and same & {i for _, i in c.outputs}]
    call = min(made, key=lambda call: call.ended, default=None)
    while call is not None and call.parent >= 0:
        around = port.calls[call.parent]
        if len(around.outputs) != 1 or around.outputs[0][1] not in same:
            break
        call = around
    return call
