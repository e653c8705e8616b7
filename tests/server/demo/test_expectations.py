"""The demo can fail: each of its expectations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.server.demo import acts
from fastvideo_port.server.demo.expectations import (
    ITEMS,
    Unexpected,
    expect,
    expect_closed_by,
    expect_open,
    expect_place,
    state_of,
)
from fastvideo_port.server.demo.mistakes import EPSILON, GUIDANCE, SCALE_SHIFT

_RIGHT = {
    "module": "blocks.0",
    "kind": "glue",
    "file": SCALE_SHIFT.file,
    "line": 393,
    "end_line": 394,
    "why": "its inputs agree",
}


def test_an_unexpected_verdict_stops_the_demo_and_says_what_differed() -> None:
    with pytest.raises(Unexpected, match=r"parity\nSeen: 'pass'\nExpected: 'fail'"):
        expect("parity", "pass", "fail")


@pytest.mark.parametrize(
    ("culprit", "seen"),
    [
        (None, "names no place"),
        (_RIGHT | {"module": "proj_out"}, "proj_out"),
        (_RIGHT | {"file": "fastvideo/layers/linear.py"}, "linear.py"),
        (_RIGHT | {"line": 394}, ":394"),
    ],
)
def test_a_red_verdict_with_the_wrong_place_stops_the_demo(culprit: dict[str, Any] | None, seen: str) -> None:
    with pytest.raises(Unexpected, match=seen):
        expect_place({"culprit": culprit}, SCALE_SHIFT, 393, ("blocks.0",))


def test_the_right_place_goes_on() -> None:
    expect_place({"culprit": _RIGHT}, SCALE_SHIFT, 393, ("blocks.0",))
    norm = {"module": "blocks.0.norm_q", "kind": "module", "file": EPSILON.file, "line": 48, "end_line": 83}
    expect_place({"culprit": norm}, EPSILON, 76, ("norm_q", "norm_k"))


def _gate(gate: str = "open", changed: str = "", **states: str) -> dict[str, Any]:
    found = dict.fromkeys(ITEMS, "pass") | {name.replace("_", "-"): state for name, state in states.items()}
    items = [
        {"id": name, "state": state, "changed": [changed] if state == "stale" else []} for name, state in found.items()
    ]
    return {"gate": gate, "items": items}


def test_an_open_gate_goes_on() -> None:
    expect_open(_gate())
    assert state_of(_gate(ssim="stale"), "ssim") == "stale" and state_of(_gate(), "other") is None


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("state", ["missing", "stale", "fail", "needs_approval"])
def test_a_gate_with_one_item_that_does_not_pass_stops_the_demo(item: str, state: str) -> None:
    with pytest.raises(Unexpected):
        expect_open(_gate(**{item.replace("-", "_"): state}))


def test_a_gate_that_is_closed_all_the_same_or_lacks_an_item_stops_the_demo() -> None:
    with pytest.raises(Unexpected):
        expect_open(_gate("closed"))
    with pytest.raises(Unexpected):
        expect_open({"gate": "open", "items": _gate()["items"][:-1]})


_STALE = {name.replace("-", "_"): "stale" for name in acts.MEASURED}


def test_a_gate_closed_by_the_file_that_changed_goes_on() -> None:
    expect_closed_by(_gate("closed", f"{GUIDANCE.file} changed", **_STALE), GUIDANCE.file, acts.MEASURED)


@pytest.mark.parametrize(
    "gate",
    [
        _gate("open", f"{GUIDANCE.file} changed", **_STALE),
        _gate("closed", "fastvideo/other.py changed", **_STALE),
        _gate("closed", f"{GUIDANCE.file} changed", **(_STALE | {"ssim": "pass"})),
        _gate("closed", f"{GUIDANCE.file} changed", **(_STALE | {"documentation": "stale"})),
        _gate("closed", f"{GUIDANCE.file} changed", **(_STALE | {"keys": "fail"})),
    ],
    ids=["open", "another-file", "one-is-fresh", "one-too-many", "failed"],
)
def test_a_gate_closed_otherwise_than_by_that_file_stops_the_demo(gate: dict[str, Any]) -> None:
    with pytest.raises(Unexpected):
        expect_closed_by(gate, GUIDANCE.file, acts.MEASURED)


class _Agent:
    """Answers every tool with the same result."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        return self.result


def _player(result: dict[str, Any], folder: Path) -> Any:
    stage = acts.Stage(folder, folder, folder, folder)
    return acts.Player(_Agent(result), None, stage, "port-1", folder)  # type: ignore[arg-type]


@pytest.mark.parametrize("verdict", ["fail", "inconclusive", "investigate", None])
def test_a_tool_with_another_verdict_stops_the_demo_and_is_named(verdict: str | None, tmp_path: Path) -> None:
    import asyncio

    player = _player({"verdict": verdict}, tmp_path)
    with pytest.raises(Unexpected, match="run_pipeline_parity"):
        asyncio.run(player.verdict("pass", "run_pipeline_parity"))
    assert asyncio.run(_player({"verdict": "pass"}, tmp_path).verdict("pass", "run_ssim")) == {"verdict": "pass"}
