"""The alignment gate: seven items, computed from fresh evidence each time it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .approval_content import Content, mapping_content
from .approval_decisions import decisions_of, standing
from .approval_policy import Policy
from .components_left_out import left_out
from .freshness import what_changed
from .ledger import Entry
from .plan_steps import steps_of_port
from .records import ComponentRecord, PortRecord
from .textsafe import sentences
from .video_evidence import what_to_run, why_no_evidence

ItemState = Literal["pass", "fail", "stale", "missing", "needs_approval"]

_WITH_WEIGHTS = ("dit", "vae", "encoder", "extra")
_COMPARED = ("dit", "vae", "encoder", "tokenizer", "scheduler", "extra")
_SCHEDULER_KINDS = ("component_parity", "check_scheduler")
"""Either is evidence for a scheduler, and a failure of either counts."""


class GateItem(BaseModel):
    """One of the seven conditions."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Stable name.")
    title: str
    state: ItemState
    why: str = Field(description="What was found, or what is missing.")
    evidence: list[str] = Field(description="Run ids.")


def gate(port: PortRecord, entries: list[Entry], policy: Policy | None = None) -> list[GateItem]:
    """The seven items of a port, from its ledger entries (oldest first), under the state folder's ``policy``."""
    mapping = _components(port, entries, "check_mapping", _WITH_WEIGHTS, "check_mapping")
    parity = _components(port, entries, "component_parity", _COMPARED, "run_component_parity")
    reviewed = _reviewed(port, entries, policy or Policy()) if mapping[0] == "pass" else mapping
    return [
        _item("mapping-reviewed", "Mapping explicit and reviewed", reviewed),
        _item("keys", "No missing or unexpected keys", mapping),
        _item("component-parity", "Component parity", parity),
        _item("pipeline-parity", "Pipeline parity", _pipeline(port, entries)),
        _item("ssim", "SSIM against the reference video", _ssim(port, entries)),
        _item("example", "The example's video", _example(port, entries)),
        _item("documentation", "Documentation", _latest_of_kind(port, entries, "integration", "check_integration")),
    ]


def is_open(items: list[GateItem]) -> bool:
    """Whether every item passes."""
    return len(items) == 7 and all(item.state == "pass" for item in items)


_Found = tuple[ItemState, str, list[str]]


def _item(id_: str, title: str, found: _Found) -> GateItem:
    return GateItem(id=id_, title=title, state=found[0], why=found[1], evidence=found[2])


def _components(port: PortRecord, entries: list[Entry], kind: str, kinds: tuple[str, ...], tool: str) -> _Found:
    planned = [component for component in port.components if component.kind in kinds]
    if not planned:
        return "missing", "No component is planned; call write_plan.", []
    found = [_component(port, component, entries, kind, tool) for component in planned]
    return _worst([*found, *_not_planned(port, kinds)])


def _not_planned(port: PortRecord, kinds: tuple[str, ...]) -> list[_Found]:
    """Components of the official model that the plan leaves out: one that is not planned is not measured."""
    return [
        ("missing", f"{name}: the official model has it, and the plan does not; call write_plan with it.", [])
        for name in left_out(port, kinds)
    ]


def _component(port: PortRecord, component: ComponentRecord, entries: list[Entry], kind: str, tool: str) -> _Found:
    scheduler = component.kind == "scheduler" and kind == "component_parity"
    kinds = _SCHEDULER_KINDS if scheduler else (kind,)
    tool = "check_scheduler" if scheduler else tool

    def fits(entry: Entry) -> bool:
        return entry.kind in kinds and entry.component == component.name

    mine = [entry for entry in entries if fits(entry)]
    return _latest_whole(port, component.name, mine, tool, "chosen cases, seeds or dtypes")


def _pipeline(port: PortRecord, entries: list[Entry]) -> _Found:
    """Pipeline parity has no component: its evidence is the latest whole run of the port's own pipeline adapter."""
    mine = [entry for entry in entries if entry.kind == "pipeline_parity"]
    return _latest_whole(port, "pipeline", mine, "run_pipeline_parity", "chosen cases, or another adapter")


def _latest_whole(port: PortRecord, name: str, mine: list[Entry], tool: str, part: str) -> _Found:
    """What the entry that decides says; ``part`` says what makes a run partial."""
    decisive = _decisive(mine)
    if decisive is None:
        seen = f" Only a part was run ({part})." if mine else ""
        return "missing", f"{name}: {tool} has not been run in full.{seen}", [e.run_id for e in mine[-1:]]
    return _judge(port, name, decisive, tool)


