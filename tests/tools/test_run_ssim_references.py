"""run_ssim with FastVideo's own references: which one, for which GPU, and when the candidate is an old one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from fastvideo_port.parity.worker import JOBS
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.freshness import what_changed
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.tests.parity.examples import DIT, PORT, SCRIPT, Example, make
from fastvideo_port.tests.parity.videos import moving_frames, write_video
from fastvideo_port.tools import _references
from fastvideo_port.tools._advice import next_of
from fastvideo_port.tools._references import (
    fastvideo_threshold,
    find_reference,
    is_reference_folder,
    known_gpu,
    newer_sibling,
)
from fastvideo_port.tools.run_ssim import RunSsimResult, run_ssim

PROMPT = "A lone hiker: high angle, 24 fps? Yes."
NAME = "A lone hiker high angle, 24 fps Yes.mp4"


def put(root: Path, *places: str, name: str = NAME) -> None:
    """Empty files: finding looks at names."""
    for place in places:
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / name).write_bytes(b"")


@pytest.fixture
def references(tmp_path: Path) -> Path:
    """Two GPUs, two models, two backends."""
    root = tmp_path / "ssim/reference_videos"
    for gpu in ("L40S", "H200"):
        for model in ("Wan-1.3B", "Wan-14B"):
            put(
                root, *(f"default/{gpu}_reference_videos/{model}/{backend}" for backend in ("FLASH_ATTN", "TORCH_SDPA"))
            )
    return root


CANDIDATE = Path("/w/generated_videos/default/Wan-14B/TORCH_SDPA") / NAME


def test_gpu_model_and_backend_are_found_from_the_candidate_s_place(references: Path) -> None:
    found = find_reference(references, CANDIDATE, "H200")
    assert (found.gpu, found.model, found.backend) == ("H200", "Wan-14B", "TORCH_SDPA")
    assert found.path == references / "default/H200_reference_videos/Wan-14B/TORCH_SDPA" / NAME
    leaf = references / "default/L40S_reference_videos/Wan-1.3B/FLASH_ATTN"
    assert find_reference(leaf, CANDIDATE, "H200").path == leaf / NAME


def test_the_old_layout_and_a_model_without_backend_are_found(tmp_path: Path) -> None:
    put(tmp_path, "L40S_reference_videos/Turbo")
    assert is_reference_folder(tmp_path) and is_reference_folder(tmp_path / "L40S_reference_videos/Turbo")
    found = find_reference(tmp_path, Path("/w") / NAME, "L40S")
    assert (found.model, found.backend, found.tier) == ("Turbo", "", "default")


def test_full_quality_is_taken_for_a_full_quality_candidate(references: Path) -> None:
    put(references, "full_quality/H200_reference_videos/Wan-14B/TORCH_SDPA")
    assert find_reference(references, CANDIDATE, "H200").tier == "default"
    full = Path(str(CANDIDATE).replace("default", "full_quality"))
    assert find_reference(references, full, "H200").tier == "full_quality"


def test_no_reference_for_this_gpu_names_those_that_there_are(references: Path) -> None:
    with pytest.raises(PortError) as caught:
        find_reference(references, CANDIDATE, "A40")
    assert "A40" in caught.value.seen and "H200, L40S" in caught.value.seen
    explicit = references / "default/H200_reference_videos"
    assert find_reference(explicit, CANDIDATE, "A40").gpu == "H200"


def test_another_prompt_is_no_reference_even_if_one_name_holds_the_other(references: Path) -> None:
    with pytest.raises(PortError, match="no reference with the candidate's prompt"):
        find_reference(references, CANDIDATE.with_name("A lone hiker.mp4"), "H200")
    long = "x" * 120
    put(references, "default/H200_reference_videos/Wan-14B/TORCH_SDPA", name=f"{long[:100]}.mp4")
    assert find_reference(references, CANDIDATE.with_name(f"{long}.mp4"), "H200").path.stem == long[:100]
    assert find_reference(references, CANDIDATE.with_name(f"{CANDIDATE.stem}_2.mp4"), "H200").path.name == NAME


def test_two_that_fit_are_named_not_guessed(references: Path) -> None:
    with pytest.raises(PortError, match="More than one") as caught:
        find_reference(references, Path("/w") / NAME, "H200")
    assert "Wan-1.3B / FLASH_ATTN" in caught.value.seen


def test_an_empty_folder_of_references_says_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "H200_reference_videos").mkdir()
    with pytest.raises(PortError, match="holds no video") as caught:
        find_reference(tmp_path, CANDIDATE, "H200")
    assert "reference_videos_cli" in caught.value.fix
    assert not is_reference_folder(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 4090", ""),
    ],
)
def test_gpus_are_known_as_fastvideo_knows_them(name: str, gpu: str) -> None:
    assert known_gpu(name) == gpu


def test_the_threshold_of_fastvideo_s_own_test_is_read_and_the_strictest_counts(tmp_path: Path) -> None:
    tests = tmp_path / "fastvideo/tests/ssim"
    tests.mkdir(parents=True)
    (tests / "test_a_similarity.py").write_text('P = {"Wan-14B": 1}\nrun(min_acceptable_ssim=0.93)\n')
    (tests / "test_b_similarity.py").write_text('LEAST = 0.98\nM = "org/Wan-14B"\nrun(min_acceptable_ssim=LEAST)\n')
    (tests / "test_c_similarity.py").write_text('M = "Wan-14B-other"\nmin_acceptable_ssim = 0.999\n')
    (tests / "test_d_similarity.py").write_text("Wan-14B (:\n")
    assert fastvideo_threshold(tmp_path, "Wan-14B") == (0.98, "fastvideo/tests/ssim/test_b_similarity.py")
    assert fastvideo_threshold(tmp_path, "absent") is None


def test_a_numbered_newer_video_shows_that_the_plain_one_is_old(tmp_path: Path) -> None:
    plain, newer = tmp_path / "a.mp4", tmp_path / "a_1.mp4"
    plain.write_bytes(b"")
    newer.write_bytes(b"")
    os.utime(plain, (1, 1))
    assert newer_sibling(plain) == newer and newer_sibling(newer) is None


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Example:
    """A port whose candidate and reference lie as FastVideo's tests lay them, on a machine with an H200."""
    made = make(tmp_path)
    monkeypatch.setattr(_references, "gpu_here", lambda: "H200")
    monkeypatch.setattr("fastvideo_port.tools.run_ssim.gpu_here", lambda: "H200")
    return made


