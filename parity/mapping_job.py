"""Job: prove that the official weights arrive in the port."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from .audit import adapter_digest, data_read, environment, imported_files
from .children import Child, wait_for
from .errors import ParityError
from .fit import misfit
from .headers import Headers, read_headers
from .job import Job
from .mapping import Finding, Plan, plan
from .proof import Proof
from .prove import prove
from .runner import Runner, open_side
from .weights import Entry, FileTensors, entries_of_model, tensors_of_model

DERIVED = ("position_ids", "inv_freq", "num_batches_tracked", "_extra_state")
"""Ends of names of tensors that code computes for itself; a checkpoint that holds them loses nothing."""
_HEADERS_WAIT_S = 120.0


def check_mapping(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Find every official tensor in the port, in processes of their own.

    Names and shapes come first: one process runs the port's loader on tensors without values, while another loads it
    for real and compares values. What cannot fit ends both.

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
    else:
        read_headers(Path(spec["weights_folder"]))  # a file that cannot be read ends it here
    job.progress(2, 4, "names and shapes from the headers; loading the port and comparing values")
    value = _both(spec, common, job, worktree)
    job.progress(4, 4, value["verdict"])
    return value


def _both(spec: dict[str, Any], common: dict[str, Any], job: Job, worktree: Path) -> dict[str, Any]:
    """Names and shapes beside values; a certain misfit needs no value."""
    port = Child(spec["python"], "mapping_side", job.run_dir / "port.process", common, worktree)
    if not spec.get("weights_folder"):
        wait_for([port], lambda: None)
        return {**port.value(), "headers": "not judged: the official tensors came from the official model"}
    headers = Child(spec["python"], "header_side", job.run_dir / "headers.process", common, worktree)
    try:
        ended: float | None = None
        while headers.process.poll() is None and (ended is None or time.monotonic() - ended < _HEADERS_WAIT_S):
            ended = time.monotonic() if ended is None and port.process.poll() is not None else ended
            time.sleep(0.05)
        first = _first(headers)
        if first.get("verdict") == "fail":
            return first
        wait_for([port], lambda: None)
        return {**port.value(), "headers": first["headers"], "headers_s": first.get("headers_s")}
    finally:
        headers.stop()
        port.stop()


def _first(child: Child) -> dict[str, Any]:
    """What the headers said, or why they said nothing."""
    child.stop()
    try:
        return child.value()
    except ParityError as error:
        return {"headers": f"not judged: {error.what}"[:300]}


def official_entries(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Job of the official process: names, shapes and digests of the official model's state dict."""
    runner = open_side(spec, "official", job)
    return {"entries": [item.to_json() for item in entries_of_model(runner.load(torch.float32)).values()]}


