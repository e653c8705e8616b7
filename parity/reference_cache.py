"""Keep what the official side computed, so that an edit of the port runs only the port.

An entry is found by everything that it depends on and can be known before a run; what is only known afterwards (the
source files that the official process really imported) is kept with it and checked when it is found. An entry is used
only if its digest is among those that the caller trusts: the caller takes them from signed evidence, so that outputs
put into the cache by anyone else are not believed.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from .facts import gpu_facts, sha256
from .python_source import parsed

_PORT_HALF = ("load_port", "call_port", "param_mapping", "MODULE_MAP", "UNUSED", "unused")
_KEPT = 16


def official_half(adapter: Path) -> str:
    """The adapter without what concerns only the port; comments and layout do not count."""
    try:
        tree = parsed(adapter.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, OSError):
        return ""
    tree.body = [node for node in tree.body if not set(_names(node)) & set(_PORT_HALF)]
    return ast.dump(tree)


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def reference_key(spec: dict[str, Any]) -> str:
    """SHA-256 of everything that is known before the official side runs."""
    here = Path(__file__).parent
    parts = {
        "engine": {path.name: sha256(path) for path in sorted(here.glob("*.py"))},
        "adapter": official_half(Path(spec["adapter"])),
        "python": spec.get("official_python") or spec["python"],
        "official_repo": spec.get("official_repo"),
        "weights": _signatures(spec.get("official_weights")),
        "converted": _signatures(spec.get("converted_weights")),
        "run": {name: spec[name] for name in ("cases", "seeds", "dtypes", "device", "threads")},
        "align_backends": bool(spec.get("align_backends")),
        "gpu": gpu_facts() if str(spec["device"]).startswith("cuda") else "",
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _signatures(folder: str | None) -> list[list[Any]]:
    """Name, size and time of change of every file below ``folder``, links followed."""
    found = []
    for root, folders, files in os.walk(folder or os.devnull, followlinks=True):
        folders.sort()
        for name in sorted(files):
            path = Path(root) / name
            found.append([str(path.relative_to(str(folder))), *_signature(path)])
    return found


def _signature(path: Path) -> list[int]:
    try:
        facts = path.stat()
    except OSError:
        return [0, 0]
    return [facts.st_size, facts.st_mtime_ns]


def find(cache: Path, key: str, trusted: list[str]) -> Path | None:
    """The entry of ``key`` if it is whole, trusted, and the files it was made with are unchanged; else none."""
    entry = cache / key
    try:
        sources = json.loads((entry / "sources.json").read_bytes())
        if any(_signature(Path(path)) != signature for path, signature in sources.items()):
            return None
        if digest(entry) not in trusted:
            return None
        os.utime(entry)
    except (OSError, ValueError, AttributeError):
        return None
    return entry


def digest(entry: Path) -> str:
    """SHA-256 over the names and contents of all files of an entry."""
    files = sorted(path for path in entry.rglob("*") if path.is_file())
    text = json.dumps([[path.relative_to(entry).as_posix(), sha256(path)] for path in files])
    return hashlib.sha256(text.encode()).hexdigest()


def keep(cache: Path, key: str, official: Path, shared: Path, value: dict[str, Any]) -> str:
    """Store the official side's folder, the inputs and its value; return the entry's digest, or "" if it cannot be."""
    draft = cache / f".{key}.{os.getpid()}"
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(official, draft / "official")
        shutil.copytree(shared, draft / "shared")
        (draft / "value.json").write_text(json.dumps(value))
        sources = {path: _signature(Path(path)) for path in value["sources"]}
        (draft / "sources.json").write_text(json.dumps(sources))
        found = digest(draft)
        shutil.rmtree(cache / key, ignore_errors=True)
        draft.rename(cache / key)
        _prune(cache)
    except OSError:  # a full disk costs the next attempt its time, not this one its result
        shutil.rmtree(draft, ignore_errors=True)
        return ""
    return found


def _prune(cache: Path) -> None:
    entries = sorted((path for path in cache.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in entries[:-_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
