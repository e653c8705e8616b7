"""The job behind `run_ssim`: two videos or folders of frames in, a verdict with its evidence out."""

from __future__ import annotations

import csv
import heapq
import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from .errors import ParityError
from .frame_checks import SideStatistics, time_shift
from .frame_reader import FrameReader, Frames
from .frames import open_frames
from .job import Job
from .ssim import METRICS, Metric, Scorer, check_size
from .ssim_pictures import FramePair, contact_sheet, score_plot
from .strict_json import encode, write_atomically

THRESHOLD = 0.93
FLOOR_BELOW_THRESHOLD = 0.1
_WORST = 3

# What a finding does to the verdict. The strongest wins; without any the verdict is "pass".
_EFFECTS = {
    "frame-count": "fail",
    "frame-size": "fail",
    "below-threshold": "fail",
    "below-floor": "fail",
    "not-finite": "fail",
    "same-file": "inconclusive",
    "stale-candidate": "inconclusive",
    "blank-content": "inconclusive",
    "noise": "inconclusive",
    "static": "investigate",
    "fps-mismatch": "investigate",
    "loose-threshold": "investigate",
    "code-changed-since": "investigate",
    "other-device": "investigate",
    "fastvideo-reference": "note",
    "time-shift": "note",
    "identical-frames": "note",
    "conversion": "note",
    "variable-frame-rate": "note",
    "gpu-fallback": "note",
}
_RANK = ("fail", "inconclusive", "investigate")


@dataclass(frozen=True)
class SsimSettings:
    """The checked spec of the job.

    Attributes:
        reference, candidate: Video, folder of pictures, or picture.
        reference_root, candidate_root: Folders that the sides must not leave, or none.
        metric: See `ssim.METRICS`.
        threshold: Least mean score, above 0 and at most 1.
        min_threshold: Least score of any frame, 0 to 1.
        device: Where the scores are computed.
        not_before: Seconds since 1970; an older candidate is stale. None: not checked.
        code_changed: Newest source file of the port and its time: ``{"path": str, "at": seconds}``, or none.
        known: SHA-256 of candidates of which it is recorded what code wrote them: no time is asked for these.
        remarks: What the caller knows already: ``{"code", "message"}``, with a code of the findings.
        earlier: SHA-256 of videos known to be out of date, and why.
    """

    reference: Path
    candidate: Path
    reference_root: Path | None
    candidate_root: Path | None
    metric: Metric
    threshold: float
    min_threshold: float
    device: torch.device
    not_before: float | None
    code_changed: dict[str, Any] | None
    remarks: list[dict[str, str]] = field(default_factory=list)
    earlier: dict[str, str] = field(default_factory=dict)
    known: frozenset[str] = frozenset()


@dataclass
class Comparison:
    """What lockstep decoding and scoring gathers."""

    scores: list[float] = field(default_factory=list)
    worst: list[tuple[float, int, FramePair]] = field(default_factory=list)
    reference: SideStatistics = field(default_factory=SideStatistics)
    candidate: SideStatistics = field(default_factory=SideStatistics)
    identical: int = 0

    def keep(self, scores: torch.Tensor, reference: Frames, candidate: Frames) -> None:
        """Take in the scores of one batch and hold on to the worst frames."""
        for offset, score in enumerate(scores.tolist()):
            index = len(self.scores)
            self.scores.append(score)
            # NaN has no order; it is the worst there is.
            badness = math.inf if math.isnan(score) else -score
            if len(self.worst) == _WORST and badness <= self.worst[0][0]:
                continue
            pair = FramePair(index, score, reference[offset].copy(), candidate[offset].copy())
            heapq.heappush(self.worst, (badness, -index, pair))
            del self.worst[: max(0, len(self.worst) - _WORST)]
            heapq.heapify(self.worst)

    def worst_first(self) -> list[FramePair]:
        """The worst frames, the worst first."""
        return [pair for _, _, pair in sorted(self.worst, key=lambda item: (-item[0], -item[1]))]


