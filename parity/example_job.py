"""The job behind `run_example`: run a script, find the video that it wrote in this run, and judge both."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .errors import ParityError
from .facts import gpu_facts, sha256
from .frame_checks import SideStatistics
from .frame_reader import FrameFacts
from .frames import open_frames
from .job import Job
from .media import MediaFile, Written, choose, look, snapshot, written
from .script_run import ScriptRun, run_script
from .sheet import ContactSheet
from .ssim import MS_SSIM_SHORT_SIDE
from .ssim_job import ssim

SHEET = "contact_sheet.png"
TIME_LIMIT_S = 6900.0

# What a finding does to the verdict. The strongest wins; without any the verdict is "pass".
_EFFECTS = {
    "timed-out": "fail",
    "script-failed": "fail",
    "official-code-in-port": "fail",
    "no-video": "fail",
    "video-outside": "fail",
    "unreadable": "fail",
    "black": "fail",
    "constant": "fail",
    "static": "fail",
    "noise": "fail",
    "constant-frames": "fail",
    "noise-frames": "fail",
    "unlike-reference": "fail",
    "old-video": "inconclusive",
    "imports-unknown": "inconclusive",
    "port-not-from-worktree": "inconclusive",
    "component-not-imported": "inconclusive",
    "changed-meanwhile": "inconclusive",
    "single-frame": "inconclusive",
    "frozen-frames": "inconclusive",
    "clipped": "inconclusive",
    "reference": "inconclusive",
    "several-videos": "note",
    "other-videos-outside": "note",
    "foreign-models": "note",
    "conversion": "note",
    "variable-frame-rate": "note",
}
_RANK = ("fail", "inconclusive")
_KINDS = {
    "black": "The video is black from end to end.",
    "constant": "The video is of one colour from end to end.",
    "static": "All frames show the same picture.",
    "noise": "The video is noise: latents that were not denoised, or decoded with the wrong scale, look like this.",
}


class Findings(list[dict[str, str]]):
    """Code, effect and message of everything that was seen."""

    def note(self, code: str, message: str) -> None:
        """Add one."""
        self.append({"code": code, "effect": _EFFECTS[code], "message": message})

    @property
    def verdict(self) -> str:
        """pass, fail or inconclusive."""
        return next((rank for rank in _RANK if any(row["effect"] == rank for row in self)), "pass")

    @property
    def why(self) -> str:
        """The message that decided the verdict."""
        return next((row["message"] for row in self if row["effect"] == self.verdict), "")


def example(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Run a script and judge the video that it wrote.

    Args:
        spec: ``python``, ``script`` (absolute), ``arguments``, ``worktree``, ``official_repo`` (or none), ``patches``,
            ``components`` (name -> files, relative to the worktree, one of which the script has to import),
            ``reference`` and ``reference_root`` (or none; see `ssim`), ``device``, ``time_limit_s`` (or none).
        job: The contact sheet and the pictures of the comparison are written to its ``files``.

    Returns:
        ``verdict`` (pass, fail, inconclusive), ``why``, ``findings`` (code, effect, message), ``exit_code``,
        ``signal``, ``timed_out``, ``seconds``, ``video`` (`FrameFacts` or none), ``videos`` (all that were written,
        relative to the worktree, the newest first), ``pictures`` (names below ``files``), ``ssim`` (or none),
        ``foreign`` (module and place), ``imported`` (number of files), ``environment``, ``depends_on``.

    Raises:
        ParityError: The interpreter cannot be started, or the script cannot be read.
    """
    worktree, script = Path(spec["worktree"]).resolve(), Path(spec["script"])
    digest = _digest(script)
    job.progress(0, None, "looking at the videos that are there")
    before, began = snapshot(worktree), time.time_ns()
    run = run_script(
        spec["python"],
        script,
        spec["arguments"],
        worktree=worktree,
        official=spec.get("official_repo"),
        patches=spec.get("patches") or [],
        time_limit_s=float(spec.get("time_limit_s") or TIME_LIMIT_S),
        each=lambda gone: job.progress(gone, None, "the script runs"),
    )
    job.progress(run.seconds, None, "looking at what it wrote")
    opened = {Path(name): found for name in run.media if (found := look(Path(name))) is not None}
    result = written(before, snapshot(worktree), began, opened)
    findings = Findings()
    _judge_run(findings, run, spec, worktree)
    depends_on = _depends_on(findings, run, script, digest, worktree)
    candidates = result.videos or result.pictures
    chosen = choose(candidates, worktree, run.output)
    facts, pictures, scores = None, [], None
    if chosen is None:
        _judge_absence(findings, result, opened, worktree, began)
    else:
        _judge_others(findings, result, opened, chosen, worktree, began)
        facts = _look_at(chosen, worktree, findings, job)
        pictures = [SHEET] if facts is not None else []
        if facts is not None and spec.get("reference"):
            scores = _compare(spec, chosen, facts, findings, job)
            pictures += scores.pop("pictures") if scores else []
    return {
        "verdict": findings.verdict,
        "why": findings.why,
        "findings": list(findings),
        "exit_code": run.exit_code,
        "signal": run.signal,
        "timed_out": run.timed_out,
        "seconds": run.seconds,
        "video": asdict(facts) if facts else None,
        "videos": [path.relative_to(worktree).as_posix() for path in candidates],
        "pictures": pictures,
        "ssim": scores,
        "foreign": [{"module": module, "by": by} for module, by in run.foreign],
        "imported": len(run.files),
        "environment": {"python": run.python, "gpu": gpu_facts() if spec["device"] != "cpu" else "none"},
        "depends_on": depends_on,
    }


