"""Make the inputs once, by the official side, and hand them to both sides on disk."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from .errors import ParityError
from .facts import sha256
from .handover import announce
from .leaves import leaves, map_tensors
from .runner import Runner


def make_inputs(runner: Runner) -> dict[str, Any]:
    """Call ``make_inputs`` once per case and seed and hand the bundles over on disk."""
    digests: dict[str, set[str]] = {}
    for item in runner.items:
        ctx = runner.context(item, torch.float32)
        torch.manual_seed(item.seed)
        bundle = runner.adapter.call("make_inputs", ctx)
        if not isinstance(bundle, dict) or not leaves(bundle):
            raise ParityError(
                "make_inputs did not return a dict with at least one tensor.",
                seen=f"case {item.case!r}: {type(bundle).__name__} with {len(leaves(bundle))} tensors",
                fix="Return a dict of CPU tensors, floats in float32.",
            )
        for name, tensor in leaves(bundle):
            if tensor.device.type != "cpu" or tensor.dtype in (torch.bfloat16, torch.float16):
                runner.remark("inputs-not-float32", f"make_inputs gives {name!r} as {tensor.dtype} on {tensor.device}.")
        bundle = map_tensors(bundle, lambda tensor: tensor.detach().cpu().clone())
        _save(bundle, runner.shared / f"inputs.{item.key}.pt")
        digests.setdefault(item.case, set()).add(
            json.dumps(
                [
                    (name, str(t.dtype), list(t.shape), t.double().flatten().tolist()[:4096])
                    for name, t in leaves(bundle)
                ]
            )
        )
    seeds = len(runner.spec["seeds"])
    files = {path.name: sha256(path) for path in (runner.shared / f"inputs.{i.key}.pt" for i in runner.items)}
    announce(runner.shared / "inputs.ready", list(runner.cases))
    return {
        "files": files,
        "ignore_seed": [case for case, seen in digests.items() if seeds > 1 and len(seen) == 1],
        "alike": [[first, second] for first, second in combinations(digests, 2) if digests[first] == digests[second]],
    }


def _save(bundle: Any, path: Path) -> None:
    try:
        torch.save(bundle, path)
        torch.load(path, weights_only=True)
    except Exception as error:
        raise ParityError(
            "make_inputs returned something that cannot be handed to another process.",
            seen=f"{type(error).__name__}: {str(error).splitlines()[0][:300]}",
            fix="Return only tensors, numbers, strings and dicts, lists or tuples of them.",
        ) from error
