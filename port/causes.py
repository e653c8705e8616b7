"""The catalogue of usual mistakes, and which of them fit what a check found.

``prompts/traps.json`` is data: each trap says what it looks like, how to check for it and how to repair it, and its
``evidence`` lists the signs by which a tool may name it. A sign is a conjunction of conditions on named features of a
result (`FEATURES`), never a likeness of texts; where no sign fits, nothing is named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .errors import PortError
from .templates import PROMPTS
from .textsafe import clean

MOST = 3
"""Most causes that a result names."""
_BEHIND = 2
"""A sign this much lighter than the heaviest one that fits is noise beside it."""
_SEEN_CHARS = 90

Exact = Literal["tool", "component", "code", "also", "culprit", "shows", "dtype", "table"]
"""Features that are compared as words."""
Pattern = Literal["place", "source", "trial", "message", "names", "class"]
"""Features in which a regular expression is searched, whatever the case."""
FEATURES: tuple[str, ...] = (*get_args(Exact), *get_args(Pattern))
Conditions = dict[Exact | Pattern, list[str]]


class Sign(BaseModel):
    """One way in which a mistake shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: int = Field(ge=1, le=5, description="5: hardly anything else looks like this. 2: one possibility of many.")
    why: str = Field(min_length=10, description="What was seen, as a sentence.")
    when: Conditions = Field(min_length=1, description="All features must hold; of a feature's values, any.")
    unless: Conditions = Field(default={}, description="None of these may hold.")

    @field_validator("when", "unless")
    @classmethod
    def _patterns_compile(cls, value: Conditions) -> Conditions:
        for name, wanted in value.items():
            if not wanted:
                raise ValueError(f"{name} lists no value")
            if name in get_args(Pattern):
                for text in wanted:
                    try:
                        re.compile(text)
                    except re.error as error:
                        raise ValueError(f"{name}: {text!r} is no regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _more_than_a_tool(self) -> Sign:
        if set(self.when) <= {"tool", "component"}:
            raise ValueError("a sign needs more evidence than the tool and the kind of component")
        return self


class Trap(BaseModel):
    """One usual mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)+$")
    area: str
    symptom: str
    detect: str = Field(description="How to check for it.")
    cause: str
    fix: str
    rung: str = Field(description="Where in the order of debugging it stands.")
    source: str = Field(description="Files of FastVideo, separated by '; '.")
    evidence: list[Sign] = Field(description="Empty: no tool sees it in its results, a person may look it up.")


class Catalogue(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    fastvideo_commit: str
    areas: list[str]
    rungs: list[str]
    traps: list[Trap]

    @model_validator(mode="after")
    def _names_are_known_and_unique(self) -> Catalogue:
        ids = [trap.id for trap in self.traps]
        if len(set(ids)) != len(ids):
            raise ValueError("an id occurs twice")
        for trap in self.traps:
            if trap.area not in self.areas or trap.rung not in self.rungs:
                raise ValueError(f"{trap.id}: unknown area {trap.area!r} or rung {trap.rung!r}")
        return self


class LikelyCause(BaseModel):
    """A usual mistake that fits the evidence: a hypothesis to check, not a finding."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="See the resource trap://{id}.")
    why: str = Field(description="What in this result speaks for it.")
    check: str
    fix: str


@dataclass(frozen=True)
class Evidence:
    """The features of one result.

    Attributes:
        words: Of the features that are compared exactly; a feature that is not there holds nothing.
        texts: Of those that are searched. All of it may come from code or files that nobody vouches for.
    """

    words: Mapping[str, frozenset[str]] = field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def fits(self, conditions: Conditions) -> list[str] | None:
        """What was seen for each condition, or none when one of them does not hold."""
        seen = []
        for name, wanted in conditions.items():
            found = self._find(name, wanted)
            if found is None:
                return None
            seen.append(found)
        return seen

    def fits_any(self, conditions: Conditions) -> bool:
        """Whether one of the conditions holds."""
        return any(self._find(name, wanted) is not None for name, wanted in conditions.items())

    def _find(self, name: str, wanted: list[str]) -> str | None:
        if name in self.words:
            return next((word for word in wanted if word in self.words[name]), None)
        for pattern in wanted:
            for text in self.texts.get(name, ()):
                if found := re.search(pattern, text, re.IGNORECASE):
                    return text if name == "trial" else found.group().strip()
        return None


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The catalogue, read once and checked."""
    return Catalogue.model_validate_json((PROMPTS / "traps.json").read_text(encoding="utf-8"))


def find_trap(trap_id: str) -> Trap:
    """The trap called ``trap_id``.

    Raises:
        PortError: There is none; the nearest ids are named.
    """
    import difflib

    known = {trap.id: trap for trap in catalogue().traps}
    if trap_id in known:
        return known[trap_id]
    near = difflib.get_close_matches(trap_id[:100], known, n=3, cutoff=0.4)
    raise PortError(
        "There is no such trap.",
        seen=repr(trap_id[:100]),
        fix=f"Did you mean {', '.join(near)}?" if near else "Read knowledge://traps for the list.",
    )


def likely_causes(evidence: Evidence, most: int = MOST) -> list[LikelyCause]:
    """The traps that fit, the likeliest first; empty where none does.

    A trap counts with its heaviest sign; of equally heavy ones the sign with more conditions comes first, then the
    order of debugging (mapping before attention before scheduler before activations).
    """
    rungs = catalogue().rungs
    found = []
    for trap in catalogue().traps:
        fitting = [
            (sign, seen)
            for sign in trap.evidence
            if (seen := evidence.fits(sign.when)) is not None and not evidence.fits_any(sign.unless)
        ]
        if fitting:
            sign, seen = max(fitting, key=lambda item: (item[0].weight, len(item[0].when)))
            found.append((sign, seen, trap))
    found.sort(key=lambda item: (-item[0].weight, -len(item[0].when), rungs.index(item[2].rung)))
    heaviest = found[0][0].weight if found else 0
    return [_named(*item) for item in found[:most] if item[0].weight > heaviest - _BEHIND]


def _named(sign: Sign, seen: list[str], trap: Trap) -> LikelyCause:
    # The tool and the kind of component are known to whoever reads the result.
    shown = [
        clean(text).strip()[:_SEEN_CHARS]
        for name, text in zip(sign.when, seen, strict=True)
        if name not in ("tool", "component") and text
    ]
    why = f"{sign.why} Seen: {', '.join(dict.fromkeys(shown))}." if shown else sign.why
    return LikelyCause(id=trap.id, why=why, check=trap.detect, fix=trap.fix)


def trap_list() -> str:
    """Every trap in a line of Markdown, by area."""
    lines = ["# Usual mistakes when porting to FastVideo", "", "`trap://<id>` tells how to check and repair one.", ""]
    for area in catalogue().areas:
        lines += [f"## {area}", ""]
        lines += [f"- `{trap.id}`: {trap.symptom}" for trap in catalogue().traps if trap.area == area]
        lines.append("")
    return "\n".join(lines)


def trap_page(trap: Trap) -> str:
    """One trap in Markdown."""
    parts = (("Symptom", trap.symptom), ("Cause", trap.cause), ("Check", trap.detect), ("Fix", trap.fix))
    lines = [f"# {trap.id}", "", *(f"- {name}: {text}" for name, text in parts)]
    lines += [f"- Order of debugging: {trap.rung}", f"- Known from: {trap.source}"]
    return "\n".join(lines) + "\n"
