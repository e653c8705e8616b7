"""Pictures of a video comparison: the scores over time, and the worst frames side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .frame_reader import Frames

GAIN = 8
_PANE_WIDTH = 480
_LABEL = 18


@dataclass(frozen=True)
class FramePair:
    """One compared frame: its index, its score and both sides, uint8 ``[height, width, 3]``."""

    index: int
    score: float
    reference: Frames
    candidate: Frames


def score_plot(
    path: Path, scores: Sequence[float], *, metric: str, threshold: float, floor: float, worst: Sequence[int]
) -> None:
    """Write a PNG of ``scores`` by frame with the threshold of the mean and the floor of the minimum."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(range(len(scores)), scores, color="#1f5fa8", linewidth=1.2, marker="o", markersize=2.5, label=metric)
    mean = float(np.mean(scores))
    axes.axhline(mean, color="#1f5fa8", linestyle=":", label=f"mean {mean:.4f}")
    axes.axhline(threshold, color="#2c8a3d", linestyle="--", label=f"threshold of the mean {threshold:g}")
    axes.axhline(floor, color="#b3261e", linestyle="--", label=f"floor of each frame {floor:g}")
    for index in worst:
        axes.annotate(str(index), (index, scores[index]), textcoords="offset points", xytext=(3, -10), fontsize=8)
    axes.set_xlabel("frame")
    axes.set_ylabel(metric)
    axes.set_ylim(top=1.005)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")
    figure.savefig(path, format="png")


def contact_sheet(path: Path, pairs: Sequence[FramePair], *, metric: str) -> None:
    """Write a PNG with one row a pair: reference, candidate, their difference times `GAIN`."""
    from PIL import Image, ImageDraw

    height, width = pairs[0].reference.shape[:2]
    scale = min(1.0, _PANE_WIDTH / width, 2 * _PANE_WIDTH / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pane = max(size[0], 150)
    sheet = Image.new("RGB", (3 * pane, len(pairs) * (size[1] + _LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, pair in enumerate(pairs):
        difference = np.abs(pair.reference.astype(np.int16) - pair.candidate.astype(np.int16)) * GAIN
        panes = (pair.reference, pair.candidate, np.minimum(difference, 255).astype(np.uint8))
        names = (f"reference, frame {pair.index}", f"candidate, {metric} {pair.score:.4f}", f"difference x{GAIN}")
        top = row * (size[1] + _LABEL)
        for column, (pixels, name) in enumerate(zip(panes, names, strict=True)):
            draw.text((column * pane + 4, top + 3), name, fill="black")
            sheet.paste(Image.fromarray(pixels).resize(size), (column * pane, top + _LABEL))
    sheet.save(path, format="PNG")
