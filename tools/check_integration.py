"""check_integration: is the port wired into FastVideo, and documented?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..port.errors import PortError
from ..port.integration import OPTIONAL, integration, passes
from ..port.ledger import Ledger
from ..port.records import PortRecord, new_id
from ..port.source_tree import SourceTree
from ..port.textsafe import clean
from ..port.wiring import Row
from .base import ToolContext, ToolResult, ToolSpec

_SHOWN = 60


class IntegrationRow(BaseModel):
    """One thing that was looked for."""

    model_config = ConfigDict(extra="forbid")

    id: str
    where: str = Field(description="file:line, or where it belongs.")
    what: str = Field(description="What was found, or what to do.")


class CheckIntegrationResult(ToolResult):
    """What of the port is wired into FastVideo; nothing was imported or run."""

    check_id: str = Field(description="Its name in the ledger.")
    verdict: Literal["pass", "fail"]
    missing: list[IntegrationRow] = Field(description="Not there: what to do.")
    wrong: list[IntegrationRow] = Field(description="There, and must not be so.")
    found: list[IntegrationRow]
    notes: list[IntegrationRow]


def check_integration(
    ctx: ToolContext, port_id: Annotated[str, Field(description="From create_worktree.")]
) -> CheckIntegrationResult:
    """Check registration, configs, presets, stages, tests, example, docs and forbidden diffusers or transformers
    imports, by parsing."""
    port = ctx.ports.working(port_id)
    if not port.components:
        raise PortError(
            "The port has no plan yet, so it is not known what to look for.",
            seen="no planned component",
            fix="Call write_plan with the components, then check_integration again.",
        )
    tree = SourceTree(Path(port.worktree), port.base_commit)
    seen, files = integration(port, tree)
    rows = [replace(row, where=clean(row.where)[:300], what=clean(row.what)[:400]) for row in seen]
    verdict: Literal["pass", "fail"] = "pass" if passes(rows) else "fail"
    check_id = _record(ctx, port, {path: tree.read[path] for path in files}, rows, verdict)

    def of(state: str) -> list[IntegrationRow]:
        mine = [row for row in rows if row.state == state]
        return [IntegrationRow(id=row.id, where=row.where, what=row.what) for row in mine[:_SHOWN]]

    return CheckIntegrationResult(
        check_id=check_id,
        verdict=verdict,
        missing=of("missing"),
        wrong=of("wrong"),
        found=of("found"),
        notes=of("note")[:20],
        next_step=_next_step(rows, verdict),
    )


def _record(
    ctx: ToolContext, port: PortRecord, files: dict[str, str], rows: list[Row], verdict: Literal["pass", "fail"]
) -> str:
    """Enter the check in the ledger, unless its newest entry says the same of the same files."""
    bad = [row for row in rows if row.state == "wrong" or (row.state == "missing" and row.id not in OPTIONAL)]
    summary = {
        "why": " ".join(f"{row.id}: {row.what} ({row.where})" for row in bad[:2])[:600],
        "bad": sorted({row.id for row in bad}),
        "found": sorted({row.id for row in rows if row.state == "found"}),
        "tested": sorted({row.component for row in rows if row.state == "found" and row.id == "parity-test"}),
    }
    depends_on = {f"worktree:{path}": digest for path, digest in sorted(files.items())}
    ledger = Ledger(ctx.home)
    last = next((entry for entry in reversed(ledger.entries(port.port_id)) if entry.kind == "integration"), None)
    if last and (last.verdict, last.summary, last.depends_on) == (verdict, summary, depends_on):
        return last.run_id
    check_id = new_id("check")
    ledger.append(
        port_id=port.port_id,
        kind="integration",
        verdict=verdict,
        run_id=check_id,
        summary=summary,
        depends_on=depends_on,
    )
    return check_id


def _next_step(rows: list[Row], verdict: str) -> str:
    if verdict == "pass":
        return "Call gate_status to see what the gate still lacks."
    first = next(
        row for row in sorted(rows, key=lambda row: row.state != "wrong")
        if row.state == "wrong" or (row.state == "missing" and row.id not in OPTIONAL)
    )  # fmt: skip
    return (
        f"Begin with {first.id} in {first.where}, do the rest of missing and wrong, then call check_integration again."
    )


SPEC = ToolSpec(
    check_integration,
    title="Check the integration",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=False,
)
