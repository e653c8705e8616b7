"""Run the real pairs without the engine, both sides in one process: the numbers that the engine must agree with.

    python tests/pairs/try_pairs.py WORKTREE [PAIR ...] [--json FILE]

Runs in FastVideo's interpreter. For each pair, case and output it prints what R (official, float32), P (port, float32)
and both in bfloat16 lose against G (official, float64): e(a, b) = ||a - b|| / ||b||, computed in float64.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
Outputs = dict[str, dict[str, torch.Tensor]]
"""Case name, then output name."""


def load(path: Path, name: str) -> ModuleType:
    """The module, or package, at ``path`` under a private name."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def prepare() -> None:
    """What a single process on a CPU needs before FastVideo is imported."""
    torch.set_num_threads(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    os.environ["FASTVIDEO_ATTENTION_BACKEND"] = "TORCH_SDPA"


def use(worktree: Path) -> None:
    """Import FastVideo from ``worktree``, with the one engine patch that direct construction needs on a CPU."""
    sys.path.insert(0, str(worktree))
    load(ROOT / "parity" / "__init__.py", "_pairs_parity")
    importlib.import_module("_pairs_parity.patches").apply_patches(["cpu-attention"])


def build(pair: str, folder: Path) -> Path:
    """The small official checkpoint of ``pair``, made in ``folder`` unless it is there."""
    target = folder / pair
    if not target.exists():
        builder = load(ROOT / "tests" / "pairs" / "build_weights.py", "_pairs_build_weights")
        target.mkdir(parents=True)
        builder.build(pair, target)
    return target


def run(pair: str, side: str, dtype: torch.dtype, weights: Path, worktree: Path) -> Outputs:
    """All cases of one side, each with inputs of seed 0, as detached copies."""
    adapter = load(ROOT / "prompts" / "adapters" / f"{pair}.py", f"_pairs_adapter_{pair}")
    outputs: Outputs = {}
    model: torch.nn.Module | None = None
    for name, case in adapter.CASES.items():
        ctx = SimpleNamespace(
            device=torch.device("cpu"),
            dtype=dtype,
            seed=0,
            case=case,
            worktree=worktree,
            official_repo=None,
            official_weights=weights,
            converted_weights=None,
        )
        with torch.no_grad():
            model = model or getattr(adapter, f"load_{side}")(ctx)
            result = getattr(adapter, f"call_{side}")(model, adapter.make_inputs(ctx), ctx)
        outputs[name] = {key: value.detach().clone() for key, value in _leaves(result)}
    return outputs


def _leaves(result: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(result, torch.Tensor):
        yield "output", result
    else:
        yield from result.items()


def error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """||a - b|| / ||b|| in float64; infinite when shapes differ or a value is not finite."""
    if value.shape != reference.shape:
        return float("inf")
    value, reference = value.double(), reference.double()
    distance = float((value - reference).norm() / reference.norm())
    return distance if distance == distance else float("inf")


def measure(pair: str, weights: Path, worktree: Path) -> list[dict[str, Any]]:
    """One row for each case and output of ``pair``."""
    exact = run(pair, "official", torch.float64, weights, worktree)
    sides = {
        f"{side}{dtype.itemsize * 8}": run(pair, side, dtype, weights, worktree)
        for dtype in (torch.float32, torch.bfloat16)
        for side in ("official", "port")
    }
    rows = []
    for case, outputs in exact.items():
        for name, reference in outputs.items():
            distance = sides["port32"][case][name].double() - sides["official32"][case][name].double()
            row: dict[str, Any] = {"pair": pair, "case": case, "output": name, "furthest": float(distance.abs().max())}
            row |= {side: error(values[case][name], reference) for side, values in sides.items()}
            rows.append(row)
    return rows


def main() -> None:
    """Print one line for each output; with ``--json FILE``, write all rows there instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worktree", type=Path)
    parser.add_argument("pairs", nargs="*")
    parser.add_argument("--json", type=Path)
    options = parser.parse_intermixed_args()
    worktree = options.worktree.resolve()
    pairs = options.pairs or list(load(ROOT / "tests" / "pairs" / "table.py", "_pairs_table").PAIRS)
    prepare()
    use(worktree)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in pairs:
            rows += measure(pair, build(pair, Path(folder)), worktree)
    if options.json:
        options.json.write_text(json.dumps(rows))
        return
    columns = {"furthest": "max|P-R|", "official32": "e(R32,G)", "port32": "e(P32,G)"}
    columns |= {"official16": "e(R16,G)", "port16": "e(P16,G)"}
    print("pair, case, output".ljust(42) + "".join(f"{title:>10}" for title in columns.values()))  # noqa: T201
    for row in rows:
        name = f"{row['pair']} {row['case']} {row['output']}"
        print(name.ljust(42) + "".join(f"{row[key]:10.2e}" for key in columns))  # noqa: T201


if __name__ == "__main__":
    main()
