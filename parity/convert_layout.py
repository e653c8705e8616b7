"""Whether what a conversion wrote is a Diffusers folder that FastVideo's loaders take, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import ParityError
from .headers import read_headers
from .mapping import Finding

_UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz")


def layout_findings(folder: Path) -> list[Finding]:
    """What is wrong with the folder as a whole: ``model_index.json``, component folders, configs, indexes, links."""
    found = list(_files(folder))
    index = _json(folder / "model_index.json")
    if not isinstance(index, dict):
        message = "There is no model_index.json that names the components (a JSON object) in the output folder."
        return [*found, Finding("no-model-index", message)]
    named = {name: row for name, row in index.items() if isinstance(row, list) and not name.startswith("_")}
    if not isinstance(index.get("_class_name"), str):
        found.append(Finding("no-pipeline-class", "model_index.json has no _class_name of a pipeline."))
    for name, row in named.items():
        if row == [None, None]:
            continue
        if len(row) != 2 or not all(isinstance(part, str) for part in row):
            found.append(Finding("model-index-wrong", f"model_index.json says {row!r:.80} of {name!r}, not two names."))
        elif not (folder / name).is_dir():
            found.append(Finding("component-absent", f"model_index.json names {name!r}, and there is no such folder."))
    loose = sorted(path.name for path in folder.glob("*.safetensors"))
    if loose:
        message = f"{loose[0]} lies beside model_index.json; weights belong in component folders."
        found.append(Finding("outside-component", message))
    for path in sorted({file.parent for file in folder.rglob("*.safetensors")} - {folder}):
        name = path.relative_to(folder).as_posix()
        if name not in named:
            message = f"The folder {name!r} holds weights, and model_index.json does not name it."
            found.append(Finding("component-unnamed", message))
        if not isinstance(_json(path / "config.json"), dict):
            found.append(Finding("no-config", f"The folder {name!r} holds weights and no config.json.", (name,)))
        try:
            found += read_headers(path).findings
        except ParityError as error:
            found.append(Finding("unreadable", f"{error.what} {error.seen}"))
    return found


def _files(folder: Path) -> Iterator[Finding]:
    for here, folders, names in os.walk(folder):
        for name in sorted([*folders, *names]):
            path = Path(here) / name
            shown = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                message = (
                    f"{shown!r} is a link to {str(path.readlink())[:80]!r}; copy the file, or link it hard (os.link)."
                )
                yield Finding("output-link", message)
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                yield Finding("output-special", f"{shown!r} is neither a file nor a folder.")
            elif path.suffix.lower() in _UNSAFE:
                yield Finding("output-unsafe", f"{shown!r} is in a format that can run code when it is loaded.")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() and path.stat().st_size < 1 << 26 else None
    except (OSError, ValueError, RecursionError):
        return None


def digest_of(files: dict[str, tuple[int, str]]) -> str:
    """SHA-256 over the names, sizes and SHA-256 of safetensors files, as for official weights."""
    lines = [json.dumps([path, *files[path]]) for path in sorted(files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def stamp(folder: Path) -> str:
    """SHA-256 over name, size and times of every file: changes when anything is written there afterwards."""
    rows = []
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        if not stat.S_ISDIR(facts.st_mode):
            rows.append([path.relative_to(folder).as_posix(), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
