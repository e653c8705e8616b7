"""The proof that the official tensors arrived in the port: where each is, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .mapping import Finding


@dataclass(frozen=True)
class Link:
    """An official tensor that arrived.

    Attributes:
        official, port: Names on both sides.
        rows: Rows (dimension 0) of the port tensor that hold it; all of them if none.
        how: ``rule``, ``value`` (found by its values), ``tied``, ``rounded to ...``, or how it was rearranged.
        part: Rows of the official tensor that these are; all of them if none.
    """

    official: str
    port: str
    rows: tuple[int, int] | None
    how: str
    part: tuple[int, int] | None = None


@dataclass
class Proof:
    """Where every official tensor went.

    Attributes:
        links: The tensors that arrived.
        missing: Port tensors that no official tensor feeds.
        unexpected: Official tensors that arrive nowhere.
        unused: Official tensors that arrive nowhere and are declared to be left out on purpose.
        shape_mismatches: ``(official, port, official shape, port shape)``.
        findings: Everything else that is wrong, named.
        suggestions: Rules that would put a stray tensor where its values belong.
        tensors, parameters: ``(arrived, all but the unused)`` over the official side.
    """

    links: list[Link] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    shape_mismatches: list[tuple[str, str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    suggestions: list[str] = field(default_factory=list)
    tensors: tuple[int, int] = (0, 0)
    parameters: tuple[int, int] = (0, 0)

    def to_json(self) -> dict[str, Any]:
        """The proof as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Proof:
        """Read `to_json`."""
        pair = tuple(document["tensors"]), tuple(document["parameters"])
        return cls(
            links=[
                Link(x["official"], x["port"], _pair(x["rows"]), x["how"], _pair(x["part"])) for x in document["links"]
            ],
            missing=list(document["missing"]),
            unexpected=list(document["unexpected"]),
            unused=list(document["unused"]),
            shape_mismatches=[(a, b, tuple(c), tuple(d)) for a, b, c, d in document["shape_mismatches"]],
            findings=[
                Finding(x["code"], x["message"], tuple(x["names"]), bool(x["fatal"]), x["wrong"])
                for x in document["findings"]
            ],
            suggestions=list(document["suggestions"]),
            tensors=(pair[0][0], pair[0][1]),
            parameters=(pair[1][0], pair[1][1]),
        )


def _pair(value: list[int] | None) -> tuple[int, int] | None:
    return (value[0], value[1]) if value else None
