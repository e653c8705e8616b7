"""Numbers, times and sentences of a report."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import PipelineRow

NOTHING_OPEN = "Every item of the gate was measured. What the measurements do not cover stands under Residual risks."


def number(value: float | None, digits: int = 3) -> str:
    """A measured number for a table; what was not measured and what is not finite is said in words."""
    if value is None:
        return "not measured"
    if not math.isfinite(value):
        return "not finite"
    if value != 0 and not 0.001 <= abs(value) < 100_000:
        return f"{value:.{max(digits - 1, 1)}e}"
    return f"{value:,.{digits}f}" if abs(value) < 100 else f"{value:,.0f}"


def figure(value: float | None, applies: bool, digits: int = 3) -> str:
    """`number`, or that there is none to measure."""
    return number(value, digits) if applies or value is not None else "n/a"


def count(value: int | None) -> str:
    """A count for a table, or that nobody counted."""
    return "not measured" if value is None else f"{value:,}"


def moment(text: str) -> str:
    """An ISO 8601 time for people: to the second, in UTC. What is no such time, or names no zone, stays as it is."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{found.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC" if found.tzinfo else text


def sha(digest: str) -> str:
    """A hash behind a name; nothing where none was recorded."""
    return f", sha256 {digest}" if digest else ""


def guilty(row: PipelineRow | None) -> str:
    """Which stages differ when they are fed with the official tensors."""
    found = ", ".join(row.guilty) if row else ""
    return f"Stages that differ on their own: {found}." if found else "No stage differs on its own."


def pipeline_test(row: PipelineRow | None) -> str:
    """Whether the comparison of the pipelines was seen to fail when it must."""
    if row is None or row.self_test is None:
        return "Whether the check can fail was not recorded."
    judged = "passed" if row.self_test else "not passed: the check could not be shown to fail"
    count = "" if row.perturbed is None else f" ({row.turned_red or 0} of {row.perturbed} perturbations turned it red)"
    return f"Self-test {judged}{count}."


def legend(row: PipelineRow | None) -> str:
    """What the columns of the pipeline's table mean."""
    shown = sum(line.name.startswith("step ") for line in row.lines) if row else 0
    some = f" Of {row.steps} steps, {shown} are shown." if row and row.steps and shown < row.steps else ""
    return (
        "Errors are relative L2 against the float64 reference, in float32, the worst of all inputs; logic and "
        f"precision as above. A stage alone is fed with the official tensors.{some}"
    )
