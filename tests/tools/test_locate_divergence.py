"""locate_divergence over real runs: the place, the ladder, the picture, and what it is worth for the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.gate import gate
from fastvideo_port.tools.locate_divergence import finish, locate_divergence
from fastvideo_port.tools.run_status import run_status
from fastvideo_port.tools.show_picture import show_picture
from PIL import Image

RIGHT, WRONG = "eps=1e-6", "eps=1e-2"
PORT = "fastvideo/tiny.py"


def located(tiny: Any, **arguments: Any) -> Any:
    result = locate_divergence(tiny.ctx, tiny.port_id, "transformer", device="cpu", **arguments)
    while result.state in ("queued", "running"):
        run_status(tiny.ctx, result.run_id, 45)
        result = finish(tiny.ctx, tiny.ctx.runs.get(result.run_id))
    return result


def test_a_wrong_port_gets_a_place_a_ladder_and_a_picture_that_can_be_looked_at(tiny: Any) -> None:
    with tiny.edited(PORT, RIGHT, WRONG):
        result = located(tiny, case="small")
    assert result.verdict == "fail" and result.culprit is not None and result.confirmed, result
    assert (result.culprit.module, result.culprit.kind) == ("norm", "module") and not result.more_culprits
    states = {rung.rung: rung.state for rung in result.ladder}
    assert states["mapping"] == "agrees" and states["activations"] == "explains"
    assert result.case == "small" and f"{result.culprit.file}:{result.culprit.line}" in result.next_step
    (picture,) = result.pictures
    with Image.open(picture.path) as image:
        assert image.format == "PNG" and image.width > 600
    assert show_picture(tiny.ctx, result.run_id, Path(picture.path).name).mime == "image/png"
    assert finish(tiny.ctx, tiny.ctx.runs.get(result.run_id)) == result


def test_what_it_finds_counts_against_the_port_and_never_for_it(tiny: Any) -> None:
    with tiny.edited(PORT, RIGHT, WRONG):
        located(tiny, case="small")
        assert (tiny.entries()[-1].verdict, tiny.entries()[-1].complete) == ("fail", False)
    result = located(tiny, case="small")
    assert result.verdict == "pass" and result.culprit is None and "run_component_parity" in result.next_step
    assert all(rung.state in ("agrees", "unmeasured") for rung in result.ladder)
    item = next(item for item in gate(tiny.port, tiny.entries()) if item.id == "component-parity")
    assert tiny.entries()[-1].complete is False and item.state != "pass", item


def test_a_tokenizer_is_sent_to_the_tool_that_compares_tokenizers(tiny: Any) -> None:
    planned = tiny.port.components
    tokenizer = planned[0].model_copy(update={"name": "tokenizer", "kind": "tokenizer"})
    tiny.ctx.ports.update(tiny.port_id, lambda port: port.model_copy(update={"components": [*planned, tokenizer]}))
    try:
        with pytest.raises(PortError, match="a tokenizer has none") as caught:
            locate_divergence(tiny.ctx, tiny.port_id, "tokenizer")
    finally:
        tiny.ctx.ports.update(tiny.port_id, lambda port: port.model_copy(update={"components": planned}))
    assert "run_component_parity" in caught.value.fix


def test_the_official_side_does_not_run_again_for_the_next_attempt(tiny: Any) -> None:
    with tiny.edited(PORT, RIGHT, WRONG):
        located(tiny, case="small")
    result = located(tiny, case="small")
    value = tiny.ctx.runs.value(result.run_id)
    assert value["reference"]["reused"] and result.verdict == "pass"
