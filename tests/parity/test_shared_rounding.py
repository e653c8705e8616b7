"""Where both sides round in float32 the port is excused; what is wrong there or after it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastvideo_port.parity.healing import Excuse, looked_past
from fastvideo_port.parity.tracing import tracing
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
