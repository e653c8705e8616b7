"""The report repeats the ledger and the gate, and adds nothing to them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import pytest
from fastvideo_port.port.ledger import Entry
from fastvideo_port.port.records import ComponentRecord, PortRecord, now
from fastvideo_port.port.report import RunRow, write_report
from fastvideo_port.port.report_data import SCHEDULER_REFERENCE, report_of


@pytest.fixture
def port(tmp_path: Path) -> PortRecord:
    """A port with a DiT and a scheduler; the DiT's adapter is on disk."""
    (tmp_path / "parity.py").write_text("adapter")
    parts = [
        ComponentRecord.model_validate(
            {"name": name, "kind": kind, "official": "diffusers.A", "port": "fastvideo.B", "adapter": f"{name}.py"}
        )
        for name, kind in (("transformer", "dit"), ("scheduler", "scheduler"))
    ]
    return PortRecord(
        port_id="port-1",
        model_name="Wan",
        slug="wan",
        worktree=str(tmp_path),
        branch="b",
        base_commit="c",
        mode="worktree",
        repository="/r",
        python="/p",
        environment_patches=["cpu-attention"],
        components=parts,
        created_at=now(),
    )


def entry(
    kind: str, run: str, verdict: Literal["pass", "fail"], summary: dict[str, Any], component: str | None
) -> Entry:
    return Entry(
        kind=kind,
        port_id="port-1",
        component=component,
        run_id=run,
        verdict=verdict,
        complete=True,
        summary=summary,
        depends_on={"adapter:parity.py": hashlib.sha256(b"adapter").hexdigest()},
        recorded_at=now(),
    )


def entries(port: PortRecord) -> list[Entry]:
    place = {
        "module": "blocks.0",
        "official_module": "blocks.0",
        "kind": "glue",
        "file": f"{port.worktree}/fastvideo/models/dits/wanvideo.py",
        "line": 12,
        "end_line": 14,
        "why": "scale and shift",
        "confidence": "certain",
    }
    red = {"cases": 4, "logic_ratio": 900.0, "worst_module_ratio": 5e4, "precision_ratio": 3.0, "strict": False}
    green = {"cases": 4, "logic_ratio": 1.0, "worst_module_ratio": 1.01, "precision_ratio": 1.0, "strict": True}
    return [
        entry("check_mapping", "run-1", "pass", {"tensors": [58, 58], "parameters": [9, 9]}, "transformer"),
        entry("component_parity", "run-2", "fail", {**red, "culprit": place}, "transformer"),
        entry("component_parity", "run-3", "pass", {**green, "culprit": None}, "transformer"),
    ]


def test_a_red_component_names_its_place_below_the_worktree(port: PortRecord) -> None:
    row = report_of(port, entries(port)[:2]).parity[0]
    assert row.verdict == "fail" and row.logic_ratio == 900.0 and row.strict == "fail"
    assert row.culprit is not None and row.culprit.place == "fastvideo/models/dits/wanvideo.py:12"


def test_the_latest_verdict_counts_and_every_run_keeps_its_own(port: PortRecord) -> None:
    runs = [RunRow(run_id=f"run-{n}", tool="run_component_parity", state="done") for n in (2, 3, 4)]
    data = report_of(port, entries(port), runs)
    assert (data.parity[0].verdict, data.parity[0].run_id, data.parity[0].culprit) == ("pass", "run-3", None)
    assert [run.verdict for run in data.runs] == ["fail", "pass", None]


def test_what_was_never_run_is_missing(port: PortRecord) -> None:
    data = report_of(port, entries(port))
    assert [(row.component, row.verdict) for row in data.parity] == [("transformer", "pass"), ("scheduler", "missing")]
    assert [row.component for row in data.mapping] == ["transformer"]
    assert (data.mapping[0].coverage, data.mapping[0].tensors, data.mapping[0].missing) == (1.0, 58, None)
    assert data.gate == "closed" and len(data.items) == 7 and data.ssim == ()
    assert any("example" in text for text in data.unmeasured)


