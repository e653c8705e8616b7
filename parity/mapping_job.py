"""Job: prove that the official weights arrive in the port."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from .audit import environment, imported_files, sha256
from .children import Child, wait_for
from .errors import ParityError
from .job import Job
from .mapping import Finding, Plan, plan
from .proof import Proof, prove
from .side import open_side
from .weights import Entry, entries_of_model, entry, read_files, tensors_of_model, weight_files

DERIVED = ("position_ids", "inv_freq", "num_batches_tracked", "_extra_state")
"""Ends of names of tensors that code computes for itself; a checkpoint that holds them loses nothing."""


def check_mapping(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Load the port and find every official tensor in it, in a process of its own.

    Args:
        spec: As for component parity, with ``weights_folder`` (folder of safetensors files, or none: then the official
            model's state dict is read) and ``port_class`` (import path of the port's class).
        job: Where progress goes.
    """
    worktree = Path(spec["worktree"])
    common = {
        **spec,
        "out": str(job.run_dir / "out"),
        "shared": str(job.run_dir),
        "cases": None,
        "seeds": [0],
        "dtypes": [],
    }
    if not spec.get("weights_folder"):
        job.progress(1, 4, "loading the official model, for its state dict")
        official = spec.get("official_python") or spec["python"]
        child = Child(official, "official_entries", job.run_dir / "official.process", common, worktree)
        wait_for([child], lambda: None)
        rows = child.value()["entries"]
        (job.run_dir / "official.json").write_text(json.dumps(rows))
        common["official_entries"] = str(job.run_dir / "official.json")
    job.progress(2, 4, "loading the port and comparing values")
    child = Child(spec["python"], "mapping_side", job.run_dir / "port.process", common, worktree)
    wait_for([child], lambda: None)
    value = child.value()
    job.progress(4, 4, value["verdict"])
    return value


def official_entries(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Job of the official process: names, shapes and digests of the official model's state dict."""
    runner = open_side(spec, "official", job)
    return {"entries": [item.to_json() for item in entries_of_model(runner.load(torch.float32)).values()]}


def mapping_side(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Job of the port's process."""
    files = weight_files(Path(spec["weights_folder"])) if spec.get("weights_folder") else []
    official, values, duplicates = _official(spec, files)
    runner = open_side(spec, "port", job)
    names = [name for name in official if not name.endswith(DERIVED)]
    model: torch.nn.Module | None
    problem: ParityError | None = None
    try:
        model = runner.load(torch.float32)
    except ParityError as error:
        problem = error
        model = _half_built(error.__cause__, spec.get("port_class") or "")
    rules = _rules(runner.mapping_of_adapter(), model, spec.get("port_class") or "")
    planned = plan(rules, names) if rules else None
    kept = {name: official[name] for name in names}
    tensors = tensors_of_model(model) if model is not None else {}
    if problem is None:
        port = {name: entry(name, value) for name, value in tensors.items()}
        proof = prove(kept, port, tensors, planned, values)
    else:
        proof = _names_only(kept, {name: tuple(value.shape) for name, value in tensors.items()}, planned, problem)
    proof.findings = [*duplicates, *proof.findings]
    buffers = {name for name, _ in model.named_buffers()} if model is not None else set()
    missing = [name for name in proof.missing if name not in buffers]
    derived = [name for name in official if name.endswith(DERIVED)]
    collisions = [item for item in proof.findings if item.code in ("collision", "duplicate-key")]
    suspects = [item for item in proof.findings if item.code not in ("collision", "duplicate-key")]
    bad = missing or proof.unexpected or proof.shape_mismatches or any(item.fatal for item in proof.findings)
    complete = proof.tensors[0] == proof.tensors[1] > 0
    return {
        "verdict": "inconclusive" if not official else "fail" if bad or not complete else "pass",
        "tensors": list(proof.tensors),
        "parameters": list(proof.parameters),
        "missing": missing,
        "unexpected": proof.unexpected,
        "shape_mismatches": [list(row) for row in proof.shape_mismatches],
        "collisions": [_row(item) for item in collisions],
        "suspects": [_row(item) for item in suspects],
        "suggestions": proof.suggestions,
        "derived": derived,
        "own_buffers": [name for name in proof.missing if name in buffers],
        "how": _count(proof),
        "rules": len(rules or {}),
        "source": spec.get("weights_folder") or "state dict of the official model",
        "load_error": {"what": problem.what, "seen": problem.seen} if problem else None,
        "environment_patches": runner.patches,
        "depends_on": {
            **{f"worktree:{path}": digest for path, digest in imported_files(Path(spec["worktree"])).items()},
            f"adapter:{Path(spec['adapter']).name}": sha256(Path(spec["adapter"])),
            "weights": _digest(official),
            **{f"environment:port.{name}": text for name, text in environment(runner.device).items()},
        },
    }


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "message": finding.message,
        "names": list(finding.names)[:8],
        "fatal": finding.fatal,
    }


def _count(proof: Proof) -> dict[str, int]:
    found: dict[str, int] = {}
    for link in proof.links:
        found[link.how] = found.get(link.how, 0) + 1
    return found


def _digest(entries: dict[str, Entry]) -> str:
    text = json.dumps(sorted((item.name, item.shape, item.digest) for item in entries.values()))
    return hashlib.sha256(text.encode()).hexdigest()


def _official(
    spec: dict[str, Any], files: list[Path]
) -> tuple[dict[str, Entry], dict[str, torch.Tensor], list[Finding]]:
    """The official tensors: from the files, streamed; or from the official process."""
    if not files:
        if spec.get("weights_folder"):
            raise ParityError(
                "The component's weights folder holds no safetensors file.",
                seen=str(spec["weights_folder"]),
                fix="Fetch the weights again with patterns that include the component's *.safetensors files.",
            )
        rows = json.loads(Path(spec["official_entries"]).read_text())
        return {row["name"]: Entry.from_json(row) for row in rows}, {}, []
    found: dict[str, Entry] = {}
    home: dict[str, Path] = {}
    duplicates = []
    for name, tensor, path in read_files(files):
        if name in found:
            message = f"{name!r} is in {home[name].name} and in {path.name}; the loader keeps whichever it reads last."
            duplicates.append(Finding("duplicate-key", message, (name,)))
        found[name] = entry(name, tensor)
        home[name] = path
    return found, {}, duplicates


def _rules(adapter: dict[str, Any] | None, model: torch.nn.Module | None, port_class: str) -> dict[str, Any] | None:
    """``param_mapping`` of the adapter, else the model's ``param_names_mapping``, else the class's."""
    if adapter is not None:
        return adapter
    owner: Any = model if model is not None else _import(port_class)
    value = getattr(owner, "param_names_mapping", None)
    return dict(value) if isinstance(value, dict) and value else None


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None) if module else None
    except Exception:  # the load has failed already and its own error is reported
        return None


