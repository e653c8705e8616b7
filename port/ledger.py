"""Evidence: an append-only list in which every entry is chained to the one before and signed."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .database import transaction
from .errors import PortError
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
        """Record a measurement; a run is recorded once, however often its result is asked for."""
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
        key = self._key()
        with transaction(self.home) as db:
            row = db.execute("SELECT entry FROM ledger WHERE run_id = ?", (run_id,)).fetchone()
            if row is not None:
                return Entry.model_validate_json(row[0])
            last = db.execute("SELECT digest FROM ledger ORDER BY sequence DESC LIMIT 1").fetchone()
            previous = last[0] if last else _GENESIS
            text = entry.model_dump_json()
            digest = _digest(previous, text)
            db.execute(
                "INSERT INTO ledger (run_id, port_id, entry, previous, digest, signature) VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, port_id, text, previous, digest, _sign(key, digest)),
            )
        return entry

    def entries(self, port_id: str) -> list[Entry]:
        """The port's entries, oldest first, after the whole chain has been verified.

        Raises:
            PortError: The chain is broken; nothing in it is evidence any more.
        """
        problems = self.verify()
        if problems:
            raise PortError(
                "The ledger has been changed by something other than this program.",
                seen="; ".join(problems[:3]),
                fix="Evidence in it counts no longer. Move the state folder away and run the checks again.",
            )
        with transaction(self.home) as db:
            rows = db.execute("SELECT entry FROM ledger WHERE port_id = ? ORDER BY sequence", (port_id,)).fetchall()
        return [Entry.model_validate_json(row[0]) for row in rows]

    def verify(self) -> list[str]:
        """What is wrong with the chain: changed, removed, reordered, copied or unsigned entries. Empty when intact.

        SQLite's own count of rows ever written tells that the newest ones were removed.
        """
        try:
            with transaction(self.home) as db:
                rows = db.execute(
                    "SELECT sequence, run_id, port_id, entry, previous, digest, signature FROM ledger ORDER BY sequence"
                ).fetchall()
                used = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'ledger'").fetchone()
        except sqlite3.DatabaseError as error:
            return [f"the database cannot be read: {error}"]
        if not rows and used is None:
            return []
        key = self._key()
        problems = []
        previous, expected = _GENESIS, 1
        for sequence, run_id, port_id, text, before, digest, signature in rows:
            if sequence != expected:
                problems.append(f"entry {expected} is missing")
                expected = sequence
            if before != previous or digest != _digest(before, text):
                problems.append(f"entry {sequence} does not follow the one before it, or its text was changed")
            elif not hmac.compare_digest(signature, _sign(key, digest)):
                problems.append(f"entry {sequence} is not signed with this state folder's key")
            elif (run_id, port_id) != _identity(text):
                problems.append(f"entry {sequence} stands under another run or port")
            previous, expected = digest, expected + 1
        if used is not None and used[0] >= expected:
            problems.append(f"the newest entries are missing: {used[0]} were written, {expected - 1} are there")
        return problems

    def _key(self) -> bytes:
        path = self.home / "ledger.key"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            pass
        draft = self.home / f"ledger.key.{secrets.token_hex(4)}"
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(32))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(draft, path)  # fails if another process was faster; then its key is the key
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_bytes()


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
