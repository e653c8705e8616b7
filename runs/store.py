"""The run store: creating, starting, finding and ending runs, from any number of servers at once."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import secrets
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..parity.strict_json import encode, write_atomically
from ..port.errors import PortError
from ..port.python_source import parse_python
from ..port.records import new_id, now
from . import processes
from .detach import start_detached
from .folder import last_progress, run_folder
from .launch import is_secret
from .leases import lease_keys
from .log import LOG, tail
from .models import ProcessIdentity, Run, RunError, RunRecord
from .outcome import read_result
from .records import add_record, change_record, list_records, read_record
from .recover import recovered
from .trace_context import trace_variables

Report = Callable[[float, float | None, str], None]

PARITY_DIR = Path(__file__).resolve().parent.parent / "parity"
OWN_JOBS = Path(__file__).resolve().parent / "jobs"
TIME_LIMIT_S = 7200.0
LOG_LIMIT = 64 * 1024 * 1024

_POLL_FIRST_S, _POLL_MOST_S = 0.05, 0.25
_CANCEL_PATIENCE_S = 20.0


class RunStore:
    """Runs on disk, shared by every server that uses the state folder; the processes belong to none of them."""

    def __init__(self, home: Path, *, parity_dir: Path = PARITY_DIR, leaving: threading.Event | None = None) -> None:
        """Use the state folder ``home``.

        Args:
            home: The state folder.
            parity_dir: The engine's package that workers load by path.
            leaving: Set once nobody is there any more to wait for: `wait` then returns at once.
        """
        self.home = home
        self.parity_dir = parity_dir
        self.leaving = leaving or threading.Event()

    def create(
        self,
        *,
        port_id: str | None,
        tool: str,
        arguments: Mapping[str, Any],
        python: str,
        job: str,
        spec: Mapping[str, Any],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        time_limit_s: float = TIME_LIMIT_S,
        log_limit: int = LOG_LIMIT,
        memory_limit: int | None = None,
        keep_tokens: bool = False,
        own: bool = False,
    ) -> Run:
        """Record a new run and write its spec; nothing is executed yet.

        Args:
            port_id: The port it belongs to, or none.
            tool: The tool that starts it; ``run_status`` makes that tool's result of it.
            arguments: That tool's arguments by their names, and what else its ``finish`` needs.
            python: The interpreter of the worker.
            job: A name in the engine's ``JOBS``.
            spec: What the job gets; ``spec["devices"]`` (torch device names) are leased for the run.
            cwd: Folder of the worker, as a rule the port's worktree.
            env: Additional variables of the worker, beside those of the current trace. Kept on disk, so no tokens.
            time_limit_s: Seconds from launch after which the run is ended.
            log_limit: Bytes of log to keep.
            memory_limit: Bytes of resident memory of all the run's processes, looked at every 2 s; none: no limit.
            keep_tokens: Leave HF_TOKEN and the like in the worker's environment.
            own: The job is one of ``runs/jobs``, which need the server's packages; ``python`` is the server's.

        Raises:
            PortError: The engine has no such job, a device has no legal name, a limit is not legal, ``env`` holds a
                token, or the state folder cannot be written.
        """
        self._check(job, OWN_JOBS if own else self.parity_dir, env or {}, time_limit_s, log_limit, memory_limit)
        devices = [str(device) for device in spec.get("devices") or []]
        lease_keys(devices, {})
        creator = processes.identify(os.getpid())
        assert creator is not None
        run_id = new_id("run")
        folder = run_folder(self.home, run_id)
        data = encode(dict(spec))
        record = RunRecord(
            run_id=run_id,
            port_id=port_id,
            tool=tool,
            arguments=json.loads(encode(dict(arguments))),
            state="queued",
            created_at=now(),
            log_path=str(folder / LOG),
            python=str(python),
            job=job,
            parity_dir=str(self.parity_dir),
            package=f"{__package__}.jobs" if own else "",
            cwd=str(cwd),
            env={**trace_variables(), **(env or {})},
            keep_tokens=keep_tokens,
            devices=devices,
            time_limit_s=time_limit_s,
            log_limit=log_limit,
            memory_limit=memory_limit,
            spec_digest=hashlib.sha256(data).hexdigest(),
            key=secrets.token_hex(32),
            creator=creator,
        )
        try:
            folder.mkdir(parents=True, mode=0o700)
            (folder / "files").mkdir()
            write_atomically(folder / "spec.json", data, durable=True)
            add_record(self.home, record)
        except (OSError, sqlite3.Error) as error:
            # Nothing half made: without its record nobody would ever look into the folder again.
            shutil.rmtree(folder, ignore_errors=True)
            raise PortError(
                "The run cannot be recorded: the state folder cannot be written.",
                seen=f"{self.home}: {error}",
                fix="Free space on that disk or make the folder writable, then try again.",
            ) from error
        return record.public()

    def start(self, run_id: str) -> Run:
        """Hand a queued run to a supervisor of its own; a run that was started before is left alone.

        Raises:
            PortError: There is no such run.
        """

        def launch(record: RunRecord) -> RunRecord | None:
            if record.state != "queued" or record.supervisor is not None:
                return None
            # Inside the transaction: two servers cannot both launch, and if this process dies before the commit the
            # supervisor, which waits for it, takes the run over by itself.
            try:
                pid = start_detached(
                    f"{__package__}.supervise", [str(self.home), run_id], self.folder(run_id) / "supervisor.log"
                )
            except OSError as error:
                what = "The supervisor of this run cannot be started."
                failure = RunError(what=what, seen=str(error), fix="Run `fastvideo-port doctor`.")
                return record.model_copy(update={"state": "crashed", "finished_at": now(), "error": failure})
            # Already gone? Then it is recorded as such, and the next reader finds that out.
            supervisor = processes.identify(pid) or ProcessIdentity(pid=pid, born="gone")
            return record.model_copy(update={"supervisor": supervisor})

        read_record(self.home, run_id)
        return change_record(self.home, run_id, launch).public()

    def get(self, run_id: str) -> Run:
        """The run as it is now; one whose supervisor died is put in order first.

        Raises:
            PortError: There is no such run; the nearest ids are named.
        """
        return self._current(read_record(self.home, run_id))

    def list(self, port_id: str | None = None) -> list[Run]:
        """All runs, or those of one port, the newest first."""
        return [self._current(record) for record in list_records(self.home, port_id)]

    def wait(self, run_id: str, seconds: float, report: Report | None = None) -> Run:
        """The run as soon as it is finished, or as it is after ``seconds``; progress goes to ``report`` meanwhile.

        Raises:
            PortError: There is no such run.
        """
        return self._wait(run_id, seconds, self.leaving, report)

    def _wait(self, run_id: str, seconds: float, leaving: threading.Event, report: Report | None = None) -> Run:
        deadline = time.monotonic() + seconds
        pause = _POLL_FIRST_S
        said = None
        while True:
            run = self.get(run_id)
            if report is not None and run.progress is not None and run.progress != said:
                said = run.progress
                report(said.done, said.total, said.message)
            left = deadline - time.monotonic()
            if run.finished or left <= 0 or leaving.wait(min(pause, left)):
                return run
            pause = min(pause * 1.25, _POLL_MOST_S)

    def cancel(self, run_id: str) -> Run:
        """End a run with everything it started: SIGTERM, 5 s, SIGKILL. A finished run is returned as it is.

        Raises:
            PortError: There is no such run, or its processes do not end.
        """

        def ask(record: RunRecord) -> RunRecord | None:
            if record.finished:
                return None
            if record.supervisor is None:
                failure = RunError(what="The run was cancelled before it started.")
                return record.model_copy(update={"state": "cancelled", "finished_at": now(), "error": failure})
            return record.model_copy(update={"cancel_requested": True})

        self.get(run_id)
        record = change_record(self.home, run_id, ask)
        if record.finished:
            return record.public()
        processes.send(record.supervisor, signal.SIGTERM)
        to_the_end = threading.Event()
        run = self._wait(run_id, _CANCEL_PATIENCE_S, to_the_end)
        if not run.finished:
            processes.send(record.supervisor, signal.SIGKILL)
            run = self._wait(run_id, _CANCEL_PATIENCE_S, to_the_end)
        if not run.finished:
            raise PortError(
                "The run does not end.",
                seen=f"{run_id}: supervisor {record.supervisor}, worker {record.worker}",
                fix="A process is stuck in the kernel (often a driver); look at it with ps, then ask run_status again.",
            )
        return run

    def folder(self, run_id: str) -> Path:
        """The run's folder.

        Raises:
            PortError: There is no such run.
        """
        read_record(self.home, run_id)
        return run_folder(self.home, run_id)

    def value(self, run_id: str) -> dict[str, Any]:
        """What the worker found: ``value`` of its result, checked against the digest recorded when it ended.

        Raises:
            PortError: The run has no result, or the file was changed afterwards.
        """
        record = read_record(self.home, run_id)
        run = self._current(record)
        if run.state != "done":
            why = f": {run.error.what}" if run.error else ""
            raise PortError(
                "The run has no result.",
                seen=f"{run_id} is {run.state}{why}",
                fix="Call run_status to follow it." if not run.finished else "Correct the cause and start it again.",
            )
        record = read_record(self.home, run_id)
        result, digest, wrong = read_result(run_folder(self.home, run_id), record.key)
        if result is None or digest != record.result_digest:
            raise PortError(
                "The run's result was changed or removed after the run ended; it is not accepted.",
                seen=f"{run_folder(self.home, run_id) / 'result.json'}: {wrong or 'missing or not the recorded one'}",
                fix="Start the run again, and leave its folder alone.",
            )
        value: dict[str, Any] = result["value"]
        return value

    def log_tail(self, run_id: str, lines: int = 20) -> str:
        """The last lines of the worker's output, as it wrote them: untrusted text.

        Raises:
            PortError: There is no such run.
        """
        return tail(self.folder(run_id), lines)

    def _current(self, record: RunRecord) -> Run:
        if record.finished:
            return record.public()
        record = recovered(self.home, record)
        if not record.finished:
            record = record.model_copy(update={"progress": last_progress(run_folder(self.home, record.run_id))})
        return record.public()

    def _check(
        self,
        job: str,
        jobs_dir: Path,
        env: Mapping[str, str],
        time_limit_s: float,
        log_limit: int,
        memory_limit: int | None,
    ) -> None:
        jobs = engine_jobs(jobs_dir)
        if job not in jobs:
            raise PortError(
                "The engine has no such job.", seen=f"job={job[:80]!r}", fix=f"Choose one of: {', '.join(jobs)}."
            )
        secret = next((name for name in env if is_secret(name)), None)
        if secret is not None:
            raise PortError(
                "A token must not be stored with a run.",
                seen=f"the variable {secret}",
                fix="Set it in the server's environment and create the run with keep_tokens=True.",
            )
        if not 0 < time_limit_s < float("inf") or log_limit < 1024 or (memory_limit is not None and memory_limit < 1):
            raise PortError(
                "A limit of the run is not legal.",
                seen=f"time_limit_s={time_limit_s}, log_limit={log_limit}, memory_limit={memory_limit}",
                fix="Give a positive number of seconds, at least 1024 bytes of log, a positive memory limit or none.",
            )


def engine_jobs(folder: Path) -> tuple[str, ...]:
    """The names in the ``JOBS`` of the ``worker.py`` in ``folder``, read from its source: it is never imported here."""
    tree = parse_python((folder / "worker.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(x, ast.Name) and x.id == "JOBS" for x in node.targets):
            return tuple(sorted(ast.literal_eval(node.value)))
    raise PortError("The engine declares no jobs.", seen=str(folder / "worker.py"), fix="Install the package again.")
