"""run_ssim over real runs: real videos, the real worker, the server's own interpreter."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.freshness import what_changed
from fastvideo_port.port.gate import gate
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.port.records import PortRecord, now
from fastvideo_port.tests.parity.videos import moving_frames, write_folder, write_video
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.run_ssim import RunSsimResult, finish, run_ssim
from fastvideo_port.tools.run_status import run_status

PORT = "port-0123456789abcdef"


@pytest.fixture
def ctx(tmp_path: Path) -> ToolContext:
    """A port whose worktree has FastVideo's code in it; no video yet."""
    home = tmp_path / "state home"
    home.mkdir()
    worktree = tmp_path / "a worktree"
    (worktree / "fastvideo").mkdir(parents=True)
    (worktree / "fastvideo/__init__.py").write_text("")
    (worktree / "outputs").mkdir()
    # Modules of the worktree must not come before the server's own.
    (worktree / "av.py").write_text("raise ImportError('the worktree was imported')\n")
    ctx = ToolContext(home=home, cwd=worktree)
    ctx.ports.add(
        PortRecord(
            port_id=PORT,
            model_name="Wan",
            slug="wan",
            worktree=str(worktree),
            branch="b",
            base_commit="c",
            mode="worktree",
            repository="r",
            python="/nonexistent/python",
            created_at=now(),
        )
    )
    return ctx


@pytest.fixture
def outputs(ctx: ToolContext) -> Path:
    """The worktree's folder of videos, with a reference and a good candidate."""
    folder = ctx.cwd / "outputs"
    frames = moving_frames(6)
    write_video(folder / "reference.mp4", frames, crf=12)
    write_video(folder / "good.mp4", frames, crf=20)
    return folder


def _compare(ctx: ToolContext, candidate: str = "outputs/good.mp4", **arguments: Any) -> RunSsimResult:
    full = {"reference": "outputs/reference.mp4", "device": "cpu", **arguments}
    return run_ssim(ctx, PORT, candidate=candidate, **full)


def test_the_evidence_goes_stale_with_the_videos_and_the_port_s_code(ctx: ToolContext, outputs: Path) -> None:
    source = ctx.cwd / "fastvideo/dit.py"
    source.write_text("SCALE = 1\n")
    os.utime(outputs / "good.mp4")
    assert _compare(ctx, metric="ssim").verdict == "pass"
    entry, port = next(iter(Ledger(ctx.home).entries(PORT))), ctx.ports.get(PORT)
    assert what_changed(entry, port) == []
    source.write_text("SCALE = 2\n")
    assert what_changed(entry, port) == ["fastvideo/dit.py changed"]
    source.write_text("SCALE = 1\n")
    write_video(outputs / "good.mp4", moving_frames(6), crf=30)
    assert what_changed(entry, port) == [f"{outputs / 'good.mp4'} changed"]


def _entries(ctx: ToolContext) -> int:
    return len(list(Ledger(ctx.home).entries(PORT)))


def test_a_good_video_passes_and_is_entered_in_the_ledger_once(ctx: ToolContext, outputs: Path) -> None:
    result = _compare(ctx)
    assert (result.state, result.verdict, result.metric, result.frames_compared) == ("done", "pass", "ms_ssim", 6)
    assert result.mean is not None and result.min is not None and result.min > 0.93
    assert result.candidate is not None and result.candidate.path == str(outputs / "good.mp4")
    assert "no evidence" in result.next_step and "run_example" in result.next_step  # no run was seen to write it
    for picture in result.pictures:
        assert picture.uri == f"run://{result.run_id}/files/{Path(picture.path).name}"
        assert Path(picture.path).read_bytes().startswith(b"\x89PNG")
    assert result.scores_path is not None
    assert len(json.loads(Path(result.scores_path).read_text())["scores"]) == 6
    assert len(result.model_dump_json()) < 8000
    assert _entries(ctx) == 1
    assert finish(ctx, ctx.runs.get(result.run_id)) == result
    assert _entries(ctx) == 1


def test_a_missing_frame_is_red_and_says_what_to_do(ctx: ToolContext, outputs: Path) -> None:
    write_video(outputs / "short.mp4", moving_frames(5), crf=20)
    result = _compare(ctx, "outputs/short.mp4", metric="ssim")
    assert result.verdict == "fail" and [item.code for item in result.findings] == ["frame-count"]
    assert "frame count" in result.next_step


def test_an_absolute_reference_folder_serves(ctx: ToolContext, outputs: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "official frames", moving_frames(6))
    result = _compare(ctx, reference=str(folder), metric="ssim")
    assert result.verdict == "pass" and result.reference is not None and result.reference.frames == 6


def test_without_waiting_the_run_goes_on_and_run_status_gives_the_same_result(ctx: ToolContext, outputs: Path) -> None:
    begun = _compare(ctx, wait_s=0)
    assert begun.verdict is None and begun.state in ("queued", "running") and begun.run_id in begun.next_step
    status = run_status(ctx, begun.run_id, wait_s=45)
    assert status.state == "done", status
    assert status.result == finish(ctx, ctx.runs.get(begun.run_id)).model_dump(mode="json")
    assert status.result["verdict"] == "pass"


