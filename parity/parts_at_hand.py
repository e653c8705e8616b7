"""Whether a tensor is a part of a larger one: its mean, some of its columns, one of its rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .pool import Known

_COLUMNS = 64
"""Columns by which a place in the last axis is found."""


def parts(item: Known, goal: torch.Tensor, reach: float, known: list[Known]) -> Iterator[tuple[str, torch.Tensor]]:
    """A mean, some columns, or one row of each of the batch, of a tensor that is larger than the goal.

    Args:
        item: The tensor.
        goal: What it may hold.
        reach: Relative error within which two rows are equal.
        known: Tensors at hand; the integers among them may tell which rows are taken.

    Yields:
        What part it is, in words, and the part in the goal's shape.
    """
    tensor = item.tensor
    if tensor.numel() <= goal.numel() or tensor.ndim < 2:
        return
    for axis in range(tensor.ndim):
        if tensor.numel() == goal.numel() * tensor.shape[axis]:
            for name, reduce in (("mean", torch.mean), ("sum", torch.sum), ("maximum", torch.amax)):
                yield f"the {name} over axis {axis} of {item.words}", reduce(tensor, dim=axis).reshape(goal.shape)
    if (found := _columns(tensor, goal)) is not None:
        start, width = found
        which = f"elements {start}:{start + width} of the last axis"
        if tensor.shape[-1] % width == 0 and start % width == 0:
            which = f"part {start // width + 1} of {tensor.shape[-1] // width} ({which})"
        part = tensor[..., start : start + width].reshape(goal.shape)
        yield f"{which} of {item.words}", part
    if tensor.ndim == 3 and goal.numel() == tensor.shape[0] * tensor.shape[2]:
        rows = _rows(tensor, goal.reshape(tensor.shape[0], -1), reach)
        if rows is not None:
            taken = torch.stack([tensor[b, row] for b, row in enumerate(rows)]).reshape(goal.shape)
            yield f"{_which_rows(rows, tensor.shape[1], known)} of {item.words}", taken


def _columns(tensor: torch.Tensor, goal: torch.Tensor) -> tuple[int, int] | None:
    """Start and number of the neighbouring elements of the last axis that may be the goal."""
    leading = tensor.numel() // tensor.shape[-1]
    if goal.numel() % leading:
        return None
    width = goal.numel() // leading
    if not 1 < width < tensor.shape[-1]:
        return None
    first, wanted = tensor.reshape(leading, -1)[0], goal.reshape(leading, -1)[0]
    seen = min(width, _COLUMNS)
    gaps = (first.unfold(0, seen, 1)[: tensor.shape[-1] - width + 1] - wanted[:seen]).norm(dim=1)
    return int(gaps.argmin()), width


def _rows(tensor: torch.Tensor, goal: torch.Tensor, reach: float) -> list[int] | None:
    """For each of the batch the one row of ``tensor`` ([batch, rows, width]) that is ``goal``; none if not one."""
    found = []
    for rows, wanted in zip(tensor, goal, strict=True):
        near = ((rows - wanted).norm(dim=1) <= max(reach, 1e-5) * wanted.norm()).nonzero().flatten().tolist()
        if len(near) != 1:
            return None
        found.append(near[0])
    return found


def _which_rows(rows: list[int], length: int, known: list[Known]) -> str:
    """What the rows have in common, in words."""
    if all(row == 0 for row in rows):
        return "the first row"
    reasons = ["the last row"] if all(row == length - 1 for row in rows) else []
    for item in known:
        ids = item.tensor if item.tensor.dtype != torch.bool else item.tensor.int()
        if ids.is_floating_point() or ids.shape != (len(rows), length):
            continue
        if ids.argmax(dim=1).tolist() == rows:
            reasons.append(f"where {item.words} is largest first")
        values = {int(one[row]) for one, row in zip(ids, rows, strict=True)}
        if len(values) == 1:
            value = values.pop()
            if (ids == value).int().argmax(dim=1).tolist() == rows:
                reasons.append(f"at the first {value} in {item.words}")
        if (ids != 0).sum(dim=1).sub(1).tolist() == rows:
            reasons.append(f"at the last that is not 0 in {item.words}")
    why = " or ".join(dict.fromkeys(reasons[:3])) or "for each of the batch"
    return f"row {', '.join(map(str, rows))} of axis 1 ({why})"
