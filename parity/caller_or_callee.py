"""Is a call wrong, or what its caller hands it? Decided by experiments with other tensors as its arguments."""

from __future__ import annotations

from typing import Any

from .boundaries import Comparison
from .experiments import Experiments
from .local_faults import Fault, deaf, fold, handed_wrong
from .proof import Link
from .trace import Call
from .verdict import BOUNDARY_PASS, FLOOR


def place_by_arguments(
    experiments: Experiments, comparison: Comparison, faults: list[Fault], links: list[Link]
) -> list[Fault]:
    """The faults, placed by experiment where modules without counterpart are called.

    If other tensors of its caller in the place of its arguments make such a call right, the caller is wrong, and not
    what the call goes on to do with them; if it makes no use of an argument, it is wrong itself.
    """
    calls, found, cleared = comparison.port.calls, [], set()
    for fault in faults:
        index = fault.receiver if fault.receiver is not None else _call_of(calls, fault)
        answer = {} if index is None else _other_arguments(experiments, comparison, fault, calls[index])
        common = comparison, links, experiments.partner, fault
        if index is not None and answer.get("moved"):
            handed = handed_wrong(*common, index, answer["moved"])
            if handed is not None:
                cleared.add(fold(calls[index].module))
            found.append(handed or fault)
        elif index is not None and fault.receiver is not None and answer.get("unused"):
            found.append(deaf(*common, index, answer["unused"]))
        else:
            found.append(fault)
    return [f for f in found if not any(f"{fold(f.culprit.module)}.".startswith(f"{module}.") for module in cleared)]


def _other_arguments(experiments: Experiments, comparison: Comparison, fault: Fault, call: Call) -> dict[str, Any]:
    target, occurrence, where = fault.target
    if call.parent < 0 or fault.culprit.kind == "weights":
        return {}
    if call.module in experiments.partner or target not in experiments.partner:
        return {}
    request = {
        "module": call.module,
        "occurrence": call.occurrence,
        "target": [target, occurrence, where],
        "reach": BOUNDARY_PASS * max(comparison.own_error(*fault.target), FLOOR),
    }
    return experiments.ask("arguments", request)


def _call_of(calls: list[Call], fault: Fault) -> int | None:
    """The culprit's last call before the place where the fault is measured, or around it."""
    place = fault.target[:2]
    measured = next((i for i, c in enumerate(calls) if (c.module, c.occurrence) == place), None)
    if measured is None or not fault.culprit.module:
        return None
    ended = calls[measured].ended
    own = [i for i, c in enumerate(calls) if c.module == fault.culprit.module]
    return max((i for i in own if i < measured or -1 < calls[i].ended < ended), default=None)
