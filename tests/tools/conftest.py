"""Real repositories for the tools' tests."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.tools.base import ToolContext

Git = Callable[..., str]


@pytest.fixture
def lone_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Git without the machine's configuration, identity or home."""
    home = tmp_path / "a home"
    home.mkdir()
    for key in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture
def git(lone_git: None) -> Git:
    """``git(folder, *arguments)`` runs git with an identity and returns what it printed."""

    def call(folder: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]
        command = ["git", *identity, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return call


@pytest.fixture
def fastvideo(git: Git, tmp_path: Path) -> Path:
    """A git repository that is FastVideo by its markers, in a path with spaces, with one commit."""
    folder = tmp_path / "with spaces" / "Fast Video"
    (folder / "fastvideo").mkdir(parents=True)
    (folder / "fastvideo/__init__.py").write_text("")
    (folder / "fastvideo/registry.py").write_text("REGISTRY = {}\n")
    (folder / "README.md").write_text("FastVideo\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "--", ".")
    git(folder, "commit", "-q", "-m", "begin")
    return folder


@pytest.fixture
def context(tmp_path: Path, fastvideo: Path) -> ToolContext:
    """A tool's context that stands in the FastVideo repository."""
    home = tmp_path / "state"
    home.mkdir()
    return ToolContext(home=home, cwd=fastvideo)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A port of a tiny model, shared by a module's tests; see ``tiny.py``."""
    name = "_tools_tiny"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("tiny.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    made = sys.modules[name].make(tmp_path_factory.mktemp("tiny port"))
    yield made
    for run in made.ctx.runs.list():
        if not run.finished:
            made.ctx.runs.cancel(run.run_id)
