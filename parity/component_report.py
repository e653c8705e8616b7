"""Everything that is concluded from what the two sides of a component comparison left on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .attention import compare_backends, first
from .audit import stands_on
from .boundary_report import BoundaryReport
from .component_results import Results
from .dtypes import Regions, audit_dtypes
from .facts import sha256
from .healing import Excuse
from .honesty import judge_conduct, judge_files, judge_outputs, judge_weights
from .items import Item
from .job import Job
from .output_judge import judge_control, judge_output, match_outputs
from .perturbation_judge import inputs_ignored, self_test
from .precision import precision, precision_finding
from .proof import Link, Proof
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
    Findings,
    severity,
    worst,
)

MOVING = 1 / 4
"""Smallest share of the official tensors on which the outputs have to depend; half a VAE alone is more."""
_DEVIATES = ("fail", "investigate")


class Report:
    """Everything that is concluded from what the two sides left on disk.

    Args:
        spec: Of the run.
        job: Of the run, for its folder.
        official, port: What the two processes said.
        excuses: Places that are looked past.
        healed: What the port said when it ran with official tensors in these places.

    Attributes:
        results: What was left.
        findings: What was found so far.
        proof: Where the official weights are in the port.
        inside: What the boundaries between modules say.
    """

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
        self.official = official
        self.port = port
        self.results = Results(job.run_dir, spec["seeds"], official, port, "port" if healed is None else "healed")
        self.items = self.results.items
        self.findings = Findings()
        self.say = self.findings.say
        self.proof = Proof.from_json(port["proof"])
        self.excuses = list(excuses)
        self.inside = BoundaryReport(self.results, self.proof.links, self.excuses, self.findings)
        self.table_names: list[str] = []
        self.written = (healed or port)["written"]

    def build(self) -> dict[str, Any]:
        """The report, as it goes to the tool; to be called once."""
        self.weights()
        self.honesty()
        self.rounding()
        self.tables()
        cases = [self.case(item) for item in self.items]
        precision_finding(cases, self.spec["dtypes"], self.findings)
        tested = self_test(self.results, self.findings)
        inputs_ignored(self.results, self.findings)
        audit = self.dtype_audit()
        backends = self.backends()
        verdict = worst([*(case["verdict"] for case in cases), *(finding.verdict for finding in self.findings)])
        return {
            "verdict": verdict,
            "findings": [finding.to_json() for finding in self.findings],
            "cases": cases,
            "reference": self.official["reference"],
            "culprit": self.inside.culprit.to_json() if self.inside.culprit else None,
            "dtype_audit": audit,
            "attention_backends": backends,
            "self_test": tested,
            "pairing": self.inside.pairing,
            "tables": self.table_names,
            "weights": {
                "tensors": list(self.proof.tensors),
                "parameters": list(self.proof.parameters),
                "missing": self.proof.missing[:20],
                "unexpected": self.proof.unexpected[:20],
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

    def weights(self) -> None:
        """What is wrong with where the official weights are in the port."""
        proof = self.proof
        for finding in proof.findings:
            if finding.fatal:
                self.say(f"weights-{finding.code}", "fail", finding.message)
        for name, target, theirs, mine in proof.shape_mismatches:
            message = f"{name!r} has shape {tuple(theirs)}, its target {target!r} has {tuple(mine)}."
            self.say("weights-shape-mismatch", "fail", message)
        self.findings += judge_weights(proof, self.official["weights_used"])

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
        self.findings += judge_files(self.results.root, self.official, self.port)
        self.findings += judge_conduct(self.official, self.port, repo)
        self.findings += judge_outputs(self.results.root, self.items[0].key, self.official, self.port)
        for case in self.official["inputs"]["ignore_seed"]:
            self.say(
                "seed-ignored",
                "investigate",
                f"make_inputs gives the same inputs for every seed in case {case!r}; use ctx.seed.",
            )
        for case, other in self.official["inputs"]["alike"]:
            if not self._same_answers(case, other):
                continue  # what is no tensor differs, and counts
            self.say(
                "cases-alike",
                "investigate",
                f"Cases {case!r} and {other!r} are one case with two names: give {other!r} other sizes or lengths.",
            )
        used, theirs = self.port["weights_used"], self.official["weights_used"]
        if used is not None and theirs is not None:
            known = {link.official for link in self.proof.links} & theirs.keys()
            moving = sum(theirs[name] for name in known)
            if moving < MOVING * len(known):
                self.say(
                    "weights-idle",
                    "investigate",
                    f"The official output depends on {moving} of {len(known)} tensors: call the whole model, "
                    "or name what this port leaves out in unused().",
                )
            for link in self.ignored():
                self.say(
                    "port-ignores-weight",
                    "fail",
                    f"The official output depends on {link.official!r}, the port's not on {link.port!r}.",
                )

    def ignored(self) -> list[Link]:
        """Where the port holds weights on which the official outputs depend, and its own do not."""
        used, theirs = self.port["weights_used"], self.official["weights_used"]
        if used is None or theirs is None:
            return []
        return [link for link in self.proof.links if theirs.get(link.official) and used.get(link.port) is False]

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
        if self.results.judged_side == "healed":
            folder = self.results.root / "healed"
            bad = sorted(name for name, digest in self.written.items() if sha256(folder / name) != digest)
            if bad:
                self.say("files-changed", "fail", f"Files of the port are not as it wrote them: {', '.join(bad[:5])}.")

    def tables(self) -> None:
        """Outputs that no input moves (sigmas, timesteps) are equal or wrong; see `tables`."""
        if self.proof.tensors[1]:
            return  # what is left still may stand on a weight
        item = self.items[0]
        inputs = range(len(self.port["input_names"]))
        moved_by = [self.results.outputs("official", item, f"input.{number}") for number in inputs]
        self.table_names = table_names(self.results.outputs("official", item, "float32"), moved_by)
        for name in self.table_names:
            for item in self.items:
                mine, theirs = (self.results.outputs(side, item, "float32").get(name) for side in ("port", "official"))
                difference = first_difference(mine, theirs) if mine is not None and theirs is not None else None
                if difference is not None:
                    self.say(
                        "table-differs",
                        "fail",
                        f"{name!r} depends on no input, so it has to be equal (case {item.case!r}): {difference}. "
                        "Usual causes: a grid in another precision, the shift twice or not at all, another end.",
                    )
                    break

    def case(self, item: Item) -> dict[str, Any]:
        """Verdict on one input."""
        results = self.results
        expected = results.reference(item)
        single, rounded = results.outputs("official", item, "float32"), results.rounded(item)
        port = results.outputs(results.judged_side, item, "float32")
        matched = match_outputs(item, port, expected, self.findings)
        result: dict[str, Any] = {"case": item.case, "seed": item.seed}
        if not matched:
            if not any(finding.verdict == "fail" for finding in self.findings):
                self.say("nothing-compared", "inconclusive", "Not one element was compared: the outputs are empty.")
            return {**result, "verdict": "inconclusive", "logic_ratio": None, "outputs": []}
        rows, verdicts = [], []
        for name, mine, truth in matched:
            row, verdict = judge_output(
                item, name, mine, single.get(name, truth), rounded.get(name, truth), truth, self.findings
            )
            rows.append(row)
            verdicts.append(verdict)
        inside, accused = self.inside.judge(item, outputs_pass=all(verdict == "pass" for verdict in verdicts))
        result.update(inside)
        verdicts += [*accused, judge_control(results, item, self.findings)]
        worst_row = max(rows, key=lambda row: severity(row["logic_ratio"]))
        result.update({key: worst_row[key] for key in ("logic_ratio", "port_error", "reference_error")})
        result["strict"] = all(row["strict"] for row in rows)
        result["max_abs"] = max(row["max_abs"] for row in rows)
        result["cosine"] = min(row["cosine"] for row in rows)
        result["outputs"] = rows
        result["precision"] = precision(results, self.spec["dtypes"], item)
        ratios = [row["ratio"] for row in result["precision"].values() if row["ratio"] is not None]
        result["precision_ratio"] = max(ratios) if ratios else None
        result["verdict"] = worst(verdicts)
        return result

    def _same_answers(self, *cases: str) -> bool:
        """Whether the official outputs of two cases are equal, seed by seed."""
        first, second = (
            [self.results.outputs("official", item, "float32") for item in self.items if item.case == case]
            for case in cases
        )
        return all(
            mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
            for mine, theirs in zip(first, second, strict=True)
        )

    def port_trace(self) -> Trace:
        """The port's trace of the first input."""
        return self.results.trace("port", self.items[0], "float32")

    def simplest_failing(self, cases: list[dict[str, Any]]) -> Item | None:
        """The input that fails with the fewest numbers in its trace; none when only other reasons speak."""
        failing = [item for item, case in zip(self.items, cases, strict=True) if case["verdict"] in _DEVIATES]
        return min(failing, key=self._size, default=None)

    def _size(self, item: Item) -> int:
        return sum(tensor.elements for tensor in self.results.trace("official", item, "float32").tensors)

    def dtype_audit(self) -> list[dict[str, str]]:
        """Where the two sides compute in different dtypes."""
        found: dict[tuple[str, ...], dict[str, str]] = {}
        item = self.items[0]
        for dtype in self.spec["dtypes"]:
            if dtype == "float32":
                continue
            rows, findings = audit_dtypes(
                self.results.trace("port", item, dtype),
                self.results.trace("official", item, dtype),
                self.results.observation("port", dtype),
                self.results.observation("official", dtype),
                self.inside.pairs,
                dtype,
            )
            found.update({tuple(row.values()): row for row in rows})
            self.findings += findings
        return list(found.values())

    def backends(self) -> dict[str, Any]:
        """What each side really ran for attention; a mismatch comes first among the findings."""
        sides = {"official": self.official, "port": self.port}
        report, findings = compare_backends(
            {side: {dtype: self.results.observation(side, dtype) for dtype in self.spec["dtypes"]} for side in sides},
            {side: facts["attention"] for side, facts in sides.items()},
            Regions(self.inside.pairs),
            bool(self.spec.get("align_backends")),
        )
        self.findings[:] = first(findings, self.findings)
        return report
