"""The demo can fail: each of its expectations, and each thing that a machine may lack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.server.demo import play
from fastvideo_port.server.demo.mistakes import EPSILON, SCALE_SHIFT
from fastvideo_port.server.demo.play import Unexpected, expect, main
from fastvideo_port.server.demo.show import Show
from filelock import FileLock
from rich.console import Console

_RIGHT = {
    "module": "blocks.0",
    "kind": "glue",
    "file": SCALE_SHIFT.file,
    "line": 393,
    "end_line": 394,
    "why": "its inputs agree",
}


def test_an_unexpected_verdict_stops_the_demo_and_says_what_differed() -> None:
    with pytest.raises(Unexpected, match=r"parity\nSeen: 'pass'\nExpected: 'fail'"):
        expect("parity", "pass", "fail")


@pytest.mark.parametrize(
    ("culprit", "seen"),
    [
        (None, "names no place"),
        (_RIGHT | {"module": "proj_out"}, "proj_out"),
        (_RIGHT | {"file": "fastvideo/layers/linear.py"}, "linear.py"),
        (_RIGHT | {"line": 394}, ":394"),
    ],
)
def test_a_red_verdict_with_the_wrong_place_stops_the_demo(culprit: dict[str, Any] | None, seen: str) -> None:
    with pytest.raises(Unexpected, match=seen):
        play._expect_place({"culprit": culprit}, SCALE_SHIFT, 393, ("blocks.0",))


def test_the_right_place_goes_on() -> None:
    play._expect_place({"culprit": _RIGHT}, SCALE_SHIFT, 393, ("blocks.0",))
    norm = {"module": "blocks.0.norm_q", "kind": "module", "file": EPSILON.file, "line": 48, "end_line": 83}
    play._expect_place({"culprit": norm}, EPSILON, 76, ("norm_q", "norm_k"))


_GATE = {
    "mapping-reviewed": "needs_approval",
    "keys": "pass",
    "component-parity": "pass",
    "pipeline-parity": "missing",
    "ssim": "pass",
    "example": "missing",
    "documentation": "missing",
}


def _gate(gate: str = "closed", **changed: str) -> dict[str, Any]:
    states = _GATE | {name.replace("_", "-"): state for name, state in changed.items()}
    return {"gate": gate, "items": [{"id": name, "state": state} for name, state in states.items()]}


def test_the_gate_as_it_has_to_be_goes_on() -> None:
    play._expect_gate(_gate())


@pytest.mark.parametrize(
    "gate",
    [_gate("open"), _gate(component_parity="stale"), _gate(ssim="fail"), _gate(keys="missing"), _gate(example="pass")],
)
def test_a_gate_that_is_open_or_has_an_item_in_another_state_stops_the_demo(gate: dict[str, Any]) -> None:
    with pytest.raises(Unexpected):
        play._expect_gate(gate)


def test_a_report_that_is_not_there_stops_the_demo(tmp_path: Path) -> None:
    stage = play.Stage(tmp_path, tmp_path, tmp_path, tmp_path)
    with pytest.raises(Unexpected, match="report is not there"):
        play._places({"report": str(tmp_path / "report.html")}, tmp_path, stage)
    (tmp_path / "report.html").write_text("<html>")
    assert play._places({"report": str(tmp_path / "report.html")}, tmp_path, stage)["report"].endswith("report.html")


def test_without_fastvideos_environment_the_demo_says_how_to_make_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(tmp_path), "--fastvideo-python", str(tmp_path / "absent")]) == 1
    assert "make setup" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_earlier_runs_go_unless_they_are_kept(tmp_path: Path) -> None:
    first = play._fresh_folder(tmp_path, keep=False)
    second = play._fresh_folder(tmp_path, keep=True)
    assert first.is_dir() and second.is_dir()
    third = play._fresh_folder(tmp_path, keep=False)
    assert not first.exists() and not second.exists()
    assert (tmp_path / "latest").resolve() == third.resolve()


def test_two_demos_do_not_start_in_one_folder_at_once(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(play.PortError, match="Another demo"):
        play._fresh_folder(tmp_path, keep=False)


def test_the_transcript_holds_every_step_with_its_result(tmp_path: Path) -> None:
    transcript = tmp_path / "steps.jsonl"
    show = Show(Console(file=(tmp_path / "out.txt").open("w"), width=100), transcript)
    show.headline("An act")
    show.edit("writes", "- a\n+ b")
    show.call("gate_status", {"port_id": "p"}, {"gate": "closed", "items": [], "next_step": "Go on."}, 1.5)
    show.close()
    kinds = [json.loads(line) for line in transcript.read_text().splitlines()]
    assert [entry["kind"] for entry in kinds] == ["headline", "edit", "call"]
    assert kinds[2]["result"]["gate"] == "closed"
