"""Tensors of a checkpoint or a model, known by name, shape and the digest of their values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import ParityError

_CHUNK = 1 << 24


@dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes:
        name: Key in the state dict.
        shape, dtype: As stored; dtype without ``torch.``.
        digest: Of the values in float32 (integers in int64), so that a lossless cast does not change it.
        constant: The value that all elements have, or none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    digest: str
    constant: float | None

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
        return cls(row["name"], tuple(row["shape"]), row["dtype"], row["digest"], row["constant"])


def digest(tensor: torch.Tensor) -> str:
    """128-bit BLAKE2b of the values in row-major order: float32 for floating dtypes, int64 for the others."""
    wide = torch.float32 if tensor.is_floating_point() or tensor.is_complex() else torch.int64
    values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    flat = values.detach().reshape(-1)
    state = hashlib.blake2b(digest_size=16)
    for start in range(0, flat.numel(), _CHUNK):
        state.update(flat[start : start + _CHUNK].to("cpu", wide).contiguous().numpy().data)
    return state.hexdigest()


def entry(name: str, tensor: torch.Tensor) -> Entry:
    """Describe one tensor. A tensor on the meta device has no values and an empty digest."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    shape = tuple(tensor.shape)
    if tensor.device.type == "meta":
        return Entry(name, shape, dtype, "", None)
    first = tensor.reshape(-1)[:1]
    constant = float(first) if tensor.numel() and not tensor.is_complex() and bool((tensor == first).all()) else None
    return Entry(name, shape, dtype, digest(tensor), constant)


def entries_of_model(model: torch.nn.Module) -> dict[str, Entry]:
    """Every parameter and persistent buffer of a model."""
    return {name: entry(name, value) for name, value in tensors_of_model(model).items()}


def tensors_of_model(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without what is not a tensor (``_extra_state``)."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files directly in ``folder``, sorted by name."""
    return sorted(path for path in folder.glob("*.safetensors") if path.is_file())


def read_files(paths: list[Path]) -> Iterator[tuple[str, torch.Tensor, Path]]:
    """Stream ``(name, tensor, file)``, one tensor in memory at a time.

    Raises:
        ParityError: A file is not a readable safetensors file.
    """
    for path in paths:
        try:
            with safe_open(path, framework="pt", device="cpu") as handle:
                for name in handle.keys():  # noqa: SIM118  (safe_open has no __iter__)
                    yield name, handle.get_tensor(name), path
        except (SafetensorError, OSError) as error:
            raise ParityError(
                "A weights file cannot be read.",
                seen=f"{path}: {error}",
                fix="Fetch the weights again; a truncated download is the usual cause.",
            ) from error
