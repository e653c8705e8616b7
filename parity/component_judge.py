"""The verdict on a component from what its two sides left, and where the port is wrong."""

from __future__ import annotations

from typing import Any

from .blame import Culprit, weights_culprit
from .component_report import Report
from .curve import curve
from .diagnose import diagnose
from .errors import ParityError
from .experiments import partners
from .healing import Excuse, looked_past
from .items import Item
from .job import Job
from .other_causes import dtype_culprit
from .repairs import last_trials
from .returned import put_in_another_order, returned_instead
from .sides import Sides, run_again
from .uncalled import never_called

_MOST_EXCUSES = 4


def judge_sides(spec: dict[str, Any], job: Job, sides: Sides, steps: int) -> dict[str, Any]:
    """The verdict; while the port only rounds otherwise than the official code does, look past that place and again."""
    excuses: list[Excuse] = []
    report = Report(spec, job, sides.official, sides.port)
    value = report.build()
    while (
        value["verdict"] in ("fail", "investigate")
        and report.inside.excuse is not None
        and len(excuses) < _MOST_EXCUSES
    ):
        excuses.append(report.inside.excuse)
        job.progress(steps - 1, steps, f"looking past the float32 rounding at {excuses[-1].port}")
        healed = run_again(spec, job, steps, excuses)
        report = Report(spec, job, sides.official, sides.port, excuses, healed)
        value = report.build()
    return {**value, "curve": _curve(report, value), **_taken_apart(spec, job, report, value, steps)}


def _curve(report: Report, value: dict[str, Any]) -> dict[str, Any]:
    """Errors along the forward of the input that fails with the fewest numbers, or of the first."""
    item = report.simplest_failing(value["cases"]) or report.items[0]
    return {"case": item.case, "seed": item.seed, "rows": curve(report.inside.compared.get(item.key, []))}


def _taken_apart(spec: dict[str, Any], job: Job, report: Report, value: dict[str, Any], steps: int) -> dict[str, Any]:
    """Where the port is wrong: the weights if they are, else what experiments with official tensors confirm."""
    found: dict[str, Any] = {"culprits": [value["culprit"]] if value["culprit"] else [], "confirmed": False}
    found.update(trials=[], notes=[])
    if value["verdict"] not in ("fail", "investigate"):
        return {**found, "culprit": None, "culprits": []}
    weights = weights_culprit(report.proof, report.port_trace())
    if weights is not None:
        return {**found, **_only(weights)}
    item = report.simplest_failing(value["cases"])
    if item is None or not spec.get("diagnose", True) or not report.inside.pairs:
        if report.table_names and spec.get("diagnose", True) and spec.get("trials"):
            named = _from_trials(spec, job, item or report.items[0], report)
            if named:
                return {**found, **named}
        narrower = dtype_culprit(value, report.port_trace()) if not found["culprits"] else None
        return {**found, **_only(narrower)} if narrower else found
    port, (mine, theirs) = report.results.trace("port", item, "float32"), report.results.float32_outputs(item)
    other = returned_instead(port, report.inside.pairs, mine, theirs)
    partner = partners(report.inside.pairs, report.inside.mispaired)
    if other is not None:
        trials = [other.trial] if spec.get("trials") else []
        if trials and not other.culprit.module:
            trials = [row for row in last_trials(spec, job, item, partner) if row["found"]] + trials
        return {**found, **_only(other.culprit), "trials": trials}
    job.progress(steps - 1, steps, "forcing official tensors upon the port")
    excused = looked_past(report.excuses, port)
    try:
        diagnosis = diagnose(
            spec,
            job,
            item,
            report.inside.pairs,
            report.proof.links,
            partner,
            excused,
            lambda outputs: report.results.worst_ratio(item, outputs),
            blamed=value["culprit"],
            with_trials=bool(spec.get("trials")),
        )
    except ParityError as error:
        return {**found, "notes": [f"The port could not be taken apart: {error.what} {error.seen}"[:600]]}
    if diagnosis.culprits and (diagnosis.confirmed or not found["culprits"]):
        found["culprits"] = [culprit.to_json() for culprit in diagnosis.culprits]
    uncalled = never_called(
        port,
        report.results.trace("official", item, "float32"),
        report.inside.pairs,
        {link.port.rpartition(".")[0] for link in report.ignored()} if diagnosis.confirmed else None,
    )
    if uncalled is not None and not diagnosis.confirmed:
        found.update(_only(uncalled))
    elif uncalled is not None and found["culprits"][0]["module"] != uncalled.module:
        # What was to be made of it is missing wherever it was to be used: places that come after it.
        found["culprits"].insert(0, uncalled.to_json())
    if not diagnosis.confirmed and (last := put_in_another_order(port, mine, theirs)) is not None:
        found.update(_only(last))
    return {
        **found,
        "culprit": found["culprits"][0] if found["culprits"] else None,
        "confirmed": diagnosis.confirmed,
        "trials": diagnosis.trials,
        "notes": diagnosis.notes,
    }


def _from_trials(spec: dict[str, Any], job: Job, item: Item, report: Report) -> dict[str, Any]:
    """Where tables alone differ, or no module can be compared (a scheduler): what the usual mistakes say."""
    trials = [row for row in last_trials(spec, job, item, {}) if row["found"]]
    if not trials:
        return {}
    row = trials[0]["found"][0]
    why = f"Every schedule that was compared agrees with this: {row['words']}"
    pair = report.inside.pairs.get("")
    official = pair.official if pair is not None else None
    place = Culprit("", official, "module", row["file"], row["line"], row["line"], why, "likely")
    return {**_only(place), "trials": trials}


def _only(culprit: Culprit) -> dict[str, Any]:
    row = culprit.to_json()
    return {"culprit": row, "culprits": [row]}
