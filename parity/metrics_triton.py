"""One comparison as Triton kernels: both tensors are read once and nothing of their size is stored.

Imported only where a CUDA device is used; Triton comes with torch's CUDA builds.

Two bfloat16 tensors bring 4 elements a clock to each multiprocessor at 4 TB/s, which leaves some 33 instructions for an
element and lets 16 numbers a clock become float64, about 4 an element. So two large tensors in bfloat16 or float16 go
through `_stream`, some 22 instructions and 2 conversions an element without a branch, and its results hold because

* both numbers are exact in float32, two arrive in one word, and the sums are float64 from the first addition, so no
  square overflows or vanishes. They are the CPU's up to the order of additions: relative error below
  (elements of a lane + lanes + chunks) * 2^-53 of the sum of magnitudes;
* with d = a - b, three sums say all four: a * b = d * b + b^2 and a^2 = d^2 + 2 d * b + b^2. Where a is so much smaller
  than b that the latter cancels (`_CANCELS`), `compare_in_float64` does it all;
* NaN and infinity need no test: either makes a sum of squares non-finite, and then `compare_in_float64` does it all;
* a tolerance in float32 decides as float64 does: a gap is near a tolerance for a few pairs only, and the tests walk
  through all of them (for each b the values of a around both bounds, in both dtypes);
* the largest gap is found in float64, for each chunk without its place;
* of the ratio gap / |b| a chunk knows an estimate that costs three instructions. The upper halves of gap and |b| in
  float64, read as float32, are their eighth roots, roughly, since bits are a logarithm piece by piece; M less the half
  of |b| is one over its, and NaN for b = 0, which the maximum passes over. So the estimate is
  c * (gap / |b|)^(1/8) * 2^(s + t + (u - v) / 8) with s, t, u, v between 0 and 0.0861: two of the same ratio are never
  further apart than 2^-0.194 = 0.874. Nothing that 16 bits hold overflows or vanishes in it.

`_pick` then chooses the first chunk with the largest gap and every chunk whose estimate may hide the largest ratio, and
a second look at these gives both maxima and their first places exactly. Usually these are a few; where each chunk has
about the same largest ratio, as expected values far from 0 may have, it is a second pass.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl

from .metrics_chunks import LOOSE_TOLERANCE, STRICT_TOLERANCE, Totals
from .metrics_triton_float64 import add_floats, add_integers, compare_in_float64, look, totals
from .triton_launch import launcher

_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_SMALL_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32)
READABLE = _FLOATS + _SMALL_INTEGERS
"""What the kernels convert exactly; 64-bit integers and 8-bit floats are left to torch."""


@dataclass(frozen=True)
class Configuration:
    """How `_stream` is cut.

    Attributes:
        warps: Warps a program; a tile is 256 elements a warp.
        programs: Programs a multiprocessor in a large tensor, each with as many tiles as the others, so that all end at
            about the same time.
        registers: Most registers a thread may take; None leaves it to the compiler, which then loads later than it can.
    """

    warps: int = 8
    programs: int = 24
    registers: int | None = 64


TUNED = Configuration()

# Below this `compare_in_float64` is as fast: it needs two kernels instead of four.
_LARGE = 1 << 21
_LEAST_TILES = 4
_BLOCK = 4096
_CANCELS = 1 / 16
"""Sums of a^2 below this share of the sum of b^2 lose digits as they are worked out."""


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _number(word, HIGH: tl.constexpr, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    """One of the two numbers in an int32 as float32; HALF for float16, else bfloat16."""
    if HALF:
        if HIGH:
            word = word >> 16
        return word.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    if HIGH:
        return (word & -65536).to(tl.float32, bitcast=True)
    return (word << 16).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _beyond(gap, size, count, TOLERANCE: tl.constexpr, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    """``count``, one higher where ``gap`` is beyond ``TOLERANCE + TOLERANCE * size``."""
    tolerance = tl.full(size.shape, TOLERANCE, tl.float32)
    # For two tolerances the latter is an instruction less; `1 + size` has no room for the digits of float16.
    left = tl.fma(size, tolerance, tolerance) - gap if HALF else tl.fma(size + 1.0, tolerance, -gap)
    # To take out the sign and to count it is one instruction.
    return tl.inline_asm_elementwise("mad.hi.u32 $0, $1, 2, $2;", "=r,f,r", [left, count], tl.int32, True, 1)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _pair(  # type: ignore[no-untyped-def]
    x, y, squares, expected, cross, peak, ratio, strict, loose,
    HALF: tl.constexpr, STRICT: tl.constexpr, LOOSE: tl.constexpr,
):  # fmt: skip
    """Take in the numbers ``x`` of actual and ``y`` of expected, float32 ``[lanes]``."""
    gap = tl.abs(x - y)
    size = tl.abs(y)
    strict = _beyond(gap, size, strict, STRICT, HALF)
    loose = _beyond(gap, size, loose, LOOSE, HALF)
    a = x.to(tl.float64)
    b = y.to(tl.float64)
    d = a - b
    squares = tl.fma(d, d, squares)
    expected = tl.fma(b, b, expected)
    cross = tl.fma(d, b, cross)
    # With its sign: to take that off for good would cost an instruction, to compare without it does not.
    peak = tl.where(tl.abs(d) > tl.abs(peak), d, peak)
    inverse = (0x7FC00000 - (b.to(tl.int64, bitcast=True) >> 32).to(tl.int32)).to(tl.float32, bitcast=True)
    rise = (d.to(tl.int64, bitcast=True) >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    ratio = tl.maximum(ratio, tl.abs(rise) * tl.abs(inverse))
    return squares, expected, cross, peak, ratio, strict, loose


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _word(  # type: ignore[no-untyped-def]
    a, b, s, e, c, p, r, i, j, HALF: tl.constexpr, STRICT: tl.constexpr, LOOSE: tl.constexpr
):
    """Take in one word of each tensor a lane."""
    s, e, c, p, r, i, j = _pair(
        _number(a, False, HALF), _number(b, False, HALF), s, e, c, p, r, i, j, HALF, STRICT, LOOSE
    )
    return _pair(_number(a, True, HALF), _number(b, True, HALF), s, e, c, p, r, i, j, HALF, STRICT, LOOSE)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _words(  # type: ignore[no-untyped-def]
    a, b, s, e, c, p, r, i, j, HALF: tl.constexpr, STRICT: tl.constexpr, LOOSE: tl.constexpr, LANES: tl.constexpr
):
    """Take in a tile, int32 ``[lanes, 4]``, word by word, so that a sum is a chain of FMAs within its lane."""
    even, odd = tl.split(tl.reshape(a, [LANES, 2, 2]))
    a0, a2 = tl.split(even)
    a1, a3 = tl.split(odd)
    even, odd = tl.split(tl.reshape(b, [LANES, 2, 2]))
    b0, b2 = tl.split(even)
    b1, b3 = tl.split(odd)
    s, e, c, p, r, i, j = _word(a0, b0, s, e, c, p, r, i, j, HALF, STRICT, LOOSE)
    s, e, c, p, r, i, j = _word(a1, b1, s, e, c, p, r, i, j, HALF, STRICT, LOOSE)
    s, e, c, p, r, i, j = _word(a2, b2, s, e, c, p, r, i, j, HALF, STRICT, LOOSE)
    return _word(a3, b3, s, e, c, p, r, i, j, HALF, STRICT, LOOSE)


@triton.jit(do_not_specialize=["words", "tiles"])  # type: ignore[untyped-decorator, unused-ignore]
def _stream(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    work_ptr,
    words,
    tiles,
    STRICT: tl.constexpr,
    LOOSE: tl.constexpr,
    HALF: tl.constexpr,
    LANES: tl.constexpr,
):
    """Program p sums up ``tiles`` tiles in a row, its chunk; the last one also the incomplete tile at the end."""
    TILE: tl.constexpr = LANES * 4
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    start = program.to(tl.int64) * tiles * TILE
    a_ptr = a_ptr.to(tl.pointer_type(tl.int32)) + start
    b_ptr = b_ptr.to(tl.pointer_type(tl.int32)) + start
    left = words - start
    whole = tl.minimum(left // TILE, tiles).to(tl.int32)
    at = tl.arange(0, LANES)[:, None] * 4 + tl.arange(0, 4)[None, :]
    s = tl.zeros([LANES], dtype=tl.float64)
    e = tl.zeros([LANES], dtype=tl.float64)
    c = tl.zeros([LANES], dtype=tl.float64)
    p = tl.zeros([LANES], dtype=tl.float64)
    r = tl.zeros([LANES], dtype=tl.float32) - 1.0
    i = tl.zeros([LANES], dtype=tl.int32)
    j = tl.zeros([LANES], dtype=tl.int32)
    # The next tile is on its way into registers while one is taken in.
    a = tl.load(a_ptr + at, mask=whole > 0, other=0)
    b = tl.load(b_ptr + at, mask=whole > 0, other=0)
    for _ in tl.range(1, whole, num_stages=1, loop_unroll_factor=2):
        a_ptr += TILE
        b_ptr += TILE
        next_a = tl.load(a_ptr + at)
        next_b = tl.load(b_ptr + at)
        s, e, c, p, r, i, j = _words(a, b, s, e, c, p, r, i, j, HALF, STRICT, LOOSE, LANES)
        a = next_a
        b = next_b
    s, e, c, p, r, i, j = _words(a, b, s, e, c, p, r, i, j, HALF, STRICT, LOOSE, LANES)
    if whole > 0:
        a_ptr += TILE
        b_ptr += TILE
    left -= whole.to(tl.int64) * TILE
    if (whole < tiles) & (left > 0):
        # Pairs of zeros add nothing to any sum, count or maximum.
        a = tl.load(a_ptr + at, mask=at < left, other=0)
        b = tl.load(b_ptr + at, mask=at < left, other=0)
        s, e, c, p, r, i, j = _words(a, b, s, e, c, p, r, i, j, HALF, STRICT, LOOSE, LANES)
    whole_ptr = work_ptr + 16 + program
    real_ptr = work_ptr.to(tl.pointer_type(tl.float64)) + 16 + program
    squares = tl.sum(s, 0)
    expected = tl.sum(e, 0)
    cross = tl.sum(c, 0)
    tl.store(real_ptr, squares)
    tl.store(real_ptr + programs, expected)
    tl.store(real_ptr + 2 * programs, squares + 2 * cross + expected)
    tl.store(real_ptr + 3 * programs, cross + expected)
    tl.store(real_ptr + 4 * programs, tl.max(tl.abs(p), 0))
    tl.store(real_ptr + 5 * programs, tl.max(r, 0).to(tl.float64))
    tl.store(whole_ptr + 6 * programs, tl.sum(i, 0).to(tl.int64))
    tl.store(whole_ptr + 7 * programs, tl.sum(j, 0).to(tl.int64))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _choose(real_ptr, chosen_ptr, amount_ptr, chunks, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """List, ascending, the first chunk with the largest gap and all that may hold the largest ratio."""
    lane = tl.arange(0, BLOCK)
    peak = tl.zeros([BLOCK], dtype=tl.float64) - 1.0
    ratio = peak
    for begin in range(0, chunks, BLOCK):
        inside = begin + lane < chunks
        peak = tl.maximum(peak, tl.load(real_ptr + 4 * chunks + begin + lane, mask=inside, other=-1.0))
        ratio = tl.maximum(ratio, tl.load(real_ptr + 5 * chunks + begin + lane, mask=inside, other=-1.0))
    top = tl.max(peak, 0)
    bar = tl.max(ratio, 0) * 0.87
    first = tl.zeros([BLOCK], dtype=tl.int32) + 2147483647
    first_steep = first
    for begin in range(0, chunks, BLOCK):
        inside = begin + lane < chunks
        gap = tl.load(real_ptr + 4 * chunks + begin + lane, mask=inside, other=-2.0)
        estimate = tl.load(real_ptr + 5 * chunks + begin + lane, mask=inside, other=-2.0)
        first = tl.minimum(first, tl.where(gap == top, begin + lane, 2147483647))
        first_steep = tl.minimum(first_steep, tl.where(estimate >= bar, begin + lane, 2147483647))
    highest = tl.min(first, 0)
    # Without any gap the first ratio of 0 is the place.
    last_steep = tl.where(top == 0.0, tl.min(first_steep, 0), 2147483647)
    amount = tl.sum(tl.zeros([BLOCK], dtype=tl.int32), 0)
    for begin in range(0, chunks, BLOCK):
        chunk = begin + lane
        estimate = tl.load(real_ptr + 5 * chunks + chunk, mask=chunk < chunks, other=-2.0)
        wanted = (chunk == highest) | ((estimate >= bar) & (chunk <= last_steep))
        place = amount + tl.cumsum(wanted.to(tl.int32), 0) - 1
        tl.store(chosen_ptr + place, chunk.to(tl.int64), mask=wanted)
        amount += tl.sum(wanted.to(tl.int32), 0)
    tl.store(amount_ptr, amount.to(tl.int64))


@triton.jit(do_not_specialize=["chunks"])  # type: ignore[untyped-decorator, unused-ignore]
def _pick(work_ptr, out_ptr, chunks, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Program 0 chooses the chunks for the second look, 1 to 4 add up a sum, 5 and 6 a count, for the host."""
    row = tl.program_id(0)
    whole_ptr = work_ptr + 16
    real_ptr = work_ptr.to(tl.pointer_type(tl.float64)) + 16
    if row == 0:
        _choose(real_ptr, whole_ptr + 8 * chunks, work_ptr, chunks, BLOCK)
    elif row < 5:
        add_floats(real_ptr + (row - 1) * chunks, out_ptr + row - 1, chunks, BLOCK)
    else:
        add_integers(whole_ptr + (row + 1) * chunks, out_ptr + row + 1, chunks, BLOCK)


