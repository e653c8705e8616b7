"""Run the two sides of a comparison in processes of their own; the official one only if its result is not kept."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import reference_cache
from .children import Child, wait_for
from .errors import ParityError
from .job import Job

if TYPE_CHECKING:
    from .healing import Excuse


@dataclass(frozen=True)
class Sides:
    """What the two processes said; their outputs and traces lie in ``official/`` and ``port/`` of the run.

    Attributes:
        official, port: Their values.
        reference: Digest of the official results in the cache, "" when they are not kept.
        reused: Whether the official side came from the cache.
    """

    official: dict[str, Any]
    port: dict[str, Any]
    reference: str
    reused: bool


def run_sides(
    spec: dict[str, Any],
    job: Job,
    steps: int,
    side_job: str = "side",
    meanwhile: Callable[[], object] = lambda: None,
) -> Sides:
    """Run the port, and the official side unless the cache has it.

    Args:
        spec: As for component parity.
        job: Of the run.
        steps: Of its progress.
        side_job: The job of the two processes.
        meanwhile: Called once as soon as they have started.

    Raises:
        ParityError: A side failed; if both did, the one that failed by itself speaks.
    """
    shared = job.run_dir / "shared"
    cache = Path(spec["reference_cache"]) if spec.get("reference_cache") else None
    key = reference_cache.reference_key(spec) if cache else ""
    entry = reference_cache.find(cache, key, spec.get("trusted_references") or []) if cache else None
    if entry is not None:
        shutil.copytree(entry / "shared", shared)
        shutil.copytree(entry / "official", job.run_dir / "official")
        official = json.loads((entry / "value.json").read_bytes())
        port = _run(spec, job, steps, ["port"], side_job=side_job, meanwhile=meanwhile)[0]
        return Sides(official, port, reference_cache.digest(entry), reused=True)
    shared.mkdir(exist_ok=True)
    official, port = _run(spec, job, steps, ["official", "port"], side_job=side_job, meanwhile=meanwhile)
    digest = ""
    if cache is not None:
        official["sources"] = [path for path in official["sources"] if path != str(Path(spec["adapter"]).resolve())]
        digest = reference_cache.keep(cache, key, job.run_dir / "official", shared, official)
    return Sides(official, port, digest, reused=False)


def run_again(spec: dict[str, Any], job: Job, steps: int, excuses: list[Excuse]) -> dict[str, Any]:
    """Run the port with the official tensors of the excuses in place; its results lie in ``healed/`` of the run.

    Raises:
        ParityError: A side failed.
    """
    again = {**spec, "excuses": [excuse.to_json() for excuse in excuses]}
    _run(again, job, steps, ["official"], "capture")
    shutil.rmtree(job.run_dir / "healed", ignore_errors=True)
    return _run(again, job, steps, ["port"], "healed")[0]


def _run(
    spec: dict[str, Any],
    job: Job,
    steps: int,
    names: list[str],
    out: str | None = None,
    side_job: str = "side",
    meanwhile: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    children = [_start(spec, job, name, out or name, side_job) for name in names]
    begun = time.monotonic()

    def tick() -> None:
        ended = [name for name, child in zip(names, children, strict=True) if child.process.poll() is not None]
        waiting = [name for name in names if name not in ended]
        job.progress(1 + len(ended), steps, f"{' and '.join(waiting)} running ({time.monotonic() - begun:.0f} s)")

    meanwhile()
    wait_for(children, tick)
    # A side that was stopped because the other failed has nothing to say; the one that failed speaks.
    values, failures = [], []
    for child in children:
        try:
            values.append(child.value())
        except ParityError as error:
            failures.append((child, error))
    if failures:
        own = [error for child, error in failures if child.spoke()]
        raise own[0] if own else failures[0][1]
    return values


def _start(spec: dict[str, Any], job: Job, side: str, out: str, side_job: str) -> Child:
    python = (spec.get("official_python") if side == "official" else None) or spec["python"]
    child_spec = {**spec, "side": side, "shared": str(job.run_dir / "shared"), "out": str(job.run_dir / out)}
    return Child(python, side_job, job.run_dir / f"{out}.process", child_spec, Path(spec["worktree"]))
