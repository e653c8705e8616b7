"""What still stands between a step and being done."""

from __future__ import annotations

from pathlib import Path

from .approval_policy import Policy
from .gate import GateItem, gate
from .ledger import Entry
from .records import PortRecord

_ITEM_OF_STEP = {"pipeline-parity": "pipeline-parity", "ssim": "ssim", "example": "example", "docs": "documentation"}
_BY_COMPONENT = {"mapping": ("keys", "mapping-reviewed"), "parity": ("component-parity",)}


def blocks_of(port: PortRecord, entries: list[Entry], step_id: str, policy: Policy) -> list[str]:
    """Sentences on what the criterion of ``step_id`` still lacks, from the evidence; for a step that is not done.

    A step that no tool measures says so: it can be claimed, and a person has to believe it.
    """
    if step_id == "open-gate":
        return [
            f"{item.id} is {item.state}: {item.why}" for item in gate(port, entries, policy) if item.state != "pass"
        ]
    if step_id in _ITEM_OF_STEP:
        return _unmet(gate(port, entries, policy), (_ITEM_OF_STEP[step_id],))
    if step_id == "fetch-weights":
        return ["fetch_weights has not recorded any weights."]
    what, _, name = step_id.partition("-")
    component = port.component(name)
    if component is not None and what in _BY_COMPONENT:
        items = gate(port.model_copy(update={"components": [component]}), entries, policy)
        return _unmet(items, _BY_COMPONENT[what]) or ["No tool measures this step for this kind of component."]
    if component is not None and what == "adapter":
        if not (Path(port.worktree) / component.adapter).is_file():
            return [f"{component.adapter} is not there."]
        return [f"Nothing has run it in full: parity-{name} proves the adapter as well."]
    return ["No tool measures this step; it can be claimed, and the report names it as unproven."]


def is_measured(port: PortRecord, step_id: str) -> bool:
    """Whether evidence alone decides on the step, so that claiming it as done says nothing."""
    if step_id in ("isolate-workspace", "fetch-weights", "open-gate", *_ITEM_OF_STEP):
        return True
    what, _, name = step_id.partition("-")
    component = port.component(name)
    return component is not None and what in _BY_COMPONENT and component.kind != "tokenizer"


def _unmet(items: list[GateItem], wanted: tuple[str, ...]) -> list[str]:
    unmet = [item for item in items if item.id in wanted and item.state != "pass"]
    return list(dict.fromkeys(f"{item.title}: {item.state}. {item.why}" for item in unmet))[:5]
