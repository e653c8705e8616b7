"""Job: run the official pipeline and the port's from the same noise, and say at which step and stage they part."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .audit import stands_on
from .honesty import IMPRECISE, judge_conduct, judge_files
from .items import Item, items
from .job import Job
from .metrics import distance
from .pipeline_judge import Row, check_places, largest, latents_after, rows_of, stage_rows, step_rows
from .pipeline_record import STAGES, Place
from .pipeline_side import CONTROL, EXACT, FORCED, FREE, REFERENCE, SELF_TESTS, read_places
from .sides import Sides, run_sides
from .verdict import OUTPUT_FAIL, OUTPUT_PASS, PRECISION_LIMIT, Findings, Verdict, severity, worst

_STEPS = 4
Tensors = Mapping[Place, torch.Tensor]


def pipeline_parity(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Compare two pipelines.

    Args:
        spec: As of `component_parity`; ``dtypes`` are float32 and the production dtypes.
        job: Where progress goes.

    Returns:
        ``verdict``, ``findings``, ``guilty`` (stages that differ on their own, in order), ``stages``, ``cases`` (each
        with ``steps``, ``final`` and ``decoded``), ``self_test``, ``reference``, ``depends_on`` and what the sides ran.
    """
    started = time.monotonic()
    job.progress(0, _STEPS, "starting the official pipeline and the port's")
    sides = run_sides(spec, job, _STEPS, "pipeline_side")
    ran = time.monotonic()
    job.progress(_STEPS - 1, _STEPS, "comparing stages and steps")
    value = _Report(spec, job.run_dir, sides).build()
    value["timings"] = {"sides_s": round(ran - started, 2), "comparison_s": round(time.monotonic() - ran, 2)}
    job.progress(_STEPS, _STEPS, value["verdict"])
    return value


