"""A small fingerprint of a tensor from which distances can be estimated later, in another process.

The projection is a CountSketch (Charikar, Chen, Farach-Colton 2002): element ``i`` is added with a pseudo-random sign
to a pseudo-random one of ``WIDTH`` sums. It is linear, so the sketch of a difference is the difference of the sketches,
and ``||sketch(a) - sketch(b)||`` estimates ``||a - b||`` with a relative standard deviation of ``1 / sqrt(2 * WIDTH)``
(1.6 % for 2048) whatever the tensors hold. Up to ``WIDTH`` elements the values are kept and the distance is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

WIDTH = 2048


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of one tensor.

    Attributes:
        shape, dtype: Of the tensor; dtype without the ``torch.`` prefix.
        device_type: ``cpu``, ``cuda``, ...
        moments: Order-free statistics in float64: sum, sum of absolute values, L2 norm, sum of cubes, min, max.
        non_finite: Number of NaN or infinite elements.
        sketch: float64, ``min(elements, WIDTH)`` numbers in logical (row-major) order of the elements.
    """

    shape: tuple[int, ...]
    dtype: str
    device_type: str
    moments: tuple[float, ...]
    non_finite: int
    sketch: torch.Tensor

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def norm(self) -> float:
        """L2 norm."""
        return self.moments[2]


def _mix(index: torch.Tensor, salt: int) -> torch.Tensor:
    """A 64-bit integer hash (the finaliser of SplitMix64), the same on every device and version."""
    z = index + salt
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


@lru_cache(maxsize=32)
def _plan(elements: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Bucket (int64) and sign (float64) of each element."""
    hashed = _mix(torch.arange(elements, dtype=torch.int64, device=device), 0x5DEECE66D)
    return (hashed & (WIDTH - 1)), (((hashed >> 40) & 1) * 2 - 1).to(torch.float64)


def fingerprint(tensor: torch.Tensor) -> Fingerprint:
    """Fingerprint a tensor of any dtype; a complex one is seen as pairs of real numbers."""
    values = tensor.detach()
    if values.is_complex():
        values = torch.view_as_real(values)
    flat = values.reshape(-1).to(torch.float64)
    finite = torch.isfinite(flat)
    non_finite = int(flat.numel() - int(finite.sum()))
    if non_finite:
        flat = torch.where(finite, flat, torch.zeros_like(flat))
    if flat.numel() == 0:
        moments: tuple[float, ...] = (0.0,) * 6
    else:
        stats = torch.stack(
            (flat.sum(), flat.abs().sum(), flat.norm(), (flat * flat * flat).sum(), flat.min(), flat.max())
        )
        moments = tuple(stats.tolist())
    return Fingerprint(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        device_type=tensor.device.type,
        moments=moments,
        non_finite=non_finite,
        sketch=_project(flat),
    )


def _project(flat: torch.Tensor) -> torch.Tensor:
    if flat.numel() <= WIDTH:
        return flat.clone().cpu()
    bucket, sign = _plan(flat.numel(), str(flat.device))
    return torch.zeros(WIDTH, dtype=torch.float64, device=flat.device).index_add_(0, bucket, flat * sign).cpu()


def sketch_distance(a: Fingerprint, b: Fingerprint) -> float:
    """Estimate ``||a - b|| / ||b||`` for tensors with one number of elements, whatever their shapes."""
    difference = float((a.sketch - b.sketch).norm())
    if b.norm > 0:
        return difference / b.norm
    return 0.0 if difference == 0 else math.inf


def same_values_in_any_order(a: Fingerprint, b: Fingerprint, tolerance: float) -> bool:
    """Whether the order-free statistics agree, relative to the size of the values.

    The sums are compared on the scale of the sum of absolute values, since they cancel.
    """
    if a.elements != b.elements or a.norm == 0 or b.norm == 0:
        return False
    total, absolute, norm, cubes, low, high = (abs(x - y) for x, y in zip(a.moments, b.moments, strict=True))
    peak = max(abs(b.moments[4]), abs(b.moments[5]))
    return (
        total <= tolerance * b.moments[1]
        and absolute <= tolerance * b.moments[1]
        and norm <= tolerance * b.norm
        and cubes <= 4 * tolerance * b.norm**2 * peak
        and low <= 8 * tolerance * peak
        and high <= 8 * tolerance * peak
    )
