"""Where state lives: outside every worktree."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import platformdirs

from .errors import PortError
from .paths import require_utf8

VARIABLE = "FASTVIDEO_PORT_HOME"


def state_home() -> Path:
    """Return the state folder, made if absent: ``$FASTVIDEO_PORT_HOME`` or the platform's state folder.

    Raises:
        PortError: The folder cannot be made or written, or its name is not UTF-8.
    """
    override = os.environ.get(VARIABLE)
    if override:
        require_utf8(Path(override), VARIABLE)
    home = Path(override).expanduser() if override else platformdirs.user_state_path("fastvideo-port", appauthor=False)
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise PortError(
            "The state folder cannot be made.",
            seen=f"{home}: {error.strerror}",
            fix=f"Set {VARIABLE} to a folder that this user can write.",
        ) from error
    if not os.access(home, os.W_OK | os.X_OK):
        raise PortError(
            "The state folder cannot be written.",
            seen=str(home),
            fix=f"Make it writable for this user, or set {VARIABLE} to another folder.",
        )
    return home.resolve()


def own_command(*arguments: str) -> str:
    """This installation's command, as a person at a terminal has to type it for this state folder."""
    beside = Path(sys.executable).with_name("fastvideo-port")
    command = "fastvideo-port" if shutil.which("fastvideo-port") or not beside.exists() else str(beside)
    override = os.environ.get(VARIABLE)
    prefix = f"{VARIABLE}={shlex.quote(str(state_home()))} " if override else ""
    return prefix + shlex.join((command, *arguments))
