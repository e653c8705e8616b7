"""Attention by torch's math kernel a few rows of scores at a time, where the whole matrix of scores has no room.

A row of the scores gives a row of the output and no other, so the result is that of the kernel on the whole; for 480p
latents of Wan 1.3B (32760 tokens, 12 heads) the matrix would take 48 GiB in float32 and 96 GiB in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

LIMIT = 1 << 30
"""Bytes of scores that are formed at once; the kernel holds a few matrices of that size."""


@contextmanager
def attention_in_rows(wanted: bool) -> Iterator[None]:
    """Inside, attention whose scores take more than `LIMIT` is computed a few rows at a time, if ``wanted``.

    Use it only where torch's attention runs its math kernel. Enter it before modes that watch functions: they see one
    call, as the model made it.
    """
    if not wanted:
        yield
        return
    with _InRows():
        yield


class _InRows(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return in_rows(*args, **kwargs)
        return func(*args, **kwargs)


def in_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **rest: Any,
) -> torch.Tensor:
    """``scaled_dot_product_attention`` of the same arguments, as many rows of ``query`` at a time as `LIMIT` allows.

    Args:
        query: ``[..., heads, rows, size]``.
        key, value: ``[..., heads or fewer, columns, size]``.
        attn_mask: Broadcasts to ``[..., heads, rows, columns]``.
        dropout_p: With dropout the call is made as it is, since the random numbers are drawn for the whole matrix.
        is_causal: Row ``i`` sees columns up to ``i``.
        rest: ``scale`` and ``enable_gqa``, handed on.
    """
    rows, columns = query.shape[-2], key.shape[-2]
    # Half precision is widened by the kernel.
    row_bytes = query[..., :1, 0].numel() * columns * max(4, query.element_size())
    count = max(1, LIMIT // max(1, row_bytes))
    if count >= rows or dropout_p > 0 or query.ndim < 3:
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **rest)
    parts = []
    for start in range(0, rows, count):
        part = query[..., start : start + count, :]
        mask = attn_mask
        if is_causal:
            row = torch.arange(start, start + part.shape[-2], device=query.device)
            mask = row[:, None] >= torch.arange(columns, device=query.device)
        elif mask is not None and mask.shape[-2] != 1:
            mask = mask[..., start : start + count, :]
        parts.append(F.scaled_dot_product_attention(part, key, value, mask, **rest))
    return torch.cat(parts, dim=-2)
