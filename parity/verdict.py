"""The bands, and how many measurements become one verdict.

Every number here was set by measurement on real pairs, planted mistakes and correct rewrites (see docs in README and
``tests/faults``). Nothing in a tool's arguments can change them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["pass", "fail", "investigate", "inconclusive", "error"]

UNIT = 2.0**-24
"""Unit roundoff of float32."""
FLOOR = 2 * UNIT
"""Errors below this are not told apart: the reference may be exact where a correct port rounds once."""
OUTPUT_PASS, OUTPUT_FAIL = 2.0, 3.0
"""Logic ratio at the outputs: at most the first passes, above the second fails, between is to be looked into."""
BOUNDARY_PASS, BOUNDARY_FAIL = 4.0, 8.0
"""The same at every paired module."""
BIAS_PASS, BIAS_FAIL = 8.0, 16.0
"""Systematic part of the error at every paired module, over what rounding can do (`Comparison.bias_ratio`)."""
PRECISION_LIMIT = 2.0
"""Largest precision ratio (production dtype)."""

MEANING: dict[Verdict, str] = {
    "pass": "The port's error is the reference's own rounding error.",
    "fail": "The port computes something else.",
    "investigate": "The numbers neither clear nor convict the port; a person or agent has to look.",
    "inconclusive": "Nothing can be concluded from what was run; repair the check, not the port.",
    "error": "One side could not be run.",
}

_ORDER: tuple[Verdict, ...] = ("pass", "investigate", "inconclusive", "fail", "error")


@dataclass(frozen=True)
class Finding:
    """One named reason.

    Attributes:
        code: Stable short name, for example ``nothing-compared``.
        verdict: What this finding alone makes of the verdict; ``pass`` for a remark.
        message: What was seen and what to do.
    """

    code: str
    verdict: Verdict
    message: str

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON."""
        return asdict(self)


class Findings(list[Finding]):
    """The findings of one comparison, in the order in which they were made."""

    def say(self, code: str, verdict: Verdict, message: str) -> None:
        """Add a finding unless it is there."""
        finding = Finding(code, verdict, message)
        if finding not in self:
            self.append(finding)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The most serious of several verdicts; ``inconclusive`` when there are none."""
    ranked = sorted(verdicts, key=_ORDER.index)
    return ranked[-1] if ranked else "inconclusive"


def ratio(port_error: float, reference_error: float) -> float:
    """``e(P, G) / max(e(R, G), FLOOR)``; NaN when an error is NaN."""
    if math.isnan(port_error) or math.isnan(reference_error):
        return math.nan
    return port_error / max(reference_error, FLOOR)


def severity(value: float) -> float:
    """A ratio or an error as it counts when the worst is looked for: NaN is beyond every number."""
    return math.inf if math.isnan(value) else value


def judge(value: float, passes: float, fails: float) -> Verdict:
    """Place a ratio in its band. NaN is a failure."""
    if math.isnan(value) or value > fails:
        return "fail"
    return "pass" if value <= passes else "investigate"
