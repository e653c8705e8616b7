"""A port that computes the official output and returns something else: another layer's, or one step too far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Instead:
    """What the port has in its hands and does not return.

    Attributes:
        culprit: The code that returns something else.
        trial: What removes the error, as `trials.search` returns it.
    """

    culprit: Culprit
    trial: dict[str, Any]


def returned_instead(
    port: Trace, pairs: Mapping[str, Pair], outputs: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> Instead | None:
    """The code after the call that returned the official output, if there is one for every output that is wrong.

    Or the model, if its wrong outputs are the official ones in the place of each other.

    Args:
        port: A free run of the port, in float32.
        pairs: For the name of the official counterpart.
        outputs, expected: What the port and the official model returned in that run, by name.
    """
    wrong = [name for name, tensor in expected.items() if name in outputs and _differs(outputs[name], tensor)]
    if not wrong:
        return None
    before = max(_error(outputs[name], expected[name]) for name in wrong)
    exchanged = _exchanged(port, outputs, expected, wrong)
    if exchanged is not None:
        culprit, words, after = exchanged
        return Instead(culprit, _trial(words, culprit, before, after))
    makers = [_maker(port, expected[name]) for name in wrong]
    found = [call for call in makers if call is not None]
    if len(found) < len(wrong):
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
    culprit = Culprit(
        module,
        pair.official if pair else None,
        "glue",
        call.file,
        call.line,
        info.end_line if info is not None and inside else call.line,
        why,
        "certain",
    )
    rows = zip(wrong, found, strict=True)
    words = "; ".join(f"what `{maker.module}` returns in the place of the output {output!r}" for output, maker in rows)
    after = max(_made(port, one, expected[output]) for output, one in zip(wrong, found, strict=True))
    return Instead(culprit, _trial(words, culprit, before, after))


def put_in_another_order(
    port: Trace, outputs: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> Culprit | None:
    """The code after the model's last call, if every wrong output holds the official values in another order.

    That is patches put together otherwise, frames for channels, or what the adapter makes of it. Arguments as for
    `returned_instead`.
    """
    wrong = [name for name, tensor in expected.items() if name in outputs and _differs(outputs[name], tensor)]
    if not wrong or not all(_sorted_alike(outputs[name], expected[name]) for name in wrong):
        return None
    info = port.modules.get("")
    root = next((index for index, call in enumerate(port.calls) if not call.module), None)
    last = port.calls[port.children(root)[-1]] if root is not None and port.children(root) else None
    if info is None or last is None or last.file != info.file:
        return None
    why = (
        f"The output {wrong[0]!r} holds the official values in another order, and every module that could be compared "
        f"agrees. Look at how the result of {named(last)} (line {last.line}) is put together (patches, frames, "
        "channels), and then at what call_port of the adapter makes of it."
    )
    return Culprit("", None, "glue", info.file, last.line, info.end_line, why, "likely")


def _sorted_alike(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    if mine.numel() != theirs.numel() or not _tells(theirs):
        return False
    return _error(mine.reshape(-1).sort().values, theirs.reshape(-1).sort().values) <= _SAME


def _exchanged(
    port: Trace, outputs: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], wrong: list[str]
) -> tuple[Culprit, str, float] | None:
    """The model, words and the error if every wrong output is right in another one's place; else none."""
    places: dict[str, str] = {}
    for name in wrong:
        errors = {
            other: _error(outputs[other], expected[name]) for other in wrong if other != name and _tells(expected[name])
        }
        nearest = min(errors, key=lambda other: errors[other], default=None)
        if nearest is None or not errors[nearest] <= _SAME:
            return None
        places[name] = nearest
    if len(set(places.values())) < len(places):
        return None
    words = "; ".join(f"the output {other!r} in the place of the output {name!r}" for name, other in places.items())
    info = port.modules.get("")
    file, line, end = (info.file, info.line, info.end_line) if info else ("", 0, 0)
    why = f"The port's outputs are the official ones in other places: {words} would be right."
    after = max(_error(outputs[other], expected[name]) for name, other in places.items())
    return Culprit("", None, "glue", file, line, end, why, "certain"), words, after


def _trial(words: str, culprit: Culprit, before: float, after: float) -> dict[str, Any]:
    row = {"words": words, "file": culprit.file, "line": culprit.line, "after": after}
    return {"culprit": 0, "tried": 1, "before": before, "found": [row], "layout": None}


def _tells(tensor: torch.Tensor) -> bool:
    """Whether equality with a tensor proves anything."""
    return tensor.numel() > 1 and tensor.is_floating_point() and bool((tensor != tensor.reshape(-1)[0]).any())


def _error(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    if mine.shape != theirs.shape:
        return math.inf
    error = distance(mine, theirs).relative_l2
    return math.inf if math.isnan(error) else error


def _made(port: Trace, call: Call, expected: torch.Tensor) -> float:
    """How far the nearest tensor that a call returned is from an output."""
    wanted = fingerprint(expected)
    near = [port.tensors[index] for _, index in call.outputs if port.tensors[index].elements == wanted.elements]
    return min((sketch_distance(tensor, wanted) for tensor in near), default=math.inf)


def _differs(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    return not _error(mine, theirs) <= _OTHER


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
