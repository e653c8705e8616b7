"""The sums, maxima and counts behind one comparison of two tensors, chunk by chunk, in torch alone.

`Totals` adds up; `compare` fills one from two flat chunks; `pieces` cuts two tensors of any layout into such chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

STRICT_TOLERANCE = 1e-4
"""The old rule: ``torch.testing.assert_close(port, official, atol=1e-4, rtol=1e-4)``."""

LOOSE_TOLERANCE = 0.1
"""What FastVideo's own parity tests allow in bfloat16; shown beside the verdict, it decides nothing."""

# Elements a pass: on a CPU what the caches hold, on a GPU what fits six float64 temporaries into 48 MiB.
CHUNKS = {"cpu": 1 << 18, "cuda": 1 << 20}


@dataclass
class Totals:
    """What is known of the elements seen so far; positions are flat indices, -1 for none.

    Attributes:
        difference, expected_square, actual_square, dot: Sums of ``(a - b)^2``, ``b^2``, ``a^2`` and ``a * b``.
        max_abs, max_abs_at: Largest ``|a - b|`` (0 for equal infinities; NaN wins) and where it is first met.
        max_rel, max_rel_at: The same for ``|a - b| / |b|`` where b is not 0; -1 while there was none.
        outside_strict, outside_loose: Elements beyond the tolerance.
        bad_actual, bad_expected: Elements that are NaN or infinite.
    """

    difference: float = 0.0
    expected_square: float = 0.0
    actual_square: float = 0.0
    dot: float = 0.0
    max_abs: float = -1.0
    max_abs_at: int = -1
    max_rel: float = -1.0
    max_rel_at: int = -1
    outside_strict: int = 0
    outside_loose: int = 0
    bad_actual: int = 0
    bad_expected: int = 0

    def add(self, other: Totals, offset: int = 0) -> None:
        """Take in ``other``, whose first element is this tensor's element ``offset``; call it in order of elements."""
        self.difference += other.difference
        self.expected_square += other.expected_square
        self.actual_square += other.actual_square
        self.dot += other.dot
        if _beats(other.max_abs, self.max_abs):
            self.max_abs, self.max_abs_at = other.max_abs, other.max_abs_at + offset
        if _beats(other.max_rel, self.max_rel):
            self.max_rel, self.max_rel_at = other.max_rel, other.max_rel_at + offset
        self.outside_strict += other.outside_strict
        self.outside_loose += other.outside_loose
        self.bad_actual += other.bad_actual
        self.bad_expected += other.bad_expected

    @property
    def finite(self) -> bool:
        """No NaN, no infinity, and no square that overflowed: each of them shows in one of the two sums."""
        return math.isfinite(self.actual_square) and math.isfinite(self.expected_square)


def _beats(new: float, old: float) -> bool:
    return not math.isnan(old) and (math.isnan(new) or new > old)


def flat(tensor: torch.Tensor, as_complex: bool = False) -> torch.Tensor:
    """One dimension; complex numbers as pairs of reals. A copy only if the layout or ``as_complex`` needs it."""
    tensor = tensor.detach()
    if as_complex:
        tensor = tensor if tensor.is_complex() else tensor.to(torch.complex128)
        tensor = torch.view_as_real(tensor.resolve_conj())
    tensor = tensor.resolve_neg()
    return tensor if tensor.dim() == 1 else tensor.reshape(-1)


def pieces(a: torch.Tensor, b: torch.Tensor, limit: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut both tensors at the same places, in order of elements, into flat parts of at most ``limit`` elements.

    Only parts that do not lie in memory as they are needed are copied. Empty tensors have none; a complex number makes
    two elements, and a real one too beside it.
    """
    wide = a.is_complex() or b.is_complex()
    elements = a.numel() * (2 if wide else 1)
    if elements == 0:
        return
    if all(side.is_contiguous() and side.is_complex() == wide and not side.is_conj() for side in (a, b)):
        x, y = flat(a, wide), flat(b, wide)
        if elements <= limit:
            yield x, y
            return
        for start in range(0, elements, limit):
            yield x[start : start + limit], y[start : start + limit]
    elif elements <= limit or a.dim() == 0:
        yield flat(a, wide), flat(b, wide)
    else:
        rows = max(1, limit * len(a) // elements)
        for start in range(0, len(a), rows):
            part = slice(start, start + rows)
            yield from pieces(a[start], b[start], limit) if rows == 1 else pieces(a[part], b[part], limit)


def compare(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> Totals:
    """Compare two flat chunks of equal, positive length on one device, in float64.

    Args:
        a, b: ``[elements]``, any real dtype.
        scale: A power of two that both are multiplied with for the four sums, against overflow and underflow.
    """
    x, y = a.to(torch.float64), b.to(torch.float64)
    if scale != 1.0:
        x, y = x * scale, y * scale
    gap = x - y
    if scale == 1.0 and _whole(a) and _whole(b):
        gap = _integer_gap(a, b)
    sums = torch.stack([torch.dot(gap, gap), torch.dot(y, y), torch.dot(x, x), torch.dot(x, y)]).tolist()
    found = Totals(*sums)
    if scale != 1.0:
        return found
    clean = found.finite
    gap.abs_()
    size = y.abs()
    if clean:
        inside = None
    else:
        # As torch.isclose: equal values are close, infinite ones too, and an infinite or undefined gap is not.
        gap.masked_fill_(x == y, 0)
        inside = gap.isfinite()
        found.bad_actual = int((~x.isfinite()).sum())
        found.bad_expected = int((~y.isfinite()).sum())
    at = gap.argmax()
    found.max_abs, found.max_abs_at = float(gap[at]), int(at)
    if found.max_abs == 0:
        return _all_equal(found, size)
    outside = []
    for tolerance in (STRICT_TOLERANCE, LOOSE_TOLERANCE):
        if found.max_abs <= tolerance:
            outside.append(0)
            continue
        # Two roundings, the product's and the sum's, as the kernel has them; so is `<=` true of NaN on neither side.
        within = gap <= (size * tolerance).add_(tolerance)
        if inside is not None:
            within &= inside
        outside.append(gap.numel() - int(within.count_nonzero()))
    found.outside_strict, found.outside_loose = outside
    ratio = gap.div_(size)
    ratio.masked_fill_(size == 0, -1)
    if not clean:
        # Equal infinities have no gap, which over infinity is 0; a finite value against infinity has no ratio.
        ratio.masked_fill_(size.isinf() & ~ratio.eq(0), math.inf)
    at = ratio.argmax()
    found.max_rel, found.max_rel_at = float(ratio[at]), int(at)
    if found.max_rel < 0:
        found.max_rel_at = -1
    return found


def _all_equal(found: Totals, size: torch.Tensor) -> Totals:
    """``found`` for a chunk without any gap: the largest ratio is 0, at the first element that is not 0."""
    at = (size != 0).to(torch.uint8).argmax()
    if float(size[at]) != 0:
        found.max_rel, found.max_rel_at = 0.0, int(at)
    return found


def _whole(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() and tensor.dtype != torch.uint64


def _integer_gap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a - b`` of two integer chunks, rounded once: 64-bit integers beyond 2^53 differ where float64 sees none."""
    x, y = a.to(torch.int64), b.to(torch.int64)
    gap = (torch.maximum(x, y) - torch.minimum(x, y)).to(torch.float64)
    # The subtraction wraps around beyond 2^63; the sign is of no use here, every reader squares or takes |gap|.
    return torch.where(gap < 0, gap + 2.0**64, gap)
