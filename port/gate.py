"""The alignment gate: seven items, computed from fresh evidence each time it is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .freshness import what_changed
from .ledger import Entry
from .records import ComponentRecord, PortRecord

ItemState = Literal["pass", "fail", "stale", "missing", "needs_approval"]

_WITH_WEIGHTS = ("dit", "vae", "encoder", "extra")
_COMPARED = ("dit", "vae", "encoder", "scheduler", "extra")


class GateItem(BaseModel):
    """One of the seven conditions."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Stable name.")
    title: str
    state: ItemState
    why: str = Field(description="What was found, or what is missing.")
    evidence: list[str] = Field(description="Run ids.")


def gate(port: PortRecord, entries: list[Entry]) -> list[GateItem]:
    """The seven items of a port, from its ledger entries (oldest first)."""
    mapping = _components(port, entries, "check_mapping", _WITH_WEIGHTS, "check_mapping")
    parity = _components(port, entries, "component_parity", _COMPARED, "run_component_parity")
    ssim = _latest_of_kind(port, entries, "ssim", "run_ssim")
    reviewed = mapping
    if mapping[0] == "pass":
        why = "The mapping is proven; a person has not approved it, and approvals have no tool in this version."
        reviewed = ("needs_approval", why, mapping[2])
    return [
        _item("mapping-reviewed", "Mapping explicit and reviewed", reviewed),
        _item("keys", "No missing or unexpected keys", mapping),
        _item("component-parity", "Component parity", parity),
        _item("pipeline-parity", "Pipeline parity", _pipeline(port, entries)),
        _item("ssim", "SSIM against the reference video", ssim),
        _item("example", "The example's video", _not_built("running the example")),
        _item("documentation", "Documentation", _not_built("the check of docs and registration")),
    ]


def is_open(items: list[GateItem]) -> bool:
    """Whether every item passes."""
    return len(items) == 7 and all(item.state == "pass" for item in items)


_Found = tuple[ItemState, str, list[str]]


def _item(id_: str, title: str, found: _Found) -> GateItem:
    return GateItem(id=id_, title=title, state=found[0], why=found[1], evidence=found[2])


def _not_built(what: str) -> _Found:
    return "missing", f"Nothing measures this yet: {what} has no tool in this version.", []


def _components(port: PortRecord, entries: list[Entry], kind: str, kinds: tuple[str, ...], tool: str) -> _Found:
    planned = [component for component in port.components if component.kind in kinds]
    if not planned:
        return "missing", "No component is planned; call write_plan.", []
    found = [_component(port, component, entries, kind, tool) for component in planned]
    return _worst(found)


def _component(port: PortRecord, component: ComponentRecord, entries: list[Entry], kind: str, tool: str) -> _Found:
    def fits(entry: Entry) -> bool:
        return entry.kind == kind and entry.component == component.name

    mine = [entry for entry in entries if fits(entry)]
    return _latest_whole(port, component.name, mine, tool, "chosen cases, seeds or dtypes")


def _pipeline(port: PortRecord, entries: list[Entry]) -> _Found:
    """Pipeline parity has no component: its evidence is the latest whole run of the port's own pipeline adapter."""
    mine = [entry for entry in entries if entry.kind == "pipeline_parity"]
    return _latest_whole(port, "pipeline", mine, "run_pipeline_parity", "chosen cases, or another adapter")


def _latest_whole(port: PortRecord, name: str, mine: list[Entry], tool: str, part: str) -> _Found:
    """The latest complete entry, unless a later partial one failed; ``part`` says what makes a run partial."""
    whole = [entry for entry in mine if entry.complete]
    if not whole:
        seen = f" Only a part was run ({part})." if mine else ""
        return "missing", f"{name}: {tool} has not been run in full.{seen}", [e.run_id for e in mine[-1:]]
    # A later partial run that failed counts: it is a fact about the port as well.
    # By place in the ledger, not by time: a clock may jump.
    later = [entry for entry in mine[mine.index(whole[-1]) + 1 :] if entry.verdict == "fail"]
    return _judge(port, name, later[-1] if later else whole[-1], tool)


def _judge(port: PortRecord, name: str, entry: Entry, tool: str) -> _Found:
    changed = what_changed(entry, port)
    if changed:
        return "stale", f"{name}: {'; '.join(changed)} since {entry.run_id}; run {tool} again.", [entry.run_id]
    if entry.verdict == "pass":
        return "pass", f"{name}: pass.", [entry.run_id]
    return "fail", f"{name}: {entry.verdict}. {entry.summary.get('why', '')}".strip(), [entry.run_id]


def _latest_of_kind(port: PortRecord, entries: list[Entry], kind: str, tool: str) -> _Found:
    mine = [entry for entry in entries if entry.kind == kind]
    if not mine:
        return "missing", f"{tool} has not been run.", []
    return _judge(port, kind, mine[-1], tool)


_BY_SERIOUSNESS: tuple[ItemState, ...] = ("pass", "needs_approval", "stale", "missing", "fail")


def _worst(found: list[_Found]) -> _Found:
    worst = max(found, key=lambda item: _BY_SERIOUSNESS.index(item[0]))
    if worst[0] == "pass":
        return "pass", " ".join(item[1] for item in found), [run for item in found for run in item[2]]
    bad = [item for item in found if item[0] != "pass"]
    return worst[0], " ".join(item[1] for item in bad), [run for item in found for run in item[2]]
