"""Job: convert a checkpoint, by rules or by the agent's script, prove that nothing was lost, and put it in place."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .checkpoint import Checkpoint, read_checkpoint
from .convert_layout import digest_of, layout_findings, stamp
from .convert_proof import ConversionProof, prove_plan
from .convert_rules import ConversionPlan, Output, plan_conversion, read_convert_rules
from .convert_search import prove_by_value
from .convert_write import SHARD_BYTES, write_component
from .errors import ParityError
from .job import Job
from .mapping import Finding
from .script_run import PATIENCE_S, pass_on
from .weights import FileTensors

STAGING = ".converting-"
REJECTED = ".rejected"
SOURCE, OUTPUT = "FASTVIDEO_PORT_SOURCE", "FASTVIDEO_PORT_OUTPUT"
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_LAST_WORDS = 1500


def convert_weights(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Convert into a staging folder, prove, and rename it to its final name; a kill leaves nothing half there.

    Args:
        spec: ``source`` (folder of the official weights), ``target`` (final folder), ``worktree``, ``official_repo``,
            ``script`` and ``args``, or ``rules`` (list of tables), ``components`` (name -> library, class, config,
            copy, stem), ``model_index``; ``cast`` (dtype that a script may round to), ``shard_bytes``.
        job: Progress in bytes.

    Returns:
        ``verdict`` (pass, fail, investigate), the proof's lists, ``findings``, ``dropped``, ``files`` with bytes and
        SHA-256, ``digest``, ``stamp``, and ``path``: the final folder, or where a rejected result lies.

    Raises:
        ParityError: The source holds no safetensors, a rule has no legal form, or the script failed.
    """
    source, target = Path(spec["source"]).resolve(), Path(spec["target"])
    with _alone(target.parent):
        for left in [*target.parent.glob(f"{STAGING}*"), target.parent / REJECTED]:
            _remove(left)
        _recover(target)
        before = read_checkpoint(source)
        if not before.entries:
            raise ParityError(
                "The official weights hold no safetensors file, so nothing could be proven.",
                seen=str(source),
                fix="Fetch safetensors; formats that need unpickling are not read.",
            )
        identity = _identity(before)
        staging = target.parent / f"{STAGING}{secrets.token_hex(6)}"
        staging.mkdir()
        value, plan = _convert(spec, job, before, source, staging)
        if value["verdict"] == "error":
            shutil.rmtree(staging)
            return {**value, "verdict": "fail", "path": ""}
        findings = [Finding(**{**row, "names": tuple(row["names"])}) for row in value["findings"]]
        findings += layout_findings(staging)
        if _identity(before) != identity:
            findings.append(Finding("source-changed", "The conversion changed the official weights; fetch them again."))
        if not findings and not value["arrived"][0]:
            findings.append(Finding("nothing-arrived", "Every tensor is dropped: there is nothing to load."))
        fatal = any(finding.fatal for finding in findings)
        suspect = any(finding.code.endswith("-suspect") for finding in findings)
        verdict = "fail" if fatal else "investigate" if suspect else "pass"
        files = _hashes(staging, value.pop("digests"), job) if not fatal else {}
        path = _place(staging, target) if not fatal else target.parent / REJECTED
        if fatal:
            staging.rename(path)
        return {
            **value,
            "findings": [_row(finding) for finding in findings],
            "verdict": verdict,
            "path": str(path),
            "dropped": dict(list(plan.dropped.items())[:200]),
            "files": {name: list(row) for name, row in files.items()},
            "digest": digest_of(files),
        }


def _convert(
    spec: dict[str, Any], job: Job, before: Checkpoint, source: Path, staging: Path
) -> tuple[dict[str, Any], ConversionPlan]:
    """Write into ``staging`` and prove; the proof as JSON with ``digests`` of the files as far as they are known."""
    values = FileTensors(before.homes)
    rules = read_convert_rules(spec["rules"]) if spec.get("rules") else []
    plan = plan_conversion([rule for rule in rules if not spec.get("script") or rule.drop], before.entries)
    digests: dict[str, str] = {}
    if spec.get("script"):
        # With a script the rules only say what is left out on purpose; every other name is the script's.
        plan.findings = [item for item in plan.findings if item.code != "unused-key"]
    plan.findings += before.findings
    if any(finding.fatal for finding in plan.findings):
        proof = ConversionProof(findings=plan.findings, arrived=(0, len(before.entries)))
        return {**proof.to_json(), "verdict": "error", "digests": {}}, plan
    if spec.get("script"):
        _run_script(spec, source, staging, job)
    else:
        digests = _write(spec, plan, before, values, staging, job)
    written_stamp = stamp(staging)  # before anything is read back: what changes later is not what was proven
    after = read_checkpoint(staging)
    written = FileTensors(after.homes)
    with torch.no_grad():
        if spec.get("script"):
            job.progress(0, None, "looking for every source tensor by its values")
            proof = prove_by_value(before.entries, values, after.entries, written, plan.dropped, spec.get("cast"))
        else:
            done = iter(range(1 << 60))
            total = len(plan.outputs) + len(before.entries)
            proof = prove_plan(
                plan,
                before.entries,
                values,
                written,
                lambda name: job.progress(next(done) / total, None, f"reading back {name}"),
            )
    proof.findings = [*plan.findings, *after.findings, *proof.findings]
    return {
        **proof.to_json(),
        "verdict": "",
        "digests": digests,
        "stamp": written_stamp,
        "tensors_written": len(after.entries),
    }, plan


