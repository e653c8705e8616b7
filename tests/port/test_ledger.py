"""The ledger: every way of changing it behind the program's back is found and named."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastvideo_port.port.database import StateUnavailable, database_path
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.ledger import Entry, Ledger

PORT = "port-1"


def add(home: Path, run_id: str, *, port_id: str = PORT, verdict: str = "pass") -> Entry:
    return Ledger(home).append(
        port_id=port_id,
        kind="component_parity",
        component="transformer",
        verdict=verdict,  # type: ignore[arg-type]
        run_id=run_id,
        summary={"why": ""},
        depends_on={"weights": "w"},
    )


def filled(home: Path, count: int = 3) -> Path:
    """A state folder with ``count`` entries of runs a, b, c ..."""
    home.mkdir()
    for number in range(count):
        add(home, f"run-{number}")
    return home


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with three entries, to copy: every append waits for the disk several times."""
    home = filled(tmp_path_factory.mktemp("ledger") / "template")
    sql(home)
    return home


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    """A state folder with the entries of run-0, run-1 and run-2."""
    return Path(shutil.copytree(template, tmp_path / "home"))


def sql(home: Path, *statements: str) -> None:
    """Change the database as anybody with a file could, and leave no side files."""
    with sqlite3.connect(database_path(home), isolation_level=None) as db:
        for statement in statements:
            db.execute(statement)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def copy_database(source: Path, target: Path) -> None:
    sql(source)
    for old in target.glob("state.sqlite3*"):
        old.unlink()
    shutil.copy(database_path(source), database_path(target))


def runs(home: Path) -> list[str]:
    return [entry.run_id for entry in Ledger(home).entries(PORT)]


def test_what_was_appended_is_read_back_in_order(home: Path) -> None:
    assert runs(home) == ["run-0", "run-1", "run-2"]
    assert Ledger(home).verify() == []
    assert Ledger(home).entries("port-2") == []


def test_an_empty_folder_has_an_empty_and_sound_ledger(tmp_path: Path) -> None:
    assert Ledger(tmp_path).verify() == []
    assert Ledger(tmp_path).entries(PORT) == []
    assert not (tmp_path / "ledger.key").exists()  # reading makes no key


def test_a_run_is_recorded_once_and_keeps_its_first_entry(home: Path) -> None:
    first = Ledger(home).entries(PORT)[1]
    assert add(home, "run-1", verdict="fail") == first
    assert runs(home) == ["run-0", "run-1", "run-2"]