def mapping_side(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Job of the process that loads the port for real and compares values."""
    headers = _official(spec)
    runner = open_side(spec, "port", job)
    names = [name for name in headers.entries if not name.endswith(DERIVED)]
    kept = {name: headers.entries[name] for name in names}
    values = FileTensors({name: headers.homes[name] for name in names}) if headers.homes else None
    model, asked, problem = _load(runner, headers, spec.get("port_class") or "")
    rules = rules_of(runner.mapping_of_adapter(), model, spec.get("port_class") or "")
    planned = plan(rules, names) if rules is not None else None
    tensors = tensors_of_model(model) if model is not None else {}
    buffers = {name for name, _ in model.named_buffers()} if model is not None else set()
    unused = runner.unused_among(names)
    if problem is None:
        with torch.no_grad():
            proof = prove(kept, tensors, planned, values, asked=asked, buffers=buffers, unused=unused)
    else:
        proof = _unloaded(problem, kept, model, planned, buffers, unused)
    proof.findings = [*headers.findings, *proof.findings]
    if model is not None and problem is None:
        proof.findings += left_on_meta(model, tensors)
    value = mapping_result(spec, runner, headers.entries, proof, rules, model)
    value["load_error"] = {"what": problem.what, "seen": problem.seen, "fix": problem.fix} if problem else None
    value["asked_dtype"] = str(asked).removeprefix("torch.")
    return value


def _unloaded(
    problem: ParityError,
    official: dict[str, Entry],
    model: torch.nn.Module | None,
    planned: Plan | None,
    buffers: set[str],
    unused: set[str],
) -> Proof:
    """What does not fit in a port that did not load; a model that was never built says nothing about names."""
    seen = problem.seen.splitlines()[0] if problem.seen else problem.what
    proof = None
    if model is not None:
        shapes = {name: tuple(value.shape) for name, value in tensors_of_model(model).items()}
        proof = misfit(official, shapes, planned, refused=seen, buffers=buffers, unused=unused)
    return proof or Proof(
        tensors=(0, len(official)),
        parameters=(0, sum(item.elements for item in official.values())),
        findings=[
            Finding("load-failed", f"The port did not load: {problem.what} {seen}"),
            *(planned.findings if planned else []),
        ],
    )


def _load(
    runner: Runner, headers: Headers, port_class: str
) -> tuple[torch.nn.Module | None, torch.dtype, ParityError | None]:
    """The port in the dtype that most official elements are stored in, so that files stay memory-mapped.

    Where that fails it is loaded in float32: not every loader runs in half precision on a CPU.
    """
    wanted = getattr(torch, headers.dtype)
    problem: ParityError | None = None
    for dtype in dict.fromkeys((wanted, torch.float32)):
        try:
            return runner.load(dtype), dtype, None
        except ParityError as error:
            problem = error
    assert problem is not None
    return half_built(problem.__cause__, port_class), torch.float32, problem


def left_on_meta(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> list[Finding]:
    """Non-persistent buffers without values: no checkpoint holds them, so the model has to compute them."""
    lost = [name for name, value in model.named_buffers() if value.device.type == "meta" and name not in tensors]
    if not lost:
        return []
    message = (
        f"{len(lost)} non-persistent buffers are still on the meta device, {lost[0]!r} first: compute them in "
        "materialize_non_persistent_buffers(device, dtype)."
    )
    return [Finding("never-loaded", message, tuple(lost))]


def mapping_result(
    spec: dict[str, Any],
    runner: Runner,
    official: dict[str, Entry],
    proof: Proof,
    rules: dict[str, Any] | None,
    model: torch.nn.Module | None,
) -> dict[str, Any]:
    buffers = {name for name, _ in model.named_buffers()} if model is not None else set()
    idle = [pattern for pattern in runner.unused() if not any(re.match(pattern, name) for name in official)]
    for pattern in idle:
        message = f"UNUSED pattern {pattern!r} of the adapter matches no official key."
        proof.findings.append(Finding("unused-matches-nothing", message, (pattern,), fatal=False))
    missing = [name for name in proof.missing if name not in buffers]
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
        "unused_on_purpose": proof.unused,
        "shape_mismatches": [list(row) for row in proof.shape_mismatches],
        "collisions": [_row(item) for item in collisions],
        "suspects": [_row(item) for item in suspects],
        "suggestions": proof.suggestions,
        "derived": [name for name in official if name.endswith(DERIVED)],
        "own_buffers": [name for name in proof.missing if name in buffers],
        "how": _count(proof),
        "rules": len(rules or {}),
        "rule_lines": _rule_lines(rules or {}),
        "unused_patterns": {
            pattern: sum(bool(re.match(pattern, name)) for name in official) for pattern in runner.unused()
        },
        "arrivals": _arrivals(proof),
        "source": spec.get("weights_folder") or "state dict of the official model",
        "load_error": None,
        "headers": "",
        "headers_s": None,
        "environment_patches": runner.patches,
        "depends_on": {
            **{f"worktree:{path}": digest for path, digest in data_read(spec, "port").items()},
            **{f"worktree:{path}": digest for path, digest in imported_files(Path(spec["worktree"])).items()},
            f"adapter:{Path(spec['adapter']).name}": adapter_digest(spec),
            "weights": _digest(official),
            **{f"environment:port.{name}": text for name, text in environment(runner.device).items()},
        },
    }


def _rule_lines(rules: dict[str, Any]) -> list[str]:
    """The rules as a person reviews them, one line each, in the order in which they are tried."""
    lines = []
    for pattern, value in rules.items():
        merged = isinstance(value, (tuple, list)) and len(value) == 3
        target = f"{value[0]!r} (part {value[1]} of {value[2]})" if merged else repr(value)
        lines.append(f"{pattern!r} -> {target}")
    return lines


def _arrivals(proof: Proof) -> str:
    """SHA-256 over where every official tensor went and how: the mapping itself, whatever code carried it out."""
    rows = sorted((x.official, x.port, x.rows or (), x.how, x.part or ()) for x in proof.links)
    return hashlib.sha256(json.dumps([rows, sorted(proof.unused)]).encode()).hexdigest()


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "message": finding.message,
        "names": list(finding.names)[:8],
        "fatal": finding.fatal,
    }


def _count(proof: Proof) -> dict[str, int]:
    """How many links there are of each kind; splits are one kind, wherever they are cut."""
    found: dict[str, int] = {}
    for link in proof.links:
        how = "split" if link.part else link.how
        found[how] = found.get(how, 0) + 1
    return found


def _digest(entries: dict[str, Entry]) -> str:
    """Of names, shapes and dtypes (and values, where they were digested); the files themselves are hashed elsewhere."""
    text = json.dumps(sorted((item.name, item.shape, item.dtype, item.digest) for item in entries.values()))
    return hashlib.sha256(text.encode()).hexdigest()


def _official(spec: dict[str, Any]) -> Headers:
    """The official tensors: the files' headers, or what the official process said."""
    if spec.get("weights_folder"):
        return read_headers(Path(spec["weights_folder"]))
    rows = json.loads(Path(spec["official_entries"]).read_text())
    return Headers({row["name"]: Entry.from_json(row) for row in rows})


def rules_of(adapter: dict[str, Any] | None, model: torch.nn.Module | None, port_class: str) -> dict[str, Any] | None:
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


def half_built(error: BaseException | None, port_class: str) -> torch.nn.Module | None:
    """The port's model as it stood when its loader raised: it is a local variable of some frame of the traceback.

    None where the constructor itself raised: a model that is built in part has some of its tensors only.
    """
    found: list[torch.nn.Module] = []
    trace: TracebackType | None = error.__traceback__ if error is not None else None
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), torch.nn.Module):
            return None
        found += [value for value in frame.f_locals.values() if isinstance(value, torch.nn.Module)]
        trace = trace.tb_next
    name = port_class.rpartition(".")[2]
    named = [module for module in found if type(module).__name__ == name]
    return next(iter(named or sorted(found, key=lambda module: -len(list(module.parameters())))), None)
