"""What is wrong with a part of a video's frames."""

from __future__ import annotations

import numpy as np
import torch
from fastvideo_port.parity.frame_checks import SideStatistics
from fastvideo_port.tests.parity.videos import moving_frames


def _flaws(frames: np.ndarray, batch: int = 5) -> list[str]:  # type: ignore[type-arg]
    statistics = SideStatistics()
    for start in range(0, len(frames), batch):
        statistics.add(torch.from_numpy(frames[start : start + batch]))
    return [code for code, _ in statistics.flaws()]


def test_a_moving_picture_has_none() -> None:
    assert _flaws(moving_frames(12, 96, 128)) == []


def test_a_video_that_freezes_is_seen_over_the_borders_of_batches() -> None:
    frames = moving_frames(12, 96, 128)
    frames[4:] = frames[4]
    assert _flaws(frames) == _flaws(frames, batch=1) == ["frozen-frames"]


def test_frames_of_one_colour_and_noise_are_told_apart_and_the_first_is_named() -> None:
    frames = moving_frames(12, 96, 128)
    frames[7:9] = 40
    frames[2] = np.random.default_rng(0).integers(0, 256, frames[2].shape)
    statistics = SideStatistics()
    statistics.add(torch.from_numpy(frames[:5]))
    statistics.add(torch.from_numpy(frames[5:]))
    found = dict(statistics.flaws())
    assert set(found) == {"constant-frames", "noise-frames"}
    assert "the first is frame 7" in found["constant-frames"]


def test_a_picture_that_moves_in_one_channel_alone_moves() -> None:
    for channel in range(3):
        frames = moving_frames(12, 96, 128)
        frames[..., [other for other in range(3) if other != channel]] = frames[:1, ..., :1]
        statistics = SideStatistics()
        statistics.add(torch.from_numpy(frames))
        assert statistics.kinds() == statistics.flaws() == []
