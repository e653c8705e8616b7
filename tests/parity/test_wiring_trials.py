"""Wiring mistakes, planted in a small block, are named with the tensor or the module that belongs there."""

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

WIDTH = 16


class Mix(nn.Module):
    """A gated residual; the official model has no such module."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.variant = variant

    def forward(self, residual: torch.Tensor, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        if self.variant == "gate not applied":
            return residual + x
        return residual + x * gate


class Block(nn.Module):
    """Two gated branches between norms; ``variant`` plants one mistake."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.variant = variant
        self.table = nn.Parameter(torch.randn(4, WIDTH))
        self.position = nn.Embedding(6, WIDTH)
        self.norm1, self.norm2, self.norm3, self.inner = (nn.LayerNorm(WIDTH) for _ in range(4))
        self.up, self.gate, self.down, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.fused = nn.Linear(WIDTH, 3 * WIDTH)
        self.mix = Mix(variant)

    def forward(self, x: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        v = self.variant
        if v != "positions missing":
            x = x + self.position.weight
        h = x if v == "norm missing" else self.norm1(x)
        e = t if v == "table not added" else t + self.table
        first, second, *_ = e.chunk(4, dim=1)
        h = h * (1 + first)
        up = self.up(h)
        gate = self.gate(h)
        h = F.silu(up) * gate if v == "branches exchanged" else F.silu(gate) * up
        h = self.down(h)
        h = h if v == "inner norm missing" else self.inner(self.inner(h)) if v == "norm twice" else self.inner(h)
        residual = h if v == "wrong residual" else x
        handed = (h, residual) if v == "arguments exchanged" else (residual, h)
        x = self.mix(*handed, first if v == "wrong gate" else second)
        h = self.norm1(x) if v == "another norm" else self.norm2(x)
        narrow, wide = self.fused(h).split([WIDTH, 2 * WIDTH], dim=-1)
        if v == "wrong split":
            wide, narrow = self.fused(h).split([2 * WIDTH, WIDTH], dim=-1)
        h = narrow * wide.chunk(2, dim=-1)[0]
        h = h if v == "residual missing" else h + h if v == "wrong operand" else x + h
        h = F.linear(h, self.out.weight) if v == "bias missing" else self.out(h)
        h = h if v == "activation missing" else F.silu(h)
        h = self.norm3(h)
        places = torch.zeros(len(ids), dtype=torch.long) if v == "first token" else ids.argmax(dim=1)
        pooled = h.mean(dim=1) if v == "pooled by mean" else h[torch.arange(len(ids)), places]
        return h, pooled


class Model(nn.Module):
    def __init__(self, variant: str) -> None:
        super().__init__()
        self.block = Block(variant)
        self.last = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        h, pooled = self.block(x, t, ids)
        return self.last(h) + pooled[:, None]


# Mistake -> where its error is measured (module, call, side), and words that the first trial named has to hold.
MISTAKES = {
    "positions missing": (("block.norm1", 0, "inputs"), ("plus `position.weight`",)),
    "norm missing": (("block.up", 0, "inputs"), ("`block.norm1`",)),
    "table not added": (("block.up", 0, "inputs"), ("plus `table`",)),
    "branches exchanged": (
        ("block.down", 0, "inputs"),
        ("`block.up` and `block.gate` called",),
    ),
    "wrong residual": (("block.norm2", 0, "inputs"), ("`block.mix`", "`residual`")),
    "wrong gate": (("block.norm2", 0, "inputs"), ("`block.mix`", "`gate`")),
    "inner norm missing": (("block.norm2", 0, "inputs"), ("what `block.down` returns passed through `block.inner`",)),
    "norm twice": (("block.norm2", 0, "inputs"), ("`block.inner` left out",)),
    "wrong operand": (("block.out", 0, "inputs"), ("add: what `block.mix` returns", "operand")),
    "arguments exchanged": (
        ("block.norm2", 0, "inputs"),
        ("`block.mix` handed as its `residual` what is now its `x`",),
    ),
    "another norm": (("block.fused", 0, "inputs"), ("`block.norm2`",)),
    "wrong split": (("block.out", 0, "inputs"), ("split",)),
    "residual missing": (("block.out", 0, "inputs"), ("plus what `block.mix` returns",)),
    "bias missing": (("block.norm3", 0, "inputs"), ("plus `out.bias`",)),
    "activation missing": (("block.norm3", 0, "inputs"), ("SiLU applied",)),
    "first token": (("block", 0, "outputs"), ("row 3, 1", "argument `ids`", "largest")),
    "pooled by mean": (("block", 0, "outputs"), ("row 3, 1", "argument `ids`", "largest")),
}


def _models(variant: str) -> tuple[Model, Model]:
    torch.manual_seed(5)
    official, port = Model(""), Model(variant)
    for parameter in official.parameters():
        nn.init.normal_(parameter)
    port.load_state_dict(official.state_dict())
    return official, port


def _search(official: Any, port: Any, target: Any, folder: Path, scope: str = "block", **options: Any) -> Any:
    x, t = torch.randn(2, 6, WIDTH), torch.randn(2, 4, WIDTH)
    ids = torch.tensor([[1, 2, 3, 9, 0, 0], [4, 9, 0, 0, 0, 0]])
    keeper = Keeper(1 << 22)
    with torch.no_grad():
        with passing(official, keeper):
            official(x, t, ids)
        save_file(keeper.tensors, folder / "kept.safetensors")
        kept = Kept(folder / "kept.safetensors")
        partner = {name: name for name, _ in official.named_modules() if name and name != "block.mix"}
        place = {"scope": scope, "deep": False, "target": target, "reach": 2e-6, **options}
        return search(port, lambda: port(x, t, ids), Forcer(kept, partner), kept, partner, **place)


@pytest.mark.parametrize("variant", MISTAKES)
def test_a_wiring_mistake_is_named(variant: str, tmp_path: Path) -> None:
    target, words = MISTAKES[variant]
    found = _search(*_models(variant), target, tmp_path)
    assert found["before"] > 1e-4 and found["found"], found
    assert all(word in found["found"][0]["words"] for word in words), found
    assert found["found"][0]["after"] <= 2e-6


def test_a_gate_that_is_handed_over_and_not_applied_is_named(tmp_path: Path) -> None:
    models = _models("gate not applied")
    found = _search(*models, ("block.norm2", 0, "inputs"), tmp_path, scope="block.mix", deep=True)
    best = found["found"][0]["words"]
    assert "its second operand times the argument `gate`" in best, found


def test_nothing_is_named_where_nothing_at_hand_explains_the_error(tmp_path: Path) -> None:
    official, port = _models("")
    with torch.no_grad():
        port.block.down.weight.add_(torch.randn(WIDTH, WIDTH))
    official_call = port.block.down.forward
    port.block.down.forward = lambda x: official_call(x) + torch.randn_like(x).sin()
    found = _search(official, port, ("block.norm2", 0, "inputs"), tmp_path)
    # Official tensors are forced upon `down`, so the place is right; its own output is not, and cannot be mended.
    assert found["before"] < 1e-6 and found["found"] == []
    found = _search(official, port, ("block.down", 0, "outputs"), tmp_path)
    assert found["before"] > 1e-3 and found["tried"] > 100 and found["found"] == []


def test_a_tensor_without_distinct_values_proves_nothing(tmp_path: Path) -> None:
    """Zeros are a row, a difference and a product of many a tensor."""
    official, port = _models("residual missing")
    with torch.no_grad():
        for model in (official, port):
            model.block.norm3.weight.zero_()
            model.block.norm3.bias.zero_()
    port.block.norm3.forward = lambda x: torch.ones_like(x)
    found = _search(official, port, ("block.norm3", 0, "outputs"), tmp_path)
    assert found["before"] > 0 and found["found"] == []


def test_tensors_that_hold_the_same_values_are_both_named(tmp_path: Path) -> None:
    """Which of two equal tensors belongs there, the numbers cannot tell."""
    official, port = _models("positions missing")
    with torch.no_grad():
        for model in (official, port):
            model.block.spare = nn.Embedding(6, WIDTH)
            model.block.spare.weight.copy_(model.block.position.weight)
    found = _search(official, port, ("block.norm1", 0, "inputs"), tmp_path)
    assert "plus `position.weight` (or `spare.weight`: they hold the same values)" in found["found"][0]["words"]


class Coder(nn.Module):
    """Driven by a method that is not its forward."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign
        self.inner = nn.Linear(WIDTH, WIDTH)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x * self.sign + x.cos())
        return result

    def forward(self, x: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.decode(x)


def test_the_code_of_a_method_that_is_not_the_forward_is_tried_too(tmp_path: Path) -> None:
    official, port = Coder(1.0), Coder(-1.0)
    port.load_state_dict(official.state_dict())
    x, keeper = torch.randn(2, 6, WIDTH), Keeper(1 << 22)
    with torch.no_grad():
        with passing(official, keeper):
            official.decode(x)
        save_file(keeper.tensors, tmp_path / "kept.safetensors")
        kept, partner = Kept(tmp_path / "kept.safetensors"), {"inner": "inner"}
        found = search(
            port,
            lambda: port.decode(x),
            Forcer(kept, partner),
            kept,
            partner,
            scope="",
            deep=False,
            target=("inner", 0, "inputs"),
            reach=2e-6,
        )
    assert any(
        "mul: a factor of 1 in place of -1" in row["words"] or "left out" in row["words"] for row in found["found"]
    )


def test_a_change_that_spoils_another_use_is_not_named(tmp_path: Path) -> None:
    """With the two chunks exchanged the gate would be right, and the scale, which is right, would not be."""
    found = _search(*_models("wrong gate"), ("block.norm2", 0, "inputs"), tmp_path)
    assert found["found"] and not any("parts 0 and 1" in row["words"] for row in found["found"]), found
