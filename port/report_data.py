"""What a port's report says, gathered from its record and its ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .approval_policy import Policy
from .freshness import made_stale, what_changed
from .gate import gate, is_open
from .ledger import Entry
from .plan_steps import has_weights
from .records import ComponentRecord, PortRecord, now
from .report import (
    Culprit,
    Fact,
    Gallery,
    GateRow,
    MappingRow,
    ParityRow,
    Picture,
    PipelineLine,
    PipelineRow,
    ReportData,
    RunRow,
    SsimRow,
    StepRow,
)
from .report_risks import approvals_of, latest, measured_with, risks_of

SCHEDULER_REFERENCE = "the official scheduler, tables to the last bit and rollouts in float64"
"""What check_scheduler compares with."""

ENDS = {"final": "final latents", "decoded": "decoded video"}
"""What the ends of a pipeline are called."""

_MOST_STEPS = 12


def report_of(
    port: PortRecord,
    entries: list[Entry],
    runs: Sequence[RunRow] = (),
    *,
    head_commit: str | None = None,
    uncommitted: tuple[int, int] | None = None,
    steps: Sequence[StepRow] = (),
    environment: Sequence[Fact] = (),
    pictures: Mapping[str, Sequence[Picture]] | None = None,
    residual_risks: Sequence[str] = (),
    not_measured: Sequence[str] = (),
    policy: Policy | None = None,
    gallery: Sequence[Gallery] = (),
    reproduce: Sequence[str] = (),
    next_steps: Mapping[str, str] | None = None,
    problem: str = "",
) -> ReportData:
    """The report of ``port`` as it stands now.

    Args:
        port: Its record.
        entries: Its verified ledger entries, oldest first.
        runs: Its runs, oldest first; verdicts are filled in from the ledger.
        head_commit: Commit that the worktree stands at.
        uncommitted: Known files with changes, and new files, that no commit holds.
        steps: The plan's steps with their states.
        environment: Facts such as versions and device, beside those of the record.
        pictures: For a run's id, the pictures to embed.
        residual_risks, not_measured: Sentences that stand in the report beside what is derived from the evidence.
        gallery: Pictures of other runs.
        reproduce: Commands that repeat the measurements.
        next_steps: For a gate item's id, what to do.
        problem: Why there is no evidence at all; the gate is closed then, whatever the entries say.
        policy: Which approvals count; none: the defaults.
    """
    items = gate(port, entries, policy)
    verdicts = {entry.run_id: entry.verdict for entry in entries}
    return ReportData(
        model_name=port.model_name,
        goal=port.goal,
        gate="open" if is_open(items) and not problem else "closed",
        worktree=port.worktree,
        branch=port.branch,
        base_commit=port.base_commit,
        head_commit=head_commit,
        changed_files=uncommitted[0] if uncommitted else None,
        new_files=uncommitted[1] if uncommitted else None,
        plan_path=port.plan_path,
        written_at=now(),
        environment=(*_facts(port), *measured_with(port, entries), *environment),
        environment_patches=tuple(port.environment_patches),
        items=tuple(
            GateRow(
                number=place,
                item=item.title,
                state=item.state,
                evidence=tuple(item.evidence),
                why=item.why,
                changed=tuple(made_stale(item.evidence, port, entries) if item.state != "pass" else ()),
                next=(next_steps or {}).get(item.id, ""),
            )
            for place, item in enumerate(items, start=1)
        ),
        parity=tuple(_parity(port, item, entries) for item in port.components),
        pipeline=_pipeline(port, entries),
        mapping=tuple(_mapping(port, item, entries) for item in port.components if has_weights(item)),
        ssim=_ssim(port, entries, pictures or {}),
        steps=tuple(steps),
        runs=tuple(run.model_copy(update={"verdict": verdicts.get(run.run_id, run.verdict)}) for run in runs),
        gallery=tuple(gallery),
        approvals=tuple(approvals_of(entries)),
        reproduce=tuple(reproduce),
        problem=problem,
        residual_risks=(*residual_risks, *risks_of(port, entries)),
        not_measured=tuple(not_measured),
    )


def _facts(port: PortRecord) -> list[Fact]:
    facts = [Fact(name="Interpreter", value=port.python)]
    if port.official_python and port.official_python != port.python:
        facts.append(Fact(name="Official interpreter", value=port.official_python))
    if port.weights:
        revision = f" at {port.weights.revision}" if port.weights.revision else ""
        facts.append(Fact(name="Weights", value=f"{port.weights.source}{revision}, sha256 {port.weights.digest[:16]}"))
    return facts


def _parity(port: PortRecord, item: ComponentRecord, entries: list[Entry]) -> ParityRow:
    entry = latest(entries, ("component_parity", "check_scheduler"), item.name)
    if entry is None:
        return ParityRow(component=item.name, verdict="missing")
    found = entry.summary
    strict = found.get("strict")
    inputs = f"{found.get('cases', 0)} inputs" + ("" if entry.complete else ", a chosen part")
    return ParityRow(
        component=item.name,
        verdict=entry.verdict,
        logic_ratio=found.get("logic_ratio"),
        boundary_ratio=found.get("worst_module_ratio"),
        precision_ratio=found.get("precision_ratio"),
        strict=None if strict is None else "pass" if strict else "fail",
        cases=(inputs,),
        culprit=_culprit(found.get("culprit"), Path(port.worktree)),
        self_test=found.get("self_test"),
        reference=found.get("reference_kind", ""),
        whole=entry.kind == "check_scheduler" or item.kind == "tokenizer",
        dtypes=tuple(found.get("dtype_remarks", ())),
        remarks=tuple(found.get("remarks", ())),
        run_id=entry.run_id,
        fresh=not what_changed(entry, port),
    )


def _pipeline(port: PortRecord, entries: list[Entry]) -> PipelineRow | None:
    entry = latest(entries, "pipeline_parity", None)
    if entry is None:
        return None
    found = entry.summary
    steps = found.get("step_rows", [])
    lines = [_line(f"step {row['step']}", row) for row in _some(steps)]
    lines += [_line(ENDS[row["name"]], row) for row in found.get("ends", [])]
    lines += [_line(f"stage {row['name']}, alone", row) for row in found.get("stages", [])]
    return PipelineRow(
        verdict=entry.verdict,
        lines=tuple(lines),
        steps=found.get("steps"),
        guilty=tuple(found.get("guilty", ())),
        self_test=found.get("self_test"),
        perturbed=found.get("perturbed"),
        turned_red=found.get("turned_red"),
        run_id=entry.run_id,
        fresh=not what_changed(entry, port),
    )


def _some(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most ``_MOST_STEPS``: evenly spread, with the first, the last and the worst."""
    if len(steps) <= _MOST_STEPS:
        return steps
    last = len(steps) - 1
    places = {round(n * last / (_MOST_STEPS - 2)) for n in range(_MOST_STEPS - 1)}
    worst = max(range(len(steps)), key=lambda n: math.inf if (r := steps[n]["logic_ratio"]) is None else float(r))
    return [steps[place] for place in sorted(places | {worst})]


