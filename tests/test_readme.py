"""README.md says what is true: its commands work, its names exist, its generated parts and its picture are current."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastvideo_port.parity import verdict
from fastvideo_port.parity.context import Context
from fastvideo_port.port.environment import PATCHES
from fastvideo_port.port.gate import gate
from fastvideo_port.port.records import ComponentRecord, PortRecord
from fastvideo_port.server import cli
from fastvideo_port.server.serve import read_token
from fastvideo_port.tools import ALL

from .test_boundaries import ARROWS, ROOT, imports, modules, target_room
from .update_readme import CLONE, README, current, part, tool_list, with_parts

TEXT = README.read_text(encoding="utf-8")
OURS = ".venv/bin/fastvideo-port"
INSPECTOR = (
    f'inspect() {{ npx -y -p node@22 -p @modelcontextprotocol/inspector@2 mcp-inspector --cli {OURS} serve "$@"; }}'
)

OVER_HTTP = (
    "npx -y -p node@22 -p @modelcontextprotocol/inspector@2 mcp-inspector --cli http://127.0.0.1:8765/mcp "
    '--transport http --header "Authorization: Bearer $(cat ~/.fastvideo-port-token)" '
    "--protocol-era modern --method tools/list"
)


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    """Every fenced block of a Markdown text."""
    from markdown_it import MarkdownIt

    return [Block(token.info.strip(), token.content) for token in MarkdownIt().parse(text) if token.type == "fence"]


def commands(text: str) -> list[str]:
    """Every line of the shell blocks."""
    lines = [line for block in blocks(text) if block.language == "sh" for line in block.text.splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def parse_ours(arguments: list[str]) -> None:
    """Parse the arguments of `fastvideo-port` as the command does, without running anything.

    Raises:
        SystemExit: They are not ones that it takes.
    """
    if arguments[:1] == ["demo"]:
        from fastvideo_port.server.demo.play import _parser as demo_parser

        demo_parser().parse_args(arguments[1:])
        return
    from fastvideo_port.server.cli_tools import add_tool_commands

    parser = cli._parser()
    add_tool_commands(parser)
    parser.parse_args(arguments)


def make_targets() -> set[str]:
    """The targets that the Makefile offers."""
    found = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return set(found[1].split())


def inspector_problem(words: list[str]) -> str:
    """What is wrong with a call of the inspector; empty: nothing."""
    options = dict(zip(words[::2], words[1::2], strict=True))
    if set(options) - {"--protocol-era", "--method", "--tool-name", "--uri"}:
        return "an option that was not tried"
    if options["--protocol-era"] not in ("legacy", "modern"):
        return "no such era"
    if "--tool-name" in options and options["--tool-name"] not in {spec.name for spec in ALL}:
        return "no such tool"
    return "" if options.get("--uri", "skill://port-model") == "skill://port-model" else "no such resource"


def command_problem(line: str, generated: str) -> str:
    """What is wrong with a line of a shell block; empty: nothing. A command that nobody here can judge is wrong too."""
    if line in generated.splitlines():
        return ""  # the command of a client, compared with what `install` prints
    if line in (INSPECTOR, OVER_HTTP):
        return ""
    if line.startswith("(umask 077; python3 -c "):
        return ""  # run by a test of its own
    words = shlex.split(line)
    if words[0] == "FASTVIDEO_PORT_HOME=.demo/runs/latest/state":
        words = words[1:]
    if words[0] == "make":
        unknown = [word for word in words[1:] if "=" not in word and word not in make_targets()]
        return f"no target {unknown}" if unknown else ""
    if words[0] == "inspect":
        return inspector_problem(words[1:])
    if words[0] != OURS:
        return "a command that no test knows"
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parse_ours(words[1:])
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1]
    return ""


def command_problems(text: str) -> list[str]:
    """Every wrong command of the text."""
    generated = part(text, "install")
    found = ((line, command_problem(line, generated)) for line in commands(text))
    return [f"{line}: {problem}" for line, problem in found if problem]


def test_every_command_is_one_that_works() -> None:
    assert len(commands(TEXT)) > 12
    assert command_problems(TEXT) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("make demo\n", "make dmeo\n"),
        ("list-ports --json", "list-port --json"),
        ("--component transformer --wait", "--compnent transformer --wait"),
        ("FASTVIDEO_PORT_HOME=.demo", "FASTVIDEO_PORT_HOUSE=.demo"),
        ("--token-file ~", "--tokenfile ~"),
        ("skill --write ~", "skill --out ~"),
        ("--tool-name list_ports", "--tool-name ports"),
        ("--protocol-era modern", "--protocol-era newest"),
        ("--uri skill://port-model", "--uri skill://port"),
        ("make check\n", "pip install fastvideo-port\n"),
        ("claude mcp add --scope user", "claude mcp add --scope project"),
    ],
)
def test_the_check_of_commands_turns_red(right: str, wrong: str) -> None:
    assert right in TEXT
    text = TEXT.replace(right, wrong, 1)
    if right.startswith("claude"):
        assert with_parts(text, current()) != text
    else:
        assert len(command_problems(text)) == 1


OFFLINE = [line for line in commands(TEXT) if line.startswith(OURS) and " serve" not in line and "PORT_ID" not in line]


@pytest.mark.parametrize("line", OFFLINE)
def test_what_can_run_offline_runs(line: str, tmp_path: Path) -> None:
    """In a folder and with a home of its own; `~` is that home."""
    words = [word.replace("~", str(tmp_path), 1) for word in shlex.split(line)[1:]]
    done = subprocess.run(
        [sys.executable, "-m", "fastvideo_port.server", *words],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "FASTVIDEO_PORT_HOME": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_command_that_makes_a_token_makes_one_that_the_server_takes(tmp_path: Path) -> None:
    line = next(line for line in commands(TEXT) if line.startswith("(umask 077; python3 -c "))
    subprocess.run(["/bin/sh", "-c", line], env={**os.environ, "HOME": str(tmp_path)}, check=True)
    assert len(read_token(tmp_path / ".fastvideo-port-token") or "") > 30


# Generated parts.


def test_generated_parts_are_current() -> None:
    stale = [name for name, content in current().items() if part(TEXT, name) != content]
    assert not stale, f"README.md: {', '.join(stale)} changed; run `make fix`"


def test_the_check_of_generated_parts_turns_red() -> None:
    for name, (right, wrong) in {"tools": ("`plan_path`", "`plan`"), "install": ('"serve"', '"server"')}.items():
        assert right in part(TEXT, name)
        assert part(TEXT.replace(right, wrong), name) != current()[name]
    with pytest.raises(ValueError, match="no single part"):
        part(TEXT.replace("<!-- tools:end -->", ""), "tools")


def test_installing_is_shown_for_a_neutral_clone() -> None:
    shown = part(TEXT, "install")
    assert shown.count(f"{CLONE}/{OURS}") == 4
    assert str(Path.home()) not in shown


# Names.

# Names of other places: the worktree, the user's home, the client's folder.
ELSEWHERE = {
    "PLAN.md",
    ".venv",
    ".demo/runs/latest",
    ".cursor/mcp.json",
    "~/.local/state/fastvideo-port",
    "server/discover",  # a request of the protocol
    "tests/local_tests/<model>/parity_<component>.py",
}
# Names that belong to torch and FastVideo.
FOREIGN = {"assert_close", "param_names_mapping"}


def code_spans(text: str) -> list[str]:
    """Inline code outside the generated parts."""
    from markdown_it import MarkdownIt

    bare = with_parts(text, {"tools": "", "install": ""})
    inline = [token for token in MarkdownIt().enable("table").parse(bare) if token.type == "inline"]
    return [child.content for token in inline for child in token.children or [] if child.type == "code_inline"]


def names_in(schema: Any) -> Iterator[str]:
    """Property names and enum values of a JSON schema."""
    if isinstance(schema, list):
        for item in schema:
            yield from names_in(item)
    elif isinstance(schema, dict):
        yield from schema.get("properties", {})
        yield from (str(value) for value in schema.get("enum", []))
        for value in schema.values():
            yield from names_in(value)


def known_names() -> set[str]:
    """Tools, their arguments, fields and values; the adapter's functions; the prompt."""
    contract = ast.parse((ROOT / "parity" / "adapter.py").read_text(encoding="utf-8"))
    functions = {node.value for node in ast.walk(contract) if isinstance(node, ast.Constant)}
    tools = tool_list()
    known = {tool["name"] for tool in tools} | {str(name) for name in names_in(tools)}
    optional = {"param_mapping", "port_model"}
    return known | {str(name) for name in functions} | set(Context.__dataclass_fields__) | optional | FOREIGN


