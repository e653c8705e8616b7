"""Whether a comparison of videos is one of the port's own video with a reference that is not the port's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .freshness import file_changed, what_changed
from .ledger import Entry
from .records import PortRecord

STANDARD_MEAN, STANDARD_FLOOR = 0.93, 0.83
"""Least mean and least score of a single frame that the gate accepts; the engine's ssim job has the same."""


def why_no_evidence(comparison: Entry, entries: list[Entry]) -> str:
    """Why a passing ``ssim`` entry says nothing of the port; empty where it does.

    A video that lies somewhere may come from anywhere: only one that a run of `run_example` was seen to write is known
    to be the port's. Any script will do, since FastVideo's own tests of quality have scripts of their own.
    """
    summary = comparison.summary
    candidate, reference = _sha256(summary, "candidate"), _sha256(summary, "reference")
    if not candidate or not reference:
        return "it was recorded without the videos' hashes, by an earlier version; run run_ssim again"
    wrote = {entry.summary["video"]["sha256"]: entry for entry in entries if _made_a_video(entry)}
    if reference in wrote:
        return (
            f"the reference is the video that {wrote[reference].run_id} wrote, the port's own; "
            "run run_ssim with the official video"
        )
    maker = wrote.get(candidate)
    if maker is None:
        return (
            "nothing says that the port made the candidate; run run_example, then run_ssim with the video that it wrote"
        )
    if maker.verdict != "pass":
        return f"{maker.run_id}, which wrote the candidate, is {maker.verdict}; run run_example again, then run_ssim"
    mean, floor = summary.get("threshold"), summary.get("min_threshold")
    if not _at_least(mean, STANDARD_MEAN) or not _at_least(floor, STANDARD_FLOOR):
        return (
            f"its threshold {mean} and floor {floor} are below the standard {STANDARD_MEAN} and {STANDARD_FLOOR}; "
            "run run_ssim without them"
        )
    return ""


def what_to_run(port: PortRecord, entries: list[Entry]) -> str:
    """What compares a video of the present code: run_ssim with the newest one that is there, or run_example first."""
    for entry in reversed(entries):
        if _made_a_video(entry) and entry.verdict == "pass" and not what_changed(entry, port):
            video: dict[str, Any] = entry.summary["video"]
            if video.get("path") and not file_changed(Path(video["path"]), "the video", video["sha256"]):
                return f"run_ssim with the video that {entry.run_id} wrote"
    return "run_example, then run_ssim with the video that it wrote"


def makers(entries: list[Entry]) -> dict[str, Entry]:
    """The newest run that wrote each video, by its SHA-256; only runs whose imports of the port are recorded."""
    return {
        entry.summary["video"]["sha256"]: entry
        for entry in entries
        if _made_a_video(entry) and any(key.startswith("worktree:fastvideo/") for key in entry.depends_on)
    }


def _sha256(summary: dict[str, object], side: str) -> str:
    facts = summary.get(side)
    return str(facts.get("sha256") or "") if isinstance(facts, dict) else ""


def _made_a_video(entry: Entry) -> bool:
    return entry.kind == "example" and bool((entry.summary.get("video") or {}).get("sha256"))


def _at_least(value: object, least: float) -> bool:
    return isinstance(value, (int, float)) and value >= least - 1e-9  # not for NaN
