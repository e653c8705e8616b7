"""Outputs that depend on no input and no weight (sigmas, timesteps, position tables) have to be equal, not near.

Such a table is computed once by a few operations of the standard library or numpy; two implementations of one formula
give the same bits, and the samplers that read it compare and index with them. A ratio of errors says nothing there: the
official code has no error of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

Tensors = Mapping[str, torch.Tensor]


def table_names(outputs: Tensors, perturbed: Iterable[Tensors]) -> list[str]:
    """Names of the outputs that stayed bit for bit the same whichever input was perturbed.

    Args:
        outputs: Of the unperturbed forward.
        perturbed: The outputs with one input changed at a time. Empty, or when nothing moves at all: no tables.
    """
    runs = list(perturbed)
    still = [
        name
        for name, tensor in outputs.items()
        if tensor.numel() > 1 and all(name in run and _equal(run[name], tensor) for run in runs)
    ]
    return still if runs and len(still) < len(outputs) else []


def first_difference(port: torch.Tensor, official: torch.Tensor) -> str | None:
    """Where and how a table differs, in words; none when it is equal (dtype apart) or has another shape."""
    if port.shape != official.shape or _equal(port, official):
        return None
    wide = torch.float64 if port.is_floating_point() or official.is_floating_point() else torch.int64
    mine, theirs = port.to(wide).reshape(-1), official.to(wide).reshape(-1)
    differing = (mine != theirs).nonzero().reshape(-1)
    index = int(differing[0])
    return (
        f"{differing.numel()} of {theirs.numel()} entries differ, first at index {index}: "
        f"{mine[index].item():.9g} in place of {theirs[index].item():.9g}"
    )


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in the narrower of float32 and float64; a half or an integer must hold the other's values exactly."""
    if a.shape != b.shape:
        return False
    full = (torch.float32, torch.float64)
    if a.dtype in full and b.dtype in full:
        dtype = min(a.dtype, b.dtype, key=full.index)
        return torch.equal(a.to(dtype), b.to(dtype))
    if a.is_floating_point() or b.is_floating_point():
        return torch.equal(a.double(), b.double())
    return torch.equal(a.long(), b.long())
