"""The metrics against the libraries that define them, and the verdict on real videos."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.frame_reader import FrameReader
from fastvideo_port.parity.job import Job
from fastvideo_port.parity.ssim import Metric, Scorer, ms_ssim
from fastvideo_port.parity.ssim_job import ssim
from fastvideo_port.tests.parity.videos import moving_frames, write_folder, write_video

CPU = torch.device("cpu")
Array = np.ndarray[Any, np.dtype[np.uint8]]


def _pairs(kind: str, height: int, width: int) -> tuple[Array, Array]:
    """Two frames a side of one kind of content."""
    from skimage import data

    random = np.random.default_rng(height * 1000 + width)
    if kind == "noise":
        return tuple(random.integers(0, 256, (2, height, width, 3), dtype=np.uint8) for _ in range(2))  # type: ignore[return-value]
    if kind == "flat":
        return np.full((2, height, width, 3), 200, np.uint8), np.full((2, height, width, 3), 201, np.uint8)
    if kind == "extremes":
        black = np.zeros((2, height, width, 3), np.uint8)
        black[:, ::2] = 255
        return black, 255 - black
    photo = data.astronaut()[:height, :width]
    pair = np.stack([photo, photo[::-1, ::-1]])
    near = np.clip(pair.astype(int) + random.integers(-6, 7, pair.shape), 0, 255).astype(np.uint8)
    return pair, near


def _score(metric: Metric, reference: Array, candidate: Array, device: torch.device = CPU) -> Array:
    result: Array = Scorer(metric, device)(torch.from_numpy(reference), torch.from_numpy(candidate)).cpu().numpy()
    return result


@pytest.mark.parametrize("size", [(7, 7), (8, 13), (61, 93), (240, 417)], ids=str)
@pytest.mark.parametrize("kind", ["noise", "flat", "extremes", "photo"])
def test_ssim_equals_scikit_image(kind: str, size: tuple[int, int]) -> None:
    from skimage.metrics import structural_similarity

    reference, candidate = _pairs(kind, *size)
    options = {"channel_axis": -1, "data_range": 255}
    expected = [structural_similarity(a, b, **options) for a, b in zip(reference, candidate, strict=True)]
    assert np.abs(_score("ssim", reference, candidate) - expected).max() < 1e-6
    if min(size) >= 11:
        options["gaussian_weights"] = True
        expected = [structural_similarity(a, b, **options) for a, b in zip(reference, candidate, strict=True)]
        assert np.abs(_score("ssim_gaussian", reference, candidate) - expected).max() < 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["noise", "flat", "extremes", "photo"])
def test_the_fused_kernel_equals_scikit_image(kind: str) -> None:
    from skimage.metrics import structural_similarity

    for size in ((7, 7), (61, 93), (240, 417)):
        reference, candidate = _pairs(kind, *size)
        expected = [
            structural_similarity(a, b, channel_axis=-1, data_range=255)
            for a, b in zip(reference, candidate, strict=True)
        ]
        scorer = Scorer("ssim", torch.device("cuda"))
        got = scorer(torch.from_numpy(reference), torch.from_numpy(candidate)).cpu().numpy()
        assert scorer.backend == "triton", scorer.fallback
        assert np.abs(got - expected).max() < 1e-6


def test_the_comparison_with_scikit_image_can_fail() -> None:
    """A changed constant is seen: without this the bound of 1e-6 might hold for anything."""
    from skimage.metrics import structural_similarity

    reference, candidate = _pairs("photo", 61, 93)
    other = structural_similarity(reference[0], candidate[0], channel_axis=-1, data_range=255, K2=0.0301)
    assert abs(_score("ssim", reference, candidate)[0] - other) > 1e-6


def test_ms_ssim_equals_fastvideo_s_loop_over_frames() -> None:
    import pytorch_msssim

    frames = moving_frames(3, 180, 201)
    noisy = np.clip(frames.astype(int) + np.random.default_rng(0).integers(-20, 21, frames.shape), 0, 255)
    candidate = noisy.astype(np.uint8)
    expected = []
    for a, b in zip(frames, candidate, strict=True):
        planes = [torch.from_numpy(side.copy()).permute(2, 0, 1)[None].float() / 255 for side in (a, b)]
        expected.append(float(pytorch_msssim.ms_ssim(planes[0], planes[1], data_range=1.0)))
    got = _score("ms_ssim", frames, candidate)
    assert np.abs(got - expected).max() < 1e-6
    assert got.max() < 0.999


@pytest.mark.parametrize("metric", ["ssim", "ssim_gaussian", "ms_ssim"])
def test_equal_frames_score_one(metric: Metric) -> None:
    frames = moving_frames(2)
    tolerance = 0.0 if metric == "ssim" else 1e-6
    assert np.abs(_score(metric, frames, frames) - 1).max() <= tolerance


def test_ms_ssim_without_its_library_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    frames = torch.from_numpy(moving_frames(1))
    with pytest.raises(ParityError, match="pytorch_msssim"):
        ms_ssim(frames, frames)


@pytest.mark.parametrize(
    "frames",
    [torch.zeros(1, 9, 9, 3), torch.zeros(1, 9, 9, 4, dtype=torch.uint8), torch.zeros(0, 9, 9, 3, dtype=torch.uint8)],
    ids=["float", "four channels", "none"],
)
def test_what_is_no_batch_of_rgb_frames_is_refused(frames: torch.Tensor) -> None:
    with pytest.raises(ParityError, match="not a batch"):
        Scorer("ssim", CPU)(frames, frames)


# The job


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference and some candidates, encoded once."""
    folder = tmp_path_factory.mktemp("clips")
    frames = moving_frames()
    write_video(folder / "reference.mp4", frames, crf=12)
    write_video(folder / "good.mp4", frames, crf=20)
    broken = frames.copy()
    broken[7] = broken[7, ::-1]
    write_video(folder / "one_broken.mp4", broken, crf=12)
    write_video(folder / "short.mp4", frames[:-1], crf=20)
    write_video(folder / "small.mp4", frames[:, :170, :190], crf=20)
    write_video(folder / "reversed.mp4", frames[::-1], crf=20)
    write_video(folder / "late.mp4", np.concatenate([frames[1:], moving_frames(13)[-1:]]), crf=20)
    write_video(folder / "fast.mp4", frames, crf=20, fps=24)
    write_video(folder / "black.mp4", np.zeros_like(frames), crf=20)
    write_video(folder / "still.mp4", np.repeat(frames[:1], 12, 0), crf=12)
    write_video(folder / "still_again.mp4", np.repeat(frames[:1], 12, 0), crf=20)
    return folder


