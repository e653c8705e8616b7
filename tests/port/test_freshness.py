"""Evidence goes stale with what it was measured on, and with nothing else; the sentence names the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fastvideo_port.port.freshness import plan_digest, what_changed
from fastvideo_port.port.ledger import Entry
from fastvideo_port.port.records import ComponentRecord, PortRecord, WeightsRecord, now

FILES = ("worktree:fastvideo/dit.py", "worktree:fastvideo/layers.py", "adapter:tests/parity_dit.py")


@pytest.fixture
def port(tmp_path: Path) -> PortRecord:
    """A port with code, an adapter, an official repository and weights."""
    worktree, official = tmp_path / "work tree", tmp_path / "official"
    for path in (*(worktree / name.partition(":")[2] for name in FILES), worktree / "fastvideo/other.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {path.name}\n")
    official.mkdir()
    (official / "model.py").write_text("# model\n")
    (tmp_path / "video.mp4").write_bytes(b"video")
    return PortRecord(
        port_id="port-1",
        model_name="Wan",
        slug="wan",
        worktree=str(worktree),
        branch="b",
        base_commit="c",
        mode="worktree",
        repository="/r",
        python="/p",
        official_repo=str(official),
        weights=WeightsRecord(path="/w", source="org/name", digest="d1"),
        components=[
            ComponentRecord(name="dit", kind="dit", official="o.A", port="fastvideo.B", adapter="tests/parity_dit.py")
        ],
        created_at=now(),
    )


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def entry(port: PortRecord, tmp_path: Path) -> Entry:
    """A measurement of the port as it is now."""
    depends = {name: sha(Path(port.worktree) / name.partition(":")[2]) for name in FILES}
    depends["official:model.py"] = sha(tmp_path / "official/model.py")
    depends[f"path:{tmp_path / 'video.mp4'}"] = sha(tmp_path / "video.mp4")
    depends |= {"weights": "d1", "plan": plan_digest(port, "dit"), "environment:port.torch": "2.13"}
    return Entry(
        kind="component_parity",
        port_id="port-1",
        component="dit",
        run_id="run-1",
        verdict="pass",
        complete=True,
        summary={},
        depends_on=depends,
        recorded_at=now(),
    )


def test_nothing_changed_is_fresh(port: PortRecord, entry: Entry) -> None:
    assert what_changed(entry, port) == []


def test_one_character_in_an_imported_file_is_stale_and_named(port: PortRecord, entry: Entry) -> None:
    path = Path(port.worktree) / "fastvideo/dit.py"
    path.write_text(path.read_text().replace("d", "D", 1))
    assert what_changed(entry, port) == ["fastvideo/dit.py changed"]


def test_the_content_counts_and_not_the_time(port: PortRecord, entry: Entry) -> None:
    path = Path(port.worktree) / "fastvideo/dit.py"
    old, status = path.read_text(), path.stat()
    path.write_text(old.upper())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert what_changed(entry, port) == ["fastvideo/dit.py changed"]
    path.write_text(old)  # a new time and the old content
    assert what_changed(entry, port) == []


def test_a_change_in_a_file_that_was_not_imported_leaves_it_fresh(port: PortRecord, entry: Entry) -> None:
    (Path(port.worktree) / "fastvideo/other.py").write_text("x = 1\n")
    (Path(port.worktree) / "fastvideo/new.py").write_text("x = 1\n")
    assert what_changed(entry, port) == []


def gone(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (gone, "fastvideo/layers.py is gone"),
        (dangling, "fastvideo/layers.py is gone"),
        (folder, "fastvideo/layers.py cannot be read"),
        (fifo, "fastvideo/layers.py cannot be read"),
        (elsewhere, "fastvideo/layers.py changed"),
    ],
)
def test_what_took_the_files_place_is_said(
    port: PortRecord, entry: Entry, change: Callable[[Path], None], said: str
) -> None:
    change(Path(port.worktree) / "fastvideo/layers.py")
    (sentence,) = what_changed(entry, port)
    assert sentence.startswith(said)


def test_a_changed_adapter_is_stale(port: PortRecord, entry: Entry) -> None:
    (Path(port.worktree) / "tests/parity_dit.py").write_text("# easier inputs\n")
    assert what_changed(entry, port) == ["tests/parity_dit.py changed"]


def test_other_weights_are_stale_and_the_same_fetched_again_are_not(port: PortRecord, entry: Entry) -> None:
    again = port.model_copy(update={"weights": WeightsRecord(path="/v", source="other/name", digest="d1", fetch=2)})
    assert what_changed(entry, again) == []
    for weights in (WeightsRecord(path="/w", source="org/name", digest="d2", fetch=2), None):
        changed = what_changed(entry, port.model_copy(update={"weights": weights}))
        assert changed == ["the official weights were fetched again and differ"]


@pytest.mark.parametrize("field", ["official", "port", "adapter"])
def test_another_plan_of_the_component_is_stale(port: PortRecord, entry: Entry, field: str) -> None:
    planned = port.components[0].model_copy(update={field: "another"})
    assert what_changed(entry, port.model_copy(update={"components": [planned]})) == [
        "the plan names other classes for this component"
    ]


def test_another_component_in_the_plan_leaves_it_fresh(port: PortRecord, entry: Entry) -> None:
    vae = ComponentRecord(name="vae", kind="vae", official="o.V", port="fastvideo.V", adapter="x.py")
    assert what_changed(entry, port.model_copy(update={"components": [vae, *port.components]})) == []


def test_official_code_is_watched_too(port: PortRecord, entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "official/model.py").write_text("# easier\n")
    assert what_changed(entry, port) == ["official model.py changed"]
    without = port.model_copy(update={"official_repo": None})
    assert what_changed(entry, without) == ["official model.py is gone with the official repository"]


def test_a_video_is_watched_by_its_path(port: PortRecord, entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"another")
    assert what_changed(entry, port) == [f"{tmp_path / 'video.mp4'} changed"]


def test_many_changes_are_counted_and_not_listed(port: PortRecord, entry: Entry) -> None:
    many = {f"worktree:f{number}.py": "0" for number in range(20)}
    changed = what_changed(entry.model_copy(update={"depends_on": many}), port)
    assert len(changed) == 6
    assert changed[-1] == "and 15 more"