def test_a_video_older_than_the_port_or_than_its_code_is_no_evidence(ctx: ToolContext, outputs: Path) -> None:
    os.utime(outputs / "good.mp4", (1e9, 1e9))
    result = _compare(ctx, metric="ssim")
    assert result.verdict == "inconclusive" and "call run_example, then run_ssim" in result.next_step
    assert "stale-candidate" in [item.code for item in result.findings]
    os.utime(outputs / "good.mp4")
    (ctx.cwd / "fastvideo/new.py").write_text("")
    os.utime(ctx.cwd / "fastvideo/new.py", (time.time() + 5, time.time() + 5))
    result = _compare(ctx, metric="ssim")
    assert result.verdict == "investigate" and "fastvideo/new.py" in result.findings[0].message
    assert "only the times of the files can tell" in result.findings[0].message  # no run wrote the candidate
    assert "call run_example, then run_ssim" in result.next_step and result.likely_causes == []
    item = next(item for item in gate(ctx.ports.get(PORT), Ledger(ctx.home).entries(PORT)) if item.id == "ssim")
    assert item.state == "fail" and "fastvideo/new.py" in item.why and "run run_example, then run_ssim" in item.why


def test_the_reference_as_candidate_is_inconclusive(ctx: ToolContext, outputs: Path) -> None:
    shutil.copy(outputs / "reference.mp4", outputs / "copy.mp4")
    result = _compare(ctx, "outputs/copy.mp4", metric="ssim")
    assert result.mean == 1 and result.verdict == "inconclusive" and "same-file" in [f.code for f in result.findings]


def test_half_a_file_fails_the_call_with_a_way_out(ctx: ToolContext, outputs: Path) -> None:
    content = (outputs / "good.mp4").read_bytes()
    (outputs / "half.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(PortError) as caught:
        _compare(ctx, "outputs/half.mp4")
    assert "half.mp4" in caught.value.seen and caught.value.fix
    assert _entries(ctx) == 0


def _paths(outputs: Path) -> dict[str, str]:
    """Candidates that must not be read, by what is wrong with them."""
    outside = outputs.parent.parent / "outside.mp4"
    write_video(outside, moving_frames(2))
    (outputs / "link.mp4").symlink_to(outside)
    os.mkfifo(outputs / "fifo.mp4")
    (outputs.parent / ".git").mkdir()
    shutil.copy(outside, outputs.parent / ".git/x.mp4")
    return {
        "parent": "../outside.mp4",
        "absolute": str(outside),
        "link": "outputs/link.mp4",
        "fifo": "outputs/fifo.mp4",
        "git": ".GIT/x.mp4",
        "absent": "outputs/absent.mp4",
        "nul": "outputs/a\0.mp4",
        "long": "x" * 5000,
        "home": "~/x.mp4",
        "encoded": "%2e%2e%2foutside.mp4",
        "empty": " ",
    }


def test_paths_that_leave_the_worktree_are_refused_and_no_run_is_made(ctx: ToolContext, outputs: Path) -> None:
    for what, path in _paths(outputs).items():
        with pytest.raises(PortError) as caught:
            _compare(ctx, path)
        assert caught.value.fix, what
    for reference in ("../outside.mp4", "/dev/zero", "outputs/fifo.mp4", "/nonexistent.mp4"):
        with pytest.raises(PortError):
            _compare(ctx, reference=reference)
    assert ctx.runs.list() == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"threshold": 0},
        {"threshold": math.nan},
        {"threshold": 2},
        {"min_threshold": -1},
        {"min_threshold": math.inf},
        {"device": "cuda; rm"},
        {"wait_s": 400},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused_and_no_run_is_made(
    ctx: ToolContext, outputs: Path, arguments: dict[str, Any]
) -> None:
    with pytest.raises(PortError) as caught:
        _compare(ctx, **arguments)
    assert caught.value.seen and caught.value.fix
    assert ctx.runs.list() == []


def test_an_unknown_port_is_named(ctx: ToolContext) -> None:
    with pytest.raises(PortError, match="no port"):
        run_ssim(ctx, "port-x", "a", "b")


def test_the_tool_imports_neither_torch_nor_pyav() -> None:
    import subprocess

    code = "import sys, fastvideo_port.tools.run_ssim as _; print({'torch', 'av', 'PIL', 'mcp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_broken_frame_is_shown_beside_its_reference(ctx: ToolContext, outputs: Path) -> None:
    frames = moving_frames(6)
    frames[4] = np.roll(frames[4], 60, 1)
    write_video(outputs / "broken.mp4", frames, crf=20)
    result = _compare(ctx, "outputs/broken.mp4")
    assert result.verdict == "fail" and result.worst_frame == 4 and result.worst_frames[0].index == 4
    assert "show_picture" in result.next_step