def test_an_edit_makes_the_rows_stale(port: PortRecord) -> None:
    found = entries(port)
    Path(port.worktree, "parity.py").write_text("edited")
    data = report_of(port, found)
    assert not data.parity[0].fresh and not data.mapping[0].fresh


def test_ssim_and_patches_reach_both_files(port: PortRecord, tmp_path: Path) -> None:
    summary = {
        "metric": "ms_ssim",
        "threshold": 0.93,
        "mean": 0.97,
        "min": 0.9,
        "worst_frame": 4,
        "frames_compared": 81,
        "candidate": {"path": "/v/fox.mp4"},
    }
    data = report_of(port, [*entries(port), entry("ssim", "run-5", "pass", summary, None)], head_commit="d")
    for path in write_report(tmp_path / "out", data):
        text = path.read_text(encoding="utf-8")
        assert "fox.mp4" in text and "0.9700" in text and "cpu-attention" in text


def step(number: int, logic: float | None) -> dict[str, Any]:
    numbers = {"error": 1e-6, "reference_error": 1e-6, "max_abs": 1e-5, "gain": None}
    return {"step": number, "logic_ratio": logic, "precision_ratio": 1.0, **numbers}


def test_the_pipeline_keeps_its_numbers_and_of_many_steps_the_worst(port: PortRecord) -> None:
    assert report_of(port, entries(port)).pipeline is None
    rows = [step(number, 1.4 if number == 17 else 1.0) for number in range(50)]
    summary = {
        "why": "", "guilty": [], "steps": 50, "step_rows": rows, "self_test": True, "perturbed": 3, "turned_red": 3,
        "ends": [{"name": "final", "verdict": "pass", "error": 1e-6, "logic_ratio": 1.0}],
        "stages": [{"name": "decode", "verdict": "pass", "error": 2e-6, "logic_ratio": 1.1, "first_step": None}],
    }  # fmt: skip
    row = report_of(port, [entry("pipeline_parity", "run-6", "pass", summary, None)]).pipeline
    assert row is not None and row.steps == 50 and (row.turned_red, row.perturbed) == (3, 3)
    names = [line.name for line in row.lines]
    assert names[0] == "step 0" and names[-3:] == ["step 49", "final latents", "stage decode, alone"]
    assert "step 17" in names and len(names) <= 14
    rows[9]["logic_ratio"] = None
    row = report_of(port, [entry("pipeline_parity", "run-6", "pass", summary, None)]).pipeline
    assert row is not None and "step 9" in [line.name for line in row.lines], "no number is worse than any"


def test_a_pipeline_that_an_earlier_version_measured_has_its_verdict(port: PortRecord) -> None:
    old = entry("pipeline_parity", "run-6", "pass", {"why": "", "guilty": [], "steps": 4, "logic_ratio": 1.0}, None)
    row = report_of(port, [old]).pipeline
    assert row is not None and row.verdict == "pass" and row.lines == () and row.self_test is None


def test_only_a_lesser_reference_is_a_risk(port: PortRecord) -> None:
    def risks(kind: str) -> str:
        found = {"cases": 4, "logic_ratio": 1.0, "reference_kind": kind}
        data = report_of(port, [entry("component_parity", "run-3", "pass", found, "transformer")])
        return " ".join(data.residual_risks)

    assert "the reference was float32" in risks("float32")
    assert "the reference was" not in risks("exact") + risks("float64")


def test_a_scheduler_says_what_it_was_compared_with_and_that_the_check_can_fail(port: PortRecord) -> None:
    found = {"cases": 11, "logic_ratio": 1.0, "reference_kind": SCHEDULER_REFERENCE, "self_test": True}
    row = report_of(port, [entry("check_scheduler", "run-4", "pass", found, "scheduler")]).parity[1]
    assert row.whole and row.self_test and "to the last bit" in row.reference
