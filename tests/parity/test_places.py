"""A wrong tensor is blamed on the code that made it, not on the module that is handed it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fastvideo_port.parity.boundaries import Comparison
from fastvideo_port.parity.local_faults import Fault, local_faults
from fastvideo_port.parity.pairing import pair_modules
from fastvideo_port.parity.passing import Forcer, Keeper, Kept, passing
from fastvideo_port.parity.prove import prove
from fastvideo_port.parity.trace import Trace
from fastvideo_port.parity.tracing import tracing
from fastvideo_port.parity.weights import entries_of_model, tensors_of_model
from safetensors.torch import save_file
from torch import nn


def faults_of(official: nn.Module, port: nn.Module, x: torch.Tensor, folder: Path) -> list[Fault]:
    """The places at which the port goes wrong by itself, with official tensors forced upon it."""
    proof = prove(entries_of_model(official), tensors_of_model(port), None)
    plain = [_trace(model, x) for model in (port, official)]
    pairs = pair_modules(proof.links, *plain, {})
    keeper = Keeper(1 << 22)
    with torch.no_grad(), passing(official, keeper):
        official(x)
    save_file(keeper.tensors, folder / "kept.safetensors")
    kept = Kept(folder / "kept.safetensors")
    partner = {name: pair.official for name, pair in pairs.items() if name and "::" not in name}
    exact = copy.deepcopy(official).double()
    forcer = Forcer(kept, partner)
    forced = _trace(port, x, forcer)
    reference = _trace(exact, x.double(), Forcer(kept, {name: name for name, _ in official.named_modules() if name}))
    comparison = Comparison(forced, plain[1], reference, pairs)
    comparison.other_masks = set(forcer.other_masks)
    return local_faults(comparison, proof.links, partner, set())


def _trace(model: nn.Module, x: torch.Tensor, forcer: Any = None) -> Trace:
    with torch.no_grad(), tracing(model) as trace, passing(model, forcer or (lambda *_: None)):
        model(x)
    return trace


class Causal(nn.Conv1d):
    """A convolution over time that may be handed the frames before."""

    def forward(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        if kept is not None:
            x = torch.cat([kept, x], dim=2)
        return F.conv1d(F.pad(x, (2 - (kept.shape[2] if kept is not None else 0), 0)), self.weight, self.bias)


class Block(nn.Module):
    def __init__(self, fill_once: bool) -> None:
        super().__init__()
        self.fill_once = fill_once
        self.conv = Causal(4, 4, 3)
        self.kept: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x, self.kept)
        if self.kept is None or not self.fill_once:
            self.kept = x[:, :, -2:].clone()
        return x + y


class Coder(nn.Module):
    def __init__(self, fill_once: bool) -> None:
        super().__init__()
        self.block = Block(fill_once)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.block.kept = None
        return torch.cat([self.block(part) for part in x.split([1, 4, 4], dim=2)], dim=2)


def test_a_cache_of_too_few_frames_is_blamed_on_who_keeps_it(tmp_path: Path) -> None:
    """A convolution was accused with confidence: the official cache, of another size, could not be forced upon it."""
    torch.manual_seed(0)
    official, port = Coder(False), Coder(True)
    port.load_state_dict(official.state_dict())
    (fault,) = faults_of(official, port, torch.randn(1, 4, 9), tmp_path)
    assert (fault.culprit.kind, fault.culprit.module) == ("glue", "block"), fault.culprit
    assert "its [1] has 4 elements, the official one 8" in fault.culprit.why


def test_a_correct_cache_accuses_nobody(tmp_path: Path) -> None:
    torch.manual_seed(0)
    official, port = Coder(False), Coder(False)
    port.load_state_dict(official.state_dict())
    assert not faults_of(official, port, torch.randn(1, 4, 9), tmp_path)


class Attention(nn.Module):
    """The port's keeps what the block before left; the official one takes the tensor alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, hidden: torch.Tensor, bias: list[torch.Tensor] | None = None) -> torch.Tensor:
        y: torch.Tensor = self.inner(hidden)
        if bias is not None:
            bias[:] = [y.mean(1, keepdim=True)]
        return y


