"""The demo says what a machine lacks, keeps its folders apart and writes down every step."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from fastvideo_port.server.demo import acts, play
from fastvideo_port.server.demo.expectations import Unexpected
from fastvideo_port.server.demo.play import main
from fastvideo_port.server.demo.show import Show
from filelock import FileLock
from rich.console import Console


def test_without_fastvideos_environment_the_demo_says_how_to_make_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(tmp_path), "--fastvideo-python", str(tmp_path / "absent")]) == 1
    assert "make setup" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_earlier_runs_go_unless_they_are_kept(tmp_path: Path) -> None:
    first = play.fresh_folder(tmp_path, keep=False)
    second = play.fresh_folder(tmp_path, keep=True)
    assert first.is_dir() and second.is_dir()
    third = play.fresh_folder(tmp_path, keep=False)
    assert not first.exists() and not second.exists()
    assert (tmp_path / "latest").resolve() == third.resolve()


def test_two_demos_do_not_start_in_one_folder_at_once(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(play.PortError, match="Another demo"):
        play.fresh_folder(tmp_path, keep=False)


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


def test_the_last_block_names_what_stays_and_the_report_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The acts are left out; what follows them is looked at."""
    stage = acts.Stage(tmp_path, tmp_path, tmp_path, tmp_path)
    output = tmp_path / "out.txt"
    show = Show(Console(file=output.open("w"), width=400))
    player = acts.Player(None, show, stage, "port-1", tmp_path / "worktree")  # type: ignore[arg-type]

    async def begin(*_: object) -> acts.Player:
        return player

    async def act(player: acts.Player) -> None:
        show.headline("an act")

    monkeypatch.setattr(acts, "begin", begin)
    for name in [
        "prompts",
        "mistakes",
        "components",
        "approvals",
        "pipeline",
        "videos",
        "documents",
        "end",
        "staleness",
    ]:
        monkeypatch.setattr(acts, name, act)
    with pytest.raises(Unexpected, match="report is not there"):
        asyncio.run(acts.play(None, stage, show))  # type: ignore[arg-type]
    report = tmp_path / "state/reports/port-1/report.html"
    report.parent.mkdir(parents=True)
    for path in (report, report.with_suffix(".md")):
        path.write_text("")
    asyncio.run(acts.play(None, stage, show))  # type: ignore[arg-type]
    show.console.file.flush()
    last = output.read_text().rpartition("an act")[2]
    for path in (report, report.with_suffix(".md"), tmp_path / "worktree", tmp_path / "state"):
        assert str(path) in last


def test_patches_are_explained_once_and_then_named(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    with out.open("w") as file:
        show = Show(Console(file=file, width=120))
        case = {"case": "small", "seed": 0, "verdict": "pass", "strict": True, "worst_module": "norm"}
        ratios = dict.fromkeys(("logic_ratio", "worst_module_ratio", "precision_ratio"), 1.0)
        result = {
            "verdict": "pass",
            "cases": [{**case, **ratios}],
            "self_test": {"red": ["a weight"], "not_red": []},
            "reference": "float64",
            "environment_patches": ["cpu-attention: answers another one.", "cpu-device: answers cpu."],
            "culprit": None,
            "next_step": "Go on.",
        }
        # Of a tokenizer's comparison no patches are shown, so it explains none.
        tokens = {**result, "cases": [{**case, **dict.fromkeys(ratios)}], "findings": []}
        for shown in (tokens, result, result):
            show.call("run_component_parity", {}, shown, 1.0)
    text = out.read_text()
    assert text.count("answers another one") == text.count("answers cpu") == 1
    assert "cpu-attention, cpu-device" in text


def test_the_suspects_of_a_mapping_are_named(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    with out.open("w") as file:
        counts = dict.fromkeys(("missing", "unexpected", "shape_mismatches", "collisions"), 0) | {"suspects": 1}
        suspect = {"code": "name-suspect", "message": "Two tensors may be swapped.", "fatal": False}
        coverage = dict.fromkeys(("tensors", "tensors_total", "parameters", "parameters_total"), 4)
        result = {"verdict": "pass", "coverage": coverage, "counts": counts, "suspects": [suspect], "next_step": "Go."}
        Show(Console(file=file, width=120)).call("check_mapping", {}, result, 1.0)
    assert "suspects 1" in out.read_text() and "Two tensors may be swapped." in out.read_text()
