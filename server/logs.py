"""Where the server's log goes: warnings to stderr as text, everything to a file as lines of JSON.

Never to stdout, which is the wire.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

from opentelemetry.trace import format_trace_id, get_current_span

FILE = "server.log"
_ROTATE_AT = 5_000_000
_SECRETS = re.compile(r"hf_[A-Za-z0-9]{10,}|(?i:bearer\s+)[A-Za-z0-9._~+/=-]{8,}|(?<=://)[^/@\s]+(?=@)")


class _Text(logging.Formatter):
    """A record for a person, without tokens, whoever logged it."""

    def format(self, record: logging.LogRecord) -> str:
        return _SECRETS.sub("[removed]", super().format(record))


class _Json(logging.Formatter):
    """A record as one line of JSON: ``time`` (UTC), ``level``, ``logger``, ``process``, ``message``, ``exception``.

    ``trace_id`` is that of the OpenTelemetry span in which it was logged, if there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        row = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": _SECRETS.sub("[removed]", record.getMessage()),
        }
        if record.exc_info:
            row["exception"] = _SECRETS.sub("[removed]", self.formatException(record.exc_info))
        span = get_current_span().get_span_context()
        if span.is_valid:
            row["trace_id"] = format_trace_id(span.trace_id)
        return json.dumps(row, ensure_ascii=False)


def start_logging(home: Path) -> Path:
    """Send the process's log to ``home/server.log`` and warnings to stderr; return the file's path.

    A large file from earlier is moved to ``server.log.1`` first. Without a writable file, stderr alone is used.
    """
    path = home / FILE
    style = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
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
        handler.setFormatter(_Text(style) if handler is stderr else _Json())
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    return path
