"""run_ssim: do the port's videos look like the reference's, frame by frame?"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..port.causes import LikelyCause
from ..port.errors import PortError
from ..port.freshness import what_changed
from ..port.ledger import Entry, Ledger
from ..port.paths import check_kind, check_text, resolve_inside
from ..port.records import PortRecord
from ..port.textsafe import clean
from ..port.video_evidence import makers, what_to_run, why_no_evidence
from ..runs.models import Run, RunState
from ._causes import causes_of_ssim
from ._references import Reference, fastvideo_threshold, find_reference, gpu_here, is_reference_folder, newer_sibling
from ._runs import require_value, start_and_wait
from .base import ToolContext, ToolResult, ToolSpec
from .picture import PictureFile

Metric = Literal["ms_ssim", "ssim", "ssim_gaussian"]
Verdict = Literal["pass", "fail", "investigate", "inconclusive"]

THRESHOLD = 0.93
_MOST_FINDINGS = 30
_MOST_SOURCES = 400


class VideoFacts(BaseModel):
    """One side, decoded to its end."""

    model_config = ConfigDict(extra="ignore")

    path: str
    frames: int
    width: int
    height: int
    fps: float | None
    duration_s: float | None
    codec: str | None
    pixel_format: str | None
    variable_frame_rate: bool
    sha256: str


class SsimFinding(BaseModel):
    """Something seen in the comparison."""

    code: str
    effect: Literal["fail", "inconclusive", "investigate", "note"] = Field(description="On the verdict.")
    message: str


class FrameScore(BaseModel):
    """A frame and its score."""

    index: int
    score: float | None


class RunSsimResult(ToolResult):
    """Verdict on a video against its reference."""

    run_id: str = Field(description="The run.")
    state: RunState = Field(description="running: call run_status.")
    verdict: Verdict | None = Field(description="None while running.")
    metric: Metric = Field(description="Per-frame metric.")
    threshold: float = Field(description="Least mean for a pass.")
    min_threshold: float | None = Field(description="Least score of every frame for a pass.")
    mean: float | None = Field(default=None, description="Over all compared frames.")
    min: float | None = Field(default=None, description="Worst frame's score.")
    max: float | None = Field(default=None, description="Best frame's score.")
    worst_frame: int | None = Field(default=None, description="Its index, from 0.")
    frames_compared: int = Field(default=0, description="Frames scored.")
    reference: VideoFacts | None = Field(default=None, description="The reference.")
    candidate: VideoFacts | None = Field(default=None, description="The candidate.")
    findings: list[SsimFinding] = Field(default_factory=list, description="What decided the verdict, and notes.")
    worst_frames: list[FrameScore] = Field(default_factory=list, description="Three worst, the worst first.")
    pictures: list[PictureFile] = Field(
        default_factory=list, description="Score plot and worst frames; see show_picture."
    )
    likely_causes: list[LikelyCause] = Field(default=[], description="Usual mistakes that fit; hypotheses to check.")
    scores_path: str | None = Field(default=None, description="JSON of all scores; a CSV lies beside it.")


def run_ssim(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="The port.")],
    reference: Annotated[
        str,
        Field(description="Official video, picture, frame folder, or FastVideo's reference_videos folder."),
    ],
    candidate: Annotated[str, Field(description="The port's video, picture or frame folder, inside the worktree.")],
    metric: Annotated[
        Metric, Field(description="ms_ssim (default, FastVideo's; short side > 160), ssim or ssim_gaussian.")
    ] = "ms_ssim",
    threshold: Annotated[
        float | None, Field(description="Least mean; default FastVideo's for the model, or 0.93.")
    ] = None,
    min_threshold: Annotated[
        float | None, Field(description="Least score of any frame: 0 to 1; default threshold - 0.1.")
    ] = None,
    device: Annotated[str | None, Field(description="cpu or cuda; default: the GPU if there is one.")] = None,
    wait_s: Annotated[float, Field(description="Wait for the end: 0 to 45 s, default 45.")] = 45,
) -> RunSsimResult:
    """Compare the port's video with the official one frame by frame (SSIM, MS-SSIM quality check). Unequal frame counts
    or sizes fail; stale, identical, black or static videos prove nothing. Gives scores, worst frames, plot, verdict."""
    port = ctx.ports.working(port_id)
    _check_numbers(threshold, min_threshold)
    worktree = Path(port.worktree)
    candidate_path = resolve_inside(worktree, candidate, name="candidate")
    absolute = Path(check_text(reference, "reference")).is_absolute()
    reference_path = Path(reference) if absolute else resolve_inside(worktree, reference, name="reference")
    check_kind(reference_path, "any", name="reference")
    known = None
    if is_reference_folder(reference_path):
        known = find_reference(reference_path, candidate_path, gpu_here())
        reference_path = known.path if absolute else resolve_inside(worktree, str(known.path), name="reference")
    own = fastvideo_threshold(worktree, known.model) if known else None
    if threshold is None:
        threshold = own[0] if own else THRESHOLD
    began = datetime.fromisoformat(port.created_at).timestamp()
    arguments = {
        "reference": reference,
        "candidate": candidate,
        "metric": metric,
        "threshold": threshold,
        "min_threshold": min_threshold,
        "device": device,
        "sources": _changed_sources(worktree, began),
    }
    spec: dict[str, Any] = {
        **{name: arguments[name] for name in ("metric", "threshold", "min_threshold", "device")},
        "reference": str(reference_path),
        "reference_root": None if absolute else str(worktree.resolve()),
        "candidate": str(candidate_path),
        "candidate_root": str(worktree.resolve()),
        "not_before": began,
        "code_changed": _newest_source(worktree),
        "remarks": [*_stale(candidate_path), *_of_fastvideo(known, own, threshold)],
        "earlier_videos": _earlier_videos(ctx, port),
        "known_videos": sorted(makers(Ledger(ctx.home).entries(port_id))),
        "devices": [device] if device else _default_devices(),
    }
    run = start_and_wait(
        ctx,
        port=port,
        tool="run_ssim",
        arguments=arguments,
        job="ssim",
        spec=spec,
        wait_s=wait_s,
        # The server's own interpreter: FastVideo's environment may lack PyAV. Its folder is not the worktree, whose
        # modules would otherwise come before ours.
        python=sys.executable,
        cwd=ctx.home,
        # Waiting threads sleep: where runs share cores, spinning ones cost more than the work.
        env={"OMP_WAIT_POLICY": "PASSIVE"},
    )
    if run.finished:
        return finish(ctx, run)
    return RunSsimResult(
        run_id=run.run_id,
        state=run.state,
        verdict=None,
        metric=metric,
        threshold=threshold,
        min_threshold=min_threshold,
        next_step=f"Call run_status with run_id={run.run_id} and wait_s=45 for the verdict.",
    )


def finish(ctx: ToolContext, run: Run) -> RunSsimResult:
    """The result of a finished run; its entry in the ledger is made once.

    Raises:
        PortError: The run has no value: it failed, crashed or was cancelled.
    """
    value = require_value(ctx, run)
    files = ctx.runs.folder(run.run_id) / "files"
    result = RunSsimResult(
        run_id=run.run_id,
        state=run.state,
        verdict=value["verdict"],
        metric=value["metric"],
        threshold=value["threshold"],
        min_threshold=value["min_threshold"],
        mean=value["mean"],
        min=value["min"],
        max=value["max"],
        worst_frame=value["worst_frame"],
        frames_compared=value["frames_compared"],
        reference=VideoFacts.model_validate(value["reference"]),
        candidate=VideoFacts.model_validate(value["candidate"]),
        findings=[
            SsimFinding(code=item["code"], effect=item["effect"], message=clean(item["message"])[:400])
            for item in value["findings"][:_MOST_FINDINGS]
        ],
        worst_frames=[FrameScore.model_validate(item) for item in value["worst_frames"]],
        pictures=[
            PictureFile(uri=f"run://{run.run_id}/files/{name}", path=str(files / name)) for name in value["pictures"]
        ],
        scores_path=next((str(files / name) for name in value["scores_files"] if name.endswith(".json")), None),
        likely_causes=causes_of_ssim(value),
        next_step=_next_step(ctx, run, value),
    )
    entry = _record(ctx, run, value)
    why = why_no_evidence(entry, Ledger(ctx.home).entries(entry.port_id)) if entry.verdict == "pass" else ""
    return result.model_copy(update={"next_step": f"For the gate this is no evidence: {why}."}) if why else result


def _record(ctx: ToolContext, run: Run, value: dict[str, Any]) -> Entry:
    """Append the evidence to the ledger; appending a run again changes nothing."""
    summary = {
        name: value[name]
        for name in (
            "metric", "threshold", "min_threshold", "mean", "min", "max", "worst_frame", "frames_compared", "device",
        )
    }  # fmt: skip
    for side in ("reference", "candidate"):
        summary[side] = {name: value[side][name] for name in ("path", "frames", "width", "height", "fps", "sha256")}
    summary["why"] = next(
        (clean(item["message"])[:400] for item in value["findings"] if item["effect"] == value["verdict"]), ""
    )
    summary["findings"] = [{"code": item["code"], "effect": item["effect"]} for item in value["findings"]]
    return Ledger(ctx.home).append(
        port_id=run.port_id or "",
        kind="ssim",
        verdict=value["verdict"],
        run_id=run.run_id,
        summary=summary,
        depends_on={**value["depends_on"], **_made_by(ctx, run, value)},
    )


def _made_by(ctx: ToolContext, run: Run, value: dict[str, Any]) -> dict[str, str]:
    """What the run that wrote the candidate imported and read; of a candidate that no run wrote, all that may be."""
    entry = makers(Ledger(ctx.home).entries(run.port_id or "")).get(value["candidate"]["sha256"])
    sources: dict[str, str] = run.arguments["sources"]
    return entry.depends_on if entry else sources


def _next_step(ctx: ToolContext, run: Run, value: dict[str, Any]) -> str:
    codes = {item["code"]: item["effect"] for item in value["findings"]}
    if value["verdict"] == "pass":
        return "Call gate_status to see what the gate still lacks."
    if "frame-count" in codes or "frame-size" in codes:
        return "Generate the candidate with the reference's frame count and size, then call run_ssim again."
    if value["verdict"] == "fail":
        return "Look at worst_frames.png with show_picture, then call run_component_parity to find the cause."
    if "same-file" in codes:
        return "Give the video that the port itself generated as candidate, then call run_ssim again."
    if "other-device" in codes:
        return "Make the candidate on the reference's GPU, or show the difference to a person."
    if "stale-candidate" in codes or "code-changed-since" in codes:
        todo = what_to_run(ctx.ports.get(run.port_id or ""), Ledger(ctx.home).entries(run.port_id or ""))
        return f"The candidate is not known to be the present code's: call {todo}."
    return "Read the findings, remove their cause or show them to a person, then call run_ssim again."


def _of_fastvideo(known: Reference | None, own: tuple[float, str] | None, threshold: float) -> list[dict[str, str]]:
    """What FastVideo's own test of the model would say of the reference and the threshold."""
    if known is None:
        return []
    here = gpu_here()
    found = [{"code": "fastvideo-reference", "message": f"FastVideo's reference {known.place}."}]
    if known.gpu != here:
        message = f"The reference was made on {known.gpu}; this machine has {here or 'no GPU that FastVideo knows'}."
        found.append({"code": "other-device", "message": message})
    if own and threshold < own[0]:
        message = f"Threshold {threshold:g} is below {own[0]:g}, which {own[1]} asks for: a person has to accept that."
        found.append({"code": "loose-threshold", "message": message})
    return found


