"""The command line: every tool, exit codes, doctor, install. Real processes where the process matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.home import own_command
from fastvideo_port.server import doctor as doctor_module
from fastvideo_port.server.cli import main
from fastvideo_port.server.cli_tools import _Progress, exit_code
from fastvideo_port.server.console import show_result
from fastvideo_port.server.install import merge_codex, merge_json, server_command
from fastvideo_port.tools import ALL

from .helpers import environment

COMMAND = [sys.executable, "-m", "fastvideo_port.server"]
ENTRY: dict[str, Any] = {"command": "/a b/fastvideo-port", "args": ["serve"], "tool_timeout_sec": 120}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVIDEO_PORT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CODEX_HOME", raising=False)
    monkeypatch.chdir(tmp_path)


def test_every_tool_is_a_sub_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for spec in ALL:
        assert spec.name.replace("_", "-") in out


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_every_tools_help_names_its_arguments(spec: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from fastvideo_port.server.arguments import signature_of

    with pytest.raises(SystemExit):
        main([spec.name.replace("_", "-"), "--help"])
    out = capsys.readouterr().out
    for name in signature_of(spec).parameters:
        assert f"--{name.replace('_', '-')}" in out


def test_a_tool_runs_and_prints_json_alone_on_stdout() -> None:
    out = subprocess.run([*COMMAND, "list-ports", "--json"], capture_output=True, text=True, env=os.environ, timeout=60)
    assert out.returncode == 0 and out.stderr == ""
    assert json.loads(out.stdout)["ports"] == []


def test_a_tool_prints_a_readable_block(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list-ports"]) == 0
    out = capsys.readouterr().out
    assert "List ports" in out and "Next: " in out


@pytest.mark.parametrize(("width", "heads"), [(80, 0), (220, 1)])
def test_a_table_that_would_break_its_words_becomes_records(
    width: int, heads: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Project: `list-ports` in 80 columns was eight columns of four letters."""
    monkeypatch.setenv("COLUMNS", str(width))
    row: dict[str, Any] = {
        "port_id": "port-2ec1e265f1b2017b",
        "worktree": "/home/ada/dev/FastVideo-wan-2-2",
        "branch": "codex/port-wan-2-2-20261123",
    }
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    show_result("List ports", {"ports": [row, {**row, "branch": None}], "next_step": "Go on."})
    shown = capsys.readouterr().out
    assert shown.count("port-2ec1e265f1b2017b") == 2
    assert ("ports, 2 of 2" in shown) == (not heads)
    assert shown.count("\u2533") == 2 * heads


def test_in_a_pipe_nothing_is_framed_or_broken_and_empty_fields_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = f"run://run-0123456789abcdef/files/{'long-name-' * 20}.png"
    rows = [{"id": "ssim", "next": "", "uri": uri}, {"id": "example", "next": "Call run_example.", "uri": None}]
    details = {"why": "", "exit_code": 0, "log": ""}
    show_result("T", {"items": rows, "details": details, "why": "", "log": "a\nb", "next_step": "Go on."})
    assert capsys.readouterr().out.splitlines() == [
        "T",
        "items, 1 of 2",
        "  id: ssim",
        f"  uri: {uri}",
        "items, 2 of 2",
        "  id: example",
        "  next: Call run_example.",
        "details: exit_code=0",
        "log: a",
        "     b",
        "Next: Go on.",
    ]


def test_progress_is_told_when_it_is_news(capsys: pytest.CaptureFixture[str]) -> None:
    tell = _Progress()
    for seconds in (0.0, 0.503786, 1.01, 1.5):
        tell(seconds, None, "the script runs")
    for step in (1, 2, 2, 3):
        tell(step, 3, "importing")
    assert capsys.readouterr().err.splitlines() == [
        "the script runs", "[1/3] importing", "[2/3] importing", "[3/3] importing",
    ]  # fmt: skip


