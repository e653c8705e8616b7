"""Hostile inputs through the real server object: an answer in our words each time, and nothing else touched.

Issue E and the list of hostile inputs. The cases are in ``hostile_inputs.py``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from fastvideo_port.server.arguments import signature_of
from fastvideo_port.tools import ALL

from .hostile_inputs import CANARY, PASSWORD, TOKEN, cases, honest
from .stage import Stage, complaints, open_stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One server for the whole file."""
    with open_stage(tmp_path_factory.mktemp("hostile")) as made:
        yield made


@pytest.mark.parametrize("tool", [spec.name for spec in ALL])
def test_every_hostile_call_ends_in_our_words_and_touches_nothing_else(
    stage: Stage, tool: str, caplog: pytest.LogCaptureFixture
) -> None:
    failures = []
    before = stage.outside()
    for case in cases(tool, stage.place):
        with caplog.at_level(logging.INFO):
            answer = stage.call(case.tool, case.arguments)
        wrong = complaints(answer)
        after = stage.outside()
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        wrong += [f"touched {path}" for path in changed]
        failures += [f"{case.label}: {line}" for line in wrong]
        before = after
    stage.stop_runs()
    failures += [f"left behind: {line}" for line in stage.left_behind()]
    logged = caplog.text
    failures += [f"logged {word}" for word in (CANARY, TOKEN, PASSWORD) if word in logged]
    assert not failures, f"{len(failures)}:\n" + "\n".join(failures)


def test_there_are_at_least_150_hostile_calls_and_some_for_every_argument(stage: Stage) -> None:
    total = 0
    for spec in ALL:
        found = cases(spec.name, stage.place)
        total += len(found)
        assert len({case.label for case in found}) > 0.9 * len(found), spec.name
        hostile = {key for case in found for key, value in case.arguments.items()
                   if value != honest(spec.name, stage.place).get(key)}  # fmt: skip
        assert hostile >= set(honest(spec.name, stage.place)), spec.name
    assert total >= 150


_PORT_TOOLS = [spec.name for spec in ALL if "port_id" in signature_of(spec).parameters]


@pytest.mark.parametrize("stands", ["a link out", "a file", "nothing"])
def test_what_took_the_place_of_a_worktree_is_neither_used_nor_written_to(stage: Stage, stands: str) -> None:
    stage.stop_runs()
    worktree, away = stage.place.worktree, stage.root / "moved away"
    worktree.rename(away)
    try:
        if stands == "a link out":
            worktree.symlink_to(stage.place.outside)
        elif stands == "a file":
            worktree.write_text("")
        before = stage.outside()
        for tool in _PORT_TOOLS:
            answer = stage.call(tool, honest(tool, stage.place))
            assert not complaints(answer), tool
            if answer.is_error:
                assert "worktree" in answer.content[0].text, tool
            else:  # what evidence there is can be told without the worktree, if nothing else passes for it
                assert stands == "nothing" and tool in ("gate_status", "final_report"), tool
        assert stage.outside() == before
    finally:
        if os.path.lexists(worktree):
            worktree.unlink()
        away.rename(worktree)
