"""A client's trace is carried into the runs it starts and stands in the log."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastvideo_port.runs.folder import run_folder
from fastvideo_port.runs.records import read_record
from fastvideo_port.runs.store import RunStore
from fastvideo_port.server.logs import start_logging
from fastvideo_port.tools.base import ToolContext, ToolResult

from .helpers import ERAS, drive
from .test_binding import server_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
FAKE = Path(__file__).parent.parent / "runs" / "fake_engine"


class Begun(ToolResult):
    run_id: str


def begin(ctx: ToolContext) -> Begun:
    """Record a run."""
    logging.getLogger("fastvideo_port.server").info("begins with hf_secretsecretsecret")
    store = RunStore(ctx.home, parity_dir=FAKE)
    run = store.create(
        port_id=None, tool="begin", arguments={}, python=sys.executable, job="add", spec={}, cwd=ctx.home
    )
    return Begun(run_id=run.run_id, next_step="")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield start_logging(tmp_path)
    for handler in [one for one in root.handlers if one not in before]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


@pytest.mark.parametrize("era", ERAS)
def test_a_run_and_the_log_carry_the_clients_trace(tmp_path: Path, log: Path, era: str) -> None:
    result = drive(
        server_of(tmp_path, begin), era, lambda client: client.call_tool("begin", {}, meta={"traceparent": PARENT})
    )
    run_id = result.structured_content["run_id"]
    variables = read_record(tmp_path, run_id).env
    assert variables["TRACEPARENT"].startswith(f"00-{TRACE}-") and run_folder(tmp_path, run_id).is_dir()
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    (row,) = [row for row in rows if row["message"].startswith("begins")]
    assert row["trace_id"] == TRACE and row["level"] == "INFO" and "secret" not in row["message"]


@pytest.mark.parametrize("era", ERAS)
def test_without_a_trace_nothing_is_added(tmp_path: Path, log: Path, era: str) -> None:
    result = drive(server_of(tmp_path, begin), era, lambda client: client.call_tool("begin", {}))
    assert read_record(tmp_path, result.structured_content["run_id"]).env == {}
    assert all("trace_id" not in json.loads(line) for line in log.read_text().splitlines())


def test_an_exception_is_one_line_of_the_log(log: Path) -> None:
    try:
        raise KeyError("hf_secretsecretsecret\nsecond line")
    except KeyError:
        logging.getLogger("x").exception("broke")
    (row,) = [row for line in log.read_text().splitlines() if (row := json.loads(line))["message"] == "broke"]
    assert "Traceback" in row["exception"] and "secretsecret" not in row["exception"]
