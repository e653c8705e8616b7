"""Entry of a worker process in the server's interpreter; everything but the list of jobs is the engine's."""

from __future__ import annotations

from ...parity import worker as engine

JOBS = {"fetch_weights": "fetch_weights:fetch_weights", "fetch_official": "fetch_official:fetch_official"}
"""Job name -> ``module:function`` below this package; the function is ``f(spec: dict, job: Job) -> dict``."""


def main(job: str, run_dir: str) -> None:
    """Run ``job`` with the spec in ``run_dir`` and write its result, as the engine's worker does."""
    engine.main(job, run_dir, JOBS, __package__)
