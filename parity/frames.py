"""Frames of a video, of a folder of pictures or of one picture, as bounded batches of 8-bit RGB.

What is decoded is what FastVideo's own tests see: each frame converted to RGB24 by the library that decodes it. More
than 8 bits a channel is reduced to 8, alpha is dropped (the colours below it stay), rotation tags are not applied; the
facts say when one of these happened.
"""

from __future__ import annotations

import stat
from pathlib import Path

from .errors import ParityError
from .frame_reader import FrameReader
from .picture_reader import PICTURES, PictureReader
from .video_reader import VideoReader


def open_frames(path: Path, *, root: Path | None = None) -> FrameReader:
    """Open a video, a folder of pictures (.png, .jpg, .webp; natural order of names) or one picture.

    Args:
        path: What to decode.
        root: If given, everything read must lie below it, links resolved.

    Raises:
        ParityError: It does not exist, leaves ``root``, is neither a regular file nor a folder, or is no picture or
            video that can be decoded.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise ParityError(
            "The video or folder of frames cannot be opened.",
            seen=f"{str(path)[:300]!r}: {getattr(error, 'strerror', None) or error}",
            fix="Give the path of a video file, of a picture, or of a folder of pictures.",
        ) from error
    if stat.S_ISDIR(mode) or path.suffix.lower() in PICTURES:
        return PictureReader(path, root)
    return VideoReader(path, root)