def ssim(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Compare two videos frame by frame.

    Args:
        spec: The fields of `SsimSettings`; ``device`` may be none for the GPU if there is one.
        job: Scores (JSON, CSV) and pictures (PNG) are written to its ``files``.

    Returns:
        ``verdict`` (pass, fail, investigate, inconclusive), ``metric``, ``threshold``, ``min_threshold``, ``mean``,
        ``min``, ``max``, ``worst_frame`` (none where nothing could be compared), ``frames_compared``, ``reference`` and
        ``candidate`` (`FrameFacts`), ``findings`` (code, effect, message), ``worst_frames`` (index, score),
        ``pictures`` and ``scores_files`` (names below ``files``), ``device``, ``backend``, ``depends_on`` (SHA-256 of
        each file read, by ``path:`` and its absolute path).

    Raises:
        ParityError: A setting is out of range, or a side cannot be decoded to its end.
    """
    settings = read_settings(spec)
    scorer = Scorer(settings.metric, settings.device)
    with (
        open_frames(settings.reference, root=settings.reference_root) as reference,
        open_frames(settings.candidate, root=settings.candidate_root) as candidate,
    ):
        alike = (reference.width, reference.height) == (candidate.width, candidate.height)
        if alike:
            check_size(reference.height, reference.width, settings.metric)
        result = _compare(reference, candidate, scorer if alike else None, job)
        findings = _findings(settings, reference, candidate, result, scorer)
        facts = {"reference": asdict(reference.facts()), "candidate": asdict(candidate.facts())}
        read = {
            f"path:{path.absolute()}": file.sha256
            for side in (reference, candidate)
            for path, file in side.files().items()
        }
    worst = result.worst_first()
    files = _write_files(job.files, settings, result, worst) if result.scores else {"pictures": [], "scores_files": []}
    finite = bool(result.scores) and all(math.isfinite(score) for score in result.scores)
    return {
        "verdict": next((rank for rank in _RANK if any(f["effect"] == rank for f in findings)), "pass"),
        "metric": settings.metric,
        "threshold": settings.threshold,
        "min_threshold": settings.min_threshold,
        "mean": math.fsum(result.scores) / len(result.scores) if finite else None,
        "min": min(result.scores) if finite else None,
        "max": max(result.scores) if finite else None,
        "worst_frame": worst[0].index if worst else None,
        "frames_compared": len(result.scores),
        **facts,
        "findings": findings,
        "worst_frames": [{"index": p.index, "score": p.score if math.isfinite(p.score) else None} for p in worst],
        **files,
        "device": str(settings.device),
        "backend": scorer.backend,
        "depends_on": read,
    }


def read_settings(spec: dict[str, Any]) -> SsimSettings:
    """Check the spec.

    Raises:
        ParityError: An unknown metric or device, a threshold that is not a number in range.
    """
    metric = spec.get("metric") or "ms_ssim"
    if metric not in METRICS:
        raise ParityError(
            "There is no such metric.", seen=f"metric={metric!r}", fix=f"Use one of {', '.join(METRICS)}."
        )
    threshold = _number("threshold", spec.get("threshold", THRESHOLD))
    if not 0 < threshold <= 1:
        raise ParityError(
            "The threshold is out of range.", seen=f"threshold={threshold}", fix="Give a number above 0, at most 1."
        )
    given = spec.get("min_threshold")
    floor = max(0.0, threshold - FLOOR_BELOW_THRESHOLD) if given is None else _number("min_threshold", given)
    if not 0 <= floor <= 1:
        raise ParityError(
            "The floor of the single frame is out of range.",
            seen=f"min_threshold={floor}",
            fix="Give a number from 0 to 1, or leave it out for threshold - 0.1.",
        )
    not_before = spec.get("not_before")
    roots = [Path(spec[key]) if spec.get(key) else None for key in ("reference_root", "candidate_root")]
    return SsimSettings(
        reference=Path(spec["reference"]),
        candidate=Path(spec["candidate"]),
        reference_root=roots[0],
        candidate_root=roots[1],
        metric=cast(Metric, metric),
        threshold=threshold,
        min_threshold=floor,
        device=choose_device(spec.get("device")),
        not_before=None if not_before is None else _number("not_before", not_before),
        code_changed=spec.get("code_changed"),
        remarks=[row for row in spec.get("remarks") or [] if row["code"] in _EFFECTS],
        earlier=spec.get("earlier_videos") or {},
        known=frozenset(spec.get("known_videos") or ()),
    )


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ParityError(f"{name} is not a finite number.", seen=f"{name}={value!r}", fix="Give a finite number.")
    return float(value)


def choose_device(name: str | None) -> torch.device:
    """The device called ``name``; without a name the first GPU, or the CPU where there is none.

    Raises:
        ParityError: The name is unknown or the device is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not name:
        return torch.device("cuda:0" if count else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ParityError("There is no such device.", seen=f"device={name!r}", fix='Use "cpu" or "cuda".') from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= count):
        raise ParityError(
            "This device is not available here.",
            seen=f"device={name!r}; CUDA devices: {count}",
            fix='Use "cpu", or leave the device out.',
        )
    return device


def _compare(reference: FrameReader, candidate: FrameReader, scorer: Scorer | None, job: Job) -> Comparison:
    """Decode both sides to their ends and score what pairs up; without a scorer nothing is scored, only looked at.

    The two decoders run ahead in a thread each while a batch is scored.
    """
    result = Comparison()
    with _cores_for_decoding(), ThreadPoolExecutor(2, thread_name_prefix="decode") as pool:
        sides = [_ahead(pool, reader.batches()) for reader in (reference, candidate)]
        buffers: list[Frames | None] = [None, None]
        while True:
            for side, statistics in enumerate((result.reference, result.candidate)):
                if buffers[side] is None and (batch := next(sides[side], None)) is not None:
                    buffers[side] = batch
                    statistics.add(torch.from_numpy(batch))
            first, second = buffers
            if first is None and second is None:
                return result
            job.progress(max(result.reference.frames, result.candidate.frames), None, "frames decoded")
            if first is None or second is None or scorer is None:
                # One side has ended (or nothing is scored): the rest is decoded only to be counted.
                buffers = [None, None]
                continue
            # Pictures of unlike batch lengths pair up by index.
            count = min(len(first), len(second))
            result.keep(_score(scorer, first[:count], second[:count]), first, second)
            result.identical += int((first[:count] == second[:count]).all((1, 2, 3)).sum())
            buffers = [batch[count:] if len(batch) > count else None for batch in (first, second)]


@contextmanager
def _cores_for_decoding() -> Iterator[None]:
    """Leave two cores to the decoders: torch's threads spin while they wait, which on full cores costs tenfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _ahead(pool: ThreadPoolExecutor, batches: Iterator[Frames]) -> Iterator[Frames]:
    """Yield ``batches`` with the next one being decoded in ``pool``."""
    future = pool.submit(next, batches, None)
    while (batch := future.result()) is not None:
        future = pool.submit(next, batches, None)
        yield batch


def _score(scorer: Scorer, reference: Frames, candidate: Frames) -> torch.Tensor:
    """Scores on the CPU; when the GPU's memory does not suffice the batch is halved down to one frame."""
    try:
        return scorer(torch.from_numpy(reference), torch.from_numpy(candidate)).cpu()
    except torch.cuda.OutOfMemoryError as error:
        if len(reference) == 1:
            raise ParityError(
                "The GPU has no memory left for a single frame.",
                seen=str(error)[:200],
                fix='Free the GPU, or give device="cpu".',
            ) from error
    torch.cuda.empty_cache()
    half = len(reference) // 2
    parts = [_score(scorer, reference[part], candidate[part]) for part in (slice(0, half), slice(half, None))]
    return torch.cat(parts)


def _findings(
    settings: SsimSettings, reference: FrameReader, candidate: FrameReader, result: Comparison, scorer: Scorer
) -> list[dict[str, str]]:
    """Everything that keeps the verdict from being a plain pass, and what is worth knowing."""
    found: list[dict[str, str]] = []

    def add(code: str, message: str) -> None:
        found.append({"code": code, "effect": _EFFECTS[code], "message": message})

    theirs, ours = reference.facts(), candidate.facts()
    if (theirs.width, theirs.height) != (ours.width, ours.height):
        add(
            "frame-size",
            f"The reference is {theirs.width}x{theirs.height}, the candidate {ours.width}x{ours.height}: not scored.",
        )
    if theirs.frames != ours.frames:
        common = f"; the {len(result.scores)} scored frames do not count" if result.scores else ""
        add("frame-count", f"The reference has {theirs.frames} frames, the candidate {ours.frames}{common}.")
    _judge_scores(settings, result.scores, add)
    shift = time_shift(result.reference, result.candidate) if found else None
    if shift:
        add("time-shift", f"The candidate's frames look like the reference's {shift} (candidate i, reference i + N).")

    their_files, our_files = (
        {(file.device, file.inode) for file in side.files().values()} for side in (reference, candidate)
    )
    if theirs.sha256 == ours.sha256 or their_files & our_files:
        add("same-file", "Reference and candidate are the same file or byte-identical: this compares nothing.")
    elif result.scores and result.identical == max(theirs.frames, ours.frames):
        add("identical-frames", "Every decoded frame is identical to the reference's.")
    if settings.not_before is not None and ours.modified_at < settings.not_before:
        age = settings.not_before - ours.modified_at
        add("stale-candidate", f"The candidate was written {age:.0f} s before the port began: it cannot come from it.")
    if ours.sha256 in settings.earlier:
        add("stale-candidate", settings.earlier[ours.sha256])
    for row in settings.remarks:
        add(row["code"], row["message"])
    changed = settings.code_changed
    if changed and ours.sha256 not in settings.known and ours.modified_at < float(changed["at"]):
        message = f"{changed['path']} is newer than the candidate, and no run is known to have written that: only the "
        add("code-changed-since", f"{message}times of the files can tell. Let run_example write it.")
    for side, statistics in (("reference", result.reference), ("candidate", result.candidate)):
        for kind in statistics.kinds():
            code = "blank-content" if kind in ("black", "constant") else kind
            what = {"black": "all black", "constant": "of constant colour", "static": "one still frame"}
            add(code, f"The {side} is {what.get(kind, 'pure noise')}: agreement with it proves little.")
    if theirs.fps and ours.fps and abs(theirs.fps - ours.fps) > 0.01 * theirs.fps:
        add("fps-mismatch", f"The reference plays at {theirs.fps:g} frames/s, the candidate at {ours.fps:g}.")
    if settings.threshold < THRESHOLD or settings.min_threshold < THRESHOLD - FLOOR_BELOW_THRESHOLD - 1e-9:
        add(
            "loose-threshold",
            f"Threshold {settings.threshold:g} and floor {settings.min_threshold:g} are below the standard "
            f"{THRESHOLD:g} and {THRESHOLD - FLOOR_BELOW_THRESHOLD:g}: a person has to accept that.",
        )
    for side, facts in (("reference", theirs), ("candidate", ours)):
        if facts.variable_frame_rate:
            add("variable-frame-rate", f"The {side} has a variable frame rate; frames were paired by index.")
        for note in facts.notes:
            add("conversion", f"The {side}: {note}.")
    if scorer.fallback:
        add("gpu-fallback", f"The fused GPU kernel was not used: {scorer.fallback}")
    return found


def _judge_scores(settings: SsimSettings, scores: list[float], add: Any) -> None:
    """Mean against the threshold, each frame against the floor."""
    if not scores:
        return
    broken = [index for index, score in enumerate(scores) if not math.isfinite(score)]
    if broken:
        add("not-finite", f"{len(broken)} frames have no finite score; the first is frame {broken[0]}.")
        return
    mean = math.fsum(scores) / len(scores)
    if mean < settings.threshold:
        add("below-threshold", f"The mean {mean:.4f} is below the threshold {settings.threshold:g}.")
    low = [index for index, score in enumerate(scores) if score < settings.min_threshold]
    if low:
        some = ", ".join(str(index) for index in low[:8]) + (", ..." if len(low) > 8 else "")
        add("below-floor", f"{len(low)} of {len(scores)} frames score below {settings.min_threshold:g}: {some}.")


def _write_files(
    folder: Path, settings: SsimSettings, result: Comparison, worst: list[FramePair]
) -> dict[str, list[str]]:
    """Scores as JSON and CSV, the plot and the contact sheet; their names."""
    document = {"metric": settings.metric, "scores": result.scores}
    write_atomically(folder / "scores.json", encode(document), durable=False)
    finite = [score for score in result.scores if math.isfinite(score)]
    # What FastVideo's write_ssim_results writes; the number of steps is known to its own tests only.
    own = {
        "mean_ssim": math.fsum(finite) / len(finite) if finite else None,
        "min_ssim": min(finite, default=None),
        "max_ssim": max(finite, default=None),
        "reference_video": str(settings.reference),
        "generated_video": str(settings.candidate),
        "parameters": {"num_inference_steps": None, "prompt": settings.candidate.stem},
    }
    write_atomically(folder / "fastvideo_ssim.json", encode(own), durable=False)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("frame", settings.metric))
    rows.writerows((index, repr(score)) for index, score in enumerate(result.scores))
    write_atomically(folder / "scores.csv", table.getvalue().encode(), durable=False)
    plotted = [score if math.isfinite(score) else np.nan for score in result.scores]
    score_plot(
        folder / "scores.png",
        plotted,
        metric=settings.metric,
        threshold=settings.threshold,
        floor=settings.min_threshold,
        worst=[pair.index for pair in worst],
    )
    contact_sheet(folder / "worst_frames.png", worst, metric=settings.metric)
    return {
        "pictures": ["scores.png", "worst_frames.png"],
        "scores_files": ["scores.json", "scores.csv", "fastvideo_ssim.json"],
    }