def _half_built(error: BaseException | None, port_class: str) -> torch.nn.Module | None:
    """The port's model as it stood when its loader raised: it is a local variable of some frame of the traceback."""
    found: list[torch.nn.Module] = []
    trace: TracebackType | None = error.__traceback__ if error is not None else None
    while trace is not None:
        found += [value for value in trace.tb_frame.f_locals.values() if isinstance(value, torch.nn.Module)]
        trace = trace.tb_next
    name = port_class.rpartition(".")[2]
    named = [module for module in found if type(module).__name__ == name]
    return next(iter(named or sorted(found, key=lambda module: -len(list(module.parameters())))), None)


def _names_only(
    official: dict[str, Entry], port: dict[str, tuple[int, ...]], planned: Plan | None, problem: ParityError
) -> Proof:
    """What names and shapes say when the port's loader refused the weights."""
    proof = Proof(tensors=(0, len(official)), parameters=(0, sum(item.elements for item in official.values())))
    message = f"The port's loader refused the weights: {problem.seen.splitlines()[0] if problem.seen else problem.what}"
    proof.findings = [Finding("load-failed", message), *(planned.findings if planned else [])]
    if planned is None or not port:
        return proof
    for target, sources in planned.targets.items():
        if target not in port:
            proof.unexpected += [source.name for source in sources]
        elif sources[0].index is None and official[sources[-1].name].shape != port[target]:
            name = sources[-1].name
            proof.shape_mismatches.append((name, target, official[name].shape, port[target]))
    proof.missing = [name for name in port if name not in planned.targets]
    for name in proof.unexpected:
        fits = [target for target in proof.missing if port[target] == official[name].shape]
        if fits:
            best = max(fits, key=lambda target: len(set(target.split(".")) & set(name.split("."))))
            proof.suggestions.append(f"{name!r} may belong to {best!r}: same shape and the nearest name.")
    return proof
