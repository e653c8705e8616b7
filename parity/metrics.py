"""How far apart two tensors are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

STRICT_TOLERANCE = 1e-4
"""The old rule: ``torch.testing.assert_close(port, official, atol=1e-4, rtol=1e-4)``."""

LOOSE_TOLERANCE = 0.1
"""What FastVideo's own parity tests allow in bfloat16; shown beside the verdict, it decides nothing."""

_CHUNK = 1 << 24


@dataclass(frozen=True)
class Distance:
    """One comparison of ``actual`` with ``expected``, in float64.

    Attributes:
        relative_l2: ``||actual - expected|| / ||expected||``; 0 when both are zero, infinite when only expected is.
        max_abs: Largest absolute difference.
        cosine: Cosine similarity of the flattened tensors; 1 when both are zero.
        strict: Share of elements within atol = rtol = 1e-4 (the old rule holds when it is 1).
        loose: Share within atol = rtol = 0.1 (what ports in bfloat16 are often held to).
        elements: Number of elements compared.
        non_finite: Elements that are NaN or infinite, as (actual, expected).
    """

    relative_l2: float
    max_abs: float
    cosine: float
    strict: float
    loose: float
    elements: int
    non_finite: tuple[int, int]


def _chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        yield flat[start : start + _CHUNK].to(torch.float64)


def distance(actual: torch.Tensor, expected: torch.Tensor) -> Distance:
    """Compare two tensors of one shape and any dtypes; bounded extra memory.

    Raises:
        ValueError: The shapes differ.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}")
    difference = expected_square = actual_square = dot = 0.0
    max_abs = 0.0
    within = loosely = elements = bad_actual = bad_expected = 0
    for a, b in zip(_chunks(actual), _chunks(expected), strict=True):
        b = b.to(a.device)
        gap = (a - b).abs()
        difference += float(gap.square().sum())
        expected_square += float(b.square().sum())
        actual_square += float(a.square().sum())
        dot += float((a * b).sum())
        max_abs = max(max_abs, float(gap.max()))
        within += int((gap <= STRICT_TOLERANCE + STRICT_TOLERANCE * b.abs()).sum())
        loosely += int((gap <= LOOSE_TOLERANCE + LOOSE_TOLERANCE * b.abs()).sum())
        elements += a.numel()
        bad_actual += int((~torch.isfinite(a)).sum())
        bad_expected += int((~torch.isfinite(b)).sum())
    norms = math.sqrt(expected_square) * math.sqrt(actual_square)
    return Distance(
        relative_l2=relative(math.sqrt(difference), math.sqrt(expected_square)),
        max_abs=max_abs,
        cosine=dot / norms if norms else (1.0 if actual_square == expected_square else 0.0),
        strict=within / elements if elements else 0.0,
        loose=loosely / elements if elements else 0.0,
        elements=elements,
        non_finite=(bad_actual, bad_expected),
    )


def relative(difference: float, norm: float) -> float:
    """``difference / norm`` with 0/0 = 0 and x/0 = infinity."""
    if norm > 0 or math.isnan(norm):
        return difference / norm
    return 0.0 if difference == 0 else math.inf
