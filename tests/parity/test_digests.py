"""Digests see values, not storage, and comparison goes by chunks without missing a bit."""

from __future__ import annotations

import math

import pytest
import torch
from fastvideo_port.parity import digests
from fastvideo_port.parity.digests import bag, constant, fingerprint, head, same, same_rounded

Tensor = torch.Tensor


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 7 elements, so that small tensors have many."""
    monkeypatch.setattr(digests, "CHUNK", 7)


def test_a_digest_sees_values_in_order_and_a_bag_sees_values_alone() -> None:
    base = torch.arange(24.0).reshape(4, 6)
    one = fingerprint(base)
    equal = (base.double(), base.bfloat16(), base.half(), base.t().contiguous().t(), base.flatten())
    assert all(fingerprint(other) == one for other in equal)
    assert fingerprint(base.t()).ordered != one.ordered and fingerprint(base.t()).bag == one.bag
    for other in (base + 1, -base, base[:3], base.long()):
        assert fingerprint(other).ordered != one.ordered and fingerprint(other).bag != one.bag
    assert fingerprint(torch.zeros(3)) != fingerprint(-torch.zeros(3)), "the sign of zero is a bit"
    assert fingerprint(torch.tensor([1, 2])) == fingerprint(torch.tensor([1, 2], dtype=torch.int32))
    fine = torch.tensor([1.0 + 2**-40, 2.0], dtype=torch.float64)
    assert fingerprint(fine) != fingerprint(fine.float()), "a float64 that float32 cannot hold"


def test_the_arithmetic_of_a_gpu_gives_the_digest_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Project: numpy on the CPU and torch elsewhere wrap around at 2^64 alike."""
    values = torch.randn(3, 70_001, generator=torch.Generator().manual_seed(0))
    one = fingerprint(values)
    tables = digests._tables("cpu")
    monkeypatch.setattr(digests, "_sums", lambda part: digests._sums_by_torch(part, *tables))
    assert fingerprint(values) == one
    values[2, 70_000] = math.nextafter(float(values[2, 70_000]), 9.0) + 1e-6
    assert fingerprint(values).ordered != one.ordered


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("shape", [(5, 9), (2, 3, 11), (40,), (1, 50), ()])
def test_comparison_by_chunks_sees_every_element(shape: tuple[int, ...]) -> None:
    theirs = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    for mine in (theirs.clone(), theirs.float(), theirs.double().t().contiguous().t() if theirs.ndim == 2 else theirs):
        assert same([theirs], [mine]) and same_rounded(theirs, mine, torch.bfloat16)
        for position in range(theirs.numel()):
            wrong = mine.clone().contiguous()
            wrong.view(-1)[position] += 1
            assert not same([theirs], [wrong]) and not same_rounded(theirs, wrong, torch.bfloat16)
            assert fingerprint(wrong).ordered != fingerprint(mine).ordered


@pytest.mark.usefixtures("small_chunks")
def test_parts_one_after_the_other_are_the_whole() -> None:
    whole = torch.randn(9, 4)
    parts = [whole[:2], whole[2:3].bfloat16().float(), whole[3:]]
    assert same([whole[:2], whole[3:]], [parts[0], parts[2]]) and fingerprint(whole[:2], whole[2:]) == fingerprint(
        whole[:2], whole[2:5], whole[5:]
    )
    assert not same([whole], parts) and not same([whole], [whole[:8]]) and not same([whole], [whole.long()])


@pytest.mark.usefixtures("small_chunks")
def test_rounding_is_told_from_other_damage() -> None:
    theirs = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    assert same_rounded(theirs, theirs.bfloat16(), torch.bfloat16)
    assert same_rounded(theirs, theirs.bfloat16().float(), torch.bfloat16)
    assert not same_rounded(theirs, theirs.half(), torch.bfloat16)
    assert not same_rounded(theirs, theirs.bfloat16().t().contiguous(), torch.bfloat16)


@pytest.mark.usefixtures("small_chunks")
def test_constants_and_heads() -> None:
    assert constant(torch.full((5, 5), 2.0)) == 2.0 and constant(torch.zeros(())) == 0.0
    late = torch.ones(30)
    late[-1] = 0
    assert constant(late) is None and constant(torch.empty(0)) is None
    base = torch.randn(100, 3, 40)
    assert head(base) == head(base.clone().flatten()) != head(base + 1)
    assert head(base.permute(2, 0, 1)) == head(base.permute(2, 0, 1).contiguous())


def test_bags_of_parts_add_up_to_the_bag_of_the_whole_and_to_the_fingerprints() -> None:
    whole = torch.randn(3, 7000, generator=torch.Generator().manual_seed(0)).bfloat16()
    count, total, squares = bag(whole)
    assert fingerprint(whole).bag.split()[-3:] == [str(count), f"{total:x}", f"{squares:x}"]
    parts = [bag(part) for part in (whole[:, :100], whole[:, 100:].t())]
    assert tuple(sum(column) % 2**64 for column in zip(*parts, strict=True)) == (count, total, squares)
    changed = whole.clone()
    changed[0, 0], changed[0, 1] = changed[0, 0] + 1, changed[0, 1] - 1
    assert bag(changed) != (count, total, squares)