def flags_of_ours() -> set[str]:
    """Every flag that some sub-command takes."""
    said = io.StringIO()
    for command in [*cli._OWN, *(spec.name.replace("_", "-") for spec in ALL)]:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            parse_ours([command, "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", said.getvalue()))


def span_problem(span: str, known: set[str], flags: set[str]) -> str:
    """What is wrong with an inline code span; empty: nothing, or it is no name of ours."""
    if span in ELSEWHERE or "://" in span:
        return ""
    if span.startswith("--"):
        return "" if span.split()[0] in flags else "no such flag"
    if span.startswith("make "):
        bad = [word for word in span.split()[1:] if "=" not in word and word not in make_targets()]
        return f"no target {bad}" if bad else ""
    if span.startswith(OURS):
        words = span.replace("CLIENT", "claude").split()[1:]
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                parse_ours(words)
        except SystemExit:
            return "not a command of ours"
        return ""
    if re.fullmatch(r"[\w.<>~-]+(/[\w.<>-]*)+|[\w-]+\.(py|md|toml|txt|json|j2)", span):
        return "" if (ROOT / span).exists() or span == CLONE else "no such file"
    name = re.fullmatch(r"([a-z]+(?:_[a-z]+)+)(?:\(.*\))?", span)
    if name and name[1] not in known:
        return "no such name"
    if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", span) and not is_constant(span):
        return "no such constant or variable"
    return ""


