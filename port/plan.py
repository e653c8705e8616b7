"""PLAN.md: what a port will do, in which order, and when each step counts as done.

The file belongs to people: they tick boxes, add text and items, reword steps, and writing the plan again keeps it all.
For that the last generated text is kept in the state folder, where the merge finds what was ours. Nothing in the file
is evidence; the state of a step comes from what was measured, and a tick without evidence is only *claimed*.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .errors import PortError
from .files import replace_file
from .paths import open_regular, require_worktree
from .plan_markdown import (
    PREAMBLE,
    Unit,
    close_open_blocks,
    find_anchors,
    section_heading,
    split_lines,
    split_units,
    tick,
)
from .plan_merge import merge_plan
from .plan_scan import forget
from .plan_steps import SECTIONS, PlanDraft, StepSpec, steps_of
from .templates import render
from .textsafe import bullet

PLAN_NAME = "PLAN.md"
MAX_PLAN_BYTES = 1024 * 1024
"""Largest PLAN.md that is read."""

StepState = Literal["todo", "in_progress", "claimed", "done"]


class PlanStep(BaseModel):
    """A step of the plan with its state."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Stable id, as in PLAN.md.")
    title: str
    acceptance: str = Field(description="When the step counts as done.")
    state: StepState = Field(description="From evidence; 'claimed' is a tick without evidence.")
    needs_approval: bool = Field(description="Whether a person has to agree.")


@dataclass(frozen=True)
class WrittenPlan:
    """What writing a plan did.

    Attributes:
        path: The file.
        steps: The generated steps in order.
        kept: Edits of a person that were kept, in words.
        removed: Ids of steps that the plan had before and has no more.
        changed: Whether the file's content changed.
    """

    path: Path
    steps: list[PlanStep]
    kept: list[str]
    removed: list[str]
    changed: bool


def render_plan(draft: PlanDraft) -> str:
    """The plan as it is generated, before anybody edited it; ends with a line break."""
    headings = {number: section_heading(number) for number, _ in SECTIONS}
    return render("plan.md.j2", draft=draft, steps=steps_of(draft), headings=headings).rstrip("\n") + "\n"


def ticked_steps(text: str) -> set[str]:
    """Ids of the steps whose boxes are ticked in ``text``. Any text can be read."""
    return {anchor.key.removeprefix("step:") for anchor in find_anchors(split_lines(text)) if anchor.ticked}


def step_states(
    steps: list[StepSpec], ticked: set[str], evidence: Mapping[str, Literal["in_progress", "done"]]
) -> list[PlanStep]:
    """The steps with their states: evidence first; without it a tick is a claim and nothing else."""
    return [
        PlanStep(
            id=step.id,
            title=step.title,
            acceptance=step.acceptance,
            state=_state(step.id, ticked, evidence),
            needs_approval=step.needs_approval,
        )
        for step in steps
    ]


def _state(step: str, ticked: set[str], evidence: Mapping[str, Literal["in_progress", "done"]]) -> StepState:
    if evidence.get(step) == "done":
        return "done"
    return "claimed" if step in ticked else evidence.get(step, "todo")


def read_plan(worktree: Path) -> str | None:
    """The text of the worktree's PLAN.md, or none when there is no such file.

    Raises:
        PortError: It is a link out of the worktree, no regular file, too large, or cannot be read.
    """
    path = _plan_file(worktree)
    return _decode(_read(path)) if path.exists() else None


def write_plan_file(
    worktree: Path,
    home: Path,
    port_id: str,
    draft: PlanDraft,
    evidence: Mapping[str, Literal["in_progress", "done"]],
) -> WrittenPlan:
    """Write PLAN.md at the root of ``worktree``, or bring it up to date and keep what a person edited.

    The file is replaced in one step; its line ends and permissions stay. Two writers wait for each other, and an edit
    that is saved while the merge runs is merged too.

    Raises:
        PortError: The worktree is gone, or PLAN.md is a link out of it, no regular file, too large or not writable.
    """
    from filelock import FileLock

    path = _plan_file(worktree)
    folder = home / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    base_path = folder / f"{port_id}.md"
    generated = render_plan(draft)
    with FileLock(folder / f"{port_id}.lock", timeout=30):
        base = _read(base_path).decode("utf-8") if base_path.is_file() else ""
        while True:
            before = _read(path) if path.exists() else None
            text, ticked, kept, removed = _merged(base, before, generated)
            after = _encode(text, before)
            if before == (_read(path) if path.exists() else None):
                break
        if after != before:
            replace_file(path, after)
        if base != generated:
            replace_file(base_path, generated.encode("utf-8"))
    states = step_states(steps_of(draft), ticked, evidence)
    return WrittenPlan(path, states, kept, removed, changed=after != before)


