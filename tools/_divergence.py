"""The picture of a comparison: errors of port and official code along the forward, the culprit marked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..parity.strict_json import write_atomically
from ..parity.verdict import BOUNDARY_PASS, FLOOR
from ..port.textsafe import clean
from ..runs.models import Run
from .base import ToolContext
from .picture import PictureFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "divergence.png"
_RED = "#b3261e"
_BADGE = 15
"""Height of a row of numbers above the axes, in points."""


def divergence_picture(ctx: ToolContext, run: Run, value: dict[str, Any]) -> list[PictureFile]:
    """The run's divergence curve as a PNG among its files, drawn at the first call; empty when nothing was compared."""
    rows = value["curve"]["rows"]
    if not rows:
        return []
    path = ctx.runs.folder(run.run_id) / "files" / NAME
    if not path.is_file():
        write_atomically(path, _draw(rows, value), durable=False)
    return [PictureFile(uri=f"run://{run.run_id}/files/{NAME}", path=str(path))]


def _draw(rows: list[dict[str, Any]], value: dict[str, Any]) -> bytes:
    """The figure as a PNG."""
    import io

    data = io.BytesIO()
    figure_of(rows, value).savefig(data, format="png")
    return data.getvalue()


def figure_of(rows: list[dict[str, Any]], value: dict[str, Any]) -> Figure:
    """The curve. Errors are relative L2 in float32 on a logarithmic scale; the band is what a port may have."""
    # Drawing takes memory and half a second that no other call needs; without pyplot no state is shared by threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = range(len(rows))
    port = [_shown(row["port_error"]) for row in rows]
    noise = [max(_shown(row["reference_error"]), FLOOR) for row in rows]
    figure = Figure(figsize=(10, 5.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bottom = min(noise) / 4
    axes.fill_between(
        places, bottom, [error * BOUNDARY_PASS for error in noise], color="#2c8a3d", alpha=0.18, linewidth=0,
        label=f"the official code's own rounding, times {BOUNDARY_PASS:g}",
    )  # fmt: skip
    axes.plot(places, noise, color="#2c8a3d", linewidth=1.0, label="official code, float32")
    axes.plot(places, [max(error, bottom) for error in port], color="#1f5fa8", linewidth=1.2, marker="o",
              markersize=2.5, label="port, float32")  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(bottom=bottom)
    levels = _mark(axes, rows, value)
    ticks = sorted({round(place) for place in _spread(len(rows), 12)})
    axes.set_xticks(ticks, [_short(rows[tick]["module"]) for tick in ticks], rotation=30, ha="right", fontsize=7)
    axes.set_ylabel("relative L2 error against the reference")
    curve = value["curve"]
    title = f"{value['verdict']}: case {curve['case']}, seed {curve['seed']}, in the order of the forward"
    axes.set_title(clean(title), fontsize=10, parse_math=False, pad=8 + _BADGE * levels)
    axes.grid(alpha=0.3)
    # Below the axes: inside them it would lie on the curves.
    legend = figure.legend(fontsize=8, loc="outside lower center", ncols=2, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # module names come from foreign code
    return figure


def _mark(axes: Any, rows: list[dict[str, Any]], value: dict[str, Any]) -> int:
    """A numbered line at the first compared call of each culprit, or at the first beyond the band below it.

    The numbers stand above the axes, those of neighbours one above the other; the legend says what they mean.

    Returns:
        How many rows of numbers there are.
    """
    ends: list[float] = []  # for each row of numbers, where its last one stands
    for number, culprit in enumerate(value["culprits"][:4] if value["verdict"] != "pass" else []):
        inside = [
            place
            for place, row in enumerate(rows)
            if row["module"] == culprit["module"]
            or row["module"].startswith(f"{culprit['module']}." if culprit["module"] else "")
        ]
        place = next((place for place in inside if not _within(rows[place])), inside[0] if inside else None)
        if place is None:
            continue
        name = _short(culprit["module"]) or "the model"
        text = clean(f"{number + 1}: {name} ({culprit['kind']}), {Path(culprit['file']).name}:{culprit['line']}")
        axes.axvline(place, color=_RED, linewidth=1.0, linestyle="--", label=text)
        level = next((at for at, end in enumerate(ends) if abs(place - end) > len(rows) / 50), len(ends))
        ends[level : level + 1] = [place]
        axes.annotate(
            str(number + 1), (place, 1), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
            xytext=(0, 8 + _BADGE * level), fontsize=8, color="white", ha="center", va="center",
            bbox={"boxstyle": "circle,pad=0.25", "facecolor": _RED, "edgecolor": "none"},
        )  # fmt: skip
    return len(ends)


def _within(row: dict[str, Any]) -> bool:
    ratio = float(row["ratio"])
    return not math.isnan(ratio) and ratio <= BOUNDARY_PASS


def _shown(error: Any) -> float:
    """An error that a logarithmic scale can show: what is not finite stands at the top."""
    number = float(error)
    return min(number, 1e4) if math.isfinite(number) else 1e4


def _spread(count: int, most: int) -> list[float]:
    return [place * (count - 1) / max(1, min(count, most) - 1) for place in range(min(count, most))]


def _short(module: str) -> str:
    text = clean(module)
    return text if len(text) <= 28 else f"…{text[-27:]}"
