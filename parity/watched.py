"""What this process executed and read of the worktree and of the official repository: one watch, set up by the worker.

`import_watch.Sources` does the watching; here it is told where, and what the adapter has to be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ParityError
from .import_watch import Sources

_watch: Sources | None = None


def watch(spec: Mapping[str, Any], run_dir: Path) -> None:
    """Watch ``spec``'s ``worktree`` and ``official_repo`` from now on; once in a process.

    From then on the bytecode of other modules is kept: importing torch and diffusers takes twice as long without, and
    an environment made by uv, or by pip with ``--no-compile``, has none. Of the watched folders none is ever written.

    Only the adapter that the run began with may be executed: ``adapter_sha256``, where the spec has it.
    """
    global _watch
    folders = [str(spec[name]) for name in ("worktree", "official_repo") if spec.get(name)]
    if _watch is not None or not folders:
        return
    _watch = Sources(folders, _refusing(spec), apart=[str(run_dir)])
    _watch.install()
    sys.dont_write_bytecode = False


def _refusing(spec: Mapping[str, Any]) -> Any:
    adapter = os.path.realpath(spec["adapter"]) if spec.get("adapter") else None
    expected = spec.get("adapter_sha256")

    def each(kind: str, path: str, digest: str) -> None:
        if kind == "file" and expected and path == adapter and digest != expected:
            raise ParityError(
                "The adapter is not the one that the run began with.",
                seen=f"{path} was changed after the run was started",
                fix="Leave the adapter alone while it runs, then run the tool again.",
            )

    return each


def executed_below(root: Path) -> dict[str, str]:
    """Modules below ``root`` that were executed: path below root -> SHA-256 of what was compiled."""
    return _below(root, _watch.compiled) if _watch is not None else {}


def read_below(root: Path) -> dict[str, str]:
    """Other files below ``root`` that were read: path below root -> SHA-256 of what they held then."""
    return _below(root, _watch.opened) if _watch is not None else {}


def _below(root: Path, files: Mapping[str, str]) -> dict[str, str]:
    names = tuple(dict.fromkeys((f"{root.absolute()}{os.sep}", f"{os.path.realpath(root)}{os.sep}")))
    found: dict[str, str] = {}
    for path, digest in files.items():
        name = next((name for name in names if path.startswith(name)), None)
        if name is not None:
            found.setdefault(path[len(name) :].replace(os.sep, "/"), digest)
    return found


def opened() -> list[str]:
    """Paths of the files that were read, other than modules."""
    return sorted(_watch.opened) if _watch is not None else []
