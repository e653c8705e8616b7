"""Attention in rows gives what torch's attention gives on the whole, and what watches it sees one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastvideo_port.parity import attention_rows
from fastvideo_port.parity.attention import one_backend
from fastvideo_port.parity.attention_rows import attention_in_rows
from fastvideo_port.parity.observe import observing
from fastvideo_port.parity.tracing import tracing
from torch.overrides import TorchFunctionMode

ROWS, COLUMNS = 37, 23


def _noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _mask(seed: int, *shape: int) -> torch.Tensor:
    mask = _noise(seed, *shape) > 0
    mask[..., 0] = True
    return mask


QUERY, KEY, VALUE = _noise(1, 2, 4, ROWS, 8), _noise(2, 2, 4, COLUMNS, 8), _noise(3, 2, 4, COLUMNS, 5)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "another scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "a mask of every row": {"attn_mask": _mask(4, ROWS, COLUMNS)},
    "a mask of all rows at once": {"attn_mask": _mask(5, 2, 1, 1, COLUMNS)},
    "an added bias": {"attn_mask": _noise(6, 4, ROWS, COLUMNS)},
    "fewer heads of keys": {"enable_gqa": True},
}


class _Rows(TorchFunctionMode):
    """How many rows each call of torch's attention had."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.seen.append(args[0].shape[-2])
        return func(*args, **(kwargs or {}))


@pytest.fixture
def five_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the scores of five rows."""
    monkeypatch.setattr(attention_rows, "LIMIT", 5 * QUERY[..., 0, 0].numel() * COLUMNS * 8)


@pytest.mark.usefixtures("five_rows")
@pytest.mark.parametrize("name", CASES)
def test_the_rows_are_those_of_the_whole(name: str) -> None:
    heads = 2 if "fewer" in name else 4
    given = (QUERY, KEY[:, :heads], VALUE[:, :heads])
    with attention_in_rows(True), _Rows() as whole:
        got = F.scaled_dot_product_attention(*given, **CASES[name])
    assert whole.seen == [ROWS], "what is entered later sees the model's call"
    with _Rows() as parts, attention_in_rows(True):
        F.scaled_dot_product_attention(*given, **CASES[name])
    assert parts.seen == [5, 5, 5, 5, 5, 5, 5, 2]
    torch.testing.assert_close(got, F.scaled_dot_product_attention(*given, **CASES[name]), rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("five_rows")
def test_it_is_left_alone_when_nobody_asks_and_under_dropout() -> None:
    for wanted, dropout in ((False, 0.0), (True, 0.5)):
        with _Rows() as rows, attention_in_rows(wanted):
            F.scaled_dot_product_attention(QUERY, KEY, VALUE, dropout_p=dropout)
        assert rows.seen == [ROWS]


def test_scores_that_fit_are_computed_at_once() -> None:
    with _Rows() as rows, attention_in_rows(True):
        F.scaled_dot_product_attention(QUERY, KEY, VALUE)
    assert rows.seen == [ROWS]


class _Attention(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.usefixtures("five_rows")
def test_a_trace_and_the_audit_see_one_call_of_the_math_kernel() -> None:
    model, spec = _Attention(), {"align_backends": True}
    with attention_in_rows(True), tracing(model) as trace, one_backend(spec):
        model(QUERY)
    assert [call.module for call in trace.calls] == ["", "::scaled_dot_product_attention"]
    with torch.no_grad(), attention_in_rows(True), observing(model, "cpu") as seen, one_backend(spec):
        model(QUERY)
    assert seen.kernels == {"": {"sdpa-math": 1}}
