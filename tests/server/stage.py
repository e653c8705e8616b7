"""A running server with everything that hostile calls could reach, and eyes on what they must not touch."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from anyio.from_thread import start_blocking_portal
from fastvideo_port.port.records import PortStore, new_id, now
from fastvideo_port.runs.store import RunStore
from fastvideo_port.server.app import build_server
from mcp import Client

from .hostile_inputs import CANARY, PASSWORD, TOKEN, Place

HANG_S = 60
"""A call that has not answered by then hangs. No measure of speed: the machine may be busy."""

FOREIGN = re.compile(
    r"Traceback|pydantic|validation error|Error executing|input_value|incident|\bFile \"|site-packages|object at 0x",
    re.I,
)
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass
class Stage:
    """A running server, and the folder in which all that it may know of lies."""

    root: Path
    home: Path
    place: Place
    call: Callable[[str, dict[str, Any]], Any]

    @property
    def runs(self) -> RunStore:
        """The server's runs."""
        return RunStore(self.home)

    def allowed(self) -> tuple[Path, ...]:
        """Where tools write: the state folder, ~/dev for clones, the worktrees on record, and git's own folder."""
        worktrees = [Path(port.worktree) for port in PortStore(self.home).list()]
        return (self.home, self.root / "user/dev", self.place.repository / ".git", *worktrees)

    def outside(self) -> dict[str, str]:
        """Every path below the root where no tool writes: its kind, size, time and content."""
        allowed, found = {str(path) for path in self.allowed()}, {}
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if str(Path(folder) / name) not in allowed]
            for path in (Path(folder) / name for name in [*folders, *names]):
                about = path.lstat()
                content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(about.st_mode) else ""
                # A folder's own time changes when an allowed folder is made beside its files.
                when = 0 if stat.S_ISDIR(about.st_mode) else about.st_mtime_ns
                found[str(path)] = f"{about.st_mode} {about.st_size if when else 0} {when} {content}"
        return found

    def left_behind(self) -> list[str]:
        """Processes that do not go away: a supervisor ends a moment after it has noted the end of its run."""
        patience = time.monotonic() + 60
        while (found := self.processes()) and time.monotonic() < patience:
            time.sleep(0.1)
        return found

    def processes(self) -> list[str]:
        """Command lines of processes that work for this stage."""
        marks = (str(self.home), str(self.place.worktree))
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and any(mark in " ".join(process.cmdline()) for mark in marks):
                    found.append(" ".join(process.cmdline())[:300])
            except psutil.Error:
                continue
        return found

    def stop_runs(self) -> None:
        """End what a call began."""
        for run in self.runs.list():
            if not run.finished:
                self.runs.cancel(run.run_id)


def _tiny() -> Any:
    path = Path(__file__).parent.parent / "tools/tiny.py"
    spec = importlib.util.spec_from_file_location("_hostile_tiny", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _prepare(root: Path) -> tuple[Path, Place]:
    tiny = _tiny().make(root)
    home, worktree = tiny.ctx.home, tiny.worktree
    outside = root / "outside"
    outside.mkdir()
    for name in ("secret.txt", "secret.py", "secret.safetensors", "config.json"):
        (outside / name).write_text(f'{{"secret": "{CANARY}"}}\n')
    user = root / "user"
    user.mkdir()
    shutil.copy(outside / "secret.txt", user / "secret.txt")
    (worktree / "link-out.py").symlink_to(outside / "secret.py")
    (worktree / "folder-out").symlink_to(outside)
    (worktree / "loop").symlink_to(worktree / "loop")
    os.mkfifo(worktree / "pipe")
    (worktree / "examples").mkdir()
    for name in ("convert.py", "examples/run.py", "video.mp4", "tests/local_tests/tiny/parity_pipeline.py"):
        (worktree / name).write_text("")
    record = tiny.port
    other = record.model_copy(update={"port_id": new_id("port"), "created_at": now(), "components": []})
    tiny.ctx.ports.add(other)
    run_id = tiny.ctx.runs.list()[-1].run_id
    files = tiny.ctx.runs.folder(run_id) / "files"
    files.mkdir(exist_ok=True)
    (files / "link-out.png").symlink_to(outside / "secret.txt")
    return home, Place(tiny.port_id, other.port_id, run_id, outside, tiny.ctx.cwd, worktree)


@contextmanager
def open_stage(root: Path, mode: Any = "auto") -> Iterator[Stage]:
    """A server on a port of the tiny model, below ``root``, with a client of protocol ``mode`` that stays connected."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
        patch.setenv("HOME", str(root / "user"))
        home, place = _prepare(root)
        patch.setenv("FASTVIDEO_PORT_HOME", str(home))
        portal = stack.enter_context(start_blocking_portal())
        server = build_server(home, place.repository)
        client = stack.enter_context(portal.wrap_async_context_manager(Client(server, mode=mode)))

        async def ask(name: str, arguments: dict[str, Any]) -> Any:
            with anyio.fail_after(HANG_S):
                return await client.call_tool(name, arguments)

        made = Stage(root, home, place, lambda name, arguments: portal.call(ask, name, arguments))
        yield made
        made.stop_runs()


def complaints(answer: Any) -> list[str]:
    """What is wrong with an answer; empty: it is a clear refusal or a harmless success."""
    text = "".join(getattr(item, "text", "") for item in answer.content)
    wrong = [f"it shows {word!r}" for word in (CANARY, TOKEN, PASSWORD) if word in text]
    if answer.is_error:
        if not re.search(r"\nSeen: .", text) or not re.search(r"\nDo: .", text):
            wrong.append("it does not say what was seen and what to do")
        if (found := FOREIGN.search(text)) is not None:
            wrong.append(f"foreign words: {found.group()!r}")
        if (found := INVISIBLE.search(text)) is not None:
            wrong.append(f"an invisible character: {found.group()!r}")
        if len(text) > 6000:
            wrong.append(f"{len(text)} characters")
    elif answer.structured_content is not None and not answer.structured_content.get("next_step"):
        wrong.append("no next step")
    return [f"{line}: {text[:700]!r}" for line in wrong]
