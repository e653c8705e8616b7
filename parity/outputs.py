"""Keep and read what a side's forward returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from .metrics import distance


def read_outputs(folder: Path, key: str, tag: str) -> dict[str, torch.Tensor]:
    """The outputs that were kept as ``<key>.<tag>.safetensors`` in a side's folder, by name; none: empty."""
    path = folder / f"{key}.{tag}.safetensors"
    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (safe_open has no __iter__)


def moved(after: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor]) -> bool:
    """Whether outputs changed by more than float32 rounding."""
    if after.keys() != before.keys():
        return True
    return any(
        after[name].shape != before[name].shape or not distance(after[name], before[name]).relative_l2 <= 1e-7
        for name in before
    )


def storable(tensor: torch.Tensor, name: str = "") -> torch.Tensor:
    """A dense copy on the CPU; a complex tensor gets a last axis of two. What a subclass makes of it does not count.

    Raises:
        TypeError: It holds no numbers of its own (meta, sparse, quantized, nested, or a subclass around others).
    """
    kind = next((word for word, is_it in _NOT_DENSE.items() if is_it(tensor)), None)
    if kind:
        raise TypeError(f"{name or 'the output'} is a {kind} tensor ({type(tensor).__qualname__})")
    with torch._C.DisableTorchFunctionSubclass():
        plain = tensor.detach().as_subclass(torch.Tensor)
        value = torch.view_as_real(plain.resolve_conj()) if plain.is_complex() else plain
        return value.to("cpu").contiguous().clone()


_NOT_DENSE: dict[str, Callable[[torch.Tensor], bool]] = {
    "wrapped": lambda tensor: type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__,
    "meta": lambda tensor: tensor.device.type == "meta",
    "nested": lambda tensor: tensor.is_nested,
    "quantized": lambda tensor: tensor.is_quantized,
    "sparse": lambda tensor: tensor.layout != torch.strided,
}
