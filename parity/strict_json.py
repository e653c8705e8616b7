"""JSON that every parser reads: no NaN tokens, whole files or none."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


def encode(value: Any) -> bytes:
    """``value`` as strict UTF-8 JSON.

    JSON has no NaN and no infinity: those floats become the strings ``"nan"``, ``"inf"`` and ``"-inf"``, because a
    null would hide that something was measured. Paths become strings, tuples become lists, and scalars of numpy and
    torch (anything with ``item()`` and no dimensions) become numbers.

    Raises:
        TypeError: Something in ``value`` has no form in JSON; its place is named.
    """
    return json.dumps(_plain(value, "value"), allow_nan=False, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _plain(value: Any, place: str) -> Any:
    if value is None or type(value) in (str, bool, int):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return "nan"
        return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r}; keys must be strings")
        return {str(key): _plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return _plain(value.item(), place)
    raise TypeError(f"{place} is a {type(value).__name__}, which has no form in JSON")


def write_atomically(path: Path, data: bytes, *, durable: bool) -> None:
    """Replace ``path`` by ``data`` in one step: a reader sees the old file or the new one, never a part.

    With ``durable`` the bytes and the name are on the disk before this returns.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
