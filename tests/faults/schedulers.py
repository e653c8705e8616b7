"""Every planted mistake and rewrite of FastVideo's schedulers through check_scheduler, in one process.

    python tests/faults/schedulers.py FASTVIDEO_FOLDER OUT.json [ID ...]

Runs in FastVideo's interpreter. The job is the real one; only its two children are function calls here, so that
FastVideo and diffusers are imported once, and the official side walks once. ``FASTVIDEO_FOLDER`` is copied and not
changed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent / "pairs")]
sys.dont_write_bytecode = True

import apply as edits  # noqa: E402
import build_weights  # noqa: E402
import catalogue  # noqa: E402
from table import PAIRS  # noqa: E402

_spec = importlib.util.spec_from_file_location(
    "_fastvideo_port_parity", ROOT / "parity/__init__.py", submodule_search_locations=[str(ROOT / "parity")]
)
assert _spec is not None and _spec.loader is not None
sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules[_spec.name])
from _fastvideo_port_parity import scheduler_job  # noqa: E402
from _fastvideo_port_parity.errors import ParityError  # noqa: E402
from _fastvideo_port_parity.job import Job  # noqa: E402
from _fastvideo_port_parity.scheduler_side import scheduler_side  # noqa: E402

WALKED: dict[str, tuple[dict[str, Any], bytes]] = {}


class InProcess:
    """Stands in for a child: the same function on the same spec, called here."""

    def __init__(self, python: str, job: str, folder: Path, spec: dict[str, Any], cwd: Path) -> None:
        self.folder = folder
        self.process = types.SimpleNamespace(poll=lambda: 0)
        plain = json.loads(json.dumps(spec))
        key = json.dumps([plain["official_class"], plain["adapter"], [w["key"] for w in plain["walks"]]])
        known = WALKED.get(key) if plain["side"] == "official" and not plain["changes"] else None
        if known is not None:
            self._value: dict[str, Any] = known[0]
            Path(plain["out"]).write_bytes(known[1])
            return
        self._value = scheduler_side(plain, None)  # type: ignore[arg-type]
        if plain["side"] == "official" and not plain["changes"]:
            WALKED[key] = (self._value, Path(plain["out"]).read_bytes())

    def value(self) -> dict[str, Any]:
        return self._value

    def spoke(self) -> bool:
        return False


scheduler_job.Child = InProcess  # type: ignore[misc, assignment]
scheduler_job.wait_for = lambda children, each: None

# Mistakes that the catalogue of component parity does not have: (pair, id, old, new, times, nth).
_EULER = "fastvideo/models/schedulers/scheduling_flow_match_euler_discrete.py"
_UNIPC = "fastvideo/models/schedulers/scheduling_flow_unipc_multistep.py"
MORE = [
    catalogue.Edit(pair=pair, id=name, file=file, old=old, new=new, category="scheduler", note="", times=times, nth=nth)
    for pair, name, file, old, new, times, nth in (
        (
            "flow_match_euler",
            "euler-flipped",
            _EULER,
            "        self.timesteps = timesteps_tensor\n        self.sigmas = sigmas_tensor\n",
            "        self.timesteps = timesteps_tensor\n        self.sigmas = sigmas_tensor.flip(0)\n",
            1,
            1,
        ),
        (
            "flow_match_euler",
            "euler-timesteps-integer",
            _EULER,
            "        self.timesteps = timesteps_tensor\n",
            "        self.timesteps = timesteps_tensor.round()\n",
            1,
            1,
        ),
        (
            "flow_match_euler",
            "euler-noise-swapped",
            _EULER,
            "sample = sigma * noise + (1.0 - sigma) * sample",
            "sample = sigma * sample + (1.0 - sigma) * noise",
            1,
            1,
        ),
        (
            "flow_unipc",
            "unipc-state-leaks",
            _UNIPC,
            "        self.lower_order_nums = 0\n        self.last_sample = None\n        if self.solver_p:",
            "        if self.solver_p:",
            1,
            1,
        ),
        (
            "flow_unipc",
            "unipc-noise-alpha",
            _UNIPC,
            "noisy_samples = alpha_t * original_samples + sigma_t * noise",
            "noisy_samples = original_samples + sigma_t * noise",
            1,
            1,
        ),
        (
            "flow_match_euler",
            "euler-bfloat16-step",
            _EULER,
            "prev_sample = sample + dt * model_output",
            "prev_sample = sample + (dt * model_output).bfloat16().to(sample.dtype)",
            1,
            1,
        ),
    )
]


def main() -> None:
    source, out, wanted = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        worktree = work / "worktree"
        shutil.copytree(source / "fastvideo", worktree / "fastvideo")
        sys.path.insert(0, str(worktree))
        found: dict[str, Any] = {}
        for pair in ("flow_match_euler", "flow_unipc"):
            folder = work / "weights" / pair
            getattr(build_weights, pair)(folder, 0)
            shutil.copy(PAIRS[pair].adapter, worktree / f"parity_{pair}.py")
            if not wanted:
                found[f"{pair}-clean"] = check(work, pair)
                found[f"{pair}-signatures"] = check(work, pair, adapter=False)
        planted = [edit for edit in (*catalogue.EDITS.values(), *MORE) if edit.pair.startswith("flow_")]
        for edit in planted:
            if not wanted or edit.id in wanted:
                with edits.applied(worktree, edit):
                    found[edit.id] = check(work, edit.pair)
                print(edit.id, found[edit.id]["verdict"], found[edit.id].get("causes"), flush=True)  # noqa: T201
    out.write_text(json.dumps(found, default=str))


def check(work: Path, pair: str, adapter: bool = True) -> dict[str, Any]:
    """One run of the job."""
    for name in [name for name in sys.modules if name.startswith("fastvideo.models.schedulers.scheduling_flow")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    run = Path(tempfile.mkdtemp(dir=work))
    worktree = work / "worktree"
    spec = {
        "official_class": PAIRS[pair].official,
        "port_class": PAIRS[pair].port,
        "adapter": str(worktree / f"parity_{pair}.py") if adapter else None,
        "worktree": str(worktree),
        "official_repo": None,
        "official_weights": str(work / "weights" / pair),
        "converted_weights": None,
        "component": "scheduler",
        "num_steps": 20,
        "python": sys.executable,
        "official_python": None,
        "patches": [],
    }
    try:
        return scheduler_job.check_scheduler(spec, Job(run))
    except ParityError as error:
        return {"verdict": "error", "error": str(error)}


if __name__ == "__main__":
    main()
