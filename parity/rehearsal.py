"""Forwards of the port with official tensors forced upon it, recorded or with something changed, up to one place."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .callsite import call_site
from .leaves import leaves
from .memoised import Memoised
from .mutations import variants
from .mutations_attention import hidden, is_mask
from .mutations_series import Counted, counted
from .passing import Forcer, Where, apart, passing
from .pool import Call, Pool
from .reached import Reached, error_of, tolerant
from .substitutes import Op, Rewiring, op_of, resplit
from .variant import Variant, op_name

_WORSE = 10.0
"""How much the error at another place has to grow to be harm done by a trial."""


@dataclass(frozen=True)
class Trial:
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
class Place:
    """Where the forward is: the stack of modules that are being called."""

    scope: str
    deep: bool
    stack: list[str] = field(default_factory=list)
    masks: list[tuple[str, torch.Tensor]] = field(default_factory=list)
    paused: bool = False
    over: bool = False

    def enter(self, module: str, values: Any) -> None:
        """A module is called with these arguments."""
        if module == self.scope:
            self.masks[:] = [(f"its argument {leaf}", tensor) for leaf, tensor in leaves(values) if is_mask(tensor)]
        self.stack.append(module)

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
class Record:
    """What one run of the suspect showed.

    Attributes:
        pool: The tensors at hand, and the calls of modules.
        mutations: The usual mistakes that are possible in its torch calls.
        ops: Its torch calls.
        counted: Those with whole numbers.
        wrong: What stands at the place that is measured.
        site: File and line of the call there.
        last: File and line of the suspect's last torch call or call of a module.
        at_target: Called when the place is reached, while the forward (and what it set up for its modules) still runs.
    """

    pool: Pool
    mutations: list[Trial] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)
    wrong: Any = None
    site: tuple[str, int] = ("", 0)
    last: tuple[str, int] = ("", 0)
    at_target: Callable[[Record], None] | None = None


class Ops(TorchFunctionMode):
    """Numbers the torch calls of the suspect's own code; records what they may have meant, or changes some of them."""

    def __init__(self, place: Place, files: set[str], trial: Trial | None, record: Record | None) -> None:
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
        return _site(self.codes)

    def note(self, number: int, func: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        """Remember a torch call and what else it may have been meant to be."""
        assert self.record is not None
        (file, line), name, pool = self.site(), op_name(func), self.record.pool
        self.record.last = file, line
        for variant in itertools.chain(
            variants(func, args, kwargs, result),
            resplit(func, args, kwargs, result),
            hidden(result, self.place.masks),
        ):
            self.record.mutations.append(Trial(f"{name}: {variant.words}", file, line, frozenset({number}), variant))
        self.record.counted += counted(number, func, args, file, line)
        if any(True for _ in leaves(result)) and not isinstance(result, (bool, int, float)):
            pool.use((args, kwargs))
            pool.made(result, f"the result of {name}", file, line)
        op = op_of(number, func, args, result, file, line, len(pool.calls))
        if op is not None:
            self.record.ops.append(op)


class Rehearsal:
    """Forwards of the port with official tensors forced upon it, up to the place that is measured.

    Args:
        model, run, forcer: As for `trials.search`.
        place: The suspect.
        target: What is measured; the outputs of the run when none.
        goal: The official tensors there.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        run: Callable[[], Any],
        forcer: Forcer,
        place: Place,
        target: tuple[str, int, Where] | None,
        goal: list[tuple[str, torch.Tensor]],
    ) -> None:
        self.model = model
        self.run = run
        self.forcer = forcer
        self.place = place
        self.target = target
        self.goal = goal
        self.memoised = Memoised(model)
        self.files = _files_of(model)
        self.errors: dict[tuple[str, int, Where], float] | None = None
        self._before: dict[tuple[str, int, Where], float] | None = None

    def harms(self, trial: Trial, reach: float) -> bool:
        """Whether a change makes wrong what was right anywhere else.

        The official tensors that are forced upon the next module hide it from the place itself: chunks that are
        exchanged for all their uses, because one of them is wrong.
        """
        if self._before is None:
            self._before = self._watched(None)
        after = self._watched(trial)
        changed = {(change.module, change.occurrence) for change in trial.rewirings}
        return any(
            error > _WORSE * max(self._before.get(key, math.inf), reach)
            for key, error in after.items()
            if key[:2] not in changed
        )

    def _watched(self, trial: Trial | None) -> dict[tuple[str, int, Where], float]:
        """The errors of all that passes in a whole forward and has an official counterpart."""
        errors: dict[tuple[str, int, Where], float] = {}
        self.errors = errors
        try:
            self.once(trial)
        finally:
            self.errors = None
        return errors

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

    def once(self, trial: Trial | None = None, record: Record | None = None) -> float:
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
                if (module, occurrence, where) == self.target and self.errors is None:
                    self.place.over = True  # what others do on the way out is no part of the forward either
                    raise Reached(self.measured(now, record, _site(codes)))
                if self.errors is not None and module in self.forcer.partner:
                    official = self.forcer.kept.leaves(self.forcer.partner[module], occurrence, where)
                    if official:
                        self.errors[module, occurrence, where] = error_of(values, official)
                if where == "outputs" and self.place.stack:
                    self.place.stack.pop()
                if not changed:
                    official = self.forcer(module, occurrence, where, values)
                    now = values if official is None else official
                if record is not None:
                    self.note(record, module, occurrence, where, now, _site(codes))
                if where == "inputs":
                    self.place.enter(module, now)
                return now

        try:
            with (
                self.memoised.forgotten(),
                passing(self.model, act, paused=lambda: self.place.paused),
                Ops(self.place, self.files, trial, record),
            ):
                values = self.run()
            self.place.over = True
            if self.target is None and self.errors is None:
                return self.measured(values, record, ("", 0))
        except Reached as reached:
            return reached.error
        return math.inf

    def measured(self, values: Any, record: Record | None, site: tuple[str, int]) -> float:
        """The error of what stands at the place."""
        if record is not None:
            record.wrong, record.site = values, site
            if record.at_target is not None:
                with tolerant():
                    record.at_target(record)
        return error_of(values, self.goal)

    def handed(self, change: Rewiring, values: Any, given: list[Any]) -> Any:
        """The inputs of the call that is made otherwise."""
        official = None if change.raw else self.forcer(change.module, change.occurrence, "inputs", values)
        values = values if official is None else official
        if change.handed is not None:
            values = change.handed(values)
        given.append(values)
        return values

    def note(
        self, record: Record, module: str, occurrence: int, where: Where, values: Any, site: tuple[str, int]
    ) -> None:
        """Remember what passes between the suspect and the modules that it calls."""
        pool = record.pool
        caller = self.place.stack[-1] if self.place.stack else ""
        args, kwargs = apart(values) if where == "inputs" else ((), {})
        if where == "inputs" and module == self.place.scope:
            pool.begin(args, kwargs)
        elif caller == self.place.scope and module:
            record.last = site
            if where == "inputs":
                pool.use(values)
                pool.calls.append(Call(module, occurrence, args, kwargs, *site))
            elif call := next((c for c in pool.calls if (c.module, c.occurrence) == (module, occurrence)), None):
                call.returned = values
                pool.made(values, f"what `{module}` returns", call.file, call.line)


def _files_of(model: torch.nn.Module) -> set[str]:
    """Files in which the model's class and those that it is derived from are written."""
    found = set()
    for kind in type(model).__mro__:
        with tolerant():
            found.add(inspect.getfile(kind))
    return found - {inspect.getfile(torch.nn.Module)}


def _site(codes: dict[int, tuple[CodeType, bool]]) -> tuple[str, int]:
    code, line = call_site(codes)
    return (code.co_filename if code is not None else ""), line