def _stale(candidate: Path) -> list[dict[str, str]]:
    sibling = newer_sibling(candidate)
    if sibling is None:
        return []
    message = f"{sibling.name} was written after it: FastVideo numbers a new video rather than overwrite the old one."
    return [{"code": "stale-candidate", "message": message}]


def _earlier_videos(ctx: ToolContext, port: PortRecord) -> dict[str, str]:
    """SHA-256 of videos that were judged as an example's, and why each is no longer the newest or the code's."""
    found: dict[str, str] = {}
    entries = [entry for entry in Ledger(ctx.home).entries(port.port_id) if entry.kind == "example"]
    for place, entry in enumerate(entries):
        digest = (entry.summary.get("video") or {}).get("sha256")
        if not digest:
            continue
        found.pop(digest, None)
        changed = what_changed(entry, port)
        newer = next((e for e in entries[place + 1 :] if e.summary["script"] == entry.summary["script"]), None)
        if changed:
            found[digest] = f"It is the video of {entry.run_id}; since then: {'; '.join(changed)}."
        elif newer is not None:
            found[digest] = f"It is the video of {entry.run_id}; {newer.run_id} ran the same example after it."
    return found


def _check_numbers(threshold: float | None, min_threshold: float | None) -> None:
    # `not (a < b)` also holds for NaN.
    if threshold is not None and not 0 < threshold <= 1:
        raise PortError(
            "The threshold is out of range.", seen=f"threshold={threshold}", fix="Give a number above 0, at most 1."
        )
    if min_threshold is not None and not 0 <= min_threshold <= 1:
        raise PortError(
            "The floor of the single frame is out of range.",
            seen=f"min_threshold={min_threshold}",
            fix="Give a number from 0 to 1, or leave it out for threshold - 0.1.",
        )


