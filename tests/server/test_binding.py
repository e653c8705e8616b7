"""What a client gets back: results, progress, pictures, errors. Project-defined unless a docstring says otherwise."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.server.binding import BoundTool
from fastvideo_port.server.outcome import LIMIT, payload_of, size
from fastvideo_port.tools.base import ToolContext, ToolResult, ToolSpec
from fastvideo_port.tools.picture import Picture
from mcp import Client
from mcp.server import MCPServer

from .helpers import ERAS, drive, text_of


class Rows(ToolResult):
    verdict: str
    score: float
    rows: list[dict[str, float]]


def measure(ctx: ToolContext, rows: int, score: float = 0.5) -> Rows:
    """Return rows."""
    return Rows(
        verdict="fail",
        score=score,
        rows=[{"index": float(index), "error": index / 7} for index in range(rows)],
        next_step="Repair the port.",
    )


def walk(ctx: ToolContext) -> Rows:
    """Report progress that goes backwards once."""
    for done in (1, 2, 2, 1.5, 3, float("nan")):
        ctx.report(done, 3, f"step {done}")
    return measure(ctx, 1)


def refuse(ctx: ToolContext) -> Rows:
    """Refuse."""
    raise PortError("It is wrong.", seen="a thing", fix="Do it right.")


def crash(ctx: ToolContext) -> Rows:
    """Break."""
    raise KeyError("hf_secretsecretsecret")


def look(ctx: ToolContext) -> Picture:
    """Show."""
    return Picture(data=b"\x89PNG", mime="image/png")


def server_of(home: Path, *functions: Any) -> MCPServer[Any]:
    context = ToolContext(home=home, cwd=home)
    specs = [ToolSpec(function, function.__name__, True, False, True, False) for function in functions]
    return MCPServer("test", tools=[BoundTool.of(spec, context) for spec in specs])


@pytest.mark.parametrize("era", ERAS)
def test_a_result_is_structured_and_its_text_is_the_same_json(tmp_path: Path, era: str) -> None:
    result = drive(server_of(tmp_path, measure), era, lambda client: client.call_tool("measure", {"rows": 2}))
    assert result.structured_content["rows"][1] == {"index": 1.0, "error": 1 / 7}
    assert not result.is_error
    assert '"verdict":"fail"' in text_of(result)


@pytest.mark.parametrize("era", ERAS)
def test_nan_arrives_as_null_and_passes_the_clients_schema_check(tmp_path: Path, era: str) -> None:
    call = {"rows": 1, "score": "nan"}
    result = drive(server_of(tmp_path, measure), era, lambda client: client.call_tool("measure", call))
    assert result.structured_content["score"] is None
    assert "NaN" not in text_of(result)


def test_a_large_result_is_cut_to_the_limit_and_says_so(tmp_path: Path) -> None:
    result = drive(server_of(tmp_path, measure), "auto", lambda client: client.call_tool("measure", {"rows": 20_000}))
    payload = result.structured_content
    assert size(payload) <= LIMIT
    assert 0 < len(payload["rows"]) < 20_000
    assert f"rows: first {len(payload['rows'])} of 20000 items" in payload["next_step"]
    assert payload["verdict"] == "fail"


def test_a_long_text_is_cut_too() -> None:
    class Log(ToolResult):
        log: str

    payload = payload_of(Log(log="é" * 100_000, next_step="Go on."))
    assert size(payload) <= LIMIT
    assert "log: first" in payload["next_step"] and "of 100000 characters" in payload["next_step"]


def test_a_small_result_is_left_alone(tmp_path: Path) -> None:
    payload = payload_of(measure(ToolContext(tmp_path, tmp_path), 3))
    assert payload["next_step"] == "Repair the port."


@pytest.mark.parametrize("era", ERAS)
def test_progress_only_rises(tmp_path: Path, era: str) -> None:
    """Spec: the progress value must increase with each notification."""
    seen: list[tuple[float, float | None, str | None]] = []

    async def steps(client: Client) -> Any:
        async def note(progress: float, total: float | None, message: str | None) -> None:
            seen.append((progress, total, message))

        return await client.call_tool("walk", {}, progress_callback=note)

    drive(server_of(tmp_path, walk), era, steps)
    assert seen == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]


@pytest.mark.parametrize("era", ERAS)
def test_a_picture_is_image_content_alone(tmp_path: Path, era: str) -> None:
    """Clients: images beside structured content are lost."""
    server = server_of(tmp_path, look)
    result = drive(server, era, lambda client: client.call_tool("look", {}))
    assert [block.type for block in result.content] == ["image"]
    assert result.content[0].mime_type == "image/png"
    assert result.structured_content is None
    assert asyncio.run(server.list_tools())[0].output_schema is None


@pytest.mark.parametrize("era", ERAS)
def test_a_refusal_is_our_text_and_nothing_else(tmp_path: Path, era: str) -> None:
    result = drive(server_of(tmp_path, refuse), era, lambda client: client.call_tool("refuse", {}))
    assert result.is_error and result.structured_content is None
    assert text_of(result) == "It is wrong.\nSeen: a thing\nDo: Do it right."


@pytest.mark.parametrize("era", ERAS)
def test_a_crash_shows_an_incident_and_logs_its_trace_under_it(
    tmp_path: Path, era: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        result = drive(server_of(tmp_path, crash), era, lambda client: client.call_tool("crash", {}))
    text = text_of(result)
    assert result.is_error
    assert "KeyError" in text and "secret" not in text and "Traceback" not in text
    number = text.split("incident ")[1].split(")")[0]
    record = next(record for record in caplog.records if number in record.getMessage())
    assert record.exc_info is not None and record.exc_info[0] is KeyError


def test_a_cancelled_call_leaves_the_server_free_at_once(tmp_path: Path) -> None:
    release = threading.Event()

    def hang(ctx: ToolContext) -> Rows:
        """Wait for the test."""
        release.wait(30)
        return measure(ctx, 1)

    async def steps(client: Client) -> Any:
        try:
            async with asyncio.timeout(0.5):
                await client.call_tool("hang", {})
        except TimeoutError:
            pass
        return await client.call_tool("measure", {"rows": 1})

    try:
        assert not drive(server_of(tmp_path, hang, measure), "auto", steps).is_error
    finally:
        release.set()


def test_what_is_not_a_tool_is_refused_at_the_start(tmp_path: Path) -> None:
    def plain(ctx: ToolContext) -> str:
        """Return text."""
        return ""

    def mute(ctx: ToolContext) -> Rows:
        return measure(ctx, 1)

    for function in (plain, mute):
        with pytest.raises(TypeError):
            server_of(tmp_path, function)
