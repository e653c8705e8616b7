"""What the ledger, the record and the disk say about the steps of a plan."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from .gate import gate, is_open
from .ledger import Entry
from .records import PortRecord

Evidence = dict[str, Literal["in_progress", "done"]]


def evidence_of(port: PortRecord, entries: list[Entry], started: Collection[tuple[str, str | None]]) -> Evidence:
    """States of the steps for which there is evidence; every other step has none.

    Args:
        port: The record with the components of the plan.
        entries: The port's ledger entries, oldest first.
        started: Tool and component of every run of the port. A started run is work begun, whatever came of it.
    """
    evidence: Evidence = {"isolate-workspace": "done"}
    if port.weights:
        evidence["fetch-weights"] = "done"
    if ("run_ssim", None) in started or any(entry.kind == "ssim" for entry in entries):
        evidence["ssim"] = "in_progress"
    if ("run_pipeline_parity", None) in started or any(entry.kind == "pipeline_parity" for entry in entries):
        evidence["pipeline-parity"] = "in_progress"
    for component in port.components:
        # The gate of a port that had this component alone: one judge for the plan and for the gate.
        alone = {item.id: item.state for item in gate(port.model_copy(update={"components": [component]}), entries)}
        parity, mapping, adapter = (f"{what}-{component.name}" for what in ("parity", "mapping", "adapter"))
        if (Path(port.worktree) / component.adapter).is_file():
            evidence[adapter] = "in_progress"
        if ("check_mapping", component.name) in started or alone["keys"] != "missing":
            evidence[mapping] = "in_progress"
        if ("run_component_parity", component.name) in started or alone["component-parity"] != "missing":
            evidence[parity] = "in_progress"
        if alone["mapping-reviewed"] == "pass":
            evidence[mapping] = "done"
        if alone["component-parity"] == "pass":
            evidence[parity] = evidence[adapter] = "done"
    items = gate(port, entries)
    for item, step in (("ssim", "ssim"), ("pipeline-parity", "pipeline-parity"), ("example", "example")):
        if any(found.id == item and found.state == "pass" for found in items):
            evidence[step] = "done"
    if is_open(items):
        evidence["open-gate"] = "done"
    return evidence
