"""Read what a side's forward returned."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open


def read_outputs(folder: Path, key: str, tag: str) -> dict[str, torch.Tensor]:
    """The outputs that were kept as ``<key>.<tag>.safetensors`` in a side's folder, by name; none: empty."""
    path = folder / f"{key}.{tag}.safetensors"
    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (safe_open has no __iter__)
