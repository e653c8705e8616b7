"""What a call is handed and hands on is blamed on who made it, however the two sides pass it around."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from .test_places import faults_of

WIDTH = 8


class Timestep(nn.Module):
    """Holds no weights: sines of a time."""

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(t[:, None] * torch.arange(1, WIDTH + 1, dtype=t.dtype) / WIDTH)


class Embed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sines, self.linear = Timestep(), nn.Linear(WIDTH, WIDTH)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(self.sines(t))
        return y


class Timed(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.embed, self.head = Embed(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = x.reshape(-1)[:1] * self.factor
        y: torch.Tensor = self.head(x + self.embed(t))
        return y


def test_a_time_of_a_batch_of_one_is_blamed_on_who_scaled_it(tmp_path: Path) -> None:
    """Project: one number is no tensor that is compared, so the sines were accused of what they were handed."""
    torch.manual_seed(0)
    official, port = Timed(100.0), Timed(1.0)
    port.load_state_dict(official.state_dict())
    (fault,) = faults_of(official, port, torch.rand(1, 5, WIDTH), tmp_path)
    assert (fault.culprit.kind, fault.culprit.module) == ("glue", ""), fault.culprit


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.out(self.q(x) * rope)
        return y


class Rotated(nn.Module):
    """A block that hands on the rotary embedding; ``parts``: its modulation comes in three tensors in place of one."""

    def __init__(self, parts: bool) -> None:
        super().__init__()
        self.parts = parts
        self.norm, self.attention = nn.LayerNorm(WIDTH), Attention()

    def forward(
        self, x: torch.Tensor, modulation: torch.Tensor | tuple[torch.Tensor, ...], table: torch.Tensor
    ) -> torch.Tensor:
        scale, shift, gate = modulation if self.parts else modulation.chunk(3, dim=-1)  # type: ignore[union-attr]
        y: torch.Tensor = self.attention(x=self.norm(x) * scale + shift, rope=table)
        return x + gate * y


class Named(Rotated):
    """The same with another name for the table."""

    def forward(
        self, x: torch.Tensor, modulation: torch.Tensor | tuple[torch.Tensor, ...], freqs: torch.Tensor
    ) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x, modulation, freqs)


class Model(nn.Module):
    def __init__(self, *, parts: bool = False, theta: float = 3.0, turned: bool = False) -> None:
        super().__init__()
        self.parts, self.theta, self.turned = parts, theta, turned
        self.embed, self.modulate = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.blocks = nn.ModuleList((Named if parts else Rotated)(parts) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = torch.cos(torch.arange(5.0)[:, None] * self.theta ** -torch.arange(float(WIDTH))).to(x.dtype)
        table = table.flip(0) if self.turned else table
        modulation = self.modulate(x.mean(1, keepdim=True))
        h = self.embed(x)
        for block in self.blocks:
            if self.parts:
                h = block(x=h, modulation=modulation.chunk(3, dim=-1), freqs=table)
            else:
                h = block(x=h, modulation=modulation, table=table)
        return h


@pytest.mark.parametrize("wrong", [{"theta": 3.5}, {"turned": True}])
def test_a_table_that_blocks_hand_on_is_blamed_once_on_who_made_it(wrong: dict[str, float], tmp_path: Path) -> None:
    """Project: the block was accused of its attention's rotary embedding, or nobody where it has another name there."""
    torch.manual_seed(0)
    official, port = Model(), Model(parts=True, **wrong)  # type: ignore[arg-type]
    port.load_state_dict(official.state_dict())
    (fault,) = faults_of(official, port, torch.randn(1, 5, WIDTH), tmp_path)
    assert (fault.culprit.kind, fault.culprit.module) == ("glue", ""), fault.culprit


class Masked(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = x @ x.transpose(-2, -1)
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1) @ x


