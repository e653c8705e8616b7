"""Fingerprints on a CUDA device, made behind the work that is queued there and read at the end.

Device memory does not grow with the number of tensors: the rows of `SLAB` tensors, what the programs of `HELD`
launches left to be added up, and one scratch for tensors that are not contiguous. A full slab goes to pinned memory in
stream order and is read at the end or when many wait, so nothing waits for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from .sketch import BLOCK, WIDTH, Fingerprint, pack
from .sketch_blocks import HEAD, ROW, SLOT, sum_up_kernel
from .sketch_order import line_up_kernel
from .sketch_small import Small, copied, hand_out, together
from .sketch_triton import sketch_kernel
from .strides import merged
from .triton_launch import Launcher, launcher

SLAB = 64
"""Tensors on the device, at most, before their rows go to the host."""
HELD = 32
"""Launches, at most, whose programs' sums are added up at once."""
SCRATCH = 256 * 2**20
"""Bytes, at most, in which tensors that are not contiguous are put in order, a piece at a time."""
Waiting: TypeAlias = tuple[Fingerprint, int, bool]
"""A fingerprint without its values, the elements of its tensor, and whether its sketch is kept in float32."""
_Sent: TypeAlias = tuple[torch.Tensor, Any, Callable[[npt.NDArray[np.float64]], None]]
KINDS = {torch.bfloat16: 1, torch.float16: 2}
_HEIGHT, _LENGTH = 32, 128
_PINNED = 16
"""Slabs that wait on the host to be read, at most."""
_SMALL = 16
"""Small tensors whose copies wait on the device, at most."""
_LANES, _SLOTS = 256, 16
_KEYS = slice(WIDTH + 3, WIDTH + 5)
_LEAST = -(2**63)
_MOST = float(np.finfo(np.float32).max) / 2