def _digest(script: Path) -> str:
    try:
        return sha256(script)
    except OSError as error:
        raise ParityError(
            "The script cannot be read.", seen=f"{script}: {error.strerror}", fix="Give a script of the worktree."
        ) from error


def _judge_run(findings: Findings, run: ScriptRun, spec: dict[str, Any], worktree: Path) -> None:
    """How the process ended, and whose code it executed."""
    if run.timed_out:
        findings.note("timed-out", f"The script was ended after {run.seconds:.0f} s; see the end of the log.")
    elif run.exit_code != 0:
        how = f"ended by {run.signal}" if run.signal else f"exit code {run.exit_code}"
        last = [line for line in run.output.splitlines() if line.strip()][-1:]
        findings.note("script-failed", f"The script failed ({how}). {last[0][:300] if last else ''}".strip())
    if run.official:
        findings.note(
            "official-code-in-port",
            f"The example executed {len(run.official)} files of the official repository, first {run.official[0]}.",
        )
    if run.pid not in run.watched:
        message = "The script's process did not report what it imports (another interpreter, or python -I or -S?)."
        findings.note("imports-unknown", message)
    elif not any(path.startswith("fastvideo/") for path in run.files):
        message = "The script imported nothing from the worktree's fastvideo/ folder: what ran is not the port."
        findings.note("port-not-from-worktree", message)
    else:
        for name, files in spec.get("components", {}).items():
            there = [path for path in files if (worktree / path).is_file()]
            if there and not any(path in run.files for path in there):
                message = f"The script never imported {there[0]}, where the planned component {name} is."
                findings.note("component-not-imported", message)
    if run.foreign:
        some = "; ".join(f"{module} ({by})" for module, by in run.foreign[:4])
        findings.note("foreign-models", f"Files with model classes of diffusers or transformers were imported: {some}.")


def _depends_on(findings: Findings, run: ScriptRun, script: Path, digest: str, worktree: Path) -> dict[str, str]:
    name = script.resolve().relative_to(worktree).as_posix()
    # What was executed counts, not what stood there before the start and perhaps stands there again now.
    files = {**run.data, name: digest, **run.files}
    changed = sorted(run.again | ({name} if files[name] != digest else set()))
    for path, had in files.items():
        try:
            if sha256(worktree / path) != had:
                changed.append(path)
        except OSError:
            changed.append(path)
    if changed:
        findings.note("changed-meanwhile", f"Changed while the script ran: {', '.join(sorted(set(changed))[:5])}.")
    return {f"worktree:{path}": had for path, had in sorted(files.items())}


