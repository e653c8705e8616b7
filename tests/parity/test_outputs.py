"""What is kept of an output is its own numbers; what has none is refused with its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastvideo_port.parity.outputs import storable


class Liar(torch.Tensor):
    """Shows something else than it holds to whoever copies it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("detach", "clone", "to", "contiguous", "as_subclass"):
            return torch.zeros(3)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_tensor_that_shows_other_numbers_than_it_holds_is_kept_as_it_is() -> None:
    kept = storable(torch.Tensor._make_subclass(Liar, torch.arange(3.0)))
    assert type(kept) is torch.Tensor and kept.tolist() == [0.0, 1.0, 2.0]


def test_parameters_views_and_complex_numbers_are_kept() -> None:
    assert storable(torch.nn.Parameter(torch.ones(2))).tolist() == [1.0, 1.0]
    assert storable(torch.arange(6.0).view(2, 3).t()).is_contiguous()
    assert storable(torch.tensor([1 + 2j])).tolist() == [[1.0, 2.0]]
    assert storable(torch.tensor([1 + 2j]).conj()).tolist() == [[1.0, -2.0]]


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        ("meta", torch.ones(2, device="meta")),
        ("sparse", torch.ones(2).to_sparse()),
        ("quantized", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)),
        ("nested", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    ],
)
def test_a_tensor_without_numbers_of_its_own_is_refused_by_name(kind: str, tensor: torch.Tensor) -> None:
    with pytest.raises(TypeError, match=f"video is a {kind} tensor"):
        storable(tensor, "video")
