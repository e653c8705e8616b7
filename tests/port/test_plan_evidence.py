"""Steps are done by evidence that the gate would take, and by nothing else."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

import fastvideo_port.tools as tools
import pytest
from fastvideo_port.port.approval_policy import Policy
from fastvideo_port.port.ledger import Entry
from fastvideo_port.port.plan_blocks import blocks_of, is_measured
from fastvideo_port.port.plan_evidence import evidence_of
from fastvideo_port.port.plan_official import official_lacks
from fastvideo_port.port.plan_steps import steps_of_port
from fastvideo_port.port.records import ComponentRecord, PortRecord, WeightsRecord, now


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


def test_the_papers_are_done_when_the_gate_says_so(port: PortRecord) -> None:
    found = {"found": ["docs-matrix"], "bad": [], "tested": []}
    checked = entry("integration", component=None).model_copy(update={"summary": found})
    failed = entry("integration", "fail", component=None).model_copy(update={"summary": found})
    assert evidence_of(port, [checked], [])["docs"] == "done"
    assert evidence_of(port, [checked, failed], [])["docs"] == "in_progress"
    assert "docs" not in evidence_of(port, [], [])


def measured(component: str, package: str, version: str) -> Entry:
    made = entry("component_parity", component=component)
    return made.model_copy(update={"depends_on": {**made.depends_on, f"environment:official.{package}": version}})


def test_official_code_in_a_package_is_fixed_by_the_version_that_every_component_met(port: PortRecord) -> None:
    more = port.components[0].model_copy(update={"name": "encoder", "official": "transformers.E", "kind": "encoder"})
    port = port.model_copy(update={"components": [*port.components, more]})
    dit, encoder = measured("transformer", "diffusers", "0.42"), measured("encoder", "transformers", "5.0")
    assert evidence_of(port, [dit, encoder], [])["fetch-official"] == "done"
    assert "fetch-official" not in evidence_of(port, [dit], []), "nothing shows the encoder's version"
    other = measured("encoder", "diffusers", "0.42")
    assert "fetch-official" not in evidence_of(port, [dit, other], []), "another package's version says nothing"
    both = port.model_copy(
        update={"components": [port.components[0], more.model_copy(update={"official": "diffusers.E"})]}
    )
    mixed = [dit, measured("encoder", "diffusers", "0.43")]
    assert "fetch-official" not in evidence_of(both, mixed, []), "two versions are not one reference"
    assert "0.42 and 0.43" in official_lacks(both, mixed)
    cloned = port.model_copy(update={"official_repo": "/r", "official_commit": "c" * 40})
    assert evidence_of(cloned, [], [])["fetch-official"] == "done"
    unpinned = port.model_copy(update={"official_repo": "/r"})
    assert "fetch-official" not in evidence_of(unpinned, [dit, encoder], []), "what ran was in the folder"


def test_a_measured_step_says_which_tool_measures_it(port: PortRecord) -> None:
    """update_step sends the agent to the tool that the criterion names."""
    names = {path.stem for path in (Path(tools.__path__[0])).glob("[a-z]*.py")}
    kinds = ("dit", "scheduler", "tokenizer", "extra")
    parts = [port.components[0].model_copy(update={"name": kind, "kind": kind}) for kind in kinds]
    port = port.model_copy(update={"components": parts})
    steps = {step.id: step for step in steps_of_port(port)}
    unmeasured = {step for step in steps if not is_measured(port, step)}
    assert unmeasured == {"settle-risks", *(f"adapter-{kind}" for kind in kinds)}
    for step in steps.keys() - unmeasured:
        assert set(re.findall(r"`(\w+)`", steps[step].acceptance)) & names, step


def test_what_blocks_a_components_step_says_nothing_of_the_other_planned_ones(port: PortRecord) -> None:
    """Project: the scheduler was planned, and a step of the transformer asked to plan it."""
    scheduler = ComponentRecord(name="scheduler", kind="scheduler", official="d.S", port="fastvideo.S", adapter="s.py")
    held = {"transformer": ("dit", "A"), "scheduler": ("scheduler", "S")}
    weights = WeightsRecord(path="/w", source="a/b", revision=None, digest="0" * 64, components=held)
    both = port.model_copy(update={"components": [*port.components, scheduler], "weights": weights})
    (told,) = blocks_of(both, [], "parity-transformer", Policy())
    assert "run_component_parity has not been run" in told and "write_plan" not in told, told