def edit_step(worktree: Path, home: Path, port_id: str, step_id: str, *, ticked: bool | None, note: str) -> set[str]:
    """Tick or untick a step's box in PLAN.md, put a note below it, and return the ids of all ticked steps.

    Args:
        worktree, home, port_id: As for ``write_plan_file``.
        step_id: The step.
        ticked: What the box shall show; none leaves it.
        note: One line of Markdown for below the step; empty for none. The same note stands there once.

    Raises:
        PortError: There is no PLAN.md or no such step in it, or it cannot be written.
    """
    from filelock import FileLock

    path = _plan_file(worktree)
    folder = home / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    base_path = folder / f"{port_id}.md"
    with FileLock(folder / f"{port_id}.lock", timeout=30):
        expected = split_units(split_lines(_read(base_path).decode("utf-8"))) if base_path.is_file() else []
        while True:
            before = _read(path) if path.exists() else b""
            lines, states = _edited(split_units(split_lines(_decode(before)), expected), step_id, ticked, note)
            after = _encode("\n".join(lines), before)
            if before == (_read(path) if path.exists() else b""):
                break
        forget()
        if after != before:
            replace_file(path, after)
    return states


def _edited(units: list[Unit], step_id: str, ticked: bool | None, note: str) -> tuple[list[str], set[str]]:
    """The lines of the plan with the step changed, and the ticked steps."""
    mine = next((unit for unit in units if unit.key == f"step:{step_id}"), None)
    if mine is None:
        raise PortError(
            "PLAN.md has no such step.",
            seen=f"step {step_id!r} is in the plan on record, and not in the file",
            fix="Call write_plan again; it puts back what was deleted and keeps what was edited.",
        )
    if ticked is not None:
        mine.ticked = ticked
    line = f"  - Note: {bullet(note)}"
    if note and line not in mine.body:
        # Below the criterion; what a person wrote there stays below.
        place = next((at + 1 for at, text in enumerate(mine.body) if text.startswith("  - ")), 0)
        while place < len(mine.body) and mine.body[place].startswith("  - Note: "):
            place += 1
        mine.body.insert(place, line)
    lines: list[str] = []
    for unit in units:
        head = [] if unit.key == PREAMBLE else [tick(unit.head) if unit.ticked else unit.head]
        lines += [*head, *unit.body]
    return lines, {unit.key.removeprefix("step:") for unit in units if unit.ticked}


def _merged(base: str, before: bytes | None, generated: str) -> tuple[str, set[str], list[str], list[str]]:
    if before is None:
        return generated, set(), [], []
    try:
        merged = merge_plan(split_lines(base) if base else [], split_lines(_decode(before)), split_lines(generated))
        _check_result(merged.lines, generated)
    finally:
        forget()
    return "\n".join(merged.lines), merged.ticked, merged.kept, merged.removed


def _check_result(lines: list[str], generated: str) -> None:
    """Refuse to write a plan whose sections or steps cannot be read back."""
    wanted = {anchor.key for anchor in find_anchors(split_lines(generated))}
    lost = sorted(wanted - {anchor.key for anchor in find_anchors(lines)})
    if lost:
        suspects = [unit.key for unit in split_units(lines) if close_open_blocks(unit)]
        raise PortError(
            "PLAN.md cannot be brought up to date: something in it hides sections or steps that follow.",
            seen=f"hidden: {', '.join(lost[:5])}; look below {', '.join(suspects[:3]) or 'the beginning'}",
            fix="Close the code fence or HTML block that is open there and call write_plan again; nothing was changed.",
        )


def _plan_file(worktree: Path) -> Path:
    """The file to write: PLAN.md, or what it links to inside the worktree."""
    root, path = require_worktree(worktree).resolve(), worktree / PLAN_NAME
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:
        raise _refused(f"{path}: {error}") from error
    inside = target.is_relative_to(root) and ".git" not in (part.lower() for part in target.relative_to(root).parts)
    if not inside:
        raise _refused(f"{path} is a link to {target}")
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise _refused(f"{path} is a link to {target}, which does not exist") from None
        return target
    if not stat.S_ISREG(mode):
        raise _refused(f"{path} is a {'folder' if stat.S_ISDIR(mode) else 'special file'}")
    return target


def _refused(seen: str) -> PortError:
    return PortError(
        "PLAN.md is not a file of the worktree.",
        seen=seen,
        fix="Move it away; write_plan makes a regular file at the worktree's root.",
    )


def _read(path: Path) -> bytes:
    with open_regular(path) as file:
        content = file.read(MAX_PLAN_BYTES + 1)
    if len(content) > MAX_PLAN_BYTES:
        raise PortError(
            "PLAN.md is too large.",
            seen=f"{path}: more than {MAX_PLAN_BYTES} bytes",
            fix="Move logs and long notes into a file of their own and link it.",
        )
    return content


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _encode(text: str, before: bytes | None) -> bytes:
    if before is not None and before.count(b"\r\n") * 2 > before.count(b"\n"):
        text = text.replace("\n", "\r\n")
    return text.encode("utf-8", "surrogateescape")
