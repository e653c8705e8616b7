"""Which videos a script wrote: the files of a folder before and after, told apart by more than their names."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .import_watch import MEDIA, VIDEOS

SKIPPED = frozenset({".git", "__pycache__", "node_modules", "site-packages", "official_weights", "converted_weights"})
_MOST_HASHED = 1 << 30


@dataclass(frozen=True)
class MediaFile:
    """A file as it was at one moment; ``sha256`` is "" where it was not read (pictures, and more than 1 GiB)."""

    device: int
    inode: int
    size: int
    modified_ns: int
    sha256: str


Snapshot = Mapping[Path, MediaFile]


def snapshot(root: Path) -> dict[Path, MediaFile]:
    """All videos and pictures below ``root``. Links are neither followed nor listed, nor is what is no regular file."""
    return {path: found for path in _media(root) if (found := look(path)) is not None}


def look(path: Path) -> MediaFile | None:
    """The file as it is now; none when it is gone or no regular file."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return None
        digest = ""
        if path.suffix.lower() in VIDEOS and found.st_size <= _MOST_HASHED:
            digest = _sha256(path)
    except OSError:
        return None
    return MediaFile(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, digest)


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    # Not just open(): a FIFO that took the file's place would make us wait for ever.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def _media(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith(".venv")]
        for name in names:
            if name.lower().endswith(MEDIA):
                yield Path(folder) / name


@dataclass(frozen=True)
class Written:
    """What a script wrote, the newest first.

    Attributes:
        videos, pictures: New or changed files.
        old: New names of old content: copied, linked, moved or touched videos, with what they are.
    """

    videos: tuple[Path, ...]
    pictures: tuple[Path, ...]
    old: Mapping[Path, str]


def written(before: Snapshot, after: Snapshot, began_ns: int, opened: Mapping[Path, MediaFile]) -> Written:
    """Compare two snapshots.

    Args:
        before, after: The folder before and after the script.
        began_ns: When the script was started, nanoseconds since 1970.
        opened: Videos anywhere that the script opened or named, as they are now.
    """
    earlier = {item.sha256: path for path, item in before.items() if item.sha256}
    earlier |= {item.sha256: path for path, item in opened.items() if item.sha256 and item.modified_ns < began_ns}
    inodes = {(item.device, item.inode): path for path, item in before.items()}
    videos, pictures, old = [], [], {}
    for path, item in after.items():
        if before.get(path) == item:
            continue
        if path.suffix.lower() not in VIDEOS:
            pictures.append(path)
        elif item.sha256 and item.sha256 in earlier:
            source = earlier[item.sha256]
            same = "the same bytes as before this run" if source == path else f"byte for byte {source}"
            old[path] = f"{same}, which is older than this run"
        elif (item.device, item.inode) in inodes and inodes[item.device, item.inode] != path:
            old[path] = f"another name of {inodes[item.device, item.inode]}"
        elif item.modified_ns < began_ns - 2_000_000_000:
            old[path] = "last written before this run began (moved here?)"
        else:
            videos.append(path)

    def newest(path: Path) -> tuple[int, str]:
        return -after[path].modified_ns, str(path)

    return Written(tuple(sorted(videos, key=newest)), tuple(sorted(pictures, key=newest)), old)


def choose(paths: tuple[Path, ...], root: Path, output: str) -> Path | None:
    """The one that the output names last, else the newest, else none."""
    named = [(max(output.rfind(str(path)), output.rfind(str(path.relative_to(root))), output.rfind(path.name)), path)
             for path in paths]  # fmt: skip
    best = max(named, key=lambda item: item[0], default=None)
    if best is not None and best[0] >= 0:
        return best[1]
    return paths[0] if paths else None
