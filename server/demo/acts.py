"""What the demo's agent does, act by act: each calls tools and goes on only if they say what they must."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...port.errors import PortError
from . import papers, port_files
from .agent import Agent
from .expectations import Unexpected, expect, expect_closed_by, expect_open, expect_place
from .mistakes import ELSEWHERE, EPSILON, GUIDANCE, SCALE_SHIFT, Mistake
from .show import Show

PATCHES = ("cpu-attention", "cpu-device", "cpu-autocast", "denoising-dtype")
DIT = "transformer"
WITH_WEIGHTS = (DIT, "vae", "text_encoder")
COMPONENTS = [
    {
        "name": DIT,
        "kind": "dit",
        "official": "diffusers.WanTransformer3DModel",
        "port": "fastvideo.models.dits.wanvideo.WanTransformer3DModel",
    },
    {
        "name": "vae",
        "kind": "vae",
        "official": "diffusers.AutoencoderKLWan",
        "port": "fastvideo.models.vaes.wanvae.AutoencoderKLWan",
    },
    {
        "name": "text_encoder",
        "kind": "encoder",
        "official": "transformers.UMT5EncoderModel",
        "port": "fastvideo.models.encoders.t5.UMT5EncoderModel",
    },
    {
        "name": "scheduler",
        "kind": "scheduler",
        "official": "diffusers.UniPCMultistepScheduler",
        "port": "fastvideo.models.schedulers.scheduling_flow_unipc_multistep.FlowUniPCMultistepScheduler",
    },
    {
        "name": "tokenizer",
        "kind": "tokenizer",
        "official": "transformers.PreTrainedTokenizerFast",
        "port": "transformers.PreTrainedTokenizerFast",
    },
]
RISKS = ["FastVideo's pipeline shifts the schedule's first sigma twice; diffusers shifts it once."]
SETTLED = (
    "It stays: run_pipeline_parity, timesteps included, passes with the official scheduler on FastVideo's grid; "
    "run_ssim compares videos that each side made on its own."
)
# FastVideo imports its pipelines with its models, so every run depends on a file of the denoising stage.
MEASURED = ("mapping-reviewed", "keys", "component-parity", "pipeline-parity", "ssim", "example")


@dataclass(frozen=True)
class Stage:
    """Where one run of the demo stands.

    Attributes:
        folder: Everything that this run makes.
        fastvideo_python: FastVideo's interpreter.
        repository: The FastVideo repository made from the wheel.
        checkpoint: The official checkpoint.
        patches: Environment patches of the port; a GPU needs only the last of the default's.
        device: Where the official pipeline makes its video.
    """

    folder: Path
    fastvideo_python: Path
    repository: Path
    checkpoint: Path
    patches: tuple[str, ...] = PATCHES
    device: str = "cpu"


@dataclass(frozen=True)
class Player:
    """The agent at work on its port.

    Attributes:
        agent: Calls the tools.
        show: Where all is shown.
        stage: What the demo began with.
        port_id: Of the port.
        worktree: Where the agent writes.
    """

    agent: Agent
    show: Show
    stage: Stage
    port_id: str
    worktree: Path

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool of this port."""
        return await self.agent.call(tool, port_id=self.port_id, **arguments)

    async def verdict(self, wanted: str, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool whose verdict is known.

        Raises:
            Unexpected: It is another one.
        """
        result = await self.call(tool, **arguments)
        expect(f"{tool} {' '.join(str(value) for value in arguments.values())}".strip(), result["verdict"], wanted)
        return result


async def play(agent: Agent, stage: Stage, show: Show) -> None:
    """All acts in their order.

    Raises:
        Unexpected: The server said something else than is true.
        ToolRefused: A tool ended in an error.
        PortError: Something is not as it must be on this machine.
    """
    player = await begin(agent, stage, show)
    await prompts(player)
    await mistakes(player)
    await components(player)
    await approvals(player)
    await pipeline(player)
    await videos(player)
    await documents(player)
    await end(player)
    await staleness(player)
    show.note("what stays", places(stage, player.port_id, player.worktree))


async def begin(agent: Agent, stage: Stage, show: Show) -> Player:
    """Workspace, weights, plan, and what the agent writes first."""
    show.headline("A workspace, the weights, a plan")
    made = await agent.call(
        "create_worktree",
        model_name=port_files.MODEL_NAME,
        fastvideo_repo=str(stage.repository),
        python=str(stage.fastvideo_python),
        environment_patches=list(stage.patches),
        goal="Wan's text to video in FastVideo, numerically equal to diffusers'",
    )
    player = Player(agent, show, stage, str(made["port_id"]), Path(made["worktree"]))
    weights = await player.call("fetch_weights", source=str(stage.checkpoint))
    expect("needs_conversion of a checkpoint in Diffusers layout", weights["needs_conversion"], False)
    expect("unsafe files in the checkpoint", weights["unsafe_files"], [])
    await player.call(
        "write_plan", scope="Text to video with Wan, at a small size, on the CPU.", components=COMPONENTS, risks=RISKS
    )
    show.edit("registers its model", port_files.register(player.worktree))
    await player.call("scaffold_component", component=DIT)
    tests = [port_files.copy_test(player.worktree, COMPONENTS[0], other) for other in COMPONENTS[1:3]]
    show.edit("writes the other plain tests after the first", "\n".join(tests), "text")
    for name in (*(item["name"] for item in COMPONENTS), "pipeline"):
        outline = port_files.write_adapter(player.worktree, name)
        if name == DIT:
            show.edit(f"writes the adapters, the first is {port_files.adapter(name)}", outline, "python")
    return player


async def prompts(player: Player) -> None:
    """What becomes of a prompt: FastVideo 0.2.1 does not clean it and diffusers does, which the check finds."""
    player.show.headline("The prompts: a difference that nobody planted")
    red = await player.verdict("fail", "run_component_parity", component="tokenizer")
    found = [row["code"] for row in red["findings"] if row["code"].startswith("tokens-")]
    expect("what the two sides do to a prompt", found, ["tokens-text-ftfy"])
    player.show.edit("cleans the prompts as diffusers does", port_files.clean_prompts(player.worktree))
    await player.verdict("pass", "run_component_parity", component="tokenizer")


async def mistakes(player: Player) -> None:
    """Two mistakes in the transformer: each is red at its place, and green once it is repaired."""
    player.show.headline("First attempt: scale and shift swapped")
    player.show.edit(f"makes a mistake: {SCALE_SHIFT.name}", SCALE_SHIFT.plant(player.worktree))
    await player.verdict("pass", "check_mapping", component=DIT)  # the mistake is in no weight
    await _red(player, SCALE_SHIFT, modules=("blocks.0",))
    await player.verdict("pass", "run_component_parity", component=DIT, cases=["small"], seeds=[0])

    player.show.headline("Second attempt: an epsilon that the old 1e-4 rule lets through")
    player.show.edit(f"makes a mistake: {EPSILON.name}", EPSILON.plant(player.worktree))
    red = await _red(player, EPSILON, modules=("norm_q", "norm_k"))
    expect("the old 1e-4 rule on every case", {case["strict"] for case in red["cases"]}, {True})
    await player.verdict("pass", "run_component_parity", component=DIT)
    closed = await player.call("gate_status")
    why = next(item["why"] for item in closed["items"] if item["id"] == "keys")
    # Other components are still missing, so the item as a whole is; of this one it names the file.
    told = f"{DIT}: {SCALE_SHIFT.file} changed since" in why
    expect(f"whether the gate names the file that made the mapping stale ({why})", told, True)
    await player.verdict("pass", "check_mapping", component=DIT)


async def _red(player: Player, mistake: Mistake, modules: tuple[str, ...]) -> dict[str, Any]:
    """Parity must be red with the place of the planted ``mistake``, which is then repaired; the red result."""
    red = await player.verdict("fail", "run_component_parity", component=DIT)
    expect_place(red, mistake, mistake.line(player.worktree), modules)
    player.show.edit("repairs the place that was named", mistake.repair(player.worktree))
    return red


async def components(player: Player) -> None:
    """The other components, each proven against its official class."""
    player.show.headline("The VAE, the text encoder, the scheduler")
    for component in WITH_WEIGHTS[1:]:
        await player.verdict("pass", "check_mapping", component=component)
        await player.verdict("pass", "run_component_parity", component=component)
    await player.verdict("pass", "check_scheduler", official="scheduler")


async def approvals(player: Player) -> None:
    """A person reviews each mapping, asked in the client."""
    player.show.headline("A person reviews the mappings")
    for component in WITH_WEIGHTS:
        step = f"mapping-{component}"
        words = f"Every tensor of {component} arrived by value; please review the rules that carry it."
        result = await player.call("request_approval", step_id=step, summary=words)
        expect(f"the decision on {step}", result["decision"], "approved")
        moved = await player.call("update_step", step_id=step, state="done")
        expect(f"update_step {step}", (moved["moved"], moved["blocked_by"]), (True, []))


async def pipeline(player: Player) -> None:
    """The whole pipeline, from the same noise."""
    player.show.headline("The whole pipeline")
    result = await player.verdict("pass", "run_pipeline_parity")
    expect("the stages that differ", result["guilty"], [])
    expect("the self-test of the pipelines", result["self_test"]["passed"], True)


async def videos(player: Player) -> None:
    """The example's video, and how like the official one it is."""
    player.show.headline("A video, and the official one")
    port_files.write_example(player.worktree)
    player.show.edit("writes the example", port_files.EXAMPLE, "text")
    arguments = ["--model", str(player.stage.checkpoint), "--output", port_files.VIDEO]
    await player.verdict("pass", "run_example", script=port_files.EXAMPLE, args=arguments)
    official = player.stage.folder / "official video" / "wan.mp4"
    player.show.edit("runs the official pipeline, with the same weights, prompt and noise", str(official), "text")
    _official_video(player.stage, official)
    await player.verdict("pass", "run_ssim", reference=str(official), candidate=port_files.VIDEO, metric="ssim")


def _official_video(stage: Stage, target: Path) -> None:
    script = Path(__file__).with_name("written") / "official_video.py"
    done = subprocess.run(
        [str(stage.fastvideo_python), str(script), str(stage.checkpoint), str(target), stage.device],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PortError(
            "The official pipeline wrote no video.",
            seen=done.stderr.strip()[-600:],
            fix="Run `make setup`, and check that the disk has room.",
        )


async def documents(player: Player) -> None:
    """The papers of the port: asked for first, then written from what was measured."""
    player.show.headline("The documents")
    lacking = await player.verdict("fail", "check_integration")
    expect(
        "what the integration lacks before the documents are written",
        sorted({row["id"] for row in lacking["missing"]} - {"ssim-test"}),
        ["docs-matrix", "docs-page", "port-status"],
    )
    written = papers.write(player.worktree, player.port_id)
    player.show.edit("writes the documents, with what the example measured", "\n".join(written), "text")
    await player.verdict("pass", "check_integration")
    settled = await player.call("update_step", step_id="settle-risks", state="claimed", note=SETTLED)
    expect("the step that no tool measures", settled["step"]["state"], "claimed")


async def end(player: Player) -> None:
    """The open gate and the report."""
    player.show.headline("The gate")
    gate = await player.call("gate_status")
    player.show.gate(gate)
    expect_open(gate)
    report = await player.call("final_report")
    expect("the report's gate", report["gate"], "open")
    open_steps = [step for step in report["plan"] if not step.endswith(": done")]
    expect("the plan's steps that are not done", open_steps, ["settle-risks: claimed"])


def places(stage: Stage, port_id: str, worktree: Path) -> dict[str, str]:
    """Where to look afterwards, the report last.

    Raises:
        Unexpected: The report is not there.
    """
    state = stage.folder / "state"
    report = state / "reports" / port_id / "report.html"
    for path in (report, report.with_suffix(".md")):
        if not path.is_file():
            raise Unexpected(f"The report is not there.\nSeen: {str(path)!r}\nExpected: a file")
    return {
        "worktree": str(worktree),
        "state folder": str(state),
        "server's log": str(stage.folder / "server.log"),
        "report": f"{report}\n{report.with_suffix('.md')}",
    }


async def staleness(player: Player) -> None:
    """One character closes the gate, and the same character opens it; a file that no run imported does neither."""
    player.show.headline("One character")
    player.show.edit(GUIDANCE.name, GUIDANCE.plant(player.worktree))
    gate = await player.call("gate_status")
    player.show.gate(gate)
    expect_closed_by(gate, GUIDANCE.file, MEASURED)
    player.show.edit("changes it back", GUIDANCE.repair(player.worktree))
    expect_open(await player.call("gate_status"), "the gate with the file as it was measured")
    player.show.edit(ELSEWHERE.name, ELSEWHERE.plant(player.worktree))
    expect_open(await player.call("gate_status"), "the gate after a change in a file that no run imported")
    ELSEWHERE.repair(player.worktree)
    # gate_status writes the report anew, each time: the last one is of the tree as it stays.
    expect_open(await player.call("gate_status"), "the gate of what stays")
