"""The bound that the fingerprint states, on tensors made to break it; what the order-free moments recognise."""

from __future__ import annotations

import math

import pytest
import torch
from fastvideo_port.parity.sketch import WIDTH, Sketcher, fingerprint, same_values_in_any_order, sketch_distance

SIGMA = 1 / math.sqrt(2 * WIDTH)
"""The stated relative standard deviation of an estimated distance."""
N = 96 * 1024
_FIRST = torch.eye(1, WIDTH).repeat(1, 40)
"""Ones in column 0 of 40 rows."""


def _noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _one_channel(seed: int) -> torch.Tensor:
    gap = torch.zeros(N // 64, 64, dtype=torch.float64)
    gap[:, seed % 64] = _noise(seed, N // 64)
    return gap.reshape(-1)


def _one_channel_of_2048(seed: int) -> torch.Tensor:
    gap = torch.zeros(N * 8 // 2048, 2048, dtype=torch.float64)
    gap[:, seed] = _noise(seed, N * 8 // 2048)
    return gap.reshape(-1)[: N * 8]


def _one_token(seed: int) -> torch.Tensor:
    gap = torch.zeros(N // 1536, 1536, dtype=torch.float64)
    gap[seed] = _noise(seed, 1536)
    return gap.reshape(-1)


def _one_head(seed: int) -> torch.Tensor:
    gap = torch.zeros(N // 1536, 12, 128, dtype=torch.float64)
    gap[:, seed % 12] = _noise(seed, N // 1536, 128)
    return gap.reshape(-1)


def _one_channel_of_1536(seed: int) -> torch.Tensor:
    gap = torch.zeros(N * 8 // 1536, 1536, dtype=torch.float64)
    gap[:, 7 * seed] = _noise(seed, N * 8 // 1536)
    return gap.reshape(-1)


def _permuted(seed: int) -> torch.Tensor:
    base = _noise(100, N)
    return base[torch.randperm(N, generator=torch.Generator().manual_seed(seed))] - base


def _sparse(seed: int) -> torch.Tensor:
    gap = torch.zeros(N, dtype=torch.float64)
    gap[torch.randperm(N, generator=torch.Generator().manual_seed(seed))[:300]] = 1.0
    return gap


def _heavy(seed: int) -> torch.Tensor:
    return _noise(seed, N) ** 5


def _row(seed: int) -> torch.Tensor:
    gap = torch.zeros(64, N // 64, dtype=torch.float64)
    gap[seed % 64] = 1.0 + seed
    return gap.reshape(-1)


GAPS = {
    "noise": lambda seed: _noise(seed, N),
    "one channel": _one_channel,
    "one channel of 1536": _one_channel_of_1536,
    "one channel of 2048": _one_channel_of_2048,
    "one token": _one_token,
    "one head": _one_head,
    "permuted": _permuted,
    "sparse": _sparse,
    "constant": lambda seed: torch.full((N,), 1.0 + seed, dtype=torch.float64),
    "heavy tails": _heavy,
    "one row": _row,
    "alternating": lambda seed: torch.tensor([1.0, -1.0 - seed], dtype=torch.float64).repeat(N // 2),
}


@pytest.mark.parametrize("kind", GAPS)
def test_the_stated_error_bound_holds(kind: str) -> None:
    """Project: a distance from sketches is right within five of its stated standard deviations (8 per cent)."""
    for seed in range(8):
        gap = GAPS[kind](seed)
        base = _noise(100, gap.numel())
        true = float(gap.norm() / base.norm())
        found = sketch_distance(fingerprint(base + gap), fingerprint(base))
        assert abs(found / true - 1) < 5 * SIGMA, (seed, found, true)


def test_the_spread_is_the_stated_one() -> None:
    """Project: over many gaps the estimate is centred and its standard deviation is 1 / sqrt(2 WIDTH)."""
    errors = torch.tensor([float(fingerprint(_noise(seed, 8192)).sketch.norm()) for seed in range(120)])
    true = torch.tensor([float(_noise(seed, 8192).norm()) for seed in range(120)])
    relative = errors / true - 1
    assert abs(float(relative.mean())) < 0.5 * SIGMA
    assert 0.7 * SIGMA < float(relative.std()) < 1.3 * SIGMA


@pytest.mark.parametrize("elements", [1, 17, WIDTH - 1, WIDTH])
def test_small_tensors_are_exact(elements: int) -> None:
    a, b = _noise(1, elements), _noise(2, elements)
    assert sketch_distance(fingerprint(a), fingerprint(b)) == pytest.approx(float((a - b).norm() / b.norm()), rel=1e-12)


def test_it_is_linear_and_does_not_depend_on_layout_or_dtype() -> None:
    a, b = _noise(1, 40, 200), _noise(2, 40, 200)
    mixed = fingerprint(2 * a - 3 * b).sketch
    torch.testing.assert_close(mixed, 2 * fingerprint(a).sketch - 3 * fingerprint(b).sketch, rtol=1e-12, atol=1e-12)
    assert torch.equal(fingerprint(a).sketch, fingerprint(a.t().contiguous().t()).sketch), "strides do not count"
    assert torch.equal(fingerprint(a).sketch, fingerprint(a.reshape(8, 1000)).sketch), "shape does not count"
    half = a.bfloat16()
    torch.testing.assert_close(fingerprint(half).sketch, fingerprint(half.float()).sketch, rtol=1e-6, atol=1e-6)
    assert torch.equal(fingerprint(a).sketch, fingerprint(a).sketch), "nothing random between calls"


def test_special_tensors() -> None:
    empty = fingerprint(torch.zeros(0, 3))
    assert empty.elements == 0 and empty.norm == 0 and sketch_distance(empty, empty) == 0
    broken = torch.ones(5000)
    broken[[3, 7]] = torch.tensor([math.nan, math.inf])
    assert fingerprint(broken).non_finite == 2 and math.isfinite(fingerprint(broken).norm)
    complex_ = torch.complex(torch.ones(3), 2 * torch.ones(3))
    assert fingerprint(complex_).norm == pytest.approx(math.sqrt(15))
    assert sketch_distance(fingerprint(torch.ones(4)), fingerprint(torch.zeros(4))) == math.inf
    assert fingerprint(torch.tensor([True, False])).norm == 1


def test_a_permutation_is_recognised_and_only_a_permutation() -> None:
    a = _noise(3, 2, 6, 5, 8, 7)
    prints = fingerprint(a)
    for moved in (a.permute(0, 2, 3, 4, 1), a.flip(3), a.reshape(-1)[torch.randperm(a.numel())]):
        assert same_values_in_any_order(fingerprint(moved.contiguous()), prints, 1e-9)
    swapped = a.clone()
    swapped[0, 0, 0, 0, 0] += 1e-3
    others = {
        "one element": swapped,
        "scaled": a * (1 + 1e-6),
        "shifted": a + 1e-6,
        "mirrored": -a,
        "other noise": _noise(4, *a.shape),
        "zero": torch.zeros_like(a),
    }
    for name, other in others.items():
        assert not same_values_in_any_order(fingerprint(other), prints, 1e-9), name
    assert not same_values_in_any_order(fingerprint(a[:1]), prints, 1e-9)


def test_a_sum_is_what_the_definition_says() -> None:
    """Project: the CPU's plan against the two sentences of the module text, one element at a time."""
    for element in (0, 1, 2047, 2048, 40000, 65535, 1000003):
        one = torch.zeros(1 << 20, dtype=torch.float64)
        one[element] = 3.0
        sums = fingerprint(one).sketch
        assert sums.count_nonzero() == 1 and float(sums.abs().max()) == 3.0
    rows = [int(fingerprint(row).sketch.abs().argmax()) for row in torch.eye(40).repeat_interleave(WIDTH, 1) * _FIRST]
    assert len(set(rows)) > 30, "column 0 goes to another sum in another row"


def test_narrow_sketches_are_float32_numbers() -> None:
    sums = fingerprint(_noise(1, 9000), narrow=True).sketch
    assert torch.equal(sums, sums.float().double()) and not torch.equal(sums, fingerprint(_noise(1, 9000)).sketch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_computes_the_same() -> None:
    random = torch.Generator().manual_seed(5)
    for shape, dtype in (((70001,), torch.float64), ((9, 5000), torch.float32), ((300, 777), torch.bfloat16)):
        values = torch.randn(shape, generator=random).to(dtype)
        for tensor in (values, values.t() if values.ndim == 2 else values[1:]):
            want, got = fingerprint(tensor), fingerprint(tensor.cuda())
            assert sketch_distance(got, want) < (1e-6 if dtype == torch.bfloat16 else 1e-12)
            assert got.moments[2:] == want.moments[2:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_keeps_what_a_tensor_held_when_it_was_added() -> None:
    sketcher = Sketcher()
    tensors = [_noise(index, 3, 500 + 400 * index).cuda() for index in range(5)]
    wanted = [fingerprint(tensor.cpu()) for tensor in tensors]
    for tensor in tensors:
        sketcher.add(tensor)
        tensor.zero_()
    for got, want in zip(sketcher.finish(), wanted, strict=True):
        assert sketch_distance(got, want) < 1e-12 and got.moments[2:] == want.moments[2:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_s_fingerprints_are_those_of_the_cpu_however_many_there_are() -> None:
    """Project: more than a slab and than what is held, small ones among them."""
    random = torch.Generator().manual_seed(9)
    tensors: list[torch.Tensor] = []
    for index in range(2500):
        size = (3000 + 7 * (index % 700)) if index % 3 else 1 + index % 1500
        dtype = (torch.float32, torch.bfloat16, torch.int64)[index % 7 % 3]
        tensors.append((torch.randn(size, generator=random) * 9).to(dtype))
    tensors[6][0] = float("inf")
    wanted = [fingerprint(tensor) for tensor in tensors]
    sketcher = Sketcher()
    for tensor in tensors:
        sketcher.add(tensor.cuda())
    for got, want in zip(sketcher.finish(), wanted, strict=True):
        assert sketch_distance(got, want) < 1e-6 and got.non_finite == want.non_finite
        assert got.moments[2:] == want.moments[2:] and got.packed.dtype == want.packed.dtype
