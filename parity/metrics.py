"""How far apart two tensors are."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from .metrics_chunks import CHUNKS, LOOSE_TOLERANCE, STRICT_TOLERANCE, Totals, compare, pieces

__all__ = ["LOOSE_TOLERANCE", "STRICT_TOLERANCE", "Distance", "distance", "fallback", "relative"]

# Elements that are copied at most where a tensor cannot be read as it lies: 32 MiB for two float64 sides.
_COPIED = 1 << 21
# Squares sum to 0 or to infinity beyond these norms; only float64 gets there.
_TINY, _SHRINK, _GROW = 2.0**-900, 2.0**-600, 2.0**500


class Distance(NamedTuple):
    """One comparison of ``actual`` with ``expected``, in float64.

    Attributes:
        relative_l2: ``||actual - expected|| / ||expected||``; 0 when both are zero, infinite when only expected is.
            NaN when a NaN is in either or an infinity in expected; infinite when only actual has infinities.
        max_abs: Largest absolute difference; NaN when a NaN is in either, 0 between equal infinities.
        cosine: Cosine similarity of the flattened tensors; 1 when both are zero.
        strict: Share of elements within atol = rtol = 1e-4 (the old rule holds when it is 1).
        loose: Share within atol = rtol = 0.1 (what ports in bfloat16 are often held to).
        elements: Number of elements compared; a complex number is two.
        non_finite: Elements that are NaN or infinite, as (actual, expected).
        max_abs_at: Index of the first element with ``max_abs``; None for empty tensors.
        max_rel: Largest ``|actual - expected| / |expected|`` over elements with expected not 0; NaN and equal
            infinities as in ``max_abs``; infinite where a finite value meets an infinite one; 0 if there is no such
            element.
        max_rel_at: Index of the first element with ``max_rel``; None if there is none.
        outside_strict: Elements outside the strict tolerance, as `torch.testing.assert_close` decides it: equal
            infinities are within, a NaN on either side is outside.
        outside_loose: Elements outside the loose one.
    """

    relative_l2: float
    max_abs: float
    cosine: float
    strict: float
    loose: float
    elements: int
    non_finite: tuple[int, int]
    max_abs_at: tuple[int, ...] | None
    max_rel: float
    max_rel_at: tuple[int, ...] | None
    outside_strict: int
    outside_loose: int


class _Fallback:
    """Why the Triton kernel is not used in this process; empty while it is, or has not been asked."""

    reason = ""


def fallback() -> str:
    """Why tensors on a GPU are compared by torch rather than by the Triton kernel; empty if they are not."""
    return _Fallback.reason


def distance(actual: torch.Tensor, expected: torch.Tensor) -> Distance:
    """Compare two tensors of one shape and any dtypes, layouts and devices, in one pass and 64 MiB of extra memory.

    On a GPU a Triton kernel does it, where there is Triton and a dtype that it reads; else torch, in chunks, with the
    same counts and positions and real numbers within 1e-12. The work is done where ``actual`` lies.

    Raises:
        ValueError: The shapes differ.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}")
    totals = _totals(actual, expected)
    parts = 2 if actual.is_complex() or expected.is_complex() else 1
    elements = actual.numel() * parts
    difference, expected_norm, cosine = _norms(totals)
    if totals.bad_expected and any(map(math.isinf, (expected_norm, difference))):
        difference = math.nan
    if not (totals.finite or totals.bad_actual or totals.bad_expected) or (
        torch.float64 in (actual.dtype, expected.dtype) and totals.max_abs > 0 and totals.expected_square < _TINY
    ):
        scale = _GROW if totals.finite else _SHRINK
        difference, expected_norm, cosine = _norms(_totals(actual, expected, scale))
    return Distance(
        relative_l2=relative(difference, expected_norm),
        max_abs=totals.max_abs if elements else 0.0,
        cosine=cosine,
        strict=(elements - totals.outside_strict) / elements if elements else 0.0,
        loose=(elements - totals.outside_loose) / elements if elements else 0.0,
        elements=elements,
        non_finite=(totals.bad_actual, totals.bad_expected),
        max_abs_at=_index(totals.max_abs_at, parts, actual.shape),
        max_rel=max(totals.max_rel, 0.0) if totals.max_rel_at >= 0 else 0.0,
        max_rel_at=_index(totals.max_rel_at, parts, actual.shape),
        outside_strict=totals.outside_strict,
        outside_loose=totals.outside_loose,
    )


def _totals(actual: torch.Tensor, expected: torch.Tensor, scale: float = 1.0) -> Totals:
    """Sum up with the kernel where it can be used, else with torch."""
    on_gpu = actual.is_cuda and scale == 1.0 and not _Fallback.reason
    if on_gpu:
        try:
            readable_dtypes, compare_on_gpu = _kernels()
            readable = actual.dtype in readable_dtypes and expected.dtype in readable_dtypes
            as_it_lies = actual.device == expected.device and actual.is_contiguous() and expected.is_contiguous()
            if readable and as_it_lies and actual.numel() and not (actual.is_neg() or expected.is_neg()):
                return compare_on_gpu(actual, expected)
            if readable or actual.is_complex():
                found = Totals()
                offset = 0
                for a, b in pieces(actual, expected, actual.numel() * 2 + 1 if as_it_lies else _COPIED):
                    found.add(compare_on_gpu(a.contiguous(), b.to(a.device).contiguous()), offset)
                    offset += a.numel()
                return found
        except torch.cuda.OutOfMemoryError:
            raise
        # Triton needs a C compiler and a supported card; without either torch is right, only slower.
        except Exception as error:
            _Fallback.reason = f"{type(error).__name__}: {error}"[:300]
    found = Totals()
    offset = 0
    for a, b in pieces(actual, expected, CHUNKS.get(actual.device.type, CHUNKS["cuda"])):
        found.add(compare(a, b.to(a.device), scale), offset)
        offset += a.numel()
    return found


@cache
def _kernels() -> tuple[tuple[torch.dtype, ...], Callable[[torch.Tensor, torch.Tensor], Totals]]:
    """The dtypes that the kernels read, and the comparison by them."""
    from .metrics_triton import READABLE, compare_on_gpu

    return READABLE, compare_on_gpu


def _norms(totals: Totals) -> tuple[float, float, float]:
    """Norms of the difference and of expected, and the cosine."""
    difference, expected, actual = map(math.sqrt, (totals.difference, totals.expected_square, totals.actual_square))
    norms = expected * actual
    if norms:
        return difference, expected, totals.dot / norms
    return difference, expected, 1.0 if expected == actual else 0.0


def _index(position: int, parts: int, shape: torch.Size) -> tuple[int, ...] | None:
    """The index of flat element ``position``, of which a number has ``parts``."""
    if position < 0:
        return None
    position //= parts
    index = []
    for size in reversed(shape):
        position, place = divmod(position, size)
        index.append(place)
    return tuple(reversed(index))


def relative(difference: float, norm: float) -> float:
    """``difference / norm`` with 0/0 = 0 and x/0 = infinity."""
    if norm > 0 or math.isnan(norm):
        return difference / norm
    return 0.0 if difference == 0 else math.inf
