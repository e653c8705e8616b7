"""The order in which a tensor's elements lie in memory, whatever its shape."""

from __future__ import annotations

from collections.abc import Sequence


def merged(shape: Sequence[int], stride: Sequence[int]) -> tuple[list[int], list[int]]:
    """Sizes and strides with neighbouring dimensions made one where they are one run; equal for equal orders.

    Dimensions of size 1 are left out; a contiguous tensor has one dimension at most.
    """
    sizes: list[int] = []
    strides: list[int] = []
    for size, step in zip(shape, stride, strict=True):
        if size == 1:
            continue
        if sizes and strides[-1] == size * step:
            sizes[-1] *= size
            strides[-1] = step
        else:
            sizes.append(size)
            strides.append(step)
    return sizes, strides
