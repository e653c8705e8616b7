"""Prove the mappings of the real pairs in one process: FastVideo is imported once for all of them.

    python tests/pairs/check_mappings.py {headers,values} WORKTREE WEIGHTS OUT

Runs in FastVideo's interpreter. ``WEIGHTS`` has one folder for each pair (built where it is absent); ``OUT`` gets one
JSON object: pair -> what that side of the check says.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from try_pairs import build, load, prepare  # noqa: E402


def spec_of(pair: Any, worktree: Path, weights: Path, run: Path) -> dict[str, Any]:
    """What the tool would hand to the job."""
    folder = weights / pair.folder
    return {
        "adapter": str(pair.adapter),
        "worktree": str(worktree),
        "official_repo": None,
        "official_weights": str(weights),
        "converted_weights": None,
        "weights_folder": str(folder) if any(folder.glob("*.safetensors")) else None,
        "port_class": pair.port,
        "python": sys.executable,
        "official_python": None,
        "device": "cpu",
        "devices": [],
        "patches": ["cpu-attention"],
        "threads": 1,
        "cases": None,
        "seeds": [0],
        "dtypes": [],
        "out": str(run / "out"),
        "shared": str(run),
    }


def main() -> None:
    """One side of the check for every pair."""
    side, worktree, weights, out = sys.argv[1], *map(Path, sys.argv[2:5])
    prepare()
    sys.path.insert(0, str(worktree))
    load(HERE.parents[1] / "parity" / "__init__.py", "_pairs_parity")
    jobs: Any = importlib.import_module("_pairs_parity.mapping_job")
    header_side: Any = importlib.import_module("_pairs_parity.header_job").header_side
    job_class: Any = importlib.import_module("_pairs_parity.job").Job
    found: dict[str, Any] = {}
    for name, pair in load(HERE / "table.py", "_pairs_table").PAIRS.items():
        folder, run = build(name, weights) if side == "values" else weights / name, out.parent / f"{side}-{name}"
        run.mkdir()
        spec, job = spec_of(pair, worktree, folder, run), job_class(run)
        if not spec["weights_folder"]:
            if side == "headers":
                continue
            entries = jobs.official_entries(spec, job)["entries"]
            (run / "official.json").write_text(json.dumps(entries))
            spec["official_entries"] = str(run / "official.json")
        started = time.perf_counter()
        found[name] = (jobs.mapping_side if side == "values" else header_side)(spec, job)
        found[name]["seconds"] = time.perf_counter() - started
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
