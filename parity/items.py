"""The inputs of a comparison: every case with every seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import ParityError


@dataclass(frozen=True)
class Item:
    """One input: a case with a seed; ``key`` is its file name."""

    key: str
    case: str
    seed: int


def items(cases: list[str], seeds: list[int]) -> list[Item]:
    """All inputs of a comparison, in order."""
    return [Item(f"{number}-{seed}", case, seed) for number, case in enumerate(cases) for seed in seeds]


def choose(cases: dict[str, dict[str, Any]], wanted: list[str] | None) -> dict[str, dict[str, Any]]:
    if wanted is None:
        return cases
    unknown = [name for name in wanted if name not in cases]
    if unknown or not wanted:
        raise ParityError(
            "The adapter has no such case." if unknown else "No case was chosen.",
            seen=f"asked for {wanted}; CASES has {', '.join(cases)}",
            fix="Name cases of the adapter, or leave 'cases' out to run all of them.",
        )
    return {name: cases[name] for name in wanted}