def test_a_refusal_goes_to_stderr_with_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run-status", "--run-id", "run-0", "--wait-s", "0"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "Do:" in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run-status", "--run-id", "run-0", "--wait-s", "long"],
        ["run-status", "--run-id", "a", "--run-id", "b"],
        ["write-plan", "--port-id", "p", "--scope", "s", "--components", '[{"nam": 1}]'],
    ],
)
def test_wrong_arguments_end_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Do:" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["run-status"], ["no-such-tool"], [], ["list-ports", "--jso"], ["install", "x"]])
def test_wrong_usage_ends_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_the_bare_command_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "list-ports" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "payload", "code"),
    [
        ("run_ssim", {"state": "done", "verdict": "pass"}, 0),
        ("run_ssim", {"state": "done", "verdict": "fail"}, 3),
        ("run_ssim", {"state": "done", "verdict": "inconclusive"}, 3),
        ("run_ssim", {"state": "done", "verdict": None}, 3),
        ("run_ssim", {"state": "running", "verdict": None}, 3),
        ("run_ssim", {"state": "crashed", "verdict": None}, 1),
        ("gate_status", {"gate": "closed"}, 3),
        ("gate_status", {"gate": "open"}, 0),
        ("run_status", {"state": "done", "tool": "run_ssim", "error": None, "result": {"verdict": "fail"}}, 3),
        ("run_status", {"state": "done", "tool": "run_ssim", "error": None, "result": {"verdict": "pass"}}, 0),
        ("run_status", {"state": "done", "tool": "run_ssim", "error": {"what": "x"}, "result": None}, 1),
        ("run_status", {"state": "queued", "tool": "run_ssim", "error": None, "result": None}, 3),
        ("run_status", {"state": "cancelled", "tool": "run_ssim", "error": None, "result": None}, 1),
        ("cancel_run", {"state": "cancelled"}, 0),
        ("list_ports", {"ports": []}, 0),
    ],
)
def test_exit_codes_never_call_red_or_unfinished_green(tool: str, payload: dict[str, Any], code: int) -> None:
    assert exit_code(tool, payload) == code


def test_http_options_without_http_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "9"]) == 1
    assert "--http" in capsys.readouterr().err


def test_the_skill_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["skill"]) == 0
    printed = capsys.readouterr().out
    assert main(["skill", "--write", str(tmp_path / "my skills")]) == 0
    written = Path(capsys.readouterr().out.strip())
    assert written.read_text(encoding="utf-8") == printed
    assert written == tmp_path / "my skills" / "port-model" / "SKILL.md"


def test_doctor_looks_at_everything_and_says_so_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [line["name"] for line in report["lines"]] == [
        "python",
        "torch",
        "git",
        "state",
        "disk",
        "hub token",
        "fastvideo",
    ]
    assert code == (0 if report["ok"] else 1)
    for line in report["lines"]:
        assert line["state"] == "ok" or line["fix"], line


