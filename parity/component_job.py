"""Job: run the official component and the port side by side and say whether, and where, they part."""

from __future__ import annotations

import importlib
import time
from typing import Any

from .job import Job
from .sides import run_sides

_STEPS = 6
_JUDGE = ".component_judge"


def component_parity(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Compare one component.

    Args:
        spec: ``adapter``, ``worktree``, ``official_repo``, ``official_weights``, ``converted_weights`` (paths or none),
            ``python``, ``official_python``, ``cases`` (names or none for all), ``seeds``, ``dtypes``, ``device``,
            ``patches``; ``align_backends`` (both sides on torch's math attention);
            ``reference_cache`` (folder or none) and ``trusted_references`` (digests of its entries).
        job: Where progress and artifacts go.
    """
    started = time.monotonic()
    job.progress(0, _STEPS, "starting the official side and the port")
    # What judges needs torch, whose import takes as long as a small model's forward: it is read while the sides run.
    sides = run_sides(spec, job, _STEPS, meanwhile=lambda: importlib.import_module(_JUDGE, __package__))
    ran = time.monotonic()
    job.progress(_STEPS - 2, _STEPS, "comparing outputs and boundaries")
    from .component_judge import judge_sides

    value = judge_sides(spec, job, sides, _STEPS)
    value["reference"] = {**value["reference"], "digest": sides.reference, "reused": sides.reused}
    value["timings"] = {"sides_s": round(ran - started, 2), "comparison_s": round(time.monotonic() - ran, 2)}
    job.progress(_STEPS, _STEPS, value["verdict"])
    return value
