"""Job: where the port and the official component part, by the ladder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .component_job import component_parity
from .job import Job
from .ladder import ladder

if TYPE_CHECKING:
    from .trace import Trace

_ALIGNED = "aligned"


def locate(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Compare as `component_parity` does, and climb the ladder; a mismatch of attention kernels is tried out.

    Args:
        spec: As for `component_parity`.
        job: Where progress and artifacts go.

    Returns:
        The value of `component_parity` with ``ladder`` (see `ladder.ladder`) and ``aligned`` (the verdict with both
        sides on torch's math attention, or none).
    """
    value = component_parity(spec, job)
    aligned = None
    if value["attention_backends"]["differs"] and value["verdict"] in ("fail", "investigate"):
        job.progress(0, None, "both sides once more, on torch's math attention")
        aligned = component_parity(
            {**spec, "align_backends": True, "diagnose": False, "trials": False, "dtypes": ["float32"]},
            Job(_folder(job)),
        )["verdict"]
    if aligned == "pass":
        from .other_causes import backend_culprit  # with torch, which the job leaves to the time when the sides run

        culprit = backend_culprit(value, _port_trace(job)).to_json()
        value = {**value, "culprit": culprit, "culprits": [culprit], "confirmed": True}
    return {**value, "aligned": aligned, "ladder": ladder(value, aligned)}


def _folder(job: Job) -> Path:
    folder = job.run_dir / _ALIGNED
    folder.mkdir()
    return folder


def _port_trace(job: Job) -> Trace:
    """The port's trace of the first input: for the code of its modules."""
    from .trace import Trace

    first = min((job.run_dir / "port").glob("*.float32.npy"))
    return Trace.load(first.with_suffix(".trace"))