def is_constant(name: str) -> bool:
    """Whether the package knows this upper-case name."""
    rooms = ("port", "parity", "server")
    return any(f'"{name}"' in path.read_text(encoding="utf-8") for room in rooms for path in modules(room))


def span_problems(text: str) -> list[str]:
    """Every wrong inline code span."""
    known, flags = known_names(), flags_of_ours()
    found = ((span, span_problem(span, known, flags)) for span in code_spans(text))
    return [f"{span}: {problem}" for span, problem in found if problem]


def test_every_name_in_the_text_exists() -> None:
    assert len(code_spans(TEXT)) > 80
    assert span_problems(TEXT) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("`write_plan`", "`make_plan`"),
        ("and `request_approval`; only", "and `request_approvals`; only"),
        ("`--allow-host`", "`--allowed-host`"),
        ("`make clean`", "`make tidy`"),
        ("`prompts/adapters/wan_vae.py`", "`prompts/adapters/wan_va.py`"),
        ("`tests/faults/`", "`tests/fault/`"),
        ("`.venv/bin/fastvideo-port doctor`", "`.venv/bin/fastvideo-port docter`"),
        ("`FASTVIDEO_PORT_HOME`", "`FASTVIDEO_PORT_FOLDER`"),
        ("`official_repo`", "`reference_repo`"),
        ("`load_official(ctx)`", "`load_reference(ctx)`"),
    ],
)
def test_the_check_of_names_turns_red(right: str, wrong: str) -> None:
    assert right in TEXT
    assert len(span_problems(TEXT.replace(right, wrong, 1))) == 1


