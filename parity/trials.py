"""Try the usual mistakes on one suspect, fed with the official inputs, and name the one that explains its error."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .callsite import call_site
from .layout import reordering
from .leaves import leaves
from .metrics import distance
from .mutations import Variant, op_name, variants
from .passing import Forcer, Kept, Where, match, passing

MOST_TRIALS = 600
BUDGET_S = 60.0
_SHOWN = 3


class Reached(BaseException):
    """The boundary that is measured was reached; no adapter may swallow this."""

    def __init__(self, error: float) -> None:
        self.error = error


@dataclass(frozen=True)
class _Trial:
    words: str
    indices: frozenset[int]
    variant: Variant
    file: str
    line: int


@dataclass
class _Place:
    """Where the forward is: the stack of modules that are being called."""

    scope: str
    deep: bool
    stack: list[str] = field(default_factory=list)

    def inside(self) -> bool:
        if self.deep:
            return self.scope in self.stack
        return bool(self.stack) and self.stack[-1] == self.scope


class _Ops(TorchFunctionMode):
    """Numbers the torch calls of the suspect's own code; records what they may have meant, or changes some of them."""

    def __init__(self, place: _Place, trial: _Trial | None, found: list[_Trial] | None) -> None:
        super().__init__()
        self.place = place
        self.trial = trial
        self.found = found
        self.number = 0
        self.codes: dict[int, tuple[CodeType, bool]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.place.inside():
            return func(*args, **kwargs)
        number = self.number
        self.number += 1
        if self.trial is not None and number in self.trial.indices:
            return self.trial.variant.change(func, args, kwargs)
        result = func(*args, **kwargs)
        if self.found is not None:
            code, line = call_site(self.codes)
            file = code.co_filename if code is not None else ""
            for variant in variants(func, args, kwargs, result):
                self.found.append(_Trial(f"{op_name(func)}: {variant.words}", frozenset({number}), variant, file, line))
        return result


def search(
    model: torch.nn.Module,
    run: Callable[[], None],
    forcer: Forcer,
    kept: Kept,
    partner: Mapping[str, str],
    *,
    scope: str,
    deep: bool,
    target: tuple[str, int, Where],
    reach: float,
    known: Sequence[Sequence[Any]] = (),
) -> dict[str, Any]:
    """Run the forward once for every usual mistake in the suspect's code and see which one removes the error.

    Args:
        model: The port.
        run: Makes one forward of it.
        forcer: Forces official tensors upon every module, so that the suspect gets the official inputs.
        kept, partner: The official tensors, and port module -> official module.
        scope: The suspect module.
        deep: Whether the code of the modules inside it is tried too (a module), or only its own (glue).
        target: Module, occurrence and side at which the error is measured.
        reach: Relative error that counts as gone.
        known: ``words``, ``file`` and ``line`` of changes that made another place of the same code right. They are
            tried first, and the search ends with one that makes this place right as well.

    Returns:
        ``tried`` (number of trials), ``before`` (relative error as it is), ``found``: at most three rows with
        ``words``, ``file``, ``line``, ``after`` (relative error with the change), the smallest error first;
        ``layout``: how the official values stand there in another order, in words, or none.
    """
    place = _Place(scope, deep)
    goal = kept.leaves(partner[target[0]], target[1], target[2])

    layout: list[str] = []

    def act(module: str, occurrence: int, where: Where, values: Any) -> Any:
        if (module, occurrence, where) == tuple(target):
            if not tried:
                layout.extend(_layout(values, goal, reach))
            raise Reached(error_of(values, goal))
        if where == "inputs":
            place.stack.append(module)
        elif place.stack:
            place.stack.pop()
        return forcer(module, occurrence, where, values)

    def once(trial: _Trial | None, found: list[_Trial] | None) -> float:
        place.stack.clear()
        try:
            with passing(model, act), _Ops(place, trial, found):
                run()
        except Reached as reached:
            return reached.error
        return math.inf

    candidates: list[_Trial] = []
    tried = 0
    before = once(None, candidates)
    started = time.thread_time()
    rows: list[dict[str, Any]] = []
    first = {tuple(change) for change in known}
    order = sorted(_in_order(candidates), key=lambda trial: (trial.words, trial.file, trial.line) not in first)
    for trial in order:
        explained = any((row["words"], row["file"], row["line"]) in first for row in rows)
        if explained or tried >= MOST_TRIALS or time.thread_time() - started > BUDGET_S:
            break
        tried += 1
        with tolerant():
            after = once(trial, None)
            if after <= reach:
                rows.append({"words": trial.words, "file": trial.file, "line": trial.line, "after": after})
    rows.sort(key=lambda row: row["after"])
    return {"tried": tried, "before": before, "found": rows[:_SHOWN], "layout": layout[0] if layout else None}


def _in_order(candidates: list[_Trial]) -> Iterator[_Trial]:
    """Single calls first, then the same change at all calls that allow it (both halves of a rotation)."""
    groups: dict[str, list[_Trial]] = {}
    for trial in candidates:
        groups.setdefault(trial.words, []).append(trial)
        if not trial.variant.together:
            yield trial
    for words, trials in groups.items():
        if len(trials) > 1 or trials[0].variant.together:
            yield _together(words, trials)


def _together(words: str, trials: list[_Trial]) -> _Trial:
    """The same words at several calls, each with its own change; a run comes by them in their order, once."""
    if len(trials) == 1:
        return trials[0]
    changes = itertools.cycle([trial.variant.change for trial in trials])

    def change(function: Any, args: Any, kwargs: Any) -> Any:
        return next(changes)(function, args, kwargs)

    indices = frozenset(index for trial in trials for index in trial.indices)
    first = trials[0]
    return _Trial(f"{words} (at {len(trials)} calls)", indices, Variant(words, change), first.file, first.line)


@contextmanager
def tolerant() -> Iterator[None]:
    """A change that does not run is no explanation; it is no error either."""
    try:
        yield
    except Exception:  # whatever code of the port raises when a call in it returns something else
        return


def error_of(values: Any, goal: list[tuple[str, torch.Tensor]]) -> float:
    """Largest relative L2 between the tensors of a call and the official ones."""
    errors = []
    for tensor, other in _paired(values, goal):
        if tensor.numel() != other.numel():
            return math.inf
        errors.append(distance(tensor.reshape(-1), other.reshape(-1)).relative_l2)
    worst = max(errors, default=math.inf)
    return math.inf if math.isnan(worst) else worst


def _layout(values: Any, goal: list[tuple[str, torch.Tensor]], tolerance: float) -> list[str]:
    """For each tensor of a call that holds the official values in another order: how."""
    return [words for mine, theirs in _paired(values, goal) if (words := reordering(mine, theirs, tolerance))]


def _paired(values: Any, goal: list[tuple[str, torch.Tensor]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    mine = [(leaf, t) for leaf, t in leaves(values) if t.numel() > 1 and t.is_floating_point()]
    if len(mine) == len(goal):
        return [(tensor, other) for (_, tensor), (_, other) in zip(mine, goal, strict=True)]
    found = match(mine, goal)
    return [(tensor, found[leaf]) for leaf, tensor in mine if leaf in found]
