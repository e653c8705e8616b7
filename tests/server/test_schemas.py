"""The contract with clients does not change unseen, and does not cost more than promised."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

import bpe_openai
import jsonschema
import pytest
from fastvideo_port.server.app import build_server
from fastvideo_port.server.schema import compact_output
from pydantic import BaseModel, Field

from .update_snapshots import FOLDER, current

BUDGET = 6_000
"""Tokens of the whole list of tools (design, section 9)."""


def tokens(value: Any) -> int:
    """Tokens of ``value`` as compact JSON in o200k_base.

    The vocabulary ships inside the package, where tiktoken fetches it from the network at first use.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return len(bpe_openai.get_encoding("o200k_base").encode(text))


def test_schemas_are_as_recorded() -> None:
    wanted = current()
    recorded = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    changed = sorted(name for name in {*wanted, *recorded} if wanted.get(name) != recorded.get(name))
    assert not changed, f"{changed} changed: read the difference, then run python tests/server/update_snapshots.py"


def test_the_tokenizer_counts() -> None:
    """The budget below can fail: a longer text costs more, and about what is known for English."""
    assert tokens("hello world") == 4
    assert tokens("word " * 7000) > BUDGET


def test_the_list_of_tools_stays_below_its_budget() -> None:
    tools = asyncio.run(build_server(Path("/"), Path("/")).list_tools())
    costs = {tool.name: tokens(tool.model_dump(mode="json", by_alias=True, exclude_none=True)) for tool in tools}
    assert sum(costs.values()) <= BUDGET, costs


def test_every_argument_is_described() -> None:
    """Clients: Codex drops defaults and ranges, so the description is all that an agent sees of an argument."""
    for tool in asyncio.run(build_server(Path("/"), Path("/")).list_tools()):
        for name, field in tool.input_schema["properties"].items():
            assert field.get("description"), f"{tool.name}.{name}"


class Leaf(BaseModel):
    """A leaf."""

    title: str
    size: float | None = None


class Tree(BaseModel):
    """A tree, with every shape that results use."""

    kind: Literal["oak", "elm"] | None = None
    leaf: Leaf | None = Field(default=None, description="One leaf.")
    left: list[Leaf] = []
    child: Tree | None = None


def test_a_shortened_output_schema_still_takes_what_the_model_gives() -> None:
    schema = compact_output(Tree)
    tree = Tree(kind="oak", leaf=Leaf(title="a", size=1.5), left=[Leaf(title="b")], child=Tree())
    for value in (tree.model_dump(mode="json"), Tree().model_dump(mode="json")):
        jsonschema.validate(value, schema)
    for wrong in ({"left": {}}, {"left": "x"}, {"left": None}, []):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_an_output_schema_tells_the_fields_of_the_result_and_no_more() -> None:
    assert compact_output(Tree) == {
        "properties": {
            "kind": {},
            "leaf": {},
            "left": {"type": "array"},
            "child": {},
        },
        "type": "object",
    }
