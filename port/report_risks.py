"""What a report says beyond the verdicts: with what was measured, who approved, and which risks are left.

All of it is read from the signed ledger and the port's record; nothing is taken from what an agent wrote.
"""

from __future__ import annotations

from collections.abc import Iterator

from .environment import PATCHES
from .ledger import Entry
from .records import PortRecord
from .report import ApprovalRow, Fact

_PARITY = "component_parity"
_FIRST = ("gpu", "device", "driver", "cuda", "torch", "python")
_NAMES = 5


def latest(entries: list[Entry], kind: str | tuple[str, ...], component: str | None) -> Entry | None:
    """The newest entry of a kind, or of one of several, for a component."""
    kinds = (kind,) if isinstance(kind, str) else kind
    return next((e for e in reversed(entries) if e.kind in kinds and e.component == component), None)


def measured_with(port: PortRecord, entries: list[Entry]) -> list[Fact]:
    """Device, versions and numeric flags of the newest parity run of each component."""
    found = [entry for item in port.components if (entry := latest(entries, _PARITY, item.name))]
    facts = []
    for side, name in (("port", "Measured with"), ("official", "Official side measured with")):
        texts = dict.fromkeys(_environment(entry, side) for entry in found)
        facts += [Fact(name=name, value=text) for text in texts if text]
    if len(facts) == 2 and facts[0].value == facts[1].value:
        facts = facts[:1]
    flags = dict.fromkeys(
        ", ".join(f"{key}={value}" for key, value in sorted(entry.summary.get("flags", {}).items())) for entry in found
    )
    return facts + [Fact(name="Numeric flags", value=text) for text in flags if text]


def _environment(entry: Entry, side: str) -> str:
    prefix = f"environment:{side}."
    found = {key.removeprefix(prefix): text for key, text in entry.depends_on.items() if key.startswith(prefix)}
    order = [name for name in _FIRST if name in found] + sorted(set(found) - set(_FIRST))
    return ", ".join(f"{name} {found[name]}" for name in order)


def approvals_of(entries: list[Entry]) -> Iterator[ApprovalRow]:
    """The decisions of people in the ledger, oldest first."""
    for entry in entries:
        if entry.kind == "approval":
            found = entry.summary
            yield ApprovalRow(
                step=str(found.get("step_id") or entry.component or "(not named)"),
                decision="approved" if entry.verdict == "pass" else "declined",
                channel=str(found.get("strength") or found.get("channel") or "not recorded"),
                by=str(found.get("asserted_by") or ""),
                when=str(found.get("decided_at") or entry.recorded_at),
                note=str(found.get("note") or ""),
            )


def risks_of(port: PortRecord, entries: list[Entry]) -> list[str]:
    """What a reviewer has to know although no verdict says it."""
    risks = [
        f"Environment patch {name}: {PATCHES.get(name, 'not known to this version')}"
        for name in port.environment_patches
    ]
    parity = [entry for item in port.components if (entry := latest(entries, _PARITY, item.name))]
    devices = {entry.depends_on.get("environment:port.device", "unknown") for entry in parity}
    if devices == {"cpu"}:
        risks.append("Parity was measured on the CPU only: other kernels run on a GPU, and FastVideo runs there.")
    for item in port.components:
        risks += _of_component(item.name, entries)
    ssim = next((entry for entry in reversed(entries) if entry.kind == "ssim"), None)
    if ssim is not None:
        codes = [str(row["code"]) for row in ssim.summary.get("findings", []) if row.get("effect") != "fail"]
        if codes:
            risks.append(f"The comparison of the videos remarked: {', '.join(dict.fromkeys(codes))}.")
    asserted = [row.step for row in approvals_of(entries) if row.decision == "approved" and "client" in row.channel]
    if asserted:
        steps = ", ".join(dict.fromkeys(asserted))
        risks.append(f"That a person approved {steps} is what the agent's client asserts; nothing else shows it.")
    return risks


def _of_component(name: str, entries: list[Entry]) -> list[str]:
    risks = []
    mapping = latest(entries, "check_mapping", name)
    unused = int(mapping.summary.get("unused_on_purpose", 0)) if mapping else 0
    if mapping and unused:
        names = [str(text) for text in mapping.summary.get("unused_names", [])]
        more = f" and {unused - _NAMES} more" if unused > _NAMES else ""
        risks.append(f"{name}: {unused} official tensors are left out on purpose: {', '.join(names[:_NAMES])}{more}.")
    parity = latest(entries, _PARITY, name)
    if parity is None:
        return risks
    found = parity.summary
    if not parity.complete:
        risks.append(f"{name}: the newest run {parity.run_id} was only a part (chosen cases, seeds or dtypes).")
    # "exact" is no lesser reference: tokens are equal or they are not.
    if found.get("reference_kind", "float64") not in ("float64", "exact", ""):
        risks.append(f"{name}: the reference was {found['reference_kind']}, not float64 throughout.")
    if remarks := found.get("dtype_remarks"):
        risks.append(f"{name}: dtypes differ in at least {len(remarks)} places, first {remarks[0]}.")
    risks += [f"{name}: {text}" for text in found.get("remarks", [])]
    return risks
