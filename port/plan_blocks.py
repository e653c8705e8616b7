"""What still stands between a step and being done."""

from __future__ import annotations

from pathlib import Path

from .approval_policy import Policy
from .components_left_out import only
from .gate import GateItem, gate
from .ledger import Entry
from .plan_official import official_lacks
from .plan_wiring import wiring_lacks, wiring_steps
from .records import PortRecord

ITEM_OF_STEP = {"pipeline-parity": "pipeline-parity", "ssim": "ssim", "example": "example", "docs": "documentation"}
"""Step that is done when an item of the gate passes -> that item."""
_BESIDE_THE_GATE = ("isolate-workspace", "fetch-official", "settle-risks")
_BY_COMPONENT = {"mapping": ("keys", "mapping-reviewed"), "parity": ("component-parity",)}


def blocks_of(port: PortRecord, entries: list[Entry], step_id: str, policy: Policy) -> list[str]:
    """Sentences on what the criterion of ``step_id`` still lacks, from the evidence; for a step that is not done.

    A step that no tool measures says so: it can be claimed, and a person has to believe it.
    """
    if step_id == "open-gate":
        return [
            f"{item.id} is {item.state}: {item.why}" for item in gate(port, entries, policy) if item.state != "pass"
        ]
    if step_id in ITEM_OF_STEP:
        return _unmet(gate(port, entries, policy), (ITEM_OF_STEP[step_id],))
    if step_id == "fetch-official":
        return [official_lacks(port, entries)]
    if step_id in wiring_steps(port):
        return [wiring_lacks(port, entries, step_id)]
    if step_id == "fetch-weights":
        return ["fetch_weights has not recorded any weights."]
    what, _, name = step_id.partition("-")
    component = port.component(name)
    if component is not None and what in _BY_COMPONENT:
        items = gate(only(port, component), entries, policy)
        return _unmet(items, _BY_COMPONENT[what]) or ["No tool measures this step for this kind of component."]
    if component is not None and what == "adapter":
        if not (Path(port.worktree) / component.adapter).is_file():
            return [f"{component.adapter} is not there."]
        return [f"Nothing has run it in full: parity-{name} proves the adapter as well."]
    return ["No tool measures this step; it can be claimed, and the report names it as unproven."]


def is_measured(port: PortRecord, step_id: str) -> bool:
    """Whether evidence alone decides on the step, so that claiming it as done says nothing."""
    always = ("isolate-workspace", "fetch-official", "fetch-weights", "open-gate")
    if step_id in (*always, *ITEM_OF_STEP, *wiring_steps(port)):
        return True
    what, _, name = step_id.partition("-")
    component = port.component(name)
    return component is not None and what in _BY_COMPONENT


def gate_asks_for(step_id: str) -> bool:
    """Whether the gate is closed while the step is not done."""
    return step_id not in _BESIDE_THE_GATE


def _unmet(items: list[GateItem], wanted: tuple[str, ...]) -> list[str]:
    unmet = [item for item in items if item.id in wanted and item.state != "pass"]
    return list(dict.fromkeys(f"{item.title}: {item.state}. {item.why}" for item in unmet))[:5]
