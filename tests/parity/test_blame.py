"""From boundaries to one culprit, on traces of two small models made in one process."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastvideo_port.parity.blame import Culprit, find_culprit, weights_culprit
from fastvideo_port.parity.boundaries import Boundary, Comparison
from fastvideo_port.parity.mapping import plan
from fastvideo_port.parity.pairing import pair_modules
from fastvideo_port.parity.proof import Proof
from fastvideo_port.parity.prove import prove
from fastvideo_port.parity.trace import Trace
from fastvideo_port.parity.tracing import tracing
from fastvideo_port.parity.weights import entries_of_model, tensors_of_model
from torch import nn

WIDTH = 24


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(WIDTH, eps=1e-6), Mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        y = self.mlp(h)
        return x + y


class WrongGlue(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        h = h * 1.01
        y = self.mlp(h)
        return x + y


class WrongEnd(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        y = self.mlp(h)
        return x - y


class WrongMlp(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(1.01 * self.up(x)))


class Model(nn.Module):
    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def _epsilon(model: Model) -> None:
    model.blocks[2].norm.eps = 1e-4


def _glue(model: Model) -> None:
    model.blocks[2].__class__ = WrongGlue


def _end(model: Model) -> None:
    model.blocks[2].__class__ = WrongEnd


def _mlp(model: Model) -> None:
    model.blocks[2].mlp.__class__ = WrongMlp


def _transposed(model: Model) -> None:
    with torch.no_grad():
        model.blocks[2].mlp.down.bias.copy_(model.blocks[2].mlp.down.bias.flip(0))


def _trace(model: Model, x: torch.Tensor) -> Trace:
    with torch.no_grad(), tracing(model) as trace:
        model(x)
    return trace


def _compare(fault: Callable[[Model], None] | None) -> tuple[Culprit | None, list[Boundary], Comparison]:
    torch.manual_seed(0)
    official = Model().eval()
    torch.manual_seed(0)
    port = Model().eval()
    proof = prove(entries_of_model(official), tensors_of_model(port), None)
    if fault is not None:
        fault(port)
    x = torch.randn(3, 7, 8)
    traces = _trace(port, x), _trace(official, x), _trace(official.double(), x.double())
    comparison = Comparison(*traces, pair_modules(proof.links, traces[0], traces[1], {}))
    boundaries = comparison.boundaries()
    return find_culprit(comparison, boundaries), boundaries, comparison


def test_nobody_is_accused_when_all_agree() -> None:
    culprit, boundaries, comparison = _compare(None)
    assert culprit is None and len(boundaries) == len(comparison.port.calls)
    assert max(boundary.ratio for boundary in boundaries) <= 1.0


@pytest.mark.parametrize(
    ("fault", "kind", "module"),
    [
        (_epsilon, "module", "blocks.2.norm"),
        (_glue, "glue", "blocks.2"),
        (_end, "glue", "blocks.2"),
        (_mlp, "glue", "blocks.2.mlp"),
        (_transposed, "module", "blocks.2.mlp.down"),
    ],
)
def test_the_culprit_is_the_planted_place(fault: Callable[[Model], None], kind: str, module: str) -> None:
    culprit, boundaries, _ = _compare(fault)
    assert culprit is not None
    assert (culprit.kind, culprit.module, culprit.official_module) == (kind, module, module), culprit
    assert all(boundary.ratio <= 4 for boundary in boundaries if boundary.port.startswith(("blocks.0", "blocks.1")))


@pytest.mark.parametrize(
    ("fault", "cls", "planted"),
    [(_glue, WrongGlue, "h * 1.01"), (_end, WrongEnd, "return x - y"), (_mlp, WrongMlp, "1.01 * self.up")],
)
def test_glue_names_the_file_and_few_lines_with_the_planted_one(
    fault: Callable[[Model], None], cls: type[nn.Module], planted: str
) -> None:
    culprit, _, _ = _compare(fault)
    assert culprit is not None and culprit.file == __file__
    lines, start = inspect.getsourcelines(cls)
    at = next(start + number for number, line in enumerate(lines) if planted in line)
    assert culprit.line <= at <= culprit.end_line <= culprit.line + 4, culprit
    assert Path(culprit.file).is_file() and culprit.to_json()["why"]


def test_a_nan_is_traced_to_where_it_begins() -> None:
    def broken(model: Model) -> None:
        with torch.no_grad():
            model.blocks[3].norm.weight[0] = float("nan")

    culprit, boundaries, _ = _compare(broken)
    assert culprit is not None and culprit.module == "blocks.3.norm" and "not finite" in culprit.why
    assert boundaries[0].ratio <= 1


def test_values_in_another_order_are_layout_and_not_divergence() -> None:
    class Moved(Mlp):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).transpose(0, 1).contiguous()

    class Back(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.mlp(self.norm(x)).transpose(0, 1)

    def layout(model: Model) -> None:
        model.blocks[2].__class__ = Back
        model.blocks[2].mlp.__class__ = Moved

    culprit, boundaries, _ = _compare(layout)
    assert culprit is None
    assert [boundary.port for boundary in boundaries if boundary.layout] == ["blocks.2.mlp"]


def test_of_two_tensors_the_one_that_holds_the_other_is_blamed() -> None:
    """The copied tensor is right where it is, also where its module runs before the wrong one."""
    torch.manual_seed(0)
    official, port = Model().eval(), Model().eval()
    port.load_state_dict(official.state_dict())
    with torch.no_grad():
        port.blocks[3].mlp.up.bias.copy_(port.blocks[1].mlp.up.bias)
    rules = {r"^(.*)$": r"\1"}
    planned = plan(rules, entries_of_model(official))
    proof = prove(entries_of_model(official), tensors_of_model(port), planned)
    culprit = weights_culprit(Proof.from_json(proof.to_json()), _trace(port, torch.randn(3, 7, 8)))
    assert culprit is not None and culprit.module == "blocks.3.mlp.up", culprit
    assert "more" not in culprit.why