def _sources(worktree: Path) -> Iterator[tuple[Path, float]]:
    """Each Python file below ``fastvideo/`` with the time of its last change; links are not followed."""
    for folder, folders, names in os.walk(worktree / "fastvideo"):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            if name.endswith(".py"):
                path = Path(folder) / name
                yield path, path.lstat().st_mtime


def _newest_source(worktree: Path) -> dict[str, Any] | None:
    """The source file that was changed last, and when."""
    newest = max(_sources(worktree), key=lambda item: item[1], default=None)
    return {"path": str(newest[0].relative_to(worktree)), "at": newest[1]} if newest else None


def _changed_sources(worktree: Path, began: float) -> dict[str, str]:
    """What a ledger entry keeps of the code that made the video: the port's own files, those changed since it began.

    Which files the video's process imported is not known here; a later edit of one of these makes the entry stale.
    """
    changed = sorted(path for path, at in _sources(worktree) if at > began and not path.is_symlink())
    return {
        f"worktree:{path.relative_to(worktree).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in changed[:_MOST_SOURCES]
    }


def _default_devices() -> list[str]:
    """What to lease when no device is named: the first GPU if this machine has one. Asking torch would import it."""
    return ["cuda:0"] if Path("/dev/nvidiactl").exists() else []


SPEC = ToolSpec(
    run_ssim, title="Compare videos (SSIM)", read_only=False, destructive=False, idempotent=True, open_world=False
)