@pytest.fixture
def compare(clips: Path, tmp_path: Path) -> Any:
    """``compare(candidate, **spec)``: the job's value for a clip against the reference."""

    def call(candidate: str, **spec: Any) -> dict[str, Any]:
        full = {"reference": str(clips / "reference.mp4"), "candidate": str(clips / candidate), "device": "cpu"}
        full = {**full, "metric": "ssim", **spec}
        value = ssim(full, Job(tmp_path))
        json.dumps(value, allow_nan=False)
        return value

    return call


def _codes(value: dict[str, Any]) -> dict[str, str]:
    return {item["code"]: item["effect"] for item in value["findings"]}


@pytest.mark.parametrize("metric", ["ms_ssim", "ssim"])
def test_a_good_copy_passes_and_leaves_scores_and_pictures(compare: Any, tmp_path: Path, metric: str) -> None:
    from PIL import Image

    value = compare("good.mp4", metric=metric)
    assert value["verdict"] == "pass", value
    assert value["frames_compared"] == 12
    assert value["min_threshold"] == pytest.approx(0.83)
    assert value["reference"]["fps"] == 16 and value["reference"]["codec"] == "h264"
    scores = json.loads((tmp_path / "files/scores.json").read_text())["scores"]
    assert len(scores) == 12
    assert value["mean"] == pytest.approx(sum(scores) / 12)
    assert value["worst_frame"] == int(np.argmin(scores)) and value["min"] == min(scores)
    assert [item["index"] for item in value["worst_frames"]] == np.argsort(scores, kind="stable")[:3].tolist()
    rows = list(csv.reader((tmp_path / "files/scores.csv").open()))
    assert rows[0] == ["frame", metric] and [float(row[1]) for row in rows[1:]] == scores
    for name in value["pictures"]:
        with Image.open(tmp_path / "files" / name) as picture:
            picture.load()
            assert picture.width > 400


