"""The catalogue of mistakes is well formed, and a cause is named by its evidence or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastvideo_port.port.causes import (
    FEATURES,
    Catalogue,
    Evidence,
    catalogue,
    find_trap,
    likely_causes,
    trap_list,
    trap_page,
)
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.templates import PROMPTS
from pydantic import ValidationError


def evidence(**features: Any) -> Evidence:
    """Evidence with every feature present, empty unless given."""
    exact = ("tool", "component", "code", "also", "culprit", "shows", "dtype", "table")
    words = {name: frozenset(features.get(name, ())) for name in exact}
    texts = {name: tuple(features.get(name, ())) for name in FEATURES if name not in exact}
    return Evidence(words, texts)


def named(**features: Any) -> list[str]:
    return [cause.id for cause in likely_causes(evidence(**features))]


def test_the_catalogue_is_read_and_every_part_of_it_is_checked() -> None:
    found = catalogue()
    assert len(found.traps) > 200 and sum(bool(trap.evidence) for trap in found.traps) > 100
    assert all(trap.detect and trap.fix and trap.cause and trap.source for trap in found.traps)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["traps"][0].update(area="nowhere"),
        lambda d: d["traps"][0].update(rung="nowhere"),
        lambda d: d["traps"][0].update(colour="red"),
        lambda d: d["traps"].append(d["traps"][0]),
        lambda d: d["traps"][0]["evidence"][0].update(weight=6),
        lambda d: d["traps"][0]["evidence"][0]["when"].update(place=["("]),
        lambda d: d["traps"][0]["evidence"][0]["when"].update(mood=["bad"]),
        lambda d: d["traps"][0]["evidence"][0].update(when={"tool": ["check_mapping"]}),
        lambda d: d["traps"][0]["evidence"][0].update(when={"code": []}),
    ],
    ids=["area", "rung", "field", "twice", "weight", "pattern", "feature", "no evidence", "no value"],
)
def test_a_catalogue_with_a_mistake_in_it_is_refused(change: Any) -> None:
    document = json.loads((PROMPTS / "traps.json").read_text(encoding="utf-8"))
    change(document)
    with pytest.raises(ValidationError):
        Catalogue.model_validate(document)


def test_a_collision_is_named_by_its_code() -> None:
    causes = likely_causes(evidence(tool=["check_mapping"], code=["collision"]))
    assert causes[0].id == "mapping-collision-last-source-wins"
    assert "collision" in causes[0].why and causes[0].check and causes[0].fix


def test_where_nothing_fits_nothing_is_named() -> None:
    assert named() == []
    assert named(tool=["run_component_parity"], component=["dit"], shows=["float32", "large"]) == []
    assert named(tool=["run_component_parity"], message=["collision"]) == [], "words in a text are no finding"


def test_all_conditions_of_a_sign_must_hold_and_an_exception_is_heeded() -> None:
    wrong_norm = {
        "tool": ["run_component_parity"],
        "culprit": ["module"],
        "place": ["blocks.0.norm1 LayerNorm.forward"],
    }
    assert named(**wrong_norm, shows=["float32", "small"]) == ["loading-config-default-differs-from-official"]
    assert named(**wrong_norm, shows=["float32", "large"]) == ["norm-layernorm-is-not-rmsnorm"]
    skipped = named(**wrong_norm, shows=["float32", "large"], code=["port-ignores-weight"])
    assert "norm-layernorm-is-not-rmsnorm" not in skipped


def test_at_most_three_are_named_and_what_is_much_weaker_is_left_out() -> None:
    many = named(
        tool=["run_component_parity"],
        component=["encoder"],
        code=["non-finite-port", "port-unstable", "weights-values-differ", "weights-merge-order", "weights-swapped"],
    )
    assert len(many) == 3
    only = named(tool=["run_ssim"], code=["frame-count", "frame-size", "fps-mismatch"])
    assert only[0] == "ssim-frame-count-truncated" and "pipeline-preset-default-not-a-field" not in only


def test_what_is_quoted_is_clean_and_short() -> None:
    trial = "mul: \x1b[31ma factor of 1000 in place of 1\u202e" + "!" * 500
    (first, *_) = likely_causes(evidence(tool=["run_component_parity"], trial=[trial]))
    assert first.id == "guidance-embedded-scale-times-1000"
    assert "\x1b" not in first.why and "\u202e" not in first.why and len(first.why) < 300


def test_a_trap_is_found_by_its_id_and_the_nearest_is_named() -> None:
    assert "concatenated" in trap_page(find_trap("mapping-merge-index-wrong-or-repeated"))
    assert "mapping-collision-last-source-wins" in trap_list()
    with pytest.raises(PortError, match="mapping-collision-last-source-wins"):
        find_trap("mapping-collision-last-source")
