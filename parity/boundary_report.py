"""What the boundaries between modules say of the port, over all inputs of a component comparison."""

from __future__ import annotations

from typing import Any

from .blame import Culprit, find_culprit
from .boundaries import GROSS, Boundary, Comparison, Returned, official_lengths
from .component_results import Results
from .healing import Excuse, find_excuse
from .honesty import PARTIAL, compared_share
from .items import Item
from .pairing import Pair, coverage, pair_modules
from .proof import Link
from .trace import Trace
from .verdict import BIAS_FAIL, BIAS_PASS, BOUNDARY_FAIL, BOUNDARY_PASS, Findings, Verdict, judge, severity


class BoundaryReport:
    """What is concluded from the traces of the two sides.

    Attributes:
        pairs: Port module -> its official counterpart, from the first input that was compared.
        pairing: How much of the port these pairs cover.
        mispaired: Port modules whose pairs turned out to be none.
        compared: Key of an input -> all its boundaries, those that accuse nobody among them.
        culprit: Of the first boundary beyond its band.
        excuse: A place at which the official code itself rounds, which could be looked past.
        lengths: What the official rounding does to the lengths of tensors, over all inputs; none until it is needed.
    """

    def __init__(self, results: Results, links: list[Link], excuses: list[Excuse], findings: Findings) -> None:
        self.results = results
        self.links = links
        self.excuses = excuses
        self.findings = findings
        self.pairs: dict[str, Pair] = {}
        self.pairing: dict[str, object] = coverage({}, Trace())
        self.mispaired: set[str] = set()
        self.compared: dict[str, list[Boundary]] = {}
        self.culprit: Culprit | None = None
        self.excuse: Excuse | None = None
        self.lengths: dict[Returned, float] | None = None

    def judge(self, item: Item, outputs_pass: bool) -> tuple[dict[str, Any], list[Verdict]]:
        """What the boundaries of one input add to its row, and their verdicts; see `accusing`."""
        boundaries = self.accusing(item, outputs_pass)
        judged = max(boundaries, key=lambda b: severity(b.ratio), default=None)
        row: dict[str, Any] = {}
        verdicts: list[Verdict] = []
        if judged is not None:
            verdicts.append(judge(judged.ratio, BOUNDARY_PASS, BOUNDARY_FAIL))
            verdicts.append(self._systematic(item, max(boundaries, key=lambda b: b.bias), alone=verdicts == ["pass"]))
            row["worst_boundary"] = {
                "module": judged.port,
                "official_module": judged.official,
                "ratio": judged.ratio,
                "port_error": judged.port_error,
                "reference_error": judged.reference_error,
            }
        row["boundaries"] = len(boundaries)
        row["worst_bias"] = max(((b.bias, b.port) for b in boundaries), default=(0.0, ""))
        return row, verdicts

    def _systematic(self, item: Item, longest: Boundary, *, alone: bool) -> Verdict:
        """The verdict on the systematic part; said with its place where no other number of the module shows it."""
        verdict = judge(longest.bias, BIAS_PASS, BIAS_FAIL)
        if alone and verdict != "pass":
            self.findings.say(
                "systematic-part",
                verdict,
                f"What {longest.port or 'the model'!r} returns is longer or shorter than the official tensor by "
                f"{longest.bias:.3g} times what rounding does to its length (case {item.case!r}, seed {item.seed}), "
                "though its elements are as near as rounding lets them be: look for a wrong epsilon, scale or "
                "cast, there or earlier.",
            )
        return verdict

    def accusing(self, item: Item, outputs_pass: bool) -> list[Boundary]:
        """The boundaries that can accuse the port; the first one beyond its band gives the culprit.

        A gross difference inside, while every output agrees, lies in elements that no output depends on (padding,
        masked positions): a remark. A small one is diluted on its way out, so it counts although the outputs agree.
        """
        results = self.results
        port = results.trace(results.judged_side, item, "float32")
        reference, official = (results.trace("official", item, tag) for tag in results.tags(item))
        if not self.pairs:
            self.pairs = pair_modules(self.links, port, official, results.port["module_map"])
            self.pairing = coverage(self.pairs, port)
        comparison = Comparison(port, official, reference, self.pairs, self._official_lengths())
        found = self.compared[item.key] = comparison.boundaries()
        self.mispaired |= comparison.mispaired
        idle = [b for b in found if outputs_pass and b.port_error > GROSS and not b.layout]
        if idle:
            self.findings.say(
                "idle-difference",
                "pass",
                f"{idle[0].port!r} and {len(idle) - 1} more modules differ in elements that no output depends on "
                f"(case {item.case!r}); masked or padded positions do.",
            )
            altered = next((b for b in idle if not b.port and self._altered(comparison, b, item)), None)
            if altered is not None:
                self.findings.say(
                    "output-altered",
                    "investigate",
                    f"What the model returns differs by {altered.port_error:.2g} relative (case {item.case!r}); all "
                    "of it was compared and agrees: the adapter makes something else of it. Return it as it is; "
                    "what the port lacks belongs into the port.",
                )
            found = [b for b in found if b not in idle]
            if compared_share(official, results.outputs("official", item, "float32")) < PARTIAL:
                self.findings.say(
                    "partial-output",
                    "investigate",
                    f"{idle[-1].port or 'the model'!r} differs where call_port does not look (case {item.case!r}): "
                    "return all that the model returns, or say with a mask which elements count.",
                )
        exact = results.root / "official" / f"{item.key}.lifted.trace"
        if self.excuse is None and exact.with_suffix(".json").is_file():
            self.excuse = find_excuse(comparison, found, Trace.load(exact), self.excuses)
        if self.culprit is None:
            self.culprit = find_culprit(comparison, found)
        return found

    def _official_lengths(self) -> dict[Returned, float]:
        if self.lengths is None:
            tagged = [(item, self.results.tags(item)) for item in self.results.items]
            self.lengths = official_lengths(
                (self.results.trace("official", item, single), self.results.trace("official", item, exact))
                for item, (exact, single) in tagged
            )
        return self.lengths

    def _altered(self, comparison: Comparison, root: Boundary, item: Item) -> bool:
        """Whether the outputs are all that the port's model returned, none masked, though that is not the official.

        A sign that is a convention (the velocity towards noise or from it) may be turned.
        """
        call = comparison.port.calls[root.index]
        other = comparison.reference_calls[root.official, call.occurrence]
        mine, theirs = ([index for _, index in one.outputs] for one in (call, other))
        outputs = self.results.outputs(self.results.judged_side, item, "float32").values()
        if len(mine) != 1 or len(theirs) != 1:
            return False
        port, reference = comparison.port.tensors[mine[0]], comparison.reference.tensors[theirs[0]]
        compared = sum(int(tensor.count_nonzero()) for tensor in outputs)
        opposite = float((port.sketch + reference.sketch).norm() / reference.sketch.norm())
        return compared >= port.elements and opposite > GROSS
