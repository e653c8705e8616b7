"""Fetch a model's weights from the hub, or read those of a local folder; both may take hours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...parity.errors import ParityError
from ...parity.job import Job
from ...parity.strict_json import write_atomically
from ...port import hub
from ...port.errors import PortError
from ...port.weights import read_weights
from ...port.weights_link import hub_folder
from ...port.weights_report import UnsafeFile, WeightsReport

DETAILS = "weights.json"
"""The report in the run's files; the value holds the same."""


def fetch_weights(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Bring the weights to their folder and describe them; nothing is linked or recorded here.

    Args:
        spec: ``home`` (state folder); for a local source ``folder``; for the hub ``source`` (org/name), ``root``
            (official_weights of the worktree), ``revision``, ``allow_patterns``, ``ignore_patterns``.
        job: Progress is told in bytes.

    Returns:
        ``folder`` with the files, ``commit`` (none for a local source), ``report`` (a ``WeightsReport``), ``notes``.

    Raises:
        ParityError: What ``hub`` and ``read_weights`` refuse.
    """
    try:
        home = Path(spec["home"])
        value = _read(Path(spec["folder"]), home, job) if spec.get("folder") else _fetch(spec, home, job)
    except PortError as error:
        raise ParityError(error.what, seen=error.seen, fix=error.fix) from error
    report: WeightsReport = value["report"]
    write_atomically(job.files / DETAILS, report.model_dump_json(indent=1).encode(), durable=False)
    return {**value, "report": report.model_dump(mode="json")}


def _read(folder: Path, home: Path, job: Job) -> dict[str, Any]:
    report = read_weights(folder, home, job.progress)
    if not report.files and not report.unsafe_files:
        raise PortError(
            "The source holds no weights.",
            seen=str(folder),
            fix="Give the folder that holds the model's .safetensors files.",
        )
    return {"folder": str(folder), "commit": None, "report": report, "notes": []}


def _fetch(spec: dict[str, Any], home: Path, job: Job) -> dict[str, Any]:
    source = spec["source"]
    job.progress(0, None, f"asking the hub for {source}")
    snapshot = hub.resolve(source, spec["revision"])
    chosen = hub.select(snapshot, spec["allow_patterns"], spec["ignore_patterns"])
    folder = hub_folder(Path(spec["root"]), source, snapshot.commit)
    hub.download(snapshot, chosen, folder, home, job.progress)
    left = tuple(UnsafeFile(path=file.path, bytes=file.size, present=False) for file in snapshot.files if file.unsafe)
    # Every hash is known from the comparison with the hub's list, so this takes no time worth a word.
    report = read_weights(folder, home, left_behind=left)
    return {
        "folder": str(folder),
        "commit": snapshot.commit,
        "report": report,
        "notes": _left_on_hub(snapshot, chosen, report),
    }


def _left_on_hub(snapshot: hub.Snapshot, chosen: tuple[hub.HubFile, ...], report: WeightsReport) -> list[str]:
    notes = []
    unsafe = sum(not file.present for file in report.unsafe_files)
    other = len(snapshot.files) - len(chosen) - unsafe
    if unsafe:
        notes.append(f"{unsafe} files in formats that can run code stayed on the hub.")
    if other > 0:
        notes.append(f"{other} more files stayed on the hub because of the patterns.")
    extra = {file.path for file in report.files} - {file.path for file in chosen}
    if extra:
        notes.append(f"{len(extra)} safetensors files are here from an earlier call with other patterns.")
    return notes
