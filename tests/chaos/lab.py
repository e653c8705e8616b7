"""One state folder to be harmed, with a run in it that ended well before: nothing may happen to that one."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from fastvideo_port.port.database import database_path
from fastvideo_port.port.ledger import Entry, Ledger
from fastvideo_port.runs.models import ProcessIdentity, Run, RunRecord
from fastvideo_port.runs.processes import MARKER
from fastvideo_port.runs.records import read_record
from fastvideo_port.runs.store import RunStore

from . import children

HERE = Path(__file__).resolve().parent
ENGINE = HERE.parent / "runs" / "fake_engine"
INJECT = HERE / "inject"
PORT = "port-0"


def until(condition: Callable[[], Any], what: str, seconds: float = 30) -> None:
    """Wait for a condition, or fail with ``what`` did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


class Lab:
    """A state folder below ``place`` and the means to harm what happens in it.

    Attributes:
        home: The state folder.
        store: A store on it, of the reader who asks afterwards.
        bystander: Run that was done, with its entry in the ledger, before anything was harmed.
        thorough: Whether the sweeps stop at every write, or at some.
    """

    def __init__(self, place: Path, template: Path, *, thorough: bool = False) -> None:
        self.place = place
        self.thorough = thorough
        self.home = Path(shutil.copytree(template, place / "state home"))
        self.store = RunStore(self.home, parity_dir=ENGINE)
        self.bystander = (template.parent / "bystander").read_text()

    # What a run is begun with, and by whom.

    def create(self, store: RunStore | None = None, *, then: str = "", hold: bool = False, **options: Any) -> Run:
        """Record a run of the job ``works``, which holds after its second step or does then what ``then`` names."""
        token = secrets.token_hex(8)
        spec = {
            "token": token,
            "witness": str(self.place / f"witness-{token}"),
            "then": then,
            "hold": str(self.place / f"go-{token}") if hold else "",
            **options.pop("spec", {}),
        }
        options = {"time_limit_s": 60, "log_limit": 1 << 20, "env": {}, **options}
        # The job imports the tree that is tested here, wherever the package is installed from.
        if os.environ.get("PYTHONPATH"):
            options["env"] = {"PYTHONPATH": os.environ["PYTHONPATH"], **options["env"]}
        return (store or self.store).create(
            port_id=PORT, tool="fake", arguments=spec, python=sys.executable, job="works", spec=spec, cwd=self.place,
            **options,
        )  # fmt: skip

    def begin(self, *, supervisor_dies_at: str = "", worker_dies_at: str = "", clock: float = 0, **options: Any) -> str:
        """Create and start a run in a server of its own, which is gone when this returns; the run's id.

        ``clock``: seconds by which the wall clocks of supervisor and worker jump when the job holds.
        """

        def serve() -> str:
            traps: dict[str, str] = {}
            path = os.pathsep.join(part for part in (str(INJECT), os.environ.get("PYTHONPATH", "")) if part)
            run = None
            if worker_dies_at:
                traps = {"CHAOS_TRAP": worker_dies_at, "CHAOS_FIRED": str(self.fired), "PYTHONPATH": path}
            if clock:
                traps = {"CHAOS_CLOCK": str(clock), "CHAOS_CLOCK_ONCE": str(self.place / "jump"), "PYTHONPATH": path}
                os.environ.update(traps)
            run = self.create(env=traps, **options)
            if supervisor_dies_at:
                os.environ.update(CHAOS_TRAP=supervisor_dies_at, CHAOS_FIRED=str(self.fired), PYTHONPATH=path)
            self.store.start(run.run_id)
            return run.run_id

        return str(children.run(serve).value)

    @property
    def fired(self) -> Path:
        """The file that a trap makes when it goes off."""
        return self.place / "fired"

    def sprung(self) -> None:
        """Wait for the trap; a fault that did not happen proves nothing."""
        until(self.fired.exists, "the process did not come to the point where it should die")

    def held(self, run_id: str) -> RunRecord:
        """The record, as soon as the job holds in the middle of its work and the store knows how far it is."""
        until(lambda: "holds" in self.witnessed(run_id), "the job did not come to its hold")
        until(lambda: b"step 2" in self.log_bytes(run_id), "the log did not come")
        return self.record(run_id)

    def go(self, run_id: str) -> None:
        """Let the job go on."""
        Path(self.record(run_id).arguments["hold"]).touch()

    def witnessed(self, run_id: str) -> list[str]:
        """What the job noted of itself outside the run's folder."""
        path = Path(self.record(run_id).arguments["witness"])
        return path.read_text().splitlines() if path.exists() else []

    def log_bytes(self, run_id: str) -> bytes:
        """The run's log as it lies on the disk, without the store's code."""
        parts = (self.folder(run_id) / name for name in ("log.txt", "log.tail-older", "log.tail-newer"))
        return b"".join(part.read_bytes() for part in parts if part.is_file())

    def record(self, run_id: str) -> RunRecord:
        """The record as it is kept, without putting anything in order."""
        return read_record(self.home, run_id)

    def folder(self, run_id: str) -> Path:
        """The run's folder."""
        return self.home / "runs" / run_id

    # Harm.

    def kill(self, *victims: ProcessIdentity | None, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to processes; the first must be there, and may have taken the others with it."""
        for place, victim in enumerate(victims):
            assert victim is not None
            with suppress(*([ProcessLookupError] if place else [])):
                os.kill(victim.pid, number)

    def kill_number(self, pid: int) -> None:
        """SIGKILL by number, of a child of this process."""
        os.kill(pid, signal.SIGKILL)

    def lives(self, identity: ProcessIdentity) -> bool:
        """Whether a process is there, by its number."""
        return psutil.pid_exists(identity.pid) and psutil.Process(identity.pid).status() != psutil.STATUS_ZOMBIE

    def sql(self, *statements: str, values: tuple[Any, ...] = ()) -> None:
        """Change the database as anybody with a file could, and leave no side files."""
        with closing(sqlite3.connect(database_path(self.home), isolation_level=None)) as db:
            for statement in statements:
                db.execute(statement, values)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def change(self, run_id: str, **fields: Any) -> None:
        """Edit fields of a record behind the store's back."""
        record = self.record(run_id).model_copy(update=fields)
        self.sql("UPDATE runs SET record = ? WHERE run_id = ?", values=(record.model_dump_json(), run_id))

    @contextmanager
    def damaged(self, damage: Callable[[Path], None]) -> Iterator[None]:
        """The database with ``damage`` done to it, put back afterwards."""
        self.sql()
        kept = self.place / "kept.sqlite3"
        shutil.copy(database_path(self.home), kept)
        damage(database_path(self.home))
        yield
        for path in self.home.glob("state.sqlite3*"):
            path.unlink() if path.is_file() or path.is_fifo() else path.rmdir()
        shutil.copy(kept, database_path(self.home))

    # What is there, seen without the store.

    def left(self, run_id: str) -> list[psutil.Process]:
        """Living processes with the mark of a run: its worker and all that comes from it."""
        return _living(lambda process: process.environ().get(MARKER) == run_id)

    def supervisors(self, run_id: str) -> list[psutil.Process]:
        """Living supervisors of a run."""
        return _living(lambda process: run_id in process.cmdline())

    def add_entry(self, run_id: str) -> Entry:
        """Enter a run's result into the ledger, as the tools do."""
        value = self.store.value(run_id)
        return Ledger(self.home).append(
            port_id=PORT, kind="fake", verdict="pass", run_id=run_id, summary=value, depends_on={}
        )

    def entries(self, run_id: str) -> int:
        """How often a run stands in the ledger, which must be sound."""
        return [entry.run_id for entry in Ledger(self.home).entries(PORT)].count(run_id)

    def close(self) -> None:
        """End whatever is left, so that one fault does not disturb the next."""
        runs = {path.name for path in (self.home / "runs").glob("run-*")}

        def ours(process: psutil.Process) -> bool:
            named = any(str(self.home) in word for word in process.cmdline())
            return named or process.environ().get(MARKER) in runs

        for process in _living(ours):
            process.kill()


def _living(wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            if not ended and process.pid != os.getpid() and wanted(process):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def make_template(place: Path) -> Path:
    """A state folder with one run that is done and in the ledger, to copy for every fault."""
    home = place / "template"
    home.mkdir()
    (place / "bystander").write_text("")
    lab = Lab.__new__(Lab)
    lab.place, lab.home, lab.thorough = place, home, False
    lab.store = RunStore(home, parity_dir=ENGINE)
    run_id = lab.begin()
    run = lab.store.wait(run_id, 60)
    assert run.state == "done", run
    lab.add_entry(run_id)
    (place / "bystander").write_text(run_id)
    lab.sql()
    return home
