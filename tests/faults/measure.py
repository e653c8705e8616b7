"""Measure what every edit of the catalogue does to the port, without the engine.

    python tests/faults/measure.py FASTVIDEO_FOLDER [--out FILE] [ID-PREFIX ...]

Runs in FastVideo's interpreter; ``FASTVIDEO_FOLDER`` (an unpacked wheel or a checkout) is copied, never changed. Each
edit runs in a forked process of its own, with the heavy libraries already imported. The result, one entry per edit in
``measured.json``, tells for each case and output how far the edited port moved from the clean one (``change``), its
error over the official one's (``ratio``, against the official model in float64), the same two in bfloat16, and what
``torch.testing.assert_close`` at 1e-4 and a cosine above 0.999 would have said in float32.

Ends with exit status 1 when a fault moves nothing where the catalogue says it shows, or a rewrite moves too much.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import traceback
import types
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "pairs")]

try_pairs = importlib.import_module("try_pairs")
catalogue = importlib.import_module("catalogue")
apply = importlib.import_module("apply")

REWRITE_LIMIT = 1e-5
"""Largest change of a correct rewrite in float32, relative."""
UNIT = 2.0**-24
PORT_MODULES = (
    "fastvideo.models.dits.wanvideo",
    "fastvideo.models.dits.hunyuanvideo",
    "fastvideo.models.vaes.wanvae",
    "fastvideo.models.encoders.t5",
    "fastvideo.models.encoders.clip",
    "fastvideo.models.loader.fsdp_load",
    "fastvideo.models.schedulers.scheduling_flow_unipc_multistep",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Measured = dict[str, Any]


def _child(pair: str, side: str, dtypes: list[str], weights: Path, worktree: Path, out: Path) -> None:
    """Run one side and save its outputs by dtype name, or the error that ended it."""
    results: dict[str, Any] = {}
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        try_pairs.prepare()
        _mount(worktree)
        try_pairs.use(worktree)
        for name in dtypes:
            results[name] = try_pairs.run(pair, side, getattr(torch, name), weights, worktree)
    except BaseException as failure:
        last = traceback.extract_tb(failure.__traceback__)[-1]
        stage = (
            "load"
            if any(frame.name == "load_port" for frame in traceback.extract_tb(failure.__traceback__))
            else "call"
        )
        results["error"] = {"stage": stage, "text": f"{type(failure).__name__}: {failure}"[:300], "line": last.lineno}
    torch.save(results, out)
    os._exit(0)


def _mount(worktree: Path) -> None:
    """Import FastVideo's package without its __init__, which would import every model: ten times as fast."""
    package = types.ModuleType("fastvideo")
    package.__path__ = [str(worktree / "fastvideo")]
    sys.modules["fastvideo"] = package


def _run(pair: str, side: str, dtypes: list[str], weights: Path, worktree: Path, scratch: Path) -> dict[str, Any]:
    out = scratch / "outputs.pt"
    out.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(pair, side, dtypes, weights, worktree, out)
    )
    process.start()
    process.join(300)
    if process.is_alive() or not out.exists():
        process.kill()
        return {"error": {"stage": "call", "text": f"ended with {process.exitcode}", "line": 0}}
    results: dict[str, Any] = torch.load(out)
    return results


def _libraries(worktree: Path, out: Path) -> None:
    """Save the names of the modules, other than FastVideo's own, that the ports import."""
    try_pairs.prepare()
    _mount(worktree)
    try_pairs.use(worktree)
    for name in PORT_MODULES:
        importlib.import_module(name)
    out.write_text("\n".join(name for name in list(sys.modules) if name.split(".")[0] != "fastvideo"))


def _preload(worktree: Path, scratch: Path) -> None:
    """Import here, once, whatever every fork would import again. FastVideo itself is imported by each fork anew."""
    out = scratch / "libraries.txt"
    process = multiprocessing.get_context("fork").Process(target=_libraries, args=(worktree, out))
    process.start()
    process.join()
    for name in out.read_text().splitlines():
        if not name.startswith("_pairs") and name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


class Reference:
    """The official side of a pair in three dtypes, and the clean port in two."""

    def __init__(self, pair: str, weights: Path, worktree: Path, scratch: Path) -> None:
        names = ["float64", *DTYPES]
        self.official = _run(pair, "official", names, weights, worktree, scratch)
        self.port = _run(pair, "port", list(DTYPES), weights, worktree, scratch)
        for results in (self.official, self.port):
            if "error" in results:
                raise RuntimeError(f"{pair}: the clean pair does not run: {results['error']}")

    def compare(self, results: dict[str, Any]) -> Measured:
        """Numbers for each case and output of the edited port."""
        if "error" in results and "float32" not in results:
            return {"error": results["error"]}
        measured: Measured = {"error": results["error"]} if "error" in results else {}
        for dtype in DTYPES:
            if dtype not in results:
                continue
            for case, outputs in self.official["float64"].items():
                for name, exact in outputs.items():
                    value = results[dtype][case][name]
                    official = self.official[dtype][case][name]
                    floor = max(try_pairs.error(official, exact), UNIT)
                    entry = measured.setdefault(case, {}).setdefault(name, {})
                    entry[f"change_{dtype}"] = _short(try_pairs.error(value, self.port[dtype][case][name]))
                    entry[f"ratio_{dtype}"] = _short(try_pairs.error(value, exact) / floor)
                    if dtype == "float32":
                        entry["assert_close_1e-4"] = _close(value, official)
                        entry["cosine_0.999"] = _cosine(value, official) > 0.999
        return measured


