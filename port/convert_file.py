"""The rule file of a declarative conversion: read as data from the worktree, checked, made ready for the engine."""

from __future__ import annotations

import difflib
import json
import re
import sys
from pathlib import Path
from typing import Any

from .errors import PortError
from .paths import open_regular, resolve_inside

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 4 << 20
_TOP = {"rules": list, "components": dict, "model_index": dict, "cast": str, "shard_gb": (int, float)}
_COMPONENT = {"library": str, "class": str, "config": (str, dict), "copy": str, "stem": str}
_EXAMPLE = (
    'Give "rules" (a list of {"match": regex, "to": "transformer/..."}), "components" ({"transformer": {"class": '
    '"WanTransformer3DModel", "config": {...}}}) and "model_index" ({"_class_name": "WanPipeline"}).'
)


def read_convert_file(path: Path, worktree: Path, source: Path) -> dict[str, Any]:
    """The part of a conversion's spec that the file gives: ``rules``, ``components``, ``model_index``, ``cast``...

    Paths in it (``config``, ``copy``) are looked for in the official weights first, then in the worktree.

    Raises:
        PortError: The file is no JSON or TOML of this form, or a path leaves both folders.
    """
    with open_regular(path) as file:
        text = file.read(MAX_BYTES + 1)
    try:
        if len(text) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        decoded = text.decode("utf-8")
        document = tomllib.loads(decoded) if path.suffix.lower() == ".toml" else json.loads(decoded)
        if not isinstance(document, dict):
            raise ValueError("no table at the top")
        _check_plain(document)
    except (ValueError, RecursionError) as error:
        raise PortError("The rule file cannot be read.", seen=f"{path.name}: {error}"[:300], fix=_EXAMPLE) from error
    _check(document, _TOP, path.name)
    shard_gb = document.get("shard_gb", 0)
    if not 0 <= shard_gb < 1e6:
        raise PortError("shard_gb is no size.", seen=f"{shard_gb!r:.40}", fix="Give gigabytes, or leave it out.")
    components = {}
    for name, table in document.get("components", {}).items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name) or not isinstance(table, dict):
            raise PortError("A component of the rule file is not legal.", seen=repr(name[:80]), fix=_EXAMPLE)
        _check(table, _COMPONENT, f"components.{name}")
        components[name] = _component(name, table, worktree, source)
    rules = list(document.get("rules", []))
    for name, table in components.items():
        folder = table.pop("folder", None)
        if folder is not None:  # the weights of a copied folder go along, through the same proof
            rules.append({"match": f"{re.escape(folder)}/(.*)", "to": f"{name}/\\1", "optional": True})
    return {
        "rules": rules,
        "components": components,
        "model_index": document.get("model_index", {}),
        "cast": document.get("cast"),
        "shard_bytes": int(shard_gb * 1e9) if shard_gb > 0 else None,
    }


def _check_plain(document: Any) -> None:
    """Refuse what a worker's JSON cannot carry: dates of TOML, and halves of surrogate pairs.

    Raises:
        ValueError: See above.
        RecursionError: It is nested too deeply.
    """
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except TypeError as error:
        raise ValueError(str(error)) from error


def _check(table: dict[str, Any], known: dict[str, Any], place: str) -> None:
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            fix = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise PortError("The rule file has an unknown key.", seen=f"{place}: {key[:80]!r}", fix=fix)
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise PortError("A value of the rule file has another form.", seen=f"{place}.{key}", fix=_EXAMPLE)


def _component(name: str, table: dict[str, Any], worktree: Path, source: Path) -> dict[str, Any]:
    table = dict(table)
    stem = table.get("stem", "model")
    if not re.fullmatch(r"[A-Za-z0-9_]{1,80}", stem):
        raise PortError("A stem is not a file name.", seen=f"components.{name}.stem", fix="Use letters and digits.")
    if isinstance(table.get("config"), str):
        found = _find(table["config"], worktree, source, f"components.{name}.config", "file")
        try:
            with open_regular(found) as file:
                table["config"] = json.loads(file.read(MAX_BYTES).decode("utf-8"))
            _check_plain(table["config"])
        except (ValueError, RecursionError) as error:
            raise PortError("A config is not JSON.", seen=f"{found}: {error}"[:300], fix="Give a JSON file.") from error
    if "copy" in table:
        found = _find(table["copy"], worktree, source, f"components.{name}.copy", "folder")
        if found.is_relative_to(source.resolve()) and found != source.resolve():
            table["folder"] = found.relative_to(source.resolve()).as_posix()
        table["copy"] = str(found)
    return table


def _find(argument: str, worktree: Path, source: Path, name: str, kind: Any) -> Path:
    try:
        return resolve_inside(source, argument, name=name, kind=kind)
    except PortError:
        return resolve_inside(worktree, argument, name=name, kind=kind)