def _write(
    spec: dict[str, Any],
    plan: ConversionPlan,
    before: Checkpoint,
    values: FileTensors,
    staging: Path,
    job: Job,
) -> dict[str, str]:
    by_component: dict[str, list[Output]] = defaultdict(list)
    for output in plan.outputs.values():
        by_component[output.name.partition("/")[0]].append(output)
    components: dict[str, dict[str, Any]] = spec.get("components") or {}
    total = float(sum(path.stat().st_size for path in before.files))
    done = 0
    digests: dict[str, str] = {}

    def advance(count: int, name: str) -> None:
        nonlocal done
        done += count
        job.progress(done, max(total, done), f"writing {name}")

    for name in dict.fromkeys([*components, *sorted(by_component)]):
        table = components.get(name, {})
        folder = staging / name
        folder.mkdir()
        if table.get("copy"):
            _copy(Path(table["copy"]), folder)
        if table.get("config") is not None:
            _json(folder / "config.json", table["config"])
        if by_component.get(name):
            encoder = table.get("library") == "transformers" or "encoder" in name
            stem = table.get("stem") or ("model" if encoder else "diffusion_pytorch_model")
            limit = int(spec.get("shard_bytes") or SHARD_BYTES)
            files = write_component(folder, stem, by_component[name], values, advance, limit)
            digests |= {f"{name}/{file}": digest for file, digest in files.items()}
    index = dict(spec.get("model_index") or {})
    for name, table in components.items():
        if table.get("class"):
            index.setdefault(name, [table.get("library") or "diffusers", table["class"]])
    if index:
        _json(staging / "model_index.json", index)
    return digests


def _copy(source: Path, folder: Path) -> None:
    """Everything of a folder but weights: tokenizers, schedulers, configs. Links are not followed."""
    for path in sorted(source.rglob("*")):
        if (
            path.is_file()
            and not path.name.lower().endswith(_WEIGHTS)
            and path.resolve().is_relative_to(source.resolve())
        ):
            place = folder / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _run_script(spec: dict[str, Any], source: Path, staging: Path, job: Job) -> None:
    """Run the agent's script in a process of its own, in this interpreter and the worktree.

    Raises:
        ParityError: It did not end with status 0; its last words are in ``seen``.
    """
    job.progress(0, None, f"running {Path(spec['script']).name}")
    words = {"{source}": str(source), "{output}": str(staging)}
    arguments = [words.get(argument, argument) for argument in spec.get("args") or []]
    paths = [spec["worktree"], *([spec["official_repo"]] if spec.get("official_repo") else [])]
    environment = {**os.environ, SOURCE: str(source), OUTPUT: str(staging), "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(
        [sys.executable, spec["script"], *arguments],
        cwd=spec["worktree"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    tail = bytearray()
    reader = threading.Thread(target=pass_on, args=(process.stdout, tail), daemon=True)
    reader.start()
    code = process.wait()
    # What it left behind must neither go on writing nor be waited for.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    reader.join(PATIENCE_S)
    if staging.is_symlink() or not staging.is_dir():
        _remove(staging)
        raise ParityError(
            "The conversion script took its output folder away or put something else in its place.",
            seen=str(staging),
            fix=f"Let it write into the folder that ${OUTPUT} names; a link is not followed.",
        )
    if code:
        ended = f"died of signal {-code}" if code < 0 else f"ended with status {code}"
        shutil.rmtree(staging, ignore_errors=True)
        raise ParityError(
            f"The conversion script {ended}.",
            seen=bytes(tail[-_LAST_WORDS:]).decode("utf-8", "replace").strip(),
            fix=f"Repair it. It reads ${SOURCE} and writes model_index.json and component folders to ${OUTPUT}.",
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One conversion at a time for a worktree; the lock ends with the process, however that ends."""
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ParityError(
                "Another conversion is at work in this worktree.",
                seen=str(folder),
                fix="Wait for it, or cancel its run.",
            ) from error
        yield


def _remove(path: Path) -> None:
    """Remove what a conversion left, whatever it is; where a link leads stays."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _old(target: Path) -> Path:
    return target.with_name(f".old-{target.name}")


def _recover(target: Path) -> None:
    """Undo or finish a replacement that was killed between its two renames."""
    old = _old(target)
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _place(staging: Path, target: Path) -> Path:
    """Give the whole folder its name; an earlier conversion makes room in one rename."""
    old = _old(target)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ParityError(
            "Something else stands where the converted weights belong.", seen=str(target), fix="Move it away."
        )
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return target


def _identity(checkpoint: Checkpoint) -> list[tuple[str, int, int]]:
    rows = []
    for path in checkpoint.files:
        facts = path.stat() if path.exists() else None
        rows.append((str(path), facts.st_size if facts else -1, facts.st_mtime_ns if facts else -1))
    return rows


def _hashes(folder: Path, known: dict[str, str], job: Job) -> dict[str, tuple[int, str]]:
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        name = path.relative_to(folder).as_posix()
        if name not in known:
            job.progress(0, None, f"hashing {name}")
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
            known[name] = digest.hexdigest()
        found[name] = (path.stat().st_size, known[name])
    return found


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "message": finding.message,
        "names": list(finding.names)[:20],
        "fatal": finding.fatal,
    }


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
