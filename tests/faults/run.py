"""Run the fault suite through the engine and print what it said of every mistake and every correct rewrite.

    python tests/faults/run.py FASTVIDEO_FOLDER --python PYTHON [--workers N] [--device D] [--out FILE] [--only ID ...]

Runs in any interpreter with torch. ``FASTVIDEO_FOLDER`` (an unpacked wheel or a checkout) is copied, never changed. The
official side of a pair runs once; every edit runs only the port, as in an agent's second attempt. Beside the engine's
verdict stands what the usual rules would have said of the same outputs: ``assert_close`` at 1e-4 in float32, cosine
above 0.999, and FastVideo's 0.1/0.1 in bfloat16.

Ends with exit status 1 when a mistake passes, a rewrite is accused, or a clean port does not pass.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent / "pairs"), str(HERE.parent / "parity")]

import apply as edits  # noqa: E402
import catalogue  # noqa: E402
import warm  # noqa: E402
from table import PAIRS  # noqa: E402

SEEDS = [0, 1]
DTYPES = ["float32", "bfloat16"]
WARM = (
    "torch",
    "safetensors.torch",
    "torch._dynamo",
    "diffusers.models.transformers.transformer_wan",
    "diffusers.models.transformers.transformer_hunyuan_video",
    "diffusers.models.autoencoders.autoencoder_kl_wan",
    "diffusers.schedulers",
    "transformers.models.umt5.modeling_umt5",
    "transformers.models.clip.modeling_clip",
)
"""What ``--warm`` imports before the sides are forked."""


def _engine() -> None:
    """Load the engine by path under its private name, as its workers do."""
    folder = ROOT / "parity"
    name = "_fastvideo_port_parity"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


_engine()
from _fastvideo_port_parity import children, verdict  # noqa: E402, F401
from _fastvideo_port_parity.component_job import component_parity  # noqa: E402
from _fastvideo_port_parity.errors import ParityError  # noqa: E402
from _fastvideo_port_parity.job import Job  # noqa: E402


class Suite:
    """Worktrees, weights and the cache of official results."""

    def __init__(self, source: Path, python: str, workers: int, device: str, work: Path, trials: bool = False) -> None:
        self.python = python
        self.device = device
        self.trials = trials
        self.work = work
        self.trusted: list[str] = []
        self.counter = iter(range(1_000_000))
        self.lock = threading.Lock()
        self.worktrees: queue.Queue[Path] = queue.Queue()
        for number in range(workers):
            worktree = work / f"worktree-{number}"
            shutil.copytree(source / "fastvideo", worktree / "fastvideo")
            self.worktrees.put(worktree)

    def weights(self, pair: str) -> Path:
        folder = self.work / "weights" / pair
        if not folder.exists():
            script = HERE.parent / "pairs" / "build_weights.py"
            subprocess.run([self.python, str(script), pair, str(folder), "0"], check=True, capture_output=True)
        return folder

    def compare(self, pair: str, worktree: Path) -> dict[str, Any]:
        with self.lock:
            run = self.work / f"run-{next(self.counter)}"
        run.mkdir()
        spec = {
            "adapter": str(PAIRS[pair].adapter),
            # The same for every worker: the official side must not depend on whose worktree it ran in.
            "worktree": str(worktree),
            "official_repo": None,
            "official_weights": str(self.weights(pair)),
            "converted_weights": None,
            "python": self.python,
            "official_python": None,
            "cases": None,
            "seeds": SEEDS,
            "dtypes": DTYPES,
            "device": self.device,
            "patches": [] if self.device != "cpu" else ["cpu-attention"],
            "threads": 1,
            "trials": self.trials,
            "reference_cache": str(self.work / "references"),
            "trusted_references": list(self.trusted),
        }
        try:
            value = component_parity(spec, Job(run))
            if value["reference"]["digest"]:
                self.trusted.append(value["reference"]["digest"])
            return value
        except ParityError as error:
            return {"verdict": "error", "error": str(error), "cases": [], "findings": [], "culprit": None}
        finally:
            shutil.rmtree(run, ignore_errors=True)

    def clean(self, pair: str) -> dict[str, Any]:
        worktree = self.worktrees.get()
        try:
            return self.compare(pair, worktree)
        finally:
            self.worktrees.put(worktree)

    def edited(self, edit: Any) -> dict[str, Any]:
        worktree = self.worktrees.get()
        before = edits.apply(worktree, edit)
        try:
            return self.compare(edit.pair, worktree)
        finally:
            (worktree / edit.file).write_text(before)
            self.worktrees.put(worktree)


def matches(pattern: str, module: str) -> bool:
    """Whether a module is the place that the catalogue names; ``*`` stands for a number, at the front for anything."""
    text = re.escape(pattern).replace(r"\*", r"\d+")
    if pattern.startswith("*."):
        text = r"(?:.+\.)?" + text.removeprefix(r"\d+\.")
    return re.fullmatch(text, module) is not None


def evidence_of(value: dict[str, Any]) -> dict[str, Any]:
    """The part of a result that names causes (see ``causes.py``), short and without this machine's paths."""
    elsewhere = re.compile(r"[^ \"']*/(?:worktree-\d+/|site-packages/|(?=prompts/adapters/))")
    culprit = value["culprit"]
    cases = [
        {
            "case": case["case"],
            "seed": case["seed"],
            "verdict": case["verdict"],
            "logic_ratio": case.get("logic_ratio"),
            "precision_ratio": case.get("precision", {}).get("bfloat16", {}).get("ratio"),
            "port_error": case.get("port_error"),
        }
        for case in value["cases"]
    ]
    found = {
        "verdict": value["verdict"],
        "cases": cases,
        "findings": [{**item, "message": item["message"][:300]} for item in value["findings"]][:16],
        "culprit": culprit and {key: culprit[key] for key in ("module", "kind", "file", "line", "end_line")},
        "trials": [{"found": [{"words": row["words"]} for row in item["found"]]} for item in value.get("trials") or []],
        "dtype_audit": value.get("dtype_audit", [])[:16],
        "attention_backends": {"differs": value.get("attention_backends", {}).get("differs", "")},
    }
    plain: dict[str, Any] = json.loads(elsewhere.sub("", json.dumps(found)))
    return plain


