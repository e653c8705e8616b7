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


def test_the_largest_gaps_are_located_and_the_outsiders_counted() -> None:
    b = torch.ones(2, 3, 4)
    b[0, 0, 0] = 0
    a = b.clone()
    a[1, 2, 3] += 0.5
    a[0, 1, 2] += 0.5
    a[1, 0, 0] += 1e-3
    b[1, 1, 1], a[1, 1, 1] = 1e-6, 1e-5
    found = distance(a, b)
    assert (found.max_abs, found.max_abs_at) == (0.5, (0, 1, 2)), "the first of two"
    assert found.max_rel_at == (1, 1, 1) and found.max_rel == pytest.approx(9, rel=1e-5)
    assert (found.outside_strict, found.outside_loose) == (3, 2) and found.strict == 21 / 24
    assert distance(torch.tensor(3.0), torch.tensor(2.0)).max_abs_at == ()
    zeros = distance(torch.ones(3), torch.zeros(3))
    assert zeros.max_rel == 0 and zeros.max_rel_at is None


def test_infinities_and_nan_are_close_as_assert_close_has_it() -> None:
    cases = [(math.inf, math.inf), (math.inf, -math.inf), (1.0, math.inf), (math.inf, 1.0), (math.nan, math.nan)]
    for x, y in cases:
        a, b = torch.tensor([x, 2.0]), torch.tensor([y, 2.0])
        try:
            torch.testing.assert_close(a, b, atol=0.1, rtol=0.1)
            close = True
        except AssertionError:
            close = False
        assert (distance(a, b).loose == 1) is close, (x, y)
    equal = distance(torch.tensor([math.inf, 2.0]), torch.tensor([math.inf, 2.0]))
    assert equal.max_abs == 0 and math.isnan(equal.relative_l2), "an infinite norm hides any error"
    assert math.isnan(distance(torch.tensor([math.nan, 9.0]), torch.tensor([1.0, 1.0])).max_abs)


@pytest.mark.parametrize("size", [1e-170, 1e200])
def test_squares_beyond_float64_do_not_hide_an_error(size: float) -> None:
    b = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64) * size
    found = distance(b * 1.5, b)
    assert found.relative_l2 == pytest.approx(0.5) and found.cosine == pytest.approx(1)


def test_integers_beyond_float64_differ_by_one() -> None:
    assert distance(torch.tensor([2**60 + 1]), torch.tensor([2**60])).max_abs == 1
    assert distance(torch.tensor([2**63 - 1]), torch.tensor([-(2**63)])).max_abs == 2.0**64


def test_any_layout_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(metrics.CHUNKS, "cpu", 64)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 7, 8, generator=generator) for _ in range(2))
    found = distance(a.transpose(0, 2), b.transpose(0, 2).contiguous())
    plain = distance(a.transpose(0, 2).contiguous(), b.transpose(0, 2).contiguous())
    assert found.max_abs_at == plain.max_abs_at and found.max_rel_at == plain.max_rel_at
    assert found.outside_strict == plain.outside_strict and found.relative_l2 == pytest.approx(
        plain.relative_l2, rel=1e-12
    )
    whole, real = torch.complex(a, b), b
    mixed = distance(whole.mT, real.mT)
    assert mixed.elements == 672 and mixed.max_abs == pytest.approx(
        max(float((a - b).abs().max()), float(b.abs().max()))
    )
    assert distance(whole.conj(), whole.conj().resolve_conj()).max_abs == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_decides_on_16_bit_pairs_as_float64_does(dtype: torch.dtype) -> None:
    """What the GPU kernel relies on: for every b, the values of a around both bounds of both tolerances."""
    values = torch.arange(65536, dtype=torch.int32).sub(32768).to(torch.int16).view(dtype).float()
    values = values[values.isfinite()].unique()
    for tolerance in (1e-4, 0.1):
        bound = tolerance + tolerance * values.double().abs()
        single = torch.tensor(tolerance)
        for side in (-1, 1):
            place = torch.searchsorted(values.double(), values.double() + side * bound)
            for step in range(-3, 4):
                a = values[(place + step).clamp(0, len(values) - 1)]
                exact = (a.double() - values.double()).abs() > bound
                # The product of twice 24 binary digits is exact in float64, so these round as an FMA does.
                if dtype == torch.bfloat16:
                    left = (values.abs() + 1).double() * single.double() - (a - values).abs().double()
                else:
                    left = (values.abs().double() * single.double() + single.double()).float() - (a - values).abs()
                assert torch.equal(left < 0, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_upper_halves_of_float64_estimate_a_ratio_well_enough(dtype: torch.dtype) -> None:
    """What the GPU kernel chooses chunks by: equal ratios are estimated within 0.87, and only 0 gives NaN."""
    values = torch.arange(32768, dtype=torch.int32).to(torch.int16).view(dtype).double()
    values = values[values.isfinite()]
    half = (values.view(torch.int64) >> 32).int()
    inverse = (0x7FC00000 - half).view(torch.float32)
    assert torch.equal(inverse.isnan(), values == 0)
    nonzero = values > 0
    gap, size = half.view(torch.float32)[nonzero], inverse[nonzero]
    # log2 of the estimate less an eighth of the ratio's is this of the gap plus that of the size.
    of_gap = gap.double().log2() - values[nonzero].log2() / 8
    of_size = size.double().log2() + values[nonzero].log2() / 8
    spread = of_gap.max() - of_gap.min() + of_size.max() - of_size.min()
    assert 2.0 ** -float(spread) > 0.87 * (1 + 1e-6)
    assert float(gap.max()) * float(size.max()) < 1e38 and float(gap.min()) * float(size.min()) > 1e-38


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("expected", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("actual", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_gpu_says_what_the_cpu_says(actual: torch.dtype, expected: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(99, 1013, generator=generator)
    a = b + 0.05 * torch.randn(99, 1013, generator=generator)
    b[:, ::9] = 0
    for broken in (False, True):
        if broken:
            a[5, 7], a[50, 7], b[50, 7] = math.nan, math.inf, math.inf
        x, y = a.to(actual), b.to(expected)
        for here in (
            distance(x.cuda(), y.cuda()),
            distance(x.cuda(), y),
            distance(x.cuda().mT.contiguous().mT, y.cuda()),
        ):
            there = distance(x, y)
            for name, value in there._asdict().items():
                assert getattr(here, name) == (
                    pytest.approx(value, rel=1e-12, nan_ok=True) if isinstance(value, float) else value
                )
    assert metrics.fallback() == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gpu_places_the_maxima_of_large_16_bit_pairs_as_the_cpu_does(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    b = torch.randn((1 << 21) + 1002, generator=generator).to(dtype)
    b[::7] = 0
    for a in (b, -b, b + 0.05, torch.zeros_like(b), (b.view(torch.int16) ^ 1).view(dtype), b / 0):
        here, there = distance(a.cuda(), b.cuda()), distance(a, b)
        for name, value in there._asdict().items():
            close = pytest.approx(value, rel=1e-12, nan_ok=True) if isinstance(value, float) else value
            assert getattr(here, name) == close, name
    assert metrics.fallback() == ""
