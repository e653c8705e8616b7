"""From the tensors of two schedulers to a verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .metrics import distance
from .scheduler_causes import Cause, Tables, sigma_cause, timestep_cause
from .scheduler_drive import Walk
from .scheduler_side import NOISE
from .scheduler_steps import Rollout, compare
from .verdict import FLOOR, OUTPUT_FAIL, OUTPUT_PASS, Finding, Verdict, judge, worst

Tensors = dict[str, torch.Tensor]


@dataclass
class Judged:
    """What was found so far."""

    tables: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    noise: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    shown: dict[str, int] = field(default_factory=dict)
    rollouts: dict[str, Rollout] = field(default_factory=dict)

    def say(self, code: str, verdict: Verdict, message: str) -> None:
        """Add a finding, once."""
        if not any(item.code == code and item.message == message for item in self.findings):
            self.findings.append(Finding(code, verdict, message))

    def blame(self, cause: Cause, steps: int = 0) -> None:
        """Add a cause; of several with one code the longest walk speaks, and what more steps show stands first."""
        if steps > self.shown.get(cause.code, -1):
            self.causes = [*(item for item in self.causes if item.code != cause.code), cause]
            self.shown[cause.code] = steps
        self.causes.sort(key=lambda item: (item.code == "rounding", -self.shown[item.code]))

    def worth_explaining(self) -> str | None:
        """The walk on which mistakes are tried: a small one that is wrong, of several steps if there is one."""
        wrong = {row["walk"]: row["count"] for row in self.tables if row["first_index"] is not None}
        wrong.update({row["walk"]: row["count"] for row in self.steps if row["verdict"] != "pass"})
        return min(wrong, key=lambda key: (abs(wrong[key] - 5), key), default=None)


def judge_walks(
    walks: list[Walk], official: Tensors, port: Tensors, their: dict[str, Any], mine: dict[str, Any]
) -> Judged:
    """Tables, rollouts, second uses and noise of every walk."""
    judged = Judged()
    for sentence in mine["foreign"]:
        judged.say("official-code-in-port", "fail", f"The port runs the official implementation: {sentence}.")
    for walk in walks:
        if walk.key in their["errors"]:
            judged.say("walk-skipped", "pass", f"{walk.key}: the official side refuses it: {their['errors'][walk.key]}")
            continue
        if walk.key in mine["errors"]:
            judged.say("port-raises", "fail", f"{walk.key}: the port raises: {mine['errors'][walk.key]}")
            continue
        _tables(judged, walk, official, port, their)
        _steps(judged, walk, official, port, their, mine)
        # Noise is mixed by the tables: where they differ, it can only differ too.
        if all(row["first_index"] is None for row in judged.tables if row["walk"] == walk.key):
            _noise(judged, walk, official, port, their, mine)
    _facts(judged, their, mine)
    return judged


def _tables(judged: Judged, walk: Walk, official: Tensors, port: Tensors, their: dict[str, Any]) -> None:
    train = float(their["config"].get("num_train_timesteps") or 1000)
    sides = {}
    for side, tensors in (("official", official), ("port", port)):
        sigmas = tensors.get(f"{walk.key}.sigmas")
        wide = None if sigmas is None else sigmas.double().numpy()
        sides[side] = Tables(tensors[f"{walk.key}.timesteps"].double().numpy(), wide)
    if (sides["port"].sigmas is None) != (sides["official"].sigmas is None):
        holder = "official" if sides["port"].sigmas is None else "port's"
        judged.say("sigmas-absent", "pass", f"Only the {holder} scheduler has a table of sigmas.")
    differs = False
    for name in ("sigmas", "timesteps"):
        a, b = getattr(sides["port"], name), getattr(sides["official"], name)
        row: dict[str, Any] = {"walk": walk.key, "count": walk.steps, "table": name, "first_index": None}
        if a is None or b is None:
            continue
        found = first_index(a, b)
        cause = None
        if found is not None:
            if name == "sigmas":
                differs = True
                cause = sigma_cause(sides["port"], sides["official"], walk.shift, train, their["facts"])
            elif not differs:
                cause = timestep_cause(sides["port"], sides["official"], train)
            row.update(first_index=found, port=_at(a, found), official=_at(b, found))
            row.update(port_entries=len(a), official_entries=len(b), cause=cause.words if cause else "")
            if cause:
                judged.blame(cause, walk.steps)
            judged.say(
                f"{name}-differ",
                "fail",
                f"{walk.key}: {name} first differ at index {found}: {_text(row['port'])} in place of "
                f"{_text(row['official'])}" + (f"; {cause.words}." if cause else "."),
            )
        judged.tables.append(row)


def first_index(port: Any, official: Any) -> int | None:
    """First index at which two tables differ; the length of the shorter where one only ends earlier."""
    n = min(len(port), len(official))
    differing = np.flatnonzero(~(port[:n] == official[:n]))
    if differing.size:
        return int(differing[0])
    return n if len(port) != len(official) else None


def _at(table: Any, index: int) -> float | None:
    return float(table[index]) if index < len(table) else None


def _text(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.9g}"


def _steps(
    judged: Judged, walk: Walk, official: Tensors, port: Tensors, their: dict[str, Any], mine: dict[str, Any]
) -> None:
    a, b = port[f"{walk.key}.float32"], official[f"{walk.key}.float32"]
    row: dict[str, Any] = {"walk": walk.key, "count": walk.steps}
    if a.shape != b.shape:
        judged.steps.append({**row, "verdict": "fail", "worst_ratio": None, "first_step": min(len(a), len(b))})
        judged.say("steps-count", "fail", f"{walk.key}: the rollouts have shapes {tuple(a.shape)}, {tuple(b.shape)}.")
        return
    exact = official.get(f"{walk.key}.float64")
    found = judged.rollouts[walk.key] = compare(a, b, exact)
    row.update(verdict=found.verdict, worst_ratio=found.worst, first_step=found.first, equal=found.equal)
    row.update(first_error=found.errors[0], last_error=found.errors[-1], own_last_error=found.own[-1])
    wide = port.get(f"{walk.key}.float64")
    if exact is not None and wide is None:
        text = mine["errors"].get(f"{walk.key}.float64", "")
        judged.say("float64-raises", "fail", f"{walk.key}: the official step runs in float64, the port's not: {text}")
    elif exact is not None and wide is not None and wide.shape == exact.shape:
        own = max(FLOOR, *found.own)
        row["float64_error"] = max(distance(x, y).relative_l2 for x, y in zip(wide, exact, strict=True))
        verdict = judge(row["float64_error"] / own, OUTPUT_PASS, OUTPUT_FAIL)
        row["verdict"] = worst([row["verdict"], verdict])
        if verdict != "pass" and found.verdict == "pass":
            judged.say(
                "float64-differs",
                verdict,
                f"{walk.key}: on float64 samples the port is off by {row['float64_error']:.2g}, the official float32 "
                f"rounding is {own:.2g}: the port rounds to a lower precision.",
            )
    judged.steps.append(row)
    if found.verdict != "pass":
        judged.say(
            "steps-differ",
            found.verdict,
            f"{walk.key}: the latents part at step {found.first}, error {found.errors[found.first or 0]:.2g} after it "
            f"and {found.errors[-1]:.2g} at the end; the official rounding is {found.own[-1]:.2g}.",
        )
    if not torch.equal(port[f"{walk.key}.again"], a) and torch.equal(official[f"{walk.key}.again"], b):
        judged.say(
            "state-leaks",
            "fail",
            f"{walk.key}: the port's second rollout differs from its first at step {_first_row(port, walk)}: "
            "set_timesteps does not reset its state.",
        )
        judged.blame(Cause("state-leaks", "set_timesteps does not reset what an earlier rollout left behind"))


def _first_row(port: Tensors, walk: Walk) -> int:
    a, b = port[f"{walk.key}.again"], port[f"{walk.key}.float32"]
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if not torch.equal(x, y)), min(len(a), len(b)))


def _noise(
    judged: Judged, walk: Walk, official: Tensors, port: Tensors, their: dict[str, Any], mine: dict[str, Any]
) -> None:
    """``add_noise`` against its namesake, or against ``scale_noise``, which is the same under another name."""
    for name in (*NOISE, "scale_model_input"):
        if name not in mine["methods"]:
            continue
        twin = next((n for n in ((name,) if name not in NOISE else (name, *NOISE)) if n in their["methods"]), None)
        if twin is None:
            continue
        for dtype in ("float32", "float64"):
            b = official.get(f"{walk.key}.{twin}.{dtype}")
            a = port.get(f"{walk.key}.{name}.{dtype}")
            if b is None:
                continue
            if a is None:
                text = mine["errors"].get(f"{walk.key}.{name}.{dtype}", "")
                judged.say(f"{name}-raises", "fail", f"{walk.key}: the port's {name} raises in {dtype}: {text}")
                continue
            exact = official.get(f"{walk.key}.{twin}.float64", b)
            error = distance(a, exact).relative_l2 if a.shape == exact.shape else float("inf")
            own = distance(official.get(f"{walk.key}.{twin}.float32", b), exact).relative_l2
            verdict = judge(error / max(own, FLOOR), OUTPUT_PASS, OUTPUT_FAIL)
            judged.noise.append({"walk": walk.key, "method": name, "dtype": dtype, "error": error, "verdict": verdict})
            if verdict != "pass":
                words = f"{walk.key}: {name} differs from the official {twin} by {error:.2g} in {dtype}."
                judged.say(f"{name}-differs", verdict, words)
                judged.blame(Cause(name.replace("_", "-"), f"{name} mixes sample and noise in another way{_mix(a, b)}"))


def _mix(a: torch.Tensor, b: torch.Tensor) -> str:
    return " (first sample and noise level compared)" if a.shape == b.shape else ", in another shape"


def _facts(judged: Judged, their: dict[str, Any], mine: dict[str, Any]) -> None:
    theirs, ours = their["facts"], mine["facts"]
    initial = theirs.get("init_noise_sigma", 1.0)
    if abs(ours.get("init_noise_sigma", 1.0) - initial) > 1e-12:
        words = f"init_noise_sigma is {ours.get('init_noise_sigma', 'absent')} in place of {initial}"
        judged.say("init-noise-sigma", "fail", f"{words}: the first latents have another size.")
        judged.blame(Cause("init-noise-sigma", words))
    for dtype, answer in their["dtypes"].items():
        other = mine["dtypes"].get(dtype, "")
        if answer.startswith("error") or answer == other:
            continue
        raises = other.startswith("error")
        judged.say(
            "step-raises" if raises else "step-dtype",
            "fail" if raises else "pass",
            f"On {dtype} samples the official step answers in {answer}, the port's {'in ' * (not raises)}{other}.",
        )
    missing = [name for name in NOISE if name in their["methods"] and not set(NOISE) & set(mine["methods"])]
    if missing:
        judged.say("noise-absent", "pass", f"The port has no {' or '.join(missing)}; image to video may need it.")


def conclude(
    judged: Judged, walks: list[Walk], official: Tensors, port: Tensors, values: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The verdict of everything, with the self-test."""
    compared = [walk for walk in walks if walk.key in judged.rollouts]
    if not compared and not judged.findings:
        judged.say("nothing-compared", "inconclusive", "No schedule was compared.")
    if compared and all(not torch.isfinite(official[f"{walk.key}.float32"]).all() for walk in compared):
        judged.say("not-finite", "inconclusive", "The official rollouts are not finite.")
    if not compared and not any(item.verdict == "fail" for item in judged.findings):
        judged.say("nothing-compared", "inconclusive", "The official side refused every schedule.")
    self_test = _self_test(judged, compared, official, port)
    findings = sorted(judged.findings, key=lambda item: item.verdict == "pass")
    first = [row["first_index"] for row in judged.tables if row["first_index"] is not None]
    verdict = worst([*(item.verdict for item in findings), *(row["verdict"] for row in judged.steps)] or ["pass"])
    return {
        "verdict": verdict,
        "findings": [item.to_json() for item in findings],
        "tables": judged.tables,
        "steps": judged.steps,
        "noise": judged.noise,
        "cause": judged.causes[0].words if judged.causes and verdict != "pass" else "",
        "cause_code": judged.causes[0].code if judged.causes and verdict != "pass" else "",
        "causes": [cause.words for cause in judged.causes] if verdict != "pass" else [],
        "first_differing_index": first[0] if first else None,
        "self_test": self_test,
        "classes": {side: values[side]["class"] for side in values},
        "environment_patches": values["port"]["patches"],
    }


def _self_test(judged: Judged, walks: list[Walk], official: Tensors, port: Tensors) -> dict[str, Any]:
    """Can the check fail? One table entry moved by one unit, and one model output by a ten-thousandth, must show."""
    trials: dict[str, bool] = {}
    for walk in walks[:1]:
        table = port[f"{walk.key}.timesteps"].double().numpy().copy()
        theirs = table.copy()
        table[-1] = np.nextafter(table[-1].astype(np.float32), np.float32(np.inf)).astype(float)
        trials["one timestep, one unit"] = first_index(table, theirs) is not None
        rollout = official[f"{walk.key}.float32"].clone()
        rollout[-1] = rollout[-1] * 1.0001
        found = compare(rollout, official[f"{walk.key}.float32"], official.get(f"{walk.key}.float64"))
        trials["one step, a ten-thousandth"] = found.verdict == "fail"
        velocities = official[f"{walk.key}.float32"]
        trials["steps move the latents"] = bool(velocities.std() > 0)
    passed = bool(trials) and all(trials.values())
    if trials and not passed:
        pale = [name for name, red in trials.items() if not red]
        judged.say("self-test", "inconclusive", f"The check cannot fail: {', '.join(pale)} did not turn it red.")
    return {"passed": passed, "trials": trials}
