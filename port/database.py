"""The SQLite file that ports, runs and the ledger share."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from .errors import PortError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ports (
    port_id TEXT PRIMARY KEY,
    created_at TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY,
    port_id TEXT,
    tool TEXT NOT NULL,
    created_at TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS runs_by_port ON runs (port_id, created_at);
CREATE TABLE IF NOT EXISTS ledger (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT UNIQUE,
    port_id TEXT NOT NULL,
    entry TEXT NOT NULL,
    previous TEXT NOT NULL,
    digest TEXT NOT NULL,
    signature TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS ledger_by_port ON ledger (port_id, sequence);
CREATE TABLE IF NOT EXISTS approvals (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    approval_id TEXT NOT NULL UNIQUE,
    port_id TEXT NOT NULL,
    step_id TEXT NOT NULL,
    record TEXT NOT NULL
);
"""


def database_path(home: Path) -> Path:
    """The database file below the state folder ``home``."""
    return home / "state.sqlite3"


class StateUnavailable(PortError, sqlite3.OperationalError):
    """The database cannot be used now: locked, full, read-only, not there. Nothing was changed."""


class StateDamaged(PortError, sqlite3.DatabaseError):
    """The database is no longer one, or not one of ours."""


_PATIENCE_S = 30.0
"""How long to wait for another process's write."""

# SQLite's own words; its numeric codes reach Python only from 3.11 on.
_CAUSES = (
    ("is full", "The disk of the state folder is full.", "Free space on that disk, then try again."),
    (
        "locked",
        "The state folder is in use by another process that does not let go of it.",
        "Try again; if it stays so, end the hanging fastvideo-port process, or take the folder off a network drive.",
    ),
    ("readonly", "The state folder cannot be written.", "Make the folder and its files writable for this user."),
    (
        "unable to open",
        "The state folder's database cannot be opened.",
        "Make sure that it is a regular file that this user can read and write; move away what else stands there.",
    ),
    (
        "disk i/o",
        "The disk of the state folder reports an error.",
        "Check that disk, then try again.",
    ),
)
_DAMAGED = ("not a database", "malformed", "no such table", "no such column", "could not decode", "has no column")


@contextmanager
def worded(home: Path) -> Iterator[None]:
    """Turn SQLite's errors about the file (not about a statement's values) into ``PortError``.

    Raises:
        StateUnavailable: It cannot be used now; also a ``sqlite3.OperationalError``.
        StateDamaged: It is damaged; also a ``sqlite3.DatabaseError``.
    """
    try:
        yield
    except PortError:
        raise
    except sqlite3.DatabaseError as error:
        said = str(error)
        lower = said.lower()
        seen = f"{database_path(home)}: {said}"
        for sign, what, fix in _CAUSES:
            if sign in lower:
                raise StateUnavailable(what, seen=seen, fix=fix) from error
        if any(sign in lower for sign in _DAMAGED):
            raise StateDamaged(
                "The state folder's database is damaged.",
                seen=seen,
                fix="Restore it from a backup, or move the state folder away, begin anew with create_worktree and run "
                "the checks again.",
            ) from error
        raise


@contextmanager
def transaction(home: Path) -> Iterator[sqlite3.Connection]:
    """Open the database for one write transaction; commit at the end, roll back on an exception.

    ``BEGIN IMMEDIATE`` takes the write lock at once, so a read followed by a write cannot be overtaken by another
    process. WAL with full synchronisation survives a power loss between any two writes.

    Raises:
        StateUnavailable, StateDamaged: See ``worded``; nothing was committed.
    """
    with worded(home):
        _make_private(database_path(home))
        connection = sqlite3.connect(database_path(home), timeout=_PATIENCE_S, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(_SCHEMA)
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                # A full disk makes SQLite roll back by itself; then there is nothing left to do.
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        finally:
            connection.close()


def select(home: Path, statement: str, *values: str) -> list[str]:
    """The first column of what one SELECT finds.

    Takes no write lock and makes no schema: whoever waits for a run asks several times a second, and many clients that
    only read shall not wait for each other.

    Raises:
        StateUnavailable, StateDamaged: See ``worded``.
    """
    try:
        # mode=rw: a database that is not there is not made here but by `transaction`, for this user alone.
        where = f"{database_path(home).absolute().as_uri()}?mode=rw"
        with worded(home), closing(sqlite3.connect(where, uri=True, timeout=_PATIENCE_S, isolation_level=None)) as db:
            return [row[0] for row in db.execute(statement, values).fetchall()]
    except sqlite3.DatabaseError:
        with transaction(home) as db:
            return [row[0] for row in db.execute(statement, values).fetchall()]


def _make_private(path: Path) -> None:
    """Make the file, if absent, readable by this user alone; SQLite gives its side files the same mode."""
    # What cannot be made is said by SQLite a moment later, in its own words.
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
