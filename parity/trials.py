"""Try the usual mistakes on one suspect, fed with the official inputs, and name the one that explains its error."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .completions import Completion, Completions, explain
from .layout import reordering
from .mutations import Variant
from .passing import Forcer, Kept, Where
from .pool import Pool
from .reached import paired, tolerant
from .rehearsal import Place, Record, Rehearsal, Trial
from .substitutes import forgotten, other_operands, passed_through, rewirings

MOST_TRIALS = 1000
"""Forwards."""
BUDGET_S = 60.0
_SHOWN = 3
_AFTER_ONE = 40
"""Trials that are still made when one was found: another that is as simple is shown beside it."""


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
    place = Place(scope, deep)
    goal = kept.leaves(partner[target[0]], target[1], target[2])
    rehearsal = Rehearsal(model, run, forcer, place, target, goal)
    record = Record(Pool(model, scope))
    before = rehearsal.once(None, record)
    layout = _layout(record.wrong, goal, reach)
    started = time.thread_time()
    rows: list[dict[str, Any]] = []
    named: list[Trial] = []
    tried = 0
    forwards = 0

    def in_time() -> bool:
        return time.thread_time() - started <= BUDGET_S

    def attempt(trials: Iterator[Trial] | list[Trial]) -> None:
        nonlocal tried, forwards
        since = 0
        for trial in trials:
            since += bool(rows)
            if forwards >= MOST_TRIALS or len(rows) >= _SHOWN or since > _AFTER_ONE or not in_time():
                break
            if any(done.indices and done.indices < trial.indices for done in named):
                continue  # the same and more
            tried += 1
            forwards += 1
            with tolerant():
                after = rehearsal.once(trial)
                if after <= reach and not rehearsal.harms(trial, reach):
                    named.append(trial)
                    rows.append({"words": trial.words, "file": trial.file, "line": trial.line, "after": after})

    answer = {"before": before, "layout": layout[0] if layout else None}
    if before <= reach or record.wrong is None:
        return {**answer, "tried": tried, "found": rows}
    first = {tuple(change) for change in known}
    stages = _stages(record, partner, place, rehearsal.called())
    if first:
        everything = [list(stage) for stage in stages]
        attempt([trial for trial in itertools.chain.from_iterable(everything) if trial.key in first])
        stages = [iter(stage) for stage in everything]
    if not rows:
        again = Record(Pool(model, scope))
        completions = Completions(again.pool, reach, place.alone, in_time)
        answers: list[tuple[list[Completion], dict[str, Any]]] = []
        again.at_target = lambda record: answers.append(_completed(completions, target, record, goal))
        rehearsal.once(None, again)
        tried += completions.tried
        for found, row in answers:
            if row:
                attempt(_at_operands(again, found))  # x * s + x is x * (1 + s): one operation says it better
                rows.append(row)
    for stage in stages:
        if not rows:
            attempt(stage)
    return {**answer, "tried": tried, "found": rows[:_SHOWN]}


def _stages(record: Record, partner: Mapping[str, str], place: Place, called: set[str]) -> list[Iterator[Trial]]:
    """What can be tried with a forward each, the simpler kinds first."""

    def operands(found: Iterator[tuple[str, int, Variant, str, int]]) -> Iterator[Trial]:
        for words, number, variant, file, line in found:
            yield Trial(words, file, line, frozenset({number}), variant)

    changes = (
        Trial(rows[0].words, rows[0].file, rows[0].line, rewirings=rows)
        for rows in rewirings(record.pool, set(partner), called, place.alone)
    )
    several = {op.number for op in record.ops if len(op.results) > 1}
    parts = [trial for trial in record.mutations if trial.indices <= several]
    return [
        _in_order(parts),  # which chunk is which says more than what each use of a chunk should be handed
        changes,
        operands(forgotten(record.ops, record.pool)),
        operands(passed_through(record.ops, record.pool, called, place.alone)),
        _in_order([trial for trial in record.mutations if trial not in parts]),
        operands(other_operands(record.ops, record.pool)),
    ]


def _completed(
    completions: Completions, target: tuple[str, int, Where], record: Record, goal: list[tuple[str, torch.Tensor]]
) -> tuple[list[Completion], dict[str, Any]]:
    """What is left to do to every wrong tensor at the place that is measured, and a row that says so; else nothing."""
    side = f"what `{target[0]}` {'is handed' if target[2] == 'inputs' else 'returns'}"
    pairs = [
        (f"{leaf} of {side}" if len(goal) > 1 and leaf else side, tensor, other)
        for leaf, tensor, other in paired(record.wrong, goal)
    ]
    named, complete = explain(completions, pairs)
    found = [completion for _, completion in named]
    if not found or not complete:
        return [], {}
    words = "; ".join(completion.words.replace("{x}", name) for name, completion in named)
    file, line = record.site if target[2] == "inputs" else record.last
    return found, {"words": words, "file": file, "line": line, "after": max(c.after for c in found)}


def _at_operands(record: Record, found: list[Completion]) -> list[Trial]:
    """The usual mistakes at the torch calls that take or return a tensor of the completions."""
    tensors = {id(completion.item.tensor) for completion in found if completion.item is not None}
    numbers = {
        op.number
        for op in record.ops
        if any(id(tensor) in tensors for tensor in (*op.results, *(operand for _, operand in op.operands)))
    }
    return [trial for trial in record.mutations if trial.indices <= numbers][:_AFTER_ONE]


def _in_order(candidates: list[Trial]) -> Iterator[Trial]:
    """Single calls first, then the same change at all calls that allow it (both halves of a rotation)."""
    groups: dict[str, list[Trial]] = {}
    for trial in candidates:
        groups.setdefault(trial.words, []).append(trial)
        if trial.variant is not None and not trial.variant.together:
            yield trial
    for words, trials in groups.items():
        if len(trials) > 1 or (trials[0].variant is not None and trials[0].variant.together):
            yield _together(words, trials)


def _together(words: str, trials: list[Trial]) -> Trial:
    """The same words at several calls, each with its own change; a run comes by them in their order, once."""
    if len(trials) == 1:
        return trials[0]
    changes = itertools.cycle([trial.variant.change for trial in trials if trial.variant is not None])

    def change(function: Any, args: Any, kwargs: Any) -> Any:
        return next(changes)(function, args, kwargs)

    indices = frozenset(index for trial in trials for index in trial.indices)
    first = trials[0]
    return Trial(f"{words} (at {len(trials)} calls)", first.file, first.line, indices, Variant(words, change))


def _layout(values: Any, goal: list[tuple[str, torch.Tensor]], tolerance: float) -> list[str]:
    """For each tensor of a call that holds the official values in another order: how."""
    return [words for _, mine, theirs in paired(values, goal) if (words := reordering(mine, theirs, tolerance))]
