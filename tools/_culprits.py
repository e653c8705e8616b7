"""Culprits and trials as results show them: paths relative to the worktree, text cleaned."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..port.textsafe import clean

_MOST_TRIALS = 6


class Culprit(BaseModel):
    """Where the port goes wrong."""

    model_config = ConfigDict(extra="forbid")

    module: str = Field(description="Port module; '' is the root.")
    official_module: str | None
    kind: Literal["module", "glue", "weights", "dtype", "backend"] = Field(description="glue: code between two calls.")
    file: str
    line: int
    end_line: int
    why: str
    confidence: Literal["certain", "likely"]


def culprit_of(row: dict[str, Any] | None, worktree: Path) -> Culprit | None:
    """The engine's culprit for a client, or none."""
    if row is None:
        return None
    file = Path(row["file"])
    shown = file.relative_to(worktree).as_posix() if file.is_relative_to(worktree) else str(file)
    return Culprit(**{**row, "file": shown, "why": clean(row["why"])[:1000]})


def place(row: dict[str, Any], worktree: Path) -> str:
    """A culprit in one line."""
    found = culprit_of(row, worktree)
    return f"{found.module} ({found.kind}), {found.file}:{found.line}-{found.end_line}" if found else ""


def trial_words(trials: list[dict[str, Any]]) -> list[str]:
    """What mended the error, one line a change, at most six; the simplest first for each culprit."""
    rows = [row for trial in trials for row in trial["found"]][:_MOST_TRIALS]
    return [
        clean(f"{Path(row['file']).name}:{row['line']}: with {row['words']} the error is {row['after']:.1g}")[:300]
        for row in rows
    ]


def what_to_compare(culprit: Culprit, trials: list[str]) -> str:
    """The place to compare with the official code, and the first change that was found to remove the error."""
    lines = f"{culprit.line}-{culprit.end_line}" if culprit.end_line > culprit.line else f"{culprit.line}"
    first = f" (a change that removes the error: {trials[0]})" if trials else ""
    return f"Compare {culprit.file}:{lines} with the official code{first}, repair it, then call run_component_parity"