class Causal(nn.Module):
    def __init__(self, kind: str, diagonal: int, *, named: bool = True) -> None:
        super().__init__()
        self.kind, self.diagonal, self.named = kind, diagonal, named
        self.first, self.attend, self.last = nn.Linear(WIDTH, WIDTH), Masked(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = torch.ones(5, 5, dtype=torch.bool).tril(self.diagonal)
        mask = seen if self.kind == "bool" else torch.zeros(5, 5, dtype=x.dtype).masked_fill(~seen, float(self.kind))
        h = self.first(x)
        y: torch.Tensor = self.last(self.attend(h, mask=mask) if self.named else self.attend(h, mask))
        return y


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", ["bool", "-inf", "-1e9"])
def test_another_mask_is_blamed_on_who_made_it(kind: str, named: bool, tmp_path: Path) -> None:
    """Project: no fingerprint tells two masks of infinities apart, and the attention was accused."""
    torch.manual_seed(0)
    official, port = Causal(kind, 0, named=named), Causal(kind, 1)
    port.load_state_dict(official.state_dict())
    (fault,) = faults_of(official, port, torch.randn(1, 5, WIDTH), tmp_path)
    assert (fault.culprit.kind, fault.culprit.module) == ("glue", ""), fault.culprit
    assert "a mask that keeps out other positions" in fault.culprit.why or kind == "bool"


class Modulation(nn.Module):
    def __init__(self, active: bool) -> None:
        super().__init__()
        self.active = active
        self.act, self.linear = nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, t: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made: torch.Tensor = self.linear(self.act(t) if self.active else t)
        return made.chunk(2, dim=-1)


class Whole(Modulation):
    """The official one, whose caller takes it apart."""

    def forward(self, t: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return torch.cat(super().forward(t), dim=-1)


class Modulated(nn.Module):
    def __init__(self, kind: type[Modulation], active: bool) -> None:
        super().__init__()
        self.time = nn.Linear(WIDTH, WIDTH)
        self.picture, self.text = kind(active), kind(active)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = self.time(x.mean(1, keepdim=True))
        made = [self.picture(t), self.text(t)]
        (a, b), (c, d) = (m.chunk(2, dim=-1) if isinstance(m, torch.Tensor) else m for m in made)
        return x * a + b + x * c + d


def test_an_activation_that_is_left_out_is_missed_in_the_module_whose_counterpart_has_it(tmp_path: Path) -> None:
    """Project: a second module that makes the same of the time was taken for who should have handed it over."""
    torch.manual_seed(0)
    official, port = Modulated(Whole, True), Modulated(Modulation, False)
    port.load_state_dict(official.state_dict())
    found = faults_of(official, port, torch.randn(1, 5, WIDTH), tmp_path)
    assert [fault.culprit.module for fault in found] == ["picture", "text"], [fault.culprit for fault in found]


class Residual(nn.Module):
    def __init__(self, contained: bool, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.first = nn.Linear(WIDTH, WIDTH)
        out = [nn.Linear(WIDTH, WIDTH)]
        self.out = nn.Sequential(*out) if contained else nn.ModuleList(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.first(x))
        h = self.out(h) if isinstance(self.out, nn.Sequential) else self.out[0](h)
        return h + x if self.residual else h


class Around(nn.Module):
    def __init__(self, contained: bool, residual: bool) -> None:
        super().__init__()
        self.block, self.last = Residual(contained, residual), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.block(x))
        return y


def test_what_a_sequential_of_torch_returns_is_what_its_last_module_did(tmp_path: Path) -> None:
    """Project: a residual was left out after a Sequential that the official code does not have, which was accused."""
    torch.manual_seed(0)
    official, port = Around(False, True), Around(True, False)
    port.load_state_dict(official.state_dict())
    (fault,) = faults_of(official, port, torch.randn(1, 5, WIDTH), tmp_path)
    assert (fault.culprit.kind, fault.culprit.module) == ("glue", "block"), fault.culprit
