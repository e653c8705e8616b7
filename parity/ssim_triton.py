"""The uniform-window SSIM as one Triton kernel: frames are read as bytes and no intermediate map is stored.

Imported only where a CUDA device is used; Triton comes with torch's CUDA builds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .ssim import SCALED_C1, SCALED_C2, WINDOW

# Rows that one program walks down: each beyond the first six costs two rows of sums (one enters, one leaves).
_ROWS = 32
_BLOCK = 256


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _row_sums(x_ptr, y_ptr, offset, mask, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Over 7 pixels to the right of ``offset``: sums of x, of y, of x^2 + y^2, of (x - y)^2, in int32."""
    x = tl.load(x_ptr + offset, mask=mask, other=0).to(tl.int32)
    y = tl.load(y_ptr + offset, mask=mask, other=0).to(tl.int32)
    sum_x = x
    sum_y = y
    squares = x * x + y * y
    gaps = (x - y) * (x - y)
    for step in tl.static_range(1, 7):
        x = tl.load(x_ptr + offset + step * CHANNELS, mask=mask, other=0).to(tl.int32)
        y = tl.load(y_ptr + offset + step * CHANNELS, mask=mask, other=0).to(tl.int32)
        sum_x += x
        sum_y += y
        squares += x * x + y * y
        gaps += (x - y) * (x - y)
    return sum_x, sum_y, squares, gaps


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _dissimilarity(  # type: ignore[no-untyped-def]
    x_ptr,
    y_ptr,
    out_ptr,
    height,
    row,
    CHANNELS: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum of 1 - SSIM over one tile of window positions; the grid is (frames, tiles across, tiles down)."""
    frame = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    top = tl.program_id(2) * ROWS
    inside = column < row - 6 * CHANNELS
    start = frame * height * row + column

    sum_x = tl.zeros([BLOCK], dtype=tl.int32)
    sum_y = tl.zeros([BLOCK], dtype=tl.int32)
    squares = tl.zeros([BLOCK], dtype=tl.int32)
    gaps = tl.zeros([BLOCK], dtype=tl.int32)
    for step in range(6):
        a, b, c, d = _row_sums(x_ptr, y_ptr, start + (top + step) * row, inside, CHANNELS)
        sum_x += a
        sum_y += b
        squares += c
        gaps += d
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for step in range(ROWS):
        keep = inside & (top + step + 6 < height)
        a, b, c, d = _row_sums(x_ptr, y_ptr, start + (top + step + 6) * row, keep, CHANNELS)
        sum_x += a
        sum_y += b
        squares += c
        gaps += d
        # As in ssim._uniform: exact integers up to the quotients.
        levels = sum_x * sum_x + sum_y * sum_y
        level_gap = (sum_x - sum_y) * (sum_x - sum_y)
        spread = 49 * squares - levels
        spread_gap = 49 * gaps - level_gap
        first = level_gap.to(tl.float32) / (levels.to(tl.float32) + C1)
        second = spread_gap.to(tl.float32) / (spread.to(tl.float32) + C2)
        total += tl.where(keep, first + second - first * second, 0.0)
        a, b, c, d = _row_sums(x_ptr, y_ptr, start + (top + step) * row, keep, CHANNELS)
        sum_x -= a
        sum_y -= b
        squares -= c
        gaps -= d
    tile = (frame * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
    tl.store(out_ptr + tile, tl.sum(total, axis=0))


def uniform_dissimilarity(reference: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - SSIM per frame.

    Args:
        reference, candidate: uint8 ``[frames, height, width, channels]``, alike, on one CUDA device, sides >= 7.

    Returns:
        float64 ``[frames]``; exactly 0 for equal frames.
    """
    frames, height, width, channels = reference.shape
    row = width * channels
    across = triton.cdiv(row - (WINDOW - 1) * channels, _BLOCK)
    down = triton.cdiv(height - (WINDOW - 1), _ROWS)
    sums = torch.empty((frames, across, down), dtype=torch.float32, device=reference.device)
    with torch.cuda.device(reference.device):
        _dissimilarity[(frames, across, down)](
            reference.contiguous(),
            candidate.contiguous(),
            sums,
            height,
            row,
            CHANNELS=channels,
            C1=SCALED_C1,
            C2=SCALED_C2,
            ROWS=_ROWS,
            BLOCK=_BLOCK,
        )
    positions = (height - WINDOW + 1) * (width - WINDOW + 1) * channels
    return sums.sum((1, 2), dtype=torch.float64) / positions
