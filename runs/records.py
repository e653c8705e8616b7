"""Records of runs in the shared database."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from ..port.database import select, transaction
from ..port.errors import PortError
from .models import RunRecord

_LOG = logging.getLogger(__name__)
_RUN_ID = re.compile(r"run-[0-9a-f]{16}")


def add_record(home: Path, record: RunRecord) -> None:
    """Keep a new run."""
    with transaction(home) as db:
        db.execute(
            "INSERT INTO runs (run_id, port_id, tool, created_at, record) VALUES (?, ?, ?, ?, ?)",
            (record.run_id, record.port_id, record.tool, record.created_at, record.model_dump_json()),
        )


def read_record(home: Path, run_id: str) -> RunRecord:
    """The record of ``run_id``.

    Raises:
        PortError: There is no such run; the nearest ids are named.
    """
    rows = select(home, "SELECT record FROM runs WHERE run_id = ?", run_id) if _RUN_ID.fullmatch(run_id) else []
    if not rows:
        raise _unknown(home, run_id)
    record = _parsed(rows[0])
    if record is None:
        raise _damaged(run_id)
    return record


def list_records(home: Path, port_id: str | None = None) -> list[RunRecord]:
    """All records, or those of one port, the newest first."""
    if port_id is None:
        rows = select(home, "SELECT record FROM runs ORDER BY created_at DESC")
    else:
        rows = select(home, "SELECT record FROM runs WHERE port_id = ? ORDER BY created_at DESC", port_id)
    return [record for record in map(_parsed, rows) if record is not None]


def change_record(home: Path, run_id: str, change: Callable[[RunRecord], RunRecord | None]) -> RunRecord:
    """Replace a record by ``change(record)`` in one transaction; none leaves it as it is. Returns what is kept.

    Raises:
        PortError: There is no such run.
    """
    with transaction(home) as db:
        row = db.execute("SELECT record FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if row is not None:
            before = _parsed(row[0])
            if before is None:
                raise _damaged(run_id)
            after = change(before)
            if after is None:
                return before
            db.execute("UPDATE runs SET record = ? WHERE run_id = ?", (after.model_dump_json(), run_id))
            return after
    raise _unknown(home, run_id)


def _parsed(row: str) -> RunRecord | None:
    try:
        return RunRecord.model_validate_json(row)
    except ValidationError:
        # Its text repeats the row, and the row holds the run's key: say only that it is damaged.
        _LOG.warning("a record in the table of runs is damaged and was passed over")
        return None


def _damaged(run_id: str) -> PortError:
    return PortError(
        "The record of this run is damaged, so its result is not accepted.",
        seen=f"run_id={run_id}",
        fix="Start the run again through its tool; what it wrote stays in its folder.",
    )


def _unknown(home: Path, run_id: str) -> PortError:
    known = select(home, "SELECT run_id FROM runs ORDER BY created_at DESC LIMIT 1000")
    near = difflib.get_close_matches(run_id[:80], known, n=3, cutoff=0.6) or known[:3]
    return PortError(
        "There is no run with this id.",
        seen=f"run_id={run_id[:80]!r}; known: {', '.join(near) if near else 'none yet'}",
        fix="Use the run_id that the tool which started the run returned.",
    )
