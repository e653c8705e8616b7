"""run_example: does the example script run, and is what it writes a video?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..port.errors import PortError
from ..port.ledger import Ledger
from ..port.paths import check_kind, check_text, resolve_inside
from ..port.records import PortRecord
from ..port.textsafe import clean
from ..runs.models import Run, RunState
from ._components import choose_device, uses_converted
from ._runs import no_result_yet, require_value, safe_log, start_and_wait
from ._weights import require_weights
from .base import ToolContext, ToolResult, ToolSpec
from .picture import PictureFile
from .run_ssim import SsimFinding, VideoFacts

EXAMPLES = "examples"
_MOST_ARGUMENTS, _LONGEST_ARGUMENT = 64, 4096
_SHOWN = 20
_IN_EXAMPLE = ("dit", "vae", "encoder")


class ExampleSsim(BaseModel):
    """The video against the reference."""

    model_config = ConfigDict(extra="ignore")

    metric: str
    mean: float | None
    min: float | None
    worst_frame: int | None
    frames_compared: int
    verdict: str


class ExampleDetails(BaseModel):
    """The script, and everything that it wrote."""

    model_config = ConfigDict(extra="forbid")

    why: str = Field(description="What decided the verdict.")
    exit_code: int | None
    seconds: float
    videos: list[str] = Field(description="All written in this run, newest first.")
    pictures: list[PictureFile] = Field(description="Of the comparison.")
    ssim: ExampleSsim | None
    foreign_imports: list[str] = Field(description="Model files of diffusers or transformers, and who asked for them.")
    log: str = Field(description="End of the log, when it failed.")


class RunExampleResult(ToolResult):
    """Whether the example works, and the video that it wrote in this run."""

    run_id: str
    state: RunState
    verdict: Literal["pass", "fail", "inconclusive"] | None = Field(default=None, description="None while running.")
    video: VideoFacts | None = Field(default=None, description="The one judged, decoded to its end.")
    contact_sheet: PictureFile | None = None
    findings: list[SsimFinding] = Field(default=[])
    details: ExampleDetails | None = None


def run_example(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    script: Annotated[str, Field(description="In the worktree; for the gate below examples/.")],
    args: Annotated[list[str] | None, Field(description="Its arguments.")] = None,
    reference: Annotated[str | None, Field(description="Official video (SSIM).")] = None,
    wait_s: Annotated[float, Field(description="0 to 45 s, default 45.")] = 45,
) -> RunExampleResult:
    """Run the example script and check the video it wrote in this run: frames, fps, black, static, noise, NaN; contact
    sheet."""
    port = require_weights(ctx, ctx.ports.working(port_id))
    worktree = Path(port.worktree).resolve()
    path = resolve_inside(worktree, script, name="script", kind="file")
    if path.suffix != ".py":
        raise PortError("The script is no Python file.", seen=f"script={script[:200]!r}", fix="Give a .py file.")
    arguments = _checked(args or [])
    device = choose_device("auto")
    relative = path.relative_to(worktree).as_posix()
    spec: dict[str, Any] = {
        "python": port.python,
        "script": str(path),
        "arguments": arguments,
        "worktree": str(worktree),
        "official_repo": port.official_repo,
        "official_weights": port.weights.path if port.weights else None,
        "weights_identities": port.weights.identities if port.weights else {},
        "patches": port.environment_patches,
        "components": _component_files(port),
        "device": device,
        "devices": [] if device == "cpu" else [device],
        **_reference(worktree, reference),
    }
    run = start_and_wait(
        ctx,
        port=port,
        tool="run_example",
        arguments={
            "script": relative,
            "args": arguments,
            "reference": reference,
            "weights": port.weights.digest if port.weights else "",
            "converted": uses_converted(port),
            "complete": relative.startswith(f"{EXAMPLES}/"),
        },
        job="example",
        spec=spec,
        wait_s=wait_s,
        # The server's own interpreter, which has PyAV, looks at the video; it starts the script in the port's.
        python=sys.executable,
        cwd=ctx.home,
    )
    return finish(ctx, run)


def finish(ctx: ToolContext, run: Run) -> RunExampleResult:
    """The result of a run of this tool; a finished one is entered in the ledger once."""
    if not run.finished or run.state == "cancelled":
        return RunExampleResult(run_id=run.run_id, state=run.state, next_step=no_result_yet(run))
    value = require_value(ctx, run)
    why = clean(value["why"])[:400]
    Ledger(ctx.home).append(
        port_id=str(run.port_id),
        kind="example",
        verdict=value["verdict"],
        run_id=run.run_id,
        complete=bool(run.arguments["complete"]),
        summary={
            "why": why,
            "script": run.arguments["script"],
            "args": run.arguments["args"],
            "exit_code": value["exit_code"],
            "seconds": value["seconds"],
            "imported": value["imported"],
            "video": value["video"] and {name: value["video"][name] for name in _KEPT},
            "ssim": value["ssim"] and {name: value["ssim"][name] for name in ("metric", "mean", "min", "verdict")},
            "findings": [{"code": row["code"], "effect": row["effect"]} for row in value["findings"]],
            "environment": value["environment"],
        },
        depends_on={
            **value["depends_on"],
            "weights": run.arguments["weights"],
            **({"converted": converted} if (converted := run.arguments.get("converted")) else {}),
        },
    )
    files = ctx.runs.folder(run.run_id) / "files"
    pictures = [
        PictureFile(uri=f"run://{run.run_id}/files/{name}", path=str(files / name)) for name in value["pictures"]
    ]
    return RunExampleResult(
        run_id=run.run_id,
        state=run.state,
        verdict=value["verdict"],
        video=VideoFacts.model_validate(value["video"]) if value["video"] else None,
        contact_sheet=next(iter(pictures), None),
        findings=[
            SsimFinding(code=row["code"], effect=row["effect"], message=clean(row["message"])[:400])
            for row in value["findings"][:_SHOWN]
        ],
        details=ExampleDetails(
            why=why,
            exit_code=value["exit_code"],
            seconds=round(value["seconds"], 1),
            videos=[clean(name)[:300] for name in value["videos"][:_SHOWN]],
            pictures=pictures[1:],
            ssim=ExampleSsim.model_validate(value["ssim"]) if value["ssim"] else None,
            foreign_imports=[clean(f"{row['module']} by {row['by']}")[:300] for row in value["foreign"][:_SHOWN]],
            log=safe_log(ctx, run.run_id) if value["exit_code"] != 0 else "",
        ),
        next_step=_next_step(value, bool(run.arguments["complete"]), run.run_id),
    )


_KEPT = ("path", "frames", "width", "height", "fps", "duration_s", "codec", "sha256")


def _checked(args: list[str]) -> list[str]:
    if len(args) > _MOST_ARGUMENTS:
        raise PortError("There are too many arguments.", seen=f"{len(args)}", fix=f"Give at most {_MOST_ARGUMENTS}.")
    for item in args:
        if "\0" in item or len(item) > _LONGEST_ARGUMENT:
            raise PortError(
                "An argument of the script cannot be handed on.",
                seen=f"{item[:80]!r}, {len(item)} characters",
                fix=f"Give at most {_LONGEST_ARGUMENT} characters without NUL; write long text into a file.",
            )
    return args


def _reference(worktree: Path, reference: str | None) -> dict[str, str | None]:
    if reference is None:
        return {"reference": None, "reference_root": None}
    absolute = Path(check_text(reference, "reference")).is_absolute()
    path = Path(reference) if absolute else resolve_inside(worktree, reference, name="reference")
    check_kind(path, "any", name="reference")
    return {"reference": str(path), "reference_root": None if absolute else str(worktree)}


def _component_files(port: PortRecord) -> dict[str, list[str]]:
    """Where each planned component that every video needs may be defined, relative to the worktree."""
    found = {}
    for item in port.components:
        if item.kind in _IN_EXAMPLE and item.port.startswith("fastvideo."):
            module = item.port.rpartition(".")[0].replace(".", "/")
            found[item.name] = [f"{module}.py", f"{module}/__init__.py"]
    return found


def _next_step(value: dict[str, Any], complete: bool, run_id: str) -> str:
    codes = [row["code"] for row in value["findings"]]
    look = f"call show_picture with run_id={run_id} and name=contact_sheet.png"
    if value["verdict"] == "pass":
        if not complete:
            return "Call run_example with a script below examples/: the gate asks for one there."
        return f"Look at the video ({look}), then call run_ssim with it and the official video."
    if "old-video" in codes and value["video"] is None:
        return "Delete the earlier outputs and call run_example again: what it writes must be new."
    if "timed-out" in codes or "script-failed" in codes:
        return "Read the end of the log, repair the script or the port, then call run_example again."
    if value["video"] is None:
        return "Let the script write its video below the worktree, then call run_example again."
    if {"black", "constant", "static", "noise", "constant-frames", "noise-frames", "clipped"} & set(codes):
        return f"Look at the frames ({look}), then call run_pipeline_parity to find the stage that spoils them."
    return f"Remove the cause ({clean(value['why'])[:200]}), then call run_example again."


SPEC = ToolSpec(
    run_example, title="Run the example", read_only=False, destructive=False, idempotent=False, open_world=True
)
