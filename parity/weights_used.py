"""Which of a model's weights its output depends on: those that have a gradient, or move it where gradients are off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .errors import ParityError
from .leaves import leaves

_LIMIT = 500_000_000
"""So many parameters at most: the run keeps what the backward pass needs beside the model."""
_MOST_TRIED = 64
"""So many weights at most are changed one at a time."""


def weights_used(model: torch.nn.Module, forward: Callable[[], Any]) -> tuple[dict[str, bool] | None, Any]:
    """Run ``forward`` with gradients and a random projection of its output backwards.

    Each gradient is looked at and let go as soon as it is there, so that they are never in memory together.

    Args:
        model: Its floating parameters are asked about; their ``requires_grad`` and ``grad`` stay as they were.
        forward: One call of the model.

    Returns:
        Parameter -> whether it has a gradient, none when the model does not let gradients through or is too large; and
        what ``forward`` returned, none when it was not run or raised.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    if not parameters or sum(p.numel() for p in parameters.values()) > _LIMIT:
        return None, None
    before = {name: (p.requires_grad, p.grad) for name, p in parameters.items()}
    used = dict.fromkeys(parameters, False)
    output: Any = None
    handles = []

    def watch(name: str, parameter: torch.nn.Parameter) -> None:
        def look(_: torch.Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            used[name] = used[name] or (gradient is not None and _nonzero(gradient))

        parameter.requires_grad_(True)
        parameter.grad = None
        handles.append(parameter.register_post_accumulate_grad_hook(look))  # type: ignore[no-untyped-call]

    try:
        for name, parameter in parameters.items():
            watch(name, parameter)
        with torch.enable_grad():
            output = forward()
            ends = [tensor for _, tensor in leaves(output) if tensor.requires_grad]
            if not ends:
                return None, output
            generator = torch.Generator().manual_seed(7)
            loss = sum((t.float() * torch.randn(t.shape, generator=generator).to(t.device)).sum() for t in ends)
            torch.autograd.backward(loss, inputs=list(parameters.values()))  # type: ignore[arg-type]
    except (ParityError, RuntimeError):
        return None, output
    finally:
        for handle in handles:
            handle.remove()
        for name, parameter in parameters.items():
            wanted, parameter.grad = before[name]
            parameter.requires_grad_(wanted)
    return used, output


def asked_again(model: torch.nn.Module, used: dict[str, bool], moves: Callable[[], bool]) -> dict[str, bool]:
    """``used`` with those without a gradient tried out: code under ``no_grad`` or behind a ``detach`` has none.

    Args:
        model: The model; its weights are the same afterwards.
        used: What `weights_used` said.
        moves: One call of the model: whether its output is another one now.

    Returns:
        Parameter -> whether the output depends on it. Where more than `_MOST_TRIED` have no gradient and changing all
        of them moves the output, nothing is said of them: one forward each would take too long.
    """
    parameters = dict(model.named_parameters())
    silent = [name for name, found in used.items() if not found]
    if not silent or not _moves(parameters, silent, moves):
        return used
    if len(silent) > _MOST_TRIED:
        return {name: True for name, found in used.items() if found}
    return {**used, **{name: _moves(parameters, [name], moves) for name in silent}}


def _moves(parameters: dict[str, torch.nn.Parameter], names: list[str], moves: Callable[[], bool]) -> bool:
    """Whether the output changes with these weights."""
    kept = {name: parameters[name].detach().clone() for name in names}
    try:
        with torch.no_grad():
            for name in names:
                parameters[name].mul_(1.5).add_(0.5)
            return moves()
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                parameters[name].copy_(value)


def _nonzero(tensor: torch.Tensor) -> bool:
    """Whether any element is not zero; most tensors show it in their first row."""
    first = tensor[:1] if tensor.ndim > 1 else tensor
    return bool((first != 0).any()) or bool((tensor != 0).any())
