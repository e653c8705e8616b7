"""Child processes of a job: each side of a comparison runs alone, possibly in another interpreter."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import fork_server
from .errors import ParityError
from .strict_json import encode
from .worker import KEY_BYTES

# The child dies with its parent (PR_SET_PDEATHSIG = 1, SIGKILL = 9); its current folder is first on the path.
# When `main` returns its result is on disk: to take torch, diffusers and FastVideo apart would be another 1.5 s.
_BOOT = """\
import importlib, importlib.util, os, sys
parity, job, folder = sys.argv[1:4]
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
sys.path[0] = os.getcwd()
sys.argv = [job]
name = "_fastvideo_port_parity"
spec = importlib.util.spec_from_file_location(
    name, os.path.join(parity, "__init__.py"), submodule_search_locations=[parity])
sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[name])
importlib.import_module(name + ".worker").main(job, folder)
os._exit(0)
"""


class Child:
    """One job function in a process of its own; its log goes to the parent's."""

    def __init__(self, python: str, job: str, folder: Path, spec: dict[str, Any], cwd: Path) -> None:
        self.job = job
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spec.json").write_bytes(encode(spec))
        try:
            self.process = _started(python, job, folder, cwd)
        except OSError as error:
            raise ParityError(
                "The interpreter could not be started.",
                seen=f"{python}: {error.strerror}",
                fix="Create the port again with a python that exists and can be executed.",
            ) from error
        # One side's code cannot put a result in the other's place: it does not have the other's key.
        self._key = secrets.token_hex(KEY_BYTES // 2).encode()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin as stream:
            stream.write(self._key)

    def value(self) -> dict[str, Any]:
        """The child's result, once it has ended.

        Raises:
            ParityError: The job failed, or the process died without a result.
        """
        code = self.process.wait()
        path = self.folder / "result.json"
        if not path.is_file():
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            raise ParityError(
                f"The {self.job} process ended without a result.",
                seen=how + (" (out of memory?)" if code == -9 else ""),
                fix="Read the end of the run's log; repair what stopped the process, then run the tool again.",
            )
        data, signature = path.read_bytes(), self.folder / "result.mac"
        expected = hmac.new(self._key, data, hashlib.sha256).hexdigest()
        if not signature.is_file() or not hmac.compare_digest(expected, signature.read_text()):
            raise ParityError(
                f"The result of the {self.job} process was not written by that process.",
                seen=f"{path} does not carry its signature",
                fix="Find what writes into the run's folder (the adapter? the port?) and take it out.",
            )
        result = json.loads(data)
        if result["ok"]:
            return dict(result["value"])
        error = result["error"]
        raise ParityError(error["what"], seen=error["seen"], fix=error["fix"])

    def failed(self) -> bool:
        """Whether it has ended by itself without a value: it wrote an error, or nothing that can be read."""
        if self.process.poll() is None:
            return False
        try:
            return not json.loads((self.folder / "result.json").read_bytes())["ok"]
        except (OSError, ValueError, KeyError, TypeError):
            return True

    def spoke(self) -> bool:
        """Whether it wrote an error of its own; one that was stopped for another's failure wrote nothing."""
        return (self.folder / "result.json").is_file() and self.failed()

    def stop(self) -> None:
        """End the process if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _started(python: str, job: str, folder: Path, cwd: Path) -> subprocess.Popen[bytes] | fork_server.Forked:
    if fork_server.current is not None:
        return fork_server.current.fork(job, folder, cwd)
    command = [python, "-c", _BOOT, str(Path(__file__).parent), job, str(folder)]
    return subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, env=dict(os.environ))


def wait_for(children: list[Child], each: Callable[[], None]) -> None:
    """Wait until all children have ended or one has failed; then the others are stopped."""
    try:
        while any(child.process.poll() is None for child in children):
            if any(child.process.poll() not in (None, 0) for child in children):
                return
            if any(child.failed() for child in children):
                return
            each()
            time.sleep(0.05)
    finally:
        for child in children:
            child.stop()
