"""Fingerprints on a CUDA device, made behind the work that is queued there and read at the end.

Device memory does not grow with the number of tensors: the rows of `SLAB` tensors, and one scratch for those that are
not contiguous. A full slab goes to pinned memory in stream order, so nothing waits for it.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from .sketch import BLOCK, WIDTH, in_order, pack
from .sketch_triton import ROW, line_up_kernel, sketch_kernel
from .strides import merged
from .triton_launch import launch

SLAB = 64
"""Tensors on the device before their rows go to the host."""
SCRATCH = 256 * 2**20
"""Bytes, at most, in which a tensor that is not contiguous is put in order, a piece at a time."""
Row: TypeAlias = tuple[tuple[float, ...], int, npt.NDArray[Any]]
"""Moments, non-finite elements and sketch of one tensor, as in `sketch.Fingerprint`."""
KINDS = {torch.bfloat16: 1, torch.float16: 2}
_HEIGHT, _LENGTH = 32, 128
_MANY = 32
_KEYS = slice(WIDTH + 3, WIDTH + 5)
_LEAST = -(2**63)


class DeviceSketcher:
    """Sums and moments of tensors of one device."""

    per_core: tuple[float, float] = (1, 3)
    """Programs a multiprocessor and part of the sums, for small and large tensors: their sums are added at the end."""
    warps = 4
    sums = 512
    """Sums that a program holds, in float32."""
    wide = 256
    """The same, in float64."""

    def __init__(self, device: torch.device, *, narrow: bool) -> None:
        """Set up the slab.

        Args:
            device: A CUDA device.
            narrow: Add float32 tensors in float32 too.
        """
        self.device = device
        self.kinds = {**KINDS, torch.float32: 3} if narrow else KINDS
        # The emulation of the kernels on the CPU, for tests, has no assembly.
        self.on_gpu = on_gpu = device.type == "cuda"
        self.index = device.index
        self.paired = on_gpu and torch.cuda.get_device_capability(device) >= (8, 0)
        cores = torch.cuda.get_device_properties(device).multi_processor_count if on_gpu else 2
        self.cores = cores
        self.slab = torch.empty((SLAB, ROW), dtype=torch.float64, device=device)
        self.pinned: list[tuple[torch.Tensor, Any, int] | None] = [None, None]
        self.scratch: torch.Tensor | None = None
        self.rows: list[Row] = []
        self.kept: list[tuple[int, bool]] = []
        self.used = self.turn = 0
        self.stream = torch._C._cuda_getCurrentRawStream(device.index) if on_gpu else 0
        self._clear()

    def _clear(self) -> None:
        self.slab.zero_()
        self.slab.view(torch.int64)[:, _KEYS] = _LEAST
        self.used = 0

    def add(self, tensor: torch.Tensor, rounded: bool) -> int:
        """Queue the fingerprint of a tensor that is not empty. Returns its place in what `finish` returns.

        Args:
            tensor: On the device.
            rounded: Keep the sketch in float32.
        """
        if self.used == SLAB:
            self._drain()
        self.kept.append((tensor.numel(), rounded))
        if self.on_gpu:
            if self.index != torch._C._cuda_getDevice():
                with torch.cuda.device(self.device):
                    return self._add(tensor)
            stream = torch._C._cuda_getCurrentRawStream(self.index)
            if stream != self.stream:  # rows and scratch are shared: what was queued elsewhere comes first
                torch.cuda.synchronize(self.device)
                self.stream = stream
        return self._add(tensor)

    def _add(self, tensor: torch.Tensor) -> int:
        row = self.used
        self.used += 1
        if tensor.is_contiguous():
            self._launch(tensor, row, 0, tensor.numel())
        else:
            self._in_pieces(tensor, row)
        return self.turn * SLAB + row

    def _launch(self, tensor: torch.Tensor, row: int, lo: int, hi: int, *, back: bool = True) -> None:
        """Add elements ``lo`` to ``hi``, which lie from the start of ``tensor`` on, to a row.

        Args:
            tensor: On the device.
            row: In the slab.
            lo: First element.
            hi: One past the last.
            back: Read from the end: what was written last may still be in the cache.
        """
        kind = self.kinds.get(tensor.dtype, 0)
        if kind in (1, 2) and (lo % 2 or tensor.data_ptr() % 4):
            kind = 0  # halves are read in words of two
        if tensor.dtype == torch.bool:
            tensor = tensor.view(torch.uint8)
        blocks = (hi - 1) // BLOCK - lo // BLOCK + 1
        programs = min(int(self.cores * self.per_core[blocks > _MANY * self.cores]), blocks)
        launch(
            sketch_kernel,
            (WIDTH // self.sums, programs),
            (tensor, self.slab, row, lo, hi, int(back)),
            (kind, self.paired and kind in (1, 2), self.sums, self.wide),
            num_warps=self.warps,
        )

    def _in_pieces(self, tensor: torch.Tensor, row: int) -> None:
        """Put a tensor in order in the scratch, as many elements at a time as it holds."""
        room = SCRATCH // tensor.element_size()
        planar = _planes(tensor.shape, tensor.stride())
        if planar is None or planar[0][2] > room:
            self._launch(tensor.contiguous(), row, 0, tensor.numel())
            return
        (planes, n, c), (plane, of_row, of_column) = planar
        target = self._room(min(tensor.nbytes, SCRATCH)).view(tensor.dtype)
        many = max(1, min(room // (n * c), 65535))
        height = min(n, room // c)
        one = 1 if of_row == 1 else 2 if of_column == 1 else 0
        steps = [plane, n, c, *(step for step in (of_row, of_column) if step != 1)]
        widest = max(1, 16 // tensor.element_size())
        aligned = tensor.data_ptr() % 16 == 0
        whole = BLOCK // math.gcd(BLOCK, c)
        if n > height >= whole:  # a block that is cut between two pieces is slow
            height -= height % whole
        for z in range(0, planes, many):
            for y in range(0, n, height):
                count, rows = min(many, planes - z), min(height, n - y)
                grid = (-(-rows // _HEIGHT), -(-c // _LENGTH), count)
                offset = z * plane + y * of_row
                values = (tensor, target, offset, rows, c, plane, of_row, of_column)
                unit = math.gcd(widest, offset, rows, *steps) if aligned else 1
                launch(line_up_kernel, grid, values, (one, unit, _HEIGHT, _LENGTH), num_warps=4)
                lo = (z * n + y) * c
                self._launch(target, row, lo, lo + count * rows * c, back=False)

    def _room(self, size: int) -> torch.Tensor:
        """The scratch, made larger if it has fewer than ``size`` bytes."""
        if self.scratch is None or self.scratch.numel() < size:
            self.scratch = None
            self.scratch = torch.empty(-(-size // 2**20) * 2**20, dtype=torch.uint8, device=self.device)
        return self.scratch

    def _drain(self) -> None:
        """Send the slab to the host and start it anew; waits only for the slab before the last."""
        place = self.turn % 2
        self._read(place)
        before = self.pinned[place]
        if self.device.type == "cuda":
            pinned = torch.empty((SLAB, ROW), dtype=torch.float64, pin_memory=True) if before is None else before[0]
            pinned.copy_(self.slab, non_blocking=True)
            event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
        else:
            pinned, event = self.slab.clone(), None
        self.pinned[place] = (pinned, event, self.used)
        self.turn += 1
        self._clear()

    def _read(self, place: int) -> None:
        held = self.pinned[place]
        if held is not None and held[2]:
            if held[1] is not None:
                held[1].synchronize()
            first = len(self.rows)
            self.rows += _unpack(held[0][: held[2]].numpy(), self.kept[first : first + held[2]])
            self.pinned[place] = (held[0], None, 0)

    def finish(self) -> list[Row]:
        """All rows, in the order in which the tensors were added; waits for the device."""
        self._drain()
        for place in (self.turn % 2, (self.turn + 1) % 2):
            self._read(place)
        return self.rows


def _unpack(slab: npt.NDArray[np.float64], kept: list[tuple[int, bool]]) -> list[Row]:
    """The rows of a slab, whose memory is used again."""
    with np.errstate(over="ignore"):
        narrow = slab[:, :WIDTH].astype(np.float32)
    fits = np.atleast_1d(np.isfinite(narrow).all(axis=1))
    tail = slab[:, WIDTH:].copy()
    tail[:, 1] = np.sqrt(tail[:, 1])
    keys = tail.view(np.int64)[:, 3:5]
    extrema = np.where(keys < 0, keys ^ np.int64(0x7FFFFFFFFFFFFFFF), keys).view(np.float64)
    rows: list[Row] = []
    for index, (elements, rounded) in enumerate(kept):
        total, norm, non_finite = tail[index, :3].tolist()
        low, high = extrema[index].tolist()
        if elements <= WIDTH:
            sketch = pack(in_order(slab[index, :WIDTH], elements), rounded)
        elif rounded and fits[index]:
            sketch = narrow[index]
        else:
            sketch = slab[index, :WIDTH].copy()
        rows.append(((total, norm, -low, high), int(non_finite), sketch))
    return rows


def _planes(
    shape: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[tuple[int, int, int], tuple[int, int, int]] | None:
    """Sizes and strides of a tensor seen as planes of rows and columns; none if it takes more than three."""
    sizes, strides = merged(shape, stride)
    if len(sizes) > 3:
        return None
    missing = 3 - len(sizes)
    a, b, c = [1] * missing + sizes
    x, y, z = [0] * missing + strides
    return (a, b, c), (x, y, z)
