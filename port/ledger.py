"""Evidence: an append-only list in which every entry is chained to the one before and signed.

Together with the head (see ``ledger_head``) this tells a changed, removed, added, reordered or copied entry, another
state folder's entries, and an older copy of the database.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .database import StateDamaged, transaction
from .errors import PortError
from .ledger_head import HEAD_FILE, KEY_FILE, Head, Tip, make_key, read_head, read_key, write_head
from .records import now

Verdict = Literal["pass", "fail", "investigate", "inconclusive", "error"]

_GENESIS = "0" * 64


class Entry(BaseModel):
    """One measurement.

    The ``depends_on`` keys say what the value is: ``worktree:<path>`` and ``adapter:<path>`` are SHA-256 of files,
    ``weights`` the digest that `fetch_weights` recorded, ``environment:...`` a version or device.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = Field(description="check_mapping, component_parity, ssim, ...")
    port_id: str
    component: str | None = None
    run_id: str
    verdict: Verdict
    complete: bool = Field(description="Whether everything was run that the gate asks for, not a chosen part.")
    summary: dict[str, Any]
    depends_on: dict[str, str]
    recorded_at: str


class Ledger:
    """The ledger of a state folder. Its key is made on first use and readable by this user alone."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def append(
        self,
        *,
        port_id: str,
        kind: str,
        verdict: Verdict,
        run_id: str,
        summary: dict[str, Any],
        depends_on: dict[str, str],
        component: str | None = None,
        complete: bool = True,
    ) -> Entry:
        """Record a measurement; a run is recorded once, however often its result is asked for.

        Raises:
            PortError: The ledger was tampered with, so that nothing may be added to it, or it cannot be written.
        """
        entry = Entry(
            kind=kind,
            port_id=port_id,
            component=component,
            run_id=run_id,
            verdict=verdict,
            complete=complete,
            summary=summary,
            depends_on=depends_on,
            recorded_at=now(),
        )
        text = entry.model_dump_json()
        with transaction(self.home) as db:
            key, tip, problems = self._settle(db)
            if problems:
                raise _tampered(problems)
            row = db.execute("SELECT entry FROM ledger WHERE run_id = ?", (run_id,)).fetchone()
            if row is not None:
                return _parsed(row[0])
            key = key or make_key(self.home)
            digest = _digest(tip.digest, text)
            db.execute(
                "INSERT INTO ledger (run_id, port_id, entry, previous, digest, signature) VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, port_id, text, tip.digest, digest, _sign(key, digest)),
            )
            write_head(self.home, key, Head(tip, next=Tip(tip.count + 1, digest)))
        # The entry is there now; this only takes "perhaps" out of the head, which whoever comes next would do too.
        with transaction(self.home) as db:
            self._settle(db)
        return entry

    def entries(self, port_id: str) -> list[Entry]:
        """The port's entries, oldest first, after the whole chain has been verified.

        Raises:
            PortError: The chain is broken; nothing in it is evidence any more. Or the database cannot be read.
        """
        problems, rows = self._read()
        if problems:
            raise _tampered(problems)
        return [_parsed(text) for _, _, port, text, *_ in rows if port == port_id]

    def verify(self) -> list[str]:
        """What is wrong with the chain: changed, removed, reordered, copied or unsigned entries. Empty when intact."""
        return self._read()[0]

    def _read(self) -> tuple[list[str], list[_Row]]:
        """What is wrong, and every row, as of one moment."""
        try:
            with transaction(self.home) as db:
                key, _, problems = self._settle(db)
                rows: list[_Row] = db.execute(
                    "SELECT sequence, run_id, port_id, entry, previous, digest, signature FROM ledger ORDER BY sequence"
                ).fetchall()
                used = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'ledger'").fetchone()
        except StateDamaged as error:
            return [f"the database cannot be read: {error.seen}"], []
        return _broken(rows, used[0] if used else None, key) + problems, rows

    def _settle(self, db: sqlite3.Connection) -> tuple[bytes | None, Tip, list[str]]:
        """The key, how the table ends, and why that is not how the head says it ends (empty: it is).

        Ends an append that a crash interrupted: the database says whether the entry was committed. Needs the write
        lock, so that no append of another process is under way.
        """
        count = db.execute("SELECT COUNT(*) FROM ledger").fetchone()[0]
        last = db.execute("SELECT digest FROM ledger ORDER BY sequence DESC LIMIT 1").fetchone()
        tip = Tip(count, str(last[0]) if last else _GENESIS)
        key = read_key(self.home)
        if key is None:
            there = count > 0 or (self.home / HEAD_FILE).exists()
            return None, tip, [f"{KEY_FILE} is gone"] if there else []
        head = read_head(self.home, key)
        if isinstance(head, str):
            return key, tip, [head]
        if head is None:
            return key, tip, [f"{HEAD_FILE} is gone, and there are {count} entries"] if count else []
        if tip not in (head.tip, head.next):
            said = head.next or head.tip
            return key, tip, [_elsewhere(tip, said)]
        if head.next is not None:
            write_head(self.home, key, Head(tip))
        return key, tip, []


_Row = tuple[Any, ...]


def _elsewhere(tip: Tip, said: Tip) -> str:
    if tip.count < said.count:
        return f"the newest entries are missing: {said.count} were written, {tip.count} are there (an older copy?)"
    if tip.count > said.count:
        return f"there are {tip.count} entries, and only {said.count} were written by this program"
    return f"the last of the {tip.count} entries is not the one that was written"


def _broken(rows: list[_Row], used: object, key: bytes | None) -> list[str]:
    """Where the chain of ``rows`` breaks; ``used`` is SQLite's own count of rows ever written."""
    problems = []
    previous, expected = _GENESIS, 1
    for sequence, run_id, port_id, text, before, digest, signature in rows:
        if sequence != expected:
            problems.append(f"entry {expected} is missing")
            expected = sequence
        if before != previous or digest != _digest(before, text):
            problems.append(f"entry {sequence} does not follow the one before it, or its text was changed")
        elif key is None or not hmac.compare_digest(str(signature).encode(), _sign(key, digest).encode()):
            problems.append(f"entry {sequence} is not signed with this state folder's key")
        elif (run_id, port_id) != _identity(text):
            problems.append(f"entry {sequence} stands under another run or port")
        previous, expected = digest, expected + 1
    if used != (expected - 1 or None):
        problems.append(f"the database's own count of entries was changed: it says {used}, {expected - 1} are there")
    return problems


def _tampered(problems: list[str]) -> PortError:
    return PortError(
        "The ledger has been changed by something other than this program.",
        seen="; ".join(problems[:3]),
        fix="Evidence in it counts no longer. Move the state folder away and run the checks again.",
    )


def _parsed(text: str) -> Entry:
    try:
        return Entry.model_validate_json(text)
    except ValidationError as error:
        raise PortError(
            "An entry of the ledger was written by another version of this program.",
            seen=f"{error.error_count()} fields differ",
            fix="Use the version that wrote it, or move the state folder away and run the checks again.",
        ) from error


def _identity(text: str) -> tuple[str, str] | None:
    try:
        document = json.loads(text)
        return document["run_id"], document["port_id"]
    except (ValueError, KeyError, TypeError):
        return None


def _digest(previous: str, text: str) -> str:
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


def _sign(key: bytes, digest: str) -> str:
    return hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()
