"""How a person calls this program in a fresh shell: by its path, with the state folder named."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from ..port.home import VARIABLE, default_home


def program() -> str:
    """The command, quoted: the one beside this interpreter, whatever the reader's PATH holds."""
    beside = Path(sys.executable).with_name("fastvideo-port")
    return shlex.quote(str(beside)) if beside.exists() else "fastvideo-port"


def home_setting(home: Path) -> str:
    """``FASTVIDEO_PORT_HOME=...``, quoted; empty where the command finds ``home`` on its own."""
    return "" if home == default_home() else f"{VARIABLE}={shlex.quote(str(home))}"