@cache
def _cores(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


class _Room:
    """What the kernels of one comparison write to.

    Attributes:
        chunks: How many there is room for.
        work: int64: how many chunks were chosen; from 16 on a row of the chunks for each of: four sums, gap, estimate,
            two counts, and the chosen ones.
        results: int64 ``[10]`` in pinned memory, laid out as `totals` reads it: nothing is left to be copied.
    """

    def __init__(self, device: int, chunks: int) -> None:
        self.chunks = chunks
        self.work = torch.empty(16 + 9 * chunks, dtype=torch.int64, device=f"cuda:{device}")
        self.results = torch.empty(10, dtype=torch.int64, pin_memory=True)


class _Rooms(threading.local):
    """The rooms of a thread, by device: a quarter of a MiB each, kept, for to ask for them costs a tenth of a call."""

    def __init__(self) -> None:
        self.kept: dict[int, _Room] = {}

    def of(self, device: int, chunks: int) -> _Room:
        room = self.kept.get(device)
        if room is None or room.chunks < chunks:
            room = self.kept[device] = _Room(device, chunks)
        return room


_ROOMS = _Rooms()


def compare_on_gpu(a: torch.Tensor, b: torch.Tensor, how: Configuration = TUNED) -> Totals:
    """Compare two tensors of one shape on one CUDA device, not empty; one host synchronisation if all is finite.

    Args:
        a, b: Contiguous, of dtypes in `READABLE`, not necessarily alike.
        how: How to cut the work; the results differ by rounding only.
    """
    if a.get_device() != torch._C._cuda_getDevice():  # Triton launches on the current one
        with torch.cuda.device(a.device):
            return compare_on_gpu(a, b, how)
    elements = a.numel()
    in_words = a.dtype == b.dtype and a.dtype in _FLOATS[:2] and elements % 2 == 0
    if in_words and elements >= _LARGE and a.data_ptr() % 16 == b.data_ptr() % 16 == 0:
        found = _compare_words(a, b, how)
        if found.finite and found.actual_square >= _CANCELS * found.expected_square:
            return found
    a, b = a.detach().reshape(-1), b.detach().reshape(-1)
    if torch.bool in (a.dtype, b.dtype):
        a, b = (side.view(torch.uint8) if side.dtype == torch.bool else side for side in (a, b))
    return compare_in_float64(a, b)


def _compare_words(a: torch.Tensor, b: torch.Tensor, how: Configuration) -> Totals:
    """`compare_on_gpu` for an even number of elements of one 16-bit dtype, aligned to 16 bytes."""
    elements = a.numel()
    tile = 256 * how.warps
    tiles = max(_LEAST_TILES, -(-elements // (tile * _cores(a.get_device()) * how.programs)))
    chunk = tiles * tile
    chunks = -(-elements // chunk)
    room = _ROOMS.of(a.get_device(), chunks)
    work = room.work
    constants = (STRICT_TOLERANCE, LOOSE_TOLERANCE, a.dtype == torch.float16, 32 * how.warps)
    kernel = launcher(_stream, *constants, num_warps=how.warps, maxnreg=how.registers)
    kernel(chunks, 1, 1, (a, b, work, elements // 2, tiles))
    launcher(_pick, _BLOCK, num_warps=16)(7, 1, 1, (work, room.results, chunks))
    look(a, b, work[16 + 8 * chunks :], work, chunk, room.results)
    # To ask again and again keeps the host awake: what sleeps takes longer to wake up than all else that it does here.
    stream = torch.cuda.current_stream()
    while not stream.query():
        pass
    return totals(room.results.tolist())
