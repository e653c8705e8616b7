"""The local page over real HTTP: what decides, and every request that must be refused. And the command."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fastvideo_port.port.approval_policy import read_policy
from fastvideo_port.port.approvals import Approvals, Request
from fastvideo_port.port.gate import GateItem, gate
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.port.records import PortRecord
from fastvideo_port.tools._approval_page import running_page

from .helpers import environment

_file = Path(__file__).parents[1] / "port" / "approval_port.py"
_spec = importlib.util.spec_from_file_location("_approval_port", _file)
assert _spec is not None and _spec.loader is not None
made: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)
COMMAND = [sys.executable, "-m", "fastvideo_port.server"]
WORDS = "Look: <script>alert(1)</script> & {{ 7 * 7 }}"


@dataclass
class Waiting:
    """A port with a request that waits, and its state folder."""

    home: Path
    port: PortRecord
    request: Request

    @property
    def item(self) -> GateItem:
        """The gate's first item."""
        return gate(self.port, Ledger(self.home).entries(self.port.port_id), read_policy(self.home))[0]


@pytest.fixture
def waiting(tmp_path: Path) -> Waiting:
    """A request for the mapping of the transformer."""
    home = tmp_path / "home"
    home.mkdir()
    port = made.make_port(home, tmp_path / "worktree")
    made.prove(home, port, rules=("'^<b>$' -> 'x'",))
    return Waiting(home, port, Approvals(home).request(port, made.STEP, WORDS))


@pytest.fixture
def link(waiting: Waiting) -> Iterator[str]:
    """The link that `fastvideo-port page` prints."""
    process = subprocess.Popen(
        [*COMMAND, "page"], stdout=subprocess.PIPE, env=environment(waiting.home), cwd=waiting.home, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    url = process.stdout.readline().strip()
    base = url.partition("/enter")[0]
    for _ in range(200):
        try:
            httpx2.get(base)
            break
        except httpx2.HTTPError:
            time.sleep(0.05)
    assert running_page(waiting.home) == f"{base}/" and "token" not in f"{running_page(waiting.home)}"
    yield url
    process.terminate()
    process.wait(timeout=15)
    assert running_page(waiting.home) is None


def entered(link: str) -> tuple[httpx2.Client, str, dict[str, str]]:
    """A browser that opened the link: the client, the page's origin, the fields of its form."""
    base = link.partition("/enter")[0]
    browser = httpx2.Client(base_url=base, follow_redirects=True)
    answer = browser.get(link)
    assert answer.status_code == 200 and answer.url.path == "/" and not answer.url.query
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]+)">', answer.text))
    return browser, base, fields


def test_a_person_sees_the_content_and_approves_it(waiting: Waiting, link: str) -> None:
    browser, base, fields = entered(link)
    text = browser.get("/").text
    assert "&#39;^&lt;b&gt;$&#39; -&gt; &#39;x&#39;" in text
    assert "&lt;script&gt;" in text and "<script" not in text and "{{ 7 * 7 }}" in text
    done = browser.post("/decide", data={**fields, "decision": "approve", "note": "Fine."}, headers={"Origin": base})
    assert done.status_code == 200 and "approved" in done.text
    assert waiting.item.state == "pass"
    entry = Ledger(waiting.home).entries(waiting.port.port_id)[-1]
    assert (entry.summary["channel"], entry.summary["note"]) == ("page", "Fine.")
    for name, value in {
        "content-security-policy": "default-src 'none'",
        "x-frame-options": "DENY",
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
    }.items():
        assert value in done.headers[name]
    again = browser.post("/decide", data={**fields, "decision": "approve"}, headers={"Origin": base})
    assert again.status_code == 200  # a second click changes nothing
    assert len(Ledger(waiting.home).entries(waiting.port.port_id)) == 2


def test_a_person_declines(waiting: Waiting, link: str) -> None:
    browser, base, fields = entered(link)
    browser.post("/decide", data={**fields, "decision": "decline", "note": "No."}, headers={"Origin": base})
    assert waiting.item.state == "fail" and "No." in waiting.item.why


def test_what_changed_after_the_page_was_drawn_is_not_approved(waiting: Waiting, link: str) -> None:
    browser, base, fields = entered(link)
    made.prove(waiting.home, waiting.port, rules=("'^a$' -> 'evil'",))
    answer = browser.post("/decide", data={**fields, "decision": "approve"}, headers={"Origin": base})
    assert answer.status_code == 409 and "nothing was decided" in answer.text
    assert waiting.item.state == "needs_approval"


