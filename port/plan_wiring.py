"""Steps of the plan that `check_integration` settles, by what the port's newest check found."""

from __future__ import annotations

from .freshness import what_changed
from .ledger import Entry
from .plan_steps import tested
from .records import PortRecord

_ROWS = {
    "wire-config": ("pipeline-config", "presets"),
    "wire-stages": ("pipeline", "required-modules", "stages"),
    "wire-registry": ("registration", "presets", "pipeline"),
}
"""Step -> what has to be found for it."""
_MUST_NOT = {"wire-stages": ("foreign-model", "official-code")}


def wiring_steps(port: PortRecord) -> list[str]:
    """Ids of the steps that are settled here."""
    return [*_ROWS, *(f"test-{component.name}" for component in port.components if tested(component))]


def wiring_lacks(port: PortRecord, entries: list[Entry], step_id: str) -> str:
    """What ``step_id``, one of `wiring_steps`, still lacks, as a sentence; empty when it is settled."""
    entry = next((entry for entry in reversed(entries) if entry.kind == "integration"), None)
    if entry is None:
        return "check_integration has not been run."
    if changed := what_changed(entry, port):
        return f"{'; '.join(changed)} since {entry.run_id}; run check_integration again."
    found, bad = entry.summary["found"], entry.summary["bad"]
    if step_id not in _ROWS:
        name = step_id.removeprefix("test-")
        there = name in entry.summary.get("tested", ())
        return "" if there else f"check_integration finds no plain test of {name}: see its parity-test."
    lacking = [row for row in _ROWS[step_id] if row not in found or row in bad]
    lacking += [row for row in _MUST_NOT.get(step_id, ()) if row in bad]
    return f"check_integration ({entry.run_id}) does not pass {', '.join(lacking)}." if lacking else ""
