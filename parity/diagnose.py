"""Take a failing port apart: which places are wrong by themselves, do they explain the failure, what would mend them.

Order (each step only looks where the one before found nothing): the weights, then the port with official tensors forced
upon it. The places count if official tensors in all of them make the port's outputs right, and each of several places
only if they change the outputs there: padding that nobody reads is no culprit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .blame import Culprit
from .boundaries import GROSS, Comparison
from .caller_or_callee import place_by_arguments
from .experiments import Experiments
from .items import Item
from .job import Job
from .local_faults import Fault, in_another_order, local_faults, with_repeats
from .outputs import moved, read_outputs
from .pairing import Pair
from .proof import Link
from .repairs import trials_at, trials_at_the_end, trials_of_uncalled
from .trace import Trace
from .verdict import OUTPUT_PASS

_MOST_FAULTS = 6
_MOST_TRIALS = 3


@dataclass
class Diagnosis:
    """What was found.

    Attributes:
        culprits: The places, in the order of the forward; empty when the experiments explain nothing.
        confirmed: Official tensors at these places make the outputs right.
        trials: For each culprit, rows with ``words``, ``file``, ``line``, ``before``, ``after``.
        notes: What could not be done, and why.
    """

    culprits: list[Culprit] = field(default_factory=list)
    confirmed: bool = False
    trials: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def diagnose(
    spec: dict[str, Any],
    job: Job,
    item: Item,
    pairs: dict[str, Pair],
    links: list[Link],
    partner: Mapping[str, str],
    excused: set[tuple[str, str]],
    worst_ratio: Callable[[dict[str, torch.Tensor]], float],
    *,
    blamed: Mapping[str, Any] | None,
    with_trials: bool,
) -> Diagnosis:
    """Find the places that are wrong by themselves and see whether they explain the failure.

    Args:
        spec: As for component parity.
        job: Its folder holds the traces and outputs of the comparison.
        item: The input on which the port failed.
        pairs: All pairs of modules.
        links: Where the official weights are in the port.
        partner: Those upon which official tensors are forced.
        excused: ``(module, where)`` at which only rounding differs.
        worst_ratio: Largest logic ratio of such outputs of the port.
        blamed: The culprit if none of this is confirmed: of the port as it runs by itself.
        with_trials: Whether the usual mistakes are tried.
    """
    result = Diagnosis()
    experiments = Experiments(spec, job, item, partner)
    try:
        if not experiments.begin():
            result.notes.append(f"The port could not be taken apart: {experiments.reason()}"[:600])
            return result
        root = job.run_dir
        port, reference = (
            Trace.load(root / "lab.port" / "forced.trace"),
            Trace.load(root / "lab.official" / "forced.trace"),
        )
        official = Trace.load(root / "official" / f"{item.key}.float32.trace")
        comparison = Comparison(port, official, reference, pairs)
        comparison.other_masks = {
            tuple(row) for row in json.loads((root / "lab.port" / "forced.masks.json").read_text())
        }
        faults = local_faults(comparison, links, partner, excused)
        before = read_outputs(root / "port", item.key, "float32")
        free = worst_ratio(before)
        if free <= OUTPUT_PASS:
            faults = [fault for fault in faults if not fault.error > GROSS]
        faults = faults[: 2 * _MOST_FAULTS]
        mended = worst_ratio(experiments.healed(faults)) if faults else free
        result.confirmed = bool(faults) and mended <= OUTPUT_PASS
        if faults and not result.confirmed:
            places = ", ".join(f"{fault.culprit.module or 'the model'} ({fault.culprit.kind})" for fault in faults)
            result.notes.append(
                f"Official tensors at {places} do not make the outputs right (logic ratio {free:.3g} -> {mended:.3g})."
            )
        if free > OUTPUT_PASS and len(faults) > 1:
            faults = [fault for fault in faults if not _idle(fault, faults, before, experiments, worst_ratio)] or faults
        faults = place_by_arguments(experiments, comparison, faults[:_MOST_FAULTS], links)
        result.culprits = [with_repeats(fault) for fault in faults]
        # Weights in the place of each other look like calls in the place of each other: they come first, alone.
        if with_trials and not any(fault.culprit.kind == "weights" for fault in faults):
            known: dict[tuple[str, str], list[list[Any]]] = {}
            for number, fault in enumerate(faults[:_MOST_TRIALS]):
                job.progress(0, None, f"trying the usual mistakes at {fault.culprit.module or 'the model'}")
                changes = known.setdefault((fault.culprit.module, fault.culprit.kind), [])
                trial = trials_at(experiments, comparison, fault, changes)
                changes += [[row["words"], row["file"], row["line"]] for row in trial["found"][:1]]
                if trial.get("layout"):
                    result.culprits[number] = in_another_order(result.culprits[number], trial["layout"])
                result.trials.append({"culprit": number, **trial})
            if not result.confirmed and not any(trial["found"] for trial in result.trials):
                free_trace = Trace.load(root / "port" / f"{item.key}.float32.trace")
                trial = trials_of_uncalled(experiments, free_trace, official, pairs, before, worst_ratio)
                result.trials += [{"culprit": 0, **trial}] if trial["found"] else []
            if _own_code(blamed) and not result.confirmed and not any(trial["found"] for trial in result.trials):
                result.trials = [{"culprit": 0, **trials_at_the_end(experiments, blamed["kind"] if blamed else "glue")}]
    finally:
        experiments.end()
    return result


def _idle(
    fault: Fault,
    faults: list[Fault],
    before: dict[str, torch.Tensor],
    experiments: Experiments,
    worst_ratio: Callable[[dict[str, torch.Tensor]], float],
) -> bool:
    """Whether a place plays no part in the failure.

    Nothing changes with official tensors there (padding that nobody reads), or it is a gross difference (`GROSS`) whose
    repair brings the outputs no nearer, and without whose repair the others suffice: a pair that is none. Or the
    official model returns the same with the port's tensors there: a later mistake made something of what it ignores.
    Weights that were crossed are never idle: what comes after them was paired by them.
    """
    if fault.culprit.kind == "weights":
        return False
    after = experiments.healed([fault])
    if not after:
        return False
    if not moved(after, before):
        return True
    alone = worst_ratio(after)
    if not fault.error > GROSS or alone <= OUTPUT_PASS:
        return False
    others = [other for other in faults if other is not fault]
    if alone >= 0.999 * worst_ratio(before) and worst_ratio(experiments.healed(others)) <= OUTPUT_PASS:
        return True
    injected = experiments.injected(fault.points)
    return bool(injected) and worst_ratio(injected) <= OUTPUT_PASS


def _own_code(blamed: Mapping[str, Any] | None) -> bool:
    """Whether the model's own code is to blame: no module in it, or nothing that could be compared."""
    return blamed is None or not blamed["module"]
