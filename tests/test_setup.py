"""`make setup` and continuous integration: pins that fit the project, stamps that notice a change, no assumptions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LISTS = ("dev.txt", "fastvideo.txt")


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / "constraints" / name).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), f"{name} has a line that is no exact pin"
    return {canonicalize_name(package): version for package, version in pairs}


def test_every_dependency_of_the_project_is_pinned_to_a_version_that_it_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = _pins("dev.txt")
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue  # for an older Python than the one that is pinned for
        assert pins[canonicalize_name(wanted.name)] in wanted.specifier, text


@pytest.mark.parametrize("name", LISTS)
def test_torch_is_pinned_exactly_and_without_a_build(name: str) -> None:
    """A range would pull a CUDA build of gigabytes; a local label would exist on one index only."""
    pins = _pins(name)
    assert pins["torch"] == "2.13.0"
    assert not [package for package, version in pins.items() if "+" in version]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What `make setup` reads, in a folder with a space, with every stamp newer than what it stands for."""
    folder = tmp_path / "a clone"
    shutil.copytree(ROOT / "constraints", folder / "constraints")
    shutil.copytree(ROOT / "server" / "demo" / "standins", folder / "server" / "demo" / "standins")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for path in folder.rglob("*"):
        os.utime(path, (1_000_000, 1_000_000))
    stamps = [".venv/.made", ".venv/.installed", ".venv-fastvideo/.made", ".venv-fastvideo/.installed"]
    for age, name in enumerate([*stamps, ".demo/wheels/fastvideo-0.2.1-py3-none-any.whl"]):
        stamp = folder / name
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
        os.utime(stamp, (2_000_000 + age, 2_000_000 + age))
    return folder


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_a_second_setup_does_nothing(clone: Path) -> None:
    done = _make(clone, "setup")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("changed", "redone", "kept"),
    [
        ("constraints/dev.txt", "rm -rf .venv ", "rm -rf .venv-fastvideo"),
        ("constraints/fastvideo.txt", "rm -rf .venv-fastvideo ", "rm -rf .venv "),
        ("pyproject.toml", "--no-deps -e .", "rm -rf"),
        ("server/demo/standins/fastvideo_port_cpu_standins.py", "standins/install.py", "rm -rf"),
        ("constraints/fastvideo-wheel.txt", "--require-hashes", "rm -rf"),
    ],
)
def test_a_change_redoes_what_it_touches_and_nothing_else(clone: Path, changed: str, redone: str, kept: str) -> None:
    (clone / changed).touch()
    plan = _make(clone, "--dry-run", "environments").stdout
    assert redone in plan
    assert kept not in plan


def test_without_the_interpreter_setup_says_how_to_name_one(clone: Path) -> None:
    (clone / "constraints" / "dev.txt").touch()
    done = _make(clone, "PYTHON=no-such-python3.11", "setup")
    assert done.returncode != 0
    assert "make PYTHON=/path/to/python3.11 setup" in done.stderr


def test_continuous_integration_runs_make_test_without_a_home_or_input(tmp_path: Path) -> None:
    """`.ci/run` with a stand-in for make that reports what it was given."""
    tools = tmp_path / "bin"
    tools.mkdir()
    report = tmp_path / "report"
    (tools / "make").write_text(
        f'#!/bin/sh\necho "$@ CI=$CI" >"{report}"; test -w "$HOME" || exit 3; read line && exit 4; exit 0\n'
    )
    (tools / "make").chmod(0o755)
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [str(ROOT / ".ci" / "run")],
        cwd="/",
        env=environment,
        input="something\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert report.read_text() == "test CI=true\n"


def test_the_makefile_describes_every_target_that_it_offers() -> None:
    text = (ROOT / "Makefile").read_text()
    offered = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert offered is not None
    described = set(re.findall(r"^#   make (\w+)", text, re.MULTILINE))
    assert described == set(offered[1].split()) - {"environments"}
