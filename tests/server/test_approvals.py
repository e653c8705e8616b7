"""Approvals as clients see them: asked in the client in both eras, or pending; never given by an argument."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastvideo_port.port.approval_policy import read_policy
from fastvideo_port.port.approvals import Approvals
from fastvideo_port.port.gate import gate
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.port.records import PortRecord
from fastvideo_port.server.app import build_server
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult, ErrorData

from .helpers import ERAS, SERVE, drive, environment, stdio, text_of

_file = Path(__file__).parents[1] / "port" / "approval_port.py"
_spec = importlib.util.spec_from_file_location("_approval_port", _file)
assert _spec is not None and _spec.loader is not None
made: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)
STEP = made.STEP
WORDS = "The mapping renames to_q, to_k and to_v."


class Person:
    """Whoever sits at the client."""

    def __init__(self, action: str, content: dict[str, Any] | None = None, seconds: float = 0.0) -> None:
        self.action, self.content, self.seconds = action, content, seconds
        self.asked: list[Any] = []

    async def __call__(self, context: Any, params: Any) -> Any:
        self.asked.append(params)
        await asyncio.sleep(self.seconds)
        if self.action == "error":
            return ErrorData(code=-32601, message="no dialogues here")
        return ElicitResult(action=self.action, content=self.content)  # type: ignore[arg-type]


def yes(**more: Any) -> Person:
    return Person("accept", {"decision": "approve", **more})


@pytest.fixture
def port(tmp_path: Path) -> PortRecord:
    """A port whose mapping is proven, in the state folder `tmp_path / "home"`."""
    home = tmp_path / "home"
    home.mkdir()
    record: PortRecord = made.make_port(home, tmp_path / "worktree")
    made.prove(home, record)
    return record


def asks(port: PortRecord, **changed: Any) -> Any:
    """The steps of a client that asks for approval once."""

    async def steps(client: Client) -> Any:
        arguments = {"port_id": port.port_id, "step_id": STEP, "summary": WORDS, **changed}
        return await client.call_tool("request_approval", arguments)

    return steps


def reviewed(home: Path, port: PortRecord) -> str:
    """State of the gate's first item."""
    return gate(port, Ledger(home).entries(port.port_id), read_policy(home))[0].state


def run(home: Path, port: PortRecord, era: str, person: Person | None, **options: Any) -> dict[str, Any]:
    more = {"elicitation_callback": person} if person else {}
    result = drive(stdio(home, home), era, asks(port), **more, **options)
    assert not result.is_error, text_of(result)
    return dict(result.structured_content)


@pytest.mark.parametrize("era", ERAS)
def test_an_approval_in_the_client_opens_the_item(tmp_path: Path, port: PortRecord, era: str) -> None:
    home, person = tmp_path / "home", yes(note="Fine.")
    found = run(home, port, era, person)
    assert found["decision"] == "approved" and "client-asserted" in found["why"] and "update_step" in found["next_step"]
    assert reviewed(home, port) == "pass"
    asked = person.asked[0]
    assert "'^a$' -> 'b'" in asked.message and f"> {WORDS}" in asked.message
    schema = asked.requested_schema
    assert schema["required"] == ["decision"] and "default" not in schema["properties"]["decision"]
    entry = Ledger(home).entries(port.port_id)[-1]
    assert (entry.summary["channel"], entry.summary["note"]) == ("client", "Fine.")
    assert entry.summary["seconds"] >= 0 and entry.summary["asserted_by"]
    again = run(home, port, era, person)
    assert again["decision"] == "approved" and len(person.asked) == 1  # nobody is asked twice


@pytest.mark.parametrize("era", ERAS)
def test_a_form_filled_in_with_decline_stops_the_step(tmp_path: Path, port: PortRecord, era: str) -> None:
    home, person = tmp_path / "home", Person("accept", {"decision": "decline", "note": "Swapped."})
    found = run(home, port, era, person)
    assert found["decision"] == "declined" and "Swapped." in found["why"]
    assert "update_step" not in found["next_step"] and reviewed(home, port) == "fail"
    assert run(home, port, era, yes())["decision"] == "declined"  # the same content is not asked about again


