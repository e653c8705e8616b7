"""Where the local page for approvals is running, so that a pending request can say so. Never its secret."""

from __future__ import annotations

import json
from pathlib import Path

from ..port.errors import PortError
from ..port.files import replace_file
from ..port.paths import open_regular
from ..runs.models import ProcessIdentity
from ..runs.processes import identify, is_alive

_NAME = "approval-page.json"


def note_page(home: Path, pid: int, port: int) -> Path:
    """Write down that process ``pid`` serves the page on this loopback port; returns the note, to be removed again."""
    identity = identify(pid)
    path = home / _NAME
    text = json.dumps({"process": identity.model_dump() if identity else None, "port": port})
    replace_file(path, text.encode())
    return path


def running_page(home: Path) -> str | None:
    """The page's address without its secret, or none while no page runs."""
    try:
        with open_regular(home / _NAME) as file:
            note = json.loads(file.read(4096))
        port = int(note["port"])
        alive = is_alive(ProcessIdentity.model_validate(note["process"]))
    except (PortError, ValueError, KeyError, TypeError):
        return None
    return f"http://127.0.0.1:{port}/" if alive and 0 < port < 65536 else None
