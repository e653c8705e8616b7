"""The SQLite file that ports, runs and the ledger share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
"""


def database_path(home: Path) -> Path:
    """The database file below the state folder ``home``."""
    return home / "state.sqlite3"


@contextmanager
def transaction(home: Path) -> Iterator[sqlite3.Connection]:
    """Open the database for one write transaction; commit at the end, roll back on an exception.

    ``BEGIN IMMEDIATE`` takes the write lock at once, so a read followed by a write cannot be overtaken by another
    process. WAL with full synchronisation survives a power loss between any two writes.
    """
    connection = sqlite3.connect(database_path(home), timeout=30, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    finally:
        connection.close()
