"""One comparison of two tensors."""

from __future__ import annotations

import math

import pytest
import torch
from fastvideo_port.parity import metrics
from fastvideo_port.parity.metrics import distance, relative
from fastvideo_port.parity.verdict import judge, ratio, worst


@pytest.mark.parametrize("chunk", [1, 7, 1 << 24])
def test_it_is_what_numbers_in_float64_say_in_any_chunking(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(metrics.CHUNKS, "cpu", chunk)
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(5, 13, generator=generator)
    a = b + 1e-3 * torch.randn(5, 13, generator=generator)
    found = distance(a, b)
    x, y = a.double().flatten(), b.double().flatten()
    assert found.relative_l2 == pytest.approx(float((x - y).norm() / y.norm()), rel=1e-12)
    assert found.max_abs == pytest.approx(float((x - y).abs().max()), rel=1e-12)
    assert found.cosine == pytest.approx(float(x @ y / x.norm() / y.norm()), rel=1e-12)
    assert found.strict == pytest.approx(float(((x - y).abs() <= 1e-4 + 1e-4 * y.abs()).double().mean()))
    assert found.elements == 65 and found.non_finite == (0, 0)


def test_a_scaled_output_is_not_close_though_its_cosine_is_one() -> None:
    b = torch.arange(1.0, 9)
    found = distance(2 * b, b)
    assert found.cosine == pytest.approx(1.0) and found.relative_l2 == pytest.approx(1.0)


def test_dtypes_may_differ_shapes_may_not() -> None:
    b = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert distance(b.bfloat16(), b).relative_l2 == 0
    assert distance(torch.tensor([1, 2, 3]), b).relative_l2 == 0
    assert distance(torch.tensor([1 + 1j]), torch.tensor([1 + 2j])).max_abs == 1
    with pytest.raises(ValueError, match=r"\(3,\) and \(1, 3\)"):
        distance(b, b[None])


def test_zero_nan_and_nothing() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert distance(zero, zero).relative_l2 == 0 and distance(zero, zero).cosine == 1
    assert distance(one, zero).relative_l2 == math.inf and distance(one, zero).cosine == 0
    broken = torch.tensor([1.0, math.nan, math.inf])
    assert distance(broken, one).non_finite == (2, 0) and distance(one, broken).non_finite == (0, 2)
    assert math.isnan(distance(broken, one).relative_l2)
    assert distance(torch.zeros(0), torch.zeros(0)).strict == 0, "nothing compared is not agreement"
    assert relative(0, 0) == 0 and relative(1, 0) == math.inf


def test_nan_never_passes_and_no_verdict_is_no_pass() -> None:
    assert judge(math.nan, 1, 2) == "fail" and judge(math.inf, 1, 2) == "fail"
    assert math.isnan(ratio(math.nan, 1.0)) and math.isnan(ratio(1.0, math.nan))
    assert [judge(value, 1, 2) for value in (1.0, 1.5, 2.0, 2.1)] == ["pass", "investigate", "investigate", "fail"]
    assert worst([]) == "inconclusive" and worst(["pass", "inconclusive", "investigate"]) == "inconclusive"
    assert ratio(1e-9, 0.0) < 1, "an exact reference does not turn one rounding into a failure"
