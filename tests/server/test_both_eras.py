"""Every tool called as an honest client calls it, in both protocols: the same answer in both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastvideo_port.tools import ALL

from .helpers import ERAS
from .hostile_inputs import honest
from .stage import Stage, complaints, open_stage

REFUSES = {"request_approval": "nothing to approve yet", "show_picture": "a.png"}
"""Tools that an honest call is refused by here, and what the refusal names."""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stage]]:
    """One server, and a port of its own, for each protocol."""
    with (
        open_stage(tmp_path_factory.mktemp("legacy"), "legacy") as older,
        open_stage(tmp_path_factory.mktemp("modern"), "auto") as newer,
    ):
        yield dict(zip(ERAS, (older, newer), strict=True))


def shape(value: Any, depth: int = 2) -> Any:
    """The names of the fields of ``value``, down to ``depth``; what a list holds depends on the moment."""
    if isinstance(value, dict) and depth:
        return {name: shape(item, depth - 1) for name, item in value.items()}
    return type(value).__name__


@pytest.mark.parametrize("tool", [spec.name for spec in ALL])
def test_an_honest_call_is_answered_alike_in_both_protocols(stages: dict[str, Stage], tool: str) -> None:
    answers = {}
    for era, stage in stages.items():
        answers[era] = stage.call(tool, honest(tool, stage.place))
        stage.stop_runs()
        assert not complaints(answers[era])
    older, newer = answers.values()
    assert older.is_error == newer.is_error == (tool in REFUSES), (older, newer)
    if tool in REFUSES:
        assert REFUSES[tool] in older.content[0].text and REFUSES[tool] in newer.content[0].text
    assert [item.type for item in older.content] == [item.type for item in newer.content] == ["text"]
    assert shape(older.structured_content) == shape(newer.structured_content)
