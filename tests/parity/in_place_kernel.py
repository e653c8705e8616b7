"""A Triton kernel that works in place. Imported only where a CUDA device is used."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _add_one(x, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + index, tl.load(x + index, mask=index < n) + 1, mask=index < n)


def add_one(x: torch.Tensor) -> None:
    """Add 1 to all elements of a contiguous tensor, without torch's knowledge."""
    _add_one[(triton.cdiv(x.numel(), 256),)](x, x.numel(), BLOCK=256)
