"""Real videos for the tests: moving pictures, encoded with PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


def moving_frames(count: int = 12, height: int = 180, width: int = 200) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A textured pattern that moves: uint8 ``[count, height, width, 3]``; every frame differs from every other."""
    y, x = np.mgrid[:height, :width]
    frames = []
    for index in range(count):
        red = 127 + 90 * np.sin((x + 7 * index) / 9) + 30 * np.sin(y / 5)
        green = 127 + 90 * np.sin((y + 5 * index) / 11 + x / 17)
        blue = (x + 2 * y + 9 * index) % 256
        frames.append(np.stack([red, green, blue], -1))
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def write_video(
    path: Path,
    frames: np.ndarray[Any, np.dtype[np.uint8]],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    fps: int = 16,
    crf: int | None = None,
    times_ms: Sequence[int] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """Encode ``frames``; ``times_ms`` gives each frame's time stamp for a variable frame rate."""
    import av

    with av.open(str(path), "w", options=container or {}) as output:
        stream: Any = output.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        if crf is not None:
            stream.options = {"crf": str(crf)}
        if times_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times_ms:
                frame.pts, frame.time_base = times_ms[index], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def write_folder(path: Path, frames: np.ndarray[Any, np.dtype[np.uint8]], *, pattern: str = "frame_{}.png") -> Path:
    """One PNG a frame."""
    from PIL import Image

    path.mkdir()
    for index, pixels in enumerate(frames):
        Image.fromarray(pixels).save(path / pattern.format(index))
    return path
