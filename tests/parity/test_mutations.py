"""Each family of usual mistakes names its own mistake in a small module, and none names what is none of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastvideo_port.parity.mutations_attention import buckets_of
from fastvideo_port.parity.passing import Forcer, Keeper, Kept, passing
from fastvideo_port.parity.reached import error_of
from fastvideo_port.parity.trials import search
from safetensors.torch import save_file
from torch import nn

Make = Callable[..., torch.Tensor]


class Glue(nn.Module):
    """Code between modules: what ``out`` is handed is made by ``make``."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make = make
        self.out = nn.Identity()

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.out(self.make(*inputs))
        return made


class Model(nn.Module):
    def __init__(self, make: Make) -> None:
        super().__init__()
        self.block = Glue(make)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.block(*inputs)
        return made


def sinusoids(t: torch.Tensor, period: float = 10000, shift: int = 0, fused: bool = False) -> torch.Tensor:
    """Timestep embedding, ``(batch, 16)``; ``fused`` divides the logarithm before it is multiplied."""
    half, steps = 8, torch.arange(8)
    exponent = -math.log(period) / (half - shift) * steps if fused else -math.log(period) * steps / (half - shift)
    angle = t[:, None] * torch.exp(exponent)[None]
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def axial(sizes: tuple[int, ...], shares: tuple[int, ...], theta: float = 100.0) -> torch.Tensor:
    """Cosines for positions on a grid, ``(positions, sum(shares))``."""
    lines = [torch.linspace(0, size, size + 1)[:size] for size in sizes]
    grid = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    tables = []
    for axis, share in enumerate(shares):
        frequencies = theta ** -(torch.arange(0, share, 2)[: share // 2] / share)
        tables.append(torch.outer(grid[axis].reshape(-1), frequencies).cos())
    return torch.cat([table.repeat_interleave(2, dim=-1) for table in tables], dim=1)


_TABLE_CACHE: dict[float, torch.Tensor] = {}


def remembered(theta: float) -> torch.Tensor:
    if theta not in _TABLE_CACHE:
        _TABLE_CACHE[theta] = theta ** -(torch.arange(0, 8, 2) / 8)
    return _TABLE_CACHE[theta]


def relative(table: torch.Tensor, far: int = 128, both: bool = True, exact: int = 2) -> torch.Tensor:
    """Rows of a table for pairs of 40 positions by T5's rule, ``exact`` being the part of exact buckets."""
    place = torch.arange(40)
    distance, count = place[None, :] - place[:, None], 32
    buckets: Any = 0
    if both:
        count //= 2
        buckets = buckets + (distance > 0).long() * count
        distance = distance.abs()
    else:
        distance = -torch.min(distance, torch.zeros_like(distance))
    near = count // exact
    wide = near + (torch.log(distance.float() / near) / math.log(far / near) * (count - near)).long()
    buckets = buckets + torch.where(distance < near, distance, wide.clamp(max=count - 1))
    return table[buckets]


def turned(qk: torch.Tensor, count: int) -> torch.Tensor:
    qk = qk.clone()
    qk[:count] = qk[:count] * 1.5
    return qk


def hides(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return scores.expand(2, 3, 4, 4).masked_fill(mask[:, None, None] == 0, torch.finfo(scores.dtype).min)


def rows_first(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


@dataclass
class Case:
    """A mistake: the right code, the wrong code, shapes of their inputs, words of the trial that names it."""

    right: Make
    wrong: Make
    shapes: tuple[tuple[int, ...], ...]
    words: str


X = ((2, 3, 4, 4),)
T = ((5,),)
CASES = {
    "period": Case(sinusoids, lambda t: sinusoids(t, 1000), T, "a period of 10000 in place of 1000"),
    "period in one factor": Case(
        lambda t: sinusoids(t, 10000, fused=True),
        lambda t: sinusoids(t, 1000, fused=True),
        T,
        "a period of 10000 in place of 1000 (log(10000) / 8, not log(1000) / 8)",
    ),
    "half or half - 1": Case(sinusoids, lambda t: sinusoids(t, shift=1), T, "a division by 8 in place of 7"),
    "half or half - 1 in one factor": Case(
        lambda t: sinusoids(t, fused=True), lambda t: sinusoids(t, shift=1, fused=True), T, "divided by 8 in place of 7"
    ),
    "longest distance": Case(relative, lambda t: relative(t, 256), ((32, 3),), "log(16) in place of log(32)"),
    "exact buckets": Case(relative, lambda t: relative(t, exact=4), ((32, 3),), "key - query, both directions, 32"),
    "one direction": Case(relative, lambda t: relative(t, both=False), ((32, 3),), "key - query, both directions, 32"),
    "clamp": Case(lambda x: x.clamp(-1, 1), lambda x: x.clamp(0, 1), X, "a clamp to [-1, 1] in place of [0, 1]"),
    "weight": Case(
        lambda x: x * torch.tensor([0.5]), lambda x: x * torch.tensor([1.0]), X, "tensor: [0.5] in place of [1]"
    ),
    "mean taken off": Case(lambda x: 2 * x, lambda x: 2 * (x - x.mean(1, keepdim=True)), X, "nothing subtracted"),
    "norm's dimension": Case(
        lambda x: F.normalize(x, dim=1), lambda x: F.normalize(x, dim=-1), X, "over dimension 1 in place of -1"
    ),
    "interpolation": Case(
        lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest-exact"),
        lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
        X,
        "nearest in place of bilinear",
    ),
    "corners": Case(
        lambda x: F.interpolate(x, size=(7, 7), mode="bilinear", align_corners=True),
        lambda x: F.interpolate(x, size=(7, 7), mode="bilinear"),
        X,
        "bilinear in place of bilinear, corners aligned",
    ),
    "side of the padding": Case(
        lambda x: F.pad(x, (0, 0, 2, 0)), lambda x: F.pad(x, (0, 0, 1, 1)), X, "[0, 0, 2, 0] in place of [0, 0, 1, 1]"
    ),
    "both paddings mirrored": Case(
        lambda x: F.pad(x, (0, 1, 0, 1)), lambda x: F.pad(x, (1, 0, 1, 0)), X, "[0, 1, 0, 1] in place of [1, 0, 1, 0]"
    ),
    "kind of padding": Case(
        lambda x: F.pad(x, (0, 1, 0, 1)),
        lambda x: F.pad(x, (0, 1, 0, 1), mode="replicate"),
        X,
        "padding by 'constant' in place of 'replicate'",
    ),
    "slice moved": Case(lambda x: x[:, :2], lambda x: x[:, 1:3], X, "[0:2] in place of [1:3] along axis 1"),
    "part of a slice": Case(lambda x: turned(x, 2), lambda x: turned(x, 1), X, "[0:2] in place of [0:1] along axis 0"),
    "places of a fused projection": Case(
        lambda x: torch.cat([x[:, 0], 2 * x[:, 1], 3 * x[:, 2]]),
        lambda x: torch.cat([part * n for n, part in enumerate([x[:, i] for i in (0, 2, 1)], 1)]),
        X,
        "the numbers 0, 2, 1 of the calls at one line in the order 0, 1, 2",
    ),
    "columns for rows": Case(rows_first, lambda x: rows_first(x.transpose(2, 3)), X, "no transpose"),
    "rows for columns": Case(
        lambda x: rows_first(x.mT), rows_first, X, "axes 2 and 3 exchanged before they are joined"
    ),
    "split in the other order": Case(
        lambda x: x.reshape(2, 3, 4, 2, 2), lambda x: x.reshape(2, 3, 4, 2, 2).mT, X, "split the other way"
    ),
    "channels last": Case(
        lambda x: x.reshape(2, 3, 8, 2),
        lambda x: x.reshape(2, 8, 2, 3).movedim(-1, 1),
        X,
        "a reshape to the same shape in place of the movedim",
    ),
    "einsum": Case(
        lambda x: torch.einsum("bchw->bhcw", x),
        lambda x: torch.einsum("bcwh->bhcw", x),
        X,
        "axes 1 and 3 of the result",
    ),
    "grid": Case(
        lambda x: x * axial((2, 3, 4), (4, 2, 2)),
        lambda x: x * axial((2, 4, 3), (4, 2, 2)),
        ((24, 8),),
        "the numbers 2, 4, 3 of the calls at one line in the order 2, 3, 4",
    ),
    "shares of the head": Case(
        lambda x: x * axial((2, 3, 4), (4, 6, 6)),
        lambda x: x * axial((2, 3, 4), (6, 6, 4)),
        ((24, 16),),
        "the numbers 6, 6, 4 of the calls at one line in the order 4, 6, 6",
    ),
    "base of a table that is kept": Case(
        lambda x: x * remembered(10000.0), lambda x: x * remembered(256.0), X, "(theta) of 10000 in place of 256"
    ),
}


def _trials(right: Make, wrong: Make, inputs: list[torch.Tensor], folder: Path) -> dict[str, Any]:
    official, port = Model(right), Model(wrong)
    keeper = Keeper(1 << 22)
    with torch.no_grad():
        with passing(official, keeper):
            official(*inputs)
        save_file(keeper.tensors, folder / "kept.safetensors")
        kept = Kept(folder / "kept.safetensors")
        partner = {name: name for name, _ in port.named_modules() if name}
        return search(
            port,
            lambda: port(*inputs),
            Forcer(kept, partner),
            kept,
            partner,
            scope="block",
            deep=False,
            target=("block.out", 0, "inputs"),
            reach=1e-6,
        )


def _inputs(shapes: tuple[tuple[int, ...], ...]) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=rng) for shape in shapes]


@pytest.mark.parametrize("name", CASES)
def test_the_mistake_is_named(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    found = _trials(case.right, case.wrong, _inputs(case.shapes), tmp_path)
    assert found["before"] > 1e-3
    assert any(case.words in row["words"] for row in found["found"]), found


@pytest.mark.parametrize("wrong", ["dropped", "added"])
def test_a_mask_that_hides_nothing_is_named(wrong: str, tmp_path: Path) -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])

    def careless(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = scores.expand(2, 3, 4, 4)
        return scores if wrong == "dropped" else scores + mask[:, None, None]

    found = _trials(hides, careless, [*_inputs(((1, 3, 4, 4),)), mask], tmp_path)
    words = "the keys hidden at which its argument [1] is 0" if wrong == "dropped" else "the places hidden at which"
    assert any(words in row["words"] for row in found["found"]), found


def test_what_is_none_of_the_usual_mistakes_is_not_named(tmp_path: Path) -> None:
    """The nearest trial is not good enough: here the right code is another function."""

    def wrong(x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (1, 1, 0, 0))[..., 1:-1]
        y = F.normalize(x.transpose(2, 3), dim=1).flatten(2).unflatten(2, (4, 4)).clamp(-1, 1)
        return F.interpolate(y * torch.arange(4) / 3, scale_factor=1.0, mode="nearest")

    found = _trials(lambda x: torch.erf(3 * x) + x.roll(1, -1), wrong, _inputs(X), tmp_path)
    assert found["found"] == [] and found["before"] > 0.1 and found["tried"] > 20


def test_a_kept_table_is_as_before_when_the_trials_are_over(tmp_path: Path) -> None:
    _TABLE_CACHE.clear()
    remembered(256.0)
    case = CASES["base of a table that is kept"]
    _trials(case.right, case.wrong, _inputs(case.shapes), tmp_path)
    assert set(_TABLE_CACHE) == {256.0, 10000.0}  # of the wrong model and the right one, run once
    assert torch.equal(_TABLE_CACHE[256.0], 256.0 ** -(torch.arange(0, 8, 2) / 8))


def test_rows_of_a_table_are_judged_by_what_is_read_with_them(tmp_path: Path) -> None:
    """Whole numbers are not kept, so a wrong index shows in the rows that it reads."""
    torch.manual_seed(0)
    rows = nn.Embedding(6, 4)

    class Reads(nn.Module):
        def __init__(self, first: int) -> None:
            super().__init__()
            self.first, self.rows = first, rows

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.rows(torch.arange(6)[self.first : self.first + 4])

    official, port, x = Reads(0), Reads(1), torch.randn(4, 4)
    keeper = Keeper(1 << 20)
    with torch.no_grad():
        with passing(official, keeper):
            official(x)
        save_file(keeper.tensors, tmp_path / "kept.safetensors")
        kept, partner = Kept(tmp_path / "kept.safetensors"), {"rows": "rows"}
        options: Any = {"scope": "", "deep": False, "target": ("rows", 0, "inputs"), "reach": 1e-6}
        found = search(port, lambda: port(x), Forcer(kept, partner), kept, partner, **options)
    assert 0.1 < found["before"] < 10
    assert found["found"][0]["words"] == "getitem: [0:4] in place of [1:5] along axis 0"


def test_what_follows_the_last_module_is_judged_by_the_outputs(tmp_path: Path) -> None:
    official, port, x = Model(lambda x: 2 * x), Model(lambda x: 2 * x), torch.randn(2, 4, 4, 3)
    keeper = Keeper(1 << 20)
    with torch.no_grad():
        with passing(official, keeper):
            right = official(x).permute(0, 3, 1, 2)
        save_file(keeper.tensors, tmp_path / "kept.safetensors")
        kept, partner = Kept(tmp_path / "kept.safetensors"), {"block": "block", "block.out": "block.out"}

        class Port(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.block = port.block

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.block(x).permute(0, 3, 2, 1)

        model = Port()
        options: Any = {"scope": "", "deep": False, "target": None, "reach": 1e-6, "outputs": {"sample": right}}
        found = search(model, lambda: model(x), Forcer(kept, partner), kept, partner, **options)
    assert found["found"][0]["words"] == "permute: axes 2 and 3 of the permute swapped"


def test_an_output_that_is_not_a_number_is_no_right_one_wherever_it_stands() -> None:
    right, wrong = torch.ones(3), torch.full((3,), math.nan)
    for values in ([right, wrong], [wrong, right]):
        assert error_of(values, [("[0]", right), ("[1]", right)]) == math.inf
    assert error_of([right, right], [("[0]", right), ("[1]", right)]) == 0


def test_steps_of_a_loop_are_not_put_in_another_order(tmp_path: Path) -> None:
    """What a loop takes out in each step is no set of parts that could have changed places."""

    def steps(x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x[0])
        for i in range(3):
            total = total / 2 + x[i]
        return total

    wrong = _inputs(((3, 4, 4),))
    found = _trials(lambda x: steps(x[[1, 0, 2]]), steps, wrong, tmp_path)
    assert found["found"] == [] and found["before"] > 0.1


def test_relative_buckets_follow_the_formula() -> None:
    buckets = buckets_of(200, both=True, buckets=32, far=128, back=False)
    assert buckets[0, :9].tolist() == [0, 17, 18, 19, 20, 21, 22, 23, 24]
    assert buckets[:9, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert (int(buckets[0, 127]), int(buckets[0, 199]), int(buckets[199, 0])) == (31, 31, 15)
    one_way = buckets_of(200, both=False, buckets=32, far=128, back=False)
    assert one_way[0].unique().tolist() == [0] and int(one_way[199, 0]) == 31
    assert torch.equal(buckets_of(9, True, 32, 128, True), buckets_of(9, True, 32, 128, False).T)
