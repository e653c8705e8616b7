"""How the engine's cost grows, on the real Wan DiT pair: `python bench/scale.py --fastvideo FOLDER`.

Seeded weights, nothing is downloaded. Three tables (`--parts` picks):

depth   whole component comparisons and searches for a planted mistake, 2 to 60 narrow blocks, with a linear fit
again   the second attempt with the official side kept, against the port's own import, load and forward
meta    Wan 14B's names, shapes, pairing and trace without memory for values; `--full-14b` also with values, in
        bfloat16, each side alone

FOLDER is a checkout of FastVideo or its unpacked wheel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import wan_pair
from fastvideo_port.parity.mapping import plan
from fastvideo_port.parity.pairing import coverage, pair_modules
from fastvideo_port.parity.proof import Link
from fastvideo_port.parity.sketch import sketch_distance
from fastvideo_port.parity.trace import Trace
from wan_pair import Geometry, WanPair

say = sys.stdout.write
SWAPPED = (
    "self.norm1(hidden_states.float()) * (1 + scale_msa) + shift_msa",
    "self.norm1(hidden_states.float()) * (1 + shift_msa) + scale_msa",
)
"""A mistake in FastVideo's block, so every block has it."""
HARMLESS = ("hidden_states.float()) * (1 + scale_msa)", "hidden_states.float()) * (scale_msa + 1)")
_LIMIT = 1.15

_ALONE = """
import importlib.util, json, os, sys
sys.path[0] = os.getcwd()
spec = json.loads(sys.argv[1])
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[2], RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
from pathlib import Path
from types import SimpleNamespace
import torch
torch.set_num_threads(spec["threads"])
if "cpu-attention" in spec["patches"]:
    from fastvideo.platforms.cpu import CpuPlatform
    CpuPlatform.get_attn_backend_cls = classmethod(lambda *a, **k: "fastvideo.attention.backends.sdpa.SDPABackend")
found = importlib.util.spec_from_file_location("adapter", spec["adapter"])
adapter = importlib.util.module_from_spec(found)
found.loader.exec_module(adapter)
for dtype in spec["dtypes"]:
    model = None
    for case in spec["cases"]:
        for seed in spec["seeds"]:
            ctx = SimpleNamespace(device=torch.device(spec["device"]), dtype=getattr(torch, dtype), seed=seed,
                                  case=adapter.CASES[case], official_weights=Path(spec["official_weights"]))
            model = model or adapter.load_port(ctx)
            with torch.no_grad():
                adapter.call_port(model, adapter.make_inputs(ctx), ctx)
    if spec["device"] != "cpu":
        torch.cuda.synchronize()
"""


def fit(depths: list[int], values: list[float]) -> tuple[float, float, float]:
    """Least squares line: its value at depth 0, its slope, the largest relative deviation of a value from it."""
    slope, base = np.polyfit(depths, values, 1)
    worst = max(abs(value / (base + slope * depth) - 1) for depth, value in zip(depths, values, strict=True))
    return float(base), float(slope), float(worst)


def one_depth(options: argparse.Namespace, work: Path) -> None:
    """Print the cost of one comparison at ``options.one`` blocks as JSON; alone in a process, so that peaks are its."""
    pair = WanPair(work, options.fastvideo, options.python, options.device)
    pair.write_weights(Geometry(options.one))
    if options.job == "locate":
        pair.edit(*SWAPPED)
    before = wan_pair.children_cost()[0]
    value, seconds = pair.run("locate" if options.job == "locate" else "component_parity", pair.spec())
    cpu, memory = wan_pair.children_cost()
    culprit = value["culprit"]
    say(
        json.dumps(
            {
                "verdict": value["verdict"],
                "culprit": f"{culprit['module']}, line {culprit['line']}" if culprit else "",
                "wall": seconds,
                "cpu": cpu - before,
                "memory": memory,
            }
        )
    )


