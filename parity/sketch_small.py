"""Fingerprints of small tensors of a CUDA device: their values are kept, so they need no kernel of their own.

A copy is made when a tensor is seen, in one call of C++, since the device may be waiting for the host then. What came
together goes to the host at once, later.
"""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from .sketch import Fingerprint, pack

Small: TypeAlias = tuple[torch.Tensor, bool, Fingerprint]
"""A copy of a tensor, whether its values are kept in float32, and its fingerprint, still without them."""


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """What the tensor holds now, contiguous."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def together(small: list[Small]) -> tuple[torch.Tensor, list[Small]]:
    """All values in one float64 tensor on the device, and the tensors in the order in which they lie there."""
    ordered = sorted(small, key=lambda one: (str(one[0].dtype), one[0].numel()))
    groups = [[one[0].reshape(-1) for one in group] for _, group in groupby(ordered, key=lambda one: one[0].dtype)]
    return torch.cat([torch.cat(group).to(torch.float64) for group in groups]), ordered


@np.errstate(over="ignore", invalid="ignore")
def hand_out(values: npt.NDArray[np.float64], ordered: list[Small]) -> None:
    """Complete the fingerprints of tensors whose values follow each other."""
    sizes = [tensor.numel() for tensor, _, _ in ordered]
    ends = np.cumsum([0, *sizes])
    starts = [0, *(index for index, (one, other) in enumerate(pairwise(sizes), 1) if one != other), len(sizes)]
    for first, last in pairwise(starts):  # tensors of one size are rows of a matrix
        rows = values[ends[first] : ends[last]].reshape(last - first, -1)
        finite = np.isfinite(rows)
        x = np.where(finite, rows, 0.0)
        single = x.astype(np.float32)
        fits = bool(np.isfinite(single).all())
        broken = (rows.shape[1] - finite.sum(axis=1)).tolist()
        moments = np.stack([x.sum(axis=1), np.sqrt((x * x).sum(axis=1)), x.min(axis=1), x.max(axis=1)], axis=1).tolist()
        for index, (_, rounded, made) in enumerate(ordered[first:last]):
            made.moments, made.non_finite = tuple(moments[index]), broken[index]
            made.packed = single[index] if rounded and fits else pack(x[index], rounded)
