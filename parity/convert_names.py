"""Tensors that arrived whole, but under names that contradict each other: q's values as k, block 3's as block 4."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from .mapping import Finding
from .proof import Link

_ROLES = (("q", "k", "v"), ("query", "key", "value"), ("scale", "shift"), ("gate", "up"), ("encoder", "decoder"))
_ORDER = {"q": 0, "k": 1, "v": 2, "query": 0, "key": 1, "value": 2}


def crossed(links: Iterable[Link]) -> list[Finding]:
    """Suspicions from the names of what was found by value; none of them is certain, so none is fatal.

    - The parts of a tensor called qkv (or to_qkv, in_proj ...) stand in another order than q, k, v.
    - A tensor of one role arrives under another role's name.
    - A tensor of one block arrives in another block, where its likes keep (or all shift) their number.
    """
    links = list(links)
    found = []
    groups: dict[str, list[Link]] = defaultdict(list)
    for link in links:
        if link.part is not None:
            groups[f"split of {link.official!r}"].append(link)
        elif link.rows is not None:
            groups[f"merge into {link.port!r}"].append(link)
    for what, rows in groups.items():
        merged = what.startswith("merge")
        spans = sorted(rows, key=lambda link: (link.rows if merged else link.part) or (0, 0))
        roles = [_role(link.official if merged else link.port) for link in spans]
        places = [_ORDER[role] for role in roles if role in _ORDER]
        if len(places) > 1 and len(places) == len(roles) and places != sorted(places):
            message = f"The {what} has its parts in the order {', '.join(map(str, roles))}; usual is q, k, v."
            found.append(Finding("order-suspect", message, tuple(link.port for link in spans), fatal=False))
    for link in links:
        if link.part is None and link.rows is None:
            one, other = _role(link.official), _role(link.port)
            if one and other and one[0] != other[0] and any(one in row and other in row for row in _ROLES):
                message = f"{link.official!r} arrives as {link.port!r}: the names say {one} and {other}."
                found.append(Finding("name-suspect", message, (link.official, link.port), fatal=False))
    return found + _numbers(links)


def _role(name: str) -> str:
    """The last part of a name that says which of several siblings it is: q of ``attn.to_q.weight``."""
    words = {word for row in _ROLES for word in row}
    for part in reversed(re.split(r"[./]", name.lower())):
        plain = re.sub(r"^(to|w|lin|linear|add)_|_(proj|lin|linear|norm)$", "", part)
        plain = re.sub(r"_proj$", "", plain)
        if plain in words:
            return plain
    return ""


def _numbers(links: list[Link]) -> list[Finding]:
    shifts: dict[tuple[str, str], Counter[tuple[int, ...]]] = defaultdict(Counter)
    rows = []
    for link in links:
        one, other = (
            [int(number) for number in re.findall(r"(?<=\.)\d+(?=\.)", n)] for n in (link.official, link.port)
        )
        if one and len(one) == len(other):
            key = (re.sub(r"\d+", "#", link.official), re.sub(r"\d+", "#", link.port))
            shift = tuple(b - a for a, b in zip(one, other, strict=True))
            shifts[key][shift] += 1
            rows.append((key, shift, link))
    odd = [link for key, shift, link in rows if shift != shifts[key].most_common(1)[0][0] and len(shifts[key]) <= 4]
    return [
        Finding("name-suspect", f"{link.official!r} arrives in {link.port!r}, its likes in their own block.",
                (link.official, link.port), fatal=False)
        for link in odd
    ]  # fmt: skip
