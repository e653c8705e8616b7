"""Nested inputs and outputs as named tensors."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from fastvideo_port.parity.leaves import leaves, map_tensors, replace_leaf, swap_leaf


@dataclass
class _Output:
    sample: torch.Tensor
    extra: tuple[torch.Tensor, ...]
    nothing: None = None


def _names(value: object) -> list[str]:
    return [name for name, _ in leaves(value, strict=True)]


def test_every_kind_of_container_gives_stable_names() -> None:
    t = torch.ones(2)
    assert _names(t) == [""]
    assert _names((t, [t, t])) == ["[0]", "[1][0]", "[1][1]"]
    assert _names(OrderedDict(b=t, a={"c": t, "d": None})) == ["b", "a.c"]
    assert _names({"x": _Output(t, (t, t))}) == ["x.sample", "x.extra[0]", "x.extra[1]"]
    assert _names(_Output(t, ())) == ["sample"]
    assert _names([]) == _names({}) == _names(None) == []


def test_lists_of_different_lengths_differ_in_names() -> None:
    t = torch.ones(1)
    assert set(_names([t, t, t])) - set(_names([t, t])) == {"[2]"}


def test_numbers_become_float64_tensors() -> None:
    found = leaves({"i": 3, "f": 0.1, "b": True})
    assert [(name, tensor.dtype, tensor.item()) for name, tensor in found] == [
        ("i", torch.float64, 3.0),
        ("f", torch.float64, 0.1),
        ("b", torch.float64, 1.0),
    ]


@pytest.mark.parametrize("value", [object(), {"a": "text"}, [torch.ones(1), {1, 2}], _Output])
def test_what_cannot_be_compared_is_refused_only_when_strict(value: object) -> None:
    with pytest.raises(TypeError):
        leaves(value, strict=True)
    assert all(isinstance(tensor, torch.Tensor) for _, tensor in leaves(value))


def test_map_and_replace_touch_what_they_name_and_nothing_else() -> None:
    bundle = {"x": torch.zeros(2), "deep": [torch.zeros(1), (torch.zeros(3), "kept")]}
    doubled = map_tensors(bundle, lambda tensor: tensor + 1)
    assert [float(tensor.sum()) for _, tensor in leaves(doubled)] == [2.0, 1.0, 3.0]
    assert doubled["deep"][1][1] == "kept" and isinstance(doubled["deep"][1], tuple)
    for name, tensor in leaves(bundle):
        changed = replace_leaf(bundle, name, lambda value: value + 5)
        assert [other for other, after in leaves(changed) if bool((after != 0).any())] == [name]
        assert bool((tensor == 0).all())


@dataclasses.dataclass
class _Metadata:
    bias: torch.Tensor | None = None


def test_swapping_a_leaf_leaves_shared_caches_and_metadata_the_objects_they_are() -> None:
    """T5 writes its position bias into the metadata of all layers, Wan's VAE its frames into a list of caches."""
    metadata, cache, new = _Metadata(), [torch.zeros(2), None], torch.ones(3)
    values = (torch.zeros(3), metadata, cache, {"mask": torch.zeros(1)})
    swapped = swap_leaf(values, "[0]", new)
    assert torch.equal(swapped[0], new) and torch.equal(values[0], torch.zeros(3))
    assert swapped[1] is metadata and swapped[2] is cache and swapped[3] is values[3]
    assert swap_leaf(values, "[2][0]", torch.ones(2))[2] is cache and torch.equal(cache[0], torch.ones(2))
    metadata.bias = torch.zeros(2)
    assert swap_leaf(values, "[1].bias", torch.ones(2))[1] is metadata and torch.equal(metadata.bias, torch.ones(2))
    assert swap_leaf(values, "[3].mask", torch.ones(1))[3] is not values[3] and float(values[3]["mask"]) == 0