def numbers_of(value: dict[str, Any]) -> dict[str, Any]:
    """The verdict, the largest ratios over all inputs, and what the usual rules said."""
    cases = [case for case in value["cases"] if case.get("logic_ratio") is not None]
    numbers = [float(case["logic_ratio"]) for case in cases]
    boundaries = [float(case["worst_boundary"]["ratio"]) for case in cases if case.get("worst_boundary")]
    precisions = [case["precision"].get("bfloat16", {}) for case in cases]
    return {
        "verdict": value["verdict"],
        "codes": [item["code"] for item in value["findings"] if item["verdict"] != "pass"],
        "logic_ratio": max(numbers, default=None),
        "boundary_ratio": max(boundaries, default=None),
        "bias": max((list(case["worst_bias"]) for case in cases if case.get("worst_bias")), default=None),
        "precision_ratio": max((float(p["ratio"]) for p in precisions if p), default=None),
        "strict": all(case["strict"] for case in cases) if cases else None,
        "cosine": all(case["cosine"] > 0.999 for case in cases) if cases else None,
        "loose": all(p.get("loose", False) for p in precisions) if precisions else None,
    }


def row_of(edit: Any, value: dict[str, Any], fault: bool, seconds: float) -> dict[str, Any]:
    """What the engine and the usual rules said of one edit."""
    culprit = value["culprit"]
    place = None
    if fault and edit.place and culprit and value["verdict"] != "error":
        place = any(matches(pattern, culprit["module"]) for pattern in edit.place)
    return {
        "id": edit.id,
        "category": edit.category,
        "fault": fault,
        "shows": edit.shows,
        **numbers_of(value),
        "culprit": culprit
        and {key: culprit[key] for key in ("module", "kind", "file", "line", "end_line", "confidence")},
        "culprits": [
            {key: row[key] for key in ("module", "kind", "file", "line", "end_line", "why")}
            for row in value.get("culprits", [])
        ],
        "confirmed": value.get("confirmed"),
        "trials": value.get("trials"),
        "notes": value.get("notes"),
        "expected": list(edit.place),
        "glue": edit.glue,
        "place_right": place,
        "error": value.get("error", "")[:600],
        "seconds": round(seconds, 1),
        "timings": value.get("timings"),
        "evidence": evidence_of(value),
    }


