"""The demo: one port of Wan's transformer from an empty workspace to the gate, played by a real MCP client."""

from __future__ import annotations

import argparse
import ast
import asyncio
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.text import Text

from ...port.errors import PortError
from .agent import Agent, ToolRefused, connected
from .environment import probe_fastvideo_environment
from .facts import place_of
from .fastvideo_repo import WHEEL_NAME, make_fastvideo_repository
from .mistakes import EPSILON, SCALE_SHIFT, Mistake
from .show import Show
from .videos import write_videos

COMPONENT = "transformer"
ADAPTER = "tests/local_tests/wan2_1_tiny/parity_transformer.py"
PATCHES = ["cpu-attention"]


class Unexpected(Exception):
    """The server said something else than the demo knows to be true."""


@dataclass(frozen=True)
class Stage:
    """Where one run of the demo stands.

    Attributes:
        folder: Everything that this run makes.
        fastvideo_python: FastVideo's interpreter.
        repository: The FastVideo repository made from the wheel.
        checkpoint: The small official checkpoint.
    """

    folder: Path
    fastvideo_python: Path
    repository: Path
    checkpoint: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """``fastvideo-port demo``: play the demo and return the exit status."""
    return run(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastvideo-port demo",
        description="Play one port of Wan's transformer, from an empty workspace to the gate, on the CPU.",
        allow_abbrev=False,
    )
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where runs are kept (default: .demo)")
    parser.add_argument(
        "--fastvideo-python",
        type=Path,
        default=Path(".venv-fastvideo/bin/python"),
        help="FastVideo's interpreter (default: .venv-fastvideo/bin/python, made by `make setup`)",
    )
    parser.add_argument("--wheel", type=Path, help=f"the FastVideo wheel (default: FOLDER/wheels/{WHEEL_NAME})")
    parser.add_argument("--keep", action="store_true", help="keep the folders of earlier runs")
    parser.add_argument("--json-lines", type=Path, metavar="FILE", help="also write every step to FILE as JSON lines")
    return parser


def run(options: argparse.Namespace) -> int:
    """Play the demo; return 0 if every verdict was the expected one, otherwise 1.

    What differed, or what is missing on this machine, is printed.
    """
    console = Console(highlight=False, soft_wrap=False, width=None if Console().is_terminal else 120)
    show = Show(console, options.json_lines)
    began = time.monotonic()
    try:
        stage = prepare(options, show)
        stopped = asyncio.run(_play(stage, show))
    except PortError as error:
        stopped = error
    finally:
        show.close()
    if stopped is not None:
        console.print(Text(f"\nThe demo stopped: {stopped}", style="bold red"))
        return 1
    console.print(Text(f"The demo ended as it should, after {time.monotonic() - began:.0f} s.", style="bold green"))
    return 0


def prepare(options: argparse.Namespace, show: Show) -> Stage:
    """Look at the environment and make what the demo starts from: a fresh folder, a repository, a checkpoint.

    Raises:
        PortError: Something is missing on this machine, or another demo is running in the same folder.
    """
    root = options.folder.absolute()
    # Not resolved: the link is what makes an interpreter one of its environment.
    python = options.fastvideo_python.absolute()
    show.headline("What this machine has")
    found = probe_fastvideo_environment(python)
    folder = _fresh_folder(root / "runs", keep=options.keep)
    began = time.monotonic()
    commit = make_fastvideo_repository(options.wheel or root / "wheels" / WHEEL_NAME, folder / "FastVideo")
    _write_checkpoint(python, folder / "official checkpoint")
    facts = {
        "FastVideo": f"0.2.1, the published wheel as a git repository, commit {commit[:12]}",
        "its interpreter": ", ".join(
            f"{name} {found[name]}" for name in ("python", "torch", "diffusers", "transformers")
        ),
        "torchvision": found["standin"] or "as installed",
        "official": "diffusers.WanTransformer3DModel, 2 blocks, seeded weights in three safetensors shards",
        "folder": str(folder),
        "time": f"{time.monotonic() - began:.1f} s",
    }
    show.note("environment", facts)
    return Stage(folder, python, folder / "FastVideo", folder / "official checkpoint")


