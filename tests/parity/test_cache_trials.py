"""Mistakes in the cache of a causal convolution, which keeps frames of the chunk before, are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastvideo_port.parity.passing import Forcer, Keeper, Kept, passing
from fastvideo_port.parity.trials import search
from safetensors.torch import save_file
from torch import nn

CHANNELS = 4


class Causal(nn.Module):
    """A convolution over three frames that sees no later one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CHANNELS, CHANNELS, 3, 1, 1))

    def forward(self, x: torch.Tensor, cache: torch.Tensor | None = None) -> torch.Tensor:
        if cache is not None:
            x = torch.cat([cache, x], dim=2)
        missing = 2 - (cache.shape[2] if cache is not None else 0)
        return F.conv3d(F.pad(x, (0, 0, 0, 0, missing, 0)), self.weight)


class Block(nn.Module):
    """Two convolutions: one is handed the frames that were kept, before the other they are joined to the chunk."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.variant = variant
        self.handed, self.joined = Causal(), Causal()
        self.kept: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = self.variant
        frames = 1 if v == "one frame" else 2
        last = x[:, :, -frames:].clone()
        if last.shape[2] < 2 and "handed" in self.kept:
            last = torch.cat([self.kept["handed"][:, :, -1:], last], dim=2)
        y = self.handed(x, None if v == "not handed" else self.kept.get("handed"))
        self.kept["handed"] = last
        y = y * 1.5
        chunk = y
        if "joined" in self.kept:
            before = torch.zeros_like(y[:, :, :1]) if v == "zeros" else self.kept["joined"]
            chunk = torch.cat([before, y], dim=2)
        self.kept["joined"] = y[:, :, -1:].clone()
        result: torch.Tensor = self.joined(chunk)
        return result


class Coder(nn.Module):
    def __init__(self, variant: str) -> None:
        super().__init__()
        self.block = Block(variant)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.block.kept.clear()
        return torch.cat([self.block(part) for part in x.split([1, 4, 4], dim=2)], dim=2)


# Mistake -> where its error is measured (module, call, side), and words of the first trial named.
MISTAKES = {
    "one frame": (("block.handed", 2, "inputs"), "the last 2 in place of the last 1 along axis 2"),
    "not handed": (("block.handed", 2, "outputs"), "`block.handed` was handed before"),
    "zeros": (("block.joined", 1, "inputs"), "cat: the last 1 of the frames of the result of mul"),
}


@pytest.mark.parametrize("variant", MISTAKES)
def test_a_mistake_of_the_cache_is_named(variant: str, tmp_path: Path) -> None:
    target, words = MISTAKES[variant]
    torch.manual_seed(2)
    official, port = Coder(""), Coder(variant)
    port.load_state_dict(official.state_dict())
    x, keeper = torch.randn(1, CHANNELS, 9, 2, 2), Keeper(1 << 22)
    with torch.no_grad():
        with passing(official, keeper):
            official(x)
        save_file(keeper.tensors, tmp_path / "kept.safetensors")
        kept = Kept(tmp_path / "kept.safetensors")
        partner = {name: name for name, _ in official.named_modules() if name}
        place: Any = {"scope": "block", "deep": False, "target": target, "reach": 2e-6}
        found = search(port, lambda: port(x), Forcer(kept, partner), kept, partner, **place)
    assert found["before"] > 1e-3 and found["found"], found
    assert words in found["found"][0]["words"] and found["found"][0]["after"] <= 2e-6, found