def main() -> int:
    """Run what was asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--only", nargs="*", default=[], dest="prefixes", metavar="ID-PREFIX")
    parser.add_argument("--python", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trials", action="store_true", help="try the usual mistakes at every culprit")
    parser.add_argument(
        "--warm", action="store_true", help="fork the sides from a process with the libraries imported: no GPU, faster"
    )
    options = parser.parse_args()
    chosen = [e for e in catalogue.EDITS.values() if not options.prefixes or e.id.startswith(tuple(options.prefixes))]
    faults = {edit.id for edit in catalogue.FAULTS}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if options.warm:
            process = warm.Warm(Path(folder), options.python, WARM)
            stack.callback(process.close)
            children.subprocess = types.SimpleNamespace(Popen=process.popen, PIPE=subprocess.PIPE)
        pool = stack.enter_context(ThreadPoolExecutor(options.workers))
        suite = Suite(options.source, options.python, options.workers, options.device, Path(folder), options.trials)
        pairs = sorted({edit.pair for edit in chosen})
        bad = []
        document: dict[str, Any] = {"device": options.device, "clean": [], "rows": [], "bad": bad}
        for pair, value in zip(pairs, pool.map(suite.clean, pairs), strict=True):
            codes = [item["code"] for item in value["findings"]]
            print(f"clean   {pair:48} {value['verdict']:12} {', '.join(codes)}", flush=True)  # noqa: T201
            document["clean"].append({"id": pair, "reference": value.get("reference", {}), **numbers_of(value)})
            if value["verdict"] != "pass":
                bad.append(
                    f"{pair}: a clean port is judged {value['verdict']}: {value.get('error', value['findings'])}"
                )

        def one(edit: Any) -> dict[str, Any]:
            began = time.monotonic()
            try:
                value = suite.edited(edit)
            except Exception as error:
                value = {"verdict": "error", "error": repr(error), "cases": [], "findings": [], "culprit": None}
            return row_of(edit, value, edit.id in faults, time.monotonic() - began)

        rows: list[dict[str, Any]] = document["rows"]
        for future in as_completed([pool.submit(one, edit) for edit in chosen]):
            row = future.result()
            rows.append(row)
            if options.out:  # whatever ends the suite early, what was measured is kept
                options.out.write_text(json.dumps(document, indent=1))
            print(line(row), flush=True)  # noqa: T201
    bad += [f"{row['id']} passes" for row in rows if row["fault"] and row["verdict"] == "pass"]
    bad += [f"{row['id']} is accused" for row in rows if not row["fault"] and row["verdict"] != "pass"]
    print(summary(rows))  # noqa: T201
    print("\n".join(bad))  # noqa: T201
    if options.out:
        options.out.write_text(json.dumps(document, indent=1))
    return 1 if bad else 0


def line(row: dict[str, Any]) -> str:
    """One edit as a line of the table."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}"

    place = {True: "place right", False: "PLACE WRONG", None: ""}[row["place_right"]]
    where = f"{row['culprit']['kind']} {row['culprit']['module'] or '(root)'}" if row["culprit"] else ""
    bias = row["bias"][0] if row["bias"] else None
    numbers = (
        f"logic {number(row['logic_ratio']):>9} boundary {number(row['boundary_ratio']):>9} "
        f"bias {number(bias):>9} bf16 {number(row['precision_ratio']):>8}"
    )
    kind = "fault  " if row["fault"] else "rewrite"
    error = row["error"].splitlines()[0][:80] if row["error"] else ""
    return f"{kind} {row['id']:48} {row['verdict']:12} {numbers} {place:11} {where}{error}"


def summary(rows: list[dict[str, Any]]) -> str:
    """How many mistakes each rule catches and how many rewrites it accuses."""
    faults = [row for row in rows if row["fault"]]
    rewrites = [row for row in rows if not row["fault"]]
    ran = [row for row in faults if row["verdict"] != "error"]
    lines = [f"{len(faults)} mistakes ({len(faults) - len(ran)} do not even run), {len(rewrites)} correct rewrites", ""]
    lines.append(f"{'rule':34} caught      accused")
    lines.append(
        f"{'this engine':34} {sum(row['verdict'] != 'pass' for row in faults):3} of {len(faults):3}  "
        f"{sum(row['verdict'] != 'pass' for row in rewrites):3} of {len(rewrites):3}"
    )
    for key, name in (
        ("strict", "assert_close 1e-4 in float32"),
        ("cosine", "cosine > 0.999 in float32"),
        ("loose", "0.1 / 0.1 in bfloat16"),
    ):
        caught = sum(row[key] is False or row["verdict"] == "error" for row in faults)
        accused = sum(row[key] is False for row in rewrites)
        lines.append(f"{name:34} {caught:3} of {len(faults):3}  {accused:3} of {len(rewrites):3}")
    judged = [row for row in faults if row["place_right"] is not None]
    right = sum(bool(row["place_right"]) for row in judged)
    lines += ["", f"place named: {len(judged)}, right: {right}"]
    tried = [row for row in faults if row["trials"]]
    if tried:
        named = sum(any(trial["found"] for trial in row["trials"]) for row in tried)
        lines.append(f"usual mistakes tried: {len(tried)}, what removes the error named: {named}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
