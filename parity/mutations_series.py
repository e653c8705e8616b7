"""Mistakes that lie in several torch calls at once: the axes of a grid or of a rotary embedding in another order.

One line of code that is run once for each axis makes a series of calls that differ in a whole number: the sizes of a
grid, the shares of a head's width, the places of query, key and value. Another order of these numbers is tried in all
series of one file that follow the same numbers, for the rest of the code has to fit. The places that one line takes
out of a tensor stand for themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .variant import Call, Variant, op_name

Path = tuple[int, ...]
_OPS = ("arange", "linspace", "div", "mul", "add", "sub", "getitem", "narrow", "select", "full")
_MOST_AXES = 4


@dataclass(frozen=True)
class Counted:
    """A call with whole numbers.

    Attributes:
        number: Of the call among the suspect's own.
        op, file, line: What is called, and where.
        integers: Place among the arguments -> whole number there.
    """

    number: int
    op: str
    file: str
    line: int
    integers: dict[Path, int]


@dataclass(frozen=True)
class _Series:
    op: str
    calls: tuple[int, ...]
    path: Path
    values: tuple[int, ...]
    period: int

    @property
    def cycle(self) -> tuple[int, ...]:
        return self.values[: self.period]


def counted(number: int, function: Call, args: tuple[Any, ...], file: str, line: int) -> list[Counted]:
    """What `orders` has to know of a call: its whole numbers; places in a tensor apart from bounds of slices."""
    op = op_name(function)
    if op not in _OPS:
        return []
    found = dict(_integers(args, ()))
    if op != "getitem":
        return [Counted(number, op, file, line, found)] if found else []
    places = {path: value for path, value in found.items() if _at(args, path) is not None}
    bounds = {path: value for path, value in found.items() if path not in places}
    kinds = (("place", places), ("bound", bounds))
    return [Counted(number, kind, file, line, numbers) for kind, numbers in kinds if numbers]


def _at(value: Any, path: Path) -> Any:
    """What stands at a path; none inside a slice."""
    for place in path:
        value = value[place] if isinstance(value, (list, tuple)) else None
    return value


def _integers(value: Any, path: Path) -> Iterator[tuple[Path, int]]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield path, value
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from _integers(item, (*path, place))
    elif isinstance(value, slice):
        yield from _integers((value.start, value.stop), path)


def orders(calls: Sequence[Counted]) -> Iterator[tuple[dict[int, Variant], str, int]]:
    """Call -> how it is made otherwise, for every other order of the numbers of a series; file and line."""
    by_file: dict[str, list[_Series]] = {}
    places: dict[int, Counted] = {call.number: call for call in calls}
    for series in _series(calls):
        by_file.setdefault(places[series.calls[0]].file, []).append(series)
    done = set()
    for file, rows in by_file.items():
        for base in rows:
            for members in ([base],) if base.op == "place" else (_alike(base, rows), _following(base, rows)):
                for order in itertools.permutations(range(base.period)):
                    new = tuple(base.cycle[i] for i in order)
                    key = (file, tuple(id(row) for row in members), tuple(_reordered(row, order) for row in members))
                    if new == base.cycle or key in done:
                        continue
                    done.add(key)
                    words = f"the numbers {_text(base.cycle)} of the calls at one line in the order {_text(new)}"
                    yield _changes(members, order, words), file, places[base.calls[0]].line


def _series(calls: Sequence[Counted]) -> Iterator[_Series]:
    groups: dict[tuple[str, str, int, Path], list[tuple[int, int]]] = {}
    for call in calls:
        for path, value in call.integers.items():
            groups.setdefault((call.file, call.op, call.line, path), []).append((call.number, value))
    for (_, op, _, path), rows in groups.items():
        numbers, values = tuple(number for number, _ in rows), tuple(value for _, value in rows)
        period = next((p for p in range(2, _MOST_AXES + 1) if _repeats(values, p)), 0)
        if period and len(set(values)) > 1 and (op != "place" or _in_a_row(numbers, period)):
            yield _Series(op, numbers, path, values, period)


def _in_a_row(numbers: tuple[int, ...], period: int) -> bool:
    """Whether nothing is called in between: parts taken out one after the other, not one in each step of a loop."""
    return all(b - a == 1 for i, (a, b) in enumerate(itertools.pairwise(numbers)) if (i + 1) % period)


def _repeats(values: tuple[int, ...], period: int) -> bool:
    return len(values) % period == 0 and all(v == values[i % period] for i, v in enumerate(values))


def _alike(base: _Series, rows: list[_Series]) -> list[_Series]:
    """The series that are a multiple of this one, or one more (the number of points for that many steps)."""

    def multiple(row: _Series) -> bool:
        return all(a * sum(base.cycle) == b * sum(row.cycle) for a, b in zip(row.cycle, base.cycle, strict=True))

    def one_more(row: _Series) -> bool:
        return len({a - b for a, b in zip(row.cycle, base.cycle, strict=True)}) == 1

    return [row for row in _sizes(rows, base.period) if multiple(row) or one_more(row)]


def _following(base: _Series, rows: list[_Series]) -> list[_Series]:
    """The series whose numbers are equal where this one's are."""

    def pattern(row: _Series) -> list[int]:
        return [row.cycle.index(value) for value in row.cycle]

    return [row for row in _sizes(rows, base.period) if pattern(row) == pattern(base)]


def _sizes(rows: list[_Series], period: int) -> list[_Series]:
    return [row for row in rows if row.period == period and row.op != "place"]


def _reordered(series: _Series, order: tuple[int, ...]) -> tuple[int, ...]:
    period = series.period
    return tuple(series.values[i - i % period + order[i % period]] for i in range(len(series.values)))


def _changes(members: list[_Series], order: tuple[int, ...], words: str) -> dict[int, Variant]:
    changed: dict[int, dict[Path, int]] = {}
    for series in members:
        for number, value in zip(series.calls, _reordered(series, order), strict=True):
            changed.setdefault(number, {})[series.path] = value
    return {number: Variant(words, _replacing(values)) for number, values in sorted(changed.items())}


def _replacing(values: dict[Path, int]) -> Any:
    def change(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(*_replaced(args, values, ()), **kwargs)

    return change


def _replaced(value: Any, values: dict[Path, int], path: Path) -> Any:
    if path in values:
        return values[path]
    if isinstance(value, (list, tuple)):
        items = [_replaced(item, values, (*path, place)) for place, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, slice):
        start, stop = (values.get((*path, place), old) for place, old in enumerate((value.start, value.stop)))
        return slice(start, stop, value.step)
    return value


def _text(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)