def _outside(opened: dict[Path, MediaFile], worktree: Path, began: int) -> list[Path]:
    """Videos outside the worktree that were written since the script began."""
    return [p for p, found in opened.items() if found.modified_ns >= began and not p.resolve().is_relative_to(worktree)]


def _judge_absence(
    findings: Findings, result: Written, opened: dict[Path, MediaFile], worktree: Path, began: int
) -> None:
    for path, why in list(result.old.items())[:3]:
        findings.note(
            "old-video", f"{path.relative_to(worktree)} is {why}: delete earlier outputs, then run the example again."
        )
    outside = _outside(opened, worktree, began)
    if outside:
        message = f"The video was written outside the worktree, to {outside[0]}: write it below the worktree."
        findings.note("video-outside", message)
    elif not result.old:
        findings.note("no-video", "The script wrote no video and no picture below the worktree.")


def _judge_others(
    findings: Findings, result: Written, opened: dict[Path, MediaFile], chosen: Path, worktree: Path, began: int
) -> None:
    written = result.videos or result.pictures
    if len(written) > 1:
        findings.note("several-videos", f"{len(written)} were written; {chosen.relative_to(worktree)} was judged.")
    if outside := _outside(opened, worktree, began):
        findings.note("other-videos-outside", f"Also written, outside the worktree: {outside[0]}.")


def _look_at(path: Path, worktree: Path, findings: Findings, job: Job) -> FrameFacts | None:
    """Decode to the end, judge the frames, write the contact sheet."""
    statistics, sheet = SideStatistics(), ContactSheet()
    try:
        with open_frames(path, root=worktree) as reader:
            for batch in reader.batches():
                statistics.add(torch.from_numpy(batch))
                sheet.add(batch)
                job.progress(0, None, f"{statistics.frames} frames decoded")
            facts = reader.facts()
    except ParityError as error:
        findings.note("unreadable", f"{error.what} {error.seen}")
        return None
    for kind in statistics.kinds():
        findings.note(kind, _KINDS[kind])
    for code, message in statistics.flaws():
        findings.note(code, message)
    if facts.kind == "video" and facts.frames == 1:
        findings.note("single-frame", "The video has a single frame.")
    if facts.variable_frame_rate:
        findings.note("variable-frame-rate", "The frames are unevenly spaced in time.")
    for note in facts.notes:
        findings.note("conversion", f"{note[:1].upper()}{note[1:]}.")
    sheet.write(job.files / SHEET)
    return facts


def _compare(
    spec: dict[str, Any], video: Path, facts: FrameFacts, findings: Findings, job: Job
) -> dict[str, Any] | None:
    """SSIM against the reference, as `run_ssim` computes it."""
    small = min(facts.width, facts.height) <= MS_SSIM_SHORT_SIDE
    settings = {
        "reference": spec["reference"],
        "reference_root": spec.get("reference_root"),
        "candidate": str(video),
        "candidate_root": str(Path(spec["worktree"]).resolve()),
        "metric": "ssim" if small else "ms_ssim",
        "device": None if spec["device"] != "cpu" else "cpu",
    }
    try:
        value = ssim(settings, job)
    except ParityError as error:
        findings.note("reference", f"The comparison with the reference failed: {error.what} {error.seen}")
        return None
    for row in value["findings"]:
        if row["effect"] in ("inconclusive", "investigate"):
            findings.note("reference", row["message"])
        elif row["effect"] == "fail":
            findings.note("unlike-reference", row["message"])
    names = ("metric", "mean", "min", "worst_frame", "frames_compared", "verdict", "pictures")
    scores = {name: value[name] for name in names}
    assert scores["mean"] is None or math.isfinite(scores["mean"])
    return json.loads(json.dumps(scores))  # type: ignore[no-any-return]
