"""Runs whose supervisor died: found out by the next reader, ended and recorded as what they are."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ..port.records import now
from . import processes
from .folder import read_regular, run_folder
from .log import merge, tail
from .models import RunError, RunRecord
from .outcome import Ending, judge, settled
from .records import change_record


def recovered(home: Path, record: RunRecord) -> RunRecord:
    """The record as it is if somebody looks after the run, else put in order.

    A result that the worker finished writing is accepted, because its key proves where it comes from; otherwise the
    run is ``crashed`` (or ``cancelled``, if that was asked for).
    """
    if record.finished or processes.is_alive(record.supervisor):
        return record
    if record.supervisor is None:
        # Created, and not started yet: by a process that may still do so.
        return record if processes.is_alive(record.creator) else change_record(home, record.run_id, _never_started)
    processes.end_marked(record.run_id)
    folder = run_folder(home, record.run_id)

    def finish(kept: RunRecord) -> RunRecord | None:
        # The supervisor may have recorded the end just before it went.
        if kept.finished or kept.supervisor != record.supervisor:
            return None
        merge(folder)
        ending = Ending(
            stopped="cancelled" if kept.cancel_requested else "supervisor lost",
            last_lines="\n".join(part for part in (tail(folder, 8), _last_words(folder)) if part)[-1500:],
        )
        return settled(kept, folder, ending, judge(kept, folder, ending))

    try:
        return change_record(home, record.run_id, finish)
    except sqlite3.OperationalError:
        # A full disk or a read-only folder: the truth can be told although it cannot be kept.
        return finish(record) or record


def _last_words(folder: Path) -> str:
    """The end of what the supervisor itself wrote to stderr."""
    try:
        return read_regular(folder / "supervisor.log", 1000, end=True).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _never_started(record: RunRecord) -> RunRecord | None:
    if record.finished or record.supervisor is not None:
        return None
    error = RunError(
        what="The server ended after it recorded this run and before it started it.", fix="Start the run again."
    )
    return record.model_copy(update={"state": "crashed", "finished_at": now(), "error": error})