def _one_line_each(results: dict[str, Measured]) -> str:
    """JSON with one line for each edit, so that a new measurement shows as a readable difference."""
    lines = (f"{json.dumps(key)}: {json.dumps(results[key], sort_keys=True)}" for key in sorted(results))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _short(number: float) -> float | str:
    """Three digits; text where JSON has no number."""
    return float(f"{number:.3g}") if number < float("inf") else "inf"


def _close(value: torch.Tensor, official: torch.Tensor) -> bool:
    return value.shape == official.shape and torch.allclose(value.float(), official.float(), rtol=1e-4, atol=1e-4)


def _cosine(value: torch.Tensor, official: torch.Tensor) -> float:
    if value.shape != official.shape:
        return 0.0
    return float(torch.nn.functional.cosine_similarity(value.double().flatten(), official.double().flatten(), dim=0))


def _largest(measured: Measured, key: str, cases: tuple[str, ...] = ()) -> float:
    """The largest number called ``key`` over the outputs of ``cases``, or of all."""
    numbers = [
        float(entry.get(key, 0.0))
        for case, outputs in measured.items()
        if case != "error" and (not cases or case in cases)
        for entry in outputs.values()
    ]
    return max(numbers, default=0.0)


def complaint(edit: Any, measured: Measured, rewrite: bool) -> str:
    """Why this measurement contradicts the catalogue; empty when it does not."""
    failed = "error" in measured
    if rewrite:
        change = _largest(measured, "change_float32")
        return "does not run" if failed else f"moves {change:.1e}" if change > REWRITE_LIMIT else ""
    if edit.shows in ("load", "call"):
        stage = measured["error"]["stage"] if failed else ""
        return "" if stage == edit.shows else f"fails in {stage}" if failed else "loads and runs"
    if failed and edit.shows == "float32":
        return f"does not run: {measured['error']['text']}"
    silent = [case for case in edit.cases if not _largest(measured, f"change_{edit.shows}", (case,))]
    if silent or not _largest(measured, f"change_{edit.shows}"):
        return f"moves nothing in {', '.join(silent) or 'any case'}"
    if edit.shows == "bfloat16" and _largest(measured, "change_float32") > 0:
        return "shows in float32 as well"
    loud = [
        case
        for case in measured
        if edit.cases and case not in edit.cases and _largest(measured, f"change_{edit.shows}", (case,)) > 1e-6
    ]
    return f"shows in {', '.join(loud)} as well" if loud else ""


def main() -> int:
    """Measure, write the file, print one line for each edit; 1 when the catalogue is contradicted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fastvideo", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "measured.json")
    parser.add_argument("prefixes", nargs="*", default=[""])
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    results: dict[str, Measured] = json.loads(options.out.read_text()) if options.out.exists() else {}
    complaints = 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        worktree = scratch / "worktree"
        shutil.copytree(
            options.fastvideo / "fastvideo", worktree / "fastvideo", ignore=shutil.ignore_patterns("__pycache__")
        )
        _preload(worktree, scratch)
        references: dict[str, Reference] = {}
        for edit in catalogue.EDITS.values():
            if not edit.id.startswith(tuple(options.prefixes)):
                continue
            if edit.pair not in references:
                weights = try_pairs.build(edit.pair, scratch / "weights")
                sys.dont_write_bytecode = False
                references[edit.pair] = Reference(edit.pair, weights, worktree, scratch)
                # Bytecode is kept of clean files only: an edit and its repair may fall into one second.
                sys.dont_write_bytecode = True
            reference = references[edit.pair]
            with _edited(worktree, edit):
                outcome = _run(edit.pair, "port", list(DTYPES), scratch / "weights" / edit.pair, worktree, scratch)
            measured = reference.compare(outcome)
            results[edit.id] = measured
            wrong = complaint(edit, measured, edit in catalogue.REWRITES)
            complaints += bool(wrong)
            _print(edit, measured, wrong)
            options.out.write_text(_one_line_each(results))
    return 1 if complaints else 0


class _edited:
    """The worktree with one edit made; the file's time is put back with its text, so that its bytecode stays valid."""

    def __init__(self, worktree: Path, edit: Any) -> None:
        self.path = worktree / edit.file
        self.stat = self.path.stat()
        self.manager = apply.applied(worktree, edit)

    def __enter__(self) -> None:
        self.manager.__enter__()

    def __exit__(self, *failure: object) -> None:
        self.manager.__exit__(*failure)
        os.utime(self.path, ns=(self.stat.st_atime_ns, self.stat.st_mtime_ns))


def _print(edit: Any, measured: Measured, wrong: str) -> None:
    if "error" in measured and len(measured) == 1:
        numbers = f"{measured['error']['stage']}: {measured['error']['text'][:60]}"
    else:
        keys = ("change_float32", "ratio_float32", "change_bfloat16", "ratio_bfloat16")
        numbers = "".join(f"{_largest(measured, key):10.2e}" for key in keys)
    print(f"{edit.id:48}{numbers}  {wrong and 'CONTRADICTS: ' + wrong}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
