"""How two rollouts on the same model outputs part, step by step, and what kind of mistake does that."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from .metrics import distance
from .scheduler_causes import Cause
from .verdict import FLOOR, OUTPUT_FAIL, OUTPUT_PASS, Verdict, judge

Tensor = torch.Tensor

_EQUAL = 1e-5
"""Relative difference below which two float32 rollouts of one formula are called the same in an experiment."""


@dataclass(frozen=True)
class Rollout:
    """One walk's comparison.

    Attributes:
        errors: Relative error of the port's latents after each step, against the official float64 rollout.
        own: The same of the official float32 rollout.
        ratios: Port error over the largest official error so far, at least the rounding floor.
        worst: Largest ratio.
        first: First step at which the ratio is above the limit, none when it never is.
        equal: Whether port and official float32 rollouts are bit for bit the same.
        verdict: Where the worst ratio lies in the bands of the outputs.
    """

    errors: list[float]
    own: list[float]
    ratios: list[float]
    worst: float
    first: int | None
    equal: bool
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return asdict(self)


def compare(port: Tensor, official: Tensor, exact: Tensor | None) -> Rollout:
    """Compare rollouts (N, ...) in float32 with the official one in float64 as the exact one.

    Without a float64 rollout the official float32 one takes its place, and its error is one rounding per step.
    """
    truth = exact if exact is not None else official
    errors, own, ratios, largest = [], [], [], FLOOR
    for number in range(len(official)):
        errors.append(distance(port[number], truth[number]).relative_l2)
        own.append(distance(official[number], truth[number]).relative_l2)
        expected = own[-1] if exact is not None else FLOOR * (number + 1)
        largest = max(largest, expected) if expected == expected else largest
        ratios.append(errors[-1] / largest)
    bad = [number for number, value in enumerate(ratios) if not value <= OUTPUT_PASS]
    worst = max(ratios, key=lambda value: (value != value, value), default=0.0)
    equal = port.shape == official.shape and torch.equal(port, official)
    return Rollout(errors, own, ratios, worst, bad[0] if bad else None, equal, judge(worst, OUTPUT_PASS, OUTPUT_FAIL))


def nearly_equal(port: Tensor, official: Tensor) -> bool:
    """Whether two float32 rollouts are the same up to rounding."""
    return port.shape == official.shape and distance(port, official).relative_l2 < _EQUAL


def step_cause(
    port: Tensor, official: Tensor, first: int, start: Tensor, velocity: Tensor, sigmas: Tensor | None
) -> Cause | None:
    """The cause of the first wrong step, whose input is right.

    Args:
        port, official: Rollouts (N, ...).
        first: The step.
        start: Latents before the first step.
        velocity: Model outputs (N, ...).
        sigmas: The official table, where there is one.
    """
    before = (official[first - 1] if first else start).double()
    mine, theirs = port[first].double() - before, official[first].double() - before
    if not torch.isfinite(mine).all():
        return Cause("not-finite", f"step {first} gives NaN or infinity")
    if mine.norm() < 1e-7 * theirs.norm():
        return Cause("no-step", f"step {first} leaves the latents as they are")
    for dtype in (torch.bfloat16, torch.float16):
        for rounded in (theirs.to(dtype).double(), (official[first].to(dtype).double() - before)):
            if (mine - rounded).norm() < 1e-2 * (mine - theirs).norm():
                name = str(dtype).removeprefix("torch.")
                return Cause(f"step-{name}", f"step {first} is rounded to {name}")
    factor = float((mine * theirs).sum() / (theirs * theirs).sum())
    if (mine - factor * theirs).norm() > 1e-4 * mine.norm():
        return None
    if abs(factor + 1) < 1e-4:
        return Cause("direction", f"step {first} goes the other way: the sign of the model output or of the step")
    along = velocity[first].double()
    length = float((theirs * along).sum() / (along * along).sum())
    euler = (theirs - length * along).norm() < 1e-4 * theirs.norm()
    named = _between(factor * length, sigmas.double(), first) if euler and sigmas is not None else None
    if named is not None:
        return named
    return Cause("step-scaled", f"step {first} is {factor:.5g} times as long as the official one")


def _between(length: float, sigmas: Tensor, first: int) -> Cause | None:
    """The pair of sigmas whose difference a step has."""
    values = sigmas.tolist()
    right = values[first + 1] - values[first] if first + 1 < len(values) else 0.0
    best: tuple[float, int, int] | None = None
    for a in range(max(0, first - 2), min(len(values), first + 3)):
        for b in range(max(0, first - 2), min(len(values), first + 4)):
            error = abs(values[b] - values[a] - length)
            if a != b and error < 1e-4 * max(abs(right), 1e-3) and (best is None or error < best[0]):
                best = (error, a, b)
    if best is None:
        return None
    return Cause(
        "step-index",
        f"step {first} goes from sigmas[{best[1]}] to sigmas[{best[2]}] in place of sigmas[{first}] to "
        f"sigmas[{first + 1}]",
    )


def changes_to_try(config: dict[str, Any], steps: int) -> list[dict[str, Any]]:
    """One entry of the official configuration changed at a time: what the port may have done in its place."""
    found: list[dict[str, Any]] = [
        {name: not value} for name, value in config.items() if isinstance(value, bool) and "dynamic" not in name
    ]
    for name, values in (
        ("solver_order", (1, 2, 3)),
        ("solver_type", ("bh1", "bh2", "midpoint", "heun", "logrho")),
        ("final_sigmas_type", ("zero", "sigma_min")),
        ("time_shift_type", ("exponential", "linear")),
        ("timestep_spacing", ("linspace", "leading", "trailing")),
        ("shift_terminal", (0.1,)),
    ):
        if name in config:
            found += [{name: value} for value in values if value != config[name]]
    if "disable_corrector" in config:
        found += [{"disable_corrector": [0]}, {"disable_corrector": list(range(steps + 1))}]
    return found


def simplifications(official: dict[str, Any], port: dict[str, Any], steps: int) -> list[tuple[str, dict[str, Any]]]:
    """Parts of the solver that can be switched off on both sides; where they then agree, the part is guilty."""
    both = set(official) & set(port)
    found: list[tuple[str, dict[str, Any]]] = []
    off = list(range(steps + 1))
    if "disable_corrector" in both:
        found.append(("the corrector", {"disable_corrector": off}))
    if "solver_order" in both:
        found.append(("the terms above first order", {"solver_order": 1}))
    if {"disable_corrector", "solver_order"} <= both:
        words = "both the corrector and the terms above first order"
        found.append((words, {"disable_corrector": off, "solver_order": 1}))
    return found
