"""What both protocols ask of any server, over real HTTP: the scenarios that a server of no special fixtures can pass.

The same as the suite `@modelcontextprotocol/conformance` asks (server-initialize, ping, tools-list, resources-list,
prompts-list, server-sse-multiple-streams, dns-rebinding-protection), and what it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastvideo_port import __version__
from fastvideo_port.tools import ALL

from .http_server import INITIALIZE, META, Answer, Served, legacy, modern, serving

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
BOTH = pytest.mark.parametrize("era", ["legacy", "modern"])
INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32600, -32601, -32602


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the whole file."""
    root = tmp_path_factory.mktemp("conformance")
    with serving(root / "home", root) as server:
        yield server
        assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def session(served: Served) -> dict[str, str | None]:
    """Headers of a session of the older protocol that is ready for use."""
    answer = served.post(legacy("initialize", **INITIALIZE))
    headers: dict[str, str | None] = {
        "Mcp-Session-Id": answer.headers["mcp-session-id"],
        "MCP-Protocol-Version": "2025-11-25",
    }
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert served.post(ready, headers).status == 202
    return headers


class Asker:
    """Asks in one protocol."""

    def __init__(self, served: Served, session: dict[str, str | None], era: str) -> None:
        self.served, self.session, self.era = served, session, era

    def send(self, method: str, **params: Any) -> Answer:
        """The answer as it came."""
        if self.era == "modern":
            return self.served.post(*modern(method, **params))
        return self.served.post(legacy(method, **params), self.session)

    def result(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a request that succeeds."""
        answer = self.send(method, **params)
        assert answer.status == 200, answer
        message = answer.json()
        assert message["jsonrpc"] == "2.0" and message["id"] == 1 and "error" not in message, message
        return dict(message["result"])

    def error(self, method: str, **params: Any) -> dict[str, Any]:
        """The protocol error of a request that fails; the newer protocol has an HTTP status for it, too."""
        answer = self.send(method, **params)
        message = answer.json()
        assert message["id"] == 1 and "result" not in message, message
        assert answer.status == (200 if self.era == "legacy" else 404 if "not found" in str(message) else 400), answer
        return dict(message["error"])


@pytest.fixture
def ask(served: Served, session: dict[str, str | None], era: str) -> Asker:
    return Asker(served, session, era)


@pytest.mark.parametrize("version", VERSIONS)
def test_initialize_answers_in_the_version_that_the_client_asks_for(served: Served, version: str) -> None:
    answer = served.post(legacy("initialize", **{**INITIALIZE, "protocolVersion": version}))
    result = answer.json()["result"]
    assert result["protocolVersion"] == version
    assert result["serverInfo"]["name"] == "fastvideo-port" and result["serverInfo"]["version"] == __version__
    assert set(result["capabilities"]) == {"tools", "resources", "prompts"} and result["instructions"]
    identifier = answer.headers["mcp-session-id"]
    assert len(identifier) >= 32 and identifier.isascii() and identifier.isprintable()


@pytest.mark.parametrize("version", ["1999-01-01", "", "2026-07-28"])
def test_initialize_with_a_version_that_it_does_not_have_offers_the_latest(served: Served, version: str) -> None:
    answer = served.post(legacy("initialize", **{**INITIALIZE, "protocolVersion": version}))
    assert answer.json()["result"]["protocolVersion"] == VERSIONS[-1]


def test_discover_says_the_versions_and_who_it_is(served: Served) -> None:
    result = served.post(*modern("server/discover")).json()["result"]
    assert "2026-07-28" in result["supportedVersions"], result
    assert {"tools", "resources", "prompts"} <= set(result["capabilities"])


def test_a_version_that_no_one_has_is_refused_with_those_that_there_are(served: Served) -> None:
    body, headers = modern("tools/list")
    body["params"]["_meta"] = {**META, "io.modelcontextprotocol/protocolVersion": "2099-01-01"}
    answer = served.post(body, {**headers, "MCP-Protocol-Version": "2099-01-01"})
    assert answer.status == 400 and "2026-07-28" in str(answer.json()["error"]["data"]), answer


def test_ping_is_answered_with_nothing(served: Served, session: dict[str, str | None]) -> None:
    assert Asker(served, session, "legacy").result("ping") == {}


@BOTH
def test_the_tools_are_listed_with_schemas(ask: Asker) -> None:
    tools = ask.result("tools/list")["tools"]
    assert [tool["name"] for tool in tools] == [spec.name for spec in ALL]
    for tool in tools:
        assert tool["inputSchema"]["type"] == "object" and tool["description"]


@BOTH
def test_resources_templates_and_prompts_are_listed(ask: Asker) -> None:
    resources = ask.result("resources/list")["resources"]
    assert "skill://port-model" in {item["uri"] for item in resources} and all(item["name"] for item in resources)
    assert "run://{run_id}" in {
        item["uriTemplate"] for item in ask.result("resources/templates/list")["resourceTemplates"]
    }
    (prompt,) = ask.result("prompts/list")["prompts"]
    assert prompt["name"] == "port_model"
    assert [item["name"] for item in prompt["arguments"] if item.get("required")] == ["goal"]


@BOTH
def test_a_tool_that_fails_is_a_result_and_not_a_protocol_error(ask: Asker) -> None:
    """What the model can act on reaches the model: protocol errors mostly do not."""
    for name, arguments in (("gate_status", {"port_id": "port-0"}), ("gate_status", {}), ("gate_statsu", {})):
        result = ask.result("tools/call", name=name, arguments=arguments)
        assert result["isError"] is True and "structuredContent" not in result
        assert "\nDo: " in result["content"][0]["text"]


@BOTH
def test_a_call_without_a_name_is_a_protocol_error(ask: Asker) -> None:
    assert ask.error("tools/call", arguments={})["code"] == INVALID_PARAMS


@BOTH
@pytest.mark.parametrize(
    "method",
    ["nope", "nope/nope", "logging/setLevel", "completion/complete", "resources/subscribe", "roots/list", "tasks/list",
     "sampling/createMessage", "__class__"],
)  # fmt: skip
def test_a_method_that_is_not_offered_is_not_found(ask: Asker, method: str) -> None:
    completion = {"ref": {"type": "ref/prompt", "name": "port_model"}, "argument": {"name": "goal", "value": "x"}}
    params: dict[str, Any] = {
        "logging/setLevel": {"level": "info"},
        "completion/complete": completion,
        "resources/subscribe": {"uri": "skill://port-model"},
    }.get(method, {})
    assert ask.error(method, **params)["code"] == METHOD_NOT_FOUND


@BOTH
@pytest.mark.parametrize("uri", ["plan://port-0", "run://run-0", "file:///etc/passwd", "skill://other", "x"])
def test_a_resource_that_is_not_there_is_said_with_its_address(ask: Asker, uri: str) -> None:
    error = ask.error("resources/read", uri=uri)
    assert error["code"] == INVALID_PARAMS and "\nDo: " in error["message"]
    assert error["data"]["uri"] == uri and "root:" not in error["message"]


@BOTH
def test_a_prompt_without_what_it_needs_or_of_another_name_is_invalid(ask: Asker) -> None:
    """The SDK answers the first as an internal error (newer protocol) or with the code 0 (older one)."""
    for params in ({"name": "port_model"}, {"name": "port_model", "arguments": {"model_name": "Wan"}}):
        error = ask.error("prompts/get", **params)
        assert error["code"] == INVALID_PARAMS and "without goal" in error["message"], error
    assert "nearest: port_model" in ask.error("prompts/get", name="port_modle")["message"]
    assert ask.error("prompts/get", name="port_model", arguments={"goal": 3})["code"] == INVALID_PARAMS
    assert ask.result("prompts/get", name="port_model", arguments={"goal": "x"})["messages"][0]["role"] == "user"


@BOTH
def test_parameters_of_another_form_are_invalid(ask: Asker) -> None:
    assert ask.error("tools/call", name=3)["code"] in (INVALID_PARAMS, -32020)  # the latter: header and body differ
    assert ask.error("resources/read")["code"] == INVALID_PARAMS


@pytest.mark.parametrize("number", [0, -1, 2**53, "", "a" * 500, "0", "\u202e"])
def test_an_id_comes_back_as_it_was(served: Served, session: dict[str, str | None], number: Any) -> None:
    message = served.post(legacy("ping", number=number), session).json()
    assert message["id"] == number and type(message["id"]) is type(number)


@pytest.mark.parametrize(
    "message",
    [
        {"method": "notifications/cancelled", "params": {"requestId": 99, "reason": "gone"}},
        {"method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}},
        {"method": "notifications/roots/list_changed"},
        {"method": "notifications/of-another-time"},
        {"id": 77, "result": {}},
        {"id": 77, "error": {"code": 1, "message": "x"}},
    ],
    ids=lambda message: str(message.get("method", message)),
)
def test_what_needs_no_answer_gets_none(served: Served, session: dict[str, str | None], message: Any) -> None:
    assert served.post({"jsonrpc": "2.0", **message}, session).status == 202
    assert served.post(legacy("ping"), session).status == 200


def test_several_streams_of_one_session_are_answered_each_on_its_own(
    served: Served, session: dict[str, str | None]
) -> None:
    def one(number: int) -> Any:
        return served.post(
            legacy("tools/call", number, name="gate_status", arguments={"port_id": f"p{number}"}), session
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(24)))
    for number, answer in enumerate(answers):
        message = answer.json()
        assert message["id"] == number and f"'p{number}'" in message["result"]["content"][0]["text"]


def test_a_session_ends_when_the_client_deletes_it(served: Served) -> None:
    answer = served.post(legacy("initialize", **INITIALIZE))
    headers: dict[str, str | None] = {"Mcp-Session-Id": answer.headers["mcp-session-id"]}
    assert served.post(b"", headers, method="DELETE").status in (200, 202, 204)
    assert served.post(legacy("ping"), headers).status == 404
    assert served.post(legacy("ping"), {"Mcp-Session-Id": "guessed"}).status == 404
    assert served.post(legacy("ping")).status == 400


@BOTH
@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Host", "evil.example", 421),
        ("Host", "127.0.0.1.evil.example", 421),
        ("Host", "127.0.0.1:1", 421),
        ("Origin", "http://evil.example", 403),
        ("Origin", "null", 403),
    ],
)
def test_a_page_that_rebinds_its_name_reaches_nothing(
    served: Served, era: str, header: str, value: str, status: int
) -> None:
    body, headers = modern("tools/list") if era == "modern" else (legacy("initialize", **INITIALIZE), {})
    assert served.post(body, {**headers, header: value}).status == status
    own = f"127.0.0.1:{served.port}" if header == "Host" else f"http://localhost:{served.port}"
    assert served.post(body, {**headers, header: own}).status == 200


def test_headers_that_say_otherwise_than_the_body_are_refused(served: Served) -> None:
    """Something in front of the server may route by the headers."""
    body, headers = modern("tools/call", name="list_ports", arguments={})
    for wrong in ({"Mcp-Method": "tools/list"}, {"Mcp-Name": "cancel_run"}, {"MCP-Protocol-Version": "2025-11-25"}):
        assert served.post(body, {**headers, **wrong}).status == 400, wrong
