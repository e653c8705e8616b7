"""Arguments are checked and refused in our words. All project-defined (design, section 4; hostile inputs)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.server.arguments import MAX_STRING, signature_of
from fastvideo_port.tools import ALL
from fastvideo_port.tools.base import ToolContext, ToolResult, ToolSpec
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field


class Part(BaseModel):
    model_config = {"extra": "forbid"}
    name: str
    weight: int = 1


class Echo(ToolResult):
    got: dict[str, Any]


def echo(
    ctx: ToolContext,
    name: Annotated[str, Field(description="A name.")],
    count: Annotated[int, Field(ge=1, le=9, description="1 to 9.")] = 2,
    mode: Literal["fast", "slow"] = "fast",
    parts: list[Part] | None = None,
    title: str | None = None,
) -> Echo:
    """Return the arguments."""
    return Echo(got={"name": name, "count": count, "mode": mode}, next_step="None.")


ECHO = signature_of(ToolSpec(echo, "Echo", True, False, True, False))


def refused(arguments: dict[str, Any]) -> PortError:
    with pytest.raises(PortError) as caught:
        ECHO.check(arguments)
    error = caught.value
    assert error.what and error.seen and error.fix
    assert len(str(error)) < 2000
    assert "pydantic" not in str(error) and "http" not in str(error)
    return error


def test_good_arguments_arrive_with_their_types_and_defaults() -> None:
    checked = ECHO.check({"name": "a", "parts": [{"name": "x"}]})
    assert checked == {"name": "a", "count": 2, "mode": "fast", "parts": [Part(name="x")], "title": None}


def test_json_in_a_string_is_read_where_a_list_is_wanted_and_kept_where_text_is() -> None:
    checked = ECHO.check({"name": '["a"]', "parts": '[{"name": "x"}]', "title": '{"a": 1}'})
    assert checked["name"] == '["a"]'
    assert checked["title"] == '{"a": 1}'
    assert checked["parts"] == [Part(name="x")]


@pytest.mark.parametrize("value", [True, False])
def test_true_is_no_number(value: bool) -> None:
    assert f"count: must be a whole number, got {value}" in refused({"name": "a", "count": value}).seen
    error = refused({"name": value, "parts": [{"name": "x", "weight": value}]})
    assert "name: must be text" in error.seen and "parts[0].weight: must be a whole number" in error.seen


def test_an_unknown_argument_is_refused_and_the_nearest_is_named() -> None:
    error = refused({"name": "a", "cuont": 3})
    assert "'cuont' (nearest: count)" in error.seen
    assert "name, count, mode, parts, title" in error.fix


def test_a_missing_argument_is_named() -> None:
    assert "name: is required" in refused({}).seen


def test_every_wrong_argument_is_named_once_with_what_was_seen() -> None:
    error = refused({"name": 3, "count": 12, "mode": "fsat", "parts": [{"nam": "x"}]})
    for expected in (
        "name: must be text, got 3",
        "count: must be at most 9, got 12",
        "mode: must be one of 'fast' or 'slow', got 'fsat'",
        "parts[0].name: is required",
        "parts[0].nam: is not a known field",
    ):
        assert expected in error.seen, error.seen


def test_a_long_text_is_refused_with_its_size_and_without_its_content() -> None:
    error = refused({"name": "x" * 10_000_000})
    assert f"10,000,000 characters; the limit is {MAX_STRING:,}" in error.seen
    assert len(str(error)) < 400


def test_deep_nesting_is_refused_without_recursion() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert "levels" in refused({"name": "a", "parts": deep}).seen


def test_deep_json_inside_a_string_is_refused() -> None:
    refused({"name": "a", "parts": "[" * 90_000 + "]" * 90_000})


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_no_file_can_hold_is_refused(text: str) -> None:
    refused({"name": text})


def test_a_large_wrong_value_is_cut_in_the_error() -> None:
    error = refused({"name": "a", "count": "9" * 5000})
    assert "(5,000 characters)" in error.seen


def test_a_property_called_title_stays_in_the_schema_and_titles_do_not() -> None:
    schema = ECHO.input_schema()
    assert schema["properties"]["title"] == {"type": "string"}
    assert "title" not in schema and "title" not in schema["properties"]["name"]
    assert schema["properties"]["count"]["minimum"] == 1
    assert schema["required"] == ["name"]
    assert schema["additionalProperties"] is False


def test_a_function_without_a_context_is_no_tool() -> None:
    def wrong(name: str) -> Echo:
        raise AssertionError

    with pytest.raises(TypeError, match="ctx"):
        signature_of(ToolSpec(wrong, "Wrong", True, False, True, False))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_any_json_is_either_taken_or_refused_in_our_words(spec: ToolSpec) -> None:
    signature = signature_of(spec)

    @settings(max_examples=60, deadline=None)
    @given(st.dictionaries(st.sampled_from([*signature.parameters, "other"]), JSON, max_size=6))
    def check(arguments: dict[str, Any]) -> None:
        try:
            signature.check(arguments)
        except PortError as error:
            assert error.what and error.seen and error.fix
            assert "pydantic" not in str(error) and len(str(error)) < 4000

    check()


def test_schemas_are_json(tmp_path: Path) -> None:
    for spec in ALL:
        json.dumps(signature_of(spec).input_schema())
