"""One run per GPU: a fair queue of tickets, each locked by the process that holds it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..port.errors import PortError

_DEVICE = re.compile(r"(cuda|mps|xpu)(?::(\d+))?")


def lease_keys(devices: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """What to lease for torch device names: ``cuda`` is ``cuda:0``; the CPU needs no lease.

    ``CUDA_VISIBLE_DEVICES`` renumbers devices per process, so the lease is on the card it names, not on the index.

    Raises:
        PortError: A name is not one of a device.
    """
    visible = [item.strip() for item in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if item.strip()]
    keys: set[str] = set()
    for device in devices:
        if device == "cpu":
            continue
        match = _DEVICE.fullmatch(device)
        if match is None:
            raise PortError(
                "This is not the name of a device.",
                seen=f"device={device[:80]!r}",
                fix="Use 'cpu', or a name such as 'cuda:0'.",
            )
        index = match[2] or "0"
        if match[1] == "cuda" and int(index) < len(visible):
            index = visible[int(index)]
        keys.add(f"{match[1]}:{index}")
    return sorted(keys)


class Lease:
    """A place in the queue for some devices.

    A ticket is a file ``home/leases/<number>.ticket`` that its holder keeps locked with flock, so the kernel gives
    it back when the holder dies, however it dies. The earliest living ticket that names a device has it.
    """

    def __init__(self, home: Path, run_id: str, keys: Sequence[str]) -> None:
        """Take a place at the end of the queue."""
        self._folder = home / "leases"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._keys = frozenset(keys)
        self._fd = -1
        with self._guard():
            tickets = self._tickets()
            self._number = (self._number_of(tickets[-1]) if tickets else 0) + 1
            self._path = self._folder / f"{self._number:012d}.ticket"
            # The lock is taken before the content: an empty ticket of a dead writer is simply unlocked.
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            os.write(self._fd, json.dumps({"run_id": run_id, "devices": sorted(keys)}).encode())

    def ahead(self) -> list[str]:
        """Run ids before ours that want one of our devices, in order; empty: the devices are ours."""
        runs = []
        with self._guard():
            for path in self._tickets():
                if self._number_of(path) >= self._number:
                    break
                holder = self._living(path)
                if holder is not None and self._keys.intersection(holder["devices"]):
                    runs.append(str(holder["run_id"]))
        return runs

    def release(self) -> None:
        """Leave the queue or give the devices back."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    @contextmanager
    def _guard(self) -> Iterator[None]:
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _tickets(self) -> list[Path]:
        return sorted(self._folder.glob("*.ticket"), key=self._number_of)

    @staticmethod
    def _number_of(path: Path) -> int:
        return int(path.stem) if path.stem.isdecimal() else 0

    def _living(self, path: Path) -> dict[str, list[str]] | None:
        """A ticket's content, or none: its holder is dead (then it is removed), or it is no ticket."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _content(os.read(fd, 65536))
        else:
            path.unlink(missing_ok=True)
            return None
        finally:
            os.close(fd)


def _content(data: bytes) -> dict[str, list[str]] | None:
    """What a ticket says, or none if these bytes are no ticket's."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or "run_id" not in content or not isinstance(content.get("devices"), list):
        return None
    return {"run_id": content["run_id"], "devices": [str(device) for device in content["devices"]]}
