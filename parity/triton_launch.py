"""A kernel that was compiled is launched again without asking Triton which one it is: that takes longer than a launch.

Imported only where a CUDA device is used.
"""

from __future__ import annotations

from typing import Any

import torch
import triton

_DIRECT = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 3)
"""Whether a compiled kernel takes all arguments of the source, constants too."""


class _Compiled:
    """What was compiled in this process; an object, since a table of a module that changes would break the seal."""

    def __init__(self) -> None:
        self.kernels: dict[tuple[Any, ...], Any] = {}


_COMPILED = _Compiled()


def launch(kernel: Any, grid: tuple[int, ...], values: tuple[Any, ...], fixed: tuple[Any, ...], **options: Any) -> None:
    """Launch on the current stream of the current device, where the tensors are.

    Args:
        kernel: A Triton function that is not specialised for any of its integers.
        grid: Programs, one to three numbers.
        values: Tensors, the first of them first, and integers, in the order of its parameters.
        fixed: Its constants, which follow them.
        options: ``num_warps`` and the like.
    """
    device = values[0].device.index
    # What Triton compiles for: dtype and alignment of a pointer, width of an integer.
    kinds = (
        (value.dtype, value.data_ptr() % 16 == 0) if isinstance(value, torch.Tensor) else -(2**31) <= value < 2**31
        for value in values
    )
    key = (id(kernel), device, fixed, *options.values(), *kinds)
    compiled = _COMPILED.kernels.get(key)
    if compiled is None:
        compiled = kernel[grid](*values, *fixed, **options)
        if _DIRECT and compiled is not None:  # nothing is compiled where Triton interprets
            _COMPILED.kernels[key] = compiled
        return
    stream = torch._C._cuda_getCurrentRawStream(device)
    compiled[(*grid, 1, 1)[:3]](*values, *fixed, stream=stream)
