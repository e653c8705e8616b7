"""Blocks of a tensor added to the sums that a program of a CUDA device keeps in registers, and what becomes of these.

Imported only where a CUDA device is used; Triton comes with torch's CUDA builds.

Thread lanes belong to sums, and what turns with the row is where a lane loads from: turning within a row keeps loads
coalesced. Half precision (and float32 where the sketch is stored in float32) adds in float32 within a program, the rest
in float64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import sketch as plan

_WIDTH = tl.constexpr(plan.WIDTH)
_ROWS = tl.constexpr(plan.ROWS)
_BLOCK = tl.constexpr(plan.BLOCK)
_SIGN = tl.constexpr(plan.SALT_SIGN)
_TURN = tl.constexpr(plan.SALT_TURN)
_GOLDEN = tl.constexpr(plan.GOLDEN)
_SHIFT = tl.constexpr(plan.TURN_SHIFT)

ROW = plan.WIDTH + 8
"""float64 numbers a tensor: the sums, two moments, non-finite elements, keys of -min and max, three spare."""
SLOT = plan.WIDTH // 2 + 16
"""float64 numbers a program: its sums in float32, then sum, sum of squares, min and max of each part of the sums."""
HEAD = 8
"""float64 numbers before the slots of a launch: how many of them, parts of the sums, the row; the rest is spare."""
_SLOT, _HEAD = tl.constexpr(SLOT), tl.constexpr(HEAD)
_LARGE, _SMALL = tl.constexpr(1e12), tl.constexpr(1e-10)
"""Between these, and at zero, the squares of the largest elements are exact enough in float32."""


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _mix(x):  # type: ignore[no-untyped-def]
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _turn(spin, Q: tl.constexpr):  # type: ignore[no-untyped-def]
    """`sketch.multiplier`: the upper ten bits of row Q's turn."""
    factor: tl.constexpr = (((Q + 3) * (Q + 3) * (Q + 3) * 0x9E3779B97F4A7C15) >> 13) & 0xFFFFFFFF | 1
    return ((spin * factor) >> _SHIFT).to(tl.int32)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _signed(x, bits, SHIFT: tl.constexpr):  # type: ignore[no-untyped-def]
    """x with its sign flipped where bit ``31 - SHIFT`` of ``bits`` is set."""
    flip = (bits << SHIFT) & 0x80000000
    return (x.to(tl.uint32, bitcast=True) ^ flip).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _lower(a, b, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """Minimum of two words of two halves each, in one instruction."""
    if KIND == 1:
        return tl.inline_asm_elementwise("min.bf16x2 $0, $1, $2;", "=r,r,r", [a, b], tl.uint32, True, 1)
    else:
        return tl.inline_asm_elementwise("min.f16x2 $0, $1, $2;", "=r,r,r", [a, b], tl.uint32, True, 1)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _higher(a, b, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    if KIND == 1:
        return tl.inline_asm_elementwise("max.bf16x2 $0, $1, $2;", "=r,r,r", [a, b], tl.uint32, True, 1)
    else:
        return tl.inline_asm_elementwise("max.f16x2 $0, $1, $2;", "=r,r,r", [a, b], tl.uint32, True, 1)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _first(word, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """The element in the lower half of a word (the first in memory), in float32."""
    if KIND == 1:
        return (word << 16).to(tl.float32, bitcast=True)
    else:
        return word.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _second(word, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    if KIND == 1:
        return (word & 0xFFFF0000).to(tl.float32, bitcast=True)
    else:
        return (word >> 16).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _bits(block, pair):  # type: ignore[no-untyped-def]
    """The signs of a block's elements that go to a pair of sums: 16 bits for either, one a row."""
    return _mix(_mix(block.to(tl.uint32) ^ _SIGN) + pair.to(tl.uint32) * _GOLDEN)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _pairs(  # type: ignore[no-untyped-def]
    ptr, block, left, lane, even, odd, total, square, low, high,
    CUT: tl.constexpr, KIND: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    """Add one block of halves from ``ptr`` on, read as words of two; a lane is a pair of sums.

    A block that is CUT has ``left`` elements, an even number; the first two stand in for the rest in the extrema.
    """
    bits = _bits(block, lane)
    spin = _mix(block.to(tl.uint32) ^ _TURN)
    words = ptr.to(tl.pointer_type(tl.uint32), bitcast=True)
    for q in tl.static_range(_ROWS):
        place = (lane ^ _turn(spin, q)) + q * (_WIDTH // 2)
        word = tl.load(words + place, mask=place * 2 < left, other=0) if CUT else tl.load(words + place)
        a = _first(word, KIND)
        b = _second(word, KIND)
        # Thue-Morse, `sketch.odd_turn`: whether the pair goes to its two sums crosswise.
        if (q ^ (q >> 1) ^ (q >> 2) ^ (q >> 3)) & 1:
            odd += _signed(a, bits, 15 - q)
            even += _signed(b, bits, 31 - q)
        else:
            even += _signed(a, bits, 31 - q)
            odd += _signed(b, bits, 15 - q)
        total += a
        total += b
        square += a * a
        square += b * b
        if CUT:
            word = tl.where(place * 2 < left, word, tl.load(words))
        if PAIRED:
            low = _lower(low, word, KIND)
            high = _higher(high, word, KIND)
        else:
            low = tl.minimum(low, tl.minimum(_first(word, KIND), _second(word, KIND)))
            high = tl.maximum(high, tl.maximum(_first(word, KIND), _second(word, KIND)))
    return even, odd, total, square, low, high


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _singles(  # type: ignore[no-untyped-def]
    ptr, block, left, lane, sums, total, square, low, high,
    CUT: tl.constexpr,
):  # fmt: skip
    """Add one block of float32 from ``ptr`` on, in float32; a lane is a sum. If it is CUT it has ``left`` elements."""
    bits = _bits(block, lane >> 1) >> ((lane & 1) * 16).to(tl.uint32)
    spin = _mix(block.to(tl.uint32) ^ _TURN)
    for q in tl.static_range(_ROWS):
        turn = _turn(spin, q) * 2 + ((q ^ (q >> 1) ^ (q >> 2) ^ (q >> 3)) & 1)
        place = (lane ^ turn) + q * _WIDTH
        x = tl.load(ptr + place, mask=place < left, other=0) if CUT else tl.load(ptr + place)
        sums += _signed(x, bits, 31 - q)
        total += x
        square += x * x
        if CUT:
            x = tl.where(place < left, x, tl.load(ptr))
        low = tl.minimum(low, x)
        high = tl.maximum(high, x)
    return sums, total, square, low, high


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _key(x):  # type: ignore[no-untyped-def]
    """A float64 as an int64 of the same order."""
    bits = x.to(tl.int64, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _sum(x):  # type: ignore[no-untyped-def]
    return tl.sum(x.to(tl.float64), axis=0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def keep_moments(out, total, square, low, high):  # type: ignore[no-untyped-def]
    """Add moments, in float64, to the tensor's row."""
    tl.atomic_add(out + _WIDTH, total, sem="relaxed")
    tl.atomic_add(out + _WIDTH + 1, square, sem="relaxed")
    keys = out.to(tl.pointer_type(tl.int64), bitcast=True)
    tl.atomic_max(keys + _WIDTH + 3, _key(-low.to(tl.float64)), sem="relaxed")
    tl.atomic_max(keys + _WIDTH + 4, _key(high.to(tl.float64)), sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def wide(ptr, out, lo, hi, lane, head, tail, inner, whole, count, back, pid, step):  # type: ignore[no-untyped-def]
    """Add blocks in float64 to the tensor's row: every dtype, every value, with masks.

    They are the one that is cut at ``lo`` if ``head``, the one that is cut at ``hi`` alone if ``tail``, and ``inner``
    of the whole ones, ``step`` apart from ``pid`` on.
    """
    sums = lane.to(tl.float64) * 0
    total = sums
    square = sums
    low = sums + float("inf")
    high = sums - float("inf")
    broken = lane * 0
    for turn in range(tl.where(head, 0, tl.where(tail, 1, 2)), 2 + inner):
        block = tl.where(turn == 0, lo // _BLOCK, hi // _BLOCK).to(tl.int32)
        cut = (turn == 0) | tail
        if turn > 1:
            block = pid + (turn - 2) * step
            block = whole + tl.where(back == 1, count - 1 - block, block)
            cut = block >= 0
        at = block.to(tl.int64) * _BLOCK
        begin = tl.maximum(lo - at, 0).to(tl.int32)
        end = tl.where(cut, tl.minimum(hi - at, _BLOCK), 0).to(tl.int32)
        bits = _bits(block, lane >> 1) >> ((lane & 1) * 16).to(tl.uint32)
        spin = _mix(block.to(tl.uint32) ^ _TURN)
        for index in range(_ROWS):  # not unrolled: registers for this rare path are taken from the usual one
            q = block * 0 + index
            cubed = ((q + 3) * (q + 3) * (q + 3)).to(tl.uint64)
            factor = ((cubed * 0x9E3779B97F4A7C15) >> 13).to(tl.uint32) | 1
            upper = ((spin * factor) >> _SHIFT).to(tl.int32)
            place = (lane ^ (upper * 2 + ((q ^ (q >> 1) ^ (q >> 2) ^ (q >> 3)) & 1))) + q * _WIDTH
            here = (place >= begin) & (place < end)
            x = tl.load(ptr + (at - lo) + place, mask=here, other=0).to(tl.float64)
            finite = tl.abs(x) < float("inf")
            broken += tl.where(finite, 0, 1)
            x = tl.where(finite, x, 0.0)
            sums += tl.where(((bits >> q.to(tl.uint32)) & 1) == 1, -x, x)
            total += x
            square += x * x
            low = tl.minimum(low, tl.where(here, x, float("inf")))
            high = tl.maximum(high, tl.where(here, x, float("-inf")))
    tl.atomic_add(out + lane, sums, sem="relaxed")
    keep_moments(out, _sum(total), _sum(square), tl.min(low, axis=0), tl.max(high, axis=0))
    tl.atomic_add(out + _WIDTH + 2, _sum(broken), sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def nothing(SIZE: tl.constexpr, KIND: tl.constexpr, PAIRED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sums, the odd ones of pairs, total, squares, minima and maxima of no element, for ``SIZE`` lanes."""
    sums = tl.zeros([SIZE], dtype=tl.float32)
    if PAIRED:
        low = tl.full([SIZE], 0x7F807F80 if KIND == 1 else 0x7C007C00, dtype=tl.uint32)
        high = tl.full([SIZE], 0xFF80FF80 if KIND == 1 else 0xFC00FC00, dtype=tl.uint32)
    else:
        low = tl.full([SIZE], float("inf"), dtype=tl.float32)
        high = tl.full([SIZE], float("-inf"), dtype=tl.float32)
    return sums, sums, sums, sums, low, high


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def add_block(  # type: ignore[no-untyped-def]
    ptr, block, left, lane, sums, odd, total, square, low, high,
    CUT: tl.constexpr, KIND: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    """Add block number ``block``, which lies from ``ptr`` on and if it is CUT has ``left`` elements."""
    if KIND == 3:
        sums, total, square, low, high = _singles(ptr, block, left, lane, sums, total, square, low, high, CUT)
    else:
        sums, odd, total, square, low, high = _pairs(
            ptr, block, left, lane, sums, odd, total, square, low, high, CUT, KIND, PAIRED
        )
    return sums, odd, total, square, low, high


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _joined(total, square, low, high, total_2, square_2, low_2, high_2):  # type: ignore[no-untyped-def]
    return total + total_2, square + square_2, tl.minimum(low, low_2), tl.maximum(high, high_2)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def leave(  # type: ignore[no-untyped-def]
    slot, part, some, sums, odd, total, square, low, high, SUMS: tl.constexpr, KIND: tl.constexpr, PAIRED: tl.constexpr
):  # fmt: skip
    """Store what a program added to part ``part`` of the sums in its slot, zeros unless float32 was right for it.

    Storing and adding up later (`sum_up`) takes a fifth of the time that atomic additions by all programs take.
    Returns whether it was right: finite, and no square lost.

    some: Whether the program added anything.
    """
    if PAIRED:
        low = tl.minimum(_first(low, KIND), _second(low, KIND))
        high = tl.maximum(_first(high, KIND), _second(high, KIND))
    # In one reduction, since the lanes wait for each other in each.
    moments = (total.to(tl.float64), square.to(tl.float64), low, high)
    total, size, least, most = tl.reduce(moments, 0, _joined)
    peak = tl.maximum(tl.abs(least), tl.abs(most))
    usual = (size < float("inf")) & ((peak == 0.0) | ((peak < _LARGE) & (peak > _SMALL)))
    good = usual & some
    both = sums if KIND == 3 else tl.interleave(sums, odd)
    lanes = slot.to(tl.pointer_type(tl.float32), bitcast=True) + part * SUMS + tl.arange(0, SUMS)
    tl.store(lanes, tl.where(good, both, 0.0))
    kept = slot + _WIDTH // 2 + part * 4
    tl.store(kept, tl.where(good, total, 0.0))
    tl.store(kept + 1, tl.where(good, size, 0.0))
    tl.store(kept + 2, tl.where(good, least, float("inf")).to(tl.float64))
    tl.store(kept + 3, tl.where(good, most, float("-inf")).to(tl.float64))
    return usual


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def announce(begin, slots, parts, row):  # type: ignore[no-untyped-def]
    """Note what a launch leaves: slots, parts of the sums in each, and for which row of the slab."""
    tl.store(begin, slots.to(tl.float64))
    tl.store(begin + 1, parts.to(tl.float64))
    tl.store(begin + 2, row.to(tl.float64))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def sum_up_kernel(left, slab, stride, LANES: tl.constexpr, SLOTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add the slots of launches to their rows; the grid is launches, ``WIDTH / LANES`` parts of the sums.

    left: float64, ``stride`` numbers a launch, as `announce` and `leave` wrote them.
    """
    begin = left + tl.program_id(0).to(tl.int64) * stride
    slots = tl.load(begin).to(tl.int32)
    parts = tl.load(begin + 1).to(tl.int32)
    out = slab + tl.load(begin + 2).to(tl.int64) * (_WIDTH + 8)
    begin += _HEAD
    lane = tl.program_id(1) * LANES + tl.arange(0, LANES)
    sums = tl.zeros([LANES], dtype=tl.float64)
    for first in range(0, slots, SLOTS):
        slot = first + tl.arange(0, SLOTS)[:, None]
        values = (begin + slot * _SLOT).to(tl.pointer_type(tl.float32), bitcast=True) + lane[None, :]
        sums += tl.sum(tl.load(values, mask=slot < slots, other=0).to(tl.float64), axis=0)
    tl.atomic_add(out + lane, sums, sem="relaxed")
    if tl.program_id(1) == 0:
        total = tl.zeros([LANES], dtype=tl.float64)
        square = total
        low = total + float("inf")
        high = total - float("inf")
        for first in range(0, slots * 4, LANES):
            entry = first + tl.arange(0, LANES)
            there = (entry // 4 < slots) & (entry % 4 < parts)
            moments = begin + entry // 4 * _SLOT + _WIDTH // 2 + entry % 4 * 4
            total += tl.load(moments, mask=there, other=0.0)
            square += tl.load(moments + 1, mask=there, other=0.0)
            low = tl.minimum(low, tl.load(moments + 2, mask=there, other=float("inf")))
            high = tl.maximum(high, tl.load(moments + 3, mask=there, other=float("-inf")))
        keep_moments(out, _sum(total), _sum(square), tl.min(low, axis=0), tl.max(high, axis=0))