def _line(name: str, row: dict[str, Any]) -> PipelineLine:
    fields = PipelineLine.model_fields.keys() - {"name"}
    return PipelineLine(name=name, **{key: row[key] for key in fields if key in row})


def _culprit(found: dict[str, Any] | None, worktree: Path) -> Culprit | None:
    if not found:
        return None
    file = found.get("file")
    if file and Path(file).is_relative_to(worktree):
        file = Path(file).relative_to(worktree).as_posix()
    return Culprit(
        module=found.get("module") or "the component itself",
        official_module=found.get("official_module") or None,
        kind=found.get("kind", "module"),
        file=file,
        line=found.get("line"),
        why=found.get("why", ""),
    )


def _mapping(port: PortRecord, item: ComponentRecord, entries: list[Entry]) -> MappingRow:
    entry = latest(entries, "check_mapping", item.name)
    if entry is None:
        return MappingRow(component=item.name, verdict="missing")
    arrived, total = entry.summary["tensors"]
    counts = {
        name: entry.summary.get(name) for name in ("missing", "unexpected", "shape_mismatches", "collisions")
    }  # fmt: skip
    return MappingRow(
        component=item.name,
        verdict=entry.verdict,
        coverage=arrived / total if total else None,
        tensors=total,
        unused=entry.summary.get("unused_on_purpose"),
        unused_names=tuple(entry.summary.get("unused_names", ())),
        run_id=entry.run_id,
        fresh=not what_changed(entry, port),
        **counts,
    )


def _ssim(port: PortRecord, entries: list[Entry], pictures: Mapping[str, Sequence[Picture]]) -> tuple[SsimRow, ...]:
    entry = latest(entries, "ssim", None)
    if entry is None:
        return ()
    found = entry.summary
    return (
        SsimRow(
            name=Path(found["candidate"]["path"]).name,
            verdict=entry.verdict,
            metric=found["metric"],
            reference=found.get("reference", {}).get("path", ""),
            reference_sha256=found.get("reference", {}).get("sha256", ""),
            candidate_sha256=found["candidate"].get("sha256", ""),
            mean=found["mean"],
            minimum=found["min"],
            worst_frame=found["worst_frame"],
            frames=found["frames_compared"],
            threshold=found["threshold"],
            pictures=tuple(pictures.get(entry.run_id, ())),
            run_id=entry.run_id,
            fresh=not what_changed(entry, port),
        ),
    )
