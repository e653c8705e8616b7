"""The demo's workflow at Wan2.1-T2V-1.3B's geometry: `python bench/wan_end_to_end.py --wheel FILE --python PYTHON`.

From an empty workspace to the open gate, with a real server process: the transformer has its 30 blocks, 1536 wide, and
the VAE its real sizes; only the UMT5 encoder is cut, to 2 of 24 layers with a narrow feed-forward and a vocabulary of
120 words (the transformer's text width stays 4096). Seeded weights, no downloads, no network. `--tiny` takes the demo's
sizes.

The server runs in the interpreter that runs this script, FastVideo and the official code in `--python`. Neither is
handed PYTHONPATH: what they import has to be installed, or named in a .pth file of their environment. An act that does
not end as it should is reported and the next one begins, so that one run on a rented machine says all it can.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from fastvideo_port.port.errors import PortError
from fastvideo_port.server.demo import acts
from fastvideo_port.server.demo.agent import Agent, ToolRefused, connected
from fastvideo_port.server.demo.environment import probe_fastvideo_environment
from fastvideo_port.server.demo.expectations import Unexpected
from fastvideo_port.server.demo.fastvideo_repo import make_fastvideo_repository
from fastvideo_port.server.demo.mistakes import ELSEWHERE, EPSILON, GUIDANCE, SCALE_SHIFT
from fastvideo_port.server.demo.play import fresh_folder, write_checkpoint
from fastvideo_port.server.demo.show import Show
from rich.console import Console

WAN_1_3B = {
    "transformer": {
        "num_layers": 30,
        "num_attention_heads": 12,
        "attention_head_dim": 128,
        "ffn_dim": 8960,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
    },
    "vae": {},  # diffusers' defaults are Wan2.1's
    "text_encoder": {
        "vocab_size": 120,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 1024,
        "num_layers": 2,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    },
    "shard": "2GB",
}
ACTS = (
    acts.prompts,
    acts.mistakes,
    acts.components,
    acts.approvals,
    acts.pipeline,
    acts.videos,
    acts.documents,
    acts.end,
    acts.staleness,
)
_STOPS = (PortError, ToolRefused, Unexpected)


def prepare(options: argparse.Namespace, show: Show) -> acts.Stage:
    """The repository, the checkpoint, and what the port is told of the device.

    Raises:
        PortError: Something is missing on this machine.
    """
    python = options.python.absolute()
    found = probe_fastvideo_environment(python)
    folder = fresh_folder(options.folder.absolute() / "runs", keep=True)
    commit = make_fastvideo_repository(options.wheel, folder / "FastVideo")
    began = time.monotonic()
    checkpoint = folder / "official checkpoint"
    write_checkpoint(python, checkpoint, "" if options.tiny else json.dumps(WAN_1_3B))
    size = sum(file.stat().st_size for file in checkpoint.rglob("*.safetensors")) / 1e9
    show.note(
        "environment",
        {
            "server": f"python {sys.version.split()[0]}",
            "FastVideo": f"commit {commit[:12]}, in " + ", ".join(f"{k} {v}" for k, v in found.items() if v),
            "checkpoint": f"{size:.2f} GB in float32, written in {time.monotonic() - began:.0f} s",
            "device": options.device,
        },
    )
    patches = acts.PATCHES if options.device == "cpu" else ("denoising-dtype",)
    return acts.Stage(folder, python, folder / "FastVideo", checkpoint, patches, options.device)


async def no_mistakes(player: acts.Player) -> None:
    """The transformer as it is, in place of the act with two mistakes in it."""
    await player.verdict("pass", "check_mapping", component=acts.DIT)
    await player.verdict("pass", "run_component_parity", component=acts.DIT)


async def drive(agent: Agent, stage: acts.Stage, show: Show, *, mistakes: bool) -> list[str]:
    """Play all acts; what did not end as it should."""
    began = time.monotonic()
    player = await acts.begin(agent, stage, show)
    failed = []
    for act in ACTS:
        if act is acts.mistakes and not mistakes:
            act = no_mistakes
        try:
            await act(player)
        except _STOPS as error:
            failed.append(f"{act.__name__}: {error}")
            show.note("did not end as it should", {"act": act.__name__, "why": str(error)})
            files = sorted({mistake.file for mistake in (SCALE_SHIFT, EPSILON, GUIDANCE, ELSEWHERE)})
            subprocess.run(["git", "-C", str(player.worktree), "checkout", "--", *files], check=True)
        show.note("so far", {"act": act.__name__, "seconds": f"{time.monotonic() - began:.0f}"})
    gate = await player.call("gate_status")
    show.gate(gate)
    if gate["gate"] != "open":
        failed.append("the gate is closed")
    return failed


async def main() -> int:
    """Play; 0 if every act ended as it should and the gate is open."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True, help="the FastVideo wheel that constraints/ pins")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="FastVideo's interpreter")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--folder", type=Path, default=Path(".demo/end-to-end"))
    parser.add_argument("--tiny", action="store_true", help="the demo's sizes")
    parser.add_argument("--no-mistakes", action="store_true", help="leave out the two mistakes in the transformer")
    parser.add_argument("--json-lines", type=Path, help="also write every step to this file")
    options = parser.parse_args()
    console = Console(highlight=False, width=120)
    show = Show(console, options.json_lines)
    try:
        stage = prepare(options, show)
        async with connected(stage.folder / "state", stage.folder, stage.folder / "server.log", show) as agent:
            failed = await drive(agent, stage, show, mistakes=not options.no_mistakes)
    finally:
        show.close()
    for line in failed:
        console.print(line, style="red")
    console.print("The gate is open." if not failed else f"{len(failed)} acts did not end as they should.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
