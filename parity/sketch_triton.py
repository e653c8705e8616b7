"""The fingerprint of `sketch` on a CUDA device: one kernel a tensor, one pass over it, nothing waits.

Imported only where a CUDA device is used; Triton comes with torch's CUDA builds.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import sketch as plan
from .sketch_blocks import HEAD, SLOT, add_block, announce, leave, nothing, wide

_WIDTH = tl.constexpr(plan.WIDTH)
_BLOCK = tl.constexpr(plan.BLOCK)
_SLOT, _HEAD = tl.constexpr(SLOT), tl.constexpr(HEAD)


@triton.jit(do_not_specialize=["held", "row", "lo", "hi", "back"])  # type: ignore[untyped-decorator, unused-ignore]
def sketch_kernel(  # type: ignore[no-untyped-def]
    ptr, slab, left, stride, held, row, lo, hi, back,
    KIND: tl.constexpr, PAIRED: tl.constexpr, SUMS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Add elements ``lo`` to ``hi`` of a tensor, which lie from ``ptr`` on, to row ``row`` of the slab.

    A program walks over blocks of 16 rows. Whole blocks are read from the last to the first if ``back`` is 1.

    Half precision is read in words of two, so it begins at an even ``lo`` and a word. The grid is (``WIDTH / SUMS``
    parts of the sums, programs that share the blocks). What is added in float32 is left for `sum_up_kernel`, as
    launch ``held``; what wants float64 goes to the row at once.

    KIND: 1 bfloat16 and 2 float16 in words, 3 float32 in float32, 0 anything in float64.
    PAIRED: Minimum and maximum of words in one instruction.
    SUMS, WIDE: Sums that a program holds, in float32 and in float64.
    """
    out = slab + row.to(tl.int64) * (_WIDTH + 8)
    lo = lo.to(tl.int64)
    hi = hi.to(tl.int64)
    part = tl.program_id(0)
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
        lane = tl.arange(0, SIZE) + part * SIZE
        sums, odd, total, square, low, high = nothing(SIZE, KIND, PAIRED)
        for turn in range(inner):
            block = pid + turn * step
            block = whole + tl.where(back == 1, count - 1 - block, block)
            start = ptr + (block.to(tl.int64) * _BLOCK - lo)
            sums, odd, total, square, low, high = add_block(
                start, block, 0, lane, sums, odd, total, square, low, high, False, KIND, PAIRED
            )
        ended = tail & ((KIND == 3) | (hi % 2 == 0))
        if ended:
            block = whole + count
            start = ptr + (block.to(tl.int64) * _BLOCK - lo)
            over = (hi % _BLOCK).to(tl.int32)
            sums, odd, total, square, low, high = add_block(
                start, block, over, lane, sums, odd, total, square, low, high, True, KIND, PAIRED
            )
        begin = left + held.to(tl.int64) * stride
        if (part == 0) & (pid == 0):
            announce(begin, step, tl.num_programs(0), row)
        slot = begin + _HEAD + pid * _SLOT
        some = (inner > 0) | ended
        usual = leave(slot, part, some, sums, odd, total, square, low, high, SUMS, KIND, PAIRED)
        inner = tl.where(usual, 0, inner)
        tail = tail & ((usual & ended) == 0)
    if (inner > 0) | head | tail:
        for first in range(0, SUMS, WIDE):
            lanes = part * SUMS + first + tl.arange(0, WIDE)
            wide(ptr, out, lo, hi, lanes, head, tail, inner, whole, count, back, pid, step)
