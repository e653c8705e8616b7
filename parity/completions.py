"""What is left to do to a wrong tensor to make it the official one: add, multiply, activate, pass through a module.

Nothing of the port is run again but single modules: the wrong tensor, the official one and what the suspect's code has
at hand are there. Most candidates are ruled out by a sample of the elements.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .activations import ACTIVATIONS
from .metrics import distance
from .parts_at_hand import parts
from .pool import Call, Known, Pool, broadcasts, first_tensor
from .reached import tolerant

_SAMPLE = 512
_FEWEST = 8
"""Elements of an official tensor below which a match proves nothing."""
_MOST_MODULE_CALLS = 300
_MOST_BYTES = 1 << 30
"""Of what modules make of the tensors at hand."""

_JOINED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "{{x}} plus {t}": lambda x, t: x + t,
    "{{x}} minus {t}": lambda x, t: x - t,
    "{{x}} times {t}": lambda x, t: x * t,
    "{{x}} times (1 + {t})": lambda x, t: x * (1 + t),
}


@dataclass(frozen=True)
class Completion:
    """How one tensor becomes the official one.

    Attributes:
        words: The change, ``{x}`` standing for the wrong tensor.
        after: Relative error with it.
        item: What is used for it, if anything is.
    """

    words: str
    after: float
    item: Known | None = None


class Completions:
    """Looks for completions of one tensor after the other.

    Args:
        pool: What is at hand.
        reach: Relative error that counts as gone.
        alone: Runs a module without the hooks' doing anything.
        in_time: Whether there is time left.

    Attributes:
        tried: Number of candidates.
    """

    def __init__(
        self, pool: Pool, reach: float, alone: Callable[[], Any], in_time: Callable[[], bool] = lambda: True
    ) -> None:
        self.pool = pool
        self.reach = reach
        self.alone = alone
        self.in_time = in_time
        self.tried = 0
        self._computed: list[Known] | None = None

    def of(self, wrong: torch.Tensor, goal: torch.Tensor, more: Sequence[Known] = ()) -> Completion | None:
        """The simplest completion of ``wrong`` to ``goal``; none, also if the goal holds too little to prove one.

        Args:
            wrong: The port's tensor.
            goal: The official one.
            more: What is known beside the pool.
        """
        goal = goal.to(wrong.device)
        if goal.numel() < _FEWEST or not _various(goal):
            return None
        sample = _Sample(goal)
        for words, make, item in self._candidates(wrong, goal, more):
            if not self.in_time():
                return None
            self.tried += 1
            with tolerant():
                if (after := sample.error(make, self.reach)) <= self.reach:
                    if item is not None:
                        words = words.replace(item.words, f"{item.words}{self._or(item)}")
                    return Completion(words, after, item)
        return None

    def _or(self, item: Known) -> str:
        """Other tensors at hand that hold the same values: the numbers cannot tell them apart."""
        others = [
            other.words
            for other in self.pool.known()
            if other.tensor.data_ptr() != item.tensor.data_ptr()
            and other.tensor.shape == item.tensor.shape
            and torch.equal(other.tensor, item.tensor)
        ]
        return f" (or {', or '.join(others[:2])}: they hold the same values)" if others else ""

    def _candidates(
        self, wrong: torch.Tensor, goal: torch.Tensor, more: Sequence[Known]
    ) -> Iterator[tuple[str, Callable[..., torch.Tensor], Known | None]]:
        x = _like(wrong, goal)
        known = [*more, *self.pool.known()]
        numbers = [(item, _like(item.tensor, goal)) for item in known if item.tensor.is_floating_point()]
        fitting = [(item, tensor) for item, tensor in numbers if tensor is not None]
        fitting.sort(key=lambda pair: pair[0].tensor.shape != goal.shape)  # what fits as it is was meant, not a view
        if x is not None:
            yield from ((f"{name} applied to {{x}}", _Of(f, x), None) for name, f in ACTIVATIONS.items())
        for item, tensor in fitting:
            if tensor.shape == goal.shape:
                yield f"{item.words} in the place of {{x}}", _Of(_same, tensor), item
        if x is not None:
            for item, tensor in fitting:
                for words, join in _JOINED.items():
                    yield words.format(t=item.words), _Of(join, x, tensor), item
        for item, tensor in fitting:
            if tensor.shape == goal.shape:
                for name, f in ACTIVATIONS.items():
                    yield f"{name} of {item.words} in the place of {{x}}", _Of(f, tensor), item
        for item, _ in numbers:
            for words, part in parts(item, goal, self.reach, known):
                yield f"{words} in the place of {{x}}", _Of(_same, part), item
        yield from self._by_modules(wrong, x, goal, known)

    def _by_modules(
        self, wrong: torch.Tensor, x: torch.Tensor | None, goal: torch.Tensor, known: list[Known]
    ) -> Iterator[tuple[str, Callable[..., torch.Tensor], Known | None]]:
        """The wrong tensor passed through a module, then what modules make of the tensors at hand."""
        called = {call.module for call in self.pool.calls}
        modules = sorted(self.pool.modules(), key=lambda pair: pair[0] in called)
        for name, module in modules:
            for call in _like_calls(module, self.pool):
                made = self._run(module, (wrong, *call.args[1:]), call.kwargs)
                if made is not None and (fit := _like(made, goal)) is not None:
                    yield f"{{x}} passed through `{name}`{_as_in(call)}", _Of(_same, fit), None
        for item in self._made_by_modules(modules, known):
            if (fit := _like(item.tensor, goal)) is None:
                continue
            if fit.shape == goal.shape:
                yield f"{item.words} in the place of {{x}}", _Of(_same, fit), item
            if x is not None:
                for words, join in _JOINED.items():
                    yield words.format(t=item.words), _Of(join, x, fit), item

    def _made_by_modules(self, modules: list[tuple[str, torch.nn.Module]], known: list[Known]) -> list[Known]:
        if self._computed is None:
            self._computed = []
            pairs, room = itertools.product(modules, known), _MOST_BYTES
            for (name, module), item in itertools.islice(pairs, 10 * _MOST_MODULE_CALLS):
                if len(self._computed) >= _MOST_MODULE_CALLS or not self.in_time():
                    break
                made = self._run(module, (item.tensor,), {})
                if made is not None:
                    room -= made.nbytes
                    if room < 0:
                        break
                    words = f"what `{name}` makes of {item.words}"
                    self._computed.append(replace(item, tensor=made, words=words, version=made._version))
        return self._computed

    def _run(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
        with tolerant(), self.alone():
            return first_tensor(module.forward(*args, **kwargs))
        return None


def explain(
    completions: Completions, pairs: Sequence[tuple[str, torch.Tensor, torch.Tensor]]
) -> tuple[list[tuple[str, Completion]], bool]:
    """Complete every wrong tensor of a call; what was made right may be needed for the next.

    Args:
        completions: Finds them.
        pairs: Name in words, the port's tensor, the official one.

    Returns:
        The completions with the names of the tensors, and whether every wrong tensor has one.
    """
    right: list[Known] = []
    wrong = []
    for name, mine, theirs in pairs:
        known = Known(theirs.to(mine.device), f"the right {name}")
        if mine.numel() == theirs.numel() and _error(mine.reshape(-1), theirs.reshape(-1)) <= completions.reach:
            right.append(replace(known, tensor=mine, words=name, version=mine._version))
        else:
            wrong.append((name, mine, theirs, known))
    found: list[tuple[str, Completion]] = []
    while wrong:
        for row in wrong:
            name, mine, theirs, known = row
            completion = completions.of(mine, theirs, right)
            if completion is not None:
                found.append((name, completion))
                right.append(known)
                wrong.remove(row)
                break
        else:
            return found, False
    return found, True


class _Of:
    """A function of tensors that all have (or broadcast to) one shape, so that it can be had of some elements alone."""

    def __init__(self, function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> None:
        self.function = function
        self.tensors = tensors

    def __call__(self) -> torch.Tensor:
        return self.function(*self.tensors)

    def at(self, index: tuple[torch.Tensor, ...], shape: torch.Size) -> torch.Tensor:
        """The elements at ``index`` of the result in ``shape``."""
        return self.function(*(tensor.broadcast_to(shape)[index] for tensor in self.tensors))


class _Sample:
    """The error of a candidate; of most, only at some elements spread over the goal."""

    def __init__(self, goal: torch.Tensor) -> None:
        self.goal = goal
        steps = torch.linspace(0, goal.numel() - 1, min(_SAMPLE, goal.numel()), device=goal.device).long()
        self.index = torch.unravel_index(steps, goal.shape)
        self.values = goal[self.index]

    def error(self, make: Callable[[], torch.Tensor], reach: float) -> float:
        if (
            isinstance(make, _Of)
            and not _error(make.at(self.index, self.goal.shape), self.values) <= 100 * reach + 1e-4
        ):
            return math.inf
        made = make()
        return _error(made.broadcast_to(self.goal.shape).reshape(-1), self.goal.reshape(-1))


def _like(tensor: torch.Tensor, goal: torch.Tensor) -> torch.Tensor | None:
    """The tensor so that it broadcasts to the goal; none where it does not."""
    if tensor.numel() == goal.numel():
        return tensor.reshape(goal.shape)
    candidates = [tensor, tensor.unsqueeze(1)] if tensor.ndim == goal.ndim - 1 and tensor.ndim > 1 else [tensor]
    return next((candidate for candidate in candidates if broadcasts(candidate, goal)), None)


def _like_calls(module: torch.nn.Module, pool: Pool) -> list[Call]:
    """A call without further arguments, and the last of a module of the same class."""
    plain = Call("", 0, (), {}, "", 0)
    same = [call for call in pool.calls if type(pool.model.get_submodule(call.module)) is type(module)]
    further = [call for call in same[-1:] if len(call.args) > 1 or call.kwargs]
    return [plain, *further]


def _as_in(call: Call) -> str:
    return f", called as `{call.module}` is (line {call.line})" if call.module else ""


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _various(goal: torch.Tensor) -> bool:
    return bool((goal != goal.reshape(-1)[0]).any())


def _error(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    error = distance(mine.detach(), theirs.to(mine.device)).relative_l2
    return math.inf if math.isnan(error) else error
