"""Which steps a person can approve, and what exactly that is at this moment."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path

from . import git
from .approval_content import Block, Content
from .approval_policy import Policy
from .errors import PortError
from .gate import gate, is_open, proven_mapping
from .ledger import Entry
from .paths import open_regular
from .plan_steps import steps_of_port
from .records import PortRecord
from .textsafe import one_line

RUN_OFFICIAL = "run-official-code"
_OFFICIAL_ACCEPTANCE = "a person agrees that code of the official repository is executed at this commit."
_MOST_FILES = 20_000


def content_of_step(port: PortRecord, entries: list[Entry], step_id: str, policy: Policy) -> Content:
    """What an approval of ``step_id`` would be of now.

    Raises:
        PortError: There is no such step, it needs no person, or nothing is there yet that could be approved.
    """
    if step_id == RUN_OFFICIAL:
        return official_content(port)
    step = next((step for step in steps_of_port(port) if step.id == step_id), None)
    possible = approvable(port)
    if step is None and len(possible) == 1:
        raise PortError(
            "The port has no plan yet, so no step of it can be approved.",
            seen=f"step_id={step_id[:100]!r}",
            fix=f"Call write_plan first. Before a plan a person approves only {RUN_OFFICIAL!r}.",
        )
    if step is None or step_id not in possible:
        near = difflib.get_close_matches(step_id[:100], possible, n=1, cutoff=0.5)
        what = "This step needs no approval." if step else "The plan has no step of this id."
        raise PortError(
            what,
            seen=f"step_id={step_id[:100]!r}",
            fix=(f"Did you mean {near[0]!r}? " if near else "")
            + f"What a person approves: {', '.join(possible)}. For other steps call update_step.",
        )
    if step_id == "open-gate":
        return _gate_content(port, entries, policy)
    component = port.component(step_id.removeprefix("mapping-"))
    assert component is not None  # its step is in the plan
    found = proven_mapping(port, component, entries)
    if isinstance(found, str):
        raise PortError(
            "There is nothing to approve yet.",
            seen=f"{found}",
            fix=f"Call check_mapping for {component.name!r} until it passes; then a person can review what it proved.",
        )
    return found


def approvable(port: PortRecord) -> list[str]:
    """Ids of the steps that a person can approve."""
    mappings = [step.id for step in steps_of_port(port) if step.needs_approval]
    return [*mappings, *(["open-gate"] if mappings else []), RUN_OFFICIAL]


def _gate_content(port: PortRecord, entries: list[Entry], policy: Policy) -> Content:
    items = gate(port, entries, policy)
    if not is_open(items):
        waiting = ", ".join(f"{item.id} ({item.state})" for item in items if item.state != "pass")
        raise PortError("There is nothing to approve yet: the gate is closed.", seen=waiting, fix="Call gate_status.")
    step = next(step for step in steps_of_port(port) if step.id == "open-gate")
    behind = {entry.run_id: entry for entry in entries}
    parts = {}
    for item in items:
        found = [behind[run].depends_on for run in item.evidence if run in behind]
        parts[item.id] = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    return Content(
        port_id=port.port_id,
        step_id=step.id,
        title="The open alignment gate",
        acceptance=step.acceptance,
        parts=parts,
        blocks=(Block("Items", tuple(one_line(f"{item.title}: {item.why}")[:400] for item in items), len(items)),),
        evidence=tuple(dict.fromkeys(run for item in items for run in item.evidence)),
    )


def official_content(port: PortRecord) -> Content:
    """The official repository's code as it stands now.

    Raises:
        PortError: No official repository was fetched, or its code cannot be read.
    """
    if port.official_repo is None or not Path(port.official_repo).is_dir():
        raise PortError(
            "There is no official repository whose code could be run.",
            seen=f"official_repo={port.official_repo}",
            fix="Call fetch_official_repo first.",
        )
    root = Path(port.official_repo)
    commit = _commit(root)
    code = _code_digest(root)
    return Content(
        port_id=port.port_id,
        step_id=RUN_OFFICIAL,
        title="Executing the official repository's code on this machine",
        acceptance=_OFFICIAL_ACCEPTANCE,
        parts={"commit": commit, "files": code},
        facts=(("Folder", str(root)), ("Commit", commit or "not a git repository"), ("Code", f"sha256 {code}")),
    )


def _commit(root: Path) -> str:
    if not (root / ".git").exists():
        return ""
    return git.run(["rev-parse", "HEAD"], cwd=root).stdout.strip()


def _code_digest(root: Path) -> str:
    """SHA-256 over paths and contents of the files that can be executed: a changed file is other code."""
    found = hashlib.sha256()
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".so", ".pth", ".sh", ".cu", ".cpp"))
    if len(files) > _MOST_FILES:
        raise PortError(
            "The official repository has too many files.", seen=f"{len(files)} files of code", fix="Fetch it anew."
        )
    for path in files:
        if path.is_file() and path.resolve().is_relative_to(root.resolve()):
            with open_regular(path) as file:
                content = hashlib.sha256(file.read()).hexdigest()
            found.update(f"{path.relative_to(root).as_posix()}\n{content}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()
