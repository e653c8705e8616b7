"""run_pipeline_parity on a small pipeline, and the gate's item that only its fresh, whole, passing run opens."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.report_data import report_of
from fastvideo_port.tools.gate_status import gate_status
from fastvideo_port.tools.run_pipeline_parity import finish, run_pipeline_parity

ADAPTER = "tests/local_tests/tiny/parity_pipeline.py"
PORT = "fastvideo/pipelines/toy.py"


def _lab() -> Any:
    name = "_parity_pipeline_lab"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "parity" / "pipeline_lab.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def run(tiny: Any, **options: Any) -> Any:
    """The tool's result, however long it takes."""
    started = run_pipeline_parity(tiny.ctx, tiny.port_id, device="cpu", wait_s=0, **options)
    return finish(tiny.ctx, tiny.ctx.runs.wait(started.run_id, 600))


def item(tiny: Any) -> Any:
    """The gate's item."""
    return next(row for row in gate_status(tiny.ctx, tiny.port_id).items if row.id == "pipeline-parity")


@pytest.fixture(scope="module")
def piped(tiny: Any) -> Any:
    """The tiny port with a pipeline on both sides, and nothing measured."""
    lab = _lab()
    official = Path(tiny.port.official_repo)
    texts = {
        official / "toyofficial/__init__.py": "",
        official / "toyofficial/pipeline.py": lab.OFFICIAL,
        tiny.worktree / "fastvideo/pipelines/__init__.py": "",
        tiny.worktree / PORT: lab.PORT,
        tiny.worktree / "tests/local_tests/tiny/other_pipeline.py": lab.ADAPTER,
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tiny


@pytest.fixture(scope="module")
def passed(piped: Any) -> Any:
    """The same after a whole run that passed; before it, what must not open the gate has been tried."""
    assert item(piped).state == "missing" and "run_pipeline_parity has not been run" in item(piped).why
    with pytest.raises(PortError, match="no adapter yet") as error:
        run_pipeline_parity(piped.ctx, piped.port_id)
    assert "ctx.record" in error.value.fix
    other = run(piped, adapter="tests/local_tests/tiny/other_pipeline.py")
    assert other.verdict == "pass" and "without cases and adapter" in other.next_step
    found = item(piped)
    assert found.state == "missing" and "another adapter" in found.why, (
        "another adapter than the port's own opens nothing"
    )
    (piped.worktree / ADAPTER).write_text(_lab().ADAPTER)
    part = run(piped, cases=["small"])
    assert part.verdict == "pass" and item(piped).state == "missing", "a chosen case opens nothing"
    whole = run(piped)
    assert whole.verdict == "pass", whole
    return piped, whole


def test_the_steps_the_stages_and_the_ends_are_told(passed: Any) -> None:
    _, whole = passed
    assert [step.step for step in whole.steps] == [0, 1, 2, 3]
    assert whole.steps[0].gain is None and all(step.gain for step in whole.steps[1:])
    assert all(step.logic_ratio is not None and step.precision_ratio is not None for step in whole.steps)
    assert [(end.name, end.verdict) for end in whole.ends] == [("final", "pass"), ("decoded", "pass")]
    assert not whole.guilty
    assert {stage.name for stage in whole.stages} >= {"text", "latents", "timesteps", "denoising", "decode"}
    assert whole.self_test.passed and whole.self_test.red
    assert "float64" in whole.notes[0] and "gate_status" in whole.next_step


def test_a_whole_fresh_pass_opens_the_item(passed: Any) -> None:
    piped, whole = passed
    found = item(piped)
    assert found.state == "pass" and found.evidence == [whole.run_id]


def test_the_report_repeats_the_same_numbers(passed: Any) -> None:
    piped, whole = passed
    row = report_of(piped.port, piped.entries()).pipeline
    assert row is not None and row.run_id == whole.run_id and row.self_test
    assert (row.turned_red, row.perturbed) == (len(whole.self_test.red), len(whole.self_test.red))
    lines = {line.name: line for line in row.lines}
    assert [lines[f"step {step.step}"].error for step in whole.steps] == [step.error for step in whole.steps]
    assert lines["decoded video"].logic_ratio == whole.ends[1].logic_ratio
    assert lines["stage timesteps, alone"].verdict == "pass"


def test_one_character_in_an_imported_file_makes_it_stale_and_another_file_does_not(passed: Any) -> None:
    piped, _ = passed
    with piped.edited(PORT, "delta.to(x.dtype)", "delta .to(x.dtype)"):
        found = item(piped)
        assert found.state == "stale" and f"{PORT} changed" in found.why
    with piped.edited("fastvideo/unused.py", "X = 1", "X = 2"):
        assert item(piped).state == "pass"
    with piped.edited(ADAPTER, "* 1.1", "* 1.2"):
        assert item(piped).state == "stale"
    assert item(piped).state == "pass"


def test_a_red_run_closes_it_and_names_the_stage(passed: Any) -> None:
    piped, _ = passed
    with piped.edited(PORT, "z = x * 2.0 + 0.5", "z = x * 2.0"):
        red = run(piped)
        assert red.verdict == "fail" and red.guilty == ["decode"]
        assert "'decode'" in red.next_step and "guilty-stage" in {row.code for row in red.findings}
        assert item(piped).state == "fail"
    assert item(piped).state == "stale", "what the red run measured is gone, and so is the pass before it"


@pytest.mark.parametrize("adapter", ["../outside.py", "/etc/passwd", "tests/local_tests/tiny"])
def test_an_adapter_elsewhere_is_refused_and_leaves_nothing(adapter: str, piped: Any) -> None:
    before = piped.left()
    with pytest.raises(PortError):
        run_pipeline_parity(piped.ctx, piped.port_id, adapter=adapter)
    with pytest.raises(PortError, match="No case"):
        run_pipeline_parity(piped.ctx, piped.port_id, adapter="tests/local_tests/tiny/other_pipeline.py", cases=[])
    assert piped.left() == before
