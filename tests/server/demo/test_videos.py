"""The demo's two videos are real, unlike, and near."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from fastvideo_port.server.demo.videos import FRAMES, HEIGHT, WIDTH, write_videos


def _frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_candidate_is_a_lossy_copy_of_a_moving_scene(tmp_path: Path) -> None:
    reference, candidate = (_frames(path) for path in write_videos(tmp_path / "with a space"))
    assert len(reference) == len(candidate) == FRAMES
    assert all(frame.shape == (HEIGHT, WIDTH, 3) for frame in (*reference, *candidate))
    assert min(HEIGHT, WIDTH) > 160  # MS-SSIM needs that
    gaps = [np.abs(a.astype(int) - b.astype(int)).mean() for a, b in zip(reference, candidate, strict=True)]
    steps = [np.abs(a.astype(int) - b.astype(int)).mean() for a, b in pairwise(reference)]
    assert 0 < max(gaps) < min(steps)
