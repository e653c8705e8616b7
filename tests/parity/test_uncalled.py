"""A module that holds official weights and is never called."""

from __future__ import annotations

from pathlib import Path

import torch
from fastvideo_port.parity.blame import Culprit
from fastvideo_port.parity.pairing import pair_modules
from fastvideo_port.parity.prove import prove
from fastvideo_port.parity.tracing import tracing
from fastvideo_port.parity.uncalled import never_called
from fastvideo_port.parity.weights import entries_of_model, tensors_of_model
from torch import nn


class Model(nn.Module):
    def __init__(self, skip: str = "") -> None:
        super().__init__()
        self.block = nn.ModuleDict({"up": nn.Linear(4, 8), "down": nn.Linear(8, 4)})
        self.last = nn.Linear(4, 4)
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block["down"](self.block["up"](x))
        if self.skip == "function":
            return nn.functional.linear(x, self.last.weight, self.last.bias)
        return x if self.skip else self.last(x)  # type: ignore[no-any-return]


def _culprit(port: Model, among: set[str] | None = None) -> Culprit | None:
    official = Model()
    port.load_state_dict(official.state_dict())
    x = torch.randn(2, 4)
    with torch.no_grad(), tracing(port) as mine:
        port(x)
    with torch.no_grad(), tracing(official) as theirs:
        official(x)
    links = prove(entries_of_model(official), tensors_of_model(port), None).links
    return never_called(mine, theirs, pair_modules(links, mine, theirs, {}), among)


def _found(port: Model) -> str | None:
    culprit = _culprit(port)
    return culprit and culprit.why


def test_a_module_that_is_skipped_is_named_with_its_counterpart() -> None:
    why = _found(Model("all of it"))
    assert why is not None and "calls 'last'; the port holds its weights in 'last' and never calls" in why


def test_where_every_module_is_called_nothing_is_said() -> None:
    assert _found(Model()) is None


def test_weights_that_a_function_takes_look_the_same_which_is_why_it_is_asked_last() -> None:
    assert _found(Model("function")) is not None


def test_the_lines_are_those_after_the_call_that_the_official_code_makes_before_it() -> None:
    """Project: the whole forward was named, and of a model that is called by a method one that never ran."""
    culprit = _culprit(Model("all of it"))
    assert culprit is not None
    lines = Path(__file__).read_text().splitlines()[culprit.line - 1 : culprit.end_line]
    assert 'self.block["down"]' in lines[0] and len(lines) < 6, lines


def test_only_the_modules_that_were_asked_for_are_named() -> None:
    assert _culprit(Model("all of it"), {"block.up"}) is None
    culprit = _culprit(Model("all of it"), {"last"})
    assert culprit is not None and "Nothing that the port returns depends on them" in culprit.why
