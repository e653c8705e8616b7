"""Which Python runs FastVideo: found, run once, and asked what it has, without importing any of it here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import PortError
from .paths import check_text

MINIMUM = (3, 10)
LIMIT_S = 20.0
"""Seconds an interpreter has to answer."""

_MARK = "fastvideo-port:"
_ASK = f"""
import importlib.metadata, importlib.util, json, sys
answer = {{"version": list(sys.version_info[:3]), "torch": None}}
if importlib.util.find_spec("torch") is not None:
    try:
        answer["torch"] = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        answer["torch"] = "unknown version"
sys.stdout.write("\\n{_MARK}" + json.dumps(answer) + "\\n")
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python that ran.

    Attributes:
        path: Absolute path, links not followed (a virtual environment's python is a link).
        version: For example ``3.11.7``.
        torch: Version of the torch that it would import, or none.
    """

    path: str
    version: str
    torch: str | None


def inspect_interpreter(python: str, *, cwd: Path, name: str = "python") -> Interpreter:
    """Run ``python`` once and say what it is.

    Args:
        python: Path of the interpreter; ``~`` is expanded, a relative path counts from ``cwd``.
        cwd: See ``python``.
        name: The argument's name, for errors.

    Raises:
        PortError: It is not there, does not run, is too old, or does not answer in ``LIMIT_S``.
    """
    path = str((cwd / Path(check_text(python, name)).expanduser()).absolute())
    fix = f"Give the path of a Python {MINIMUM[0]}.{MINIMUM[1]} or newer, for example /path/to/.venv/bin/python."
    if not Path(path).is_file():
        raise PortError(f"The interpreter in {name} is not there.", seen=path, fix=fix)
    try:
        done = subprocess.run(
            [path, "-c", _ASK],
            cwd=os.sep,  # so that no file of a project shadows a module
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PortError(
            f"The interpreter in {name} did not answer.", seen=f"{path}: {LIMIT_S:g} s went by", fix=fix
        ) from None
    except OSError as error:
        raise PortError(
            f"The interpreter in {name} cannot be run.", seen=f"{path}: {error.strerror}", fix=fix
        ) from error
    lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith(_MARK)]
    if done.returncode != 0 or not lines:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise PortError(
            f"The interpreter in {name} does not behave like Python.",
            seen=f"{path}: exit status {done.returncode}; {said or 'no answer'}",
            fix=fix,
        )
    answer = json.loads(lines[-1].removeprefix(_MARK))
    version = ".".join(str(part) for part in answer["version"])
    if tuple(answer["version"]) < MINIMUM:
        raise PortError(f"The interpreter in {name} is too old.", seen=f"{path} is Python {version}", fix=fix)
    return Interpreter(path, version, answer["torch"])


def default_interpreter(repository: Path | None, notes: list[str]) -> Interpreter:
    """The Python of a FastVideo repository's environment, else the one that runs this process.

    Looks for ``.venv`` and ``.venv-fastvideo`` in the repository, then ``.venv-fastvideo`` beside it. What was found
    but does not run is named in ``notes``, and so is the server's own interpreter where nothing was found.
    """
    folders = (
        [repository / ".venv", repository / ".venv-fastvideo", repository.parent / ".venv-fastvideo"]
        if repository
        else []
    )
    for folder in folders:
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if not python.exists():
            continue
        try:
            return inspect_interpreter(str(python), cwd=repository or Path.cwd())
        except PortError as error:
            notes.append(f"{python} was passed over: {error.what} {error.seen}"[:400])
    notes.append(
        "No environment of FastVideo was found, so python is the server's own, which may lack what FastVideo imports: "
        "give python if FastVideo has another one."
    )
    return inspect_interpreter(sys.executable, cwd=Path.cwd())
