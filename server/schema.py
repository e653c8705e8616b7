"""JSON schemas as short as they can be without saying less: every agent pays for them in every session."""

from __future__ import annotations

import json
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
    """Output schema of ``model``: what a field means and can be.

    Every number may be null, because JSON has no NaN or infinity and a measured value can be either. That fields are
    always there is left unsaid, and fields that a later version adds stay allowed: half of the tokens of all tools
    would otherwise repeat names.
    """

    def shorten(node: Schema, is_root: bool) -> Schema:
        for key in ("title", "default", "required"):
            node.pop(key, None)
        if isinstance(node.get("additionalProperties"), bool):
            del node["additionalProperties"]
        if is_root:
            node.pop("description", None)
        if node.get("type") == "number":
            node["type"] = ["number", "null"]
        if {"type": "null"} in node.get("anyOf", []):
            arms = [_nullable(arm) for arm in node["anyOf"] if arm != {"type": "null"}]
            node = _merged(node, arms if len(arms) == 1 and arms[0] else node["anyOf"])
        return node

    return _walk(_inlined(model.model_json_schema(mode="serialization")), shorten)


def _nullable(arm: Schema) -> Schema:
    """``arm`` with null among its types; empty if it has no plain type to add it to."""
    kinds = arm.get("type")
    if kinds is None or "const" in arm:
        return {}
    known = kinds if isinstance(kinds, list) else [kinds]
    wider = {**arm, "type": [*known, *(["null"] if "null" not in known else [])]}
    return {**wider, "enum": [*arm["enum"], None]} if "enum" in arm else wider


def _inlined(schema: Schema) -> Schema:
    """``schema`` with every definition that is used once put in its place; what a class is, its field says."""
    definitions: dict[str, Schema] = {
        name: {key: item for key, item in definition.items() if key != "description"}
        for name, definition in schema.get("$defs", {}).items()
    }
    text = json.dumps(schema)
    once = {name for name in definitions if text.count(f'"#/$defs/{name}"') == 1}

    def place(node: Any) -> Any:
        if isinstance(node, list):
            return [place(item) for item in node]
        if not isinstance(node, dict):
            return node
        name = str(node.get("$ref", "")).rpartition("/")[2]
        if name in once:
            return {**place(definitions[name]), **{key: place(item) for key, item in node.items() if key != "$ref"}}
        return {key: place(item) for key, item in node.items()}

    kept = {name: place(item) for name, item in definitions.items() if name not in once}
    rest = {key: place(item) for key, item in schema.items() if key != "$defs"}
    # A model that holds itself is only a reference at its root, where clients want an object.
    own = kept.get(str(rest.get("$ref", "")).rpartition("/")[2])
    if own is not None:
        rest = {**own, **{key: item for key, item in rest.items() if key != "$ref"}}
    return {**rest, **({"$defs": kept} if kept else {})}


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
