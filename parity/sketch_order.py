"""Putting a tensor whose elements do not lie in logical order into that order, on a CUDA device.

Imported only where a CUDA device is used; Triton comes with torch's CUDA builds.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
