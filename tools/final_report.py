"""The report that a reviewer attaches to a pull request."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..port.approval_policy import read_policy
from ..port.errors import PortError
from ..port.gate import gate
from ..port.ledger import Entry, Ledger
from ..port.report import MappingRow, ParityRow, ReportData
from ..port.report_data import ENDS
from ._advice import next_of
from ._report import write_port_report
from ._settle import settle
from ._weights import try_settle_weights
from .base import ToolContext, ToolResult, ToolSpec
from .gate_status import next_step

_SHOWN = 24


class FinalReportResult(ToolResult):
    """The five outputs in short; the files say all."""

    gate: Literal["open", "closed"]
    workspace: str = Field(description="Worktree, base and head commit, changes not committed.")
    branch: str
    plan: list[str] = Field(description="Steps with their states.")
    progress: list[str] = Field(description="Items of the gate, with what to do next.")
    parity: list[str] = Field(description="A line for each component, and one for the pipeline.")
    residual_risks: list[str] = Field(description="Risks, then what was not measured; at most 24 of each.")
    html: str
    markdown: str


def final_report(
    ctx: ToolContext, port_id: Annotated[str, Field(description="From create_worktree.")]
) -> FinalReportResult:
    """Final report for a pull request's reviewers: Markdown, HTML with pictures."""
    port = ctx.ports.get(port_id)
    runs = ctx.runs.list(port_id)
    entries, problem = _evidence(ctx, port_id)
    if not problem:
        port = try_settle_weights(ctx, port)
        settle(ctx, port_id)
        entries, problem = _evidence(ctx, port_id)
    items = gate(port, entries, read_policy(ctx.home))
    data, page, twin = write_port_report(ctx, port, entries, runs, items, problem=problem)
    risks = [*([problem] if problem else []), *data.residual_risks[:_SHOWN]]
    return FinalReportResult(
        gate=data.gate,
        workspace=f"{data.worktree}, {data.base_commit} to {data.head_commit or 'unknown'}; {data.commits}",
        branch=data.branch,
        plan=[f"{step.id}: {step.state}" for step in data.steps],
        progress=[f"{item.title}: {item.state}. {next_of(item)}".strip() for item in items],
        parity=[*(_line(row, mapping) for row, mapping in _rows(data)), *_pipeline_line(data)],
        residual_risks=[*risks, *(f"Not measured: {text}" for text in data.unmeasured[:_SHOWN])],
        html=str(page),
        markdown=str(twin),
        next_step=_next_step(data, problem, next_step(items, data.gate == "open")),
    )


def _evidence(ctx: ToolContext, port_id: str) -> tuple[list[Entry], str]:
    """The ledger's entries; none, and why, when something else than this program has changed it."""
    try:
        return Ledger(ctx.home).entries(port_id), ""
    except PortError as error:
        return [], f"{error.what} {error.seen}. {error.fix}"


def _rows(data: ReportData) -> list[tuple[ParityRow, MappingRow | None]]:
    mappings = {row.component: row for row in data.mapping}
    return [(row, mappings.get(row.component)) for row in data.parity]


def _said(verdict: str, fresh: bool) -> str:
    return verdict if fresh else f"stale (was {verdict})"


def _pipeline_line(data: ReportData) -> list[str]:
    row = data.pipeline
    if row is None:
        return []
    ratios = [
        f"logic ratio {line.logic_ratio:.4g} at the {line.name}"
        for line in row.lines
        if line.name in ENDS.values() and line.logic_ratio is not None
    ]
    return [", ".join([f"pipeline: parity {_said(row.verdict, row.fresh)}", *ratios])]


def _line(row: ParityRow, mapping: MappingRow | None) -> str:
    parts = [f"{row.component}: parity {_said(row.verdict, row.fresh)}"]
    if row.logic_ratio is not None:
        parts.append(f"logic ratio {row.logic_ratio:.4g}")
    if row.precision_ratio is not None:
        parts.append(f"precision ratio {row.precision_ratio:.4g}")
    if mapping is not None:
        parts.append(f"mapping {_said(mapping.verdict, mapping.fresh)}")
    if row.culprit is not None:
        parts.append(f"begins to differ at {row.culprit.place}")
    return ", ".join(parts)


def _next_step(data: ReportData, problem: str, step: str) -> str:
    if problem:
        return "Tell a person that the ledger was changed: nothing in it counts, and the checks have to be run again."
    if data.gate == "open":
        return "The gate is open: commit, attach the report to the pull request, and ask a person to review it."
    return f"The gate is closed, and the report says so. {step}"


SPEC = ToolSpec(
    final_report, title="Final report", read_only=True, destructive=False, idempotent=True, open_world=False
)
