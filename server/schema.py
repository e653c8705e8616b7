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
        # Some clients drop defaults, so every description says its own, once.
        if node.get("default") is not None:
            del node["default"]
        # "null or left out" is one meaning with two spellings. Both are accepted, the shorter is shown.
        if "anyOf" in node and node.get("default", ...) is None:
            arms = [arm for arm in node["anyOf"] if arm != {"type": "null"}]
            del node["default"]
            node = _merged(node, arms)
        return node

    schema = _walk(model.model_json_schema(), shorten)
    schema.setdefault("properties", {})
    for definition in schema.get("$defs", {}).values():
        definition.pop("description", None)
    return schema


def compact_output(model: type[BaseModel]) -> Schema:
    """Output schema of ``model``: the fields of the result itself, and of what kind each is.

    What lies deeper is only called an object or an array, and no meaning or list of values is told: whoever reads a
    result sees its names, most clients show output schemas to no model, and spelling them out was two thirds of what
    all tools cost. A field that may be null says no type; every number may be, because JSON has no NaN or infinity and
    a measured value can be either. That fields are always there is left unsaid, and fields that a later version adds
    stay allowed.
    """
    full = model.model_json_schema(mode="serialization")
    top = full.get("$defs", {}).get(str(full.get("$ref", "")).rpartition("/")[2], full)
    return {"properties": {name: _shallow(node, full) for name, node in top["properties"].items()}, "type": "object"}


def _shallow(node: Schema, full: Schema) -> Schema:
    """``node`` without what lies below it."""
    kinds = {_kind(arm, full) for arm in node.get("anyOf", [node])}
    return {"type": kinds.pop()} if len(kinds) == 1 and kinds != {"number"} else {}


def _kind(arm: Schema, full: Schema) -> str:
    """JSON type of one alternative; enumerations and constants are strings."""
    if "$ref" in arm:
        return _kind(full["$defs"][arm["$ref"].rpartition("/")[2]], full)
    return str(arm.get("type", "string" if "const" in arm or "enum" in arm else "object"))


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
