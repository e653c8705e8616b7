"""What to do about an item of the gate that does not pass."""

from __future__ import annotations

import re

from ..port.gate import GateItem

TOOLS = {
    "mapping-reviewed": "check_mapping",
    "keys": "check_mapping",
    "component-parity": "run_component_parity",
    "pipeline-parity": "run_pipeline_parity",
    "ssim": "run_ssim",
    "example": "run_example",
    "documentation": "check_integration",
}
"""Which tool measures an item."""
_FIRST = {
    "call write_plan": "write_plan",
    "call fetch_weights again": "fetch_weights",
    "run run_example": "run_example",
}
"""What an item's reason asks for before it can be measured, and the tool for that."""
_COMPARE = re.compile(r"; run (run_(?:example, then run_ssim|ssim) with the video that \S+ wrote)\.$")
"""What has to be run for a comparison that counts, as `video_evidence.what_to_run` says it."""
_APPROVAL = "request_approval"


def tool_of(item: GateItem) -> str | None:
    """The tool to call for the item, if this version has it: what has to come first, else what measures it."""
    # What failed is measured again; what has to come first concerns what could not be measured.
    first = {} if item.state == "fail" and not compared_by(item) else _FIRST
    name = next((tool for words, tool in first.items() if words in item.why), TOOLS.get(item.id))
    return name if name in _known() else None


def compared_by(item: GateItem) -> str:
    """What has to be run for a comparison of videos that counts; empty where something else comes first."""
    weights_first = "call fetch_weights again" in item.why
    found = _COMPARE.search(item.why) if item.id == "ssim" and not weights_first else None
    return found[1] if found else ""


def waits_for_person(item: GateItem) -> bool:
    """Whether only a person's decision is missing, or one that was made is about something else now."""
    return _APPROVAL in item.why


def next_of(item: GateItem) -> str:
    """A sentence that says what to do; empty when the item passes."""
    if item.state == "pass":
        return ""
    if waits_for_person(item):
        return f"Call {_APPROVAL}: a person has to decide."
    tool = tool_of(item)
    if tool is None:
        return "No tool of this version measures it: do it by hand and report it as unproven."
    if comparison := compared_by(item):
        return f"Call {comparison}."
    if item.state == "missing":
        return f"Call {tool}."
    if item.state == "stale":
        return f"Call {tool} again; what changed is named."
    last = f" with run_id={item.evidence[-1]}" if len(item.evidence) == 1 else ""
    planned = " Call write_plan with what the plan leaves out." if "call write_plan" in item.why else ""
    return f"Read the result (run_status{last}), repair what it names, then call {tool} again.{planned}"


def _known() -> set[str]:
    from . import ALL

    return {spec.name for spec in ALL}
