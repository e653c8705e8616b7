"""SHA-256 of large files, remembered while a file stays the same."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from .errors import PortError
from .paths import open_regular

_CHUNK = 4 << 20
_WORKERS = 4

Identity = tuple[int, int, int, int, int]


def hash_files(
    home: Path, paths: Sequence[Path], advance: Callable[[Path, int], None] = lambda path, read: None
) -> list[str]:
    """SHA-256 in hexadecimal of each of ``paths``, in their order.

    A hash is remembered in the state folder by path, size, modification and change time, inode and device; while none
    of them changes the file is not read again.

    Args:
        home: State folder.
        paths: Regular files.
        advance: Called with a path and the number of its bytes that were dealt with, from several threads.

    Raises:
        PortError: A file cannot be read, or changed while it was read.
    """

    def one(path: Path) -> str:
        resolved = path.resolve()
        with open_regular(resolved) as file:
            before = _identity(os.fstat(file.fileno()))
            known = _recall(home, resolved, before)
            if known is not None:
                advance(path, before[0])
                return known
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                advance(path, len(chunk))
            if _identity(os.fstat(file.fileno())) != before:
                raise PortError(
                    "A file changed while it was read.",
                    seen=str(resolved),
                    fix="Wait until whatever writes it has ended, then try again.",
                )
        _remember(home, resolved, before, digest.hexdigest())
        return digest.hexdigest()

    # hashlib lets other threads run meanwhile, so several files keep several cores busy.
    with ThreadPoolExecutor(max_workers=min(_WORKERS, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, paths))


def _identity(status: os.stat_result) -> Identity:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def _open(home: Path) -> sqlite3.Connection:
    """The cache; a file of its own, because losing it loses nothing."""
    path = home / "hashes.sqlite3"
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # readable by this user alone
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, identity TEXT, sha256 TEXT)")
    return connection


def _key(path: Path) -> str:
    return os.fsencode(path).hex()


def _recall(home: Path, path: Path, identity: Identity) -> str | None:
    # A damaged or locked cache only costs reading the file again.
    with suppress(sqlite3.Error), closing(_open(home)) as db:
        row = db.execute("SELECT sha256 FROM hashes WHERE path = ? AND identity = ?", (_key(path), repr(identity)))
        found = row.fetchone()
        return str(found[0]) if found else None
    return None


def _remember(home: Path, path: Path, identity: Identity, digest: str) -> None:
    with suppress(sqlite3.Error), closing(_open(home)) as db:
        db.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", (_key(path), repr(identity), digest))
