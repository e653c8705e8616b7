"""What rounding can do to the length of a tensor, on traces whose errors are put there."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from fastvideo_port.parity.boundaries import Comparison, official_lengths
from fastvideo_port.parity.pairing import pair_modules
from fastvideo_port.parity.proof import Proof
from fastvideo_port.parity.prove import prove
from fastvideo_port.parity.trace import Trace
from fastvideo_port.parity.tracing import tracing
from fastvideo_port.parity.verdict import BIAS_FAIL, BIAS_PASS
from fastvideo_port.parity.weights import entries_of_model, tensors_of_model
from torch import nn

SHAPE = (64, 512)


class Scaled(nn.Module):
    """Returns its input, a share ``along`` longer, with an error of ``noise`` in any direction beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full(SHAPE[1:], 2.0, dtype=torch.float64))
        self.along, self.noise = 0.0, 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        error = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        return self.weight * x * (1 + self.along + self.noise * error)


def _trace(along: float = 0.0, noise: float = 0.0, seed: int = 0) -> tuple[Trace, Proof]:
    model = nn.Sequential(Scaled())
    model[0].along, model[0].noise = along, noise
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad(), tracing(model) as found:
        model(x)
    return found, prove(entries_of_model(model), tensors_of_model(model), None)


def _bias(port: float, official: float, elsewhere: list[float]) -> float:
    """The systematic part where port and official are so much too long, and the official one so in other inputs."""
    (mine, proof), (theirs, _), (exact, _) = _trace(port, 1e-6), _trace(official, 1e-6), _trace()
    others = [(_trace(along, 1e-6, seed)[0], _trace(seed=seed)[0]) for seed, along in enumerate(elsewhere, 1)]
    lengths = official_lengths([(theirs, exact), *others])
    pairs = pair_modules(proof.links, mine, theirs, {})
    return max(boundary.bias for boundary in Comparison(mine, theirs, exact, pairs, lengths).boundaries())


def test_a_length_that_the_official_rounding_reaches_with_another_input_is_no_systematic_part() -> None:
    """Project: a VAE's upsampled frames inherit an error of few directions; with one seed the official one had none."""
    assert _bias(4e-7, 1e-9, elsewhere=[1e-9, -1e-9]) > BIAS_FAIL
    assert _bias(4e-7, 1e-9, elsewhere=[1e-9, -3e-7]) < BIAS_PASS


def test_a_wrong_scale_is_systematic_whatever_rounding_does_elsewhere() -> None:
    """Project: the official rounding of other inputs widens what may be, and hides no mistake."""
    found = [_bias(along, 1e-9, elsewhere=[2e-7, -3e-7]) for along in (1e-6, 1e-5, 1e-4)]
    assert found[1] > BIAS_FAIL and all(low < high for low, high in pairwise(found))


@pytest.mark.parametrize("along", [0.0, 2e-9])
def test_one_input_alone_is_judged_by_its_own_rounding(along: float) -> None:
    assert _bias(along, along, elsewhere=[]) <= 1
