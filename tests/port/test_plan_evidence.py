"""Steps are done by evidence that the gate would take, and by nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import pytest
from fastvideo_port.port.ledger import Entry
from fastvideo_port.port.plan_evidence import evidence_of
from fastvideo_port.port.records import ComponentRecord, PortRecord, now


@pytest.fixture
def port(tmp_path: Path) -> PortRecord:
    """A port with one component whose adapter is on disk."""
    (tmp_path / "parity.py").write_text("adapter")
    component = ComponentRecord(
        name="transformer", kind="dit", official="diffusers.A", port="fastvideo.B", adapter="parity.py"
    )
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
        components=[component],
        created_at=now(),
    )


def entry(
    kind: str,
    verdict: Literal["pass", "fail", "investigate", "inconclusive", "error"] = "pass",
    *,
    complete: bool = True,
    component: str | None = "transformer",
) -> Entry:
    return Entry(
        kind=kind,
        port_id="port-1",
        component=component,
        run_id=f"run-{kind}",
        verdict=verdict,
        complete=complete,
        summary={},
        depends_on={"adapter:parity.py": hashlib.sha256(b"adapter").hexdigest()},
        recorded_at=now(),
    )


def test_fresh_parity_is_done_and_proves_the_adapter(port: PortRecord) -> None:
    found = evidence_of(port, [entry("component_parity")], [])
    assert found["parity-transformer"] == found["adapter-transformer"] == "done"


def test_stale_parity_is_work_in_progress(port: PortRecord) -> None:
    entries = [entry("component_parity")]
    Path(port.worktree, "parity.py").write_text("edited")
    assert evidence_of(port, entries, [])["parity-transformer"] == "in_progress"


@pytest.mark.parametrize("verdict", ["fail", "investigate", "inconclusive", "error"])
def test_no_other_verdict_makes_a_step_done(port: PortRecord, verdict: Literal["fail", "investigate"]) -> None:
    entries = [entry("component_parity", verdict), entry("check_mapping", verdict)]
    assert "done" not in {state for step, state in evidence_of(port, entries, []).items() if "transformer" in step}


def test_a_partial_run_is_not_enough(port: PortRecord) -> None:
    found = evidence_of(port, [entry("component_parity", complete=False)], [("run_component_parity", "transformer")])
    assert found["parity-transformer"] == "in_progress"


def test_a_mapping_that_no_person_has_approved_is_not_done(port: PortRecord) -> None:
    assert evidence_of(port, [entry("check_mapping")], [])["mapping-transformer"] == "in_progress"


def test_a_started_run_is_work_begun(port: PortRecord) -> None:
    found = evidence_of(port, [], [("check_mapping", "transformer"), ("run_ssim", None)])
    assert (found["mapping-transformer"], found["ssim"]) == ("in_progress", "in_progress")
    assert "parity-transformer" not in found and "open-gate" not in found


def test_ssim_passes_by_its_entry(port: PortRecord) -> None:
    compared = {"reference": {"sha256": "1"}, "candidate": {"sha256": "2"}, "threshold": 0.93, "min_threshold": 0.83}
    ssim = entry("ssim", component=None).model_copy(update={"summary": compared})
    made = entry("example", component=None).model_copy(update={"summary": {"script": "s", "video": {"sha256": "2"}}})
    assert evidence_of(port, [made, ssim], [])["ssim"] == "done"
    assert evidence_of(port, [ssim], [])["ssim"] == "in_progress"