def test_every_link_within_the_page_has_its_heading() -> None:
    headings = {re.sub(r"[^\w -]", "", line.lower()).strip().replace(" ", "-") for line in heading_lines(TEXT)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= headings
    assert "the-adaptor" not in headings


def heading_lines(text: str) -> list[str]:
    """The texts of all headings."""
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


# The picture.


def picture(text: str) -> tuple[set[str], set[tuple[str, str]], set[tuple[str, str]]]:
    """Boxes with a folder, solid arrows and dotted arrows of the mermaid block."""
    drawing = next(block.text for block in blocks(text) if block.language == "mermaid")
    boxes = {name for name, folder in re.findall(r'^ +(\w+)\["(\w+)/ ', drawing, re.MULTILINE) if name == folder}
    solid = set(re.findall(r"^ +(\w+) --> (\w+)$", drawing, re.MULTILINE))
    dotted = set(re.findall(r"^ +(\w+) -\. .+ \.-> (\w+)$", drawing, re.MULTILINE))
    return boxes, solid, dotted


def real_arrows() -> set[tuple[str, str]]:
    """Room to room, for every import between them."""
    found = set()
    for room in ARROWS:
        for path in modules(room):
            for _, level, name in imports(path):
                target = target_room(path, level, name) if level else ""
                if target not in ("", room):
                    found.add((room, target))
    return found


def picture_problems(text: str) -> list[str]:
    """Where the picture and the code differ."""
    boxes, solid, dotted = picture(text)
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    found = [f"box {name}" for name in boxes ^ rooms]
    found += [f"arrow {a} -> {b}" for a, b in solid ^ real_arrows()]
    found += [f"dotted arrow {a} -> {b}" for a, b in dotted if b not in rooms or (a not in rooms and a != "client")]
    return found


def test_the_picture_shows_the_rooms_and_the_imports_between_them() -> None:
    assert picture_problems(TEXT) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('    runs["runs/ ', '    jobs["jobs/ '),
        ("    runs --> parity\n", ""),
        ("    tools --> port\n", "    port --> tools\n"),
        ('    prompts["prompts/', '    templates["templates/'),
        ('-. "reads" .-> prompts', '-. "reads" .-> templates'),
    ],
)
def test_the_check_of_the_picture_turns_red(right: str, wrong: str) -> None:
    assert right in TEXT
    assert picture_problems(TEXT.replace(right, wrong, 1))


# What the text says of verdicts, gate, patches and the adapter.


