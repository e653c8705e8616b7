"""A small fingerprint of a tensor from which distances can be estimated later, in another process.

The projection is a CountSketch (Charikar, Chen, Farach-Colton 2002) that can be read at memory speed. The elements, in
logical order, stand in rows of ``WIDTH``; element ``j`` of row ``r`` is added with a pseudo-random sign to sum
``j XOR turn(r)``, where ``turn`` is a pseudo-random number of the row. Two elements of one row never meet, two of
different rows meet with probability ``1 / WIDTH``, and the signs of elements that meet are independent. So
``||sketch(a) - sketch(b)||^2`` is unbiased for ``||a - b||^2`` and its relative variance is at most ``2 / WIDTH``:
a distance is right with a relative standard deviation of at most ``1 / sqrt(2 * WIDTH)`` (1.6 % for 2048), whatever the
tensors hold, and better where the difference fills few rows. It is linear: the sketch of a difference is the difference
of the sketches. Up to ``WIDTH`` elements the values are kept and the distance is exact.

Everything that is hashed is a 32-bit integer, so that every device, version and interpreter computes the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

WIDTH = 2048
ROWS = 16
"""Rows of a block: one hash serves one pair of sums in all of them, a bit for each sign."""
BLOCK = ROWS * WIDTH
SALT_SIGN, SALT_TURN = 0x5DEECE66, 0x2545F491
GOLDEN = 0x9E3779B9
TURN_SHIFT = 22
"""A turn is the top ten bits of a product: ten for the pair of sums; which of the two is `odd_turn`."""
HALVES = (torch.bfloat16, torch.float16)
_REAL = frozenset({torch.float32, torch.float64, *HALVES})
_CHUNK = 4
"""Blocks that the CPU handles at once: a MiB of float64, which stays in the cache."""

Words = npt.NDArray[np.uint32]
Doubles = npt.NDArray[np.float64]


@dataclass(eq=False, slots=True)
class Fingerprint:
    """What is kept of one tensor.

    Attributes:
        shape, dtype: Of the tensor; dtype without the ``torch.`` prefix.
        device_type: ``cpu``, ``cuda``, ...
        moments: Order-free statistics in float64: sum, L2 norm, min, max.
        non_finite: Number of NaN or infinite elements; they count as zero in the rest.
        packed: The sketch, ``min(elements, WIDTH)`` numbers in logical (row-major) order of the elements: float32 where
            it was rounded to that, else float64. Views of one memory share it.
    """

    shape: tuple[int, ...]
    dtype: str
    device_type: str
    moments: tuple[float, ...] = (0.0,) * 4
    non_finite: int = 0
    packed: npt.NDArray[Any] = field(default_factory=partial(np.zeros, 0))

    @property
    def sketch(self) -> torch.Tensor:
        """The sketch in float64."""
        return torch.from_numpy(self.packed.astype(np.float64))

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def norm(self) -> float:
        """L2 norm."""
        return self.moments[1]


def multiplier(row: int) -> int:
    """The odd 32-bit number by which row ``row`` (0 to 15) of a block turns; of a cube, so no two rows are in step."""
    return (((row + 3) * (row + 3) * (row + 3) * 0x9E3779B97F4A7C15) >> 13) & 0xFFFFFFFF | 1


def odd_turn(row: int) -> int:
    """The lowest bit of a row's turn: the Thue-Morse sequence, balanced in every power-of-two step."""
    return (row ^ (row >> 1) ^ (row >> 2) ^ (row >> 3)) & 1


