"""The text of a worktree, read for checks that import nothing: bounded, confined, undisturbed by a bad file."""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from . import git
from .errors import PortError
from .paths import open_regular, resolve_inside
from .python_source import parse_python

MAX_BYTES = 2 << 20
"""Largest file that is read: FastVideo's longest module has 0.2 MB."""
MAX_FILES = 5000
"""Most files of one folder that are looked at."""

_SKIPPED = frozenset({".git", "__pycache__", "node_modules", "site-packages", "official_weights", "converted_weights"})


class SourceTree:
    """Files below a worktree.

    Attributes:
        read: Relative path -> SHA-256 of every file that was read.
        problems: Relative path -> why a file could not be used.
    """

    def __init__(self, root: Path, base_commit: str) -> None:
        self.root = root.resolve()
        self.base_commit = base_commit
        self.read: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self._bytes: dict[str, bytes | None] = {}
        self._trees: dict[str, ast.Module | None] = {}

    def exists(self, path: str) -> bool:
        """Whether there is such a regular file."""
        return (self.root / path).is_file()

    def files(self, folder: str, *suffixes: str) -> list[str]:
        """Files below ``folder`` with one of the suffixes, sorted; links to folders are not followed."""
        found = sorted(self._walk(folder, suffixes))
        if len(found) > MAX_FILES:
            self.problems[folder] = f"{len(found)} files; the first {MAX_FILES} were looked at"
        return found[:MAX_FILES]

    def _walk(self, folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
        for where, folders, names in os.walk(self.root / folder):
            folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".venv")]
            for name in names:
                if name.endswith(suffixes):
                    yield (Path(where) / name).relative_to(self.root).as_posix()

    def content(self, path: str) -> bytes | None:
        """The file's bytes; none (and a problem noted) where it cannot or must not be read."""
        if path not in self._bytes:
            self._bytes[path] = self._content(path)
        return self._bytes[path]

    def _content(self, path: str) -> bytes | None:
        try:
            # Links that lead out of the worktree are refused here, FIFOs and devices by open_regular.
            with open_regular(resolve_inside(self.root, path, kind="file")) as file:
                data = file.read(MAX_BYTES + 1)
        except (PortError, OSError) as error:
            self.problems[path] = error.what if isinstance(error, PortError) else str(error)
            return None
        if len(data) > MAX_BYTES:
            self.problems[path] = f"larger than {MAX_BYTES >> 20} MiB: not read"
            return None
        self.read[path] = hashlib.sha256(data).hexdigest()
        return data

    def text(self, path: str) -> str:
        """The file as text, what is no UTF-8 replaced; "" where it cannot be read."""
        return (self.content(path) or b"").decode("utf-8", "replace")

    def tree(self, path: str) -> ast.Module | None:
        """The parsed module; none (and a problem noted) where that fails."""
        if path not in self._trees:
            self._trees[path] = self._parse(path)
        return self._trees[path]

    def _parse(self, path: str) -> ast.Module | None:
        data = self.content(path)
        if data is None:
            return None
        try:
            return parse_python(data)
        except SyntaxError as error:
            self.problems[path] = f"line {error.lineno or 1}: {error.msg}"
        except (ValueError, RecursionError, MemoryError) as error:
            self.problems[path] = f"cannot be parsed: {str(error) or type(error).__name__}"
        return None

    def forget(self, path: str) -> None:
        """Leave a file that turned out to be of no interest out of `read`."""
        self.read.pop(path, None)

    @cached_property
    def added(self) -> dict[str, set[int] | None] | None:
        """What the branch changed: path -> added line numbers, or none for a whole new file. None: git cannot say."""
        try:
            disarm = git.hostile_filters(self.root)
            against = git.check_revision(self.base_commit)
            command = ["diff", "--unified=0", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "-z"]
            names = git.run([*command, "--name-status", against, "--"], cwd=self.root, disarm=disarm).stdout
            command.remove("-z")
            text = git.run([*command, against, "--", "*.py"], cwd=self.root, disarm=disarm).stdout
            listed = ["ls-files", "-z", "--others", "--exclude-standard"]
            others = git.run(listed, cwd=self.root, disarm=disarm).stdout
        except PortError:
            return None
        found: dict[str, set[int] | None] = {path: set() for path in names.split("\0")[1::2] if path}
        for path, lines in _hunks(text):
            found[path] = lines
        found.update({path: None for path in others.split("\0") if path})
        return found

    def is_new(self, path: str, line: int) -> bool:
        """Whether the branch wrote this line; where git cannot say, yes."""
        if self.added is None:
            return True
        lines = self.added.get(path, set())
        return lines is None or line in lines


def _hunks(text: str) -> Iterator[tuple[str, set[int]]]:
    """Path and added line numbers of each file of a diff without context."""
    path, lines = "", set[int]()
    for row in text.split("\n"):
        if row.startswith("diff --git "):
            if path:
                yield path, lines
            path, lines = "", set()
        elif row.startswith("+++ b/") and not path:
            path = row.removeprefix("+++ b/").rstrip("\t")
        elif match := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", row):
            first, count = int(match[1]), int(match[2] or 1)
            lines |= set(range(first, first + count))
    if path:
        yield path, lines
