"""`fastvideo-port doctor`: what is wrong with this machine, and the fix."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from .. import __version__
from ..port.errors import PortError
from ..port.home import VARIABLE, state_home

_PROBE = """
import json
import torch
cuda = torch.cuda.is_available()
devices = []
for index in range(torch.cuda.device_count() if cuda else 0):
    free, total = torch.cuda.mem_get_info(index)
    devices.append(f"{torch.cuda.get_device_name(index)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "available": cuda, "devices": devices}))
"""
_OLDEST_GIT = (2, 20)
_OLDEST_PYTHON = (3, 10)
_DISK_WARN = 20 * 2**30
_DISK_FAIL = 1 * 2**30


@dataclass(frozen=True)
class Line:
    """One finding.

    Attributes:
        name: What was looked at.
        state: ``ok``, ``warn`` (works, with a limit) or ``fail`` (something will not work).
        found: What was found.
        fix: What to do; empty when all is well.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def doctor(*, as_json: bool) -> int:
    """Print one line per finding; exit code 1 if any of them is a failure."""
    lines = findings(Path.cwd())
    failed = any(line.state == "fail" for line in lines)
    if as_json:
        report = {"version": __version__, "ok": not failed, "lines": [asdict(line) for line in lines]}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        for line in lines:
            sys.stdout.write(f"{line.state:<4}  {line.name:<12} {line.found}\n")
            if line.fix:
                sys.stdout.write(f"{'':<4}  {'':<12} -> {line.fix}\n")
    return 1 if failed else 0


def findings(cwd: Path) -> list[Line]:
    """Look at everything; a check that breaks is itself a finding."""
    checks: list[tuple[str, Callable[[], Line]]] = [
        ("python", _python),
        ("torch", _torch),
        ("git", _git),
        ("state", _state),
        ("disk", lambda: _disk(cwd)),
        ("hub token", _token),
        ("fastvideo", lambda: _fastvideo(cwd)),
    ]
    lines = []
    for name, check in checks:
        try:
            lines.append(check())
        except Exception as error:  # A doctor that dies of one illness finds no other.
            lines.append(Line(name, "fail", f"the check failed: {type(error).__name__}: {error}", "Report this."))
    return lines


def _python() -> Line:
    version = sys.version.split()[0]
    # A name, not a literal: linters hold a literal for dead code, but an environment can be moved under us.
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return Line("python", "fail", f"{version} at {sys.executable}", "Install with Python 3.10 or newer.")
    return Line("python", "ok", f"{version} at {sys.executable}")


def _torch() -> Line:
    # In a process of its own: this one stays small, and a broken CUDA driver can take its process down.
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return Line("torch", "fail", "importing torch took over 120 s", "Look at the driver with nvidia-smi.")
    if probe.returncode != 0:
        last = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        return Line("torch", "fail", last[:200], f"{sys.executable} -m pip install torch")
    found = json.loads(probe.stdout.strip().splitlines()[-1])
    if found["available"]:
        return Line("torch", "ok", f"{found['torch']}, CUDA {found['cuda']}: {'; '.join(found['devices'])}")
    if found["cuda"] or shutil.which("nvidia-smi"):
        return Line(
            "torch",
            "warn",
            f"{found['torch']}: CUDA cannot be used",
            "Compare the driver (nvidia-smi) with torch's CUDA version and CUDA_VISIBLE_DEVICES, or install a torch "
            "built for CUDA.",
        )
    return Line(
        "torch", "warn", f"{found['torch']}, CPU only", "Checks run on the CPU; a GPU is needed for real sizes."
    )


def _git() -> Line:
    path = shutil.which("git")
    if path is None:
        return Line("git", "fail", "not found on PATH", "Install git 2.20 or newer.")
    out = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20)
    words = out.stdout.split()
    version = words[2] if len(words) > 2 else "unknown"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST_GIT:
        return Line("git", "fail", f"{version} at {path}", "Install git 2.20 or newer.")
    return Line("git", "ok", f"{version} at {path}")


def _state() -> Line:
    try:
        home = state_home()
        with tempfile.NamedTemporaryFile(dir=home, prefix="doctor-"):
            pass
    except PortError as error:
        return Line("state", "fail", error.seen, error.fix)
    except OSError as error:
        return Line("state", "fail", str(error), f"Free space, or set {VARIABLE} to a folder on another disk.")
    return Line("state", "ok", f"{home} can be written")


def _disk(cwd: Path) -> Line:
    places = {str(cwd): shutil.disk_usage(cwd).free}
    try:
        home = state_home()
        places[str(home)] = shutil.disk_usage(home).free
    except PortError:
        pass
    path, free = min(places.items(), key=lambda item: item[1])
    found = f"{free / 2**30:.1f} GiB free at {path}"
    if free < _DISK_FAIL:
        return Line("disk", "fail", found, "Free at least 1 GiB: runs write logs and results there.")
    if free < _DISK_WARN:
        return Line("disk", "warn", found, "Enough for small models; a 14B checkpoint takes 28 GB and more.")
    return Line("disk", "ok", found)


def _token() -> Line:
    """Whether there is a token for the hub; its value is never read into the output."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(variable):
            return Line("hub token", "ok", f"{variable} is set")
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    path = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")
    if path.is_file() and path.stat().st_size > 0:
        return Line("hub token", "ok", f"stored at {path}")
    return Line("hub token", "warn", "none", "Gated weights need one: `hf auth login`, or set HF_TOKEN.")


def _fastvideo(cwd: Path) -> Line:
    marks = [name for name in ("fastvideo/__init__.py", "fastvideo/registry.py") if (cwd / name).is_file()]
    if len(marks) == 2:
        return Line("fastvideo", "ok", f"{cwd} is a FastVideo repository: create_worktree branches from it")
    return Line(
        "fastvideo",
        "warn",
        f"{cwd} is not a FastVideo repository",
        "create_worktree will clone FastVideo; to branch from yours, start in it or pass fastvideo_repo.",
    )
