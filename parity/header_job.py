"""Job: judge names and shapes of a checkpoint against the port before any value is read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from .errors import ParityError
from .fit import misfit
from .headers import read_headers
from .job import Job
from .mapping import Plan, plan
from .mapping_job import DERIVED, half_built, mapping_result, rules_of
from .proof import Proof
from .runner import open_side
from .weights import tensors_of_model


def header_side(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Job of the process that judges names and shapes: the port's loader on tensors without values."""
    from .fake_load import ImportClock, replace_readers, without_values

    replace_readers()
    runner = open_side(spec, "port", job)
    with ImportClock().running() as clock:
        started = time.perf_counter()
        headers = read_headers(Path(spec["weights_folder"]))
        read_s = time.perf_counter() - started
        refused, whole, model, why = "", "", None, ""
        try:
            with without_values():
                model = runner.load(getattr(torch, headers.dtype))
        except ParityError as error:
            model = half_built(error.__cause__, spec.get("port_class") or "")
            refused, why = _refusal(error)
            whole = str(error.__cause__)
        rules = rules_of(runner.mapping_of_adapter(), model, spec.get("port_class") or "")
        names = [name for name in headers.entries if not name.endswith(DERIVED)]
        planned = plan(rules, names) if rules is not None else None
        proof = None
        if model is not None and not why:
            proof = misfit(
                {name: headers.entries[name] for name in names},
                {name: tuple(value.shape) for name, value in tensors_of_model(model).items()},
                planned,
                refused=refused,
                buffers={name for name, _ in model.named_buffers()},
                unused=runner.unused_among(names),
            )
        if proof is not None and refused and not _names_one(whole, proof, planned):
            proof, why = None, f"the loader's message names none of the tensors that do not fit: {refused}"
        seconds = time.perf_counter() - started - clock.seconds
    facts: dict[str, Any] = {"headers_s": round(seconds, 3), "headers_read_s": round(read_s, 3)}
    fatal = any(finding.fatal for finding in headers.findings if finding.code in ("shard-absent", "index-wrong"))
    if proof is None and fatal:
        size = sum(item.elements for item in headers.entries.values())
        proof = Proof(tensors=(0, len(names)), parameters=(0, size))
        proof.findings = list(planned.findings) if planned else []
    if proof is None:
        fits = f"no answer ({why or refused}); the values decide" if why or refused else "names and shapes may fit"
        return {**facts, "headers": fits[:300]}
    proof.findings = [*headers.findings, *proof.findings]
    facts["headers"] = "names and shapes cannot fit; no value was read"
    return {**mapping_result(spec, runner, headers.entries, proof, rules, model), **facts}


def _refusal(error: ParityError) -> tuple[str, str]:
    """What the loader said when it refused names or shapes; or why its failure says nothing about them."""
    cause = error.__cause__
    text = str(cause).strip().splitlines()[0][:200] if cause is not None and str(cause).strip() else error.what
    kinds = (ValueError, KeyError, AssertionError, RuntimeError)
    # What only tensors without values cause: asking for a value, or an operator that has no such version.
    fake = ("fake", "Fake", "data-dependent", "data dependent", "meta", "storage", "data pointer", "swap")
    if type(cause) not in kinds or any(word in text for word in fake):
        return "", f"the loader cannot be run without values: {type(cause).__name__}: {text}"
    return f"{type(cause).__name__}: {text}", ""


def _names_one(message: str, proof: Proof, planned: Plan | None) -> bool:
    """Whether a loader's message names a tensor that does not fit: then it failed for that reason and for no other."""
    targets = planned.targets if planned is not None else {}
    goal = {source.name: target for target, sources in targets.items() for source in sources}
    names = {*proof.unexpected, *proof.missing, *(goal.get(name, name) for name in proof.unexpected)}
    names.update(row[1] for row in proof.shape_mismatches)
    return any(name in message for name in names)
