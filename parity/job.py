"""What a job function may use besides its spec."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from pathlib import Path

from .strict_json import encode, write_atomically

_INTERVAL = 0.1


class Job:
    """One run as its worker sees it.

    Attributes:
        run_dir: Folder of the run.
        files: Folder for artifacts (pictures, tensors, reports), made if absent.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.files = run_dir / "files"
        self.files.mkdir(exist_ok=True)
        self._done = 0.0
        self._pending: bytes | None = None
        self._told: bytes | None = None
        self._written = -math.inf
        self._later: threading.Timer | None = None
        self._renew_lock()
        # A fork of a job may come while the timer writes; its copy of the lock would never be let go.
        os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell whoever waits how far the job is.

        Args:
            done: Work done, in any unit; a value below an earlier one counts as the earlier one.
            total: All work in the same unit, or none when it is not known.
            message: What is being done, one short line.

        Writes at most ten times a second, so it may be called in a tight loop; the last call is never lost, also when
        nothing comes after it because the job hangs or is killed.
        """
        with self._lock:
            if math.isfinite(done):
                self._done = max(self._done, float(done))
            known = total is not None and math.isfinite(total)
            document = {"done": self._done, "total": total if known else None, "message": str(message)[:500]}
            pending = encode(document)
            if pending == self._told:
                return
            self._pending = self._told = pending
            if time.monotonic() - self._written >= _INTERVAL:
                self._write()
            elif self._later is None:
                self._later = threading.Timer(_INTERVAL, self._write_late)
                self._later.daemon = True
                self._later.start()

    def flush(self) -> None:
        """Write the progress that the rate limit held back."""
        with self._lock:
            self._write()

    def _write_late(self) -> None:
        with self._lock:
            self._later = None
            self._write()

    def _write(self) -> None:
        if self._pending is None:
            return
        # Progress is a courtesy: a full disk must not end hours of work.
        with contextlib.suppress(OSError):
            write_atomically(self.run_dir / "progress.json", self._pending, durable=False)
        self._pending = None
        self._written = time.monotonic()
