"""Job: prove that a scheduler of the port is the official one: tables exact, steps within the official rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .audit import adapter_digest, stands_on
from .children import Child, wait_for
from .facts import sha256
from .job import Job
from .scheduler_judge import conclude, judge_walks
from .scheduler_steps import changes_to_try, simplifications
from .scheduler_trials import explain
from .scheduler_walks import make_walks

_STEPS = 4
_SHAPE = (2, 3, 2, 3, 5)


def check_scheduler(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Compare two schedulers.

    Args:
        spec: ``official_class`` and ``port_class`` (import paths), ``adapter`` (path or none), ``worktree``,
            ``official_repo``, ``official_weights``, ``converted_weights``, ``component`` (folder name of the
            configuration), ``num_steps``, ``python``, ``official_python``, ``patches``.
        job: Where progress and tensors go.

    Returns:
        ``verdict``, ``findings`` (code, verdict, message), ``tables`` and ``steps`` (one row per walk), ``cause``,
        ``first_differing_index``, ``self_test``, ``depends_on`` and what was compared.
    """
    walks, source = make_walks(spec, job.run_dir / "variants")
    inputs = job.run_dir / "inputs.safetensors"
    save_file(_inputs(max(walk.steps for walk in walks)), inputs)
    common = {**spec, "walks": [walk.to_json() for walk in walks], "inputs": str(inputs)}
    job.progress(1, _STEPS, f"walking {len(walks)} schedules on both sides")
    values = _both(common, job, "walk", {})
    official, port = (load_file(job.run_dir / f"walk.{side}.safetensors") for side in ("official", "port"))
    job.progress(2, _STEPS, "comparing tables, steps and noise")
    judged = judge_walks(walks, official, port, values["official"], values["port"])
    for side in ("official", "port"):
        if sha256(job.run_dir / f"walk.{side}.safetensors") != values[side]["written"]:
            judged.say("files-changed", "fail", f"The tensors of the {side} side are not as it wrote them.")
    bad = judged.worth_explaining()
    if bad is not None:
        job.progress(3, _STEPS, "trying the usual mistakes")
        walk = next(walk for walk in walks if walk.key == bad)
        changes = changes_to_try(values["official"]["config"], walk.steps)
        parts = simplifications(values["official"]["config"], values["port"]["config"], walk.steps)
        rows: dict[str, list[dict[str, Any]]] = {
            "official": [*changes, *(change for _, change in parts)] or [{}],
            "port": [{}, *(change for _, change in parts)],
        }
        extra = {"walks": [walk.to_json()], "tables": str(job.run_dir / "walk.official.safetensors")}
        tried = _both({**common, **extra}, job, "trial", rows)
        explain(judged, walk, changes, parts, job.run_dir, official, port, load_file(inputs), tried)
    value = conclude(judged, walks, official, port, values)
    value["config"] = source
    value["depends_on"] = _depends_on(spec, values, source)
    job.progress(_STEPS, _STEPS, value["verdict"])
    return value


def _inputs(steps: int) -> dict[str, torch.Tensor]:
    """Latents (2, 3, 2, 3, 5), a model output for each step, and an image (2, 3, 4, 5) with its noise; float32."""
    rng = torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(_SHAPE, generator=rng),
        "velocities": torch.randn(steps + 2, *_SHAPE, generator=rng),
        "image": torch.randn(2, 3, 4, 5, generator=rng),
        "noise": torch.randn(2, 3, 4, 5, generator=rng),
    }


def _both(
    spec: dict[str, Any], job: Job, name: str, changes: dict[str, list[dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Both sides, each in its interpreter."""
    children = {}
    for side in ("official", "port"):
        python = (spec.get("official_python") if side == "official" else None) or spec["python"]
        # Only the port is put on the official tables: its own are judged for themselves.
        tables = spec.get("tables") if side == "port" else None
        child = {**spec, "side": side, "changes": changes.get(side, []), "tables": tables}
        child["out"] = str(job.run_dir / f"{name}.{side}.safetensors")
        folder = job.run_dir / f"{name}.{side}.process"
        children[side] = Child(python, "scheduler_side", folder, child, Path(spec["worktree"]))
    wait_for(list(children.values()), lambda: None)
    return {side: child.value() for side, child in sorted(children.items(), key=lambda row: not row[1].spoke())}


def _depends_on(spec: dict[str, Any], values: dict[str, dict[str, Any]], source: str | None) -> dict[str, str]:
    found = stands_on(values["official"], values["port"])
    if spec.get("adapter"):
        path = Path(spec["adapter"]).resolve()
        found[f"adapter:{path.relative_to(Path(spec['worktree']).resolve()).as_posix()}"] = adapter_digest(spec)
    if source:
        found[f"path:{source}"] = sha256(Path(source))
    return found