def _decisive(mine: list[Entry]) -> Entry | None:
    """The entry that decides among those of one kind and component: the last complete one, or a failure after it."""
    whole = [entry for entry in mine if entry.complete]
    if not whole:
        return None
    # A later partial run that failed counts: it is a fact about the port as well.
    # By place in the ledger, not by time: a clock may jump.
    later = [entry for entry in mine[mine.index(whole[-1]) + 1 :] if entry.verdict == "fail"]
    return later[-1] if later else whole[-1]


def _reviewed(port: PortRecord, entries: list[Entry], policy: Policy) -> _Found:
    """Whether a person has approved the mapping of every planned component as it is proven now."""
    return _worst([_review_of(port, item, entries, policy) for item in port.components if item.kind in _WITH_WEIGHTS])


_STATES: dict[str, ItemState] = {"approved": "pass", "declined": "fail", "stale": "stale"}


def _review_of(port: PortRecord, component: ComponentRecord, entries: list[Entry], policy: Policy) -> _Found:
    content = proven_mapping(port, component, entries)
    if isinstance(content, str):
        return "needs_approval", f"{component.name}: {content}", []
    found = standing(content, decisions_of(port.port_id, content.step_id, entries), policy)
    state = _STATES.get(found.state, "needs_approval")
    todo = "" if state in ("pass", "fail") else f"; call request_approval with step_id={content.step_id!r}"
    return state, f"{component.name}: {found.why}{todo}.", [*content.evidence, *found.evidence]


def proven_mapping(port: PortRecord, component: ComponentRecord, entries: list[Entry]) -> Content | str:
    """What a person would approve of the component's mapping as it stands, or why there is nothing to approve yet."""
    state, why, _ = _component(port, component, entries, "check_mapping", "check_mapping")
    if state != "pass":
        return why
    mine = [entry for entry in entries if entry.kind == "check_mapping" and entry.component == component.name]
    decisive = _decisive(mine)
    step = next((step for step in steps_of_port(port) if step.id == f"mapping-{component.name}"), None)
    content = mapping_content(port, step, component, decisive) if decisive and step else None
    return content or "its proof was recorded without the rules, by an earlier version; run check_mapping again"


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


_OUTDATED = ("stale-candidate", "code-changed-since")
"""Findings of a comparison whose candidate is not, or not known to be, the present code's."""


def _ssim(port: PortRecord, entries: list[Entry]) -> _Found:
    found = _latest_of_kind(port, entries, "ssim", "run_ssim")
    if found[0] == "missing":
        return found
    entry = next(entry for entry in reversed(entries) if entry.kind == "ssim")
    if found[0] == "stale":
        changed = "; ".join(what_changed(entry, port))
        return "stale", f"ssim: {changed} since {entry.run_id}; run {what_to_run(port, entries)}.", found[2]
    if found[0] == "fail":
        outdated = any(row["code"] in _OUTDATED for row in entry.summary.get("findings", []))
        return "fail", f"{found[1].rstrip('.')}; run {what_to_run(port, entries)}." if outdated else found[1], found[2]
    why = why_no_evidence(entry, entries)
    return ("missing", f"ssim: {why}.", found[2]) if why else found


def _example(port: PortRecord, entries: list[Entry]) -> _Found:
    """The newest run of a script below examples/, and what the others say whose newest run failed.

    Scripts elsewhere are trials. A script that failed and was deleted since counts no longer.
    """
    mine = [entry for entry in entries if entry.kind == "example"]
    whole = [entry for entry in mine if entry.complete]
    if not whole:
        seen = " Only a script outside examples/ was run." if mine else ""
        return "missing", f"run_example has not been run.{seen}", [entry.run_id for entry in mine[-1:]]
    newest = {str(entry.summary["script"]): entry for entry in whole}
    last = str(whole[-1].summary["script"])
    failed = [name for name, e in newest.items() if e.verdict == "fail" and name != last and _is_there(port, name)]
    return _worst([_judge(port, name, newest[name], "run_example") for name in (last, *failed)])


def _is_there(port: PortRecord, script: str) -> bool:
    return (Path(port.worktree) / script).is_file()


_BY_SERIOUSNESS: tuple[ItemState, ...] = ("pass", "needs_approval", "stale", "missing", "fail")


def _worst(found: list[_Found]) -> _Found:
    worst = max(found, key=lambda item: _BY_SERIOUSNESS.index(item[0]))
    if worst[0] == "pass":
        return "pass", sentences(item[1] for item in found), [run for item in found for run in item[2]]
    bad = [item for item in found if item[0] != "pass"]
    return worst[0], sentences(item[1] for item in bad), [run for item in found for run in item[2]]
