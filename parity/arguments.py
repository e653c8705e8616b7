"""Whether a call that returns the wrong thing was only handed the wrong ones of the right tensors.

The inputs of a module without a counterpart cannot be compared place by place: a key in the place of a query, or the
image's gate in the place of the text's, is an official tensor all the same. So the forward is run again with these
inputs exchanged, or with other tensors of the caller in their places. If that makes the outputs right, the module's own
code is right too, and the mistake is where it is called.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .leaves import leaves, swap_leaf
from .passing import Forcer, Kept, Where, passing
from .reached import Reached, error_of, tolerant

MOST_TRIALS = 120
BUDGET_S = 30.0
_MOST_PERMUTED = 4
_PARTS = range(2, 13)


@dataclass(frozen=True)
class _Change:
    """Tensors to put in the place of arguments.

    Attributes:
        moved: Argument (name of the leaf), the tensor, what it is in words, the argument it was (if it was one).
    """

    moved: tuple[tuple[str, torch.Tensor, str, str | None], ...]


def exchanged(
    model: torch.nn.Module,
    run: Callable[[], None],
    forcer: Forcer,
    kept: Kept,
    partner: Mapping[str, str],
    *,
    module: str,
    occurrence: int,
    target: tuple[str, int, Where],
    reach: float,
) -> dict[str, Any]:
    """Hand a call other tensors and see which of them makes its effect right.

    Args:
        model: The port.
        run: Makes one forward of it.
        forcer: Forces official tensors upon every module with a counterpart.
        kept, partner: The official tensors, and port module -> official module.
        module, occurrence: The call.
        target: Module, occurrence and side at which the error is measured.
        reach: Relative error that counts as gone.

    Returns:
        ``tried`` (number of trials) and ``moved``: rows with ``argument`` (name of the leaf), ``words`` (what belongs
        there) and ``was`` (the argument that it is now, or none), of the first change after which the error is gone;
        ``unused``: arguments on which nothing depends.
    """
    goal = kept.leaves(partner[target[0]], target[1], target[2])
    caller = module.rpartition(".")[0]
    given: dict[str, torch.Tensor] = {}
    around: list[tuple[str, torch.Tensor]] = []
    change: _Change | None = None

    def act(name: str, number: int, where: Where, values: Any) -> Any:
        if (name, number, where) == tuple(target):
            raise Reached(error_of(values, goal))
        here = (name, number, where) == (module, occurrence, "inputs")
        if here and change is not None:
            for argument, tensor, _, _ in change.moved:
                values = swap_leaf(values, argument, tensor)
            return values
        changed = forcer(name, number, where, values)
        if here and not given:
            given.update(_floats(changed if changed is not None else values))
        elif change is None and not given:
            if name == caller and where == "inputs":
                around.clear()  # an earlier call of the same code
            if name == caller or name.startswith(f"{caller}.") or not caller:
                side = "is handed" if where == "inputs" else "returns"
                for leaf, tensor in _floats(changed if changed is not None else values).items():
                    which = f"{leaf} of what" if leaf else "what"
                    around.append((f"{which} {name or 'the model'} {side}", tensor))
        return changed

    def once() -> float:
        try:
            with passing(model, act):
                run()
        except Reached as reached:
            return reached.error
        return float("inf")

    before = once()
    unused = []
    for argument, tensor in list(given.items()):
        change = _Change(((argument, 2 * tensor + 1, "", None),))
        with tolerant():
            if once() == before:
                unused.append(argument)
    tried, started = 0, time.thread_time()
    for change in _changes(given, around):
        if tried >= MOST_TRIALS or time.thread_time() - started > BUDGET_S:
            break
        tried += 1
        with tolerant():
            if once() <= reach:
                rows = [{"argument": a, "words": words, "was": was} for a, _, words, was in change.moved]
                return {"tried": tried, "moved": rows, "unused": unused}
    return {"tried": tried, "moved": [], "unused": unused}


def _floats(values: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in leaves(values) if _counts(tensor)}


def _counts(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 1 and tensor.device.type != "meta"


def _changes(given: Mapping[str, torch.Tensor], around: list[tuple[str, torch.Tensor]]) -> Iterator[_Change]:
    yield from _orders(given)
    turns = [_replacements(argument, tensor, around) for argument, tensor in given.items()]
    for change in itertools.chain.from_iterable(itertools.zip_longest(*turns)):
        if change is not None:
            yield change


def _replacements(argument: str, tensor: torch.Tensor, around: list[tuple[str, torch.Tensor]]) -> Iterator[_Change]:
    """Other tensors of the caller in one argument's place, the nearest first: what was made last is handed on."""
    seen = [tensor]
    for words, other in itertools.chain.from_iterable(_fitting(tensor, *row) for row in reversed(around)):
        if not any(torch.equal(other, known) for known in seen):
            seen.append(other)
            yield _Change(((argument, other, words, None),))


def _orders(given: Mapping[str, torch.Tensor]) -> Iterator[_Change]:
    """The arguments of one shape in every other order; of more than `_MOST_PERMUTED`, two exchanged."""
    groups: dict[torch.Size, list[str]] = {}
    for name, tensor in given.items():
        groups.setdefault(tensor.shape, []).append(name)
    for names in groups.values():
        orders = (
            itertools.permutations(names)
            if len(names) <= _MOST_PERMUTED
            else (tuple({a: b, b: a}.get(n, n) for n in names) for a, b in itertools.combinations(names, 2))
        )
        for order in orders:
            moved = [(a, b) for a, b in zip(names, order, strict=True) if not torch.equal(given[a], given[b])]
            if moved:
                yield _Change(tuple((a, given[b], f"its argument {b}", b) for a, b in moved))


def _fitting(wanted: torch.Tensor, words: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A tensor in the shape of an argument: whole, or one of its equal parts along the last axis (modulations)."""
    if tensor.numel() == wanted.numel() and tensor.shape[-1] == wanted.shape[-1]:
        yield words, tensor.reshape(wanted.shape)
    for parts in _PARTS:
        if tensor.numel() == parts * wanted.numel() and tensor.shape[-1] == parts * wanted.shape[-1]:
            for number, part in enumerate(tensor.chunk(parts, dim=-1)):
                yield f"part {number + 1} of {parts} of {words}", part.reshape(wanted.shape)
