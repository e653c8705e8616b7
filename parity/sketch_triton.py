"""The fingerprint of `sketch` on a CUDA device: one kernel a tensor, one pass over it, nothing waits.

Imported only where a CUDA device is used; Triton comes with torch's CUDA builds.

A program walks over blocks of 16 rows and keeps all sums in registers: thread lanes belong to sums, and what turns with
the row is where a lane loads from. Turning within a row keeps loads coalesced. Half precision (and float32 where the
sketch is stored in float32) adds in float32 within a program, the rest in float64; programs add up in float64.
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
    ptr, block, left, lane, sums, total, square, low, high, CUT: tl.constexpr
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
def _keep(out, lane, sums, total, square, low, high):  # type: ignore[no-untyped-def]
    """Add a program's part, in float64, to the tensor's row."""
    tl.atomic_add(out + lane, sums.to(tl.float64), sem="relaxed")
    tl.atomic_add(out + _WIDTH, total, sem="relaxed")
    tl.atomic_add(out + _WIDTH + 1, square, sem="relaxed")
    keys = out.to(tl.pointer_type(tl.int64), bitcast=True)
    tl.atomic_max(keys + _WIDTH + 3, _key(-low.to(tl.float64)), sem="relaxed")
    tl.atomic_max(keys + _WIDTH + 4, _key(high.to(tl.float64)), sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _wide(ptr, out, lo, hi, lane, head, tail, inner, whole, count, back):  # type: ignore[no-untyped-def]
    """Add blocks in float64: every dtype, every value, with masks.

    They are the one that is cut at ``lo`` if ``head``, the one that is cut at ``hi`` alone if ``tail``, and the first
    ``inner`` of the program's whole ones.
    """
    pid = tl.program_id(1)
    step = tl.num_programs(1)
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
            cut = pid >= 0
        at = block.to(tl.int64) * _BLOCK
        begin = tl.maximum(lo - at, 0).to(tl.int32)
        end = tl.where(cut, tl.minimum(hi - at, _BLOCK), 0).to(tl.int32)
        bits = _bits(block, lane >> 1) >> ((lane & 1) * 16).to(tl.uint32)
        spin = _mix(block.to(tl.uint32) ^ _TURN)
        for index in range(_ROWS):  # not unrolled: registers for this rare path are taken from the usual one
            q = pid * 0 + index
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
    _keep(
        out,
        lane,
        sums,
        _sum(total),
        _sum(square),
        tl.min(low, axis=0),
        tl.max(high, axis=0),
    )
    tl.atomic_add(out + _WIDTH + 2, _sum(broken), sem="relaxed")


@triton.jit(do_not_specialize=["row", "lo", "hi", "back"])  # type: ignore[untyped-decorator, unused-ignore]
def sketch_kernel(  # type: ignore[no-untyped-def]
    ptr, slab, row, lo, hi, back, KIND: tl.constexpr, PAIRED: tl.constexpr, SUMS: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """Add elements ``lo`` to ``hi`` of a tensor, which lie from ``ptr`` on, to row ``row`` of the slab.

    Whole blocks are read from the last to the first if ``back`` is 1.

    Half precision is read in words of two, so it begins at an even ``lo`` and a word. The grid is (``WIDTH / SUMS``
    parts of the sums, programs that share the blocks).

    KIND: 1 bfloat16 and 2 float16 in words, 3 float32 in float32, 0 anything in float64.
    PAIRED: Minimum and maximum of words in one instruction.
    SUMS, WIDE: Sums that a program holds, in float32 and in float64.
    """
    out = slab + row.to(tl.int64) * (_WIDTH + 8)
    lo = lo.to(tl.int64)
    hi = hi.to(tl.int64)
    part = tl.program_id(0) * SUMS
    pid = tl.program_id(1)
    step = tl.num_programs(1)
    whole = tl.cdiv(lo, _BLOCK).to(tl.int32)
    count = tl.maximum((hi // _BLOCK).to(tl.int32) - whole, 0)
    inner = tl.cdiv(tl.maximum(count - pid, 0), step)
    head = (pid == 0) & (lo % _BLOCK != 0)
    # The block that is cut at the end is the next program's, as if it were whole.
    tail = (pid == count % step) & (hi % _BLOCK != 0) & (hi // _BLOCK >= whole)
    if KIND > 0:
        SIZE: tl.constexpr = SUMS if KIND == 3 else SUMS // 2
        lane = tl.arange(0, SIZE) + (part if KIND == 3 else part // 2)
        sums = tl.zeros([SIZE], dtype=tl.float32)
        odd = sums
        total = sums
        square = sums
        if PAIRED:
            low = tl.full([SIZE], 0x7F807F80 if KIND == 1 else 0x7C007C00, dtype=tl.uint32)
            high = tl.full([SIZE], 0xFF80FF80 if KIND == 1 else 0xFC00FC00, dtype=tl.uint32)
        else:
            low = tl.full([SIZE], float("inf"), dtype=tl.float32)
            high = tl.full([SIZE], float("-inf"), dtype=tl.float32)
        for turn in range(inner):
            block = pid + turn * step
            block = whole + tl.where(back == 1, count - 1 - block, block)
            start = ptr + (block.to(tl.int64) * _BLOCK - lo)
            if KIND == 3:
                sums, total, square, low, high = _singles(start, block, 0, lane, sums, total, square, low, high, False)
            else:
                sums, odd, total, square, low, high = _pairs(
                    start, block, 0, lane, sums, odd, total, square, low, high, False, KIND, PAIRED
                )
        ended = tail & ((KIND == 3) | (hi % 2 == 0))
        if ended:
            block = whole + count
            start = ptr + (block.to(tl.int64) * _BLOCK - lo)
            left = (hi % _BLOCK).to(tl.int32)
            if KIND == 3:
                sums, total, square, low, high = _singles(
                    start, block, left, lane, sums, total, square, low, high, True
                )
            else:
                sums, odd, total, square, low, high = _pairs(
                    start, block, left, lane, sums, odd, total, square, low, high, True, KIND, PAIRED
                )
        if PAIRED:
            least = tl.min(tl.minimum(_first(low, KIND), _second(low, KIND)), axis=0)
            most = tl.max(tl.maximum(_first(high, KIND), _second(high, KIND)), axis=0)
        else:
            least = tl.min(low, axis=0)
            most = tl.max(high, axis=0)
        peak = tl.maximum(tl.abs(least), tl.abs(most))
        size = _sum(square)
        usual = (size < float("inf")) & ((peak == 0.0) | ((peak < _LARGE) & (peak > _SMALL)))
        if usual & ((inner > 0) | ended):
            both = sums if KIND == 3 else tl.interleave(sums, odd)
            _keep(out, part + tl.arange(0, SUMS), both, _sum(total), size, least, most)
        inner = tl.where(usual, 0, inner)
        tail = tail & ((usual & ended) == 0)
    if (inner > 0) | head | tail:
        for first in range(0, SUMS, WIDE):
            _wide(ptr, out, lo, hi, part + first + tl.arange(0, WIDE), head, tail, inner, whole, count, back)


@triton.jit(do_not_specialize=["offset", "n", "c", "plane", "of_row", "of_column"])  # type: ignore[untyped-decorator, unused-ignore]
def line_up_kernel(  # type: ignore[no-untyped-def]
    source, target, offset, n, c, plane, of_row, of_column,
    ONE: tl.constexpr, UNIT: tl.constexpr, HEIGHT: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    """Copy planes of ``n`` rows and ``c`` columns to row-major order; the grid is rows, columns, planes.

    It begins with the last rows: what was written last may still be in the cache.

    ONE: Which step in the source is 1: 1 from row to row, 2 from column to column, 0 none.
    UNIT: A power of two that divides all integers but that step, and the addresses in elements: told so, the compiler
        moves as many elements at once.
    """
    offset = tl.multiple_of(offset.to(tl.int64), UNIT)
    plane = tl.multiple_of(plane.to(tl.int64), UNIT)
    n = tl.multiple_of(n.to(tl.int64), UNIT)
    c = tl.multiple_of(c.to(tl.int64), UNIT)
    rows = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64) * HEIGHT + tl.arange(0, HEIGHT)[:, None]
    columns = tl.program_id(1).to(tl.int64) * LENGTH + tl.arange(0, LENGTH)[None, :]
    z = tl.program_id(2).to(tl.int64)
    here = (rows < n) & (columns < c)
    of_row = 1 if ONE == 1 else tl.multiple_of(of_row.to(tl.int64), UNIT)
    of_column = 1 if ONE == 2 else tl.multiple_of(of_column.to(tl.int64), UNIT)
    x = tl.load(source + offset + z * plane + rows * of_row + columns * of_column, mask=here)
    tl.store(target + (z * n + rows) * c + columns, x, mask=here)
