"""Keep what a port adds out of commits, through the repository's own exclude file, never through tracked files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import filelock

from . import git
from .errors import PortError

FOLDERS = ("official_weights", "converted_weights", "official_repos")
"""Folders at the root of a port's worktree that must not be committed."""


def exclude(worktree: Path, home: Path, folders: tuple[str, ...] = FOLDERS) -> tuple[list[str], list[str]]:
    """Add root-anchored patterns for ``folders`` to the exclude file that git reads for ``worktree``.

    Linked worktrees share the exclude file of the main repository, and an ``info/exclude`` in their own git folder
    is not read; ``git rev-parse --git-path`` knows. Lines that are there already are not repeated. Afterwards git
    itself is asked whether each folder is ignored.

    Returns:
        The patterns that take effect, and a note for each that a tracked ``.gitignore`` brings back.

    Raises:
        PortError: The exclude file is not a regular file, or cannot be written.
    """
    path = (worktree / git.run(["rev-parse", "--git-path", "info/exclude"], cwd=worktree).stdout).absolute()
    common = git.run(["rev-parse", "--path-format=absolute", "--git-common-dir"], cwd=worktree).stdout
    patterns = [f"/{folder}/" for folder in folders]
    locks = home / "locks"
    locks.mkdir(exist_ok=True)
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with filelock.FileLock(locks / f"exclude-{key}.lock", timeout=30):
        _append(path, Path(common), patterns)
    effective, notes = [], []
    for folder, pattern in zip(folders, patterns, strict=True):
        asked = git.run(["check-ignore", "--quiet", "--no-index", "--", f"{folder}/x"], cwd=worktree, check=False)
        if asked.code == 0:
            effective.append(pattern)
        else:
            notes.append(f"{folder}/ is not ignored: a .gitignore of the repository brings it back; do not commit it.")
    return effective, notes


def _append(path: Path, common: Path, patterns: list[str]) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        # A link here would let a repository have these lines written to a file of its choice.
        if not path.parent.resolve().is_relative_to(common.resolve()):
            raise PortError(
                "The repository's info folder leads out of the repository.",
                seen=f"{path.parent} is {path.parent.resolve()}",
                fix="Replace the link by a folder, then try again.",
            )
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with os.fdopen(os.open(path, flags, 0o644), "r+b") as file:
            text = file.read()
            present = set(text.decode("utf-8", "replace").splitlines())
            missing = [pattern for pattern in patterns if pattern not in present]
            if missing:
                start = "\n" if text and not text.endswith(b"\n") else ""
                file.write((start + "\n".join(missing) + "\n").encode())
    except OSError as error:
        raise PortError(
            "The repository's exclude file cannot be written.",
            seen=f"{path}: {error.strerror}",
            fix="Make it a regular file that this user can write; it keeps weights and clones out of commits.",
        ) from error
