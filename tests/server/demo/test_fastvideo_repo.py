"""A git repository of FastVideo out of its wheel."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.server.demo import fastvideo_repo
from fastvideo_port.server.demo.fastvideo_repo import WHEEL_SHA256, make_fastvideo_repository

ROOT = Path(__file__).resolve().parents[3]


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout


def test_the_pinned_hash_is_the_one_that_pip_verifies() -> None:
    assert f"--hash=sha256:{WHEEL_SHA256}" in (ROOT / "constraints" / "fastvideo-wheel.txt").read_text()


def test_the_same_wheel_gives_the_same_commit_under_any_configuration(
    fastvideo_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_fastvideo_repository(fastvideo_wheel, tmp_path / "with a space")
    hostile = tmp_path / "home"
    hostile.mkdir()
    (hostile / ".gitconfig").write_text(
        "[user]\n\tname = Someone\n[commit]\n\tgpgsign = true\n[core]\n\tautocrlf = true\n\thooksPath = /nonexistent\n"
    )
    monkeypatch.setenv("HOME", str(hostile))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    second = make_fastvideo_repository(fastvideo_wheel, tmp_path / "second")
    monkeypatch.delenv("GIT_DIR")
    assert first == second == _git(tmp_path / "second", "rev-parse", "HEAD").strip()
    assert _git(tmp_path / "second", "status", "--porcelain") == ""
    assert (tmp_path / "second" / "fastvideo" / "registry.py").is_file()
    assert not list((tmp_path / "second").glob("*.dist-info"))


def test_another_content_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    wheel = tmp_path / fastvideo_repo.WHEEL_NAME
    wheel.write_bytes(b"PK\x05\x06" + bytes(18))
    with pytest.raises(PortError, match="pinned content"):
        make_fastvideo_repository(wheel, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_missing_wheel_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="make setup"):
        make_fastvideo_repository(tmp_path / "absent.whl", tmp_path / "repository")


def test_a_folder_in_use_is_left_alone(fastvideo_wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(PortError, match="in use"):
        make_fastvideo_repository(fastvideo_wheel, tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["mine.txt"]


def test_no_git_is_said(fastvideo_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PortError, match="git is not installed"):
        make_fastvideo_repository(fastvideo_wheel, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
