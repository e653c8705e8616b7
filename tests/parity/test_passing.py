"""What passes between modules is seen in order, kept, and replaced exactly where it was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fastvideo_port.parity.passing import Forcer, Keeper, Kept, apart, match, passing
from safetensors.torch import save_file
from torch import nn


@dataclass
class Output:
    hidden: torch.Tensor
    pooled: torch.Tensor


class Twice(nn.Module):
    """Calls one module two times, the second time by keyword, and returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Output:
        first = self.inner(x)
        second = self.inner(input=first)
        return Output(second, second.mean(0))


def _kept(model: nn.Module, x: torch.Tensor, folder: Path) -> Kept:
    keeper = Keeper(1 << 20)
    with torch.no_grad(), passing(model, keeper):
        model(x)
    assert keeper.complete
    save_file(keeper.tensors, folder / "kept.safetensors")
    return Kept(folder / "kept.safetensors")


def test_calls_are_seen_in_order_with_their_occurrence() -> None:
    seen: list[tuple[str, int, str]] = []

    def act(module: str, occurrence: int, where: Any, values: Any) -> None:
        seen.append((module, occurrence, where))

    with passing(Twice(), act):
        pass
    assert not seen
    model = Twice()
    with passing(model, act):
        model(torch.ones(2, 4))
    assert seen == [
        ("", 0, "inputs"),
        ("inner", 0, "inputs"),
        ("inner", 0, "outputs"),
        ("inner", 1, "inputs"),
        ("inner", 1, "outputs"),
        ("", 0, "outputs"),
    ]
    model(torch.ones(2, 4))
    assert len(seen) == 6, "the hooks are gone"


def test_official_tensors_take_the_place_of_all_that_a_wrong_port_computes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    official, port, x = Twice(), Twice(), torch.randn(3, 4)
    kept = _kept(official, x, tmp_path)
    expected = official(x)
    assert not torch.allclose(port(x).hidden, expected.hidden)
    forcer = Forcer(kept, {"": "", "inner": "inner"})
    with passing(port, forcer):
        forced = port(x)
    assert torch.equal(forced.hidden, expected.hidden) and torch.equal(forced.pooled, expected.pooled)
    assert forcer.forced == 7


def test_a_point_is_forced_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    official, port, x = Twice(), Twice(), torch.randn(3, 4)
    kept = _kept(official, x, tmp_path)
    port.inner.load_state_dict(official.inner.state_dict())
    before = port(x)
    with passing(port, Forcer(kept, {"inner": "inner"}, [("inner", "inputs")])):
        assert torch.equal(port(x).hidden, before.hidden), "right tensors change nothing"


def test_a_model_that_passes_more_than_the_limit_is_not_kept_whole() -> None:
    keeper = Keeper(40)
    model = Twice()
    with passing(model, keeper):
        model(torch.ones(2, 4))
    assert not keeper.complete


def test_tensors_are_matched_by_field_then_by_value_then_by_place() -> None:
    a, b, c = torch.full((4,), 1.0), torch.full((4,), 5.0), torch.full((4,), -9.0)
    assert match([("[0]", b)], [("x", a), ("y", b.clone())])["[0]"] is not a
    by_name = match([("last", a), ("[1]", b)], [("[0]", a.clone()), ("last", c)])
    assert torch.equal(by_name["last"], c), "a field keeps its name though another tensor is nearer"
    by_place = match([("[0]", c), ("[1]", c)], [("[0]", a), ("[1]", b)])
    assert torch.equal(by_place["[0]"], a) and torch.equal(by_place["[1]"], b)
    assert match([("[0]", torch.ones(3))], [("[0]", a)]) == {}


def test_keyword_arguments_are_told_from_a_dict_that_is_an_argument() -> None:
    seen = []

    class Takes(torch.nn.Module):
        def forward(self, cache: dict[str, int], *, scale: float = 1.0) -> float:
            return len(cache) * scale

    def note(_: str, __: int, where: str, values: object) -> None:
        if where == "inputs":
            seen.append(apart(values))  # type: ignore[arg-type]

    module = Takes()
    with passing(module, note):
        module({"k": 1})
        module({"k": 1}, scale=2.0)
    assert seen == [(({"k": 1},), {}), (({"k": 1},), {"scale": 2.0})]
