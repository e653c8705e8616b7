"""Where the server's log goes: warnings to stderr, everything to a file. Never to stdout, which is the wire."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

FILE = "server.log"
_ROTATE_AT = 5_000_000
_SECRETS = re.compile(r"hf_[A-Za-z0-9]{10,}|(?i:bearer\s+)[A-Za-z0-9._~+/=-]{8,}|(?<=://)[^/@\s]+(?=@)")


class _Redacted(logging.Formatter):
    """One line per record, and no token, whoever logged it."""

    def format(self, record: logging.LogRecord) -> str:
        return _SECRETS.sub("[removed]", super().format(record))


def start_logging(home: Path) -> Path:
    """Send the process's log to ``home/server.log`` and warnings to stderr; return the file's path.

    A large file from earlier is moved to ``server.log.1`` first. Without a writable file, stderr alone is used.
    """
    path = home / FILE
    style = _Redacted("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setLevel(logging.WARNING)
    handlers: list[logging.Handler] = [stderr]
    try:
        if path.exists() and path.stat().st_size > _ROTATE_AT:
            path.replace(path.with_suffix(".log.1"))
        handlers.append(logging.FileHandler(path, encoding="utf-8", delay=False))
    except OSError as error:
        sys.stderr.write(f"{path} cannot be written ({error.strerror}): the log goes to stderr only\n")
        stderr.setLevel(logging.INFO)
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(style)
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    return path
