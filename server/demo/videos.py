"""Two short real videos: a reference, and the same scene after one more lossy encoding."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FRAMES, HEIGHT, WIDTH, FPS = 9, 192, 256, 8
_REFERENCE_CRF, _CANDIDATE_CRF = 16, 24


def write_videos(folder: Path) -> tuple[Path, Path]:
    """Write ``reference.mp4`` and ``candidate.mp4`` (H.264, 9 frames of 256x192) into ``folder``; return their paths.

    The candidate is what the reference decodes to, encoded again at a lower quality: a difference that nobody sees.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reference, candidate = folder / "reference.mp4", folder / "candidate.mp4"
    _encode(reference, [_scene(index) for index in range(FRAMES)], _REFERENCE_CRF)
    _encode(candidate, _decode(reference), _CANDIDATE_CRF)
    return reference, candidate


def _scene(index: int) -> NDArray[np.uint8]:
    """A bright disc that crosses a coloured gradient: uint8 ``[height, width, 3]``."""
    import numpy as np

    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    waves = 24 * np.sin(columns / 9 + index / 3) * np.cos(rows / 13)
    frame = np.stack([40 + columns / 2 + waves, 30 + rows / 2 + waves, 150 - columns / 4 + rows / 4], axis=-1)
    disc = (columns - 40 - 20 * index) ** 2 + (rows - HEIGHT / 2) ** 2 < 30**2
    frame[disc] = (235, 220, 90)
    return frame.clip(0, 255).astype(np.uint8)


def _encode(path: Path, frames: list[NDArray[np.uint8]], crf: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _decode(path: Path) -> list[NDArray[np.uint8]]:
    import av
    import numpy as np

    with av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8) for frame in container.decode(video=0)]
