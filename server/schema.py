"""JSON schemas as short as they can be without saying less: every agent pays for them in every session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]


def compact_input(model: type[BaseModel]) -> Schema:
    """Input schema of ``model``: no titles; an optional argument shows its type and can simply be left out."""

    def shorten(node: Schema, is_root: bool) -> Schema:
        node.pop("title", None)
        if is_root:
            node.pop("description", None)
        # "null or left out" is one meaning with two spellings. Both are accepted, the shorter is shown.
        if "anyOf" in node and node.get("default", ...) is None:
            arms = [arm for arm in node["anyOf"] if arm != {"type": "null"}]
            del node["default"]
            node = _merged(node, arms)
        return node

    schema = _walk(model.model_json_schema(), shorten)
    schema.setdefault("properties", {})
    return schema


def compact_output(model: type[BaseModel]) -> Schema:
    """Output schema of ``model``.

    Every number may be null, because JSON has no NaN or infinity and a measured value can be either. Fields that a
    later version adds stay allowed.
    """

    def shorten(node: Schema, is_root: bool) -> Schema:
        node.pop("title", None)
        node.pop("default", None)
        if node.get("additionalProperties") is False:
            del node["additionalProperties"]
        if is_root:
            node.pop("description", None)
        if node.get("type") == "number":
            node["type"] = ["number", "null"]
        if "anyOf" in node and {"type": "null"} in node["anyOf"]:
            arms = [arm for arm in node["anyOf"] if arm != {"type": "null"}]
            if len(arms) == 1 and isinstance(arms[0].get("type"), str) and "enum" not in arms[0]:
                node = _merged(node, [{**arms[0], "type": [arms[0]["type"], "null"]}])
            elif len(arms) == 1 and arms[0].get("type") == ["number", "null"]:
                node = _merged(node, arms)
        return node

    return _walk(model.model_json_schema(mode="serialization"), shorten)


def _merged(node: Schema, arms: list[Schema]) -> Schema:
    """``node`` with its ``anyOf`` replaced by ``arms``; a single arm moves up into the node."""
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {**arms[0], **rest} if len(arms) == 1 else {"anyOf": arms, **rest}


def _walk(schema: Schema, visit: Callable[[Schema, bool], Schema], is_root: bool = True) -> Schema:
    """Apply ``visit`` to every schema below ``schema``, children first.

    Property names are not schema keywords: a property called "title" stays.
    """
    node = dict(schema)
    for key in ("properties", "$defs"):
        if isinstance(node.get(key), dict):
            node[key] = {name: _walk(child, visit, False) for name, child in node[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            node[key] = _walk(node[key], visit, False)
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if isinstance(node.get(key), list):
            node[key] = [_walk(child, visit, False) for child in node[key]]
    return visit(node, is_root)
