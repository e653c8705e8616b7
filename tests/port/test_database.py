"""The state folder's database: its errors say what was wrong, what was seen and what to do, and lose nothing."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from fastvideo_port.port import database
from fastvideo_port.port.database import StateDamaged, StateUnavailable, database_path, select, transaction
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.hashes import hash_files
from fastvideo_port.port.home import state_home
from fastvideo_port.runs.store import RunStore

INSERT = "INSERT INTO ports (port_id, created_at, record) VALUES (?, '', ?)"


def ids(home: Path) -> list[str]:
    with transaction(home) as db:
        return [row[0] for row in db.execute("SELECT port_id FROM ports")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A state folder with one row."""
    with transaction(tmp_path) as db:
        db.execute(INSERT, ("a", ""))
    return tmp_path


def check(error: PortError, home: Path, what: str) -> None:
    """What every worded error has."""
    assert what in error.what and str(database_path(home)) in error.seen and error.fix


def test_the_database_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with transaction(tmp_path) as db:
            db.execute(INSERT, ("a", ""))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("state.sqlite3*")}
        hash_files(tmp_path, [database_path(tmp_path)])
    finally:
        os.umask(before)
    assert set(modes) == {"state.sqlite3", "state.sqlite3-wal", "state.sqlite3-shm"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "hashes.sqlite3").stat().st_mode) == 0o600


def test_the_state_folder_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVIDEO_PORT_HOME", str(tmp_path / "new" / "home"))
    assert stat.S_IMODE(state_home().stat().st_mode) == 0o700


def test_a_full_disk_is_said_and_nothing_is_half_written(home: Path) -> None:
    with pytest.raises(StateUnavailable) as caught, transaction(home) as db:
        db.execute(INSERT, ("b", ""))
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
        db.execute(INSERT, ("c", "x" * 1_000_000))  # SQLite's own SQLITE_FULL
    check(caught.value, home, "disk of the state folder is full")
    assert ids(home) == ["a"]


def test_a_read_only_database_is_said(home: Path) -> None:
    with pytest.raises(StateUnavailable) as caught, transaction(home) as db:
        db.execute("PRAGMA query_only = ON")
        db.execute(INSERT, ("b", ""))
    check(caught.value, home, "cannot be written")
    assert ids(home) == ["a"]


def test_a_database_that_another_process_holds_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PATIENCE_S", 0.2)
    with closing(sqlite3.connect(database_path(home), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateUnavailable) as caught, transaction(home):
            pass
    check(caught.value, home, "in use by another process")
    assert ids(home) == ["a"]


def test_who_only_reads_waits_for_nobody_who_writes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty clients that asked for their ports stood in one line, each with the lock of a writer."""
    monkeypatch.setattr(database, "_PATIENCE_S", 0.2)
    with transaction(home) as db:
        db.execute(INSERT, ("b", ""))
        assert select(home, "SELECT port_id FROM ports") == ["a"]
    assert select(home, "SELECT port_id FROM ports WHERE port_id = ?", "b") == ["b"]


def test_the_first_to_read_makes_the_database_for_its_owner_alone(tmp_path: Path) -> None:
    assert select(tmp_path, "SELECT port_id FROM ports") == []
    assert stat.S_IMODE(database_path(tmp_path).stat().st_mode) == 0o600


def test_a_file_that_is_no_database_is_said_and_left_as_it_is(tmp_path: Path) -> None:
    database_path(tmp_path).write_bytes(b"nonsense" * 4096)
    with pytest.raises(StateDamaged) as caught, transaction(tmp_path):
        pass
    check(caught.value, tmp_path, "damaged")
    assert database_path(tmp_path).read_bytes() == b"nonsense" * 4096
    with pytest.raises(StateDamaged):
        RunStore(tmp_path).list()


def test_a_damaged_page_is_said(home: Path) -> None:
    with transaction(home) as db:
        for number in range(200):
            db.execute(INSERT, (f"p{number}", "x" * 500))
    with closing(sqlite3.connect(database_path(home))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(database_path(home).read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    database_path(home).write_bytes(bytes(data))
    with pytest.raises(StateDamaged) as caught:
        ids(home)
    check(caught.value, home, "damaged")


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    database_path(tmp_path).mkdir()
    with pytest.raises(StateUnavailable) as caught, transaction(tmp_path):
        pass
    check(caught.value, tmp_path, "cannot be opened")


def test_a_state_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateUnavailable), transaction(tmp_path / "gone"):
        pass


def test_an_error_of_a_statement_stays_what_it_is(home: Path) -> None:
    with pytest.raises(sqlite3.IntegrityError), transaction(home) as db:
        db.execute(INSERT, ("a", ""))


def test_an_exception_inside_rolls_back(home: Path) -> None:
    with pytest.raises(KeyError), transaction(home) as db:
        db.execute(INSERT, ("b", ""))
        raise KeyError
    assert ids(home) == ["a"]


def test_a_damaged_memory_of_hashes_costs_only_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    first = hash_files(tmp_path, [path])
    (tmp_path / "hashes.sqlite3").write_bytes(b"nonsense" * 999)
    assert hash_files(tmp_path, [path]) == first
