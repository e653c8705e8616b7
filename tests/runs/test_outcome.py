"""Whatever a worker leaves behind is read without a crash."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from fastvideo_port.runs.folder import last_progress
from fastvideo_port.runs.models import ProcessIdentity, RunRecord
from fastvideo_port.runs.outcome import Ending, judge, read_result
from hypothesis import given, settings
from hypothesis import strategies as st

KEY = "k" * 64
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["ok", "value", "error", "done", "what"]), inner),
    max_leaves=20,
)
RECORD = RunRecord(
    run_id="run-0000000000000000",
    tool="f",
    state="running",
    created_at="",
    log_path="",
    python="",
    job="",
    parity_dir="",
    cwd="",
    time_limit_s=1,
    log_limit=1024,
    spec_digest="",
    key=KEY,
    creator=ProcessIdentity(pid=1, born=""),
)


def leave(folder: Path, data: bytes, key: str = KEY) -> None:
    """Leave ``data`` as result and progress, signed with ``key``."""
    (folder / "result.json").write_bytes(data)
    (folder / "progress.json").write_bytes(data)
    (folder / "result.mac").write_text(hmac.new(key.encode(), data, hashlib.sha256).hexdigest())


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_have_an_outcome(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("run")
    leave(folder, data)
    last_progress(folder)
    outcome = judge(RECORD, folder, Ending(exit_code=0))
    assert outcome.state in ("done", "failed", "crashed")
    assert (outcome.state == "done") == (outcome.error is None)
    if outcome.state == "done":
        assert json.loads(data)["ok"] is True and outcome.result_digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "data",
    [b'{"ok": true, "value": ' + b'{"a":' * 100000 + b"1" + b"}" * 100001, b'{"ok": 1, "value": {}}', b"[]", b""],
)
def test_a_result_of_the_wrong_form_is_no_result(tmp_path: Path, data: bytes) -> None:
    leave(tmp_path, data)
    assert read_result(tmp_path, KEY)[0] is None
    assert judge(RECORD, tmp_path, Ending(exit_code=0)).state == "crashed"


def test_a_result_needs_the_key_of_its_run(tmp_path: Path) -> None:
    data = b'{"ok": true, "value": {}}'
    leave(tmp_path, data)
    assert read_result(tmp_path, KEY) == ({"ok": True, "value": {}}, hashlib.sha256(data).hexdigest(), "")
    leave(tmp_path, data, key="x" * 64)
    assert read_result(tmp_path, KEY)[2] == "result.json is not what the worker wrote"
    (tmp_path / "result.mac").unlink()
    assert "result.mac cannot be read" in read_result(tmp_path, KEY)[2]


def test_a_kill_while_memory_ran_out_says_so(tmp_path: Path) -> None:
    ending = Ending(signal="SIGKILL", oom_kills=1)
    error = judge(RECORD, tmp_path, ending).error
    assert error is not None and "out-of-memory killer struck 1 time" in error.what


def test_an_end_without_cause_is_told_by_its_exit_code(tmp_path: Path) -> None:
    for stopped, state in (("cancelled", "cancelled"), ("time limit", "failed"), ("supervisor lost", "crashed")):
        assert judge(RECORD, tmp_path, Ending(stopped=stopped)).state == state  # type: ignore[arg-type]