async def _play(stage: Stage, show: Show) -> Exception | None:
    """Play all acts against a server process; what stopped them, if anything did.

    The error is handed over as a value, because the client's task group would wrap it if it were raised.
    """
    async with connected(stage.folder / "state", stage.folder, stage.folder / "server.log", show) as agent:
        try:
            await _acts(agent, stage, show)
        except (PortError, ToolRefused, Unexpected) as error:
            return error
    return None


async def _acts(agent: Agent, stage: Stage, show: Show) -> None:
    show.headline("A workspace, the weights, a plan")
    port_id, worktree = await _begin(agent, stage)
    adapter = _write_adapter(worktree)
    show.edit(f"writes the adapter, {ADAPTER}", adapter, "python")

    show.headline("First attempt: scale and shift swapped")
    show.edit(f"makes a mistake: {SCALE_SHIFT.name}", SCALE_SHIFT.plant(worktree))
    mapping = await agent.call("check_mapping", port_id=port_id, component=COMPONENT)
    expect("check_mapping: the mistake is in no weight", mapping["verdict"], "pass")
    await _red_then_green(agent, show, port_id, worktree, SCALE_SHIFT, modules=("blocks.0",))

    show.headline("Second attempt: an epsilon that the old 1e-4 rule lets through")
    show.edit(f"makes a mistake: {EPSILON.name}", EPSILON.plant(worktree))
    red = await _red_then_green(agent, show, port_id, worktree, EPSILON, modules=("norm_q", "norm_k"))
    expect("the old 1e-4 rule on every case", {case["strict"] for case in red["cases"]}, {True})

    show.headline("The video, and the gate")
    reference, candidate = write_videos(worktree / "outputs")
    videos = {"reference": _below(reference, worktree), "candidate": _below(candidate, worktree)}
    ssim = await agent.call("run_ssim", port_id=port_id, **videos)
    expect("run_ssim on a lossy copy", ssim["verdict"], "pass")
    stale = await agent.call("gate_status", port_id=port_id)
    expect("the mapping's evidence after an edit of the file that it stands on", _state(stale, "keys"), "stale")
    mapping = await agent.call("check_mapping", port_id=port_id, component=COMPONENT)
    expect("check_mapping on the repaired port", mapping["verdict"], "pass")
    gate = await agent.call("gate_status", port_id=port_id)
    _expect_gate(gate)
    show.gate(gate)
    show.note("what stays", _places(gate, worktree, stage))


async def _begin(agent: Agent, stage: Stage) -> tuple[str, Path]:
    """Workspace, weights and plan; the port's id and its worktree."""
    made = await agent.call(
        "create_worktree",
        model_name="Wan2.1 tiny",
        fastvideo_repo=str(stage.repository),
        python=str(stage.fastvideo_python),
        environment_patches=PATCHES,
        goal="Wan's transformer in FastVideo, numerically equal to diffusers'",
    )
    port_id, worktree = str(made["port_id"]), Path(made["worktree"])
    weights = await agent.call("fetch_weights", port_id=port_id, source=str(stage.checkpoint))
    expect("needs_conversion of a checkpoint in Diffusers layout", weights["needs_conversion"], False)
    expect("unsafe files in the checkpoint", weights["unsafe_files"], [])
    component = {
        "name": COMPONENT,
        "kind": "dit",
        "official": "diffusers.WanTransformer3DModel",
        "port": "fastvideo.models.dits.wanvideo.WanTransformer3DModel",
        "adapter": ADAPTER,
    }
    await agent.call("write_plan", port_id=port_id, scope="The transformer alone, on the CPU.", components=[component])
    return port_id, worktree


async def _red_then_green(
    agent: Agent, show: Show, port_id: str, worktree: Path, mistake: Mistake, modules: tuple[str, ...]
) -> dict[str, Any]:
    """Parity must be red with the place of the planted ``mistake``, and green once it is repaired; the red result."""
    red = await agent.call("run_component_parity", port_id=port_id, component=COMPONENT)
    expect(f"run_component_parity: {mistake.name}", red["verdict"], "fail")
    _expect_place(red, mistake, mistake.line(worktree), modules)
    show.edit("repairs the place that was named", mistake.repair(worktree))
    green = await agent.call("run_component_parity", port_id=port_id, component=COMPONENT)
    expect("run_component_parity after the repair", green["verdict"], "pass")
    return red


