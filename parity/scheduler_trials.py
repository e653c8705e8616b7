"""Experiments after a red comparison: which change of the official scheduler makes it do what the port does?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .scheduler_causes import Cause
from .scheduler_drive import Walk
from .scheduler_judge import Judged
from .scheduler_steps import compare, nearly_equal, step_cause

Tensors = dict[str, torch.Tensor]


def explain(
    judged: Judged,
    walk: Walk,
    changes: list[dict[str, Any]],
    parts: list[tuple[str, dict[str, Any]]],
    folder: Path,
    official: Tensors,
    port: Tensors,
    inputs: Tensors,
    tried: dict[str, dict[str, Any]],
) -> None:
    """Add causes and remarks from the trials of one walk.

    Args:
        judged: Takes what is found.
        walk: The walk that was tried.
        changes: Configuration entries that were changed on the official side, in order.
        parts: Parts of the solver that were switched off on both sides, after those.
        folder: Run folder with ``trial.<side>.safetensors``.
        official, port: Tensors of the comparison.
        inputs: Latents and model outputs.
        tried: What the two sides said of the trials.
    """
    theirs = load_file(folder / "trial.official.safetensors")
    mine = load_file(folder / "trial.port.safetensors")
    rollout, wanted = port[f"{walk.key}.float32"], official[f"{walk.key}.float32"]
    table_wrong = any(row["walk"] == walk.key and row["first_index"] is not None for row in judged.tables)
    on_their_tables = mine.get(f"{walk.key}.trial.0.float32")
    if table_wrong and not any(item.code != "rounding" for item in judged.causes):
        for number, change in enumerate(changes):
            table = theirs.get(f"{walk.key}.trial.{number}.sigmas")
            own = port.get(f"{walk.key}.sigmas")
            if table is not None and own is not None and table.shape == own.shape and _close(table, own):
                judged.blame(Cause("config", f"the table is the official one with {_named(change)}"), walk.steps)
                break
    alone = rollout
    if table_wrong:
        if on_their_tables is None or on_their_tables.shape != wanted.shape:
            return
        if compare(on_their_tables, wanted, official.get(f"{walk.key}.float64")).verdict == "pass":
            judged.say("step-agrees", "pass", "On the official tables the port's steps agree: only the tables differ.")
            return
        alone = on_their_tables
    elif nearly_equal(rollout, wanted):
        return
    found = compare(alone, wanted, official.get(f"{walk.key}.float64"))
    if found.first is None:
        return
    cause = step_cause(
        alone, wanted, found.first, inputs["latents"], inputs["velocities"], official.get(f"{walk.key}.sigmas")
    )
    if cause is not None and cause.code != "step-scaled":
        judged.blame(cause, 0 if table_wrong else walk.steps)
        return
    for number, change in enumerate(changes):
        other = theirs.get(f"{walk.key}.trial.{number}.float32")
        if other is not None and nearly_equal(alone, other) and not nearly_equal(other, wanted):
            cause = Cause("config", f"the steps are the official ones with {_named(change)}")
            break
    else:
        cause = _part(walk, parts, len(changes), theirs, mine, found.first) or cause
    if cause is not None:
        judged.blame(cause, 0 if table_wrong else walk.steps)


def _part(
    walk: Walk, parts: list[tuple[str, dict[str, Any]]], before: int, theirs: Tensors, mine: Tensors, first: int
) -> Cause | None:
    """The part of the solver without which the two agree."""
    for number, (words, _) in enumerate(parts):
        a = mine.get(f"{walk.key}.trial.{1 + number}.float32")
        b = theirs.get(f"{walk.key}.trial.{before + number}.float32")
        if a is not None and b is not None and nearly_equal(a, b):
            return Cause(
                "solver-part",
                f"the mistake is in {words}: switched off on both sides, the steps agree; it shows at step {first}",
            )
    if parts:
        return Cause(
            "solver-base",
            f"the mistake is in the first-order step or the conversion of the model output, at step {first}",
        )
    return None


def _named(change: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}={value if not isinstance(value, list) or len(value) < 3 else 'every step'!r}"
        for name, value in change.items()
    )


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a.double() - b.double()).abs().max() < 2e-6)
