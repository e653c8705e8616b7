"""Where a plan's sections and steps stand, found line by line where that is certain and by a Markdown parser elsewhere.

The parser takes seconds for a megabyte, and most of a plan is made of a few forms that leave no doubt. A line that
begins, at the margin, with a bullet or with an ATX heading ends every block but a fence or an HTML block that was
opened at the margin too. So the text falls into pieces at such lines: a piece in which only the first line can be an
anchor, and which opens nothing at the margin, is judged by that line; all others are parsed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_SECTION = re.compile(r"([1-7])\.(\s|$)")
_CHECKBOX = re.compile(r"\[([ xX])\] ?")
_STEP_ID = re.compile(r"[a-z][a-z0-9_-]{0,80}", re.ASCII)

_PIECE = re.compile(r"[-*+] [^ \t]|#{1,6} ")
_HEADING = re.compile(r"## (?=[A-Za-z0-9])")
_STEP = re.compile(r"[-*+] \[([ xX])\] ?`( ?)([a-z][a-z0-9_-]{0,80})\2`(?!`)", re.ASCII)
# Of a longer run of backticks, and of a code span that may end in a line below, only the parser can tell.
_STEP_RUN = re.compile(r"[-*+] \[[ xX]\] ?``")
_STEP_OPEN = re.compile(r"[-*+] \[[ xX]\] ?`[^`]*$")
_RULE = re.compile(r"([-*])([ \t]*\1){2,}[ \t]*$")
_PLAIN = re.compile(r"(> ?)?[A-Za-z]")
_NEXT = "## 7. Next"


class Anchor(NamedTuple):
    """A line that the plan is held together by.

    Attributes:
        key: ``section:N`` or ``step:ID``.
        line: Its index among the text's lines.
        ticked: Whether it is a step whose box is ticked.
    """

    key: str
    line: int
    ticked: bool = False


class Scan(NamedTuple):
    """What stands in a text.

    Attributes:
        anchors: Every section heading and step in the order of the lines.
        closed: Whether a heading that followed the text would be seen as one.
    """

    anchors: tuple[Anchor, ...]
    closed: bool


def scan(lines: list[str], offset: int = 0) -> Scan:
    """The anchors of ``lines``, the first of which is number ``offset`` of the whole text."""
    # A lone carriage return is a line end for the parser and part of the line for us.
    text = [line.replace("\r", " ") for line in lines] or [""]
    starts = sorted({0, *(number for number, line in enumerate(text) if _PIECE.match(line))})
    ends = [*starts[1:], len(text)]
    anchors: list[Anchor] = []
    closed, place = True, 0
    while place < len(starts):
        begin, taken = starts[place], 1
        quick = _certain(text, begin, ends[place])
        if quick is None:
            # Uncertain neighbours go together: the parser's start costs more than a few lines.
            while place + taken < len(starts) and _certain(text, starts[place + taken], ends[place + taken]) is None:
                taken += 1
            found, closed = parsed("\n".join(text[begin : ends[place + taken - 1]]))
            more = 1
            while not closed and place + taken < len(starts):
                taken = min(taken + more, len(starts) - place)
                more *= 2
                found, closed = parsed("\n".join(text[begin : ends[place + taken - 1]]))
            anchors += [Anchor(key, line + begin + offset, ticked) for key, line, ticked in found]
        else:
            closed = True
            anchors += [Anchor(key, begin + offset, ticked) for key, _, ticked in quick]
        place += taken
    return Scan(tuple(anchors), closed)


def _certain(text: list[str], begin: int, end: int) -> tuple[Anchor, ...] | None:
    """The anchors of the piece ``text[begin:end]`` if its lines leave no doubt; otherwise none."""
    first, below = text[begin], begin + 1
    found: tuple[Anchor, ...] = ()
    if first[:2] in ("- ", "* ", "+ ") and first[2:3] not in ("", " ", "\t"):
        if _RULE.match(first):
            return None
        if step := _STEP.match(first):
            found = (Anchor(f"step:{step[3]}", 0, step[1] != " "),)
        elif _STEP_RUN.match(first) or (below < end and _STEP_OPEN.match(first)):
            return None
        # What is indented as far as the item's text, and what is empty, belongs to the item.
        while below < end and (text[below][:2] == "  " or not text[below].strip(" \t")):
            below += 1
    elif heading := _HEADING.match(first):
        if section := _SECTION.match(first[heading.end() :]):
            found = (Anchor(f"section:{section[1]}", 0),)
    elif _PLAIN.match(first) is None and first.strip(" \t"):
        return None
    while below < end and (_PLAIN.match(text[below]) or not text[below].strip(" \t")):
        below += 1
    return found if below == end else None


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # Block structure and code spans are all we need; links and references would only bring their own failures.
    return MarkdownIt("zero", {"html": True}).enable(
        ["blockquote", "code", "fence", "heading", "hr", "html_block", "lheading", "list", "backticks"]
    )


@lru_cache(maxsize=4096)
def parsed(text: str) -> Scan:
    """What the Markdown parser finds in ``text``, whose lines end in ``\\n``; remembered until `forget`."""
    tokens = _parser().parse(f"{text}\n{_NEXT}")
    anchors = []
    for index, token in enumerate(tokens):
        key = ticked = None
        if token.type == "heading_open" and token.level == 0 and token.tag == "h2" and token.markup == "##":
            key = _section_key(tokens[index + 1])
        elif token.type == "list_item_open" and token.level == 1:
            key, ticked = _step_key(tokens, index)
        if key and token.map:
            anchors.append(Anchor(key, token.map[0], bool(ticked)))
    closed = bool(anchors) and anchors[-1].line == text.count("\n") + 1
    return Scan(tuple(anchors[:-1] if closed else anchors), closed)


def forget() -> None:
    """Let go of the texts that were parsed."""
    parsed.cache_clear()


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