def test_one_broken_frame_fails_by_the_floor_and_is_named(compare: Any) -> None:
    """The mean alone lets it through: that is the hole in FastVideo's own judge."""
    value = compare("one_broken.mp4", metric="ms_ssim", threshold=0.9, min_threshold=0.8)
    assert value["worst_frame"] == 7
    assert value["mean"] >= 0.9 and "below-threshold" not in _codes(value)
    assert _codes(value)["below-floor"] == "fail" and value["verdict"] == "fail"


def test_a_missing_frame_fails_although_the_rest_agrees(compare: Any) -> None:
    value = compare("short.mp4")
    assert value["verdict"] == "fail" and _codes(value)["frame-count"] == "fail"
    assert (value["reference"]["frames"], value["candidate"]["frames"], value["frames_compared"]) == (12, 11, 11)
    assert value["mean"] > 0.93


def test_another_size_fails_without_scores(compare: Any) -> None:
    value = compare("small.mp4")
    assert value["verdict"] == "fail" and _codes(value)["frame-size"] == "fail"
    assert value["mean"] is None and value["frames_compared"] == 0 and value["pictures"] == []


@pytest.mark.parametrize(("candidate", "said"), [("reversed.mp4", "reversed"), ("late.mp4", "shifted by 1")])
def test_frames_at_another_time_fail_and_are_recognised(compare: Any, candidate: str, said: str) -> None:
    value = compare(candidate, metric="ssim")
    assert value["verdict"] == "fail"
    assert any(item["code"] == "time-shift" and said in item["message"] for item in value["findings"]), value


def test_the_same_file_or_its_copy_proves_nothing(compare: Any, clips: Path, tmp_path: Path) -> None:
    for name, make in (("copy.mp4", shutil.copy), ("link.mp4", os.link), ("soft.mp4", os.symlink)):
        make(clips / "reference.mp4", tmp_path / name)
        value = compare(str(tmp_path / name))
        assert value["mean"] == pytest.approx(1.0, abs=1e-6)
        assert value["verdict"] == "inconclusive" and _codes(value)["same-file"] == "inconclusive"


def test_the_same_frames_in_other_files_are_noted(tmp_path: Path) -> None:
    from PIL import Image

    original = write_folder(tmp_path / "a", moving_frames(4))
    (tmp_path / "b").mkdir()
    for file in original.iterdir():
        with Image.open(file) as picture:
            picture.save(tmp_path / "b" / file.name, compress_level=1)
    value = ssim({"reference": str(original), "candidate": str(tmp_path / "b"), "metric": "ssim"}, Job(tmp_path))
    assert _codes(value) == {"identical-frames": "note"} and value["min"] == 1 and value["verdict"] == "pass"


def test_black_videos_that_agree_prove_nothing(compare: Any, clips: Path, tmp_path: Path) -> None:
    other = write_video(tmp_path / "black.mp4", np.ones_like(moving_frames()), crf=30)
    value = compare(str(other), reference=str(clips / "black.mp4"), metric="ms_ssim")
    assert value["min"] > 0.93
    assert value["verdict"] == "inconclusive" and _codes(value)["blank-content"] == "inconclusive"


def test_a_black_candidate_fails_and_is_named(compare: Any) -> None:
    value = compare("black.mp4")
    assert value["verdict"] == "fail"
    assert any("candidate is all black" in item["message"] for item in value["findings"])


def test_still_videos_that_agree_ask_for_a_look(compare: Any, clips: Path) -> None:
    value = compare("still_again.mp4", reference=str(clips / "still.mp4"))
    assert value["verdict"] == "investigate" and _codes(value) == {"static": "investigate"}


