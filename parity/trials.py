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
from .completions import Completion, Completions, explain
from .layout import reordering
from .leaves import leaves
from .metrics import distance
from .mutations import Variant, op_name, variants
from .passing import Forcer, Kept, Where, match, passing
from .pool import Call, Pool
from .substitutes import Op, Rewiring, forgotten, op_of, other_operands, passed_through, resplit, rewirings

MOST_TRIALS = 1000
"""Forwards."""
BUDGET_S = 60.0
_SHOWN = 3
_AFTER_ONE = 40
"""Trials that are still made when one was found: another that is as simple is shown beside it."""


class Reached(BaseException):
    """The boundary that is measured was reached; no adapter may swallow this."""

    def __init__(self, error: float) -> None:
        self.error = error


@dataclass(frozen=True)
class _Trial:
    """One forward with something changed: torch calls of the suspect's own code, or one call of a module."""

    words: str
    file: str
    line: int
    indices: frozenset[int] = frozenset()
    variant: Variant | None = None
    rewirings: tuple[Rewiring, ...] = ()

    @property
    def key(self) -> tuple[str, str, int]:
        return self.words, self.file, self.line


@dataclass
class _Place:
    """Where the forward is: the stack of modules that are being called."""

    scope: str
    deep: bool
    stack: list[str] = field(default_factory=list)
    paused: bool = False
    over: bool = False

    def inside(self) -> bool:
        """Whether the suspect's code runs; of the model itself also a method that is not its forward (``decode``)."""
        if self.paused or self.over:
            return False
        if self.deep:
            return self.scope in self.stack
        return self.stack[-1] == self.scope if self.stack else self.scope == ""

    @contextmanager
    def alone(self) -> Iterator[None]:
        """What runs in the block is no part of the forward."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before


@dataclass
class _Record:
    """What one run of the suspect showed.

    Attributes:
        pool: The tensors at hand, and the calls of modules.
        mutations: The usual mistakes that are possible in its torch calls.
        ops: Its torch calls.
        wrong: What stands at the place that is measured.
        site: File and line of the call there.
        at_target: Called when the place is reached, while the forward (and what it set up for its modules) still runs.
    """

    pool: Pool
    mutations: list[_Trial] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    wrong: Any = None
    site: tuple[str, int] = ("", 0)
    at_target: Callable[[_Record], None] | None = None


class _Ops(TorchFunctionMode):
    """Numbers the torch calls of the suspect's own code; records what they may have meant, or changes some of them."""

    def __init__(self, place: _Place, files: set[str], trial: _Trial | None, record: _Record | None) -> None:
        super().__init__()
        self.place = place
        self.files = files
        self.trial = trial if trial is not None and trial.variant is not None else None
        self.record = record
        self.number = 0
        self.codes: dict[int, tuple[CodeType, bool]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.place.inside() or not (self.place.stack or self.site()[0] in self.files):
            return func(*args, **kwargs)
        number = self.number
        self.number += 1
        if self.trial is not None and self.trial.variant is not None and number in self.trial.indices:
            return self.trial.variant.change(func, args, kwargs)
        result = func(*args, **kwargs)
        if self.record is not None:
            with self.place.alone():
                self.note(number, func, args, kwargs, result)
        return result

    def site(self) -> tuple[str, int]:
        """File and line of the code that runs."""
        code, line = call_site(self.codes)
        return (code.co_filename if code is not None else ""), line

    def note(self, number: int, func: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        """Remember a torch call and what else it may have been meant to be."""
        assert self.record is not None
        (file, line), name, pool = self.site(), op_name(func), self.record.pool
        for variant in itertools.chain(variants(func, args, kwargs, result), resplit(func, args, kwargs, result)):
            self.record.mutations.append(_Trial(f"{name}: {variant.words}", file, line, frozenset({number}), variant))
        if any(True for _ in leaves(result)) and not isinstance(result, (bool, int, float)):
            pool.use((args, kwargs))
            pool.made(result, f"the result of {name}", file, line)
        op = op_of(number, func, args, result, file, line, len(pool.calls))
        if op is not None:
            self.record.ops.append(op)


class _Lab:
    """Forwards of the port with official tensors forced upon it, up to the place that is measured."""

    def __init__(
        self,
        model: torch.nn.Module,
        run: Callable[[], None],
        forcer: Forcer,
        place: _Place,
        target: tuple[str, int, Where],
        goal: list[tuple[str, torch.Tensor]],
    ) -> None:
        self.model = model
        self.run = run
        self.forcer = forcer
        self.place = place
        self.target = tuple(target)
        self.goal = goal
        self.files = _files_of(model)

    def called(self) -> set[str]:
        """The modules that one whole forward calls; all if it does not come to its end."""
        found: set[str] = set()

        def act(module: str, occurrence: int, where: Where, values: Any) -> Any:
            found.add(module)
            return self.forcer(module, occurrence, where, values)

        with tolerant(), passing(self.model, act):
            self.run()
            return found
        return {name for name, _ in self.model.named_modules()}

    def once(self, trial: _Trial | None = None, record: _Record | None = None) -> float:
        """The error at the place with a trial's change; infinite if the place is not reached."""
        self.place.stack.clear()
        self.place.over = False
        changes = {(c.module, c.occurrence): c for c in (trial.rewirings if trial is not None else ())}
        given: list[Any] = []
        codes: dict[int, tuple[CodeType, bool]] = {}

        def act(module: str, occurrence: int, where: Where, values: Any) -> Any:
            with self.place.alone():
                now, changed = values, False
                if (change := changes.get((module, occurrence))) is not None:
                    if where == "inputs":
                        now, changed = self.handed(change, values, given), True
                    elif change.returned is not None:
                        official = None if change.raw else self.forcer(module, occurrence, where, values)
                        now = change.returned(given.pop(), values if official is None else official)
                        changed = True
                if (module, occurrence, where) == self.target:
                    if record is not None:
                        record.wrong, record.site = now, _site(codes)
                        if record.at_target is not None:
                            record.at_target(record)
                    self.place.over = True  # what others do on the way out is no part of the forward either
                    raise Reached(error_of(now, self.goal))
                if where == "outputs" and self.place.stack:
                    self.place.stack.pop()
                if not changed:
                    official = self.forcer(module, occurrence, where, values)
                    now = values if official is None else official
                if record is not None:
                    self.note(record.pool, module, occurrence, where, now, _site(codes))
                if where == "inputs":
                    self.place.stack.append(module)
                return now

        try:
            with (
                passing(self.model, act, paused=lambda: self.place.paused),
                _Ops(self.place, self.files, trial, record),
            ):
                self.run()
        except Reached as reached:
            return reached.error
        return math.inf

    def handed(self, change: Rewiring, values: Any, given: list[Any]) -> Any:
        """The inputs of the call that is made otherwise."""
        official = None if change.raw else self.forcer(change.module, change.occurrence, "inputs", values)
        values = values if official is None else official
        if change.handed is not None:
            values = change.handed(values)
        given.append(values)
        return values

    def note(self, pool: Pool, module: str, occurrence: int, where: Where, values: Any, site: tuple[str, int]) -> None:
        """Remember what passes between the suspect and the modules that it calls."""
        caller = self.place.stack[-1] if self.place.stack else ""
        args, kwargs = (values[:-1], values[-1]) if where == "inputs" and _has_kwargs(values) else (values, {})
        if where == "inputs" and module == self.place.scope:
            pool.begin(args, kwargs)
        elif caller == self.place.scope and module:
            if where == "inputs":
                pool.use(values)
                pool.calls.append(Call(module, occurrence, args, kwargs, *site))
            elif call := next((c for c in pool.calls if (c.module, c.occurrence) == (module, occurrence)), None):
                call.returned = values
                pool.made(values, f"what `{module}` returns", call.file, call.line)


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
    """See which of the usual mistakes in the suspect's code explains its error.

    First without running the port again: what is left to do to the wrong tensor (`completions`). Then one forward for
    each other call of a module (`substitutes`) and of torch (`mutations`); the simpler changes come first, and the
    search ends soon after one that explains the error.

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
        ``words``, ``file``, ``line``, ``after`` (relative error with the change), the simplest first;
        ``layout``: how the official values stand there in another order, in words, or none.
    """
    place = _Place(scope, deep)
    goal = kept.leaves(partner[target[0]], target[1], target[2])
    lab = _Lab(model, run, forcer, place, target, goal)
    record = _Record(Pool(model, scope))
    before = lab.once(None, record)
    layout = _layout(record.wrong, goal, reach)
    started = time.thread_time()
    rows: list[dict[str, Any]] = []
    tried = 0
    forwards = 0

    def in_time() -> bool:
        return time.thread_time() - started <= BUDGET_S

    def attempt(trials: Iterator[_Trial] | list[_Trial]) -> None:
        nonlocal tried, forwards
        since = 0
        for trial in trials:
            since += bool(rows)
            if forwards >= MOST_TRIALS or len(rows) >= _SHOWN or since > _AFTER_ONE or not in_time():
                break
            tried += 1
            forwards += 1
            with tolerant():
                after = lab.once(trial)
                if after <= reach:
                    rows.append({"words": trial.words, "file": trial.file, "line": trial.line, "after": after})

    answer = {"before": before, "layout": layout[0] if layout else None}
    if before <= reach or record.wrong is None:
        return {**answer, "tried": tried, "found": rows}
    first = {tuple(change) for change in known}
    stages = _stages(record, partner, place, lab.called())
    if first:
        everything = [list(stage) for stage in stages]
        attempt([trial for trial in itertools.chain.from_iterable(everything) if trial.key in first])
        stages = [iter(stage) for stage in everything]
    if not rows:
        again = _Record(Pool(model, scope))
        completions = Completions(again.pool, reach, place.alone, in_time)
        answers: list[tuple[list[Completion], dict[str, Any]]] = []
        again.at_target = lambda record: answers.append(_completed(completions, target, record, goal))
        lab.once(None, again)
        tried += completions.tried
        for found, row in answers:
            if row:
                attempt(_at_operands(again, found))  # x * s + x is x * (1 + s): one operation says it better
                rows.append(row)
    for stage in stages:
        if not rows:
            attempt(stage)
    return {**answer, "tried": tried, "found": rows[:_SHOWN]}


def _stages(record: _Record, partner: Mapping[str, str], place: _Place, called: set[str]) -> list[Iterator[_Trial]]:
    """What can be tried with a forward each, the simpler kinds first."""

    def operands(found: Iterator[tuple[str, int, Variant, str, int]]) -> Iterator[_Trial]:
        for words, number, variant, file, line in found:
            yield _Trial(words, file, line, frozenset({number}), variant)

    changes = (
        _Trial(rows[0].words, rows[0].file, rows[0].line, rewirings=rows)
        for rows in rewirings(record.pool, set(partner), called, place.alone)
    )
    return [
        changes,
        operands(forgotten(record.ops, record.pool)),
        operands(passed_through(record.ops, record.pool, called, place.alone)),
        _in_order(record.mutations),
        operands(other_operands(record.ops, record.pool)),
    ]


def _completed(
    completions: Completions, target: tuple[str, int, Where], record: _Record, goal: list[tuple[str, torch.Tensor]]
) -> tuple[list[Completion], dict[str, Any]]:
    """What is left to do to every wrong tensor at the place that is measured, and a row that says so; else nothing."""
    side = f"what `{target[0]}` {'is handed' if target[2] == 'inputs' else 'returns'}"
    pairs = [
        (f"{leaf} of {side}" if len(goal) > 1 and leaf else side, tensor, other)
        for leaf, tensor, other in _paired(record.wrong, goal)
    ]
    named, complete = explain(completions, pairs)
    found = [completion for _, completion in named]
    if not found or not complete:
        return [], {}
    words = "; ".join(completion.words.replace("{x}", name) for name, completion in named)
    file, line = record.site
    last = found[-1].item
    if (target[2] == "outputs" or not file) and last is not None and last.file:
        file, line = last.file, last.line
    return found, {"words": words, "file": file, "line": line, "after": max(c.after for c in found)}


def _at_operands(record: _Record, found: list[Completion]) -> list[_Trial]:
    """The usual mistakes at the torch calls that take or return a tensor of the completions."""
    tensors = {id(completion.item.tensor) for completion in found if completion.item is not None}
    numbers = {
        op.number
        for op in record.ops
        if any(id(tensor) in tensors for tensor in (*op.results, *(operand for _, operand in op.operands)))
    }
    return [trial for trial in record.mutations if trial.indices <= numbers][:_AFTER_ONE]


def _in_order(candidates: list[_Trial]) -> Iterator[_Trial]:
    """Single calls first, then the same change at all calls that allow it (both halves of a rotation)."""
    groups: dict[str, list[_Trial]] = {}
    for trial in candidates:
        groups.setdefault(trial.words, []).append(trial)
        if trial.variant is not None and not trial.variant.together:
            yield trial
    for words, trials in groups.items():
        if len(trials) > 1 or (trials[0].variant is not None and trials[0].variant.together):
            yield _together(words, trials)


def _together(words: str, trials: list[_Trial]) -> _Trial:
    """The same words at several calls, each with its own change; a run comes by them in their order, once."""
    if len(trials) == 1:
        return trials[0]
    changes = itertools.cycle([trial.variant.change for trial in trials if trial.variant is not None])

    def change(function: Any, args: Any, kwargs: Any) -> Any:
        return next(changes)(function, args, kwargs)

    indices = frozenset(index for trial in trials for index in trial.indices)
    first = trials[0]
    return _Trial(f"{words} (at {len(trials)} calls)", first.file, first.line, indices, Variant(words, change))


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


def _has_kwargs(values: Any) -> bool:
    return isinstance(values, tuple) and bool(values) and isinstance(values[-1], dict)


def _site(codes: dict[int, tuple[CodeType, bool]]) -> tuple[str, int]:
    code, line = call_site(codes)
    return (code.co_filename if code is not None else ""), line


def error_of(values: Any, goal: list[tuple[str, torch.Tensor]]) -> float:
    """Largest relative L2 between the tensors of a call and the official ones."""
    errors = []
    for _, tensor, other in _paired(values, goal):
        if tensor.numel() != other.numel():
            return math.inf
        errors.append(distance(tensor.reshape(-1), other.reshape(-1)).relative_l2)
    worst = max(errors, default=math.inf)
    return math.inf if math.isnan(worst) else worst


def _layout(values: Any, goal: list[tuple[str, torch.Tensor]], tolerance: float) -> list[str]:
    """For each tensor of a call that holds the official values in another order: how."""
    return [words for _, mine, theirs in _paired(values, goal) if (words := reordering(mine, theirs, tolerance))]


def _paired(values: Any, goal: list[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, tensor of a call, official tensor: of one name where all names agree, else in their order, or by value."""
    mine = [(leaf, t) for leaf, t in leaves(values) if t.numel() > 1 and t.is_floating_point()]
    official = dict(goal)
    if {leaf for leaf, _ in mine} == set(official):
        return [(leaf, tensor, official[leaf]) for leaf, tensor in mine]
    if len(mine) == len(goal):
        return [(leaf, tensor, other) for (leaf, tensor), (_, other) in zip(mine, goal, strict=True)]
    found = match(mine, goal)
    return [(leaf, tensor, found[leaf]) for leaf, tensor in mine if leaf in found]
