"""What the ledger, the record and the disk say about the steps of a plan."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from .approval_policy import Policy
from .components_left_out import only
from .gate import gate, is_open
from .ledger import Entry
from .records import PortRecord

Evidence = dict[str, Literal["in_progress", "done"]]


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
    if port.official_commit:
        evidence["fetch-official"] = "done"
    if port.weights:
        evidence["fetch-weights"] = "done"
    for step, kind in (("ssim", "ssim"), ("example", "example"), ("pipeline-parity", "pipeline_parity")):
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
    items = gate(port, entries, policy)
    for item, step in (("ssim", "ssim"), ("pipeline-parity", "pipeline-parity"), ("example", "example")):
        if any(found.id == item and found.state == "pass" for found in items):
            evidence[step] = "done"
    if is_open(items):
        evidence["open-gate"] = "done"
    for step in port.begun:
        evidence.setdefault(step, "in_progress")
    return evidence