def _mix(x: Words) -> Words:
    """A 32-bit integer hash (lowbias32 of C. Wellons)."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _places(first: int, count: int) -> npt.NDArray[np.int64]:
    """For the elements of ``count`` blocks: the sum that each goes to, plus ``WIDTH`` if its sign is minus."""
    blocks = np.arange(first, first + count, dtype=np.uint32)
    lanes = np.arange(WIDTH // 2, dtype=np.uint32)
    bits = _mix(_mix(blocks ^ np.uint32(SALT_SIGN))[:, None] + lanes * np.uint32(GOLDEN))
    rows = np.arange(ROWS, dtype=np.uint32)
    # The sign of a row's element that goes to sum k: bit `row` (k even) or `row + 16` (k odd) of the pair's hash.
    minus = np.stack([bits[:, None] >> rows[:, None], bits[:, None] >> (rows[:, None] + np.uint32(16))], axis=-1)
    minus = (minus & np.uint32(1)).reshape(count, ROWS, WIDTH)
    factors = np.array([multiplier(row) for row in range(ROWS)], dtype=np.uint32)
    turns = (_mix(blocks ^ np.uint32(SALT_TURN))[:, None] * factors) >> np.uint32(TURN_SHIFT)
    turns = turns * np.uint32(2) + np.array([odd_turn(row) for row in range(ROWS)], dtype=np.uint32)
    sums = np.arange(WIDTH, dtype=np.int64) ^ turns[..., None].astype(np.int64)
    return (sums + WIDTH * np.take_along_axis(minus, sums, axis=-1).astype(np.int64)).reshape(-1)


@lru_cache(maxsize=48)
def _plan(chunk: int) -> npt.NDArray[np.int64]:
    return _places(chunk * _CHUNK, _CHUNK)


def fingerprint(tensor: torch.Tensor, *, narrow: bool = False) -> Fingerprint:
    """Fingerprint a tensor of any dtype; a complex one is seen as pairs of real numbers.

    Args:
        tensor: Of any strides; only the logical order of the elements counts.
        narrow: Round the sketch to float32, as is done for half precision anyway: half the space on disk, enough where
            the values themselves carry fewer digits.
    """
    sketcher = Sketcher(narrow=narrow)
    sketcher.add(tensor)
    return sketcher.finish()[0]


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in a dtype that both numpy and the kernels read."""
    values = tensor.detach()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if values.is_floating_point():
        return values.float() if values.element_size() == 1 else values
    return values.to(torch.float64) if "uint" in str(values.dtype) and values.dtype != torch.uint8 else values


@np.errstate(over="ignore", invalid="ignore")  # masks hold the lowest number of their dtype: its square is infinite
def _on_cpu(values: torch.Tensor) -> tuple[tuple[float, ...], int, Doubles]:
    """Moments, non-finite elements and sketch, a chunk at a time."""
    flat = values.reshape(-1)
    elements = flat.numel()
    small = elements <= WIDTH
    sums = np.zeros(2 * WIDTH)
    total = square = 0.0
    low, high, non_finite = math.inf, -math.inf, 0
    for number, start in enumerate(range(0, elements, _CHUNK * BLOCK)):
        x = flat[start : start + _CHUNK * BLOCK].to("cpu", torch.float64).numpy()
        if not math.isfinite(float(np.abs(x).sum())):
            finite = np.isfinite(x)
            non_finite += int(x.size - finite.sum())
            x = np.where(finite, x, 0.0)
        total, square = total + float(x.sum()), square + float((x * x).sum())
        low, high = min(low, float(x.min())), max(high, float(x.max()))
        if small:
            sums = np.array(x)
        else:
            sums += np.bincount(_plan(number)[: x.size], weights=x, minlength=2 * WIDTH)
    if not elements:
        return (0.0,) * 4, 0, np.zeros(0)
    moments = (total, math.sqrt(square), low, high)
    return moments, non_finite, sums if small else sums[:WIDTH] - sums[WIDTH:]


