"""A kernel that was compiled is launched again without asking Triton which one it is: that takes longer than a launch.

Imported only where a CUDA device is used.
"""

from __future__ import annotations

from typing import Any

import torch
import triton

_VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
_DIRECT = _VERSION >= (3, 3)
"""Whether a compiled kernel takes all arguments of the source, constants too."""
_RUN = (3, 3) <= _VERSION <= (3, 6)
"""Whether `run` of a compiled kernel takes what it took in these versions; ``kernel[grid]`` is slower and lasts."""


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
    device = values[0].get_device()
    # What Triton compiles for: dtype and alignment of a pointer, width of an integer.
    key = [id(kernel), device, fixed, *options.values()]
    # Addresses in place of tensors, which Triton would ask the driver about.
    arguments = []
    for value in values:
        if isinstance(value, int):
            key.append(-(2**31) <= value < 2**31)
            arguments.append(value)
        else:
            address = value.data_ptr()
            key += (value.dtype, address % 16 == 0)
            arguments.append(address)
    kind = tuple(key)
    compiled = _COMPILED.kernels.get(kind)
    if compiled is None:
        compiled = kernel[grid](*values, *fixed, **options)
        if _DIRECT and compiled is not None:  # nothing is compiled where Triton interprets
            _COMPILED.kernels[kind] = compiled
        return
    x, y, z = (*grid, 1, 1)[:3]
    stream = torch._C._cuda_getCurrentRawStream(device)
    if _RUN:
        no_hooks = (None, None, None)
        compiled.run(x, y, z, stream, compiled.function, compiled.packed_metadata, *no_hooks, *arguments, *fixed)
    else:
        compiled[x, y, z](*arguments, *fixed, stream=stream)
