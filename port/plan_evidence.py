"""What the ledger, the record and the disk say about the steps of a plan."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from .approval_policy import Policy
from .components_left_out import only
from .gate import gate, is_open
from .ledger import Entry
from .plan_blocks import ITEM_OF_STEP
from .plan_official import official_lacks
from .plan_wiring import wiring_lacks, wiring_steps
from .records import PortRecord

Evidence = dict[str, Literal["in_progress", "done"]]

_LEFT_BY = {"ssim": "ssim", "example": "example", "pipeline-parity": "pipeline_parity", "docs": "integration"}
"""Step -> kind of entry that is work on it."""


def evidence_of(
    port: PortRecord,
    entries: list[Entry],
    started: Collection[tuple[str, str | None]],
    policy: Policy | None = None,
) -> Evidence:
    """States of the steps for which there is evidence; every other step has none.

    Args:
        port: The record with the components of the plan.
        entries: The port's ledger entries, oldest first.
        policy: Which approvals count; none: the defaults.
        started: Tool and component of every run of the port. A started run is work begun, whatever came of it.
    """
    evidence: Evidence = {"isolate-workspace": "done"}
    if not official_lacks(port, entries):
        evidence["fetch-official"] = "done"
    if port.weights:
        evidence["fetch-weights"] = "done"
    for step, kind in _LEFT_BY.items():
        if (f"run_{kind}", None) in started or any(entry.kind == kind for entry in entries):
            evidence[step] = "in_progress"
    for component in port.components:
        # The gate of a port that had this component alone: one judge for the plan and for the gate.
        alone = {item.id: item.state for item in gate(only(port, component), entries, policy)}
        parity, mapping, adapter = (f"{what}-{component.name}" for what in ("parity", "mapping", "adapter"))
        if (Path(port.worktree) / component.adapter).is_file():
            evidence[adapter] = "in_progress"
        if ("check_mapping", component.name) in started or alone["keys"] != "missing":
            evidence[mapping] = "in_progress"
        compared = {(tool, component.name) for tool in ("run_component_parity", "check_scheduler")}
        if compared & set(started) or alone["component-parity"] != "missing":
            evidence[parity] = "in_progress"
        if alone["mapping-reviewed"] == "pass":
            evidence[mapping] = "done"
        if alone["component-parity"] == "pass":
            evidence[parity] = evidence[adapter] = "done"
    checked = any(entry.kind == "integration" for entry in entries)
    for step in wiring_steps(port):
        if checked:
            evidence[step] = "in_progress" if wiring_lacks(port, entries, step) else "done"
    items = gate(port, entries, policy)
    states = {item.id: item.state for item in items}
    for step, judged in ITEM_OF_STEP.items():
        if states[judged] == "pass":
            evidence[step] = "done"
    if is_open(items):
        evidence["open-gate"] = "done"
    for step in port.begun:
        evidence.setdefault(step, "in_progress")
    return evidence
