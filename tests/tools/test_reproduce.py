"""The report's lines that repeat the measurements: each can be pasted into a fresh shell and asks for the same call."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.home import VARIABLE
from fastvideo_port.server.arguments import signature_of
from fastvideo_port.server.cli import _parser
from fastvideo_port.server.cli_tools import _given, add_tool_commands
from fastvideo_port.tools import ALL
from fastvideo_port.tools._reproduce import command_of, commands_of
from fastvideo_port.tools.write_plan import PlanComponent, write_plan
from PIL import Image

EULER = """
class Euler:
    def __init__(self):
        self.config = {}
"""
NOT_MEASURED = {"scaffold_component"}
"""Tools that leave a run and measure nothing."""


def calls(tiny: Any, official: str) -> dict[str, dict[str, Any]]:
    """Arguments of every tool that can leave a run, each beside its defaults: what a shell or a parser may trip on."""
    checkpoint = str(Path(tiny.port.weights.path).resolve())
    return {
        "fetch_official_repo": {"url": official, "revision": "main"},
        "fetch_weights": {"source": checkpoint},
        "convert_weights": {"script": "convert it.py", "args": ["--from", "{source}", "[a]", "$HOME"]},
        "check_mapping": {"component": "transformer", "adapter": "tests/other adapter.py"},
        "run_component_parity": {
            "component": "transformer", "cases": ["small"], "dtypes": ["float32"], "device": "cpu", "seeds": [3, 4],
            "align_backends": True,
        },
        "locate_divergence": {"component": "transformer", "case": "odd", "device": "cpu"},
        "check_scheduler": {
            "official": "official_euler.Euler", "port": "fastvideo.euler.Euler", "num_steps": 7,
        },
        "run_pipeline_parity": {"adapter": "tests/other adapter.py", "cases": ["-x"], "device": "cpu"},
        "run_ssim": {
            "reference": "official frames", "candidate": "frames", "metric": "ssim", "threshold": 0.9,
            "min_threshold": 0.5, "device": "cpu",
        },
        "run_example": {"script": "examples/one.py", "args": ["--output", "a 'b'.mp4", "-n", "", "[1]"]},
        "scaffold_component": {"component": "transformer"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def ready(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny port with whatever the calls name."""
    (tiny.worktree / "fastvideo/euler.py").write_text(EULER)
    (Path(tiny.port.official_repo) / "official_euler.py").write_text(EULER)
    adapter = (tiny.worktree / tiny.port.components[0].adapter).read_text()
    for path, text in (
        ("tests/other adapter.py", adapter), ("convert it.py", ""), ("examples/one.py", ""),
    ):  # fmt: skip
        (tiny.worktree / path).parent.mkdir(parents=True, exist_ok=True)
        (tiny.worktree / path).write_text(text)
    for folder in ("frames", "official frames"):
        (tiny.worktree / folder).mkdir()
        for frame in range(2):
            Image.new("RGB", (16, 16), (frame, 0, 0)).save(tiny.worktree / folder / f"{frame}.png")
    return tiny


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("an official") / "repo"
    folder.mkdir()
    (folder / "a.py").write_text("")
    git = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    return str(folder)


def parsed(line: str) -> dict[str, Any]:
    """What the command line makes of a line, with the tool's defaults: the arguments that the tool would be given."""
    parser = _parser()
    add_tool_commands(parser)
    options = parser.parse_args(shlex.split(line)[1:])
    assert options.wait, "a line that repeats a measurement waits for it"
    signature = signature_of(options.spec)
    return signature.check(_given(options, signature))


def test_the_line_of_every_tool_that_leaves_a_run_asks_for_the_same_call(ready: Any, repository: str) -> None:
    wanted = calls(ready, repository)
    starts_runs = {spec.name for spec in ALL if "wait_s" in signature_of(spec).parameters} - {"run_status"}
    assert set(wanted) == starts_runs, "every tool that can leave a run is called here"
    specs = {spec.name: spec for spec in ALL}
    for name, given in wanted.items():
        before = {run.run_id for run in ready.ctx.runs.list(ready.port_id)}
        specs[name].function(ready.ctx, ready.port_id, **given, wait_s=0)
        (run,) = (run for run in ready.ctx.runs.list(ready.port_id) if run.run_id not in before)
        ready.ctx.runs.cancel(run.run_id)
        line = command_of(ready.port, run)
        if name in NOT_MEASURED:
            assert line == ""
            continue
        found = parsed(line)
        assert shlex.split(line)[1] == name.replace("_", "-") and found.pop("port_id") == ready.port_id
        defaults = {key: field.default for key, field in signature_of(specs[name]).parameters.items()}
        assert found == {**{key: value for key, value in defaults.items() if key in found}, **given}, name


def test_a_planned_scheduler_and_the_planned_adapters_need_not_be_spelt_out(ready: Any) -> None:
    planned = PlanComponent(
        name="scheduler", kind="scheduler", official="official_euler.Euler", port="fastvideo.euler.Euler"
    )
    before = ready.port.components
    write_plan(ready.ctx, ready.port_id, "With a scheduler.", [planned, PlanComponent(**before[0].model_dump())])
    specs = {spec.name: spec for spec in ALL}
    asked = {"check_scheduler": {"official": "scheduler"}, "check_mapping": {"component": "transformer"}}
    for name, given in asked.items():
        result = specs[name].function(ready.ctx, ready.port_id, **given, wait_s=0)
        ready.ctx.runs.cancel(result.run_id)
        line = command_of(ready.port, ready.ctx.runs.get(result.run_id))
        assert {key: value for key, value in parsed(line).items() if key in (*given, "adapter", "port")} == {
            **given, **({"adapter": None} if name == "check_mapping" else {"port": None}),
        }  # fmt: skip
        assert "adapter" not in line


def test_the_lines_run_in_a_fresh_shell_without_path_or_state_folder(ready: Any) -> None:
    """Executed, not only parsed: the first line names the state folder, every command stands with its path."""
    lines = list(commands_of(ready.ctx.home, ready.port, [], checked=True))
    assert lines[0] == f"export {VARIABLE}={shlex.quote(str(ready.ctx.home))}"
    assert [shlex.split(line)[1] for line in lines[1:]] == ["check-integration", "gate-status"]
    script = "\n".join([lines[0], *(line for line in lines if " gate-status " in line)])
    clean = {"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"]}
    done = subprocess.run(["bash", "-c", script.replace("--wait", "--json")], env=clean, capture_output=True, text=True)
    assert done.returncode == 3 and json.loads(done.stdout)["gate"] == "closed", done.stderr
    assert shlex.split(lines[1])[0] == str(Path(sys.executable).with_name("fastvideo-port"))
