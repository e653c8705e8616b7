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


class Launcher:
    """A Triton function with its constants and options."""

    def __init__(self, kernel: Any, fixed: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Prepare; nothing is compiled before the first call.

        Args:
            kernel: A Triton function that is not specialised for any of its integers.
            fixed: Its constants, which are its last parameters.
            options: ``num_warps`` and the like.
        """
        self.kernel, self.fixed, self.options = kernel, fixed, options
        self.compiled: dict[tuple[Any, ...], Any] = {}

    def __call__(self, x: int, y: int, z: int, values: tuple[Any, ...]) -> None:
        """Launch on the current stream of the current device, where the tensors are.

        Args:
            x, y, z: Programs.
            values: Tensors, the first of them first, and integers, in the order of the parameters.
        """
        device = values[0].get_device()
        # What Triton compiles for: dtype and alignment of a pointer, width of an integer.
        kind = [device]
        # Addresses in place of tensors, which Triton would ask the driver about.
        arguments = []
        for value in values:
            if type(value) is int:
                kind.append(-(2**31) <= value < 2**31)
                arguments.append(value)
            else:
                address = value.data_ptr()
                kind.append(value.dtype)
                kind.append(address % 16 == 0)
                arguments.append(address)
        known = self.compiled.get(tuple(kind))
        if known is None:
            self._compile(tuple(kind), (x, y, z), values)
            return
        compiled, run, function, metadata = known
        stream = torch._C._cuda_getCurrentRawStream(device)
        if _RUN:
            run(x, y, z, stream, function, metadata, None, None, None, *arguments, *self.fixed)
        else:
            compiled[x, y, z](*arguments, *self.fixed, stream=stream)

    def _compile(self, kind: tuple[Any, ...], grid: tuple[int, int, int], values: tuple[Any, ...]) -> None:
        compiled = self.kernel[grid](*values, *self.fixed, **self.options)
        if _DIRECT and compiled is not None:  # nothing is compiled where Triton interprets
            handles = (compiled.run, compiled.function, compiled.packed_metadata) if _RUN else (None,) * 3
            self.compiled[kind] = (compiled, *handles)


class _Known:
    """The launchers of this process; an object, since a table of a module that changes would break the seal."""

    def __init__(self) -> None:
        self.launchers: dict[tuple[Any, ...], Launcher] = {}


_KNOWN = _Known()


def launcher(kernel: Any, *fixed: Any, **options: Any) -> Launcher:
    """The launcher of a function with these constants, as in `Launcher`; one for the process."""
    key = (id(kernel), fixed, *options.values())
    found = _KNOWN.launchers.get(key)
    if found is None:
        found = _KNOWN.launchers[key] = Launcher(kernel, fixed, options)
    return found
