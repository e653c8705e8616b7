"""One comparison in Triton for any pair of dtypes, in float64 from the load on; and the second look at chosen chunks.

Imported only where a CUDA device is used; Triton comes with torch's CUDA builds.

* one warp a program and its maxima as scalars: an element only asks whether it beats them (two signs, or-ed); the exact
  maximum, the division for the relative one and the positions are worked out in the rare tile that does;
* no test for NaN or infinity: either makes a program's sum of squares non-finite, and the caller compares that
  program's elements anew with `metrics_chunks.compare`;
* sums in float64 from the first addition. Squares of float32 values cannot overflow there, and the result is the CPU's
  up to the order of additions: relative error below (elements of a program + programs) * 2^-53;
* ``tolerance + tolerance * |b|`` with two roundings, as on the CPU, so fusion is off.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .metrics_chunks import CHUNKS, LOOSE_TOLERANCE, STRICT_TOLERANCE, Totals, compare
from .triton_launch import launcher

__all__ = ["add_floats", "add_integers", "compare_in_float64", "look", "totals"]

# Tiles that a program walks through in a large tensor.
_TILES = 512
_FINISH = 1024
# Programs of the second look: what is resident on a large card at once.
_LOOKS = 2048


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _again(pointers, inside, MASKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """A second read that the compiler may not replace with the first one's result; float64."""
    if MASKED:
        return tl.load(pointers, mask=inside, other=0, volatile=True).to(tl.float64)
    return tl.load(pointers, volatile=True).to(tl.float64)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _maxima(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    base,
    offset,
    left,
    gap,
    size,
    peak,
    peak_at,
    ratio,
    ratio_at,
    MASKED: tl.constexpr,
):
    """The largest gap and ratio and their positions, brought up to date with one tile's ``gap`` and ``size``."""
    # A hair above the best ratio, so that its own ties, whose quotient was rounded down, do not beat it; never 0.
    bar = ratio * (1 + 2.0**-51) + 5e-324
    steeper = ((size * bar - gap).to(tl.int64, bitcast=True) >> 32).to(tl.int32)
    higher = ((peak - gap).to(tl.int64, bitcast=True) >> 32).to(tl.int32)
    beaten = higher | tl.where(size == 0, 0, steeper)
    if tl.min(tl.min(beaten, 1), 0) < 0:
        # Read again, from the cache: kept over the branch, the values would not fit in the registers.
        inside = offset < left
        y = _again(b_ptr + base + offset, inside, MASKED)
        gap = tl.abs(_again(a_ptr + base + offset, inside, MASKED) - y)
        here = tl.where(inside, gap, -1.0)
        best = tl.max(tl.max(here, 1), 0)
        first = tl.min(tl.min(tl.where(here == best, offset, 2147483647), 1), 0)
        if best > peak:
            peak = best
            peak_at = base + first
        there = tl.where(inside & (y != 0), gap / tl.where(y == 0, 1.0, tl.abs(y)), -1.0)
        best = tl.max(tl.max(there, 1), 0)
        first = tl.min(tl.min(tl.where(there == best, offset, 2147483647), 1), 0)
        if best > ratio:
            ratio = best
            ratio_at = base + first
    return peak, peak_at, ratio, ratio_at


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
    MASKED: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """One tile at element ``base``: its sums and counts for each lane, and the scalars brought up to date."""
    offset = tl.arange(0, 32)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    if MASKED:
        # Pairs of zeros add nothing to any sum, count or maximum of a gap.
        x = tl.load(a_ptr + base + offset, mask=offset < left, other=0).to(tl.float64)
        y = tl.load(b_ptr + base + offset, mask=offset < left, other=0).to(tl.float64)
    else:
        x = tl.load(a_ptr + base + offset).to(tl.float64)
        y = tl.load(b_ptr + base + offset).to(tl.float64)
    d = x - y
    gap = tl.abs(d)
    size = tl.abs(y)
    squares = tl.sum(d * d, 1)
    expected = tl.sum(y * y, 1)
    actual = tl.sum(x * x, 1)
    dot = tl.sum(x * y, 1)
    # As floats, which is exact for a tile: the comparison itself yields the 1.0.
    strict = tl.sum(tl.where(gap > size * STRICT + STRICT, 1.0, 0.0), 1).to(tl.int32)
    loose = tl.sum(tl.where(gap > size * LOOSE + LOOSE, 1.0, 0.0), 1).to(tl.int32)
    peak, peak_at, ratio, ratio_at = _maxima(
        a_ptr, b_ptr, base, offset, left, gap, size, peak, peak_at, ratio, ratio_at, MASKED
    )
    return squares, expected, actual, dot, strict, loose, peak, peak_at, ratio, ratio_at


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
    VECTOR: tl.constexpr,
):
    """Program p compares ``tiles`` tiles in a row; the last one also the incomplete tile at the end."""
    TILE: tl.constexpr = 32 * VECTOR
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    start = program.to(tl.int64) * tiles * TILE
    whole = tl.minimum(((elements - start) // TILE).to(tl.int32), tiles)
    squares = tl.zeros([32], dtype=tl.float64)
    expected = tl.zeros([32], dtype=tl.float64)
    actual = tl.zeros([32], dtype=tl.float64)
    dot = tl.zeros([32], dtype=tl.float64)
    strict = tl.zeros([32], dtype=tl.int32)
    loose = tl.zeros([32], dtype=tl.int32)
    peak = tl.sum(tl.zeros([32], dtype=tl.float64), 0) - 1.0
    ratio = peak
    peak_at = start - start - 1
    ratio_at = peak_at
    base = start
    for _ in range(whole):
        s, e, c, d, i, j, peak, peak_at, ratio, ratio_at = _tile(
            a_ptr, b_ptr, base, TILE, peak, peak_at, ratio, ratio_at, STRICT, LOOSE, False, VECTOR
        )
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
            a_ptr, b_ptr, base, left, peak, peak_at, ratio, ratio_at, STRICT, LOOSE, True, VECTOR
        )
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
def add_floats(values_ptr, out_ptr, length, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store the bits of the sum of ``length`` float64."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float64)
    for begin in range(0, length, BLOCK):
        total += tl.load(values_ptr + begin + lane, mask=begin + lane < length, other=0.0)
    tl.store(out_ptr, tl.sum(total, 0).to(tl.int64, bitcast=True))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def add_integers(values_ptr, out_ptr, length, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store the sum of ``length`` int64."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.int64)
    for begin in range(0, length, BLOCK):
        total += tl.load(values_ptr + begin + lane, mask=begin + lane < length, other=0)
    tl.store(out_ptr, tl.sum(total, 0))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _highest(values_ptr, places_ptr, out_ptr, at_ptr, length, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store the bits of the largest of ``length`` float64 and its first place, -1 if all are negative."""
    lane = tl.arange(0, BLOCK)
    best = tl.zeros([BLOCK], dtype=tl.float64) - 1.0
    at = tl.zeros([BLOCK], dtype=tl.int64) + 9223372036854775807
    for begin in range(0, length, BLOCK):
        mask = begin + lane < length
        value = tl.load(values_ptr + begin + lane, mask=mask, other=-1.0)
        place = tl.load(places_ptr + begin + lane, mask=mask, other=-1)
        # Programs lie in order of elements, so a later equal value never moves the position.
        at = tl.where(value > best, place, at)
        best = tl.where(value > best, value, best)
    top = tl.max(best, 0)
    tl.store(out_ptr, top.to(tl.int64, bitcast=True))
    tl.store(at_ptr, tl.where(top < 0, -1, tl.min(tl.where(best == top, at, 9223372036854775807), 0)))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _finish(  # type: ignore[no-untyped-def]
    reals_ptr, wholes_ptr, out_ptr, programs, BLOCK: tl.constexpr
):
    """Program 0 to 3 add up a sum, 4 and 5 find a maximum and its first position, 6 and 7 add up a count."""
    row = tl.program_id(0)
    if row < 4:
        add_floats(reals_ptr + row * programs, out_ptr + row, programs, BLOCK)
    elif row < 6:
        _highest(
            reals_ptr + row * programs,
            wholes_ptr + (row - 4) * programs,
            out_ptr + row,
            out_ptr + row + 4,
            programs,
            BLOCK,
        )
    else:
        add_integers(wholes_ptr + (row - 4) * programs, out_ptr + row, programs, BLOCK)


@triton.jit(do_not_specialize=["elements", "chunk"])  # type: ignore[untyped-decorator, unused-ignore]
def _look(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    chosen_ptr,
    amount_ptr,
    reals_ptr,
    wholes_ptr,
    elements,
    chunk,
    VECTOR: tl.constexpr,
):
    """Maxima and their positions in the chosen chunks of ``chunk`` elements; the programs share the tiles, in order."""
    TILE: tl.constexpr = 32 * VECTOR
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    each = chunk // TILE
    total = tl.load(amount_ptr).to(tl.int32) * each
    span = tl.cdiv(total, programs)
    begin = program * span
    offset = tl.arange(0, 32)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    peak = tl.sum(tl.zeros([32], dtype=tl.float64), 0) - 1.0
    ratio = peak
    peak_at = tl.sum(tl.zeros([32], dtype=tl.int64), 0) - 1
    ratio_at = peak_at
    for tile in range(begin, tl.minimum(begin + span, total)):
        base = tl.multiple_of(tl.load(chosen_ptr + tile // each) * chunk + (tile % each) * TILE, VECTOR)
        left = tl.minimum(elements - base, TILE).to(tl.int32)
        x = tl.load(a_ptr + base + offset, mask=offset < left, other=0).to(tl.float64)
        y = tl.load(b_ptr + base + offset, mask=offset < left, other=0).to(tl.float64)
        peak, peak_at, ratio, ratio_at = _maxima(
            a_ptr, b_ptr, base, offset, left, tl.abs(x - y), tl.abs(y), peak, peak_at, ratio, ratio_at, True
        )
    tl.store(reals_ptr + program, peak)
    tl.store(reals_ptr + programs + program, ratio)
    tl.store(wholes_ptr + program, peak_at)
    tl.store(wholes_ptr + programs + program, ratio_at)


@triton.jit(do_not_specialize=["programs"])  # type: ignore[untyped-decorator, unused-ignore]
def _finish_look(reals_ptr, wholes_ptr, out_ptr, programs, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Program 0 finds the largest gap and its first position, 1 the largest ratio and its."""
    row = tl.program_id(0)
    values = reals_ptr + row * programs
    _highest(values, wholes_ptr + row * programs, out_ptr + 4 + row, out_ptr + 8 + row, programs, BLOCK)


def look(
    a: torch.Tensor, b: torch.Tensor, chosen: torch.Tensor, amount: torch.Tensor, chunk: int, out: torch.Tensor
) -> None:
    """Put the largest gap and ratio within chosen chunks of two tensors, and where they are, into ``out[4, 5, 8, 9]``.

    Args:
        a, b: As in `compare_in_float64`.
        chosen: int64 ``[at least amount]``, ascending: numbers of chunks.
        amount: int64 ``[1]``, how many of them count.
        chunk: Elements of a chunk, a multiple of 256.
        out: int64 ``[10]``, laid out as `totals` reads it.
    """
    reals = torch.empty((2, _LOOKS), dtype=torch.float64, device=a.device)
    wholes = torch.empty((2, _LOOKS), dtype=torch.int64, device=a.device)
    vector = 16 // a.element_size()
    values = (a, b, chosen, amount, reals, wholes, a.numel(), chunk)
    launcher(_look, vector, num_warps=1, enable_fp_fusion=False)(_LOOKS, 1, 1, values)
    launcher(_finish_look, _FINISH)(2, 1, 1, (reals, wholes, out, _LOOKS))


def compare_in_float64(a: torch.Tensor, b: torch.Tensor) -> Totals:
    """Compare two flat tensors of equal, positive length on one CUDA device; one host synchronisation.

    Args:
        a, b: Contiguous ``[elements]``, of dtypes that float64 holds exactly (not bool), not necessarily alike.
    """
    elements = a.numel()
    vector = 16 // max(a.element_size(), b.element_size())
    tile = 32 * vector
    whole_tiles = elements // tile
    # A small tensor is spread over more programs; the cut depends on the size alone, so does the rounding.
    tiles = max(1, min(_TILES, whole_tiles // 4096))
    programs = max(1, triton.cdiv(whole_tiles, tiles))
    reals = torch.empty((6, programs), dtype=torch.float64, device=a.device)
    wholes = torch.empty((4, programs), dtype=torch.int64, device=a.device)
    out = torch.empty(10, dtype=torch.int64, device=a.device)
    _partials[(programs,)](
        a,
        b,
        reals,
        wholes,
        elements,
        tiles,
        STRICT=STRICT_TOLERANCE,
        LOOSE=LOOSE_TOLERANCE,
        VECTOR=vector,
        num_warps=1,
        enable_fp_fusion=False,
    )
    _finish[(8,)](reals, wholes, out, programs, BLOCK=_FINISH)
    found = totals(out.tolist())
    return found if found.finite else _anew(a, b, reals.cpu(), wholes.cpu(), tiles * tile)


def totals(out: list[int]) -> Totals:
    """What the kernels left in ten integers, of which the first six are bits of float64."""
    return _totals(struct.unpack("6d", struct.pack("6q", *out[:6])), out[6:])


def _totals(reals: Sequence[float], wholes: Sequence[int]) -> Totals:
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
