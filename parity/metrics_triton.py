"""All metrics of one comparison as one Triton kernel: both tensors are read once and nothing of their size is stored.

Imported only where a CUDA device is used; Triton comes with torch's CUDA builds.

What an element costs is counted, since at 4 TB/s two bfloat16 tensors bring about 4 elements a clock to each
multiprocessor, which leaves some 30 instructions an element. Hence:

* one warp a program and its maxima as scalars: an element only asks whether it beats them (two signs, or-ed); the exact
  maximum, the division for the relative one and the positions are worked out in the rare tile that does;
* no test for NaN or infinity: either makes a program's sum of squares non-finite, and the caller compares that
  program's elements anew with `metrics_chunks.compare`;
* sums in float64 from the first addition. Squares of float32 values cannot overflow there, and the result is the CPU's
  up to the order of additions: relative error below (elements of a program + programs) * 2^-53;
* tolerances of two bfloat16 tensors in float32. That decides as float64 does: a gap is near a tolerance for a few
  pairs only, and the tests walk through all of them (for each b the values of a around both bounds). Any other pair
  is held to ``tolerance + tolerance * |b|`` in float64 with two roundings, as on the CPU, so fusion is off there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .metrics_chunks import CHUNKS, LOOSE_TOLERANCE, STRICT_TOLERANCE, Totals, compare

_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_SMALL_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32)
READABLE = _FLOATS + _SMALL_INTEGERS
"""What the kernel converts exactly; 64-bit integers and 8-bit floats are left to torch."""

_FINISH = 1024


@dataclass(frozen=True)
class Configuration:
    """How the work is cut.

    Attributes:
        groups: 16-byte loads of the wider tensor that a lane has under way.
        warps: Warps a program; more than one needs a barrier a tile.
        tiles: Tiles that a program walks through in a large tensor.
        registers: Most registers a thread may take, so that enough warps are resident to cover the memory's latency.
    """

    groups: int = 1
    warps: int = 1
    tiles: int = 512
    registers: int | None = None


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _again(pointers, inside, MASKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """A second read that the compiler may not replace with the first one's result; float64."""
    if MASKED:
        return tl.load(pointers, mask=inside, other=0, volatile=True).to(tl.float64)
    return tl.load(pointers, volatile=True).to(tl.float64)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _tile(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    base,
    left,
    peak,
    peak_at,
    ratio,
    ratio_at,
    STRICT: tl.constexpr,
    LOOSE: tl.constexpr,
    NARROW: tl.constexpr,
    MASKED: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """One tile at element ``base``: its sums and counts for each lane, and the scalars brought up to date."""
    group = tl.arange(0, GROUPS)[:, None, None] * (LANES * VECTOR)
    offset = group + tl.arange(0, LANES)[None, :, None] * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    if MASKED:
        # Pairs of zeros add nothing to any sum, count or maximum of a gap.
        a = tl.load(a_ptr + base + offset, mask=offset < left, other=0)
        b = tl.load(b_ptr + base + offset, mask=offset < left, other=0)
    else:
        a = tl.load(a_ptr + base + offset)
        b = tl.load(b_ptr + base + offset)
    x = a.to(tl.float64)
    y = b.to(tl.float64)
    d = x - y
    wide_gap = tl.abs(d)
    if NARROW:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
        size = tl.abs(b)
        gap = tl.abs(a - b)
        strict = gap > tl.fma(size, tl.full(size.shape, STRICT, tl.float32), tl.full(size.shape, STRICT, tl.float32))
        loose = gap > tl.fma(size, tl.full(size.shape, LOOSE, tl.float32), tl.full(size.shape, LOOSE, tl.float32))
        # The sign of an FMA is exact. A gap that float32 rounds has operands 16 binary digits apart, so its ratio is
        # about 1 or huge; there the bar is lowered by more than the rounding and ties are looked at again.
        low = ratio - tl.abs(ratio) * 2.0**-22
        bar = low.to(tl.float32)
        exact = ratio.to(tl.float32)
        unrounded = (exact.to(tl.float64) == ratio) & (ratio < 32768.0) & (tl.abs(ratio - 1.0) > 2.0**-10)
        bar = tl.where(unrounded, exact, bar)
        steeper = tl.fma(size, tl.zeros(size.shape, tl.float32) + bar, -gap).to(tl.int32, bitcast=True)
    else:
        size = tl.abs(y)
        strict = wide_gap > size * STRICT + STRICT
        loose = wide_gap > size * LOOSE + LOOSE
        # A hair above the best ratio, so that its own ties, whose quotient was rounded down, do not beat it; never 0.
        bar = ratio * (1 + 2.0**-51) + 5e-324
        steeper = ((size * bar - wide_gap).to(tl.int64, bitcast=True) >> 32).to(tl.int32)
    squares = tl.sum(tl.sum(d * d, 2), 0)
    expected = tl.sum(tl.sum(y * y, 2), 0)
    actual = tl.sum(tl.sum(x * x, 2), 0)
    dot = tl.sum(tl.sum(x * y, 2), 0)
    # As floats, which is exact for a tile: the comparison itself yields the 1.0.
    outside_strict = tl.sum(tl.sum(tl.where(strict, 1.0, 0.0), 2), 0).to(tl.int32)
    outside_loose = tl.sum(tl.sum(tl.where(loose, 1.0, 0.0), 2), 0).to(tl.int32)

    higher = ((peak - wide_gap).to(tl.int64, bitcast=True) >> 32).to(tl.int32)
    beaten = higher | tl.where(b == 0, 0, steeper)
    if tl.min(tl.min(tl.min(beaten, 2), 0), 0) < 0:
        # Read again, from the cache: kept over the branch, the values would not fit in the registers.
        inside = offset < left
        y = _again(b_ptr + base + offset, inside, MASKED)
        wide_gap = tl.abs(_again(a_ptr + base + offset, inside, MASKED) - y)
        here = tl.where(inside, wide_gap, -1.0)
        best = tl.max(tl.max(tl.max(here, 2), 0), 0)
        first = tl.min(tl.min(tl.min(tl.where(here == best, offset, 2147483647), 2), 0), 0)
        if best > peak:
            peak = best
            peak_at = base + first
        there = tl.where(inside & (y != 0), wide_gap / tl.where(y == 0, 1.0, tl.abs(y)), -1.0)
        best = tl.max(tl.max(tl.max(there, 2), 0), 0)
        first = tl.min(tl.min(tl.min(tl.where(there == best, offset, 2147483647), 2), 0), 0)
        if best > ratio:
            ratio = best
            ratio_at = base + first
    return squares, expected, actual, dot, outside_strict, outside_loose, peak, peak_at, ratio, ratio_at


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _partials(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    reals_ptr,
    wholes_ptr,
    elements,
    tiles,
    STRICT: tl.constexpr,
    LOOSE: tl.constexpr,
    NARROW: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Program p compares ``tiles`` tiles in a row; the last one also the incomplete tile at the end."""
    TILE: tl.constexpr = GROUPS * LANES * VECTOR
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    start = program.to(tl.int64) * tiles * TILE
    whole = tl.minimum(((elements - start) // TILE).to(tl.int32), tiles)
    squares = tl.zeros([LANES], dtype=tl.float64)
    expected = tl.zeros([LANES], dtype=tl.float64)
    actual = tl.zeros([LANES], dtype=tl.float64)
    dot = tl.zeros([LANES], dtype=tl.float64)
    strict = tl.zeros([LANES], dtype=tl.int32)
    loose = tl.zeros([LANES], dtype=tl.int32)
    peak = tl.sum(tl.zeros([LANES], dtype=tl.float64), 0) - 1.0
    ratio = peak
    peak_at = start - start - 1
    ratio_at = peak_at
    base = start
    for _ in range(whole):
        s, e, c, d, i, j, peak, peak_at, ratio, ratio_at = _tile(
            a_ptr, b_ptr, base, TILE, peak, peak_at, ratio, ratio_at,
            STRICT, LOOSE, NARROW, False, GROUPS, LANES, VECTOR,
        )  # fmt: skip
        squares += s
        expected += e
        actual += c
        dot += d
        strict += i
        loose += j
        base += TILE
    left = tl.minimum(elements - base, TILE).to(tl.int32)
    if (program == programs - 1) & (left > 0):
        s, e, c, d, i, j, peak, peak_at, ratio, ratio_at = _tile(
            a_ptr, b_ptr, base, left, peak, peak_at, ratio, ratio_at,
            STRICT, LOOSE, NARROW, True, GROUPS, LANES, VECTOR,
        )  # fmt: skip
        squares += s
        expected += e
        actual += c
        dot += d
        strict += i
        loose += j
    tl.store(reals_ptr + program, tl.sum(squares, 0))
    tl.store(reals_ptr + programs + program, tl.sum(expected, 0))
    tl.store(reals_ptr + 2 * programs + program, tl.sum(actual, 0))
    tl.store(reals_ptr + 3 * programs + program, tl.sum(dot, 0))
    tl.store(reals_ptr + 4 * programs + program, peak)
    tl.store(reals_ptr + 5 * programs + program, ratio)
    tl.store(wholes_ptr + program, peak_at)
    tl.store(wholes_ptr + programs + program, ratio_at)
    tl.store(wholes_ptr + 2 * programs + program, tl.sum(strict, 0).to(tl.int64))
    tl.store(wholes_ptr + 3 * programs + program, tl.sum(loose, 0).to(tl.int64))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _finish(reals_ptr, wholes_ptr, out_ptr, programs, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Program 0 to 3 add up a sum, 4 and 5 find a maximum and its first position, 6 and 7 add up a count."""
    row = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    if row < 4:
        total = tl.zeros([BLOCK], dtype=tl.float64)
        for begin in range(0, programs, BLOCK):
            total += tl.load(reals_ptr + row * programs + begin + lane, mask=begin + lane < programs, other=0.0)
        tl.store(out_ptr + row, tl.sum(total, 0).to(tl.int64, bitcast=True))
    elif row < 6:
        best = tl.zeros([BLOCK], dtype=tl.float64) - 1.0
        at = tl.zeros([BLOCK], dtype=tl.int64) + 9223372036854775807
        for begin in range(0, programs, BLOCK):
            mask = begin + lane < programs
            value = tl.load(reals_ptr + row * programs + begin + lane, mask=mask, other=-1.0)
            place = tl.load(wholes_ptr + (row - 4) * programs + begin + lane, mask=mask, other=-1)
            # Programs lie in order of elements, so a later equal value never moves the position.
            at = tl.where(value > best, place, at)
            best = tl.where(value > best, value, best)
        top = tl.max(best, 0)
        tl.store(out_ptr + row, top.to(tl.int64, bitcast=True))
        first = tl.min(tl.where(best == top, at, 9223372036854775807), 0)
        tl.store(out_ptr + row + 4, tl.where(top < 0, -1, first))
    else:
        count = tl.zeros([BLOCK], dtype=tl.int64)
        for begin in range(0, programs, BLOCK):
            count += tl.load(wholes_ptr + (row - 4) * programs + begin + lane, mask=begin + lane < programs, other=0)
        tl.store(out_ptr + row, tl.sum(count, 0))


def compare_on_gpu(a: torch.Tensor, b: torch.Tensor, how: Configuration | None = None) -> Totals:
    """Compare two flat tensors of equal, positive length on one CUDA device; one host synchronisation.

    Args:
        a, b: Contiguous ``[elements]``, of dtypes in `READABLE`, not necessarily alike.
        how: How to cut the work; the results differ by rounding only.
    """
    how = how or Configuration()
    a, b = (side.view(torch.uint8) if side.dtype == torch.bool else side for side in (a, b))
    elements = a.numel()
    vector = 16 // max(a.element_size(), b.element_size())
    lanes = 32 * how.warps
    tile = how.groups * lanes * vector
    whole_tiles = elements // tile
    # A small tensor is spread over more programs; the cut depends on the size alone, so does the rounding.
    tiles = max(1, min(how.tiles, whole_tiles // 4096))
    programs = max(1, triton.cdiv(whole_tiles, tiles))
    narrow = a.dtype == b.dtype == torch.bfloat16
    reals = torch.empty((6, programs), dtype=torch.float64, device=a.device)
    wholes = torch.empty((4, programs), dtype=torch.int64, device=a.device)
    out = torch.empty(10, dtype=torch.int64, device=a.device)
    with torch.cuda.device(a.device):
        _partials[(programs,)](
            a,
            b,
            reals,
            wholes,
            elements,
            tiles,
            STRICT=STRICT_TOLERANCE,
            LOOSE=LOOSE_TOLERANCE,
            NARROW=narrow,
            GROUPS=how.groups,
            LANES=lanes,
            VECTOR=vector,
            num_warps=how.warps,
            maxnreg=how.registers,
            enable_fp_fusion=narrow,
        )
        _finish[(8,)](reals, wholes, out, programs, BLOCK=_FINISH)
    row = out.cpu()
    found = _totals(row[:6].view(torch.float64).tolist(), row[6:].tolist())
    return found if found.finite else _anew(a, b, reals.cpu(), wholes.cpu(), tiles * tile)


def _totals(reals: list[float], wholes: list[int]) -> Totals:
    difference, expected, actual, dot, peak, ratio = reals
    strict, loose, peak_at, ratio_at = wholes
    return Totals(difference, expected, actual, dot, peak, peak_at, ratio, ratio_at, strict, loose)


def _anew(a: torch.Tensor, b: torch.Tensor, reals: torch.Tensor, wholes: torch.Tensor, span: int) -> Totals:
    """The programs' results in order, those that met a NaN, an infinity or an overflow replaced by torch's."""
    found = Totals()
    broken = (~reals[1:3].isfinite().all(0)).tolist()
    index = 0
    while index < len(broken):
        start = index * span
        if not broken[index]:
            peak_at, ratio_at, strict, loose = wholes[:, index].tolist()
            found.add(_totals(reals[:, index].tolist(), [strict, loose, peak_at, ratio_at]))
            index += 1
            continue
        # Neighbours together, as far as torch's chunk goes.
        while index < len(broken) and broken[index] and (index + 1) * span - start <= max(span, CHUNKS["cuda"]):
            index += 1
        stop = a.numel() if index == len(broken) else index * span
        for begin in range(start, stop, CHUNKS["cuda"]):
            end = min(stop, begin + CHUNKS["cuda"])
            found.add(compare(a[begin:end], b[begin:end]), begin)
    return found