def test_noise_that_agrees_proves_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (3, 180, 200, 3), dtype=np.uint8)
    write_folder(tmp_path / "a", noise)
    write_folder(tmp_path / "b", np.clip(noise.astype(int) + 1, 0, 255).astype(np.uint8))
    spec = {"reference": str(tmp_path / "a"), "candidate": str(tmp_path / "b"), "metric": "ssim"}
    value = ssim(spec, Job(tmp_path))
    assert value["verdict"] == "inconclusive" and _codes(value)["noise"] == "inconclusive"


def test_another_frame_rate_asks_for_a_look(compare: Any) -> None:
    value = compare("fast.mp4")
    assert value["verdict"] == "investigate" and _codes(value) == {"fps-mismatch": "investigate"}


def test_a_candidate_older_than_the_port_is_stale(compare: Any, clips: Path) -> None:
    written = (clips / "good.mp4").stat().st_mtime
    assert compare("good.mp4", not_before=written - 1)["verdict"] == "pass"
    value = compare("good.mp4", not_before=written + 100)
    assert value["verdict"] == "inconclusive" and "stale-candidate" in _codes(value)
    value = compare("good.mp4", code_changed={"path": "fastvideo/a.py", "at": written + 1})
    assert value["verdict"] == "investigate" and "code-changed-since" in _codes(value)


def test_a_loosened_threshold_cannot_pass(compare: Any) -> None:
    for loose in ({"threshold": 0.5}, {"min_threshold": 0.0}):
        value = compare("good.mp4", **loose)
        assert value["verdict"] == "investigate" and _codes(value) == {"loose-threshold": "investigate"}
    assert compare("good.mp4", threshold=0.95)["verdict"] == "pass"


@pytest.mark.parametrize(
    "spec",
    [
        {"threshold": 0},
        {"threshold": -0.5},
        {"threshold": 1.01},
        {"threshold": math.nan},
        {"threshold": math.inf},
        {"threshold": "0.9"},
        {"threshold": True},
        {"min_threshold": -0.1},
        {"min_threshold": math.nan},
        {"metric": "psnr"},
        {"device": "cuda:99"},
        {"device": "meta"},
        {"device": "gpu; rm"},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(compare: Any, spec: dict[str, Any]) -> None:
    with pytest.raises(ParityError) as caught:
        compare("good.mp4", **spec)
    assert caught.value.seen and caught.value.fix


def test_frames_too_small_for_ms_ssim_are_refused_and_ssim_is_offered(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_folder(tmp_path / name, moving_frames(2, 160, 200) + np.uint8(name == "b"))
    spec = {"reference": str(tmp_path / "a"), "candidate": str(tmp_path / "b")}
    with pytest.raises(ParityError, match="too small for ms_ssim") as caught:
        ssim(spec, Job(tmp_path))
    assert "161" in caught.value.seen and '"ssim"' in caught.value.fix
    assert ssim({**spec, "metric": "ssim"}, Job(tmp_path))["frames_compared"] == 2


def test_many_frames_do_not_pile_up_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches give the same scores as one, so the batch size bounds the memory and nothing else."""
    clip = moving_frames(10)
    write_folder(tmp_path / "a", clip)
    write_folder(tmp_path / "b", np.roll(clip, 1, 2))
    spec = {"reference": str(tmp_path / "a"), "candidate": str(tmp_path / "b"), "metric": "ssim"}
    whole = ssim(spec, Job(tmp_path))
    sizes: list[int] = []
    original = FrameReader._batched

    def small(self: Any, frames: Any, size_bytes: int) -> Any:
        for batch in original(self, frames, 3 * clip[0].nbytes):
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr(FrameReader, "_batched", small)
    parts = ssim(spec, Job(tmp_path))
    assert max(sizes) == 3 and sum(sizes) == 20
    assert parts["mean"] == whole["mean"] and parts["worst_frames"] == whole["worst_frames"]
