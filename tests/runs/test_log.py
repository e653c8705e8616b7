"""The log is bounded, keeps both ends and takes any bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastvideo_port.runs import log
from fastvideo_port.runs.store import RunStore
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import Begin


def test_two_hundred_megabytes_leave_a_small_log_with_both_ends(store: RunStore, begin: Begin) -> None:
    run = store.wait(begin("shouts", megabytes=200, log_limit=1 << 20).run_id, 60)
    assert run.state == "done"
    data = Path(run.log_path).read_bytes()
    assert data.startswith(b"the very beginning\n") and data.endswith(b"the very end\n")
    assert 0.7 * (1 << 20) < len(data) < (1 << 20) + 100
    dropped = int(data.partition(b"[fastvideo-port: ")[2].split()[0].replace(b",", b""))
    marker = len(f"\n[fastvideo-port: {dropped:,} bytes of output were dropped here]\n")
    assert dropped + len(data) - marker == 200 * (1 << 20) + len("the very beginning\nthe very end\n")


def test_binary_output_is_kept_and_its_end_is_text(store: RunStore, begin: Begin) -> None:
    run = store.wait(begin("binary").run_id, 30)
    assert run.state == "done" and bytes(range(256)) in Path(run.log_path).read_bytes()
    assert store.log_tail(run.run_id, 1).endswith("end")


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.binary(max_size=300), max_size=20), limit=st.integers(8, 400))
def test_what_is_kept_and_what_was_dropped_add_up(
    parts: list[bytes], limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    writer = log.LogWriter(folder, limit)
    for part in parts:
        writer.write(part)
    written = b"".join(parts)
    if written:
        assert written.endswith(log.tail(folder, 1, 1).encode()[-1:]) or not log.tail(folder, 1, 1).isascii()
    writer.close()
    data = (folder / log.LOG).read_bytes()
    if not writer.dropped:
        assert data == written
    else:
        marker = f"\n[fastvideo-port: {writer.dropped:,} bytes of output were dropped here]\n".encode()
        head, _, end = data.rpartition(marker)
        assert written.startswith(head) and written.endswith(end)
        assert len(head) + len(end) + writer.dropped == len(written)
        assert len(head) + len(end) <= limit
    assert sorted(path.name for path in folder.iterdir()) == [log.LOG]


def test_the_tail_reads_across_the_parts_while_the_run_goes_on(tmp_path: Path) -> None:
    writer = log.LogWriter(tmp_path, 80)
    for number in range(20):
        writer.write(f"line {number:3}\n".encode())
    assert log.tail(tmp_path, 2) == "line  18\nline  19"
    assert writer.dropped > 0


def test_the_log_of_a_dead_supervisor_is_put_together(tmp_path: Path) -> None:
    writer = log.LogWriter(tmp_path, 80)
    writer.write(b"x" * 500 + b"end")
    log.merge(tmp_path)
    data = (tmp_path / log.LOG).read_bytes()
    assert data.endswith(b"end") and b"an unknown number of bytes" in data
