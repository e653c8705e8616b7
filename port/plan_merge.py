"""Writing a plan again over one that a person has edited: their lines stay, generated lines follow the new draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from .plan_markdown import PREAMBLE, Unit, close_open_blocks, split_units, tick


@dataclass
class Merged:
    """The merged plan.

    Attributes:
        lines: Its lines.
        ticked: Ids of the steps whose boxes are ticked.
        kept: What was kept of a person's edits, in words.
        removed: Ids of the steps that the new draft no longer has.
    """

    lines: list[str]
    ticked: set[str] = field(default_factory=set)
    kept: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def merge_plan(base: Sequence[str], current: Sequence[str], new: Sequence[str]) -> Merged:
    """Merge the lines of the last generated plan, the plan as it stands, and the newly generated one.

    The order is the new plan's. A generated section or step that was deleted by hand comes back; one that the new plan
    no longer has goes, and what a person wrote below it moves to the step before.
    """
    old = {unit.key: unit for unit in split_units(list(base))}
    fresh = split_units(list(new))
    expected = [*old.values(), *(unit for unit in fresh if unit.key not in old or unit.head != old[unit.key].head)]
    present = split_units(list(current), expected)
    _adopt_orphans(present, old, {unit.key for unit in fresh}, merged := Merged([]))
    mine = {unit.key: unit for unit in present}
    for unit in fresh:
        result = _merge_unit(unit, mine.get(unit.key), old.get(unit.key), merged)
        merged.lines += [*([result.head] if unit.key != PREAMBLE else []), *result.body]
        if result.body != unit.body:  # what we generate leaves nothing open
            merged.lines += close_open_blocks(result)
    return merged


def _adopt_orphans(present: list[Unit], old: dict[str, Unit], wanted: set[str], merged: Merged) -> None:
    """Hand what a person wrote in units that go to the unit before them, and drop those units."""
    for index in range(len(present) - 1, 0, -1):
        unit = present[index]
        if unit.key in wanted:
            continue
        del present[index]
        before = old.get(unit.key)
        if before is None:  # their own item: nothing of it is ours
            own = [tick(unit.head) if unit.ticked else unit.head, *unit.body]
        else:
            own = merge_lines(before.body, unit.body, [])
            own = [] if not any(line.strip() for line in own) else own
            merged.removed.append(unit.key.split(":", 1)[1])
        present[index - 1].body += own
    merged.removed.reverse()


def _merge_unit(unit: Unit, mine: Unit | None, base: Unit | None, merged: Merged) -> Unit:
    if mine is None:
        return unit
    edited_head = unit.key != PREAMBLE and mine.head != unit.head and (base is None or mine.head != base.head)
    body = merge_lines(base.body if base else [], mine.body, unit.body)
    name = unit.key.split(":", 1)[-1] if unit.key != PREAMBLE else "the beginning"
    if mine.ticked:
        merged.ticked.add(name)
        merged.kept.append(f"tick of {name}")
    if edited_head:
        merged.kept.append(f"wording of {name}")
    own = [line for line in merge_lines([*(base.body if base else []), *unit.body], mine.body, []) if line.strip()]
    if own:
        merged.kept.append(f"{len(own)} {'line' if len(own) == 1 else 'lines'} in {name}: {own[0].strip()[:60]}")
    head = mine.head if edited_head else unit.head
    return Unit(unit.key, tick(head) if mine.ticked else head, body)


def merge_lines(base: Sequence[str], mine: Sequence[str], new: Sequence[str]) -> list[str]:
    """Three-way merge by lines in which nothing that was added in ``mine`` is lost.

    A base line stays when both sides kept it. Where both sides put something into the same gap, both stand there,
    the generated text first, and what is equal in both stands once.
    """
    kept_mine, added_mine = _changes(base, mine)
    kept_new, added_new = _changes(base, new)
    merged: list[str] = []
    for gap in range(len(base) + 1):
        merged += _union(added_new[gap], added_mine[gap])
        if gap < len(base) and kept_mine[gap] and kept_new[gap]:
            merged.append(base[gap])
    return merged


def _changes(base: Sequence[str], other: Sequence[str]) -> tuple[list[bool], list[list[str]]]:
    """Which base lines ``other`` keeps, and what it adds before each of them and at the end."""
    kept = [False] * len(base)
    added: list[list[str]] = [[] for _ in range(len(base) + 1)]
    for kind, low, high, start, stop in SequenceMatcher(None, base, other, autojunk=False).get_opcodes():
        if kind == "equal":
            kept[low:high] = [True] * (high - low)
        else:
            added[low] += other[start:stop]
    return kept, added


def _union(new: list[str], mine: list[str]) -> list[str]:
    if not new or not mine:
        return [*new, *mine]
    union: list[str] = []
    for kind, low, high, start, stop in SequenceMatcher(None, new, mine, autojunk=False).get_opcodes():
        union += new[low:high]
        if kind != "equal":
            union += mine[start:stop]
    return union
