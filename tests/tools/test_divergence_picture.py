"""The picture of a comparison can be read: nothing lies on the curves, and neighbours do not cover each other."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from fastvideo_port.tools._divergence import figure_of
from matplotlib.backends.backend_agg import FigureCanvasAgg


def compared(modules: list[str], wrong: set[str]) -> list[dict[str, Any]]:
    return [
        {
            "module": name,
            "port_error": 1e-5 if name in wrong else 2e-7,
            "reference_error": 2e-7,
            "ratio": 50 if name in wrong else 1,
        }
        for name in modules
    ]


def judged(verdict: str, culprits: list[str]) -> dict[str, Any]:
    rows = [{"module": name, "kind": "module", "file": "/w/$x^2$_layernorm.py", "line": 48} for name in culprits]
    return {"verdict": verdict, "culprits": rows, "curve": {"case": "small", "seed": 0}}


@pytest.mark.parametrize("marked", [[20, 21, 40, 42], [0], [59], [3, 4, 5, 6]])
def test_numbers_stand_above_the_axes_and_what_they_mean_below(marked: list[int]) -> None:
    modules = [f"blocks.{number}.norm_with_a_long_name" for number in range(60)]
    names = [modules[place] for place in marked]
    figure = figure_of(compared(modules, set(names)), judged("fail", names))
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    area, (width, height) = axes.get_window_extent(), figure.canvas.get_width_height()
    badges = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [str(number + 1) for number in range(len(marked))]
    title = axes.title.get_window_extent()
    assert all(area.y1 <= badge.y0 and badge.y1 <= title.y0 for badge in badges)
    assert not any(one.overlaps(other) for one, other in combinations(badges, 2))
    (legend,) = figure.legends
    assert axes.get_legend() is None and legend.get_window_extent().y1 <= area.y0
    for box in (*badges, title, legend.get_window_extent()):
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[-len(marked)].startswith("1: ") and "$x^2$_layernorm.py:48" in texts[-1]


def test_a_pass_has_no_mark() -> None:
    figure = figure_of(compared(["a", "b"], set()), judged("pass", ["a"]))
    assert not figure.axes[0].texts and len(figure.legends[0].get_texts()) == 3