class DeviceSketcher:
    """Sums and moments of tensors of one device."""

    per_core = 1
    """Programs a multiprocessor and part of the sums."""
    warps = 4
    sums = 512
    """Sums that a program holds, in float32: a quarter of them, since a slot has room for the moments of four parts."""
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
        self.programs = int(cores * self.per_core)
        self.slab = torch.empty((SLAB, ROW), dtype=torch.float64, device=device)
        self.keys = self.slab.view(torch.int64)[:, _KEYS]
        self.left = torch.empty((HELD, HEAD + self.programs * SLOT), dtype=torch.float64, device=device)
        self.stride = self.left.stride(0)
        self.held = 0
        self.kernels = [self._kernel(kind) for kind in range(4)]
        self.sent: deque[_Sent] = deque()
        self.free: list[tuple[torch.Tensor, Any]] = []
        self.small: list[Small] = []
        self.scratch: torch.Tensor | None = None
        self.waiting: list[Waiting] = []
        self.stream = torch._C._cuda_getCurrentRawStream(device.index) if on_gpu else 0
        self._clear()

    def _kernel(self, kind: int) -> Launcher:
        paired = self.paired and kind in (1, 2)
        return launcher(sketch_kernel, kind, paired, self.sums, self.wide, num_warps=self.warps)

    def _clear(self) -> None:
        self.slab.zero_()
        self.keys.fill_(_LEAST)

    def add(self, tensor: torch.Tensor, rounded: bool, made: Fingerprint) -> None:
        """Queue the fingerprint of a tensor that is not empty.

        Args:
            tensor: On the device.
            rounded: Keep the sketch in float32.
            made: Gets the moments, non-finite elements and sketch, in `finish` at the latest.
        """
        if self.on_gpu:
            self._follow()
        if tensor.numel() <= WIDTH:
            self.small.append((copied(tensor), rounded, made))
            if len(self.small) == _SMALL:
                self._send_small()
        elif self.on_gpu and self.index != torch._C._cuda_getDevice():  # Triton launches on the current one
            with torch.cuda.device(self.device):
                self._add(tensor, rounded, made)
        else:
            self._add(tensor, rounded, made)

    def _add(self, tensor: torch.Tensor, rounded: bool, made: Fingerprint) -> None:
        if len(self.waiting) == SLAB:
            self._drain()
        row = len(self.waiting)
        self.waiting.append((made, tensor.numel(), rounded))
        if tensor.is_contiguous():
            self._launch(tensor, row, 0, tensor.numel(), 1)
        else:
            self._in_pieces(tensor, row)

    def _follow(self) -> None:
        """Go on in the current stream: rows and scratch are shared, so what was queued in another comes first."""
        stream = torch._C._cuda_getCurrentRawStream(self.index)
        if stream != self.stream:
            torch.cuda.synchronize(self.device)
            self.stream = stream

    def _launch(self, tensor: torch.Tensor, row: int, lo: int, hi: int, back: int) -> None:
        """Add elements ``lo`` to ``hi``, which lie from the start of ``tensor`` on, to a row.

        Args:
            tensor: On the device.
            row: In the slab.
            lo: First element.
            hi: One past the last.
            back: 1 to read from the end: what was written last may still be in the cache.
        """
        kind = self.kinds.get(tensor.dtype, 0)
        if kind in (1, 2) and (lo % 2 or tensor.data_ptr() % 4):
            kind = 0  # halves are read in words of two
        if tensor.dtype == torch.bool:
            tensor = tensor.view(torch.uint8)
        programs = min(self.programs, (hi - 1) // BLOCK - lo // BLOCK + 1)
        values = (tensor, self.slab, self.left, self.stride, self.held, row, lo, hi, back)
        self.kernels[kind](WIDTH // self.sums, programs, 1, values)
        if kind:
            self.held += 1
            if self.held == HELD:
                self._sum_up()

    def _sum_up(self) -> None:
        """Add what the programs of some launches left to the rows."""
        if self.held:
            kernel = launcher(sum_up_kernel, _LANES, _SLOTS, num_warps=4)
            kernel(self.held, WIDTH // _LANES, 1, (self.left, self.slab, self.stride))
            self.held = 0

    def _in_pieces(self, tensor: torch.Tensor, row: int) -> None:
        """Put a tensor in order in the scratch, as many elements at a time as it holds."""
        room = SCRATCH // tensor.element_size()
        planar = _planes(tensor.shape, tensor.stride())
        if planar is None or planar[0][2] > room:
            self._launch(tensor.contiguous(), row, 0, tensor.numel(), 1)
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
                launcher(line_up_kernel, one, unit, _HEIGHT, _LENGTH, num_warps=4)(*grid, values)
                lo = (z * n + y) * c
                self._launch(target, row, lo, lo + count * rows * c, 0)

    def _room(self, size: int) -> torch.Tensor:
        """The scratch, made larger if it has fewer than ``size`` bytes."""
        if self.scratch is None or self.scratch.numel() < size:
            self.scratch = None
            self.scratch = torch.empty(-(-size // 2**20) * 2**20, dtype=torch.uint8, device=self.device)
        return self.scratch

    def _drain(self) -> None:
        """Send the slab to the host and start it anew; nothing waits."""
        self._sum_up()
        if self.on_gpu:
            if len(self.sent) == _PINNED:
                self._read()
            event: Any
            pinned, event = self.free.pop() if self.free else _pinned()
            pinned.copy_(self.slab, non_blocking=True)
            event.record(torch.cuda.current_stream(self.device))
        else:
            pinned, event = self.slab.clone(), None
        self.sent.append((pinned, event, partial(_hand_out, waiting=self.waiting)))
        self.waiting = []
        self._clear()

    def _send_small(self) -> None:
        """Send the values of small tensors to the host; nothing waits."""
        values, ordered = together(self.small)
        self.small = []
        event: Any = None
        if self.on_gpu:
            values = values.to("cpu", non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
        self.sent.append((values, event, partial(hand_out, ordered=ordered)))

    def _read(self) -> None:
        """Hand out what was sent first; waits for it."""
        pinned, event, complete = self.sent.popleft()
        if event is not None:
            event.synchronize()
        complete(pinned.numpy())
        if pinned.shape == self.slab.shape:
            self.free.append((pinned, event))

    def finish(self) -> None:
        """Complete all fingerprints; waits for the device."""
        if self.on_gpu:
            if self.index != torch._C._cuda_getDevice():
                with torch.cuda.device(self.device):
                    self.finish()
                return
            self._follow()
        if self.small:
            self._send_small()
        if self.waiting:
            self._drain()
        while self.sent:
            self._read()


def _pinned() -> tuple[torch.Tensor, Any]:
    return torch.empty((SLAB, ROW), dtype=torch.float64, pin_memory=True), torch.cuda.Event()  # type: ignore[no-untyped-call]


def _hand_out(slab: npt.NDArray[np.float64], waiting: list[Waiting]) -> None:
    """Complete fingerprints with their rows of a slab, whose memory is used again."""
    slab = slab[: len(waiting)]
    tail = slab[:, WIDTH:]
    keys = tail[:, 3:5].copy().view(np.int64)
    extrema = np.where(keys < 0, keys ^ np.int64(0x7FFFFFFFFFFFFFFF), keys).view(np.float64)
    norms = np.sqrt(tail[:, 1])
    # No sum exceeds the sum of the absolute values, which sqrt(elements) times the norm bounds.
    fits = bool((norms * np.sqrt([elements for _, elements, _ in waiting]) < _MOST).all())
    narrow = fits and all(rounded for _, _, rounded in waiting)
    sums = slab[:, :WIDTH].astype(np.float32 if narrow else np.float64)
    rows = zip(tail[:, 0].tolist(), norms.tolist(), tail[:, 2].tolist(), extrema.tolist(), sums, waiting, strict=True)
    for total, norm, non_finite, (low, high), sketch, (made, _, rounded) in rows:
        made.moments = (total, norm, -low, high)
        made.non_finite = int(non_finite)
        made.packed = sketch if narrow else pack(sketch, rounded)


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