def depth(options: argparse.Namespace) -> None:
    """Table of cost by depth."""
    names = (("wall", "s"), ("cpu", "CPU s"), ("memory", "MiB"))
    for job, title in (("parity", "component comparison, correct port"), ("locate", "search, every block wrong")):
        say(f"\n{title}, {Geometry(1).num_attention_heads * Geometry(1).attention_head_dim} wide\n")
        say(f"{'blocks':>8}{'s':>9}{'CPU s':>9}{'MiB':>9}  verdict\n")
        rows = []
        for layers in options.depths:
            command = [sys.executable, __file__, "--one", str(layers), "--job", job, "--device", options.device]
            command += ["--fastvideo", str(options.fastvideo), "--python", options.python]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            cost = f"{row['wall']:9.1f}{row['cpu']:9.1f}{row['memory']:9.0f}"
            say(f"{layers:8}{cost}  {row['verdict']} {row['culprit']}\n")
            sys.stdout.flush()
        for name, unit in names:
            base, slope, worst = fit(options.depths, [row[name] for row in rows])
            say(f"{unit:>8} = {base:.1f} + {slope:.3f} per block, largest deviation {worst:.1%}\n")


def again(options: argparse.Namespace, work: Path) -> None:
    """Ratio of the second attempt to the port's own import, load and forward."""
    pair = WanPair(work, options.fastvideo, options.python, options.device)
    pair.write_weights(wan_pair.wan_1_3b(options.layers))
    spec = pair.spec(cases=options.cases, reference_cache=str(work / "references"))
    first, first_s = pair.run("component_parity", spec)
    spec["trusted_references"] = [first["reference"]["digest"]]
    attempts, alone, cpu = [], [], [wan_pair.children_cost()[0]]
    for number in range(options.repeats):
        old, new = HARMLESS if number % 2 == 0 else HARMLESS[::-1]
        pair.edit(old, new)
        value, seconds = pair.run("component_parity", spec)
        if not value["reference"]["reused"]:
            raise SystemExit("the official side ran again")
        attempts.append(seconds)
        cpu.append(wan_pair.children_cost()[0])
        began = time.perf_counter()
        command = [options.python, "-c", _ALONE, json.dumps(spec), str(29500 + number)]
        subprocess.run(command, cwd=pair.worktree, check=True, capture_output=True)
        alone.append(time.perf_counter() - began)
        cpu.append(wan_pair.children_cost()[0])
    second, own = statistics.median(attempts), statistics.median(alone)
    spent = np.diff(cpu)
    second_cpu, own_cpu = statistics.median(spent[0::2]), statistics.median(spent[1::2])
    say(f"\nsecond attempt after a one-line edit, {options.layers} blocks, cases {', '.join(options.cases)}\n")
    say(f"first attempt                        {first_s:8.1f} s  {first['verdict']}\n")
    kept = f"{value['verdict']}, {value['timings']}"
    say(f"second attempt, official side kept   {second:8.1f} s {second_cpu:8.1f} CPU s  {kept}\n")
    say(f"the port's import, load and forward  {own:8.1f} s {own_cpu:8.1f} CPU s\n")
    say(f"ratio {second / own:.2f}, of CPU seconds {second_cpu / own_cpu:.2f} (at most {_LIMIT})\n")


