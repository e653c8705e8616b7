"""Equal values in another order are told from other values."""

from __future__ import annotations

import pytest
import torch
from fastvideo_port.parity.layout import reordering

LATENTS = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("port", "official", "words"),
    [
        (LATENTS.permute(0, 2, 3, 4, 1), LATENTS, "0 2 3 4 1 (B T H W C in place of B C T H W)"),
        (TOKENS.transpose(0, 1), TOKENS, "1 0 2"),
        (
            TOKENS.unflatten(2, (3, 4)).transpose(2, 3).flatten(2),
            TOKENS,
            "axis 2 (of 12) interleaved: 3 x 4 became 4 x 3",
        ),
        (TOKENS.roll(6, 2), TOKENS, "halves of axis 2 exchanged"),
        (TOKENS.flip(1), TOKENS, "axis 1 reversed"),
        (TOKENS[:, torch.tensor([1, 0, 2, 4, 3, 6, 5])], TOKENS, "no permutation of axes"),
    ],
)
def test_an_order_is_told(port: torch.Tensor, official: torch.Tensor, words: str) -> None:
    found = reordering(port, official, 1e-6)
    assert found is not None and words in found, found


def test_rounding_does_not_hide_an_order() -> None:
    port = (TOKENS * (1 + 1e-6)).transpose(0, 1)
    assert reordering(port, TOKENS, 1e-5) is not None
    assert reordering(port, TOKENS, 1e-8) is None


@pytest.mark.parametrize("port", [TOKENS, TOKENS + 1e-9, TOKENS * 2, TOKENS[:1], torch.zeros_like(TOKENS)])
def test_the_same_order_and_other_values_are_no_reordering(port: torch.Tensor) -> None:
    assert reordering(port, TOKENS, 1e-6) is None