@pytest.mark.parametrize("era", ERAS)
def test_a_dialogue_that_is_declined_in_a_persons_time_is_declined(tmp_path: Path, port: PortRecord, era: str) -> None:
    home = tmp_path / "home"
    assert run(home, port, era, Person("decline", seconds=1.8))["decision"] == "declined"
    assert reviewed(home, port) == "fail"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("person", "why"),
    [
        (Person("decline"), "faster than a person reads"),  # Codex in exec mode
        (Person("cancel"), "closed without a decision"),
        (Person("accept", {}), "without filling in"),  # Codex accepts empty forms
        (Person("accept"), "without filling in"),
        (Person("accept", {"decision": "yes"}), "without filling in"),
        (None, "cannot ask"),
    ],
    ids=["auto-decline", "cancel", "empty", "nothing", "other", "no-elicitation"],
)
def test_what_no_person_decided_stays_pending_and_names_the_ways(
    tmp_path: Path, port: PortRecord, era: str, person: Person | None, why: str
) -> None:
    home = tmp_path / "home"
    more = {"elicitation_callback": person} if person else {}
    result = drive(build_server(home, home), era, asks(port), **more)
    found = result.structured_content
    assert found["decision"] == "pending" and why in found["why"], found
    approval = found["approval_id"]
    assert any(f"approve {approval}" in way for way in found["how"])
    assert reviewed(home, port) == "needs_approval"
    assert [entry.kind for entry in Ledger(home).entries(port.port_id)] == ["check_mapping"]
    # The person decides elsewhere; the next call knows.
    view = Approvals(home).view(Approvals(home).get(approval))
    assert view.content is not None
    Approvals(home).decide(
        approval, approve=True, digest=view.content.digest, channel="command", asserted_by="terminal"
    )
    assert drive(build_server(home, home), era, asks(port), **more).structured_content["decision"] == "approved"


def test_a_client_that_answers_with_an_error_leaves_it_pending(tmp_path: Path, port: PortRecord) -> None:
    """In the newer era the client itself ends the call; the request waits all the same."""
    home = tmp_path / "home"
    result = drive(build_server(home, home), "legacy", asks(port), elicitation_callback=Person("error"))
    assert result.structured_content["decision"] == "pending"


@pytest.mark.parametrize("era", ERAS)
def test_a_content_that_changes_while_the_person_reads_is_not_approved(
    tmp_path: Path, port: PortRecord, era: str
) -> None:
    home = tmp_path / "home"

    class Slow(Person):
        async def __call__(self, context: Any, params: Any) -> Any:
            if not self.asked:
                made.prove(home, port, rules=("'^a$' -> 'evil'",))
            return await super().__call__(context, params)

    person = Slow("accept", {"decision": "approve"})
    found = drive(build_server(home, home), era, asks(port), elicitation_callback=person).structured_content
    if era == "legacy":
        assert found["decision"] == "pending" and "content changed" in found["why"]
        assert reviewed(home, port) == "needs_approval"
    else:  # the retried call sees the new content and asks anew, with it
        assert "evil" not in person.asked[0].message and "evil" in person.asked[1].message
        assert found["decision"] == "approved"


def test_under_a_strict_policy_the_client_is_not_asked(tmp_path: Path, port: PortRecord) -> None:
    home, person = tmp_path / "home", yes()
    (home / "policy.json").write_text('{"minimum": "command"}')
    found = drive(build_server(home, home), "auto", asks(port), elicitation_callback=person).structured_content
    assert found["decision"] == "pending" and "the policy asks for command" in found["why"] and not person.asked
    assert reviewed(home, port) == "needs_approval"


def test_a_policy_that_becomes_strict_takes_the_clients_approval_away(tmp_path: Path, port: PortRecord) -> None:
    home = tmp_path / "home"
    assert run(home, port, "auto", yes())["decision"] == "approved"
    (home / "policy.json").write_text('{"minimum": "page"}')
    assert reviewed(home, port) == "needs_approval"
    assert run(home, port, "auto", yes())["decision"] == "pending"


