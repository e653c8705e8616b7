"""Reading PLAN.md: where its sections and steps stand, found with a Markdown parser and its line maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from .plan_steps import SECTIONS

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_SECTION = re.compile(r"([1-7])\.(\s|$)")
_CHECKBOX = re.compile(r"\[([ xX])\] ?")
_STEP_ID = re.compile(r"[a-z][a-z0-9_-]{0,80}", re.ASCII)
_CLOSERS = ("", "```", "~~~", "-->", "?>", "]]>", ">", "</pre>", "</script>", "</style>", "</textarea>")
_MOST_CUTS = 100
_MOST_CANDIDATES = 1000
PREAMBLE = "preamble"


@dataclass(frozen=True)
class Anchor:
    """A line that the plan is held together by.

    Attributes:
        key: ``section:N`` or ``step:ID``.
        line: Its index among the text's lines.
        ticked: Whether it is a step whose box is ticked.
    """

    key: str
    line: int
    ticked: bool = False


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


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # Block structure and code spans are all we need; links and references would only bring their own failures.
    return MarkdownIt("zero", {"html": True}).enable(
        ["blockquote", "code", "fence", "heading", "hr", "html_block", "lheading", "list", "backticks"]
    )


def split_lines(text: str) -> list[str]:
    """The lines of ``text`` without their ends, ``\\n`` or ``\\r\\n``."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def find_anchors(lines: list[str], expected: Sequence[Unit] = ()) -> list[Anchor]:
    """Every section heading and step of the plan, each key once, in the order of the lines.

    ``expected`` are generated units in their order. With them, a copy of an anchor that stands elsewhere is told from
    the anchor, and an anchor that an open code fence or HTML block swallows is found all the same. Without them the
    first of several copies counts.
    """
    found = _choose(lines, _read(lines, 0), expected)
    while True:
        known = {_unticked(lines[anchor.line]) for anchor in found}
        wanted = {unit.head for unit in expected if unit.head} - known
        cuts = [number for number, line in enumerate(lines) if _unticked(line) in wanted]
        for cut in cuts[:_MOST_CUTS]:
            again = [anchor for anchor in found if anchor.line < cut] + _read(lines[cut:], cut)
            grown = _choose(lines, again, expected)
            if len(grown) > len(found):
                found = grown
                break
        else:
            return found


def _read(lines: list[str], offset: int) -> list[Anchor]:
    # A lone carriage return is a line end for the parser and part of the line for us.
    tokens = _parser().parse("\n".join(line.replace("\r", " ") for line in lines))
    anchors = []
    for index, token in enumerate(tokens):
        key = ticked = None
        if token.type == "heading_open" and token.level == 0 and token.tag == "h2" and token.markup == "##":
            key = _section_key(tokens[index + 1])
        elif token.type == "list_item_open" and token.level == 1:
            key, ticked = _step_key(tokens, index)
        if key and token.map:
            anchors.append(Anchor(key, token.map[0] + offset, bool(ticked)))
    return anchors


def _section_key(inline: Token) -> str | None:
    match = _SECTION.match(inline.content)
    return f"section:{match[1]}" if match else None


def _step_key(tokens: list[Token], index: int) -> tuple[str | None, bool]:
    item, inline = tokens[index], tokens[index + 2] if index + 2 < len(tokens) else None
    if inline is None or inline.type != "inline" or inline.map is None or item.map is None:
        return None, False
    children = [child for child in inline.children or [] if child.type != "text" or child.content]
    box = _CHECKBOX.fullmatch(children[0].content) if len(children) > 1 and children[0].type == "text" else None
    if not box or children[1].type != "code_inline" or inline.map[0] != item.map[0]:
        return None, False
    name = children[1].content
    return (f"step:{name}", box[1] != " ") if _STEP_ID.fullmatch(name) else (None, False)


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
    return re.sub(r"\[[xX]\]", "[ ]", line, count=1)


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
    if _next_is_seen(lines):
        return []
    candidates: list[list[str]] = [[closer] for closer in _CLOSERS]
    fences = re.findall(r"^ {0,3}(`{3,}|~{3,})", "\n".join(line.replace("\r", " ") for line in lines), re.M)
    candidates += [[fence] for fence in sorted(set(fences), key=len)]
    return next((closer for closer in candidates if _next_is_seen(lines + closer)), [])


def _next_is_seen(lines: list[str]) -> bool:
    anchors = _read([*lines, "## 7. Next"], 0)
    return bool(anchors) and anchors[-1].line == len(lines)


def section_heading(number: str) -> str:
    """The heading of a section as it is written."""
    return f"## {number}. {dict(SECTIONS)[number]}"
