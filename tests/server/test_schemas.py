"""The contract with clients does not change unseen, and does not cost more than promised."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import bpe_openai

from fastvideo_port.server.app import build_server

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


def test_every_field_of_a_tool_is_described() -> None:
    """Project-defined: a result field says its unit and meaning; the nested ones may say it by name."""
    for tool in asyncio.run(build_server(Path("/"), Path("/")).list_tools()):
        for schema in (tool.input_schema, tool.output_schema or {}):
            for name, field in schema.get("properties", {}).items():
                assert field.get("description"), f"{tool.name}.{name}"
