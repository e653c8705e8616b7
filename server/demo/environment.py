"""What the demo needs on this machine, looked at before anything is made."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ...port.errors import PortError

_PROBE = """
import json, sys
from importlib.metadata import version
try:
    import fastvideo_port_cpu_standins as standins
    note = standins.SENTENCE.format(name="torchvision")
except ImportError:
    note = ""
names = ("torch", "diffusers", "transformers")
print(json.dumps({"python": sys.version.split()[0], **{name: version(name) for name in names}, "standin": note}))
"""


def probe_fastvideo_environment(python: Path) -> dict[str, str]:
    """What ``python`` (FastVideo's interpreter) has: versions of python, torch, diffusers and transformers.

    ``standin`` is the sentence that the CPU stand-in for torchvision says of itself; empty where there is none.

    Raises:
        PortError: The interpreter is absent or lacks one of the packages.
    """
    if not python.exists():
        raise PortError(
            "FastVideo's environment is not there.",
            seen=str(python),
            fix="Run `make setup` in a clone of fastvideo-port, or name its interpreter with --fastvideo-python.",
        )
    done = subprocess.run(
        [str(python), "-c", _PROBE], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise PortError(
            "FastVideo's environment lacks a package.",
            seen=f"{python}: {lines[-1]}",
            fix="Run `make setup`; the list of packages is constraints/fastvideo.txt.",
        )
    found: dict[str, str] = json.loads(done.stdout)
    return found
