"""Try the usual mistakes on one suspect, fed with the official inputs, and name the one that explains its error."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .completions import Completion, Completions, explain
from .layout import reordering
from .mutations_series import Counted, orders
from .passing import Forcer, Kept, Where
from .pool import Pool
from .reached import paired, tolerant
from .rehearsal import Place, Record, Rehearsal, Trial
from .substitutes import forgotten, other_operands, passed_through, remembered_parts, rewirings
from .variant import Variant

MOST_TRIALS = 1000
"""Forwards."""
BUDGET_S = 60.0
_SHOWN = 3
_MASKING = ("masked_fill:", "where:")
_FEW = 8
_AFTER_ONE = 40
"""Trials that are still made when one was found: another that is as simple is shown beside it."""


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
    """See which of the usual mistakes in the suspect's code explains its error.

    First without running the port again: what is left to do to the wrong tensor (`completions`). Then one forward for
    each other call of a module (`substitutes`) and of torch (`mutations`); the simpler changes come first, and the
    search ends soon after one that explains the error.

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
        ``words``, ``file``, ``line``, ``after`` (relative error with the change), the simplest first;
        ``layout``: how the official values stand there in another order, in words, or none.
    """
    place = Place(scope, deep)
    at, goal = _goal(kept, partner, target) if target else (None, _floats(outputs))
    rehearsal = Rehearsal(model, run, forcer, place, at, goal)
    record = Record(Pool(model, scope))
    before = rehearsal.once(None, record)
    layout = _layout(record.wrong, goal, reach)
    started = time.thread_time()
    rows: list[dict[str, Any]] = []
    named: list[Trial] = []
    forwards = completed = 0

    def in_time() -> bool:
        return time.thread_time() - started <= BUDGET_S

    def attempt(trials: Iterator[Trial] | list[Trial]) -> None:
        nonlocal forwards
        since = 0
        for trial in trials:
            since += bool(rows)
            if forwards >= MOST_TRIALS or len(rows) >= _SHOWN or since > _AFTER_ONE or not in_time():
                break
            if any(done.indices and done.indices < trial.indices for done in named):
                continue  # the same and more
            forwards += 1
            with tolerant():
                after = rehearsal.once(trial)
                if after <= reach and not rehearsal.harms(trial, reach):
                    named.append(trial)
                    rows.append({"words": trial.words, "file": trial.file, "line": trial.line, "after": after})

    answer = {"before": before, "layout": layout[0] if layout else None}
    if before <= reach or record.wrong is None:
        return {**answer, "tried": 0, "found": rows}
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
        again.at_target = lambda record: answers.append(_completed(completions, at, record, goal))
        rehearsal.once(None, again)
        completed = completions.tried
        for found, row in answers:
            if row:
                attempt(_at_operands(again, found))  # x * s + x is x * (1 + s): one operation says it better
                attempt(_on_the_way(again, found))
                rows.append(row)
    for stage in stages:
        if not rows:
            attempt(stage)
    return {**answer, "tried": forwards + completed, "found": rows[:_SHOWN]}


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
    masks = [trial for trial in record.mutations if trial.words.startswith(_MASKING) and trial not in parts]
    return [
        _in_order(parts),  # which chunk is which says more than what each use of a chunk should be handed
        _in_order(masks),  # where nothing is masked, the tensor before the mask is as good as the right one
        changes,
        operands(forgotten(record.ops, record.pool)),
        operands(passed_through(record.ops, record.pool, called, place.alone)),
        itertools.chain(
            _in_order([trial for trial in record.mutations if trial not in parts and trial not in masks]),
            _in_series(record.counted),
        ),
        operands(remembered_parts(record.ops, record.pool)),
        operands(other_operands(record.ops, record.pool)),
    ]


def _completed(
    completions: Completions,
    target: tuple[str, int, Where] | None,
    record: Record,
    goal: list[tuple[str, torch.Tensor]],
) -> tuple[list[Completion], dict[str, Any]]:
    """What is left to do to every wrong tensor at the place that is measured, and a row that says so; else nothing."""
    handed = target is not None and target[2] == "inputs"
    side = f"what `{target[0]}` {'is handed' if handed else 'returns'}" if target else "what the model returns"
    pairs = [
        (f"{leaf} of {side}" if len(goal) > 1 and leaf else side, tensor, other)
        for leaf, tensor, other in paired(record.wrong, goal)
    ]
    named, complete = explain(completions, pairs)
    found = [completion for _, completion in named]
    if not found or not complete:
        return [], {}
    words = "; ".join(completion.words.replace("{x}", name) for name, completion in named)
    file, line = record.site if handed else record.last
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


def _on_the_way(record: Record, found: list[Completion]) -> list[Trial]:
    """The usual mistakes in what is done to a tensor that is right as it is, and another order of those of its line."""
    instead = [c.item for c in found if c.item is not None and c.words == f"{c.item.words} in the place of {{x}}"]
    made = [op.number for op in record.ops for item in instead if any(item.tensor is r for r in op.results)]
    if not made:
        return []
    lines = {(item.file, item.line) for item in instead}
    later = [trial for trial in record.mutations if min(trial.indices) > max(made)]
    series = [trial for trial in _in_series(record.counted) if (trial.file, trial.line) in lines]
    return [*series, *_in_order(later)][:_AFTER_ONE]


def _floats(outputs: Mapping[str, torch.Tensor] | None) -> list[tuple[str, torch.Tensor]]:
    return [(n, tensor) for n, tensor in (outputs or {}).items() if tensor.numel() > 1 and tensor.is_floating_point()]


def _goal(
    kept: Kept, partner: Mapping[str, str], target: tuple[str, int, Where]
) -> tuple[tuple[str, int, Where], list[tuple[str, torch.Tensor]]]:
    """Where the error is measured, and the official tensors there: of an index, the rows that are read with it."""
    module, occurrence, where = target
    goal = kept.leaves(partner[module], occurrence, where)
    if goal or where == "outputs":
        return (module, occurrence, where), goal
    return (module, occurrence, "outputs"), kept.leaves(partner[module], occurrence, "outputs")


def _in_order(candidates: list[Trial]) -> Iterator[Trial]:
    """Lines that run once, then the same change at all calls of one line, and of all lines (both halves of a rotation).

    At one of a line's calls only it is tried last: who writes a loop means the same each time.
    """
    groups: dict[str, list[Trial]] = {}
    lines: dict[tuple[str, str, int], list[Trial]] = {}
    for trial in candidates:
        groups.setdefault(trial.words, []).append(trial)
        lines.setdefault(trial.key, []).append(trial)
    for trial in candidates:
        if not _joint(trial) and len(lines[trial.key]) == 1:
            yield trial
    for (words, _, _), trials in lines.items():
        if 1 < len(trials) < len(groups[words]) or (len(trials) > 1 and not _joint(trials[0])):
            yield _together(words, trials)
    for words, trials in groups.items():
        if len({(trial.file, trial.line) for trial in trials}) > 1 or _joint(trials[0]):
            yield _together(words, trials)
    for trials in lines.values():
        if 1 < len(trials) <= _FEW and not _joint(trials[0]):
            yield from trials


def _joint(trial: Trial) -> bool:
    return trial.variant is not None and trial.variant.together


def _in_series(calls: list[Counted]) -> Iterator[Trial]:
    for changes, file, line in orders(calls):
        one = [Trial(variant.words, file, line, frozenset({number}), variant) for number, variant in changes.items()]
        yield _together(one[0].words, one)


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
