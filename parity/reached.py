"""The place at which a trial's error is measured: how a forward ends there, and how far off its tensors are."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .leaves import leaves
from .metrics import distance
from .passing import in_my_axes, match


class Reached(BaseException):
    """The boundary that is measured was reached; no adapter may swallow this."""

    def __init__(self, error: float) -> None:
        self.error = error


@contextmanager
def tolerant() -> Iterator[None]:
    """A change that does not run is no explanation; it is no error either."""
    try:
        yield
    except Exception:  # whatever code of the port raises when a call in it returns something else
        return


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in the block after this time; no limit outside the main thread, or without POSIX timers."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def over(*_: Any) -> None:
        raise TimeoutError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def error_of(values: Any, goal: list[tuple[str, torch.Tensor]]) -> float:
    """Largest relative L2 between the tensors of a call and the official ones."""
    errors = []
    for _, tensor, other in paired(values, goal):
        if tensor.numel() != other.numel():
            return math.inf
        aligned = in_my_axes(tensor.shape, other)
        errors.append(distance(tensor.reshape(-1), (other if aligned is None else aligned).reshape(-1)).relative_l2)
    if any(math.isnan(error) for error in errors):
        return math.inf  # `max` would look past it
    return max(errors, default=math.inf)


def paired(values: Any, goal: list[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, tensor of a call, official tensor: of one name where all names agree, else in their order, or by value."""
    mine = [(leaf, t) for leaf, t in leaves(values) if t.numel() > 1 and t.is_floating_point()]
    official = dict(goal)
    if {leaf for leaf, _ in mine} == set(official):
        return [(leaf, tensor, official[leaf]) for leaf, tensor in mine]
    if len(mine) == len(goal):
        return [(leaf, tensor, other) for (leaf, tensor), (_, other) in zip(mine, goal, strict=True)]
    found = match(mine, goal)
    return [(leaf, tensor, found[leaf]) for leaf, tensor in mine if leaf in found]
