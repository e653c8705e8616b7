"""Which of the usual mistakes, corrected in the running port, makes a place or the outputs right."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .boundaries import Comparison
from .experiments import Experiments
from .items import Item
from .job import Job
from .local_faults import Fault
from .metrics import distance
from .outputs import read_outputs
from .pairing import Pair
from .passing import Where
from .trace import Call, Trace
from .uncalled import idle_module, places_for
from .verdict import BOUNDARY_PASS, FLOOR, OUTPUT_PASS, severity

_MOST_PLACES = 12


def trials_at(experiments: Experiments, comparison: Comparison, fault: Fault, known: list[list[Any]]) -> dict[str, Any]:
    """The usual mistakes at a place that is wrong by itself.

    Args:
        experiments: Ready to be asked.
        comparison: Of the forced traces.
        fault: The place.
        known: ``[words, file, line]`` of changes that mended its module elsewhere: they are tried first.

    Returns:
        ``tried`` (how many), ``before`` (the error there), ``found`` (rows with ``words``, ``file``, ``line``,
        ``after``), and ``layout`` where the values stand in another order.
    """
    target = _measurable(experiments, comparison, fault)
    if target is None:
        return {"tried": 0, "before": fault.error, "found": []}
    request = {
        "scope": fault.culprit.module,
        "deep": fault.culprit.kind == "module",
        "target": list(target),
        "reach": BOUNDARY_PASS * max(comparison.own_error(*target), FLOOR),
        "known": known,
    }
    answer = experiments.ask("trials", request)
    return answer if "found" in answer else {"tried": 0, "before": fault.error, "found": [], **answer}


def trials_at_the_end(experiments: Experiments, kind: str) -> dict[str, Any]:
    """The usual mistakes in the model's own code, measured at its outputs: nothing after it could be compared."""
    request = {
        "scope": "",
        "deep": kind == "module",
        "target": None,
        "outputs": str(experiments.outputs),
        "reach": BOUNDARY_PASS * max(experiments.own_error(), FLOOR),
    }
    answer = experiments.ask("trials", request)
    return answer if "found" in answer else {"tried": 0, "before": float("nan"), "found": [], **answer}


def last_trials(spec: dict[str, Any], job: Job, item: Item, partner: Mapping[str, str]) -> list[dict[str, Any]]:
    """The usual mistakes in what the model's own code makes of the last right tensor; arguments as for `diagnose`."""
    experiments = Experiments(spec, job, item, partner)
    try:
        return [{"culprit": 0, **trials_at_the_end(experiments, "glue")}] if experiments.begin() else []
    finally:
        experiments.end()


def trials_of_uncalled(
    experiments: Experiments,
    port: Trace,
    official: Trace,
    pairs: Mapping[str, Pair],
    before: dict[str, torch.Tensor],
    worst_ratio: Callable[[dict[str, torch.Tensor]], float],
) -> dict[str, Any]:
    """Call the module that only the official model calls beside each call of its caller until the outputs are right."""
    pair = idle_module(port, official, pairs)
    expected = read_outputs(experiments.root / "official", experiments.item.key, "float32")
    answer: dict[str, Any] = {"tried": 0, "before": _apart(before, expected), "found": [], "layout": None}
    for beside, where, call in places_for(port, pair.port)[:_MOST_PLACES] if pair is not None else []:
        assert pair is not None
        tag = f"through.{experiments.number + 1}"
        request = {"module": pair.port, "beside": beside, "where": where, "tag": tag}
        answer["tried"] += 1
        if "error" in experiments.ask("through", request):
            continue
        outputs = read_outputs(experiments.root / "lab.port", experiments.item.key, tag)
        if worst_ratio(outputs) <= OUTPUT_PASS:
            words = f"what `{beside}` {'is handed' if where == 'inputs' else 'returns'} passed through `{pair.port}`"
            after = _apart(outputs, expected)
            answer["found"].append({"words": words, "file": call.file, "line": call.line, "after": after})
            break
    return answer


def _apart(outputs: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Largest relative L2 between outputs of the port and the official ones."""
    alike = [(outputs.get(name), tensor) for name, tensor in expected.items()]
    errors = [
        distance(mine, theirs).relative_l2 if mine is not None and mine.shape == theirs.shape else math.inf
        for mine, theirs in alike
    ]
    return max((severity(error) for error in errors), default=math.inf)


def _measurable(experiments: Experiments, comparison: Comparison, fault: Fault) -> tuple[str, int, Where] | None:
    """The place at which a fault is measured, or the next one with an official counterpart within the same caller.

    A call too many has none, nor has a module that the official model does not have. Of what comes later, the next call
    is handed the wrong tensor first.
    """
    module, occurrence, where = fault.target

    def official(name: str, number: int) -> bool:
        pair = comparison.pairs.get(name) if name in experiments.partner else None
        return pair is not None and (pair.official, number) in comparison.reference_calls

    if official(module, occurrence):
        return module, occurrence, where
    calls = comparison.port.calls
    index = next((i for i, c in enumerate(calls) if (c.module, c.occurrence) == (module, occurrence)), None)
    around = calls[index].parent if index is not None else -1
    if index is None or around < 0:
        return None
    for number in range(index + 1, len(calls)):
        call = calls[number]
        if (
            call.ended > calls[index].ended
            and _within(calls, number, around)
            and official(call.module, call.occurrence)
        ):
            return call.module, call.occurrence, "inputs"
    call = calls[around]
    return (call.module, call.occurrence, "outputs") if official(call.module, call.occurrence) else None


def _within(calls: list[Call], index: int, around: int) -> bool:
    """Whether a call is made, by whatever way, by call ``around``."""
    while index > around:
        index = calls[index].parent
    return index == around
