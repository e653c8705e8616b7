"""Run a port's own loader on tensors without values: names and shapes of a 14B model in about a second.

Only for a process of its own: what is replaced here stays replaced.
"""

from __future__ import annotations

import builtins
import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from .headers import read_header


class FakeFile:
    """`safetensors.safe_open` whose tensors have the header's shape and dtype, and no values."""

    def __init__(self, filename: Any, framework: str = "pt", device: Any = "cpu", **_: Any) -> None:
        self._entries = read_header(Path(filename))
        self._device = f"cuda:{device}" if isinstance(device, int) else device
        if framework not in ("pt", "torch", "pytorch"):
            raise NotImplementedError(f"fake tensors for {framework}")

    def __enter__(self) -> FakeFile:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def keys(self) -> list[str]:
        """The names, in the order of the file."""
        return list(self._entries)

    offset_keys = keys

    def metadata(self) -> dict[str, str]:
        """Transformers asks for the format."""
        return {"format": "pt"}

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor without values."""
        item = self._entries[name]
        return torch.empty(item.shape, dtype=getattr(torch, item.dtype), device=self._device)

    def get_slice(self, name: str) -> FakeSlice:
        """The same, for readers of parts."""
        return FakeSlice(self.get_tensor(name))


class FakeSlice:
    """What ``get_slice`` of a `FakeFile` gives."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        """Sizes."""
        return list(self._tensor.shape)

    def __getitem__(self, key: Any) -> torch.Tensor:
        return self._tensor[key]


def _load_file(filename: Any, device: Any = "cpu") -> dict[str, torch.Tensor]:
    file = FakeFile(filename, device=device)
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _apply(self: torch.nn.Module, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> torch.nn.Module:
    """`torch.nn.Module._apply` that puts new tensors in place (fake ones cannot be swapped); tied ones stay tied."""
    done: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for module in self.modules() if recurse else [self]:
        for table, wrap in ((module._parameters, True), (module._buffers, False)):
            for name, old in list(table.items()):
                if old is None:
                    continue
                if id(old) not in done:
                    with torch.no_grad():
                        new = fn(old)
                    if wrap:
                        new = torch.nn.Parameter(new, old.requires_grad)
                        new.__dict__.update(vars(old))
                    done[id(old)] = (old, new)
                table[name] = done[id(old)][1]  # type: ignore[assignment]
    return self


def replace_readers() -> None:
    """Make every reader of safetensors files in this process give fake tensors. Call it before FastVideo is there."""
    for module in (safetensors, safetensors.torch):
        module.safe_open = FakeFile  # type: ignore[attr-defined]
    safetensors.torch.load_file = _load_file  # type: ignore[assignment]
    torch.nn.Module._apply = _apply  # type: ignore[method-assign]


@contextmanager
def without_values() -> Iterator[None]:
    """In here every new tensor is a fake one."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


class ImportClock:
    """Seconds that imports took, the outermost ones added up."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    @contextmanager
    def running(self) -> Iterator[ImportClock]:
        """Count in here."""
        real, by_name = builtins.__import__, importlib.import_module

        def timed(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                start = time.perf_counter()
                self._depth += 1
                try:
                    return function(*arguments, **options)
                finally:
                    self._depth -= 1
                    if not self._depth:
                        self.seconds += time.perf_counter() - start

            return call

        builtins.__import__ = timed(real)
        importlib.import_module = timed(by_name)
        try:
            yield self
        finally:
            builtins.__import__ = real
            importlib.import_module = by_name
