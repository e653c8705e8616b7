"""Which licence a text is, by sentences that only that licence has; what is not recognised is said to be unknown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

LICENCE_FILE = re.compile(r"(licen[cs]e|copying|unlicense|notice)([.\-_].*)?", re.IGNORECASE)
"""Names of files that hold a licence."""

# In this order: a longer text that contains a shorter one (LGPL names the GPL) stands before it.
_KNOWN: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("AGPL-3.0", "copyleft, also over a network", ("gnu affero general public license", "version 3")),
    ("LGPL-3.0", "copyleft for the library", ("gnu lesser general public license", "version 3")),
    ("LGPL-2.1", "copyleft for the library", ("gnu lesser general public license", "version 2.1")),
    ("GPL-3.0", "copyleft: a port of its code falls under it", ("gnu general public license", "version 3")),
    ("GPL-2.0", "copyleft: a port of its code falls under it", ("gnu general public license", "version 2")),
    ("MPL-2.0", "copyleft by file", ("mozilla public license", "2.0")),
    ("CC-BY-NC-SA-4.0", "no commercial use", ("attribution-noncommercial-sharealike 4.0",)),
    ("CC-BY-NC-ND-4.0", "no commercial use, no changes", ("attribution-noncommercial-noderivatives 4.0",)),
    ("CC-BY-NC-4.0", "no commercial use", ("attribution-noncommercial 4.0",)),
    ("CC-BY-SA-4.0", "share alike", ("attribution-sharealike 4.0",)),
    ("CC-BY-4.0", "permissive, with attribution", ("attribution 4.0 international",)),
    ("CC0-1.0", "public domain", ("cc0 1.0 universal",)),
    ("Apache-2.0", "permissive", ("apache license", "version 2.0")),
    (
        "BSD-3-Clause",
        "permissive",
        ("redistribution and use in source and binary forms", "neither the name", "endorse or promote"),
    ),
    ("BSD-2-Clause", "permissive", ("redistribution and use in source and binary forms",)),
    ("MIT", "permissive", ("permission is hereby granted, free of charge", "the above copyright notice")),
    ("ISC", "permissive", ("permission to use, copy, modify, and/or distribute this software",)),
    ("Unlicense", "public domain", ("free and unencumbered software released into the public domain",)),
)
_RESTRICTED = (
    ("community license", "a community licence of the model's maker, with conditions of its own"),
    ("openrail", "an OpenRAIL licence, with restrictions of use"),
    ("non-commercial", "terms that speak of non-commercial use"),
    ("noncommercial", "terms that speak of non-commercial use"),
    ("research purposes", "terms that speak of research purposes"),
    ("all rights reserved", "all rights reserved"),
)


@dataclass(frozen=True)
class Licence:
    """What a licence file says.

    Attributes:
        name: SPDX name, or ``unknown``.
        words: What it means for a port, in a few words.
        file: Path in the repository; empty where there is none.
    """

    name: str
    words: str
    file: str


def recognise(text: str, file: str) -> Licence:
    """The licence that ``text`` is; ``unknown``, with what can be seen, where no known sentence stands in it."""
    words = " ".join(re.sub(r"[^a-z0-9.,/+-]+", " ", text.lower()).split())
    # The beginning says what a text is; an Apache text in an appendix does not make the whole Apache.
    restricted = [meaning for phrase, meaning in _RESTRICTED if phrase in words[:4000]]
    for name, meaning, phrases in _KNOWN:
        if all(phrase in words for phrase in phrases) and not (restricted and name in ("Apache-2.0", "MIT")):
            return Licence(name, meaning, file)
    said = restricted[0] if restricted else "no licence text that is known here"
    return Licence("unknown", f"{said}; a person has to read {file} before code is taken over", file)


def none_found() -> Licence:
    """What is said of a repository without a licence file."""
    return Licence("unknown", "there is no licence file: without one nothing may be taken over; ask its authors", "")


def rank(path: str) -> tuple[int, int, str]:
    """Sorts candidates: the top folder first, LICENSE before NOTICE, then by name."""
    name = PurePosixPath(path).name.lower()
    return path.count("/"), 1 if name.startswith("notice") else 0, path
