"""Modules paired although every name of one side was replaced by a random word."""

from __future__ import annotations

import random
import string

import pytest
import torch
from fastvideo_port.parity.pairing import coverage, pair_modules
from fastvideo_port.parity.prove import prove
from fastvideo_port.parity.trace import Trace
from fastvideo_port.parity.tracing import tracing
from fastvideo_port.parity.weights import entries_of_model, tensors_of_model
from torch import nn


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        y = nn.functional.scaled_dot_product_attention(self.q(h), self.k(h), self.v(h))
        return x + self.o(y)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn, self.drop = Attention(width), nn.Identity()
        self.ff = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.attn(x))
        return x + self.ff(x)


class Model(nn.Module):
    def __init__(self, width: int = 16, depth: int = 6) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def _renamed(trace: Trace, names: dict[str, str]) -> Trace:
    for call in trace.calls:
        module, mark, function = call.module.partition("::")
        call.module = names[module] + mark + function
    trace.modules = {names[name]: info for name, info in trace.modules.items()}
    return trace


def _random_names(model: nn.Module, seed: int) -> dict[str, str]:
    """Old dotted name -> new one; the tree stays, every word of it is replaced."""
    rng = random.Random(seed)
    found = {"": ""}
    for name, _ in model.named_modules():
        if name:
            word = "".join(rng.choices(string.ascii_lowercase, k=8))
            found[name] = f"{found[name.rpartition('.')[0]]}.{word}".lstrip(".")
    return found


def _pair(seed: int) -> tuple[dict[str, str], dict[str, str], dict[str, object]]:
    torch.manual_seed(seed)
    model = Model().eval()
    x = torch.randn(2, 5, 8)
    traces = []
    for _ in range(2):
        with torch.no_grad(), tracing(model) as trace:
            model(x)
        traces.append(trace)
    names = _random_names(model, seed)
    official = {
        f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": item
        for name, item in entries_of_model(model).items()
    }
    proof = prove(official, tensors_of_model(model), None)
    assert proof.tensors[0] == proof.tensors[1] > 0
    pairs = pair_modules(proof.links, traces[0], _renamed(traces[1], names), {})
    return {pair.port: pair.official for pair in pairs.values()}, names, coverage(pairs, traces[0])


@pytest.mark.parametrize("seed", range(4))
def test_useless_names_cost_less_than_two_per_cent(seed: int) -> None:
    """Project: with every official module renamed at random, at least 98 % of the called modules find their own."""
    pairs, names, covered = _pair(seed)

    def truth(name: str) -> str:
        module, mark, function = name.partition("::")
        return names[module] + mark + function

    wrong = {name: other for name, other in pairs.items() if other != truth(name)}
    assert not wrong
    assert covered["paired"] >= 0.98 * covered["modules"], covered  # type: ignore[operator]


def test_the_adapters_word_counts_first_and_unknown_names_do_not() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.ReLU())
    with torch.no_grad(), tracing(model) as trace:
        model(torch.randn(2, 4))
    pairs = pair_modules([], trace, trace, {"1": "2", "absent": "0", "0": "absent"})
    assert pairs["1"].official == "2" and pairs["1"].how == "adapter"
    assert "absent" not in pairs and pairs.get("0", pairs["1"]).official != "absent"


def test_what_has_no_counterpart_stays_alone() -> None:
    """Project: a module whose values are unlike every official one is not paired by force."""
    torch.manual_seed(0)
    mine, theirs = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())
    traces = []
    for model in (mine, theirs):
        with torch.no_grad(), tracing(model) as trace:
            model(torch.randn(2, 4))
        traces.append(trace)
    pairs = pair_modules([], traces[0], traces[1], {})
    assert pairs == {} and coverage(pairs, traces[0])["paired"] == 0