def test_an_answer_survives_a_restart_of_the_server(tmp_path: Path, port: PortRecord) -> None:
    """The newer era: another process of the same state folder takes the answer, a stranger's does not."""
    home = tmp_path / "home"

    async def begin(client: Client) -> Any:
        arguments = {"port_id": port.port_id, "step_id": STEP, "summary": WORDS}
        return await client.session.call_tool("request_approval", arguments, allow_input_required=True)

    first = drive(stdio(home, home), "auto", begin, elicitation_callback=yes())
    key = next(iter(first.input_requests))

    async def end(client: Client) -> Any:
        return await client.session.call_tool(
            "request_approval",
            {"port_id": port.port_id, "step_id": STEP, "summary": WORDS},
            input_responses={key: ElicitResult(action="accept", content={"decision": "approve"})},
            request_state=first.request_state,
            allow_input_required=True,
        )

    done = drive(stdio(home, home), "auto", end, elicitation_callback=yes())
    assert done.structured_content["decision"] == "approved"


@pytest.mark.parametrize("era", ERAS)
def test_over_http_it_is_the_same(tmp_path: Path, port: PortRecord, era: Any) -> None:
    home = tmp_path / "home"
    with _http(home) as url:

        async def steps() -> Any:
            async with (
                httpx2.AsyncClient(timeout=60) as http,
                Client(streamable_http_client(url, http_client=http), mode=era, elicitation_callback=yes()) as client,
            ):
                return await asks(port)(client)

        assert asyncio.run(steps()).structured_content["decision"] == "approved"
    assert reviewed(home, port) == "pass"


@contextlib.contextmanager
def _http(home: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [*SERVE, "--http", "--port", "0"], stderr=subprocess.PIPE, env=environment(home), cwd=home, text=True
    )
    try:
        assert process.stderr is not None
        url = process.stderr.readline().split()[3]
        for _ in range(200):
            with contextlib.suppress(httpx2.HTTPError):
                httpx2.get(url)
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=15)


# --- no argument approves ----------------------------------------------------------------------------------------

_GIVING = ("approve", "approval", "decision", "reviewed", "consent", "accept", "signed_off", "force", "override")


def giving(name: str, schema: dict[str, Any]) -> list[str]:
    """Arguments, at any depth, by whose name or values a caller could say that something is approved."""
    found = []

    def look(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.get("properties", {}).items():
                if any(word in key.lower() for word in _GIVING):
                    found.append(f"{path}.{key}")
                look(value, f"{path}.{key}")
            for value in [*node.get("enum", []), node.get("const", "")]:
                if any(word in str(value).lower() for word in ("approve", "decline", "accept")):
                    found.append(f"{path}={value}")
            for key, value in node.items():
                if key != "properties":
                    look(value, path)
        elif isinstance(node, list):
            for value in node:
                look(value, path)

    look(schema, name)
    return found


def test_no_tool_takes_an_approval(tmp_path: Path) -> None:
    tools = asyncio.run(build_server(tmp_path, tmp_path).list_tools())
    assert [row for tool in tools for row in giving(tool.name, tool.input_schema)] == []
    assert "request_approval" in [tool.name for tool in tools]


def test_the_search_for_such_arguments_turns_red() -> None:
    nested = {"properties": {"a": {"items": {"$ref": "x", "properties": {"approved": {"type": "boolean"}}}}}}
    assert giving("t", nested) == ["t.a.approved"]
    assert giving("t", {"properties": {"state": {"enum": ["done", "approved"]}}}) == ["t.state=approved"]


@pytest.mark.parametrize("extra", [{"approved": True}, {"decision": "approved"}, {"answer": {"kind": "approve"}}])
def test_an_agent_that_says_so_itself_is_refused(tmp_path: Path, port: PortRecord, extra: dict[str, Any]) -> None:
    home = tmp_path / "home"
    result = drive(build_server(home, home), "auto", asks(port, **extra))
    assert result.is_error and "no such argument" in text_of(result)
    assert reviewed(home, port) == "needs_approval"


def test_the_server_leaves_no_key_behind_before_it_asks(tmp_path: Path) -> None:
    build_server(tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []
