"""From what two pipelines recorded to the errors of the steps and the guilty stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from .healing import EXCUSABLE
from .metrics import distance
from .pipeline_record import Place
from .tables import first_difference
from .verdict import BOUNDARY_FAIL, OUTPUT_FAIL, OUTPUT_PASS, PRECISION_LIMIT, Verdict, judge, ratio, severity, worst

Tensors = Mapping[Place, torch.Tensor]
Say = Callable[[str, Verdict, str], None]


@dataclass(frozen=True)
class Row:
    """One place of one run, judged.

    Attributes:
        place: Where.
        error, reference_error: Relative L2 of the port and of the official run against the reference.
        ratio: One over the other; infinite where what has to be equal is not.
        max_abs: Largest difference between port and official run.
        why: What differs first, where equality is asked for.
        rounded: Whether it was measured by the exact values, since the official code itself rounds here (see
            `_excused`).
    """

    place: Place
    error: float
    reference_error: float
    ratio: float
    max_abs: float
    why: str = ""
    rounded: bool = False

    @property
    def verdict(self) -> Verdict:
        """Its verdict in float32."""
        return judge(self.ratio, OUTPUT_PASS, OUTPUT_FAIL)


def rows_of(port: Tensors, official: Tensors, truth: Tensors, exact: Tensors | None = None) -> list[Row]:
    """The places that both sides recorded, and the denoising steps that the port does not take, in the official order.

    Shapes, schedules (``timesteps``) and whatever is not floating have to be equal; everything else is judged by the
    official run's own error.

    Args:
        port, official: What the sides recorded in one dtype.
        truth: What the official side records in float64 with its own casts.
        exact: The same without any cast; where it is given, see `_excused`.
    """
    found = []
    steps = steps_of(port)
    for place, expected in truth.items():
        mine, theirs = port.get(place), official.get(place)
        if theirs is None or theirs.shape != expected.shape or not expected.numel():
            continue
        if mine is None:
            if steps and place.step is not None and place.step not in steps:
                found.append(_unequal(place, "the port takes no such step"))
            continue
        if mine.shape != expected.shape:
            found.append(_unequal(place, f"shape {tuple(mine.shape)} in place of {tuple(expected.shape)}"))
            continue
        direct = distance(mine, theirs)
        if place.stage == "timesteps" or not theirs.is_floating_point():
            # In a dtype that holds all of it: rounded to the port's bfloat16 or integers, any schedule would agree.
            wide = mine if mine.dtype in (torch.float32, torch.float64) else mine.double()
            difference = first_difference(wide, theirs)
            value = 0.0 if difference is None else math.inf
            found.append(Row(place, direct.relative_l2, 0.0, value, direct.max_abs, difference or ""))
            continue
        error, own = distance(mine, expected).relative_l2, distance(theirs, expected).relative_l2
        row = Row(place, error, own, ratio(error, own), direct.max_abs)
        if exact is not None and place in exact and exact[place].shape == mine.shape:
            row = _excused(row, distance(mine, exact[place]).relative_l2, distance(theirs, exact[place]).relative_l2)
        found.append(row)
    return found


def _excused(row: Row, error: float, own: float) -> Row:
    """The row, measured by the exact values if only rounding that both sides do makes it red.

    Official code computes some things in float32 whatever it is asked for (`healing`): a port that rounds there in
    another order is a few times as far from a reference that keeps these casts as the official code is, and as near to
    the exact values. A mistake of the port is as far from both, so it is not excused; and a large one never is.

    Args:
        row: Measured by the reference with casts.
        error, own: Relative L2 of the port and of the official run against the reference without.
    """
    if OUTPUT_PASS < row.ratio <= BOUNDARY_FAIL and error <= EXCUSABLE * own:
        return replace(row, ratio=error / own, rounded=True)
    return row


def _unequal(place: Place, why: str) -> Row:
    return Row(place, math.inf, 0.0, math.inf, math.inf, why)


def largest(rows: list[Row]) -> Row | None:
    """The row with the largest ratio; NaN is larger than anything."""
    return max(rows, key=lambda row: severity(row.ratio), default=None)


def check_places(port: Tensors, official: Tensors, stages: Iterable[str], where: str, say: Say) -> None:
    """Of the ``stages`` of a case, those and their steps that one side has and the other has not; each is an outcome of
    its own."""
    for stage in stages:
        if not any(place.stage == stage for place in official):
            say("stage-not-recorded", "inconclusive", f"call_official records nothing for stage {stage!r} ({where}).")
        elif not any(place.stage == stage for place in port):
            say("missing-stage", "fail", f"call_port records nothing for stage {stage!r} ({where}).")
    theirs, mine = steps_of(official), steps_of(port)
    if theirs and len(theirs) < 2:
        say("too-few-steps", "inconclusive", f"The official pipeline took one step ({where}); take at least two.")
    if theirs and mine and theirs != mine:
        say("steps-differ", "fail", f"The official pipeline takes {len(theirs)} steps, the port {len(mine)} ({where}).")
        return
    present = {place.stage for place in official} & {place.stage for place in port}
    missing = [str(place) for place in official if place not in port and place.stage in present]
    extra = [str(place) for place in port if place not in official and place.stage in present]
    if missing:
        say("missing-record", "fail", f"call_port does not record {', '.join(missing[:5])} ({where}).")
    if extra:
        message = f"call_port records {', '.join(extra[:5])}, which call_official does not ({where})."
        say("extra-record", "investigate", message)
    for place in official:
        if place in port and port[place].shape != official[place].shape:
            mine_shape, shape = tuple(port[place].shape), tuple(official[place].shape)
            say(
                "shape-mismatch",
                "fail",
                f"The port's {place} has shape {mine_shape}, the official one {shape} ({where}).",
            )


def steps_of(tensors: Tensors) -> list[int]:
    """The denoising steps that were recorded, in order."""
    return sorted({place.step for place in tensors if place.step is not None})


def latents_after(rows: list[Row]) -> list[Row]:
    """The last row of every denoising step: the latents with which the next step begins."""
    last: dict[int, Row] = {}
    for row in rows:
        if row.place.step is not None:
            last[row.place.step] = row
    return [last[step] for step in sorted(last)]


def step_rows(free: list[Row], production: Mapping[str, list[Row]]) -> list[dict[str, Any]]:
    """Per step: the latents' error in float32, its gain over the step before, and the ratios."""
    before: float | None = None
    found = []
    for row in latents_after(free):
        precisions = [r.ratio for rows in production.values() for r in latents_after(rows) if r.place == row.place]
        found.append(
            {
                "step": row.place.step,
                "error": row.error,
                "reference_error": row.reference_error,
                "max_abs": row.max_abs,
                "gain": row.error / before if before else None,
                "logic_ratio": row.ratio,
                "precision_ratio": max(precisions) if precisions else None,
            }
        )
        before = row.error
    return found


def stage_rows(forced: list[Row], production: Mapping[str, list[Row]]) -> list[dict[str, Any]]:
    """Every recorded stage or part, judged with all that comes before it taken from the official side."""
    names = list(dict.fromkeys(row.place.name for row in forced))
    found = []
    for name in names:
        mine = [row for row in forced if row.place.name == name]
        top = largest(mine)
        assert top is not None
        verdict = worst(row.verdict for row in mine)
        bad = next((row for row in mine if row.verdict == verdict), top)
        narrow = {dtype: largest([r for r in rows if r.place.name == name]) for dtype, rows in production.items()}
        precisions = {dtype: row.ratio for dtype, row in narrow.items() if row is not None}
        found.append(
            {
                "stage": top.place.stage,
                "name": name,
                "verdict": verdict,
                "logic_ratio": top.ratio,
                "error": top.error,
                "reference_error": top.reference_error,
                "max_abs": top.max_abs,
                "first_step": bad.place.step if verdict != "pass" else None,
                "why": bad.why,
                "precision": precisions,
                "precise": all(value <= PRECISION_LIMIT for value in precisions.values()),
            }
        )
    return found
