"""A commit of a foreign repository as data: read from git's objects, so that no link is followed and no file is run."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path

from . import git
from .errors import PortError

MAX_FILES = 100_000
MAX_TEXT = 1 << 20
"""Largest file that is read as text, in bytes."""

_LFS = "^version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Tree:
    """What a commit holds.

    Attributes:
        files: Regular files: path to (object, bytes).
        links: Symbolic links: path to target.
        submodules: Path to commit.
        odd: Names with control characters, as Python writes them.
    """

    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    submodules: dict[str, str] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)

    @property
    def outside(self) -> dict[str, str]:
        """The links that lead out of the tree, or into git's own folder."""
        return {path: target for path, target in self.links.items() if _leaves(path, target)}


def read_tree(repository: Path, commit: str) -> Tree:
    """Everything that ``commit`` holds, by kind.

    Raises:
        PortError: There are more than ``MAX_FILES`` files, or git failed.
    """
    listed = git.run(["ls-tree", "-r", "-l", "-z", "--full-tree", commit], cwd=repository).stdout.split("\0")
    if len(listed) > MAX_FILES:
        raise PortError(
            "The repository holds too many files.", seen=f"{len(listed)} in {commit[:12]}", fix="Give a smaller one."
        )
    tree = Tree()
    for line in filter(None, listed):
        facts, _, path = line.partition("\t")
        mode, _, name, size = facts.split()
        if any(ord(char) < 32 or ord(char) == 127 for char in path):
            tree.odd.append(ascii(path))
        if mode == "160000":
            tree.submodules[path] = name
        elif mode == "120000":
            tree.links[path] = read_text(repository, name)[:4096]
        else:
            tree.files[path] = (name, int(size))
    return tree


def read_text(repository: Path, name: str, limit: int = MAX_TEXT) -> str:
    """The object ``name`` as text, at most ``limit`` characters; undecodable bytes are replaced."""
    text = git.run(["cat-file", "blob", name], cwd=repository).stdout
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:limit]


def lfs_pointers(repository: Path, commit: str) -> list[str]:
    """Files whose content is with git LFS: what is checked out is a pointer of three lines."""
    found = git.run(["grep", "-I", "-l", "-z", "--full-name", "-e", _LFS, commit, "--"], cwd=repository, check=False)
    if found.code not in (0, 1):
        raise git.failure(["grep"], found)
    return sorted(name.partition(":")[2] for name in found.stdout.split("\0") if name)


def submodule_urls(repository: Path, tree: Tree) -> dict[str, str]:
    """Submodule path to the URL in .gitmodules, credentials removed; read as text, because git would obey it."""
    if ".gitmodules" not in tree.files or tree.files[".gitmodules"][1] > MAX_TEXT:
        return {}
    urls: dict[str, str] = {}
    path = ""
    for line in read_text(repository, tree.files[".gitmodules"][0]).splitlines():
        if line.strip().startswith("["):
            path = ""
        match = re.fullmatch(r"\s*(path|url)\s*=\s*(.*?)\s*", line)
        if match and match[1] == "path":
            path = match[2]
            urls.setdefault(path, "")
        elif match and path:
            urls[path] = git.redact(match[2])
    return {path: urls.get(path, "") for path in tree.submodules}


def _leaves(path: str, target: str) -> bool:
    if target.startswith(("/", "~")) or "\\" in target or ":" in target[:3]:
        return True
    reached = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return reached == ".." or reached.startswith("../") or any(part.lower() == ".git" for part in reached.split("/"))
