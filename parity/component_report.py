"""Everything that is concluded from what the two sides of a component comparison left on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .attention import compare_backends, first
from .audit import stands_on
from .blame import Culprit, find_culprit
from .boundaries import GROSS, Boundary, Comparison
from .dtypes import Regions, audit_dtypes
from .facts import sha256
from .healing import Excuse, find_excuse
from .honesty import PARTIAL, compared_share, judge_conduct, judge_files, judge_outputs, judge_weights
from .job import Job
from .metrics import Distance, distance
from .observe import Observation
from .outputs import moved, read_outputs
from .pairing import Pair, coverage, pair_modules
from .proof import Link, Proof
from .side import Item, items
from .tables import first_difference, table_names
from .trace import Trace
from .verdict import (
    BIAS_FAIL,
    BIAS_PASS,
    BOUNDARY_FAIL,
    BOUNDARY_PASS,
    OUTPUT_FAIL,
    OUTPUT_PASS,
    PRECISION_LIMIT,
    Finding,
    Verdict,
    judge,
    ratio,
    worst,
)

_STEPS = 6
_MOST_EXCUSES = 4
_DEVIATES = ("fail", "investigate")


class Report:
    """Everything that is concluded from what the two sides left on disk."""

    def __init__(
        self,
        spec: dict[str, Any],
        job: Job,
        official: dict[str, Any],
        port: dict[str, Any],
        excuses: Sequence[Excuse] = (),
        healed: dict[str, Any] | None = None,
    ) -> None:
        self.spec = spec
        self.root = job.run_dir
        self.official = official
        self.port = port
        self.items = items(official["cases"], spec["seeds"])
        self.findings: list[Finding] = []
        self.links: list[Link] = []
        self.pairs: dict[str, Pair] = {}
        self.pairing: dict[str, object] = coverage({}, Trace())
        self.culprit: Culprit | None = None
        self.excuses = list(excuses)
        self.excuse: Excuse | None = None
        self.proof = Proof()
        self.mispaired: set[str] = set()
        self.compared: dict[str, list[Boundary]] = {}
        self.table_names: list[str] = []
        self._traces: dict[tuple[str, str, str], Trace] = {}
        self.judged_side = "healed" if healed is not None else "port"
        self.written = (healed or port)["written"]

    def build(self) -> dict[str, Any]:
        proof = self.weights()
        self.honesty()
        self.rounding()
        self.tables()
        cases = [self.case(item) for item in self.items]
        self.precision_finding(cases)
        self_test = self.self_test()
        self.inputs_ignored()
        audit = self.dtype_audit()
        backends = self.backends()
        verdict = worst([*(case["verdict"] for case in cases), *(finding.verdict for finding in self.findings)])
        return {
            "verdict": verdict,
            "findings": [finding.to_json() for finding in self.findings],
            "cases": cases,
            "reference": self.official["reference"],
            "culprit": self.culprit.to_json() if self.culprit else None,
            "dtype_audit": audit,
            "attention_backends": backends,
            "self_test": self_test,
            "pairing": self.pairing,
            "tables": self.table_names,
            "weights": {
                "tensors": list(proof.tensors),
                "parameters": list(proof.parameters),
                "missing": proof.missing[:20],
                "unexpected": proof.unexpected[:20],
            },
            "environment": {"official": self.official["environment"], "port": self.port["environment"]},
            "environment_patches": self.port["patches"],
            "flags": {"official": self.official["flags"], "port": self.port["flags"]},
            "depends_on": stands_on(self.official, self.port, self.spec),
            "bands": {
                "output": [OUTPUT_PASS, OUTPUT_FAIL],
                "boundary": [BOUNDARY_PASS, BOUNDARY_FAIL],
                "bias": [BIAS_PASS, BIAS_FAIL],
                "precision": PRECISION_LIMIT,
            },
        }

    def say(self, code: str, verdict: Verdict, message: str) -> None:
        finding = Finding(code, verdict, message)
        if finding not in self.findings:
            self.findings.append(finding)

    # Structure

    def weights(self) -> Proof:
        """Where the official weights are in the port."""
        proof = self.proof = Proof.from_json(self.port["proof"])
        self.links = proof.links
        for finding in proof.findings:
            if finding.fatal:
                self.say(f"weights-{finding.code}", "fail", finding.message)
        for name, target, theirs, mine in proof.shape_mismatches:
            message = f"{name!r} has shape {tuple(theirs)}, its target {target!r} has {tuple(mine)}."
            self.say("weights-shape-mismatch", "fail", message)
        self.findings += judge_weights(proof, self.official["weights_used"])
        return proof

    def honesty(self) -> None:
        """Ways to pass without having been tested."""
        for sentence in self.port["foreign"]:
            self.say("official-code-in-port", "fail", f"The port runs the official implementation: {sentence}.")
        for side, facts in (("official", self.official), ("port", self.port)):
            if facts["module_calls"] == 0:
                self.say(
                    f"{side}-model-not-called",
                    "inconclusive" if side == "official" else "fail",
                    f"call_{side} never called the model of load_{side}: its output proves nothing about it.",
                )
            for remark in facts["remarks"]:
                self.say(remark["code"], "pass", remark["message"])
        repo = self.spec.get("official_repo")
        self.findings += judge_files(self.root, self.official, self.port)
        self.findings += judge_conduct(self.official, self.port, repo)
        self.findings += judge_outputs(self.root, self.items[0].key, self.official, self.port)
        for case in self.official["inputs"]["ignore_seed"]:
            self.say(
                "seed-ignored",
                "investigate",
                f"make_inputs gives the same inputs for every seed in case {case!r}; use ctx.seed.",
            )
        for case, other in self.official["inputs"]["alike"]:
            self.say(
                "cases-alike",
                "investigate",
                f"Cases {case!r} and {other!r} are one case with two names: give {other!r} other sizes or lengths.",
            )
        used, theirs = self.port["weights_used"], self.official["weights_used"]
        if used is not None and theirs is not None:
            for link in self.links:
                if theirs.get(link.official) and used.get(link.port) is False:
                    self.say(
                        "port-ignores-weight",
                        "fail",
                        f"The official output depends on {link.official!r}, the port's not on {link.port!r}.",
                    )

    def rounding(self) -> None:
        """Name the places that were looked past; their official values stood in for the port's in what was judged."""
        for excuse in self.excuses:
            self.say(
                "shared-rounding",
                "pass",
                f"{excuse.port!r} ({excuse.where}) differs where the official code itself rounds ({excuse.error:.2g} "
                f"relative): the port is {excuse.ratio:.2f} times as far from the exact values. What follows was "
                "judged with the official values in that place.",
            )
        if self.judged_side == "healed":
            folder = self.root / "healed"
            bad = sorted(name for name, digest in self.written.items() if sha256(folder / name) != digest)
            if bad:
                self.say("files-changed", "fail", f"Files of the port are not as it wrote them: {', '.join(bad[:5])}.")

    def tables(self) -> None:
        """Outputs that no input moves (sigmas, timesteps) are equal or wrong; see `tables`."""
        if self.proof.tensors[1]:
            return  # what is left still may stand on a weight
        item = self.items[0]
        inputs = range(len(self.port["input_names"]))
        moved_by = [self.outputs("official", item, f"input.{number}") for number in inputs]
        self.table_names = table_names(self.outputs("official", item, "float32"), moved_by)
        for name in self.table_names:
            for item in self.items:
                mine, theirs = (self.outputs(side, item, "float32").get(name) for side in ("port", "official"))
                difference = first_difference(mine, theirs) if mine is not None and theirs is not None else None
                if difference is not None:
                    self.say(
                        "table-differs",
                        "fail",
                        f"{name!r} depends on no input, so it has to be equal (case {item.case!r}): {difference}. "
                        "Usual causes: a grid in another precision, the shift twice or not at all, another end.",
                    )
                    break

    # Outputs

    def trace(self, side: str, item: Item, tag: str) -> Trace:
        """A trace that a side left; read once, since several conclusions are drawn from each."""
        key = (side, item.key, tag)
        if key not in self._traces:
            self._traces[key] = Trace.load(self.root / side / f"{item.key}.{tag}.trace")
        return self._traces[key]

    def outputs(self, side: str, item: Item, tag: str) -> dict[str, torch.Tensor]:
        return read_outputs(self.root / side, item.key, tag)

    def float32_outputs(self, item: Item) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """What the port and the official model returned in float32."""
        return self.outputs("port", item, "float32"), self.outputs("official", item, "float32")

    def reference(self, item: Item) -> dict[str, torch.Tensor]:
        return self.outputs("official", item, self.tags(item)[0])

    def tags(self, item: Item) -> tuple[str, str]:
        """Names of the official results that are the reference, and of those that show the official rounding."""
        return ("float32", "rounded") if item.key in self.official["reference"]["float32"] else ("reference", "float32")

    def rounded(self, item: Item) -> dict[str, torch.Tensor]:
        """Official outputs with float32 rounding errors, whose distance from the reference is the official error."""
        return self.outputs("official", item, self.tags(item)[1])

    def matched(
        self, item: Item, port: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
    ) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        """Outputs of one name and shape; what has no counterpart is a failure."""
        if len(port) == len(expected) == 1 and (_unnamed(next(iter(port))) or _unnamed(next(iter(expected)))):
            name = next(iter(expected))
            port = {name: next(iter(port.values()))}
        where = f"case {item.case!r}, seed {item.seed}"
        missing, extra = sorted(set(expected) - set(port)), sorted(set(port) - set(expected))
        if missing:
            self.say("missing-output", "fail", f"The port does not return {missing} ({where}).")
        if extra:
            self.say("extra-output", "fail", f"The port returns {extra}, which the official side does not ({where}).")
        found = []
        for name in expected:
            if name not in port:
                continue
            if port[name].shape != expected[name].shape:
                self.say(
                    "shape-mismatch",
                    "fail",
                    f"Output {name!r} has shape {tuple(port[name].shape)}, "
                    f"the official one {tuple(expected[name].shape)} ({where}).",
                )
            elif port[name].numel():
                found.append((name, port[name], expected[name]))
        return found

    def case(self, item: Item) -> dict[str, Any]:
        """Verdict on one input."""
        expected = self.reference(item)
        single, rounded = self.outputs("official", item, "float32"), self.rounded(item)
        matched = self.matched(item, self.outputs(self.judged_side, item, "float32"), expected)
        result: dict[str, Any] = {"case": item.case, "seed": item.seed}
        if not matched:
            if not any(finding.verdict == "fail" for finding in self.findings):
                self.say("nothing-compared", "inconclusive", "Not one element was compared: the outputs are empty.")
            return {**result, "verdict": "inconclusive", "logic_ratio": None, "outputs": []}
        rows, verdicts = [], []
        for name, mine, truth in matched:
            row, verdict = self.output(item, name, mine, single.get(name, truth), rounded.get(name, truth), truth)
            rows.append(row)
            verdicts.append(verdict)
        boundaries = self.boundaries(item, outputs_pass=all(verdict == "pass" for verdict in verdicts))
        judged = max(boundaries, key=lambda b: math.inf if math.isnan(b.ratio) else b.ratio, default=None)
        if judged is not None:
            verdicts.append(judge(judged.ratio, BOUNDARY_PASS, BOUNDARY_FAIL))
            verdicts.append(judge(max(b.bias for b in boundaries), BIAS_PASS, BIAS_FAIL))
            result["worst_boundary"] = {
                "module": judged.port,
                "official_module": judged.official,
                "ratio": judged.ratio,
                "port_error": judged.port_error,
                "reference_error": judged.reference_error,
            }
        result["boundaries"] = len(boundaries)
        result["worst_bias"] = max(((b.bias, b.port) for b in boundaries), default=(0.0, ""))
        verdicts.append(self.control(item))
        worst_row = max(rows, key=lambda row: math.inf if math.isnan(row["logic_ratio"]) else row["logic_ratio"])
        result.update({key: worst_row[key] for key in ("logic_ratio", "port_error", "reference_error")})
        result["strict"] = all(row["strict"] for row in rows)
        result["max_abs"] = max(row["max_abs"] for row in rows)
        result["cosine"] = min(row["cosine"] for row in rows)
        result["outputs"] = rows
        result["precision"] = self.precision(item)
        ratios = [row["ratio"] for row in result["precision"].values() if row["ratio"] is not None]
        result["precision_ratio"] = max(ratios) if ratios else None
        result["verdict"] = worst(verdicts)
        return result

    def output(
        self,
        item: Item,
        name: str,
        mine: torch.Tensor,
        single: torch.Tensor,
        rounded: torch.Tensor,
        truth: torch.Tensor,
    ) -> tuple[dict[str, Any], Verdict]:
        where = f"output {name!r} of case {item.case!r}, seed {item.seed}"
        port_error, official_error, strict = distance(mine, truth), distance(rounded, truth), distance(mine, single)
        exact = not single.is_floating_point()
        value = ratio(port_error.relative_l2, official_error.relative_l2)
        verdict = judge(value, OUTPUT_PASS, OUTPUT_FAIL)
        if exact:
            value = 0.0 if torch.equal(mine.to(truth.dtype), truth) else math.inf
            verdict = "pass" if value == 0 else "fail"
        bad_port, bad_truth = port_error.non_finite
        if bad_truth:
            self.say(
                "non-finite-reference",
                "inconclusive",
                f"The official {where} holds {bad_truth} NaN or infinite elements.",
            )
            verdict = "inconclusive"
        elif bad_port:
            self.say("non-finite-port", "fail", f"The port's {where} holds {bad_port} NaN or infinite elements.")
        constant = truth.numel() > 1 and bool((truth == truth.reshape(-1)[0]).all())
        if constant and not exact:
            self.say(
                "constant-output",
                "inconclusive",
                f"The official {where} is {float(truth.reshape(-1)[0]):g} everywhere: it proves nothing.",
            )
        return {
            "name": name,
            "shape": list(truth.shape),
            "dtype": str(mine.dtype).removeprefix("torch."),
            "logic_ratio": value,
            "port_error": port_error.relative_l2,
            "reference_error": official_error.relative_l2,
            "max_abs": strict.max_abs,
            "cosine": strict.cosine,
            "strict": strict.strict == 1.0,
        }, verdict

    def port_trace(self) -> Trace:
        """The port's trace of the first input."""
        return self.trace("port", self.items[0], "float32")

    def simplest_failing(self, cases: list[dict[str, Any]]) -> Item | None:
        """The input that fails with the fewest numbers in its trace; none when only other reasons speak."""
        failing = [item for item, case in zip(self.items, cases, strict=True) if case["verdict"] in _DEVIATES]
        return min(failing, key=self._size, default=None)

    def _size(self, item: Item) -> int:
        return sum(tensor.elements for tensor in self.trace("official", item, "float32").tensors)

    def worst_ratio(self, item: Item, outputs: dict[str, torch.Tensor]) -> float:
        """Largest logic ratio of such outputs of the port; infinite when one is missing or has another shape."""
        expected = self.reference(item)
        rows = _common(outputs, expected)
        if len(rows) != sum(bool(tensor.numel()) for tensor in expected.values()):
            return math.inf
        found = [ratio(distance(a, b).relative_l2, self.own_error(item, name)) for name, a, b in rows]
        return max((math.inf if math.isnan(value) else value for value in found), default=math.inf)

    def control(self, item: Item) -> Verdict:
        """Each side against itself with one seed: unstable outputs can neither pass nor convict."""
        for side in ("official", "port"):
            first, second = self.outputs(side, item, "float32"), self.outputs(side, item, "control")
            for name, tensor in first.items():
                if name not in second or tensor.shape != second[name].shape:
                    gap = math.inf
                else:
                    gap = distance(second[name], tensor).relative_l2
                own = self.own_error(item, name)
                if not (gap <= max(own, 1e-7)):
                    self.say(
                        f"{side}-unstable",
                        "inconclusive",
                        f"The {side} side differs from itself by {gap:.2g} (relative L2) with one seed.",
                    )
                    return "inconclusive"
        return "pass"

    def own_error(self, item: Item, name: str) -> float:
        truth, single = self.reference(item).get(name), self.rounded(item).get(name)
        if truth is None or single is None or truth.shape != single.shape:
            return 0.0
        return distance(single, truth).relative_l2

    def precision(self, item: Item) -> dict[str, dict[str, Any]]:
        """Error of both sides against the reference in each production dtype."""
        found: dict[str, dict[str, Any]] = {}
        truth = self.reference(item)
        for dtype in self.spec["dtypes"]:
            if dtype == "float32":
                continue
            mine, theirs = self.outputs("port", item, dtype), self.outputs("official", item, dtype)
            if len(mine) == len(theirs) == len(truth) == 1:
                name = next(iter(truth))
                mine, theirs = {name: next(iter(mine.values()))}, {name: next(iter(theirs.values()))}
            rows: list[tuple[float, Distance, Distance, Distance]] = []
            for name, expected in truth.items():
                a, b = mine.get(name), theirs.get(name)
                if a is None or b is None or a.shape != expected.shape or b.shape != expected.shape or not a.numel():
                    continue
                if not b.is_floating_point():
                    continue
                port_error, official_error = distance(a, expected), distance(b, expected)
                value = ratio(port_error.relative_l2, official_error.relative_l2)
                rows.append((value, port_error, official_error, distance(a, b)))
            if rows:
                value, port_error, official_error, direct = max(
                    rows, key=lambda row: math.inf if math.isnan(row[0]) else row[0]
                )
                found[dtype] = {
                    "ratio": value,
                    "port_error": port_error.relative_l2,
                    "reference_error": official_error.relative_l2,
                    "strict": direct.strict == 1.0,
                    "loose": direct.loose == 1.0,
                    "outside_strict": 1 - direct.strict,
                    "max_abs": direct.max_abs,
                    "cosine": direct.cosine,
                }
        return found

    def precision_finding(self, cases: list[dict[str, Any]]) -> None:
        """One finding per production dtype, for the worst input."""
        for dtype in self.spec["dtypes"]:
            rows = [(case["precision"][dtype]["ratio"], case) for case in cases if dtype in case.get("precision", {})]
            value, case = max(rows, key=lambda row: math.inf if math.isnan(row[0]) else row[0], default=(0.0, {}))
            if value > PRECISION_LIMIT or math.isnan(value):
                self.say(
                    "precision",
                    "fail",
                    f"In {dtype} the port's error is {value:.3g} times the reference's own (case {case['case']!r}, "
                    f"seed {case['seed']}); at most {PRECISION_LIMIT:g} passes.",
                )

    # Boundaries

    def boundaries(self, item: Item, outputs_pass: bool) -> list[Boundary]:
        """The boundaries that can accuse the port; the first one beyond its band gives the culprit.

        A gross difference inside, while every output agrees, lies in elements that no output depends on (padding,
        masked positions): a remark. A small one is diluted on its way out, so it counts although the outputs agree.
        """
        port = self.trace(self.judged_side, item, "float32")
        reference, official = (self.trace("official", item, tag) for tag in self.tags(item))
        if not self.pairs:
            self.pairs = pair_modules(self.links, port, official, self.port["module_map"])
            self.pairing = coverage(self.pairs, port)
        comparison = Comparison(port, official, reference, self.pairs)
        found = self.compared[item.key] = comparison.boundaries()
        self.mispaired |= comparison.mispaired
        idle = [b for b in found if outputs_pass and b.port_error > GROSS and not b.layout]
        if idle:
            self.say(
                "idle-difference",
                "pass",
                f"{idle[0].port!r} and {len(idle) - 1} more modules differ in elements that no output depends on "
                f"(case {item.case!r}); masked or padded positions do.",
            )
            found = [b for b in found if b not in idle]
            if compared_share(official, self.outputs("official", item, "float32")) < PARTIAL:
                self.say(
                    "partial-output",
                    "investigate",
                    f"{idle[-1].port or 'the model'!r} differs where call_port does not look (case {item.case!r}): "
                    "return all that the model returns, or say with a mask which elements count.",
                )
        exact = self.root / "official" / f"{item.key}.lifted.trace"
        if self.excuse is None and exact.with_suffix(".json").is_file():
            self.excuse = find_excuse(comparison, found, Trace.load(exact), self.excuses)
        if self.culprit is None:
            self.culprit = find_culprit(comparison, found)
        return found

    # The check itself

    def self_test(self) -> dict[str, Any]:
        """Perturbing a weight or an input of the port must turn the verdict red."""
        item = self.items[0]
        truth = self.reference(item)
        trials: list[dict[str, Any]] = []
        named = [(f"weight {name}", f"weight.{number}") for number, name in enumerate(self.port["self_test_weights"])]
        named += [(f"input {name}", f"input.{number}") for number, name in enumerate(self.port["input_names"])]
        for what, tag in named:
            perturbed = self.outputs("port", item, tag)
            values = [
                ratio(distance(mine, expected).relative_l2, self.own_error(item, name))
                for name, mine, expected in _common(perturbed, truth)
            ]
            value = max(values, default=0.0)
            changed = perturbed.keys() != truth.keys() and len(perturbed) != len(truth)
            trials.append(
                {"perturbed": what, "ratio": value, "red": changed or judge(value, OUTPUT_PASS, OUTPUT_FAIL) == "fail"}
            )
        weights = [trial for trial in trials if trial["perturbed"].startswith("weight")]
        passed = any(trial["red"] for trial in trials) and (not weights or all(trial["red"] for trial in weights))
        if not passed:
            pale = [trial["perturbed"] for trial in trials if not trial["red"]]
            self.say(
                "self-test",
                "inconclusive",
                f"The check cannot fail: perturbing {', '.join(pale) or 'nothing'} did not turn it red.",
            )
        return {"passed": passed, "trials": trials}

    def inputs_ignored(self) -> None:
        """An input that moves the official output must move the port's."""
        item = self.items[0]
        base_port, base_official = self.outputs("port", item, "float32"), self.outputs("official", item, "float32")
        for number, name in enumerate(self.port["input_names"]):
            moved_port = self.outputs("port", item, f"input.{number}")
            moved_official = self.outputs("official", item, f"input.{number}")
            theirs, mine = moved(moved_official, base_official), moved(moved_port, base_port)
            if theirs and not mine:
                self.say(
                    "port-ignores-input", "fail", f"The official output depends on input {name!r}; the port's does not."
                )
            elif not theirs and not mine:
                self.say(
                    "input-unused",
                    "pass",
                    f"Input {name!r} moves no output of either side (case {item.case!r}): what depends on it was not "
                    "compared. Give a case in which it matters, or leave it out of make_inputs.",
                )

    def observation(self, side: str, dtype: str) -> Observation:
        return Observation.load(self.root / side / f"{dtype}.observed.json")

    def dtype_audit(self) -> list[dict[str, str]]:
        found: dict[tuple[str, ...], dict[str, str]] = {}
        item = self.items[0]
        for dtype in self.spec["dtypes"]:
            if dtype == "float32":
                continue
            rows, findings = audit_dtypes(
                self.trace("port", item, dtype),
                self.trace("official", item, dtype),
                self.observation("port", dtype),
                self.observation("official", dtype),
                self.pairs,
                dtype,
            )
            found.update({tuple(row.values()): row for row in rows})
            self.findings += findings
        return list(found.values())

    def backends(self) -> dict[str, Any]:
        """What each side really ran for attention; a mismatch comes first among the findings."""
        sides = {"official": self.official, "port": self.port}
        report, findings = compare_backends(
            {side: {dtype: self.observation(side, dtype) for dtype in self.spec["dtypes"]} for side in sides},
            {side: facts["attention"] for side, facts in sides.items()},
            Regions(self.pairs),
            bool(self.spec.get("align_backends")),
        )
        self.findings = first(findings, self.findings)
        return report


def _unnamed(name: str) -> bool:
    return name == "output" or name.startswith("[")


def _common(
    port: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]
) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    if len(port) == len(truth) == 1:
        port = {next(iter(truth)): next(iter(port.values()))}
    return [
        (name, port[name], truth[name])
        for name in truth
        if name in port and port[name].shape == truth[name].shape and truth[name].numel()
    ]
