"""Fingerprints on a CUDA device, made behind the work that is queued there and read at the end.

Device memory does not grow with the number of tensors: the rows of `SLAB` tensors, and one scratch for those that are
not contiguous. A full slab goes to pinned memory in stream order, so nothing waits for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .sketch import BLOCK, WIDTH
from .sketch_triton import ROW, line_up_kernel, sketch_kernel

SLAB = 256
"""Tensors on the device before their rows go to the host."""
SCRATCH = 32 * 2**20
"""Bytes in which a tensor that is not contiguous is put in order, a piece at a time; it stays in the L2 cache."""
KINDS = {torch.bfloat16: 1, torch.float16: 2}
_TILE = 64
_KEYS = slice(ROW - 3, ROW - 1)
_LEAST = -(2**63)


class DeviceSketcher:
    """Rows of sums and moments for tensors of one device; `sketch` unpacks them."""

    per_core = 2
    """Programs a multiprocessor and part of the sums."""
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
        on_gpu = device.type == "cuda"
        self.paired = on_gpu and torch.cuda.get_device_capability(device) >= (8, 0)
        cores = torch.cuda.get_device_properties(device).multi_processor_count if on_gpu else 2
        self.programs = cores * self.per_core
        self.slab = torch.empty((SLAB, ROW), dtype=torch.float64, device=device)
        self.pinned: list[tuple[torch.Tensor, Any, int] | None] = [None, None]
        self.scratch: torch.Tensor | None = None
        self.rows: list[npt.NDArray[np.float64]] = []
        self.used = self.turn = 0
        self.stream = self._stream()
        self._clear()

    def _stream(self) -> int:
        return int(torch.cuda.current_stream(self.device).cuda_stream) if self.device.type == "cuda" else 0

    def _clear(self) -> None:
        self.slab.zero_()
        self.slab.view(torch.int64)[:, _KEYS] = _LEAST
        self.used = 0

    def add(self, tensor: torch.Tensor) -> int:
        """Queue the fingerprint of a tensor that is not empty. Returns its place in what `finish` returns."""
        if self.used == SLAB:
            self._drain()
        if self.device.type == "cuda":
            if self.device.index != torch.cuda.current_device():
                with torch.cuda.device(self.device):
                    return self._add(tensor)
            stream = self._stream()
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

    def _launch(self, tensor: torch.Tensor, row: int, lo: int, hi: int) -> None:
        """Add elements ``lo`` to ``hi``, which lie from the start of ``tensor`` on, to a row."""
        kind = self.kinds.get(tensor.dtype, 0)
        if kind in (1, 2) and (lo % 2 or tensor.data_ptr() % 4):
            kind = 0  # halves are read in words of two
        if tensor.dtype == torch.bool:
            tensor = tensor.view(torch.uint8)
        programs = max(1, min(self.programs, (hi - 1) // BLOCK - lo // BLOCK + 1))
        sketch_kernel[(WIDTH // self.sums, programs)](
            tensor, self.slab, row, lo, hi, KIND=kind, PAIRED=self.paired and kind in (1, 2),
            SUMS=self.sums, WIDE=self.wide, num_warps=self.warps,
        )  # fmt: skip

    def _in_pieces(self, tensor: torch.Tensor, row: int) -> None:
        """Put a tensor in order in the scratch, as many elements at a time as it holds."""
        if self.scratch is None:
            self.scratch = torch.empty(SCRATCH, dtype=torch.uint8, device=self.device)
        room = SCRATCH // tensor.element_size()
        merged = _merged(tensor)
        if merged is None or merged[0][2] > room:
            self._launch(tensor.contiguous(), row, 0, tensor.numel())
            return
        (planes, n, c), (plane, of_row, of_column) = merged
        target = self.scratch.view(tensor.dtype)
        many = max(1, min(room // (n * c), 65535))
        height = min(n, room // c)
        for z in range(0, planes, many):
            for y in range(0, n, height):
                count, rows = min(many, planes - z), min(height, n - y)
                grid = (-(-rows // _TILE), -(-c // _TILE), count)
                line_up_kernel[grid](
                    tensor, target, z * plane + y * of_row, rows, c, plane, of_row, of_column,
                    HEIGHT=_TILE, LENGTH=_TILE, num_warps=4,
                )  # fmt: skip
                lo = (z * n + y) * c
                self._launch(target, row, lo, lo + count * rows * c)

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
            self.rows.extend(held[0][: held[2]].clone().numpy())
            self.pinned[place] = (held[0], None, 0)

    def finish(self) -> list[npt.NDArray[np.float64]]:
        """All rows, in the order in which the tensors were added; waits for the device."""
        self._drain()
        for place in (self.turn % 2, (self.turn + 1) % 2):
            self._read(place)
        return self.rows


def _merged(tensor: torch.Tensor) -> tuple[tuple[int, int, int], tuple[int, int, int]] | None:
    """Sizes and strides of a tensor seen as planes of rows and columns; none if it takes more than three."""
    sizes: list[int] = []
    strides: list[int] = []
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if size == 1:
            continue
        if sizes and strides[-1] == size * stride:
            sizes[-1] *= size
            strides[-1] = stride
        else:
            sizes.append(size)
            strides.append(stride)
    if len(sizes) > 3:
        return None
    while len(sizes) < 3:
        sizes.insert(0, 1)
        strides.insert(0, 0)
    return (sizes[0], sizes[1], sizes[2]), (strides[0], strides[1], strides[2])
