"""Where both sides round in float32 the port is excused; what is wrong there or after it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastvideo_port.parity.boundaries import Comparison
from fastvideo_port.parity.healing import Excuse, find_excuse, looked_past
from fastvideo_port.parity.pairing import pair_modules
from fastvideo_port.parity.prove import prove
from fastvideo_port.parity.trace import Trace
from fastvideo_port.parity.tracing import tracing
from fastvideo_port.parity.verdict import BOUNDARY_FAIL
from fastvideo_port.parity.weights import entries_of_model, tensors_of_model
from torch import nn

from . import lab

pytestmark = pytest.mark.usefixtures("warm_sides")

# Timesteps near 1000 turn the last bit of a frequency into 1e-5 of an angle.
ADAPTER = lab.edited(
    lab.ADAPTER, ("torch.rand(2, generator=generator) * 9", "torch.rand(2, generator=generator) * 999")
)
ANGLE = "torch.exp(torch.arange(8, device=t.device) * -1.0) * t[:, None]"
OTHER_ROUNDING = (ANGLE, "t[:, None] / torch.exp(torch.arange(8, device=t.device) * 1.0)")
EPSILON = ("self.pre_mlp = nn.LayerNorm(width, eps=1e-6)", "self.pre_mlp = nn.LayerNorm(width, eps=1e-5)")


def _run(folder: Path, *edits: tuple[str, str]) -> object:
    return lab.Lab(folder, port=lab.edited(lab.PORT, *edits), adapter=ADAPTER, cases=["small"]).run()


def test_frequencies_rounded_otherwise_are_named_and_not_accused(tmp_path: Path) -> None:
    """Project: a correct port on a GPU differs so; without the excuse it would be eight times the reference's error."""
    result = _run(tmp_path, OTHER_ROUNDING)
    assert result.verdict == "pass", result.explain()
    remark = next(f for f in result.value["findings"] if f["code"] == "shared-rounding")
    assert "'condition'" in remark["message"] and remark["verdict"] == "pass"


def test_an_epsilon_behind_an_excused_place_is_still_red_at_its_place(tmp_path: Path) -> None:
    """Project: lifting the casts everywhere would hide it; the official values stand in at one place only."""
    result = _run(tmp_path, OTHER_ROUNDING, EPSILON)
    assert result.verdict == "fail", result.explain()
    assert "shared-rounding" in {f["code"] for f in result.value["findings"]}, result.explain()
    assert result.value["culprit"]["module"] == "layers.0.pre_mlp", result.explain()


def test_a_caller_that_hands_an_excused_tensor_on_to_its_part_is_excused_too() -> None:
    """Project: seen on a GPU, where FastVideo's embedder was accused in place of the mistake behind it."""
    model = nn.Sequential(nn.Sequential(nn.Linear(16, 32), nn.SiLU()), nn.Linear(32, 32))
    with torch.no_grad(), tracing(model) as trace:
        model(torch.randn(4, 16))
    excuse = Excuse("0.0", "time.linear_1", 0, "inputs", "[0]", "[0]", 1.25, 3e-6)
    assert looked_past([excuse], trace) == {("0.0", "inputs"), ("0", "inputs"), ("", "inputs")}
    behind = Excuse("1", "time.linear_2", 0, "inputs", "[0]", "[0]", 1.25, 3e-6)
    assert looked_past([behind], trace) == {("1", "inputs"), ("0", "outputs"), ("0.1", "outputs")}
    assert looked_past([], trace) == set()


def test_wrong_frequencies_are_no_rounding(tmp_path: Path) -> None:
    wrong = ANGLE.replace("-1.0", "-1.001")
    result = _run(tmp_path, (ANGLE, wrong))
    assert result.verdict == "fail", result.explain()
    assert "shared-rounding" not in {f["code"] for f in result.value["findings"]}, result.explain()


class Timed(nn.Module):
    """Adds the projected sine of a time to its input; the angle is made in float32 unless ``exact``."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
        self.exact, self.end = False, 0.0

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        kind = torch.float64 if self.exact else torch.float32
        angle = t[:, None].to(kind) * torch.exp(torch.arange(8, dtype=kind) * -0.7)
        y = self.head(x + self.time(angle.sin().to(x.dtype)))
        return torch.cat([y[:, :-1], y[:, -1:] * (1 + self.end)], -1)


def test_what_rounding_inside_brings_along_excuses_nothing_at_the_end_of_the_model() -> None:
    """Project: the outputs were excused, the official ones put in their place, and nothing was left to differ."""
    torch.manual_seed(0)
    x, t = 0.1 * torch.randn(4, 8), torch.rand(4) * 9000 + 999
    model = Timed().eval()

    def trace(dtype: torch.dtype, **settings: object) -> Trace:
        vars(model).update({"exact": False, "end": 0.0, **settings})
        model.to(dtype)
        with torch.no_grad(), tracing(model) as found:
            model(x.to(dtype), t)
        return found

    proof = prove(entries_of_model(model), tensors_of_model(model), None)
    port, official = trace(torch.float32, end=2e-5), trace(torch.float32)
    reference, lifted = trace(torch.float64), trace(torch.float64, exact=True)
    comparison = Comparison(port, official, reference, pair_modules(proof.links, port, official, {}))
    found = comparison.boundaries()
    assert found[-1].port == "" and found[-1].ratio > BOUNDARY_FAIL
    assert find_excuse(comparison, found, lifted, []) is None
