"""Try the usual mistakes on one suspect, fed with the official inputs, and name the one that explains its error."""

from __future__ import annotations

import inspect
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
from .memoised import Memoised
from .metrics import distance
from .mutations import variants
from .mutations_attention import hidden, is_mask
from .mutations_series import Counted, counted, orders
from .passing import Forcer, Kept, Where, match, passing
from .variant import Variant, op_name

MOST_TRIALS = 1500
BUDGET_S = 60.0
_SHOWN = 3
_FEW = 8


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
    masks: list[tuple[str, torch.Tensor]] = field(default_factory=list)
    paused: bool = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """What runs in the block is no part of the forward."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def enter(self, module: str, values: Any) -> None:
        if module == self.scope:
            self.masks[:] = [(f"its argument {leaf}", tensor) for leaf, tensor in leaves(values) if is_mask(tensor)]
        self.stack.append(module)

    def inside(self) -> bool:
        if self.paused:
            return False
        if not self.stack:
            return self.scope == ""  # a method of the model that is not its forward (``encode``)
        return self.scope in self.stack if self.deep else self.stack[-1] == self.scope


class _Ops(TorchFunctionMode):
    """Numbers the torch calls of the suspect's own code; records what they may have meant, or changes some of them."""

    def __init__(self, place: _Place, files: set[str], trial: _Trial | None, found: list[_Trial] | None) -> None:
        super().__init__()
        self.place = place
        self.files = files
        self.trial = trial
        self.found = found
        self.counted: list[Counted] = []
        self.number = 0
        self.codes: dict[int, tuple[CodeType, bool]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.place.inside():
            return func(*args, **kwargs)
        code, line = (None, 0) if self.place.stack and self.found is None else call_site(self.codes)
        file = code.co_filename if code is not None else ""
        if not self.place.stack and file not in self.files:
            return func(*args, **kwargs)
        number = self.number
        self.number += 1
        if self.trial is not None and number in self.trial.indices:
            return self.trial.variant.change(func, args, kwargs)
        result = func(*args, **kwargs)
        if self.found is not None:
            for variant in (*variants(func, args, kwargs, result), *hidden(result, self.place.masks)):
                self.found.append(_Trial(f"{op_name(func)}: {variant.words}", frozenset({number}), variant, file, line))
            self.counted += counted(number, func, args, file, line)
        return result


def search(
    model: torch.nn.Module,
    run: Callable[[], Any],
    forcer: Forcer,
    kept: Kept,
    partner: Mapping[str, str],
    *,
    scope: str,
    deep: bool,
    target: tuple[str, int, Where] | None,
    reach: float,
    known: Sequence[Sequence[Any]] = (),
    outputs: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, Any]:
    """Run the forward once for every usual mistake in the suspect's code and see which one removes the error.

    Args:
        model: The port.
        run: Makes one forward of it and returns its outputs.
        forcer: Forces official tensors upon every module, so that the suspect gets the official inputs.
        kept, partner: The official tensors, and port module -> official module.
        scope: The suspect module.
        deep: Whether the code of the modules inside it is tried too (a module), or only its own (glue).
        target: Module, occurrence and side at which the error is measured; where only whole numbers are handed over
            there, what the module makes of them. None: at the outputs of the run.
        reach: Relative error that counts as gone.
        known: ``words``, ``file`` and ``line`` of changes that made another place of the same code right. They are
            tried first, and the search ends with one that makes this place right as well.
        outputs: The official outputs by their names, if there is no ``target``.

    Returns:
        ``tried`` (number of trials), ``before`` (relative error as it is), ``found``: at most three rows with
        ``words``, ``file``, ``line``, ``after`` (relative error with the change), the smallest error first;
        ``layout``: how the official values stand there in another order, in words, or none.
    """
    place, files, memoised = _Place(scope, deep), _files_of(model), Memoised(model)
    at, goal = _goal(kept, partner, target) if target else (None, [])
    layout: list[str] = []

    def measured(values: Any) -> float:
        if outputs is not None:
            goal[:] = _named(outputs, values)
        if not tried:
            layout.extend(_layout(values, goal, reach))
        return error_of(values, goal)

    def act(module: str, occurrence: int, where: Where, values: Any) -> Any:
        with place.alone():
            if (module, occurrence, where) == at:
                raise Reached(measured(values))
            if where == "inputs":
                place.enter(module, values)
            elif place.stack:
                place.stack.pop()
            return forcer(module, occurrence, where, values)

    def once(trial: _Trial | None, found: list[_Trial] | None) -> float:
        place.stack.clear()
        ops = _Ops(place, files, trial, found)
        try:
            with memoised.forgotten(), passing(model, act), ops:
                values = run()
            return math.inf if at else measured(values)
        except Reached as reached:
            return reached.error
        finally:
            if found is not None:
                found.extend(_in_series(ops.counted))

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


def _named(outputs: Mapping[str, torch.Tensor], values: Any) -> list[tuple[str, torch.Tensor]]:
    """The official outputs in the order of the port's; a single one whatever it is called."""
    mine = [leaf for leaf, _ in _floats(values)]
    if len(mine) == len(outputs) == 1:
        return [(mine[0], next(iter(outputs.values())))]
    return [(leaf, outputs[leaf]) for leaf in mine if leaf in outputs]


def _goal(
    kept: Kept, partner: Mapping[str, str], target: tuple[str, int, Where]
) -> tuple[tuple[str, int, Where], list[tuple[str, torch.Tensor]]]:
    """Where the error is measured, and the official tensors there: of an index, the rows that are read with it."""
    module, occurrence, where = target
    goal = kept.leaves(partner[module], occurrence, where)
    if goal or where == "outputs":
        return (module, occurrence, where), goal
    return (module, occurrence, "outputs"), kept.leaves(partner[module], occurrence, "outputs")


def _in_order(candidates: list[_Trial]) -> Iterator[_Trial]:
    """Lines that run once, then the same change at all calls of one line, and of all lines (both halves of a rotation).

    At one of a line's calls only it is tried last: who writes a loop means the same each time.
    """
    groups: dict[str, list[_Trial]] = {}
    lines: dict[tuple[str, str, int], list[_Trial]] = {}
    for trial in candidates:
        groups.setdefault(trial.words, []).append(trial)
        lines.setdefault((trial.words, trial.file, trial.line), []).append(trial)
    for trial in candidates:
        if not trial.variant.together and len(lines[trial.words, trial.file, trial.line]) == 1:
            yield trial
    for (words, _, _), trials in lines.items():
        if 1 < len(trials) < len(groups[words]) or (len(trials) > 1 and not trials[0].variant.together):
            yield _together(words, trials)
    for words, trials in groups.items():
        if len({(trial.file, trial.line) for trial in trials}) > 1 or trials[0].variant.together:
            yield _together(words, trials)
    for trials in lines.values():
        if 1 < len(trials) <= _FEW and not trials[0].variant.together:
            yield from trials


def _in_series(calls: list[Counted]) -> Iterator[_Trial]:
    for changes, file, line in orders(calls):
        one = [_Trial(variant.words, frozenset({number}), variant, file, line) for number, variant in changes.items()]
        yield _together(one[0].words, one)


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


def _files_of(model: torch.nn.Module) -> set[str]:
    """Files in which the model's class and those that it is derived from are written."""
    found = set()
    for kind in type(model).__mro__:
        with tolerant():
            found.add(inspect.getfile(kind))
    return found - {inspect.getfile(torch.nn.Module)}


def error_of(values: Any, goal: list[tuple[str, torch.Tensor]]) -> float:
    """Largest relative L2 between the tensors of a call and the official ones."""
    errors = []
    for tensor, other in _paired(values, goal):
        if tensor.numel() != other.numel():
            return math.inf
        errors.append(distance(tensor.reshape(-1), other.reshape(-1)).relative_l2)
    if any(math.isnan(error) for error in errors):
        return math.inf  # `max` would look past it
    return max(errors, default=math.inf)


def _layout(values: Any, goal: list[tuple[str, torch.Tensor]], tolerance: float) -> list[str]:
    """For each tensor of a call that holds the official values in another order: how."""
    return [words for mine, theirs in _paired(values, goal) if (words := reordering(mine, theirs, tolerance))]


def _paired(values: Any, goal: list[tuple[str, torch.Tensor]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    mine = _floats(values)
    if len(mine) == len(goal):
        return [(tensor, other) for (_, tensor), (_, other) in zip(mine, goal, strict=True)]
    found = match(mine, goal)
    return [(tensor, found[leaf]) for leaf, tensor in mine if leaf in found]


def _floats(values: Any) -> list[tuple[str, torch.Tensor]]:
    return [(leaf, tensor) for leaf, tensor in leaves(values) if tensor.numel() > 1 and tensor.is_floating_point()]