def table_under(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    below = text.split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert lines is not None
    return [[cell.strip() for cell in row.strip("|\n").split(" | ")] for row in lines[0].splitlines()[2:]]


def band_problems(text: str) -> list[str]:
    """Bands of the text that are not those of the engine."""
    wanted = {
        "logic ratio": (f"at most {verdict.OUTPUT_PASS:g}", f"above {verdict.OUTPUT_FAIL:g}"),
        "boundaries": (f"at most {verdict.BOUNDARY_PASS:g}", f"above {verdict.BOUNDARY_FAIL:g}"),
        "systematic part": (f"at most {verdict.BIAS_PASS:g}", f"above {verdict.BIAS_FAIL:g}"),
        "precision ratio": (f"at most {verdict.PRECISION_LIMIT:g}", f"above {verdict.PRECISION_LIMIT:g}"),
    }
    rows = {row[0]: [cell.strip(" |") for cell in row[2:] if cell.strip(" |")] for row in table_under(text, VERDICTS)}
    return [name for name, bands in wanted.items() if rows.get(name) != list(bands)]


VERDICTS, GATE, PATCH_TABLE = "## What a verdict means", "## The gate", "## Environment patches"


def test_the_bands_are_those_of_the_engine() -> None:
    assert band_problems(TEXT) == []
    assert band_problems(TEXT.replace("at most 2 | above 3", "at most 1.6 | above 3")) == ["logic ratio"]


def gate_problems(text: str) -> list[str]:
    """Items of the gate that the text leaves out, or says something else of than the gate does."""
    component = ComponentRecord(name="t", kind="dit", official="a.B", port="c.D", adapter="x.py")
    fields: dict[str, Any] = dict.fromkeys(PortRecord.model_fields, "x")
    fields |= {"mode": "worktree", "components": [component], "environment_patches": [], "weights": None}
    items = gate(PortRecord.model_construct(**fields), [])
    rows = table_under(text, GATE)
    if [row[0] for row in rows] != [item.title for item in items]:
        return ["the items"]
    built = {item.title: "has no tool" not in item.why for item in items}
    return [title for title, said in rows if (said != "not yet") != built[title]]


def test_the_gate_is_described_as_it_is() -> None:
    assert gate_problems(TEXT) == []
    assert gate_problems(
        TEXT.replace("| Pipeline parity | yes, `run_pipeline_parity` |", "| Pipeline parity | not yet |")
    ) == ["Pipeline parity"]
    assert gate_problems(TEXT.replace("| Documentation | yes, `check_integration` |\n", "")) == ["the items"]


def test_every_environment_patch_is_described() -> None:
    assert [row[0].strip("`") for row in table_under(TEXT, PATCH_TABLE)] == list(PATCHES)
    fewer = TEXT.replace("| `cpu-device` |", "| `cpu-devices` |")
    assert [row[0].strip("`") for row in table_under(fewer, PATCH_TABLE)] != list(PATCHES)


def example_problems(text: str) -> list[str]:
    """Statements of the adapter example that are not in the file which it is taken from."""
    file = ast.parse((ROOT / "prompts" / "adapters" / "wan_vae.py").read_text(encoding="utf-8"))
    whole = {ast.dump(node) for node in file.body}
    shown = ast.parse(next(block.text for block in blocks(text) if block.language == "python"))
    return [ast.unparse(node).splitlines()[0] for node in shown.body if ast.dump(node) not in whole]


def test_the_example_is_taken_from_a_real_adapter() -> None:
    assert example_problems(TEXT) == []
    assert example_problems(TEXT.replace("posterior.logvar", "posterior.log_var", 1))


# The transcripts.


def transcript_problems(text: str) -> list[str]:
    """Transcripts that do not show what they stand for, and numbers of the prose that are in none of them."""
    red, green, epsilon = (part(text, f"transcript:{name}") for name in ("red", "green", "epsilon"))
    found = []
    if "run_component_parity   fail" not in red or "fastvideo/models/dits/wanvideo.py:" not in red:
        found.append("red")
    if "run_component_parity   pass" not in green or "old 1e-4 rule: fail" in green:
        found.append("green")
    if "run_component_parity   fail" not in epsilon or "old 1e-4 rule: fail" in epsilon:
        found.append("epsilon")
    said = re.search(r"The logic ratio does not: it is ([\d.]+) to ([\d.]+)", text)
    ratios = sorted(float(number) for number in re.findall(r"logic ([\d.]+)x", epsilon))
    if said is None or not ratios or [float(said[1]), float(said[2])] != [ratios[0], ratios[-1]]:
        found.append("numbers")
    return found


def test_the_transcripts_show_what_the_text_says_of_them() -> None:
    assert transcript_problems(TEXT) == []
    swapped = with_parts(
        TEXT,
        {"transcript:red": part(TEXT, "transcript:green"), "transcript:green": part(TEXT, "transcript:red")},
    )
    assert transcript_problems(swapped) == ["red", "green"]
    assert transcript_problems(TEXT.replace("The logic ratio does not: it is ", "It is ")) == ["numbers"]


def test_the_page_names_no_machine() -> None:
    assert not re.findall(r"(?:/tmp/|/root/|/home/|/work/)\S*", TEXT)
