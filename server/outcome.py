"""From a tool's typed result to what a client can hold: JSON without NaN, below the size where clients cut."""

from __future__ import annotations

import json
import math
from typing import Any

from ..port.errors import sendable
from ..tools.base import ToolResult

LIMIT = 24_000
"""Bytes of JSON. Numbers cost a token per 2.4 bytes or so, and clients cut or warn at 10,000 tokens."""


def payload_of(result: ToolResult, limit: int = LIMIT) -> dict[str, Any]:
    """``result`` as JSON data of at most ``limit`` bytes.

    What is too large is shortened where it is largest, the longest list or text first, and ``next_step`` says so:
    a client that cuts does it silently.
    """
    payload: dict[str, Any] = _plain(result.model_dump(mode="json"))
    cuts: dict[str, str] = {}
    while size(payload) > limit - 600:
        if not _shorten_largest(payload, cuts):
            break
    if cuts:
        note = "; ".join(f"{path}: {what}" for path, what in list(cuts.items())[:6])
        payload["next_step"] = f"{payload['next_step']} (This result was shortened to stay readable: {note}.)"
    return payload


def size(value: Any) -> int:
    """Bytes of ``value`` as compact JSON."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def _plain(value: Any) -> Any:
    """``value`` with NaN and infinities as null, because JSON has neither, and without halves of surrogate pairs."""
    if isinstance(value, str):
        return sendable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {sendable(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _shorten_largest(payload: dict[str, Any], cuts: dict[str, str]) -> bool:
    """Halve the list or text that weighs most; False when nothing is left to shorten."""
    best: tuple[int, Any, Any, str] | None = None

    def look(holder: Any, key: Any, value: Any, path: str) -> None:
        nonlocal best
        if isinstance(value, dict):
            for name, item in value.items():
                look(value, name, item, f"{path}.{name}" if path else name)
        elif isinstance(value, list):
            if len(value) > 1:
                weight = size(value)
                if best is None or weight > best[0]:
                    best = (weight, holder, key, path)
            for index, item in enumerate(value):
                look(value, index, item, f"{path}[{index}]")
        elif isinstance(value, str) and len(value) > 200 and path != "next_step":
            weight = size(value)
            if best is None or weight > best[0]:
                best = (weight, holder, key, path)

    look(None, None, payload, "")
    if best is None:
        return False
    _, holder, key, path = best
    value = holder[key]
    keep = len(value) // 2
    unit = "characters" if isinstance(value, str) else "items"
    first = int(cuts[path].split(" of ")[1].split()[0]) if path in cuts else len(value)
    cuts[path] = f"first {keep} of {first} {unit}"
    holder[key] = value[:keep]
    return True
