"""Take a failing port apart: which places are wrong by themselves, do they explain the failure, what would mend them.

Order (each step only looks where the one before found nothing): the weights, then the port with official tensors forced
upon it. The places count if official tensors in all of them make the port's outputs right, and each of several places
only if they change the outputs there: padding that nobody reads is no culprit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .blame import Culprit
from .boundaries import GROSS, Comparison
from .children import Child
from .errors import ParityError
from .handover import announce
from .job import Job
from .lab import ask
from .local_faults import Fault, deaf, fold, handed_wrong, in_another_order, local_faults, with_repeats
from .metrics import distance
from .outputs import moved, read_outputs
from .pairing import Pair
from .passing import Where
from .proof import Link
from .side import Item
from .trace import Call, Trace
from .uncalled import idle_module, places_for
from .verdict import BOUNDARY_PASS, FLOOR, OUTPUT_PASS

_MOST_FAULTS = 6
_MOST_TRIALS = 3
_MOST_PLACES = 12


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


class Experiments:
    """The two processes in which experiments are made, and their answers."""

    def __init__(self, spec: dict[str, Any], job: Job, item: Item, partner: Mapping[str, str]) -> None:
        self.root = job.run_dir
        self.item = item
        self.shared = self.root / "lab.shared"
        self.number = 0
        self.injections = 0
        self.partner = dict(partner)
        self.outputs = self.root / "official" / f"{item.key}.float32.safetensors"
        self._prepare()
        common = {**spec, "shared": str(self.shared), "item": item.key, "partner": self.partner, "excuses": []}
        self.children = [
            Child(
                python,
                f"lab_{side}",
                self.root / f"lab_{side}",
                {**common, "side": side, "out": str(self.root / f"lab.{side}")},
                Path(spec["worktree"]),
            )
            for side, python in (("official", spec.get("official_python") or spec["python"]), ("port", spec["python"]))
        ]

    def _prepare(self) -> None:
        """The inputs of the comparison, again under the names that the two processes expect."""
        self.shared.mkdir()
        for path in (self.root / "shared").glob("inputs.*"):
            (self.shared / path.name).hardlink_to(path)

    def begin(self) -> bool:
        """Wait for the forced traces; whether they are there."""
        official = self.children[0]

        def expected() -> bool:
            """The port waits for the captured tensors, so it is given up when the official side ended without them."""
            captured = (self.shared / "captured.ready").exists()
            return self._alive() and (captured or official.process.poll() is None)

        ready = "error" not in ask(self.shared, 0, "", {}, expected)
        if not ready:
            return False
        ask(self.shared, 0, "", {}, lambda: official.process.poll() is None, "official")
        return (self.root / "lab.official" / "forced.json").is_file()

    def reason(self) -> str:
        """Why the experiments did not begin."""
        for child in self.children:
            if child.process.poll() is not None:
                try:
                    child.value()
                except ParityError as error:
                    return f"{error.what} {error.seen}"
        return "its tensors are too many."

    def _alive(self) -> bool:
        return self.children[1].process.poll() is None

    def ask(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        return ask(self.shared, self.number, action, request, self._alive)

    def healed(self, faults: list[Fault]) -> dict[str, torch.Tensor]:
        """Outputs of the port with the official tensors at these places only; empty when it could not be run."""
        tag = f"heal.{self.number + 1}"
        points = sorted({point for fault in faults for point in fault.points})
        if "error" in self.ask("heal", {"points": points, "tag": tag}):
            return {}
        return read_outputs(self.root / "lab.port", self.item.key, tag)

    def injected(self, points: Sequence[tuple[str, Where]]) -> dict[str, torch.Tensor]:
        """Outputs of the official model with the port's tensors at these places of the port; empty without them."""
        places = [(module, where) for module, where in points if module in self.partner]
        tag, file = f"inject.{self.number + 1}", self.shared / f"port.{self.number + 1}.safetensors"
        kept = self.ask("keep", {"modules": [module for module, _ in places], "file": str(file)})
        if not places or not kept.get("complete"):
            return {}
        self.injections += 1
        request = {
            "points": [(self.partner[module], where) for module, where in places],
            "partner": {self.partner[module]: module for module, _ in places},
            "file": str(file),
            "tag": tag,
        }
        alive = self.children[0].process
        answer = ask(self.shared, self.injections, "inject", request, lambda: alive.poll() is None, "official")
        if not answer.get("forced"):
            return {}
        return read_outputs(self.root / "lab.official", self.item.key, tag)

    def own_error(self) -> float:
        """The official model's own rounding in its outputs; 0 if there is no reference in float64."""
        mine, theirs = (read_outputs(self.root / "official", self.item.key, tag) for tag in ("float32", "reference"))
        return max((distance(mine[name], theirs[name]).relative_l2 for name in theirs if name in mine), default=0.0)

    def end(self) -> None:
        """Stop both processes."""
        if self._alive():
            announce(self.shared / f"lab.{self.number + 1}.request", {"action": "stop"})
        if self.children[0].process.poll() is None:
            announce(self.shared / f"official.{self.injections + 1}.request", {"action": "stop"})
        for child in self.children:
            child.stop()


