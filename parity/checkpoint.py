"""A whole checkpoint folder as tensors with names: ``<folder>/<name>``, or just the name for files at the top."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from .headers import read_header
from .mapping import Finding
from .weights import Entry

_PASSED_OVER = (".git", ".cache", "__pycache__")


@dataclass
class Checkpoint:
    """The headers of all safetensors files below a folder.

    Attributes:
        root: The folder.
        entries: By full name, in the order of files and of bytes in them; without digests.
        homes: Full name -> (file, name in the file).
        findings: Names that two files of one folder hold.
    """

    root: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    homes: dict[str, tuple[Path, str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """The files, each once."""
        return list(dict.fromkeys(path for path, _ in self.homes.values()))

    @property
    def elements(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(item.shape) for item in self.entries.values())


def read_checkpoint(root: Path) -> Checkpoint:
    """Read the headers of every safetensors file below ``root`` (a link to a folder is followed at the top only).

    Raises:
        ParityError: A file is not a sound safetensors file.
    """
    found = Checkpoint(root)
    paths = [path for path in root.resolve().rglob("*.safetensors") if path.is_file()]
    for path in sorted(path for path in paths if not set(path.relative_to(root.resolve()).parts) & set(_PASSED_OVER)):
        folder = path.parent.relative_to(root.resolve()).as_posix()
        for name, item in read_header(path).items():
            full = name if folder == "." else f"{folder}/{name}"
            if full in found.homes:
                message = f"{full!r} is in {found.homes[full][0].name} and in {path.name}; which one counts?"
                found.findings.append(Finding("duplicate-key", message, (full,)))
            found.entries[full] = replace(item, name=full)
            found.homes[full] = (path, name)
    return found