def _pair(example: Example, gpu: str = "H200") -> tuple[str, str]:
    frames = moving_frames(5)
    folder = example.worktree / f"fastvideo/tests/ssim/reference_videos/default/{gpu}_reference_videos/Tiny/TORCH_SDPA"
    generated = example.worktree / "fastvideo/tests/ssim/generated_videos/default/Tiny/TORCH_SDPA"
    for place, crf in ((folder, 12), (generated, 20)):
        place.mkdir(parents=True)
        write_video(place / NAME, frames, crf=crf)
    return "fastvideo/tests/ssim/reference_videos", (generated / NAME).relative_to(example.worktree).as_posix()


def _ssim(example: Example, reference: str, candidate: str, **more: float) -> RunSsimResult:
    return run_ssim(example.ctx, PORT, reference, candidate, device="cpu", **more)


def test_a_reference_folder_serves_as_reference_with_fastvideo_s_threshold_and_json(example: Example) -> None:
    assert "ssim" in JOBS
    reference, candidate = _pair(example)
    example.write("fastvideo/tests/ssim/test_tiny_similarity.py", 'M = {"Tiny": 1}\nrun(min_acceptable_ssim=0.96)\n')
    os.utime(example.worktree / candidate, (time.time() + 5,) * 2)
    result = _ssim(example, reference, candidate)
    assert (result.verdict, result.threshold) == ("pass", 0.96), result
    assert [row.code for row in result.findings] == ["fastvideo-reference"]
    assert "H200 / Tiny / TORCH_SDPA" in result.findings[0].message
    assert result.scores_path is not None
    own = json.loads(Path(result.scores_path).with_name("fastvideo_ssim.json").read_text())
    assert own["mean_ssim"] == pytest.approx(result.mean) and own["generated_video"].endswith(NAME)
    assert set(own) == {"mean_ssim", "min_ssim", "max_ssim", "reference_video", "generated_video", "parameters"}
    loose = _ssim(example, reference, candidate, threshold=0.94)
    assert loose.verdict == "investigate" and "0.96" in loose.findings[1].message


def test_a_reference_of_another_gpu_is_named_and_no_pass(example: Example) -> None:
    _, candidate = _pair(example, "L40S")
    os.utime(example.worktree / candidate, (time.time() + 5,) * 2)
    folder = "fastvideo/tests/ssim/reference_videos/default/L40S_reference_videos"
    result = _ssim(example, folder, candidate)
    assert result.verdict == "investigate" and "other-device" in [row.code for row in result.findings]
    assert "GPU" in result.next_step
    assert next(e for e in Ledger(example.ctx.home).entries(PORT)).verdict == "investigate"


def test_the_video_of_the_run_before_is_no_candidate(example: Example) -> None:
    write_video(example.worktree / "reference.mp4", np.ascontiguousarray(moving_frames(12)[:, :96, :128]), crf=12)
    first = example.run(SCRIPT, "outputs/first.mp4")
    compare = {"reference": "reference.mp4", "metric": "ssim", "device": "cpu", "threshold": 0.93}
    fresh = run_ssim(example.ctx, PORT, candidate="outputs/first.mp4", **compare)  # type: ignore[arg-type]
    assert fresh.verdict == "pass" and "gate_status" in fresh.next_step, fresh
    assert example.item("ssim").state == "pass"
    entry = Ledger(example.ctx.home).entries(PORT)[-1]
    assert f"worktree:{DIT}" in entry.depends_on and what_changed(entry, example.port) == []
    example.script("fps=16", "fps=15")
    example.run(SCRIPT, "outputs/second.mp4")
    stale = run_ssim(example.ctx, PORT, candidate="outputs/first.mp4", **compare)  # type: ignore[arg-type]
    assert stale.verdict == "inconclusive" and first.run_id in " ".join(row.message for row in stale.findings)
    assert "stale-candidate" in [row.code for row in stale.findings]
    assert example.item("ssim").state == "stale"  # it also rests on the script, which was changed