def test_the_files_are_their_owners_alone(home: Path) -> None:
    for name in ("state.sqlite3", "ledger.key", "ledger.head"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600, name


def remove_newest_and_its_count(home: Path) -> None:
    sql(home, "DELETE FROM ledger WHERE sequence = 3", "UPDATE sqlite_sequence SET seq = 2 WHERE name = 'ledger'")


def remove_all_and_their_count(home: Path) -> None:
    sql(home, "DELETE FROM ledger", "DELETE FROM sqlite_sequence WHERE name = 'ledger'")


def swap(home: Path) -> None:
    columns = "run_id, port_id, entry, previous, digest, signature"
    with sqlite3.connect(database_path(home), isolation_level=None) as db:
        rows = db.execute(f"SELECT {columns} FROM ledger ORDER BY sequence").fetchall()
        db.execute("DELETE FROM ledger WHERE sequence IN (2, 3)")
        for sequence, row in ((2, rows[2]), (3, rows[1])):
            db.execute(f"INSERT INTO ledger (sequence, {columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", (sequence, *row))
    db.close()


def copy_last(home: Path) -> None:
    sql(
        home,
        "INSERT INTO ledger (run_id, port_id, entry, previous, digest, signature) "
        "SELECT 'run-9', port_id, entry, previous, digest, signature FROM ledger WHERE sequence = 3",
    )


def forge(home: Path) -> None:
    """A well-chained entry of somebody who has no key."""
    from fastvideo_port.port.ledger import _digest

    with sqlite3.connect(database_path(home), isolation_level=None) as db:
        text, last = db.execute("SELECT entry, digest FROM ledger WHERE sequence = 3").fetchone()
        text = text.replace("run-2", "run-9")
        row = ("run-9", PORT, text, last, _digest(last, text), "0" * 64)
        db.execute(
            "INSERT INTO ledger (run_id, port_id, entry, previous, digest, signature) VALUES (?, ?, ?, ?, ?, ?)", row
        )
    db.close()


def garbage(home: Path) -> None:
    sql(home)
    for old in home.glob("state.sqlite3-*"):
        old.unlink()
    database_path(home).write_bytes(b"nonsense" * 4096)


def other_home(home: Path) -> Path:
    return filled(home.parent / "other")


def replay_database_and_head(home: Path) -> None:
    other = other_home(home)
    copy_database(other, home)
    shutil.copy(other / "ledger.head", home / "ledger.head")


def write(name: str, data: bytes) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        (home / name).write_bytes(data)

    return change


TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a verdict changed": (
        lambda home: sql(home, "UPDATE ledger SET entry = replace(entry, 'pass', 'fail') WHERE sequence = 2"),
        "entry 2 does not follow the one before it, or its text was changed",
    ),
    "one space more": (
        lambda home: sql(home, "UPDATE ledger SET entry = entry || ' ' WHERE sequence = 3"),
        "entry 3 does not follow",
    ),
    "the digest changed": (
        lambda home: sql(home, "UPDATE ledger SET digest = 'g' || substr(digest, 2) WHERE sequence = 1"),
        "entry 1 does not follow",
    ),
    "a middle one removed": (lambda home: sql(home, "DELETE FROM ledger WHERE sequence = 2"), "entry 2 is missing"),
    "the first removed": (lambda home: sql(home, "DELETE FROM ledger WHERE sequence = 1"), "entry 1 is missing"),
    "the newest removed": (
        lambda home: sql(home, "DELETE FROM ledger WHERE sequence = 3"),
        "count of entries was changed: it says 3, 2 are there",
    ),
    "the newest and its count removed": (remove_newest_and_its_count, "3 were written, 2 are there"),
    "all removed": (lambda home: sql(home, "DELETE FROM ledger"), "it says 3, 0 are there"),
    "all and their count removed": (remove_all_and_their_count, "3 were written, 0 are there"),
    "reordered": (swap, "entry 2 does not follow"),
    "renumbered": (lambda home: sql(home, "UPDATE ledger SET sequence = 7 WHERE sequence = 3"), "entry 3 is missing"),
    "copied under another run": (copy_last, "entry 4 does not follow"),
    "moved to another run": (
        lambda home: sql(home, "UPDATE ledger SET run_id = 'run-9' WHERE sequence = 3"),
        "entry 3 stands under another run or port",
    ),
    "moved to another port": (
        lambda home: sql(home, "UPDATE ledger SET port_id = 'port-2' WHERE sequence = 1"),
        "entry 1 stands under another run or port",
    ),
    "forged without the key": (forge, "entry 4 is not signed"),
    "the signature changed": (
        lambda home: sql(home, "UPDATE ledger SET signature = 'é' WHERE sequence = 2"),
        "entry 2 is not signed",
    ),
    "the signature of another entry": (
        lambda home: sql(
            home,
            "UPDATE ledger SET signature = (SELECT signature FROM ledger WHERE sequence = 1) WHERE sequence = 2",
        ),
        "entry 2 is not signed",
    ),
    "bytes for text": (
        lambda home: sql(home, "UPDATE ledger SET entry = x'ff00', digest = 7 WHERE sequence = 2"),
        "entry 2 does not follow",
    ),
    "text that is no text": (
        lambda home: sql(home, "UPDATE ledger SET entry = cast(x'ff00' as text) WHERE sequence = 2"),
        "the database cannot be read",
    ),
    "the count lowered": (
        lambda home: sql(home, "UPDATE sqlite_sequence SET seq = 1 WHERE name = 'ledger'"),
        "it says 1, 3 are there",
    ),
    "the count raised": (
        lambda home: sql(home, "UPDATE sqlite_sequence SET seq = 30 WHERE name = 'ledger'"),
        "it says 30, 3 are there",
    ),
    "the count removed": (lambda home: sql(home, "DELETE FROM sqlite_sequence"), "it says None, 3 are there"),
    "the table dropped": (lambda home: sql(home, "DROP TABLE ledger"), "3 were written, 0 are there"),
    "a column dropped": (
        lambda home: sql(home, "ALTER TABLE ledger DROP COLUMN signature"),
        "the database cannot be read",
    ),
    "the database removed": (
        lambda home: [path.unlink() for path in home.glob("state.sqlite3*")],
        "3 were written, 0 are there",
    ),
    "the database is garbage": (garbage, "the database cannot be read"),
    "another folder's database": (lambda home: copy_database(other_home(home), home), "is not signed"),
    "another folder's database and head": (replay_database_and_head, "ledger.head is not signed"),
    "the key deleted": (lambda home: (home / "ledger.key").unlink(), "ledger.key is gone"),
    "the key replaced": (write("ledger.key", b"k" * 32), "ledger.head is not signed"),
    "the key emptied": (write("ledger.key", b""), "ledger.head is not signed"),
    "the head deleted": (lambda home: (home / "ledger.head").unlink(), "ledger.head is gone, and there are 3 entries"),
    "the head is garbage": (write("ledger.head", b"{}"), "ledger.head is damaged"),
    "the head edited": (
        lambda home: write("ledger.head", (home / "ledger.head").read_bytes().replace(b"3", b"2", 1))(home),
        "ledger.head is not signed",
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_tampering_is_found_and_named(home: Path, name: str) -> None:
    change, said = TAMPERINGS[name]
    assert Ledger(home).verify() == []
    change(home)
    problems = Ledger(home).verify()
    assert any(said in problem for problem in problems), problems
    with pytest.raises(PortError, match="changed by something other than this program"):
        Ledger(home).entries(PORT)


# SQLite puts its own count right at the next insert, and nothing of the evidence was changed.
HARMLESS = ("the count lowered", "the count removed")


@pytest.mark.parametrize("name", [name for name in TAMPERINGS if name not in HARMLESS])
def test_an_append_does_not_sign_what_was_tampered_with(home: Path, name: str) -> None:
    """Afterwards the tampering is still found."""
    change, _ = TAMPERINGS[name]
    change(home)
    try:
        add(home, "run-8")
    except PortError:
        pass
    assert Ledger(home).verify() != []


def test_an_older_copy_of_the_database_is_found(home: Path, tmp_path: Path) -> None:
    """Its chain is sound and signed; only the head outside knows that there was more."""
    (tmp_path / "backup").mkdir()
    copy_database(home, tmp_path / "backup")
    add(home, "run-3", verdict="fail")
    copy_database(tmp_path / "backup", home)
    (problem,) = Ledger(home).verify()
    assert "4 were written, 3 are there" in problem
    with pytest.raises(PortError, match="changed by something other"):
        add(home, "run-4")


def test_a_copy_that_went_another_way_is_found(home: Path, tmp_path: Path) -> None:
    """Two copies of one folder, the same key: the entries of one do not pass in the other."""
    shutil.copytree(home, tmp_path / "twin")
    add(home, "run-3", verdict="fail")
    add(tmp_path / "twin", "run-3", verdict="pass")
    copy_database(tmp_path / "twin", home)
    assert Ledger(home).verify() == ["the last of the 4 entries is not the one that was written"]


CRASH = """
import os, sys
from pathlib import Path
from fastvideo_port.port import ledger
real, left = ledger.write_head, int(sys.argv[2])
def write_head(*arguments):
    global left
    if left == 0:
        os._exit(9)
    real(*arguments)
    left -= 1
    if left == 0 and sys.argv[3] == "after":
        os._exit(9)
ledger.write_head = write_head
ledger.Ledger(Path(sys.argv[1])).append(
    port_id="port-1", kind="ssim", verdict="pass", run_id="run-x", summary={}, depends_on={})
"""


@pytest.mark.parametrize(
    ("writes", "when", "kept"),
    [
        (0, "before", False),  # before the head says "perhaps one more"
        (1, "after", False),  # between the head and the commit
        (1, "before", True),  # between the commit and the head's last word
        (2, "after", True),
    ],
)
def test_a_crash_between_the_two_writes_is_no_tampering(home: Path, writes: int, when: str, kept: bool) -> None:
    arguments = [sys.executable, "-c", CRASH, str(home), str(writes), when]
    assert subprocess.run(arguments, check=False).returncode == 9
    assert runs(home) == ["run-0", "run-1", "run-2", *(["run-x"] if kept else [])]
    add(home, "run-x")
    add(home, "run-y")
    assert runs(home) == ["run-0", "run-1", "run-2", "run-x", "run-y"]


def test_after_a_crash_the_newest_entry_cannot_be_removed_any_more(home: Path) -> None:
    """What was written is settled by the first who reads: the head's "perhaps" is no door that stays open."""
    subprocess.run([sys.executable, "-c", CRASH, str(home), "1", "before"], check=False)
    assert len(runs(home)) == 4
    sql(home, "DELETE FROM ledger WHERE sequence = 4", "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'ledger'")
    assert "4 were written, 3 are there" in Ledger(home).verify()[0]


def _appends(home: Path, name: str, count: int) -> None:
    for number in range(count):
        add(home, f"{name}-{number}")


def test_two_processes_append_at_once_and_the_chain_is_whole(tmp_path: Path) -> None:
    """Also the very first entry, when the key and the tables are not there yet."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_appends, args=(tmp_path, name, 12)) for name in ("a", "b", "c")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert Ledger(tmp_path).verify() == []
    assert sorted(runs(tmp_path)) == sorted(f"{name}-{number}" for name in "abc" for number in range(12))
    assert len(list(tmp_path.glob("ledger.*"))) == 2  # no draft is left


def test_two_processes_record_one_run_once(home: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add, args=(home, "run-z")) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert runs(home).count("run-z") == 1


def test_a_head_that_cannot_be_written_records_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastvideo_port.port import ledger_head

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ledger_head, "_write", full)
        with pytest.raises(PortError, match="head cannot be written") as caught:
            add(home, "run-3")
    assert "No space left" in caught.value.seen
    assert runs(home) == ["run-0", "run-1", "run-2"]


def test_a_folder_in_place_of_the_database_is_no_ledger(home: Path) -> None:
    sql(home)
    for old in home.glob("state.sqlite3*"):
        old.unlink()
    database_path(home).mkdir()
    with pytest.raises(StateUnavailable, match="cannot be opened"):
        Ledger(home).entries(PORT)


def test_a_fifo_in_place_of_the_key_makes_nobody_wait(home: Path) -> None:
    import os

    (home / "ledger.key").unlink()
    os.mkfifo(home / "ledger.key")
    assert Ledger(home).verify() != []


def test_an_entry_of_another_version_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Ledger(home).entries(PORT)[0].model_dump_json().replace("run-0", "run-7")
    newer = text[:-1] + ',"colour":"blue"}'
    monkeypatch.setattr(Entry, "model_dump_json", lambda self: newer)
    add(home, "run-7")
    monkeypatch.undo()
    with pytest.raises(PortError, match="another version"):
        Ledger(home).entries(PORT)