def expect(what: str, got: object, wanted: object) -> None:
    """Go on only if ``got`` is what the demo knows to be right.

    Raises:
        Unexpected: It is not; says what differed.
    """
    if got != wanted:
        raise Unexpected(f"{what}\nSeen: {got!r}\nExpected: {wanted!r}")


def _expect_place(result: dict[str, Any], mistake: Mistake, line: int, modules: tuple[str, ...]) -> None:
    """The verdict must name the place: a module that holds the mistake, its file, and lines that include it."""
    culprit = result.get("culprit")
    if not culprit:
        raise Unexpected(f"The red verdict on {mistake.name!r} names no place.")
    right_module = any(module in culprit["module"] for module in modules)
    right_file = str(culprit["file"]).endswith(mistake.file)
    if not (right_module and right_file and culprit["line"] <= line <= culprit["end_line"]):
        wanted = f"{' or '.join(modules)}, {mistake.file}, line {line}"
        raise Unexpected(f"The place of {mistake.name!r}\nSeen: {place_of(culprit)}\nExpected: {wanted}")


def _state(gate: dict[str, Any], item_id: str) -> str | None:
    """The state of the gate's item ``item_id``; none if there is no such item."""
    return next((str(item["state"]) for item in gate["items"] if item["id"] == item_id), None)


def _expect_gate(gate: dict[str, Any]) -> None:
    """What was measured must be green; a person, a pipeline and a video are still missing, so the gate is closed."""
    expect("the gate", gate["gate"], "closed")
    wanted = {
        "mapping-reviewed": "needs_approval",
        "keys": "pass",
        "component-parity": "pass",
        "pipeline-parity": "missing",
        "ssim": "pass",
        "example": "missing",
        "documentation": "missing",
    }
    expect("the gate's items", {item["id"]: item["state"] for item in gate["items"]}, wanted)


def _fresh_folder(runs: Path, *, keep: bool) -> Path:
    """A new folder below ``runs``, and ``latest`` pointing to it; earlier ones are removed unless ``keep``."""
    runs.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(runs / ".lock", timeout=0):
            stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S-%f")
            if not keep:
                for old in runs.glob("2*-*-*"):
                    shutil.rmtree(old)
            folder = runs / stamp
            folder.mkdir()
            latest = runs / "latest"
            latest.unlink(missing_ok=True)
            latest.symlink_to(stamp)
    except Timeout as error:
        raise PortError(
            "Another demo is starting here.", seen=str(runs), fix="Wait for it, or name another --folder."
        ) from error
    return folder


def _write_checkpoint(python: Path, folder: Path) -> None:
    script = Path(__file__).with_name("checkpoint.py")
    done = subprocess.run(
        [str(python), str(script), str(folder)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PortError(
            "The small official checkpoint could not be written.",
            seen=done.stderr.strip()[-600:],
            fix="Run `make setup`, and check that the disk has room.",
        )


def _write_adapter(worktree: Path) -> str:
    """Copy the Wan adapter into the worktree; return its outline: the signature and first sentence of each function."""
    from ... import prompts

    text = (Path(prompts.__path__[0]) / "adapters" / "wan_dit.py").read_text(encoding="utf-8")
    target = worktree / ADAPTER
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
    return "\n".join(
        f"def {node.name}({ast.unparse(node.args)}): ...  # {(ast.get_docstring(node) or '').partition(chr(10))[0]}"
        for node in functions
    )


def _below(path: Path, worktree: Path) -> str:
    return path.relative_to(worktree).as_posix()


def _places(gate: dict[str, Any], worktree: Path, stage: Stage) -> dict[str, str]:
    """Where to look afterwards.

    Raises:
        Unexpected: The report that the gate names is not there.
    """
    report = Path(gate["report"])
    if not report.is_file():
        raise Unexpected(f"The gate's report is not there.\nSeen: {gate['report']!r}\nExpected: a file")
    return {"worktree": str(worktree), "report": str(report), "server's log": str(stage.folder / "server.log")}
