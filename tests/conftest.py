"""What the tests share: FastVideo's environment, a FastVideo repository, a small official checkpoint, a state folder.

What takes seconds to make is made once and kept in `.demo/cache`, under the hash of what it is made from, behind a file
lock, so that the workers of pytest-xdist and the next call of pytest share it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from .fuzzing import load_profile

load_profile()

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".demo" / "cache"
_PYTHON = "bin/python" if os.name != "nt" else "Scripts/python.exe"


def _require(path: Path, what: str) -> Path:
    """``path``, or a skip that says how to get it; in CI its absence is a failure."""
    if path.exists():
        return path
    message = f"{what} is not there ({path}): run `make setup`"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _cached(name: str, key: bytes, make: Callable[[Path], object]) -> Path:
    """The folder that ``make(folder)`` fills, made once for this ``key`` and kept."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / f"{name}-{hashlib.sha256(key).hexdigest()[:16]}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """``made_once(name, make)``: the file that ``make(path)`` writes, once for all workers of this call of pytest."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def once(name: str, make: Callable[[Path], object]) -> Path:
        with FileLock(shared / f"{name}.lock"):
            if not (shared / name).exists():
                make(shared / f"{name}.unfinished")
                (shared / f"{name}.unfinished").rename(shared / name)
        return shared / name

    return once


@pytest.fixture(autouse=True)
def _state_never_leaves_the_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may touch the state folder of whoever runs it: the default is a folder of its own."""
    monkeypatch.setenv("FASTVIDEO_PORT_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder of this test's own, and ``FASTVIDEO_PORT_HOME`` set to it."""
    home = tmp_path / "state home"
    home.mkdir()
    monkeypatch.setenv("FASTVIDEO_PORT_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def fastvideo_python() -> Path:
    """The interpreter of FastVideo's environment: `.venv-fastvideo`, or ``FASTVIDEO_PORT_TEST_PYTHON``."""
    chosen = os.environ.get("FASTVIDEO_PORT_TEST_PYTHON")
    return _require(Path(chosen) if chosen else ROOT / ".venv-fastvideo" / _PYTHON, "FastVideo's environment")


@pytest.fixture(scope="session")
def fastvideo_wheel() -> Path:
    """The pinned FastVideo wheel."""
    from fastvideo_port.server.demo.fastvideo_repo import WHEEL_NAME

    return _require(ROOT / ".demo" / "wheels" / WHEEL_NAME, "The FastVideo wheel")


@pytest.fixture(scope="session")
def fastvideo_template(fastvideo_wheel: Path) -> Path:
    """A git repository of the real FastVideo, shared by all tests: read it, never write it."""
    from fastvideo_port.server.demo import fastvideo_repo

    key = fastvideo_repo.WHEEL_SHA256.encode() + Path(fastvideo_repo.__file__).read_bytes()
    return _cached("fastvideo", key, lambda folder: fastvideo_repo.make_fastvideo_repository(fastvideo_wheel, folder))


@pytest.fixture
def fastvideo_repo(fastvideo_template: Path, tmp_path: Path) -> Path:
    """A repository of the real FastVideo that this test may change; its folder's name has a space."""
    folder = tmp_path / "a FastVideo"
    clone = ["git", "clone", "--quiet", "--local", str(fastvideo_template), str(folder)]
    subprocess.run(clone, check=True, stdin=subprocess.DEVNULL)
    subprocess.run(["git", "-C", str(folder), "remote", "remove", "origin"], check=True, stdin=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def wan_checkpoint(fastvideo_python: Path) -> Path:
    """The small seeded official Wan checkpoint in Diffusers layout: read it, never write it."""
    script = ROOT / "server" / "demo" / "checkpoint.py"

    def make(folder: Path) -> None:
        command = [str(fastvideo_python), str(script), str(folder)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)

    return _cached("wan-checkpoint", script.read_bytes(), make)
