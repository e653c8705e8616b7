"""The files of a folder of weights: listed with bounds, sorted by what they are."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import PortError, sendable
from .paths import open_regular

UNSAFE = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".keras"})
"""Suffixes of formats that can run code when they are loaded (pickle, or a container of it)."""

MAX_FILES = 20_000
MAX_JSON = 64 << 20

_SKIPPED = frozenset({".git", ".cache", "__pycache__"})


@dataclass
class Listing:
    """Files below a root by what they are; paths are relative, in POSIX form, sorted.

    Attributes:
        root: The folder.
        sizes: Bytes of every regular file.
        notes: What was passed over, and why.
    """

    root: Path
    sizes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The files whose suffix, in lower case, is one of ``suffixes``."""
        return [name for name in self.sizes if PurePosixPath(name).suffix.lower() in suffixes]

    def json(self, name: str) -> dict[str, Any] | None:
        """The JSON object in the file ``name``, or none if there is no such file.

        Raises:
            PortError: The file is larger than ``MAX_JSON`` or is not a JSON object.
        """
        if name not in self.sizes:
            return None
        with open_regular(self.root / name) as file:
            text = file.read(MAX_JSON + 1)
        try:
            if len(text) > MAX_JSON:
                raise ValueError(f"more than {MAX_JSON} bytes")
            value = json.loads(text.decode("utf-8"))
            if not isinstance(value, dict):
                raise ValueError("no object at the top")
        except (ValueError, RecursionError) as error:
            raise PortError(
                f"{name} is not a readable JSON object.",
                seen=f"{self.root / name}: {str(error)[:160]}",
                fix="Fetch the file again, or repair it.",
            ) from error
        return value


def list_files(root: Path) -> Listing:
    """List the regular files below ``root``; links are followed, a folder is entered once.

    Raises:
        PortError: There are more than ``MAX_FILES``, so that this is hardly a folder of weights, or a weights file has
            a name that is not UTF-8.
    """
    listing = Listing(root)
    entered: set[tuple[int, int]] = set()
    found: dict[str, int] = {}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = Path(folder).stat()
        if (here.st_dev, here.st_ino) in entered:
            subfolders.clear()
            continue
        entered.add((here.st_dev, here.st_ino))
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED)
        for name in sorted(names):
            path = Path(folder) / name
            shown = path.relative_to(root).as_posix()
            if sendable(shown) != shown:
                _pass_over(sendable(shown), listing)
                continue
            try:
                status = path.stat()
            except OSError:
                listing.notes.append(f"{shown[:120]} is a link to nothing")
                continue
            if not stat.S_ISREG(status.st_mode):
                listing.notes.append(f"{shown[:120]} is not a regular file and was passed over")
                continue
            found[shown] = status.st_size
        if len(found) > MAX_FILES:
            raise PortError(
                "The folder holds too many files for a folder of weights.",
                seen=f"{root}: more than {MAX_FILES}",
                fix="Give the folder of one model.",
            )
    listing.sizes = dict(sorted(found.items()))
    return listing


def _pass_over(shown: str, listing: Listing) -> None:
    """Note a file whose name is not UTF-8: no report can hold it.

    Raises:
        PortError: It is one of weights.
    """
    if PurePosixPath(shown).suffix.lower() == ".safetensors":
        raise PortError(
            "The name of a weights file is not UTF-8, so no report can hold it.",
            seen=f"{listing.root}: {shown[:200]}",
            fix="Rename the file, and the index that names it, then fetch the weights again.",
        )
    listing.notes.append(f"{shown[:120]} has a name that is not UTF-8 and was passed over")
