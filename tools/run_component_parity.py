"""Run the official component and the port side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ..parity.verdict import MEANING, Verdict
from ..port.causes import LikelyCause
from ..port.errors import PortError
from ..port.ledger import Ledger
from ..port.textsafe import clean, sentences
from ..runs.models import Run, RunState
from ._causes import causes_of_parity
from ._components import (
    adapter_path,
    choose_device,
    component_spec,
    dependencies,
    is_planned,
    planned_component,
    reference_cache,
    started_with,
    trusted_references,
)
from ._culprits import Culprit, culprit_of, place, trial_words, what_to_compare
from ._divergence import divergence_picture
from ._runs import no_result_yet, require_value, start_and_wait
from ._weights import require_weights
from .base import ToolContext, ToolResult, ToolSpec
from .picture import PictureFile

DTYPES = ("float32", "bfloat16", "float16")
SEEDS = (0, 1)
PRODUCTION = ("float32", "bfloat16")
_SHOWN = 16
_KEPT = 8
"""Remarks that the ledger keeps, for the report."""


class ParityCase(BaseModel):
    """One input."""

    model_config = ConfigDict(extra="forbid")

    case: str
    seed: int
    verdict: Verdict
    logic_ratio: float | None = Field(description="float32: port error / reference's own rounding error.")
    precision_ratio: float | None = Field(description="The same in the production dtype.")
    strict: bool | None = Field(description="atol = rtol = 1e-4 in float32.")
    relative_l2: float | None
    max_abs: float | None
    worst_module: str | None
    worst_module_ratio: float | None


class ParityFinding(BaseModel):
    """A named reason."""

    model_config = ConfigDict(extra="forbid")

    code: str
    verdict: Verdict = Field(description="What it alone makes of the verdict; pass: a remark.")
    message: str


class SelfTest(BaseModel):
    """Whether the check can fail."""

    model_config = ConfigDict(extra="forbid")

    passed: bool
    red: list[str] = Field(description="Perturbations of the port that turned it red.")
    not_red: list[str]


class RunComponentParityResult(ToolResult):
    """Whether the port computes what the official component computes. Lists hold at most 16 entries."""

    run_id: str
    state: RunState
    verdict: Verdict | None = Field(default=None, description="None while running.")
    meaning: str = ""
    cases: list[ParityCase] = Field(default=[])
    findings: list[ParityFinding] = Field(default=[])
    culprit: Culprit | None = None
    confirmed: bool = False
    more_culprits: list[str] = Field(default=[])
    trials: list[str] = Field(default=[])
    pictures: list[PictureFile] = Field(default=[], description="The divergence curve; see show_picture.")
    dtype_audit: list[dict[str, str]] = Field(default=[], description="Places where the sides' dtypes differ.")
    attention_backends: dict[str, Any] = Field(default={}, description="What each side really ran.")
    self_test: SelfTest | None = None
    reference: str = ""
    paired: str = ""
    likely_causes: list[LikelyCause] = Field(default=[], description="Usual mistakes that fit; hypotheses to check.")
    environment_patches: list[str] = Field(default=[])


def run_component_parity(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    component: Annotated[str, Field(description="Planned component.")],
    adapter: Annotated[str | None, Field(description="Default: the plan's; relative to the worktree.")] = None,
    cases: Annotated[list[str] | None, Field(description="Names in CASES; default all. The gate asks for all.")] = None,
    dtypes: Annotated[
        list[str] | None, Field(description="float32, bfloat16, float16; default float32 and bfloat16.")
    ] = None,
    device: Annotated[str, Field(description="auto (default), cpu, cuda or cuda:N.")] = "auto",
    seeds: Annotated[list[int] | None, Field(description="1-8 seeds, default [0, 1].")] = None,
    align_backends: Annotated[bool, Field(description="Both sides on math SDPA: a diagnosis, no evidence.")] = False,
    wait_s: Annotated[float, Field(description="0 to 45 s, default 45.")] = 45,
) -> RunComponentParityResult:
    """Component parity: run official model and FastVideo port on the same inputs and weights and judge the port's error
    against the reference's own rounding error: verdict, ratios, dtype audit, self-test, culprit (module, file, line).
    Run check_mapping first."""
    port = ctx.ports.working(port_id)
    planned = planned_component(port, component)
    path = adapter_path(port, planned, adapter)
    chosen = choose_device(device)
    port = require_weights(ctx, port)
    spec = component_spec(port, planned, path, chosen)
    spec["cases"] = _checked_cases(cases)
    spec["seeds"] = _checked_seeds(seeds)
    spec["dtypes"] = _checked_dtypes(dtypes)
    spec["align_backends"] = align_backends
    spec["trials"] = True
    spec["component"] = planned.name
    spec["reference_cache"] = str(reference_cache(ctx))
    spec["trusted_references"] = trusted_references(ctx, port_id)
    run = start_and_wait(
        ctx,
        port=port,
        tool="run_component_parity",
        arguments={
            **started_with(port, planned, path),
            "cases": cases,
            "dtypes": dtypes,
            "device": device,
            "seeds": seeds,
            "align_backends": align_backends,
            "complete": is_planned(port, planned, path)
            and cases is None
            and not align_backends
            and set(SEEDS) <= set(spec["seeds"])
            and set(PRODUCTION) <= set(spec["dtypes"]),
        },
        job="tokenizer_parity" if planned.kind == "tokenizer" else "component_parity",
        spec=spec,
        wait_s=wait_s,
    )
    return finish(ctx, run)


def _checked_cases(cases: list[str] | None) -> list[str] | None:
    if cases is not None and not cases:
        raise PortError("No case was chosen.", seen="cases=[]", fix="Name cases of the adapter, or leave cases out.")
    return cases


def _checked_seeds(seeds: list[int] | None) -> list[int]:
    found = list(SEEDS) if seeds is None else seeds
    if not 1 <= len(found) <= 8 or len(set(found)) != len(found) or not all(0 <= seed < 2**31 for seed in found):
        raise PortError(
            "The seeds are not 1 to 8 different numbers from 0 to 2147483647.",
            seen=f"seeds={found[:10]}",
            fix="Give for example [0, 1], or leave seeds out.",
        )
    return found


def _checked_dtypes(dtypes: list[str] | None) -> list[str]:
    found = list(PRODUCTION) if dtypes is None else [name.removeprefix("torch.") for name in dtypes]
    unknown = [name for name in found if name not in DTYPES]
    if unknown or not found:
        raise PortError(
            "A dtype is not one that the port is judged in." if unknown else "No dtype was chosen.",
            seen=f"dtypes={[name[:40] for name in found[:8]]}",
            fix=f"Choose from {', '.join(DTYPES)}; float32 always runs, it carries the verdict.",
        )
    return list(dict.fromkeys(["float32", *found]))


def finish(ctx: ToolContext, run: Run) -> RunComponentParityResult:
    """The result of a run of this tool; a finished one is entered in the ledger once."""
    if not run.finished or run.state == "cancelled":
        return RunComponentParityResult(run_id=run.run_id, state=run.state, next_step=no_result_yet(run))
    value = require_value(ctx, run)
    verdict: Verdict = value["verdict"]
    reasons = _reasons(value)
    port = ctx.ports.get(str(run.port_id))
    planned = port.component(run.arguments["component"])
    if planned is not None:
        Ledger(ctx.home).append(
            port_id=port.port_id,
            kind="component_parity",
            component=planned.name,
            verdict=verdict,
            run_id=run.run_id,
            complete=bool(run.arguments["complete"]),
            summary=_summary(value, reasons),
            depends_on=dependencies(port, run.arguments, value["depends_on"]),
        )
    culprit = culprit_of(value["culprit"], Path(port.worktree)) if verdict != "pass" else None
    tried = trial_words(value["trials"])
    trials = value["self_test"]["trials"]
    return RunComponentParityResult(
        run_id=run.run_id,
        state=run.state,
        verdict=verdict,
        meaning=MEANING[verdict],
        cases=[_case(row) for row in value["cases"][:_SHOWN]],
        findings=[finding_of(row) for row in value["findings"][:_SHOWN]],
        culprit=culprit,
        confirmed=value["confirmed"],
        more_culprits=[place(row, Path(port.worktree)) for row in value["culprits"][1:4]],
        trials=tried,
        pictures=divergence_picture(ctx, run, value),
        dtype_audit=value["dtype_audit"][:_SHOWN],
        attention_backends=value["attention_backends"],
        self_test=SelfTest(
            passed=value["self_test"]["passed"],
            red=[trial["perturbed"] for trial in trials if trial["red"]],
            not_red=[trial["perturbed"] for trial in trials if not trial["red"]],
        ),
        reference=_reference(value["reference"]),
        paired=_paired(value["pairing"]),
        environment_patches=value["environment_patches"],
        likely_causes=causes_of_parity(value, planned, Path(port.worktree)),
        next_step=_backend_step(verdict, value["attention_backends"], value["confirmed"], value["findings"])
        or _next_step(verdict, culprit, tried, reasons, bool(run.arguments["complete"])),
    )


def _reference(row: dict[str, Any]) -> str:
    again = "; the official side was not run again, nothing that it depends on changed" if row["reused"] else ""
    return f"{row['kind']}: {row['why']}{again}"


def _paired(row: dict[str, Any]) -> str:
    return f"{row['paired']} of {row['modules']} {row.get('what', 'called modules')}"


def number_of(value: Any) -> float | None:
    """Worker results write NaN and infinity as strings; JSON for clients has neither."""
    number = float(value) if value is not None else None
    return number if number is not None and math.isfinite(number) else None


def _case(row: dict[str, Any]) -> ParityCase:
    worst = row.get("worst_boundary") or {}
    return ParityCase(
        case=row["case"],
        seed=row["seed"],
        verdict=row["verdict"],
        logic_ratio=number_of(row.get("logic_ratio")),
        precision_ratio=number_of(row.get("precision_ratio")),
        strict=row.get("strict"),
        relative_l2=number_of(row.get("port_error")),
        max_abs=number_of(row.get("max_abs")),
        worst_module=worst.get("module"),
        worst_module_ratio=number_of(worst.get("ratio")),
    )


def finding_of(row: dict[str, Any]) -> ParityFinding:
    return ParityFinding(code=row["code"], verdict=row["verdict"], message=clean(row["message"])[:500])


def _reasons(value: dict[str, Any]) -> list[str]:
    found = [row["message"] for row in value["findings"] if row["verdict"] == value["verdict"] != "pass"]
    if value["culprit"] and value["verdict"] != "pass":
        found.insert(0, value["culprit"]["why"])
    return [clean(text)[:400] for text in found]


def _summary(value: dict[str, Any], reasons: list[str]) -> dict[str, Any]:
    rows = value["cases"]
    logic = [number for row in rows if (number := number_of(row.get("logic_ratio"))) is not None]
    precision = [number for row in rows if (number := number_of(row.get("precision_ratio"))) is not None]
    worst = [
        number for row in rows if (number := number_of((row.get("worst_boundary") or {}).get("ratio"))) is not None
    ]
    return {
        "why": sentences(reasons[:2]),
        "cases": len(rows),
        "logic_ratio": max(logic, default=None),
        "precision_ratio": max(precision, default=None),
        "worst_module_ratio": max(worst, default=None),
        "strict": all(bool(row.get("strict")) for row in rows),
        "culprit": value["culprit"] if value["verdict"] != "pass" else None,
        "environment_patches": value["environment_patches"],
        "reference": value["reference"]["digest"],
        "reference_kind": value["reference"]["kind"],
        "self_test": value["self_test"]["passed"],
        "flags": value["flags"]["port"],
        "inputs": sorted({clean(str(row["case"]))[:80] for row in rows})[:_SHOWN],
        "dtype_remarks": [clean(_dtype_row(row))[:200] for row in value["dtype_audit"][:_KEPT]],
        "remarks": [clean(row["message"])[:300] for row in value["findings"] if row["verdict"] == "pass"][:_KEPT],
    }


def _dtype_row(row: dict[str, str]) -> str:
    place = row["module"] or "the model"
    return f"{place}: {row['what']} in {row['port_dtype']}, official {row['official_dtype']} (asked: {row['asked']})"


_OF_KERNELS = ("precision", "non-finite-port")
"""Failures that another attention kernel can cause; every other one says what is wrong itself."""


def _backend_step(verdict: Verdict, backends: dict[str, Any], confirmed: bool, findings: list[dict[str, Any]]) -> str:
    """What to do next because of the attention backends, or "" when they are no reason.

    A confirmed culprit is the reason, and so is a failure that no kernel causes: a missing output, a wrong weight.
    """
    if backends["aligned"] and verdict == "pass":
        return (
            "Both sides agree on math SDPA: a failure without align_backends comes from the attention backend. This "
            "run is a diagnosis and no evidence: call run_component_parity without align_backends for the gate."
        )
    named = confirmed or any(row["verdict"] == "fail" and row["code"] not in _OF_KERNELS for row in findings)
    if backends["differs"] and not backends["aligned"] and verdict in ("fail", "investigate") and not named:
        return (
            "The sides ran different attention kernels: call run_component_parity with align_backends=true before "
            "looking deeper."
        )
    return ""


def _next_step(verdict: Verdict, culprit: Culprit | None, trials: list[str], reasons: list[str], complete: bool) -> str:
    if verdict == "pass":
        if not complete:
            return "Call run_component_parity without cases, seeds, dtypes or adapter: the gate asks for the full run."
        return "Call gate_status to see what the gate still asks for, or go on with the next component of the plan."
    first = reasons[0].rstrip(".") if reasons else ""
    if verdict in ("inconclusive", "error"):
        return f"Repair the check, not the port ({first or 'see findings'}), then call it again."
    if culprit is not None:
        return f"{what_to_compare(culprit, trials)} again."
    return f"Look at the findings ({first or 'see cases'}), repair, then call it again."


SPEC = ToolSpec(
    run_component_parity,
    title="Compare port and official component",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=False,
)