def side(options: argparse.Namespace, work: Path, name: str, **spec: Any) -> dict[str, Any]:
    """Build and trace one side of the 14B pair in a process of its own."""
    spec = {
        "side": name,
        "fastvideo": str(options.fastvideo.resolve()),
        "geometry": asdict(wan_pair.wan_14b(options.blocks_14b)),
        "shape": [1, 16, 2, 8, 12],
        "text": [1, 16, 4096],
        "trace": str(work / f"{name}.trace"),
        **spec,
    }
    command = [options.python, str(Path(__file__).with_name("wan_side.py")), json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def compare_14b(work: Path, official: dict[str, Any], port: dict[str, Any], values: bool) -> None:
    """What names, shapes and traces of the two sides say of each other."""
    planned = plan(port["rules"], official["tensors"])
    links, wrong = [], []
    for target, sources in planned.targets.items():
        for source in sources:
            links.append(Link(source.name, target, None, "rule"))
            if port["tensors"].get(target) != official["tensors"][source.name]:
                wrong.append(source.name)
    missing = set(port["tensors"]) - set(planned.targets)
    say(f"names and shapes: {len(links)} tensors, {len(wrong)} of another shape or nowhere, {len(missing)} missing\n")
    mine, theirs = (Trace.load(work / f"{name}.trace") for name in ("port", "official"))
    began = time.perf_counter()
    pairs = pair_modules(links, mine, theirs, {})
    seconds = time.perf_counter() - began
    found = coverage(pairs, mine)
    say(f"trace: {len(theirs.calls)} official calls, {len(mine.calls)} of the port\n")
    say(f"pairing: {found['paired']} of {found['modules']} called modules in {seconds:.2f} s, {found['how']}\n")
    calls = {(call.module, call.occurrence): call for call in theirs.calls}
    sizes, gaps = [], []
    for call in mine.calls:
        pair = pairs.get(call.module)
        other = calls.get((pair.official, call.occurrence)) if pair else None
        if other is None or len(call.outputs) != len(other.outputs) or not call.outputs:
            continue
        a, b = mine.tensors[call.outputs[0][1]], theirs.tensors[other.outputs[0][1]]
        sizes.append(a.elements == b.elements)
        if values and a.elements == b.elements > 1:
            gaps.append(sketch_distance(a, b))
    say(f"paired outputs: {sum(sizes)} of {len(sizes)} have equally many elements\n")
    if values:
        say(f"their distance in bfloat16: median {statistics.median(gaps):.1e}, largest {max(gaps):.1e}\n")


def meta(options: argparse.Namespace, work: Path) -> None:
    """Wan 14B without values, then with them if asked."""
    work.mkdir()
    say(f"\nWan 14B, {options.blocks_14b} blocks, 5120 wide, tensors without values\n")
    sides = {name: side(options, work, name, device="cpu", dtype="float32", fake=True) for name in ("official", "port")}
    _costs(sides)
    compare_14b(work, sides["official"], sides["port"], values=False)
    if not options.full_14b:
        return
    say(f"\nWan 14B, {options.blocks_14b} blocks, 5120 wide, bfloat16 on {options.device}, each side alone\n")
    names = list(sides["official"]["tensors"])
    full = {
        name: side(options, work, name, device=options.device, dtype="bfloat16", fake=False, official_names=names)
        for name in ("official", "port")
    }
    _costs(full)
    compare_14b(work, full["official"], full["port"], values=True)


def _costs(sides: dict[str, dict[str, Any]]) -> None:
    say(f"{'':10}{'model GiB':>11}{'device GiB':>12}{'host GiB':>10}{'build s':>9}{'trace s':>9}\n")
    for name, row in sides.items():
        size, device, host = row["bytes"] / 2**30, row["device_mib"] / 1024, row["host_mib"] / 1024
        say(f"{name:10}{size:11.2f}{device:12.2f}{host:10.2f}{row['build_s']:9.1f}{row['trace_s']:9.2f}\n")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fastvideo", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable, help="interpreter with FastVideo's requirements")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", nargs="+", default=["depth", "again", "meta"], choices=["depth", "again", "meta"])
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 5, 10, 20, 40, 60])
    parser.add_argument("--layers", type=int, default=4, help="blocks of `again`, of Wan 1.3B's width")
    parser.add_argument("--cases", nargs="+", default=["small"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full-14b", action="store_true", help="28 GB on the device, one side after the other")
    parser.add_argument("--blocks-14b", type=int, default=40)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.one:
            one_depth(options, Path(name))
            return
        if "depth" in options.parts:
            depth(options)
        if "again" in options.parts:
            again(options, Path(name) / "again")
        if "meta" in options.parts:
            meta(options, Path(name) / "meta")


if __name__ == "__main__":
    main()