def partners(pairs: Mapping[str, Pair], dropped: set[str]) -> dict[str, str]:
    """Port module -> official module, where forcing makes sense: no functions, no pairs that turned out wrong."""
    return {name: pair.official for name, pair in pairs.items() if name and "::" not in name and name not in dropped}


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
        faults = _by_arguments(experiments, comparison, faults[:_MOST_FAULTS], links)
        result.culprits = [with_repeats(fault) for fault in faults]
        # Weights in the place of each other look like calls in the place of each other: they come first, alone.
        if with_trials and not any(fault.culprit.kind == "weights" for fault in faults):
            known: dict[tuple[str, str], list[list[Any]]] = {}
            for number, fault in enumerate(faults[:_MOST_TRIALS]):
                job.progress(0, None, f"trying the usual mistakes at {fault.culprit.module or 'the model'}")
                changes = known.setdefault((fault.culprit.module, fault.culprit.kind), [])
                trial = _trial(experiments, comparison, fault, changes)
                changes += [[row["words"], row["file"], row["line"]] for row in trial["found"][:1]]
                if trial.get("layout"):
                    result.culprits[number] = in_another_order(result.culprits[number], trial["layout"])
                result.trials.append({"culprit": number, **trial})
            if not result.confirmed and not any(trial["found"] for trial in result.trials):
                free_trace = Trace.load(root / "port" / f"{item.key}.float32.trace")
                trial = _uncalled(experiments, free_trace, official, pairs, before, worst_ratio)
                result.trials += [{"culprit": 0, **trial}] if trial["found"] else []
            if _own_code(blamed) and not result.confirmed and not any(trial["found"] for trial in result.trials):
                result.trials = [{"culprit": 0, **_at_the_end(experiments, blamed["kind"] if blamed else "glue")}]
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


def _by_arguments(
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
        "reach": BOUNDARY_PASS * max(_own_error(comparison, fault.target), FLOOR),
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


def last_trials(spec: dict[str, Any], job: Job, item: Item, partner: Mapping[str, str]) -> list[dict[str, Any]]:
    """The usual mistakes in what the model's own code makes of the last right tensor; arguments as for `diagnose`."""
    experiments = Experiments(spec, job, item, partner)
    try:
        return [{"culprit": 0, **_at_the_end(experiments, "glue")}] if experiments.begin() else []
    finally:
        experiments.end()


def _own_code(blamed: Mapping[str, Any] | None) -> bool:
    """Whether the model's own code is to blame: no module in it, or nothing that could be compared."""
    return blamed is None or not blamed["module"]


def _at_the_end(experiments: Experiments, kind: str) -> dict[str, Any]:
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


def _trial(experiments: Experiments, comparison: Comparison, fault: Fault, known: list[list[Any]]) -> dict[str, Any]:
    target = _measurable(experiments, comparison, fault)
    if target is None:
        return {"tried": 0, "before": fault.error, "found": []}
    request = {
        "scope": fault.culprit.module,
        "deep": fault.culprit.kind == "module",
        "target": list(target),
        "reach": BOUNDARY_PASS * max(_own_error(comparison, target), FLOOR),
        "known": known,
    }
    answer = experiments.ask("trials", request)
    return answer if "found" in answer else {"tried": 0, "before": fault.error, "found": [], **answer}


def _uncalled(
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
    return max((math.inf if math.isnan(error) else error for error in errors), default=math.inf)


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


def _own_error(comparison: Comparison, target: tuple[str, int, Where]) -> float:
    """The official model's own rounding at the place where a fault is measured."""
    module, occurrence, where = target
    call = comparison.reference_calls.get((comparison.pairs[module].official, occurrence))
    if call is None:
        return 0.0
    return max((comparison.reference_error(index) for _, index in getattr(call, where)), default=0.0)