class _Report:
    """Everything that is concluded from what the two sides left on disk."""

    def __init__(self, spec: dict[str, Any], root: Path, sides: Sides) -> None:
        self.spec = spec
        self.root = root
        self.sides = sides
        self.official, self.port = sides.official, sides.port
        self.items = items(self.official["cases"], spec["seeds"])
        self.whole = [item for item in self.items if self.goes_through(item) == STAGES]
        self.narrow = [name for name in spec["dtypes"] if name != "float32"]
        self.findings = Findings()
        self.say = self.findings.say
        self.stages: dict[str, dict[str, Any]] = {}

    def goes_through(self, item: Item) -> tuple[str, ...]:
        """The stages of an input's case."""
        return tuple(self.official["stages"][item.case])

    def build(self) -> dict[str, Any]:
        self.honesty()
        cases = [self.case(item) for item in self.items]
        guilty = [row for row in self.stages.values() if row["verdict"] in ("fail", "investigate")]
        self.blame(guilty, cases)
        self_test = self.self_test()
        verdict = worst([*(case["verdict"] for case in cases), *(finding.verdict for finding in self.findings)])
        return {
            "verdict": verdict,
            "findings": [finding.to_json() for finding in self.findings],
            "guilty": guilty,
            "stages": list(self.stages.values()),
            "cases": cases,
            "self_test": self_test,
            "reference": {**self.official["reference"], "digest": self.sides.reference, "reused": self.sides.reused},
            "given": self.official["given"],
            "attention_backends": {"official": self.official["attention"], "port": self.port["attention"]},
            "environment": {"official": self.official["environment"], "port": self.port["environment"]},
            "environment_patches": self.port["patches"],
            "flags": {"official": self.official["flags"], "port": self.port["flags"]},
            "depends_on": stands_on(self.official, self.port, self.spec),
            "bands": {"stage": [OUTPUT_PASS, OUTPUT_FAIL], "precision": PRECISION_LIMIT},
        }

    def honesty(self) -> None:
        """Ways to pass without having been tested."""
        for sentence in self.port["foreign"]:
            self.say("official-code-in-port", "fail", f"The port runs the official implementation: {sentence}.")
        for side, facts in (("official", self.official), ("port", self.port)):
            if not facts["model_calls"]:
                verdict: Verdict = "inconclusive" if side == "official" else "fail"
                message = f"call_{side} never called a model of load_{side}: what it records proves nothing about it."
                self.say(f"{side}-model-not-called", verdict, message)
            for remark in facts["remarks"]:
                self.say(remark["code"], "pass", remark["message"])
        self.findings += judge_files(self.root, self.official, self.port)
        self.findings += judge_conduct(self.official, self.port, self.spec.get("official_repo"))
        for case in self.official["inputs"]["ignore_seed"]:
            message = f"make_inputs gives the same inputs for every seed in case {case!r}; use ctx.seed."
            self.say("seed-ignored", "investigate", message)
        if self.official["reference"]["kind"] == "none":
            why = self.official["reference"]["why"]
            message = f"The official pipeline does not run in float64, so its rounding error is not known: {why}"
            self.say("no-reference", "inconclusive", message)
        self.records()

    def records(self) -> None:
        """What went wrong while recording."""
        for side, facts in (("official", self.official), ("port", self.port)):
            wrong: Verdict = "inconclusive" if side == "official" else "fail"
            for run, row in facts["remembered"].items():
                if row["repeated"]:
                    message = f"call_{side} records {row['repeated'][0]} more than once; the first tensor counts."
                    self.say("recorded-twice", wrong, message)
                if row["echoed"]:
                    message = f"call_{side} records the injected tensor instead of its own ({row['echoed'][0]})."
                    self.say("records-injected", wrong, message)
                if row["misfits"] and run.endswith(FORCED) and side == "official":
                    message = f"The official pipeline records {row['misfits'][0]} in changing shapes."
                    self.say("official-unstable", "inconclusive", message)

    def read(self, side: str, item: Item, tag: str) -> dict[Place, torch.Tensor]:
        return read_places(self.root / side / f"{item.key}.{tag}.safetensors")

    def judged(self, item: Item, how: str, dtype: str = "float32") -> list[Row]:
        """The port's run against the official one and the reference; forced, as far as it took what was injected."""
        tag = how if dtype == "float32" else f"{dtype}.{how}"
        port, official = self.read("port", item, tag), self.read("official", item, tag)
        exact = self.read("official", item, f"{EXACT}.{how}") if dtype == "float32" else None
        rows = rows_of(port, official, self.read("official", item, f"{REFERENCE}.{how}"), exact)
        own = self.port["remembered"][f"{item.key}.{tag}"]["own"]
        ends = [n for n, row in enumerate(rows) if str(row.place) in own or (how == FORCED and row.place not in port)]
        return rows[: ends[-1] + 1] if ends else rows

    def case(self, item: Item) -> dict[str, Any]:
        """Verdict on one input."""
        where = f"case {item.case!r}, seed {item.seed}"
        official, port = self.read("official", item, FREE), self.read("port", item, FREE)
        check_places(port, official, self.goes_through(item), where, self.say)
        self.sound(item, where)
        free, forced = self.judged(item, FREE), self.judged(item, FORCED)
        self.rounding(forced, where)
        narrow_free = {dtype: self.judged(item, FREE, dtype) for dtype in self.narrow}
        narrow_forced = {dtype: self.judged(item, FORCED, dtype) for dtype in self.narrow}
        stages = stage_rows(forced, narrow_forced)
        self.remember(stages, where)
        self.precision(narrow_free, narrow_forced, where)
        steps = step_rows(free, narrow_free)
        decoded = largest([row for row in free if row.place.stage == "decode"])
        judged = bool(stages) and (item not in self.whole or (bool(steps) and decoded is not None))
        if not judged:
            if not any(finding.verdict == "fail" for finding in self.findings):
                self.say("nothing-compared", "inconclusive", f"No stage, step or video was compared ({where}).")
            verdict: Verdict = "inconclusive"
        else:
            verdict = worst([*(row.verdict for row in free), *(row["verdict"] for row in stages)])
        return {
            "case": item.case,
            "seed": item.seed,
            "verdict": verdict,
            "steps": steps,
            "final": _final(latents_after(free)[-1] if steps else None),
            "decoded": _final(decoded),
            "stages": stages,
            "free": {str(row.place): row.ratio for row in free},
        }

    def rounding(self, forced: list[Row], where: str) -> None:
        """Name the stage that was measured by the exact values; once."""
        row = next((row for row in forced if row.rounded), None)
        if row is not None and not any(finding.code == "shared-rounding" for finding in self.findings):
            message = (
                f"{row.place} differs where the official code itself rounds in float32 ({where}): the port is "
                f"{row.ratio:.2f} times as far from the exact values as the official pipeline is."
            )
            self.say("shared-rounding", "pass", message)

    def sound(self, item: Item, where: str) -> None:
        """Whether what was recorded can be judged at all: finite, not constant, stable, near its float64 self."""
        truth = self.read("official", item, f"{REFERENCE}.{FREE}")
        for side in ("official", "port"):
            first, second = self.read(side, item, FREE), self.read(side, item, CONTROL)
            own = self.read("official", item, FREE)
            for place, tensor in first.items():
                if not bool(torch.isfinite(tensor).all()):
                    wrong: Verdict = "inconclusive" if side == "official" else "fail"
                    self.say(
                        f"non-finite-{side}", wrong, f"The {side} {place} holds NaN or infinite elements ({where})."
                    )
                    break
                again = second.get(place)
                allowed = 1e-7
                if place in truth and place in own and truth[place].shape == own[place].shape:
                    allowed = max(allowed, distance(own[place], truth[place]).relative_l2)
                gap = math.inf if again is None or again.shape != tensor.shape else _gap(again, tensor)
                if not gap <= allowed:
                    message = (
                        f"The {side} pipeline differs from itself at {place} by {gap:.2g} with one seed ({where})."
                    )
                    self.say(f"{side}-unstable", "inconclusive", message)
                    break
        for place, tensor in self.read("official", item, FREE).items():
            if place.stage in ("latents", "denoising", "decode") and _flat(tensor):
                message = (
                    f"The official {place} is {float(tensor.reshape(-1)[0]):g} everywhere ({where}): it proves nothing."
                )
                self.say("constant-record", "inconclusive", message)
            exact = truth.get(place)
            if exact is not None and place.stage != "timesteps" and exact.shape == tensor.shape and exact.numel():
                error = _gap(tensor, exact)
                if error > IMPRECISE:
                    message = f"The official {place} in float32 is {error:.1g} away from the float64 one ({where})."
                    self.say("reference-imprecise", "inconclusive", message + " Its error is no measure.")
                    break

    def remember(self, stages: list[dict[str, Any]], where: str) -> None:
        """Keep the worst of every stage over all inputs."""
        for row in stages:
            kept = self.stages.get(row["name"])
            worse = kept is None or _rank(row) > _rank(kept)
            if worse:
                self.stages[row["name"]] = {**row, "where": where}

    def precision(self, free: Mapping[str, list[Row]], forced: Mapping[str, list[Row]], where: str) -> None:
        """One finding for the first stage that is less precise than the official one, or else for the whole run."""
        for dtype in self.narrow:
            for rows, how in ((forced[dtype], "on its own"), (free[dtype], "at the end of all before it")):
                bad = next((row for row in rows if not row.ratio <= PRECISION_LIMIT), None)
                if bad is not None and not any(f.code == "precision" for f in self.findings):
                    message = (
                        f"In {dtype} the port's error at {bad.place}, {how}, is {bad.ratio:.3g} times the official "
                        f"pipeline's own ({where}); at most {PRECISION_LIMIT:g} passes. {bad.why}"
                    )
                    self.say("precision", "fail", message.strip())

    def blame(self, guilty: list[dict[str, Any]], cases: list[dict[str, Any]]) -> None:
        """A sentence for every guilty stage; or what it means when each is right and all together are not."""
        for row in guilty:
            step = "" if row["first_step"] is None else f" from step {row['first_step']} on"
            how = (
                f": {row['why']}"
                if row["why"]
                else f" by {row['error']:.2g} relative ({row['logic_ratio']:.3g} times rounding)"
            )
            message = (
                f"Stage {row['stage']!r} ({row['name']}) differs{step}, although all that came before it was the "
                f"official side's{how} ({row['where']})."
            )
            self.say("guilty-stage", row["verdict"], message)
        if not guilty and any(case["verdict"] == "fail" for case in cases):
            place = next(
                (name for case in cases for name, value in case["free"].items() if not value <= OUTPUT_FAIL), "the end"
            )
            message = (
                f"Every stage agrees from official inputs, and yet the free run differs at {place}: something passes "
                "between stages that is not recorded, or the adapter does not go on with what ctx.record returns."
            )
            self.say("between-stages", "fail", message)

    def self_test(self) -> dict[str, Any]:
        """Perturbing the port's initial latents, or its weights, must turn the verdict red."""
        if not self.whole:
            message = "No case goes through all stages: leave 'stages' out of one of CASES."
            self.say("no-whole-case", "inconclusive", message)
            return {"passed": False, "trials": []}
        item = self.whole[0]
        official = {how: self.read("official", item, how) for how in (FREE, FORCED)}
        truth = {how: self.read("official", item, f"{REFERENCE}.{how}") for how in (FREE, FORCED)}
        trials = []
        for what, how, stages in (
            ("initial latents", FREE, ("denoising",)),
            ("weights", FORCED, ("denoising", "decode")),
        ):
            perturbed, before = self.read("port", item, SELF_TESTS[what]), self.read("port", item, how)
            rows = rows_of(perturbed, official[how], truth[how])
            for stage in stages:
                top = largest([row for row in rows if row.place.stage == stage])
                moved = _moved(perturbed, before, stage)
                if not moved and any(place.stage == stage for place in before):
                    message = f"What the port records for stage {stage!r} does not move with its {what}."
                    self.say("stage-not-computed", "fail", message)
                red = moved and top is not None and top.verdict == "fail"
                trials.append({"perturbed": f"{what} ({stage})", "ratio": top.ratio if top else None, "red": red})
        passed = all(trial["red"] for trial in trials)
        if not passed:
            pale = ", ".join(str(trial["perturbed"]) for trial in trials if not trial["red"])
            self.say(
                "self-test", "inconclusive", f"The check cannot fail: perturbing the port's {pale} turned nothing red."
            )
        return {"passed": passed, "trials": trials}


def _moved(after: Tensors, before: Tensors, stage: str) -> bool:
    """Whether a stage's tensors differ between two runs of one side."""
    mine = {place: tensor for place, tensor in before.items() if place.stage == stage}
    return any(place not in after or not torch.equal(after[place], tensor) for place, tensor in mine.items())


def _gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return distance(a, b).relative_l2 if a.numel() else 0.0


def _flat(tensor: torch.Tensor) -> bool:
    return tensor.numel() > 1 and bool((tensor == tensor.reshape(-1)[0]).all())


def _rank(row: dict[str, Any]) -> tuple[int, float]:
    order = ("pass", "investigate", "inconclusive", "fail", "error")
    value = float(row["logic_ratio"])
    return order.index(row["verdict"]), severity(value)


def _final(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "error": row.error,
        "reference_error": row.reference_error,
        "logic_ratio": row.ratio,
        "max_abs": row.max_abs,
        "verdict": row.verdict,
    }
