"""Calls drawn from the tools' own schemas, through the real server: answered in our words, nothing else touched."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastvideo_port.server.arguments import signature_of
from fastvideo_port.tools import ALL
from fastvideo_port.tools.base import ToolSpec
from hypothesis import given
from hypothesis import strategies as st

from ..fuzzing import ANY_TEXT, NUMBERS, examples, values
from .hostile_inputs import CANARY, PASSWORD, TOKEN, Place, honest
from .stage import Stage, complaints, open_stage

Schema = dict[str, Any]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One server for the whole file."""
    with open_stage(tmp_path_factory.mktemp("calls")) as made:
        yield made


def leaves(value: Any) -> Iterator[str]:
    """Every text in ``value``."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from leaves(item)


def words(place: Place) -> st.SearchStrategy[str]:
    """Texts that mean something to some tool, and any text."""
    known = {word for spec in ALL for word in leaves(honest(spec.name, place))}
    known |= {place.other_port_id, str(place.outside), "link-out.py", "folder-out/secret.txt", "loop", "pipe", "."}
    known |= {"cpu", "cuda:7", "auto", "float32", "small", "fastvideo", "../x", "~/secret.txt", "main", "HEAD"}
    return st.sampled_from(sorted(known)) | ANY_TEXT


def drawn(schema: Schema, whole: Schema, text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Values as ``schema`` allows them; what the schema leaves unsaid (ranges, lengths, formats) is drawn freely."""
    if "$ref" in schema:
        return drawn(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole, text)
    if "anyOf" in schema:
        return st.one_of([drawn(arm, whole, text) for arm in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    kind = schema.get("type")
    if kind == "string":
        return text
    if kind == "integer":
        return st.integers(-2, 10) | st.integers()
    if kind == "number":
        return st.floats(-1, 2) | NUMBERS
    if kind == "boolean":
        return st.booleans()
    if kind == "array":
        return st.lists(drawn(schema.get("items", {}), whole, text), max_size=3)
    if kind == "object":
        fields = {name: drawn(child, whole, text) for name, child in schema.get("properties", {}).items()}
        needed = {name: fields.pop(name) for name in schema.get("required", [])}
        return st.fixed_dictionaries(needed, optional=fields)
    return values()


def calls(spec: ToolSpec, place: Place) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments: honest ones with one or more replaced, added or left out, so that the others are looked at too."""
    schema, base, text = signature_of(spec).input_schema(), honest(spec.name, place), words(place)
    base = {name: value for name, value in base.items() if name != "wait_s"}
    properties = {name: child for name, child in schema["properties"].items() if name != "wait_s"}
    # Calls that start a run do not wait for it.
    wait = {"wait_s": 0} if "wait_s" in schema["properties"] else {}
    by_schema = {name: drawn(child, schema, text) for name, child in properties.items()}
    # The client itself refuses half of a surrogate pair in an object's key.
    keys = st.sampled_from(["", "a", "__class__", "../x", *properties]) | st.text(max_size=8)
    strange = {name: values(keys) for name in [*properties, "nonsense"]}

    @st.composite
    def call(draw: st.DrawFn) -> dict[str, Any]:
        arguments = dict(base)
        names = sorted(properties) or ["nonsense"]
        for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
            arguments[name] = draw(by_schema.get(name, strange["nonsense"]))
        if draw(st.integers(0, 3)) == 0:
            arguments[draw(st.sampled_from(sorted(strange)))] = draw(st.one_of(list(strange.values())))
        if arguments and draw(st.integers(0, 9)) == 0:
            del arguments[draw(st.sampled_from(sorted(arguments)))]
        return {**wait, **arguments}

    return call()


SLOW = {"create_worktree": 8, "fetch_official_repo": 12, "fetch_weights": 12}
"""Tools of which one call takes long (git, a process): fewer examples."""


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_any_call_is_answered_in_our_words_and_touches_nothing_else(
    stage: Stage, spec: ToolSpec, caplog: pytest.LogCaptureFixture
) -> None:
    @examples(SLOW.get(spec.name, 30))
    @given(arguments=calls(spec, stage.place))
    def check(arguments: dict[str, Any]) -> None:
        before = stage.outside()
        with caplog.at_level(logging.INFO):
            answer = stage.call(spec.name, arguments)
        stage.stop_runs()
        wrong = complaints(answer)
        after = stage.outside()
        wrong += [f"touched {path}" for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
        assert not wrong, "\n".join(wrong)

    check()
    assert not stage.left_behind()
    assert not [word for word in (CANARY, TOKEN, PASSWORD) if word in caplog.text]