STANDARD = {"metric": "ssim", "device": "cpu", "threshold": 0.93}


@pytest.fixture
def compared(example: Example) -> Example:
    """A video that a run wrote, later files that are newer than it, and its comparison with the official one."""
    write_video(example.worktree / "reference.mp4", np.ascontiguousarray(moving_frames(12)[:, :96, :128]), crf=12)
    example.run(SCRIPT, "outputs/first.mp4")
    return example


def _again(example: Example) -> RunSsimResult:
    return run_ssim(example.ctx, PORT, "reference.mp4", "outputs/first.mp4", **STANDARD)  # type: ignore[arg-type]


def test_a_touched_file_and_a_changed_one_that_the_run_did_not_import_change_nothing(compared: Example) -> None:
    later = time.time() + 60
    for path in (DIT, "fastvideo/unused.py", "fastvideo/__init__.py"):
        os.utime(compared.worktree / path, (later, later))
    result = _again(compared)
    assert (result.verdict, result.findings) == ("pass", []) and "gate_status" in result.next_step
    for text in ("X = 2\n", "X = 3\n"):
        compared.write("fastvideo/unused.py", text)
        os.utime(compared.worktree / "fastvideo/unused.py", (later, later))
        assert compared.item("ssim").state == "pass", text
        assert _again(compared).verdict == "pass", text
    assert compared.item("ssim").state == "pass"


def test_a_changed_file_that_the_run_imported_is_found_whatever_its_time_and_asks_for_run_example_first(
    compared: Example,
) -> None:
    assert _again(compared).verdict == "pass"
    text = (compared.worktree / DIT).read_text()
    compared.write(DIT, text + "# another\n")
    os.utime(compared.worktree / DIT, (1e9, 1e9))
    result = _again(compared)
    assert result.verdict == "inconclusive" and f"{DIT} changed" in result.findings[0].message
    assert 0 <= result.next_step.find("run_example") < result.next_step.find("run_ssim")
    assert result.likely_causes == []  # a fresh output folder would not help: the code changed
    item = compared.item("ssim")
    assert item.state == "stale" and 0 <= item.why.find("run run_example") < item.why.find("run_ssim"), item.why
    assert next_of(item) == "Call run_example, then run_ssim with the video that it wrote."
    compared.write(DIT, text)
    assert compared.item("ssim").state == "fail"  # the newest comparison, and it says why
    assert f"{DIT} changed" in compared.item("ssim").why
    assert _again(compared).verdict == "pass" and compared.item("ssim").state == "pass"


def test_a_newer_video_of_the_same_code_is_named_in_place_of_a_new_run(compared: Example) -> None:
    assert _again(compared).verdict == "pass"
    compared.script("fps=16", "fps=15")
    newer = compared.run(SCRIPT, "outputs/second.mp4")
    result = _again(compared)
    assert result.verdict == "inconclusive" and f"run_ssim with the video that {newer.run_id} wrote" in result.next_step
    item = compared.item("ssim")
    assert f"run run_ssim with the video that {newer.run_id} wrote" in item.why
    assert next_of(item) == f"Call run_ssim with the video that {newer.run_id} wrote."


def test_only_a_video_that_a_run_wrote_against_one_that_none_wrote_is_evidence(example: Example) -> None:
    """A video that lies there may come from anywhere, from the official pipeline too."""
    frames = np.ascontiguousarray(moving_frames(12)[:, :96, :128])
    write_video(example.worktree / "reference.mp4", frames, crf=12)
    example.run(SCRIPT, "outputs/first.mp4")
    write_video(example.worktree / "outputs/brought.mp4", frames, crf=14)

    def compare(reference: str, candidate: str) -> tuple[str | None, str, str]:
        result = run_ssim(example.ctx, PORT, reference, candidate, metric="ssim", device="cpu")
        item = example.item("ssim")
        return result.verdict, item.state, f"{item.why} {result.next_step}"

    assert compare("reference.mp4", "outputs/first.mp4")[:2] == ("pass", "pass")
    verdict, state, why = compare("reference.mp4", "outputs/brought.mp4")
    assert (verdict, state) == ("pass", "missing") and "nothing says that the port made the candidate" in why
    verdict, state, why = compare("outputs/first.mp4", "outputs/brought.mp4")
    assert (verdict, state) == ("pass", "missing") and "the port's own" in why
    result = run_ssim(
        example.ctx, PORT, "reference.mp4", "outputs/first.mp4", threshold=0.5, device="cpu", metric="ssim"
    )
    assert result.verdict == "investigate" and example.item("ssim").state == "fail"
    assert compare("reference.mp4", "outputs/first.mp4")[1] == "pass"
    (example.worktree / "reference.mp4").write_bytes(b"another")
    assert example.item("ssim").state == "stale"
