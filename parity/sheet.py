"""A contact sheet: frames of a whole video on one picture, with little memory however long the video is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .frame_reader import Frames

SHOWN = 12
_KEPT = 2 * SHOWN
_COLUMNS = 4
_PANE = 300
_LABEL = 16


class ContactSheet:
    """Takes in frames in order and keeps evenly spaced, reduced ones."""

    def __init__(self) -> None:
        self._frames: list[tuple[int, Frames]] = []
        self._every = 1
        self._seen = 0

    def add(self, batch: Frames) -> None:
        """Take in uint8 ``[frames, height, width, 3]``."""
        for frame in batch:
            if self._seen % self._every == 0:
                self._frames.append((self._seen, _reduced(frame)))
                if len(self._frames) > _KEPT:
                    self._every *= 2
                    self._frames = self._frames[::2]
            self._seen += 1

    def write(self, path: Path) -> None:
        """Write a PNG with up to `SHOWN` frames, each under its index; there must be one at least."""
        from PIL import Image, ImageDraw

        places = np.linspace(0, len(self._frames) - 1, min(SHOWN, len(self._frames))).round().astype(int)
        shown = [self._frames[place] for place in places]
        height, width = shown[0][1].shape[:2]
        columns = min(_COLUMNS, len(shown))
        rows = -(-len(shown) // columns)
        pane = max(width, 60)
        sheet = Image.new("RGB", (columns * pane, rows * (height + _LABEL)), "white")
        draw = ImageDraw.Draw(sheet)
        for place, (index, pixels) in enumerate(shown):
            left, top = place % columns * pane, place // columns * (height + _LABEL)
            draw.text((left + 4, top + 2), f"frame {index} of {self._seen}", fill="black")
            sheet.paste(Image.fromarray(pixels), (left, top + _LABEL))
        sheet.save(path, format="PNG")


def _reduced(frame: Frames) -> Frames:
    from PIL import Image

    height, width = frame.shape[:2]
    scale = min(1.0, _PANE / width, _PANE / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(frame).resize(size), dtype=np.uint8)
