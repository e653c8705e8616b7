"""A module without counterpart that was handed the wrong ones of right tensors: what belongs there is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fastvideo_port.parity.arguments import exchanged
from fastvideo_port.parity.passing import Forcer, Keeper, Kept, passing
from safetensors.torch import save_file
from torch import nn

WIDTH = 12


class Attend(nn.Module):
    """The port's own: the official block calls the function."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value)


class Gated(nn.Module):
    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake

    def forward(self, x: torch.Tensor, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        if self.mistake == "unused":
            return x + y
        return x - y * gate if self.mistake == "code" else x + y * gate


class Block(nn.Module):
    """``mistake``: ``exchanged``, ``gate`` (the wrong part of the modulation), ``code`` or ``unused`` (of Gated)."""

    def __init__(self, mistake: str = "", official: bool = False) -> None:
        super().__init__()
        self.mistake, self.official = mistake, official
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        if not official:
            self.attend, self.gated = Attend(), Gated(mistake)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        shift, _, gate, _, _, other = self.modulation(t).chunk(6, -1)
        h = x + shift
        q, k, v = self.q(h), self.k(h), self.v(h)
        if self.official:
            return x + self.out(nn.functional.scaled_dot_product_attention(q, k, v)) * gate
        if self.mistake == "exchanged":
            q, k = k, q
        y = self.out(self.attend(q, k, v))
        result: torch.Tensor = self.gated(x, y, other if self.mistake == "gate" else gate)
        return result


class Model(nn.Module):
    def __init__(self, mistake: str = "", official: bool = False) -> None:
        super().__init__()
        self.block = Block(mistake, official)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.block(x, t)
        return result


def _exchanged(mistake: str, module: str, target: tuple[str, int, str], folder: Path) -> dict[str, Any]:
    torch.manual_seed(5)
    official, port = Model(official=True), Model(mistake)
    port.load_state_dict(official.state_dict())
    x, t = torch.randn(2, 5, WIDTH), torch.randn(2, 1, WIDTH)
    keeper = Keeper(1 << 22)
    with torch.no_grad():
        with passing(official, keeper):
            official(x, t)
        save_file(keeper.tensors, folder / "kept.safetensors")
        kept = Kept(folder / "kept.safetensors")
        partner = {name: name for name, _ in official.named_modules() if name}
        place: Any = target
        forcer = Forcer(kept, partner)
        return exchanged(
            port, lambda: port(x, t), forcer, kept, partner, module=module, occurrence=0, target=place, reach=1e-6
        )


def test_a_key_in_the_place_of_a_query_is_found(tmp_path: Path) -> None:
    found = _exchanged("exchanged", "block.attend", ("block.out", 0, "inputs"), tmp_path)
    assert [(row["argument"], row["was"]) for row in found["moved"]] == [("[0]", "[1]"), ("[1]", "[0]")]


def test_the_wrong_part_of_a_modulation_is_found(tmp_path: Path) -> None:
    found = _exchanged("gate", "block.gated", ("block", 0, "outputs"), tmp_path)
    (row,) = found["moved"]
    assert row["argument"] == "[2]" and row["was"] is None
    assert row["words"] == "part 3 of 6 of what block.modulation returns"


def test_a_module_whose_own_code_is_wrong_is_not_excused(tmp_path: Path) -> None:
    found = _exchanged("code", "block.gated", ("block", 0, "outputs"), tmp_path)
    assert found["tried"] > 5 and found["moved"] == []


def test_an_argument_of_which_no_use_is_made_is_told(tmp_path: Path) -> None:
    found = _exchanged("unused", "block.gated", ("block", 0, "outputs"), tmp_path)
    assert found["moved"] == [] and found["unused"] == ["[2]"]
    assert _exchanged("code", "block.gated", ("block", 0, "outputs"), tmp_path)["unused"] == []


def test_a_module_that_is_never_called_is_tried_in_vain(tmp_path: Path) -> None:
    found = _exchanged("code", "block.elsewhere", ("block", 0, "outputs"), tmp_path)
    assert found == {"tried": 0, "moved": [], "unused": []}
