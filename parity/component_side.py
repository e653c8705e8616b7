"""One side's process in component parity: which of its runs the spec asks for."""

from __future__ import annotations

from typing import Any

from .component_official import run_capture, run_official
from .component_port import run_healed, run_port
from .component_runner import ComponentRunner
from .job import Job
from .side_process import prepare


def run_side(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Job of a side's process in component parity."""
    runner = ComponentRunner(spec, spec["side"], job, prepare(spec, spec["side"]))
    if runner.excuses:
        return run_capture(runner) if spec["side"] == "official" else run_healed(runner)
    return run_official(runner) if spec["side"] == "official" else run_port(runner)