class Sketcher:
    """Fingerprints of many tensors, in the order in which they are added.

    On a CUDA device with Triton nothing waits: the fingerprints are made where the tensors lie, behind the work that is
    queued there, and read at the end.
    """

    def __init__(self, *, narrow: bool = False) -> None:
        """Prepare.

        Args:
            narrow: As in `fingerprint`, for all tensors.
        """
        self.narrow = narrow
        self._made: list[Fingerprint] = []
        self._again: list[tuple[Fingerprint, Fingerprint]] = []
        self._devices: dict[torch.device, Any] = {}

    def __len__(self) -> int:
        return len(self._made)

    def add_number(self, value: float) -> int:
        """Add a Python number, seen as a 0-d float64 tensor. Returns its index."""
        return self._add(Fingerprint((), "float64", "cpu", *_number(value)))

    def add(self, tensor: torch.Tensor) -> int:
        """Fingerprint what the tensor holds now. Returns its index."""
        dtype, device = tensor.dtype, tensor.device
        rounded = self.narrow or dtype in HALVES
        values: Any = tensor if dtype in _REAL else plain(tensor)
        made = Fingerprint(tuple(tensor.shape), _name(dtype), device.type)
        if device.type == "cuda" and values.numel() and (sketcher := self._on(device)) is not None:
            sketcher.add(values, rounded, made)
            return self._add(made)
        if dtype in _REAL and device.type == "cpu" and tensor.numel() == 1:
            made.moments, made.non_finite, sketch = _number(tensor.item())
        else:
            made.moments, made.non_finite, sketch = _on_cpu(values.detach())
        made.packed = pack(sketch, rounded)
        return self._add(made)

    def _add(self, made: Fingerprint) -> int:
        self._made.append(made)
        return len(self._made) - 1

    def _on(self, device: torch.device) -> Any:
        if device not in self._devices:
            self._devices[device] = _device_sketcher(device, self.narrow)
        return self._devices[device]

    def add_again(self, index: int, shape: torch.Size, dtype: torch.dtype) -> int:
        """Add the values of ``index``, in the same logical order, in another shape or dtype. Returns its index."""
        first = self._made[index]
        again = Fingerprint(tuple(shape), _name(dtype), first.device_type)
        self._again.append((again, first))
        return self._add(again)

    def finish(self) -> list[Fingerprint]:
        """All fingerprints; waits for the devices."""
        for sketcher in self._devices.values():
            if sketcher is not None:
                sketcher.finish()
        for again, first in self._again:
            again.moments, again.non_finite, again.packed = first.moments, first.non_finite, first.packed
        return self._made


@cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _number(value: float) -> tuple[tuple[float, ...], int, Doubles]:
    finite = math.isfinite(value)
    kept = value if finite else 0.0
    return (kept, abs(kept), kept, kept), int(not finite), np.array([kept])


@np.errstate(over="ignore")
def pack(sketch: Doubles, narrow: bool) -> npt.NDArray[Any]:
    """A sketch as it is kept: in float32 if ``narrow``, unless that has no room for it."""
    if not narrow:
        return sketch
    packed = sketch.astype(np.float32)
    return packed if np.isfinite(packed).all() else sketch


def _device_sketcher(device: torch.device, narrow: bool) -> Any:
    """The sketcher of a CUDA device; none without Triton, where tensors are fetched instead."""
    try:
        from .sketch_device import DeviceSketcher
    except ImportError:
        return None
    return DeviceSketcher(device, narrow=narrow)


def sketch_distance(a: Fingerprint, b: Fingerprint) -> float:
    """Estimate ``||a - b|| / ||b||`` for tensors with one number of elements, whatever their shapes."""
    difference = float((a.sketch - b.sketch).norm())
    if b.norm > 0:
        return difference / b.norm
    return 0.0 if difference == 0 else math.inf


def same_values_in_any_order(a: Fingerprint, b: Fingerprint, tolerance: float) -> bool:
    """Whether the order-free statistics agree, relative to the size of the values.

    The sums cancel, so they are compared on a scale that the sum of the absolute values does not exceed.
    """
    if a.elements != b.elements or a.norm == 0 or b.norm == 0:
        return False
    total, norm, low, high = (abs(x - y) for x, y in zip(a.moments, b.moments, strict=True))
    peak = max(abs(b.moments[2]), abs(b.moments[3]))
    return (
        total <= tolerance * math.sqrt(b.elements) * b.norm
        and norm <= tolerance * b.norm
        and low <= 8 * tolerance * peak
        and high <= 8 * tolerance * peak
    )
