"""The usual mistakes, planted in a small block, are named by the trial that takes the error away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastvideo_port.parity.passing import Forcer, Keeper, Kept, passing
from fastvideo_port.parity.trials import search
from safetensors.torch import save_file
from torch import nn

WIDTH, HEADS = 16, 2


def rope(x: torch.Tensor) -> torch.Tensor:
    """Rotates neighbours; x: [batch, tokens, heads, width]."""
    angle = torch.arange(x.shape[1])[:, None] / 100.0 ** (torch.arange(x.shape[-1] // 2) / (x.shape[-1] // 2))
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).flatten(-2)


class Block(nn.Module):
    """Modulated attention and feed forward; ``variant`` plants one mistake."""

    def __init__(self, variant: str = "") -> None:
        super().__init__()
        self.variant = variant
        self.table = nn.Linear(WIDTH, 6 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        v = self.variant
        shift, scale, gate, *_ = self.table(F.silu(t) if v != "no activation" else t).chunk(6, -1)
        if v == "swapped":
            shift, scale = scale, shift
        h = self.norm(x)
        h = h * scale + shift if v == "no one" else h * (1 + scale) + shift
        q, k, val = (f(h).unflatten(-1, (HEADS, -1)) for f in (self.q, self.k, self.v))
        turn = halves if v == "halves" else rope
        q, k = turn(q), turn(k)
        heads = [y.transpose(1, 2) for y in (q, k, val)]
        y = F.scaled_dot_product_attention(*heads, scale=1.0 if v == "scale" else None)
        x = x + gate * self.out(y.transpose(1, 2).flatten(-2))
        h = self.up(self.norm(x))
        h = F.gelu(h) if v == "erf" else F.gelu(h, approximate="tanh")
        h = self.down(h)
        return x - h if v == "sign" else x + h


def halves(x: torch.Tensor) -> torch.Tensor:
    angle = torch.arange(x.shape[1])[:, None] / 100.0 ** (torch.arange(x.shape[-1] // 2) / (x.shape[-1] // 2))
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    real, imaginary = x.chunk(2, -1)
    return torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)


class Model(nn.Module):
    def __init__(self, variant: str = "") -> None:
        super().__init__()
        self.block = Block(variant)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.block(x, t)


# Mistake -> where its error is measured, and words of the trial that has to be found.
MISTAKES = {
    "swapped": ("block.q", "inputs", "parts 0 and 1 of the chunk swapped"),
    "no one": ("block.q", "inputs", "1 added to the second factor"),
    "no activation": ("block.table", "inputs", "SiLU applied"),
    "scale": ("block.out", "inputs", "the default softmax scale"),
    "erf": ("block.down", "inputs", "the tanh GELU in place of gelu"),
    "sign": ("block", "outputs", "a sum in place of the difference"),
}


def _search(variant: str, target: tuple[str, str], folder: Path, **options: Any) -> dict[str, Any]:
    torch.manual_seed(3)
    official, port = Model(), Model(variant)
    port.load_state_dict(official.state_dict())
    x, t = torch.randn(2, 5, WIDTH), torch.randn(2, 1, WIDTH)
    keeper = Keeper(1 << 22)
    run: Callable[[], None] = lambda: port(x, t)  # noqa: E731
    with torch.no_grad():
        with passing(official, keeper):
            official(x, t)
        save_file(keeper.tensors, folder / "kept.safetensors")
        kept = Kept(folder / "kept.safetensors")
        partner = {name: name for name, _ in port.named_modules() if name}
        forcer = Forcer(kept, partner)
        place: Any = (target[0], 0, target[1])
        return search(port, run, forcer, kept, partner, scope="block", deep=False, target=place, reach=2e-6, **options)


@pytest.mark.parametrize("variant", MISTAKES)
def test_the_planted_mistake_is_named(variant: str, tmp_path: Path) -> None:
    module, where, words = MISTAKES[variant]
    found = _search(variant, (module, where), tmp_path)
    assert found["before"] > 1e-4
    assert any(words in row["words"] for row in found["found"]), found
    best = next(row for row in found["found"] if words in row["words"])
    assert best["after"] <= 2e-6 and best["file"] == __file__ and best["line"] > 0


def test_what_mended_one_place_is_tried_first_at_the_next_and_ends_the_search_if_it_mends_that_too(
    tmp_path: Path,
) -> None:
    first = _search("swapped", ("block.q", "inputs"), tmp_path)
    best = first["found"][0]
    known = [[best["words"], best["file"], best["line"]]]
    second = _search("swapped", ("block.k", "inputs"), tmp_path, known=known)
    assert (second["tried"], second["found"]) == (1, [best]) and first["tried"] > 5
    other = _search("erf", ("block.down", "inputs"), tmp_path, known=known)
    assert other["tried"] > 5 and any("tanh GELU" in row["words"] for row in other["found"])


def test_a_right_block_has_no_error_to_explain(tmp_path: Path) -> None:
    found = _search("", ("block", "outputs"), tmp_path)
    assert found["before"] < 1e-6


def test_the_model_is_as_before_when_the_trials_are_over(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = Model("erf")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    _search("erf", ("block.down", "inputs"), tmp_path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.block._forward_pre_hooks and not model.block._forward_hooks
