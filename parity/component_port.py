"""The port's side of a component comparison."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .audit import attention_classes, data_read, environment, flags, foreign_code, imported_files
from .component_runner import ComponentRunner
from .handover import await_file
from .healing import healing
from .mapping import plan
from .proof import Proof
from .prove import prove
from .sensitivity import input_names, moves, perturb_weights, responses
from .weights import Entry, tensors_of_model
from .weights_used import asked_again


def run_port(runner: ComponentRunner) -> dict[str, Any]:
    """Run the port: float32 twice, the self-test's perturbations, and the production dtypes."""
    spec = runner.spec
    await_file(runner.shared / "inputs.ready", "make_inputs")
    production = flags()
    model = runner.load(torch.float32)
    calls = 0
    for item in runner.items:
        calls += runner.run_traced(model, item, torch.float32, "float32")
    runner.controls(model, runner.observe(model, torch.float32, "float32"))
    used = responses(runner, model)
    used = used and asked_again(model, used, partial(moves, runner, model))
    tested = perturb_weights(runner, model, used)
    proof = _prove(runner, model)
    foreign = foreign_code(model, Path(spec["official_repo"]) if spec.get("official_repo") else None)
    backends = attention_classes(model)
    cls = f"{type(model).__module__}.{type(model).__qualname__}"
    runner.conduct.look_at(model, torch.float32)
    del model
    runner.run_production()
    return {
        **runner.facts(),
        "class": cls,
        "module_calls": calls,
        "proof": proof.to_json(),
        "weights_used": used,
        "self_test_weights": tested,
        "input_names": input_names(runner),
        "module_map": runner.adapter.module_map,
        "foreign": foreign,
        "attention": backends,
        "flags": production,
        "environment": environment(runner.device),
        "files": imported_files(Path(spec["worktree"])),
        "data": data_read(spec, "port"),
        "patches": runner.patches,
        "remarks": runner.remarks,
    }


def run_healed(runner: ComponentRunner) -> dict[str, Any]:
    """Run the port in float32 once more, with official tensors in the places of the excuses."""
    model = runner.load(torch.float32)
    for item in runner.items:
        with healing(model, runner.excuses, runner.shared, item.key):
            runner.run_traced(model, item, torch.float32, "float32")
    return runner.facts()


def _prove(runner: ComponentRunner, model: torch.nn.Module) -> Proof:
    """Prove by value that the official model's tensors are in the port."""
    rules = runner.mapping_of_adapter() or getattr(model, "param_names_mapping", None)
    await_file(runner.shared / "entries.json", "load_official")
    rows = json.loads((runner.shared / "entries.json").read_text())
    official = {row["name"]: Entry.from_json(row) for row in rows}
    planned = plan(rules, official) if isinstance(rules, dict) and rules else None
    buffers = {name for name, _ in model.named_buffers()}
    return prove(official, tensors_of_model(model), planned, buffers=buffers, unused=runner.unused_among(official))
