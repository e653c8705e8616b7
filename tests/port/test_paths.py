"""Paths from outside: what may be used, what is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.paths import digest_inside, open_inside, open_regular, resolve_inside


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a file, a folder, links that stay and links that leave, a FIFO and git's folder."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub/file").write_text("x")
    (root / ".git").mkdir()
    (root / ".git/config").write_text("")
    (root / "stays").symlink_to("sub")
    (root / "leaves").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    (root / "zero").symlink_to("/dev/zero")
    os.mkfifo(root / "fifo")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root-too").mkdir()
    return root


@pytest.mark.parametrize("argument", ["sub/file", "./sub/../sub/file", "stays/file", "{root}/sub/file"])
def test_a_path_below_the_root_is_resolved(root: Path, argument: str) -> None:
    assert resolve_inside(root, argument.format(root=root), kind="file") == root / "sub/file"


@pytest.mark.parametrize(
    ("argument", "what"),
    [
        ("../secret", "leaves"),
        ("/etc/passwd", "leaves"),
        ("../root-too", "leaves"),
        ("leaves/secret", "leaves"),
        ("zero", "leaves"),
        ("loop", "cannot be"),
        ("~", "cannot be used"),
        ("%2e%2e%2fsecret", "cannot be used"),
        ("sub/none", "cannot be used"),
        ("a\x00b", "control character"),
        ("a\nb", "control character"),
        ("", "is empty"),
        ("x" * 5000, "too long"),
        ("x" * 1000, "too long"),
        ("fifo", "neither a file nor a folder"),
        (".git/config", "git's own"),
        ("sub/../.git/config", "git's own"),
        (".GIT/config", "git's own"),
        ("sub", "is a folder, and a file is needed"),
    ],
)
def test_any_other_path_is_refused(root: Path, argument: str, what: str) -> None:
    with pytest.raises(PortError, match=what):
        resolve_inside(root, argument, kind="file")


def test_a_file_where_a_folder_is_needed_is_refused(root: Path) -> None:
    with pytest.raises(PortError, match="is a file, and a folder is needed"):
        resolve_inside(root, "sub/file", kind="folder")
    assert resolve_inside(root, "sub", kind="folder") == root / "sub"


@pytest.mark.parametrize("name", ["fifo", "sub", "zero", "none"])
def test_only_regular_files_are_opened_and_nothing_blocks(root: Path, name: str) -> None:
    with pytest.raises(PortError):
        open_regular(root / name)
    with open_regular(root / "sub/file") as file:
        assert file.read() == b"x"


def test_a_file_is_opened_where_it_was_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.py").write_text("x")
    found = resolve_inside(tmp_path, "sub/a.py", kind="file")
    with open_inside(tmp_path, found) as file:
        assert file.read() == b"x"
    assert digest_inside(tmp_path, found) == hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize("swap", ["the file", "its folder", "the file, within the root"])
def test_a_link_that_is_swapped_in_between_check_and_use_is_not_followed(tmp_path: Path, swap: str) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for folder in (root / "sub", other):
        folder.mkdir(parents=True)
        (folder / "a.py").write_text("x")
    (root / "b.py").write_text("y")
    found = resolve_inside(root, "sub/a.py", kind="file")
    if swap == "its folder":
        (root / "sub").rename(root / "was")
        (root / "sub").symlink_to(other)
    else:
        found.unlink()
        found.symlink_to(other / "a.py" if swap == "the file" else root / "b.py")
    with pytest.raises(PortError, match="replaced between"):
        digest_inside(root, found)
