"""The official side of a component comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .audit import attention_classes, data_read, environment, flags, imported_files, sources_outside_engine
from .component_runner import ComponentRunner
from .handover import announce
from .healing import capturing
from .inputs import make_inputs
from .reference import run_reference
from .sensitivity import responses
from .weights import entries_of_model


def run_official(runner: ComponentRunner) -> dict[str, Any]:
    """Make the inputs, then run the official model: float32 twice, float64, and the production dtypes."""
    spec = runner.spec
    made = make_inputs(runner)
    production = flags()
    model = runner.load(torch.float32)
    announce(runner.shared / "entries.json", [entry.to_json() for entry in entries_of_model(model).values()])
    calls = 0
    for item in runner.items:
        calls += runner.run_traced(model, item, torch.float32, "float32")
    runner.controls(model, runner.observe(model, torch.float32, "float32"))
    used = responses(runner, model)
    backends = attention_classes(model)
    runner.conduct.look_at(model, torch.float32)
    reference = run_reference(runner, model)
    del model
    runner.run_production()
    return {
        **runner.facts(),
        "cases": list(runner.cases),
        "inputs": made,
        "module_calls": calls,
        "reference": reference,
        "weights_used": used,
        "attention": backends,
        "flags": production,
        "environment": environment(runner.device),
        "files": imported_files(Path(spec["official_repo"])) if spec.get("official_repo") else {},
        "data": data_read(spec, "official"),
        "sources": sources_outside_engine(),
        "remarks": runner.remarks,
    }


def run_capture(runner: ComponentRunner) -> dict[str, Any]:
    """Run the official model in float32 once more and keep the tensors of the excuses."""
    model = runner.load(torch.float32)
    for item in runner.items:
        with torch.no_grad(), capturing(model, runner.excuses, runner.shared, item.key):
            runner.call(model, item, torch.float32)
    return {}
