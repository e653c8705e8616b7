"""The supervisor: a detached process of the server's interpreter that owns one run from launch to end.

``python -m fastvideo_port.runs.supervise HOME RUN_ID``. It outlives the server, holds the GPU lease, pumps the
worker's output into the log, enforces the limits and records the truth at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from ..parity.strict_json import encode, write_atomically
from ..port.errors import PortError
from ..port.records import now
from . import processes
from .folder import read_regular, run_folder
from .launch import worker_command, worker_environment
from .leases import Lease, lease_keys
from .log import LogWriter, tail
from .models import RunError, RunRecord
from .outcome import Ending, Outcome, Stopped, exit_facts, judge, settled
from .records import change_record, read_record

GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL."""

_CHUNK = 1 << 20
_TICK_S = 0.2
_LOOK_S = 2.0
_QUEUE_TICK_S = 0.25


class _Stop(Exception):
    """The run must not start."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


class Supervisor:
    """One run under supervision."""

    def __init__(self, home: Path, run_id: str) -> None:
        self._home = home
        self._run_id = run_id
        self._folder = run_folder(home, run_id)
        self._terminated = False

    def run(self) -> None:
        """Do everything, from taking the run over to recording its end."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        processes.become_subreaper()
        record = self._claim()
        if record is None:
            return
        lease = None
        ending = Ending()
        try:
            try:
                self._check_spec(record)
                lease = self._wait_for_devices(record)
                ending = self._work(record)
                outcome = judge(record, self._folder, ending)
            except _Stop as stop:
                outcome = stop.outcome
            except PortError as error:
                outcome = Outcome("failed", RunError(what=error.what, seen=error.seen, fix=error.fix), None)
            except Exception as error:
                processes.end_descendants(0)
                what = "The supervisor of this run failed."
                fix = "Start the run again; supervisor.log in the run's folder says more."
                seen = f"{type(error).__name__}: {error}"
                outcome = Outcome("crashed", RunError(what=what, seen=seen, fix=fix), None)
            self._record_end(ending, outcome)
        finally:
            if lease is not None:
                lease.release()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

    def _claim(self) -> RunRecord | None:
        """Take the run over; none if it is somebody else's or over."""
        me = processes.identify(os.getpid())

        def claim(record: RunRecord) -> RunRecord | None:
            free = record.supervisor in (None, me) or not processes.is_alive(record.supervisor)
            if record.state != "queued" or not free:
                return None
            return record.model_copy(update={"supervisor": me})

        record = change_record(self._home, self._run_id, claim)
        return record if record.state == "queued" and record.supervisor == me else None

    def _cancelled(self) -> bool:
        # A database that cannot be read now must not end hours of work.
        with contextlib.suppress(sqlite3.Error):
            return read_record(self._home, self._run_id).cancel_requested
        return False

    def _stopped(self) -> Stopped:
        """Why a signal came: the run was cancelled, or somebody ended the supervisor."""
        return "cancelled" if self._cancelled() else "supervisor ended"

    def _check_spec(self, record: RunRecord) -> None:
        try:
            digest = hashlib.sha256(read_regular(self._folder / "spec.json", sys.maxsize)).hexdigest()
        except OSError as error:
            digest = str(error)
        if digest != record.spec_digest:
            raise PortError(
                "The run's spec.json was changed after the run was created.",
                seen=f"{self._folder / 'spec.json'}: {digest}, recorded sha256 {record.spec_digest}",
                fix="Start the run again through its tool, and leave its folder alone.",
            )

    def _wait_for_devices(self, record: RunRecord) -> Lease | None:
        keys = lease_keys(record.devices, {**os.environ, **record.env})
        if not keys:
            return None
        lease = Lease(self._home, record.run_id, keys)
        said = ""
        while ahead := lease.ahead():
            message = f"waits for {', '.join(keys)}: {len(ahead)} ahead, next is {ahead[0]}"
            if message != said:
                said = message
                write_atomically(
                    self._folder / "progress.json",
                    encode({"done": 0, "total": None, "message": message}),
                    durable=False,
                )
            if self._terminated or self._cancelled():
                lease.release()
                raise _Stop(judge(record, self._folder, Ending(stopped=self._stopped())))
            time.sleep(_QUEUE_TICK_S)
        if said:
            (self._folder / "progress.json").unlink(missing_ok=True)
        return lease

    def _work(self, record: RunRecord) -> Ending:
        """Launch the worker, attend to it, end all it left behind."""
        if self._terminated or self._cancelled():
            return Ending(stopped=self._stopped())
        oom_before = oom_kills()
        worker = self._launch(record)
        log = LogWriter(self._folder, record.log_limit)
        try:
            stopped = self._attend(record, worker, log)
            self._end(worker, stopped)
            self._drain(worker, log)
        finally:
            log.close()
        exit_code, name = exit_facts(worker.wait())
        return Ending(
            exit_code=exit_code,
            signal=name,
            stopped=stopped,
            last_lines=tail(self._folder, 8)[-1500:],
            oom_kills=max(0, oom_kills() - oom_before),
        )

    def _launch(self, record: RunRecord) -> subprocess.Popen[bytes]:
        try:
            worker = subprocess.Popen(
                worker_command(record, str(self._folder)),
                cwd=record.cwd,
                env=worker_environment(record, os.environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            raise PortError(
                "The worker cannot be launched.",
                seen=f"python={record.python}, cwd={record.cwd}: {error}",
                fix="Check that the port's interpreter and worktree exist; create_worktree takes `python`.",
            ) from error
        identity = processes.identify(worker.pid)
        started = now()
        change_record(
            self._home,
            self._run_id,
            lambda kept: kept.model_copy(update={"state": "running", "started_at": started, "worker": identity}),
        )
        assert worker.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.write(record.key.encode())
            worker.stdin.close()
        return worker

    def _attend(self, record: RunRecord, worker: subprocess.Popen[bytes], log: LogWriter) -> Stopped:
        """Pump output until the worker ends or must be ended; why it must."""
        assert worker.stdout is not None
        output = worker.stdout.fileno()
        os.set_blocking(output, False)
        deadline = time.monotonic() + record.time_limit_s
        watched = [output]
        # A file descriptor of the process tells of its end at once; without it (macOS) the tick does.
        end = _pidfd(worker.pid)
        if end is not None:
            watched.append(end)
        looked = time.monotonic()
        try:
            while worker.poll() is None:
                ready, _, _ = select.select(watched, [], [], _TICK_S)
                if output in ready and not _copy(output, log):
                    watched.remove(output)
                moment = time.monotonic()
                if moment > deadline:
                    return "time limit"
                if self._terminated:
                    return self._stopped()
                if moment - looked > _LOOK_S:
                    looked = moment
                    processes.reap(worker.pid)
                    # The signal tells us at once; the record is asked in case it was lost.
                    if self._cancelled():
                        return "cancelled"
                    if record.memory_limit is not None and processes.resident() > record.memory_limit:
                        return "memory limit"
        finally:
            if end is not None:
                os.close(end)
        return ""

    def _end(self, worker: subprocess.Popen[bytes], stopped: Stopped) -> None:
        processes.end_descendants(GRACE_S if stopped else 0)
        worker.wait()
        processes.reap(worker.pid)

    def _drain(self, worker: subprocess.Popen[bytes], log: LogWriter) -> None:
        """What is still in the pipe; everybody who could write to it is gone."""
        assert worker.stdout is not None
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            ready, _, _ = select.select([worker.stdout], [], [], 0)
            if not ready or not _copy(worker.stdout.fileno(), log):
                break
        worker.stdout.close()

    def _record_end(self, ending: Ending, outcome: Outcome) -> None:
        """Write the final state; a full disk or a locked database is waited for, because the truth must not be lost."""

        def finish(record: RunRecord) -> RunRecord | None:
            return None if record.finished else settled(record, self._folder, ending, outcome)

        for pause in (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 0):
            try:
                change_record(self._home, self._run_id, finish)
                return
            except sqlite3.OperationalError:
                if not pause:
                    raise
                time.sleep(pause)


def oom_kills() -> int:
    """How often the kernel killed for memory in our control group so far; 0 where that is not told."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        group = Path("/proc/self/cgroup").read_text().split("::", 1)[1].split("\n", 1)[0].strip("/")
        for line in (Path("/sys/fs/cgroup") / group / "memory.events").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _pidfd(pid: int) -> int | None:
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError):
        return os.pidfd_open(pid)
    return None


def _copy(source: int, log: LogWriter) -> bool:
    """Move what is there into the log; false at the end of the stream."""
    try:
        data = os.read(source, _CHUNK)
    except BlockingIOError:
        return True
    log.write(data)
    return bool(data)


def main(arguments: list[str]) -> None:
    """Entry of ``python -m``: state folder and run id."""
    Supervisor(Path(arguments[0]), arguments[1]).run()


if __name__ == "__main__":
    main(sys.argv[1:])
