"""Tensors of a checkpoint or a model, known by name, shape and the digest of their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .digests import fingerprint
from .errors import ParityError


@dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes:
        name: Key in the state dict.
        shape, dtype: As stored; dtype without ``torch.``.
        digest: Of the values in order, the same after a lossless cast; empty when no value was read.
        constant: The value that all elements have, or none.
        bag: Digest of the values whatever their order; empty when no value was read.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    digest: str = ""
    constant: float | None = None
    bag: str = ""

    @property
    def elements(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Entry:
        """Read `to_json`."""
        return cls(row["name"], tuple(row["shape"]), row["dtype"], row["digest"], row["constant"], row["bag"])


def entry(name: str, tensor: torch.Tensor) -> Entry:
    """Describe one tensor. A tensor on the meta device has no values and empty digests."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    shape = tuple(tensor.shape)
    if tensor.device.type == "meta":
        return Entry(name, shape, dtype)
    found = fingerprint(tensor)
    return Entry(name, shape, dtype, found.ordered, found.constant, found.bag)


def entries_of_model(model: torch.nn.Module) -> dict[str, Entry]:
    """Every parameter and persistent buffer of a model."""
    return {name: entry(name, value) for name, value in tensors_of_model(model).items()}


def tensors_of_model(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without modules' ``_extra_state``, which FastVideo's loader skips as well."""
    return {
        name: value
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor) and not name.endswith("_extra_state")
    }


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files directly in ``folder``, sorted by name."""
    return sorted(path for path in folder.glob("*.safetensors") if path.is_file())


class FileTensors(Mapping[str, torch.Tensor]):
    """The tensors of safetensors files, each read (memory-mapped) when it is asked for and not kept.

    Args:
        homes: Name -> the file that holds it, and its name there.

    Raises:
        ParityError: (On access.) A file is no readable safetensors file, or torch lacks the tensor's dtype.
    """

    def __init__(self, homes: Mapping[str, tuple[Path, str]]) -> None:
        self._homes = homes
        self._open: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        path, key = self._homes[name]
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="pt", device="cpu")
            tensor: torch.Tensor = self._open[path].get_tensor(key)
        except (SafetensorError, OSError, RuntimeError, AttributeError) as error:
            raise ParityError(
                "A weights file cannot be read.",
                seen=f"{path}: {key!r}: {error}",
                fix="Fetch the weights again; a truncated download, or a dtype that this torch lacks, is the cause.",
            ) from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)