def test_doctor_fails_without_git_or_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("FASTVIDEO_PORT_HOME", str(tmp_path / "file" / "home"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fail  git" in out and "fail  state" in out and "-> Install git" in out


def test_doctor_never_shows_the_token(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    main(["doctor"])
    out = capsys.readouterr().out
    assert "HF_TOKEN is set" in out and "hf_abc" not in out


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> doctor_module.Line:
        raise ZeroDivisionError

    monkeypatch.setattr(doctor_module, "_git", broken)
    line = next(line for line in doctor_module.findings(tmp_path) if line.name == "git")
    assert line.state == "fail" and "ZeroDivisionError" in line.found


def test_doctor_knows_a_fastvideo_repository(tmp_path: Path) -> None:
    (tmp_path / "fastvideo").mkdir()
    for name in ("__init__.py", "registry.py"):
        (tmp_path / "fastvideo" / name).write_text("", encoding="utf-8")
    line = next(line for line in doctor_module.findings(tmp_path) if line.name == "fastvideo")
    assert line.state == "ok"


@pytest.mark.parametrize("client", ["claude", "codex", "vscode", "cursor"])
def test_install_prints_and_changes_nothing(client: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", client]) == 0
    said = capsys.readouterr().out
    assert server_command()[0] in said
    again = said.splitlines()[-1].partition(": ")[2]
    assert again == own_command("install", client, "--write") and "FASTVIDEO_PORT_HOME=" in again
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("client", "path", "key"),
    [
        ("claude", ".mcp.json", "mcpServers"),
        ("vscode", ".vscode/mcp.json", "servers"),
        ("cursor", ".cursor/mcp.json", "mcpServers"),
    ],
)
def test_install_merges_json_and_keeps_the_rest(client: str, path: str, key: str, tmp_path: Path) -> None:
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    before = json.dumps({"inputs": [1], key: {"other": {"command": "x"}, "fastvideo-port": {"command": "old"}}})
    file.write_text(before, encoding="utf-8")
    assert main(["install", client, "--write"]) == 0
    after = json.loads(file.read_text(encoding="utf-8"))
    assert after["inputs"] == [1] and after[key]["other"] == {"command": "x"}
    entry = after[key]["fastvideo-port"]
    assert [entry["command"], *entry["args"]] == server_command()
    backups = list(file.parent.glob("*.bak"))
    assert [backup.read_text(encoding="utf-8") for backup in backups] == [before]
    assert main(["install", client, "--write"]) == 0
    assert list(file.parent.glob("*.bak")) == backups, "a second time changes nothing"


def test_the_installed_command_really_serves(tmp_path: Path) -> None:
    import asyncio

    from mcp import Client, StdioServerParameters

    assert main(["install", "claude", "--write"]) == 0
    entry = json.loads((tmp_path / ".mcp.json").read_text(encoding="utf-8"))["mcpServers"]["fastvideo-port"]
    target = StdioServerParameters(
        command=entry["command"], args=entry["args"], env=environment(tmp_path / "home"), cwd=str(tmp_path)
    )

    async def steps() -> int:
        async with Client(target) as client:
            return len((await client.list_tools()).tools)

    assert asyncio.run(steps()) == len(ALL)


@pytest.mark.parametrize("content", ["{ // comment\n}", "[]", '{"mcpServers": []}', "nonsense"])
def test_a_file_that_is_not_understood_is_left_alone(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / ".mcp.json"
    file.write_text(content, encoding="utf-8")
    assert main(["install", "claude", "--write"]) == 1
    assert file.read_text(encoding="utf-8") == content
    assert "by hand" in capsys.readouterr().err


def test_codex_keeps_comments_and_other_servers() -> None:
    import tomllib

    old = (
        'model = "x" # mine\n\n[mcp_servers.other]\ncommand = "y"\n\n'
        '[mcp_servers.fastvideo-port]\ncommand = "old"\n\n[mcp_servers.fastvideo-port.env]\nA = "1"\n\n'
        "[profiles.a]\nmodel = 'z'\n"
    )
    new = merge_codex(old, ENTRY, Path("config.toml"))
    found = tomllib.loads(new)
    assert found["mcp_servers"] == {"other": {"command": "y"}, "fastvideo-port": ENTRY}
    assert found["profiles"] == {"a": {"model": "z"}} and "# mine" in new
    assert merge_codex(new, ENTRY, Path("config.toml")) == new
    assert tomllib.loads(merge_codex("", ENTRY, Path("config.toml")))["mcp_servers"]["fastvideo-port"] == ENTRY


@pytest.mark.parametrize(
    "old",
    [
        'mcp_servers = { other = { command = "y" } }\n',
        "[broken\n",
        '[mcp_servers]\nfastvideo-port = { command = "old" }\n',
        'text = """\n[mcp_servers.fastvideo-port]\n"""\nmodel = "x"\n',
    ],
    ids=["inline", "broken", "inline-entry", "inside-a-text"],
)
def test_codex_files_that_cannot_be_merged_are_left_alone(old: str) -> None:
    with pytest.raises(PortError, match="left as it"):
        merge_codex(old, ENTRY, Path("config.toml"))


def test_codex_install_writes_its_file(tmp_path: Path) -> None:
    assert main(["install", "codex", "--write"]) == 0
    assert "[mcp_servers.fastvideo-port]" in (tmp_path / ".codex" / "config.toml").read_text(encoding="utf-8")


def test_merging_into_nothing_makes_the_file() -> None:
    assert json.loads(merge_json("", "servers", ENTRY, Path("x"))) == {"servers": {"fastvideo-port": ENTRY}}
