"""Slugs, display names and branch prefixes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.names import MAX_SLUG, check_branch_prefix, display_name, slugify
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Wan 2.2 / TI2V (5B)", "wan-2-2-ti2v-5b"),
        ("HunyuanVideo", "hunyuanvideo"),
        ("Modèle Été", "modele-ete"),
        ("Ｗａｎ２.１", "wan2-1"),
        ("-x", "x"),
        ("a\x00b", "a-b"),
        ("con", "model-con"),
        ("COM1", "model-com1"),
    ],
)
def test_a_slug_is_what_a_person_would_write(name: str, slug: str) -> None:
    assert slugify(name) == slug


@pytest.mark.parametrize("name", ["", "..", "🎬", "通义万相", "\u202e", "///"])
def test_a_name_without_latin_letters_still_gives_a_slug(name: str) -> None:
    assert slugify(name).startswith("model-")


def test_names_that_differ_only_in_what_was_dropped_stay_apart() -> None:
    names = ["万相 2", "混元 2", "2", "x" * 100, "x" * 101, "🎬", "🎥"]
    assert len({slugify(name) for name in names}) == len(names)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_every_slug_is_a_legal_name_everywhere(name: str) -> None:
    slug = slugify(name)
    assert 1 <= len(slug) <= MAX_SLUG
    assert set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not slug.startswith("-")
    assert not slug.endswith("-")
    assert slug == slugify(name)


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60))
def test_git_takes_every_slug_as_a_branch(name: str) -> None:
    command = ["git", "check-ref-format", "--branch", f"codex/port-{slugify(name)}-20260101-000000"]
    assert subprocess.run(command, cwd=Path("/"), capture_output=True, check=False).returncode == 0


def test_a_display_name_is_one_visible_line() -> None:
    assert display_name("a\x1b[31m\nb\u202ec\u200b  d") == "a [31m bc d"


@pytest.mark.parametrize("name", ["", " \n", "\u200b", "x" * 201])
def test_a_name_with_nothing_to_show_is_refused(name: str) -> None:
    with pytest.raises(PortError):
        display_name(name)


@pytest.mark.parametrize("prefix", ["", "codex/", "a/b-", "x_", "Ports.2/"])
def test_a_plain_prefix_is_taken(prefix: str) -> None:
    assert check_branch_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["-", "/x", "a//", "a..b", "a.lock/", "@{", "a b", "a\n", "é/", "x" * 61, "NUL/"])
def test_a_prefix_that_git_or_a_file_system_refuses_is_refused(prefix: str) -> None:
    with pytest.raises(PortError, match="branch prefix"):
        check_branch_prefix(prefix)
