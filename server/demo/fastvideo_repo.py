"""A git repository of FastVideo, made from its wheel."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path, PurePosixPath

from ...port.errors import PortError

WHEEL_NAME = "fastvideo-0.2.1-py3-none-any.whl"
WHEEL_SHA256 = "47e97668dc7b9f3fdeef7f2790e8057646913d344b79d0ff807a0ddcf9e68738"
_IGNORE = "__pycache__/\n*.pyc\n"
_DATE = "2026-01-01T00:00:00+00:00"


def make_fastvideo_repository(wheel: Path, folder: Path) -> str:
    """Unpack FastVideo's ``wheel`` into ``folder`` and commit it there; return the commit's hash.

    The same wheel gives the same hash everywhere: dates, identity and file modes are fixed, and no configuration of
    this user or machine takes part. The wheel's own metadata (``*.dist-info``) is left out.

    Args:
        wheel: The wheel that ``constraints/fastvideo-wheel.txt`` pins.
        folder: Where the repository is to stand; absent or empty.

    Raises:
        PortError: The wheel is absent or has another content, the folder is in use, or git failed.
    """
    _verify(wheel)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PortError(
            "The folder for the FastVideo repository is in use.",
            seen=str(folder),
            fix="Name a folder that is absent or empty.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _unpack(wheel, folder)
        (folder / ".gitignore").write_text(_IGNORE, encoding="utf-8")
        _git(folder, "init", "--quiet", "--initial-branch=main")
        _git(folder, "add", "--all", "--force", "--", ".")
        _git(folder, "commit", "--quiet", "--message", f"FastVideo, from {wheel.name}")
        return _git(folder, "rev-parse", "HEAD").strip()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _verify(wheel: Path) -> None:
    if not wheel.is_file():
        raise PortError(
            "The FastVideo wheel is not there.", seen=str(wheel), fix="Run `make setup`, which downloads it."
        )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise PortError(
            "The FastVideo wheel does not have the pinned content.",
            seen=f"{wheel}: sha256 {digest}, pinned {WHEEL_SHA256}",
            fix="Delete the file and run `make setup`.",
        )


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            parts = PurePosixPath(info.filename).parts
            if info.is_dir() or parts[0].endswith(".dist-info"):
                continue
            archive.extract(info, folder)


def _git(folder: Path, *arguments: str) -> str:
    own = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_DATE": _DATE,
        "GIT_COMMITTER_DATE": _DATE,
        "GIT_TERMINAL_PROMPT": "0",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = ("-c", "user.name=fastvideo-port demo", "-c", "user.email=demo@fastvideo-port.invalid")
    modes = ("-c", "core.fileMode=false", "-c", "core.autocrlf=false")
    try:
        done = subprocess.run(
            ["git", *identity, *modes, *arguments],
            cwd=folder,
            env=inherited | own,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise PortError("git is not installed.", seen="no `git` on PATH", fix="Install git 2.28 or newer.") from error
    if done.returncode != 0:
        raise PortError(
            "git could not make the FastVideo repository.",
            seen=f"git {' '.join(arguments)}: {done.stderr.strip()}",
            fix="Install git 2.28 or newer and check that the disk has room.",
        )
    return done.stdout
