"""The wrapper around git: arguments, environment, limits."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fastvideo_port.port import git
from fastvideo_port.port.errors import PortError


@pytest.mark.parametrize("revision", ["main", "v1.0", "feature/x-y", "0123456789abcdef", "release_1+2"])
def test_a_plain_revision_is_taken(revision: str) -> None:
    assert git.check_revision(revision) == revision


@pytest.mark.parametrize(
    "revision",
    ["--upload-pack=x", "-h", "@{-1}", "a\nb", "", "a..b", "HEAD^", "a:b", "x.lock", "a b", "/a", "é", "x" * 300, "a/"],
)
def test_a_revision_that_is_an_option_or_an_expression_is_refused(revision: str) -> None:
    with pytest.raises(PortError, match="not the name of a branch"):
        git.check_revision(revision)


@pytest.mark.parametrize(
    ("url", "transport"),
    [
        ("https://example.org/a/b.git", "https"),
        ("ssh://git@example.org/a/b", "ssh"),
        ("git@example.org:a/b.git", "ssh"),
    ],
)
def test_a_remote_url_is_taken_with_its_transport(tmp_path: Path, url: str, transport: str) -> None:
    assert git.check_url(url, allow_local=False, cwd=tmp_path) == (url, transport)


@pytest.mark.parametrize("url", ["file:///etc", "/etc", ".", "fd::17", "EXT::sh", "https://", "git://example.org/x"])
def test_other_urls_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(PortError):
        git.check_url(url, allow_local=False, cwd=tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "https://user@SECRET@host/x",
        "https://user:p/SECRET@host/x",
        f"https://{'u' * 195}:SECRET@host/x",
        "https://user:SECRET%40host/x",
        "https://user:SECRET @host/x",
        "https://host:SECRET/x",
        "https://host/x?access_token=SECRET",
        "https://host/hf_SECRETsecret/x",
        "https:/SECRET@host/x",
        "https:\\\\SECRET@host/x",
        "user:SECRET@host:x",
    ],
)
def test_a_refused_url_does_not_show_its_password_however_it_is_written(tmp_path: Path, url: str) -> None:
    with pytest.raises(PortError) as caught:
        git.check_url(url, allow_local=True, cwd=tmp_path)
    assert "SECRET" not in str(caught.value)
    assert "SECRET" not in git.redact("fatal: 'https://host/x?access_token=SECRET' https://host/hf_SECRETsecret/x")


def test_a_path_of_windows_is_no_host_for_ssh(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="names no repository"):
        git.check_url("C:\\repo", allow_local=True, cwd=tmp_path)


def test_a_local_path_is_taken_where_allowed(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    assert git.check_url("r", allow_local=True, cwd=tmp_path) == (str(tmp_path / "r"), "file")


def test_credentials_do_not_survive_in_what_git_said(tmp_path: Path) -> None:
    with pytest.raises(PortError) as caught:
        git.run(["ls-remote", "--", "https://u:secret@127.0.0.1:9/x"], cwd=tmp_path, transports=("https",), limit_s=30)
    assert "secret" not in str(caught.value)


def test_a_transport_that_was_not_named_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="not allowed"):
        git.run(["ls-remote", "--", "https://127.0.0.1:9/x"], cwd=tmp_path)
    with pytest.raises(PortError, match="not allowed"):
        git.run(["ls-remote", "--", f"ext::touch {tmp_path}/ran"], cwd=tmp_path, transports=("https",))
    assert not (tmp_path / "ran").exists()


def test_a_command_that_hangs_is_stopped_with_its_children(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(PortError, match="did not end in 1 s"):
        git.run(["-c", "alias.hang=!sleep 60 & echo $! > child; wait", "hang"], cwd=tmp_path, limit_s=1)
    assert time.monotonic() - begun < 20
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]:
            return  # dead, and waiting for whoever reaps orphans here
        time.sleep(0.05)
    pytest.fail("the child of the stopped command still runs")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="the folder is not there"):
        git.run(["status"], cwd=tmp_path / "none")
