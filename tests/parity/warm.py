"""Children of a comparison without the seconds that importing takes."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_WARM = """
import importlib, json, os, signal, socket, sys, types
root = sys.argv[2]
if root:
    sys.path.insert(0, root)
for name in sys.argv[3:]:
    importlib.import_module(name)

def files():
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if root and file.startswith(root + os.sep):
            found[name] = (os.stat(file).st_mtime_ns, os.stat(file).st_size)
    return found

def forget_what_changed(before):
    # Drop the modules whose file was edited since, and those that took a name from one of them.
    now = files()
    stale = {name for name, mark in before.items() if now.get(name) != mark}
    grown = bool(stale)
    while grown:
        grown = False
        for name in set(before) - stale:
            for value in list(vars(sys.modules[name]).values()):
                child = isinstance(value, types.ModuleType) and value.__name__.startswith(name + ".")
                if not child and (getattr(value, "__module__", "") or getattr(value, "__name__", "")) in stale:
                    stale.add(name)
                    grown = True
                    break
    # A registry is imported in the middle of what it registers: it cannot be imported anew alone.
    if any(name.endswith(".registry") for name in stale):
        stale = set(before)
    for name in stale:
        del sys.modules[name]

loaded = files()
if root:
    sys.path.remove(root)
server = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    connection, _ = server.accept()
    if os.fork():
        connection.close()
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    server.close()
    code, arguments, cwd, key = json.loads(connection.makefile().readline())
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(reader)
        os.write(writer, key.encode())
        connection.sendall(f"{child}\\n".encode())
        _, status = os.waitpid(child, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\\n".encode())
        os._exit(0)
    connection.close()
    os.close(writer)
    os.dup2(reader, 0)
    os.chdir(cwd)
    sys.argv = ["-c", *arguments]
    sys.path.insert(0, cwd)
    forget_what_changed(loaded)
    try:
        exec(compile(code, "<boot>", "exec"), {"__name__": "__main__"})
    finally:
        sys.stdout.flush()
        os._exit(0)
"""


class Warm:
    """Starts a comparison's children by forking a process that has imported the heavy libraries already.

    ``popen`` stands in for `subprocess.Popen`; the children are processes of their own as ever.

    Args:
        folder: Where the socket lies.
        python: The interpreter of the children.
        modules: What is imported before the fork.
        root: Folder below which files may be edited afterwards, first on the path while importing; a child imports
            anew what was edited there, and what took a name from it.
    """

    def __init__(
        self,
        folder: Path,
        python: str = sys.executable,
        modules: tuple[str, ...] = ("torch", "safetensors.torch"),
        root: str = "",
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.address = str(folder / "warm")
        server = socket.socket(socket.AF_UNIX)
        server.bind(self.address)
        server.listen()
        command = [python, "-c", _WARM, str(server.fileno()), root, *modules]
        self.process = subprocess.Popen(command, pass_fds=[server.fileno()], stdin=subprocess.DEVNULL)
        server.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def popen(self, command: list[str], *, cwd: Path, **_: Any) -> _WarmChild:
        return _WarmChild(self.address, command, cwd)


class _WarmChild:
    """One child, with the part of the interface of `subprocess.Popen` that the engine uses."""

    def __init__(self, address: str, command: list[str], cwd: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._command = [command[2], command[3:], str(cwd)]
        self._code: int | None = None
        self.stdin = self

    def __enter__(self) -> _WarmChild:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, key: bytes) -> None:
        self._socket.sendall(json.dumps([*self._command, key.decode()]).encode() + b"\n")
        self._lines = self._socket.makefile()
        self._pid = int(self._lines.readline())

    def wait(self) -> int:
        if self._code is None:
            self._code = int(self._lines.readline())
        return self._code

    def poll(self) -> int | None:
        if self._code is None and not select.select([self._socket], [], [], 0)[0]:
            return None
        return self.wait()

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it ended a moment ago, as Popen.kill allows
            os.kill(self._pid, signal.SIGKILL)