class Layer(nn.Module):
    def __init__(self, wrong: bool, keeping: bool) -> None:
        super().__init__()
        self.wrong, self.keeping = wrong, keeping
        self.norm = nn.LayerNorm(8)
        self.attention = Attention()

    def forward(self, x: torch.Tensor, bias: list[torch.Tensor]) -> torch.Tensor:
        h = self.norm(x)
        if self.wrong:
            h = h.clone()
            h.view(-1)[5::9] *= 1.03
        y: torch.Tensor = self.attention(hidden=h, bias=bias) if self.keeping else self.attention(h)
        return x + y


class Encoder(nn.Module):
    def __init__(self, *, wrong: bool = False, keeping: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(wrong, keeping) for _ in range(3))
        self.head = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias: list[torch.Tensor] = []
        for layer in self.layers:
            x = layer(x, bias)
        y: torch.Tensor = self.head(x)
        return y


def test_an_argument_of_one_parameter_is_compared_by_whatever_way_it_is_handed_over(tmp_path: Path) -> None:
    """By keyword and beside a second tensor it was not: the mistake was found in the first block and no other."""
    torch.manual_seed(0)
    official, port = Encoder(), Encoder(wrong=True, keeping=True)
    port.load_state_dict(official.state_dict())
    (fault,) = faults_of(official, port, torch.randn(2, 5, 8), tmp_path)
    assert fault.culprit.kind == "glue" and fault.modules == ["layers.0", "layers.1", "layers.2"], fault


class Head(nn.Module):
    """The end of the port in a module of its own, which the official code does not have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.linear = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(self.norm(x) + shift)
        return y


class Split(nn.Module):
    """Official: one stream for each kind of token, normalised without a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.linear = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        picture = self.first(x)[:, :5] * 2
        y: torch.Tensor = self.linear(F.layer_norm(picture, (8,)) + 1)
        return y


class Joined(nn.Module):
    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start
        self.first, self.head = nn.Linear(8, 8), Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x) * 2
        h = h[:, self.start : self.start + 5]
        y: torch.Tensor = self.head(h, torch.ones(8))
        return y


def test_tokens_taken_from_the_wrong_end_are_blamed_on_who_takes_them(tmp_path: Path) -> None:
    """A norm without counterpart was accused, though the module around it was handed the wrong tokens already."""
    torch.manual_seed(0)
    official, port = Split(), Joined(3)
    names = {"first": "first", "head.linear": "linear"}
    port.load_state_dict(
        {f"{a}.{end}": official.state_dict()[f"{b}.{end}"] for a, b in names.items() for end in ("weight", "bias")}
    )
    (fault,) = faults_of(official, port, torch.randn(1, 8, 8), tmp_path)
    assert (fault.culprit.kind, fault.culprit.module) == ("glue", ""), fault.culprit


class Table(nn.Module):
    """An embedding under two names, of which each side calls its own."""

    def __init__(self, most: int | None, own: bool) -> None:
        super().__init__()
        self.most, self.own = most, own
        self.shared, self.embed, self.linear = nn.Embedding(20, 8), nn.Embedding(20, 8), nn.Linear(8, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        ids = ids.long()
        h = (self.shared if self.own else self.embed)(ids.clamp(max=self.most) if self.most is not None else ids)
        y: torch.Tensor = self.linear(h * 1.0)
        return y


def test_ids_that_the_official_model_does_not_have_are_blamed_on_who_made_them(tmp_path: Path) -> None:
    """The embedding was accused of what its caller made of the ids: only floating inputs were looked at."""
    torch.manual_seed(0)
    official, port = Table(None, own=False), Table(17, own=True)
    with torch.no_grad():
        official.shared.weight.copy_(official.embed.weight)
    port.load_state_dict(official.state_dict())
    (fault,) = faults_of(official, port, torch.arange(12, 20)[None].double(), tmp_path)
    assert (fault.culprit.kind, fault.culprit.module) == ("glue", ""), fault.culprit
