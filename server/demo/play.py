"""The demo: Wan's text to video ported from an empty workspace to the open gate, played by a real MCP client."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.text import Text

from ...port.errors import PortError
from .acts import Stage, play
from .agent import ToolRefused, connected
from .environment import probe_fastvideo_environment
from .expectations import Unexpected
from .fastvideo_repo import WHEEL_NAME, make_fastvideo_repository
from .show import Show


def main(arguments: Sequence[str] | None = None) -> int:
    """``fastvideo-port demo``: play the demo and return the exit status."""
    return run(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastvideo-port demo",
        description="Port Wan's text to video at a small size, from an empty workspace to the open gate, on the CPU.",
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
    folder = fresh_folder(root / "runs", keep=options.keep)
    began = time.monotonic()
    commit = make_fastvideo_repository(options.wheel or root / "wheels" / WHEEL_NAME, folder / "FastVideo")
    write_checkpoint(python, folder / "official checkpoint")
    facts = {
        "FastVideo": f"0.2.1, the published wheel as a git repository, commit {commit[:12]}",
        "its interpreter": ", ".join(
            f"{name} {found[name]}" for name in ("python", "torch", "diffusers", "transformers")
        ),
        "torchvision": found["standin"] or "as installed",
        "official": "diffusers.WanPipeline: transformer (2 blocks, three shards), VAE, UMT5 encoder, seeded weights",
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
            await play(agent, stage, show)
        except (PortError, ToolRefused, Unexpected) as error:
            return error
    return None


def fresh_folder(runs: Path, *, keep: bool) -> Path:
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


def write_checkpoint(python: Path, folder: Path, geometry: str = "") -> None:
    """Have FastVideo's interpreter write the official checkpoint; ``geometry`` as `checkpoint.py` takes it.

    Raises:
        PortError: It could not be written.
    """
    script = Path(__file__).with_name("checkpoint.py")
    more = ["0", geometry] if geometry else []
    command = [str(python), str(script), str(folder), *more]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PortError(
            "The official checkpoint could not be written.",
            seen=done.stderr.strip()[-600:],
            fix="Run `make setup`, and check that the disk has room.",
        )
