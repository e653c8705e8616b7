"""Turn proven places of tensors into rules of FastVideo's own form: one for all blocks, each tried first."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .mapping import Rule, apply


@dataclass(frozen=True)
class Place:
    """Where an official tensor belongs: a port tensor, or part ``index`` of ``total`` of it."""

    official: str
    port: str
    index: int | None = None
    total: int | None = None


def suggest(places: Iterable[Place], rules: Sequence[Rule], names: Iterable[str], because: str) -> list[str]:
    """Ready rules that put every tensor of ``places`` where it belongs.

    Args:
        places: What the rules have to achieve.
        rules: The port's rules now.
        names: All official names; a suggested rule may not move any other tensor.
        because: What decided the places, for the text.
    """
    names = list(names)
    found = []
    for group in _groups(list(places)):
        wanted = {place.official: place for place in group}
        for rule in _candidates(group):
            if _verified(rule, wanted, list(rules), names):
                found.append(_text(rule, wanted, list(rules), names, because))
                break
        else:
            first = group[0]
            found.append(f"{first.official!r} belongs to {first.port!r} ({because}); {len(group)} tensors like it.")
    return found


def _stem(name: str) -> tuple[str, str]:
    """A name without its last part, and that part, if it is one that modules give their tensors."""
    head, dot, tail = name.rpartition(".")
    return (head, tail) if dot and tail in ("weight", "bias") else (name, "")


def _groups(places: list[Place]) -> list[list[Place]]:
    """Places that differ only in numbers, and in weight or bias where both sides agree on it."""
    groups: dict[tuple[object, ...], list[Place]] = defaultdict(list)
    for place in places:
        official, port = _stem(place.official), _stem(place.port)
        if official[1] != port[1]:
            official, port = (place.official, ""), (place.port, "")
        key = (_folded(official[0]), _folded(port[0]), bool(official[1]), place.index, place.total)
        groups[key].append(place)
    return list(groups.values())


def _folded(name: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "#", name)


def _candidates(group: list[Place]) -> Iterable[Rule]:
    """Rules for a group, the most general first."""
    first = group[0]
    tails = sorted({_stem(place.official)[1] for place in group})
    shared = bool(tails[0]) and all(_stem(place.official)[1] == _stem(place.port)[1] for place in group)
    for tail in [r"(.*)", f"({'|'.join(tails)})"] if shared else [""]:
        cut = (lambda name: _stem(name)[0]) if shared else (lambda name: name)
        rows = [(cut(place.official).split("."), cut(place.port).split(".")) for place in group]
        pattern: list[str] = []
        variable: list[int] = []
        for position, part in enumerate(rows[0][0]):
            values = {row[0][position] for row in rows}
            free = part.isdigit() and (len(values) > 1 or (len(group) == 1 and not variable and part in rows[0][1]))
            if free:
                variable.append(position)
            pattern.append(r"(\d+)" if free else re.escape(part))
        template = []
        for position, part in enumerate(rows[0][1]):
            if part.isdigit():
                by = [n for n, v in enumerate(variable) if all(row[1][position] == row[0][v] for row in rows)]
                if by:
                    part = rf"\{by[0] + 1}"
                elif len({row[1][position] for row in rows}) > 1:
                    return
            template.append(part)
        source, target = r"\.".join(pattern), ".".join(template)
        if tail:
            source, target = rf"{source}\.{tail}", rf"{target}.\{len(variable) + 1}"
        yield Rule(f"^{source}$", target, first.index, first.total)


def _verified(rule: Rule, wanted: dict[str, Place], rules: list[Rule], names: list[str]) -> bool:
    """Whether the rule, put first, sends exactly the wanted tensors to their places."""
    for name in names:
        before, after = apply(rules, name), apply([rule, *rules], name)
        place = wanted.get(name)
        if place is not None:
            if (after[0], after[1].index, after[1].total) != (place.port, place.index, place.total):
                return False
        elif (before[0], before[1].index) != (after[0], after[1].index):
            return False
    return True


def _text(rule: Rule, wanted: dict[str, Place], rules: list[Rule], names: list[str], because: str) -> str:
    value = f'r"{rule.template}"'
    if rule.index is not None:
        value = f"({value}, {rule.index}, {rule.total})"
    old = {apply(rules, name)[1].rule for name in wanted} - {None}
    replaced = [
        rules[number].pattern
        for number in sorted(number for number in old if number is not None)
        if all(name in wanted for name in names if apply(rules, name)[1].rule == number)
    ]
    place = (
        f"in place of {', '.join(map(repr, replaced))}: " if replaced else "before the other rules: " if rules else ""
    )
    return f'Put {place}r"{rule.pattern}": {value} ({len(wanted)} tensors, {because}).'