def test_every_forged_request_is_refused(waiting: Waiting, link: str) -> None:
    browser, base, fields = entered(link)
    good = {**fields, "decision": "approve"}
    port = urlsplit(base).port
    own = {"Origin": base}
    refused = [
        ("another host", "POST", good, {**own, "Host": "evil.example"}),
        ("another host's port", "POST", good, {**own, "Host": "127.0.0.1:1"}),
        ("rebound name", "POST", good, {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}),
        ("another origin", "POST", good, {"Origin": "http://evil.example"}),
        ("a null origin", "POST", good, {"Origin": "null"}),
        ("no origin", "POST", good, {}),
        ("another loopback server", "POST", good, {"Origin": "http://127.0.0.1:1"}),
        ("cross-site", "POST", good, {**own, "Sec-Fetch-Site": "cross-site"}),
        ("no form token", "POST", {k: v for k, v in good.items() if k != "form"}, own),
        ("a wrong form token", "POST", {**good, "form": "0" * 64}, own),
        ("another request's token", "POST", {**good, "approval_id": "approval-0"}, own),
        ("another content's token", "POST", {**good, "digest": "0" * 64}, own),
        ("an empty form", "POST", {}, own),
        ("read with another host", "GET", None, {"Host": "evil.example"}),
    ]
    for name, method, data, headers in refused:
        path = "/decide" if method == "POST" else "/"
        answer = browser.request(method, path, data=data, headers=headers)
        assert answer.status_code in (400, 403), (name, answer.status_code)
        assert "Approve" not in answer.text and fields["form"] not in answer.text, name
    for answer in (
        browser.get("/decide", params=good),  # a link cannot decide
        browser.put("/decide", data=good, headers=own),
        browser.post("/", data=good, headers=own),
        browser.post("/decide", content=b"x" * 200_000, headers=own),
        browser.post("/decide", content=b"\xff\xfe", headers=own),
        browser.post("/decide", data={**good, "decision": "maybe"}, headers=own),
    ):
        assert answer.status_code in (400, 403, 405, 413), answer.status_code
    stranger = httpx2.Client(base_url=base)
    for answer in (
        stranger.get("/"),
        stranger.post("/decide", data=good, headers=own),
        stranger.get("/enter"),
        stranger.get("/enter", params={"token": "x"}),
        stranger.get(link[:-1]),
        stranger.get("/", headers={"Cookie": f"fastvideo_port_{port}=x"}),
    ):
        assert answer.status_code == 403 and "set-cookie" not in answer.headers
    assert waiting.item.state == "needs_approval"
    assert len(Ledger(waiting.home).entries(waiting.port.port_id)) == 1


def test_the_page_is_told_to_the_agent_without_its_secret(waiting: Waiting, link: str) -> None:
    from fastvideo_port.tools.base import ToolContext
    from fastvideo_port.tools.request_approval import request_approval

    found = request_approval(ToolContext(waiting.home, waiting.home), waiting.port.port_id, made.STEP, WORDS)
    token = link.partition("token=")[2]
    assert any(link.partition("/enter")[0] in way for way in found.how)
    assert token and token not in found.model_dump_json()
    for path in waiting.home.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes()


# --- the command -------------------------------------------------------------------------------------------------


def typed(waiting: Waiting, arguments: list[str], line: str) -> tuple[int, str]:
    """Run the command in a terminal in which ``line`` is typed at its question; exit code and what it showed."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment(waiting.home),
        cwd=waiting.home,
    )
    os.close(follower)
    shown, sent, end = b"", False, time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([leader], [], [], 0.2)[0]:
            try:
                data = os.read(leader, 65536)
            except OSError:
                break
            shown += data
        if not sent and b"leave it as it is:" in shown:
            os.write(leader, f"{line}\n".encode())
            sent = True
        if process.poll() is not None and not select.select([leader], [], [], 0)[0]:
            break
    os.close(leader)
    return process.wait(timeout=10), shown.decode()


def test_at_a_terminal_the_word_approves(waiting: Waiting) -> None:
    code, shown = typed(waiting, ["approve", waiting.request.approval_id, "--note", "Fine."], "approve")
    assert code == 0 and "'^<b>$' -> 'x'" in shown and "is approved" in shown
    assert waiting.item.state == "pass" and "command" in waiting.item.why


@pytest.mark.parametrize(("arguments", "line"), [([], ""), ([], "y"), ([], "decline"), (["--decline"], "approve")])
def test_anything_else_decides_nothing(waiting: Waiting, arguments: list[str], line: str) -> None:
    code, shown = typed(waiting, ["approve", waiting.request.approval_id, *arguments], line)
    assert code == 3 and "Nothing was decided" in shown
    assert waiting.item.state == "needs_approval"


def test_at_a_terminal_a_person_declines(waiting: Waiting) -> None:
    code, _ = typed(waiting, ["approve", waiting.request.approval_id, "--decline"], "decline")
    assert code == 0 and waiting.item.state == "fail"


def command(waiting: Waiting, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input="approve\n",
        env=environment(waiting.home),
        cwd=waiting.home,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_pipe_cannot_approve(waiting: Waiting) -> None:
    out = command(waiting, "approve", waiting.request.approval_id)
    assert out.returncode == 1 and "not a terminal" in out.stderr
    assert waiting.item.state == "needs_approval"


def test_the_list_names_what_waits(waiting: Waiting) -> None:
    listed = command(waiting, "approve").stdout
    assert waiting.request.approval_id in listed
    # What a person is told to type works where they stand: by its path, for this state folder.
    assert f"FASTVIDEO_PORT_HOME={shlex.quote(str(waiting.home))} " in listed and "approve ID" in listed
    out = command(waiting, "approve", "--list")
    assert out.returncode == 0 and "pending" in out.stdout and made.STEP in out.stdout
    missing = command(waiting, "approve", "approval-0")
    assert missing.returncode == 1 and "no request" in missing.stderr
