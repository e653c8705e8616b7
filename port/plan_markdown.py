"""Reading PLAN.md: its sections and steps with what stands below them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .plan_scan import Anchor, scan
from .plan_steps import SECTIONS

_CLOSERS = ("", "```", "~~~", "-->", "?>", "]]>", ">", "</pre>", "</script>", "</style>", "</textarea>")
_MOST_CUTS = 100
_MOST_CANDIDATES = 1000
PREAMBLE = "preamble"


@dataclass
class Unit:
    """An anchor with everything that stands below it, up to the next one.

    Attributes:
        key: The anchor's key, or ``preamble`` for what stands before the first one.
        head: The anchor's line with its box emptied; empty for the preamble.
        body: The lines below.
        ticked: Whether the box was ticked.
    """

    key: str
    head: str
    body: list[str]
    ticked: bool = False


def split_lines(text: str) -> list[str]:
    """The lines of ``text`` without their ends, ``\\n`` or ``\\r\\n``."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def find_anchors(lines: list[str], expected: Sequence[Unit] = ()) -> list[Anchor]:
    """Every section heading and step of the plan, each key once, in the order of the lines.

    ``expected`` are generated units in their order. With them, a copy of an anchor that stands elsewhere is told from
    the anchor, and an anchor that an open code fence or HTML block swallows is found all the same. Without them the
    first of several copies counts.
    """
    found = _choose(lines, list(scan(lines).anchors), expected)
    while True:
        known = {_unticked(lines[anchor.line]) for anchor in found}
        wanted = {unit.head for unit in expected if unit.head} - known
        if not wanted:
            return found
        cuts = [number for number, line in enumerate(lines) if _unticked(line) in wanted]
        for cut in cuts[:_MOST_CUTS]:
            again = [*(anchor for anchor in found if anchor.line < cut), *scan(lines[cut:], cut).anchors]
            grown = _choose(lines, again, expected)
            if len(grown) > len(found):
                found = grown
                break
        else:
            return found


def _choose(lines: list[str], anchors: list[Anchor], expected: Sequence[Unit]) -> list[Anchor]:
    """One anchor for each key: those that keep the expected order best, an unchanged line before a changed one."""
    order: dict[str, int] = {}
    for place, unit in enumerate(expected):
        order.setdefault(unit.key, place)
    heads = {unit.head for unit in expected}
    candidates = [anchor for anchor in anchors if anchor.key in order][:_MOST_CANDIDATES]
    best: list[tuple[int, int | None]] = []  # weight of the best chain that ends here, and its link before
    for index, anchor in enumerate(candidates):
        chains = [
            (best[before][0], before) for before in range(index) if order[candidates[before].key] < order[anchor.key]
        ]
        weight, link = max(chains, default=(0, None), key=lambda chain: chain[0])
        best.append((weight + (3 if _unticked(lines[anchor.line]) in heads else 1), link))
    chosen: dict[str, Anchor] = {}
    at = max(range(len(best)), key=lambda index: best[index][0]) if best else None
    while at is not None:
        chosen[candidates[at].key] = candidates[at]
        at = best[at][1]
    for anchor in anchors:
        chosen.setdefault(anchor.key, anchor)
    return sorted(chosen.values(), key=lambda anchor: anchor.line)


def _unticked(line: str) -> str:
    return re.sub(r"\[[xX]\]", "[ ]", line, count=1) if "[" in line else line


def tick(head: str) -> str:
    """A step's head with its box ticked."""
    return head.replace("[ ]", "[x]", 1)


def split_units(lines: list[str], expected: Sequence[Unit] = ()) -> list[Unit]:
    """The plan as its preamble and one unit per anchor; joined again they are the same lines (boxes apart)."""
    units = [Unit(PREAMBLE, "", [])]
    anchors = {anchor.line: anchor for anchor in find_anchors(lines, expected)}
    for number, line in enumerate(lines):
        if anchor := anchors.get(number):
            head = _unticked(line) if anchor.key.startswith("step:") else line
            units.append(Unit(anchor.key, head, [], anchor.ticked))
        else:
            units[-1].body.append(line)
    return units


def close_open_blocks(unit: Unit) -> list[str]:
    """Lines that have to follow ``unit`` so that nothing it leaves open swallows the next anchor; mostly none."""
    lines = [*([unit.head] if unit.head else []), *unit.body]
    if scan(lines).closed:
        return []
    candidates: list[list[str]] = [[closer] for closer in _CLOSERS]
    fences = re.findall(r"^ {0,3}(`{3,}|~{3,})", "\n".join(line.replace("\r", " ") for line in lines), re.M)
    candidates += [[fence] for fence in sorted(set(fences), key=len)]
    return next((closer for closer in candidates if scan(lines + closer).closed), [])


def section_heading(number: str) -> str:
    """The heading of a section as it is written."""
    return f"## {number}. {dict(SECTIONS)[number]}"
