"""Wan DiT at the real 1.3B geometry, seeded weights, 480p latents: `python bench/wan_480p.py --fastvideo FOLDER`.

Runs the whole component comparison (official diffusers model, FastVideo's port, both from one checkpoint) on a small
input and on 480p latents (1, 16, 21, 60, 104) with 512 text tokens, in float32 and bfloat16. Prints what the verdict
rests on and how long the two sides took.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from fastvideo_port.parity.component_job import component_parity
from fastvideo_port.parity.job import Job
from wan_pair import WanPair, wan_1_3b

LAYERS, GAIN = 30, 1.5
ADAPTER = "parity_transformer.py"


def main() -> None:
    """Build the checkpoint, run the comparison, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fastvideo", type=Path, required=True, help="a checkout or an unpacked wheel")
    parser.add_argument("--python", default=sys.executable, help="interpreter with FastVideo's requirements")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--cases", nargs="+", default=["small", "480p"])
    parser.add_argument("--align-backends", action="store_true", help="both sides on torch's math attention")
    parser.add_argument(
        "--all-bfloat16", action="store_true", help="the official side too, without diffusers' float32 modules"
    )
    options = parser.parse_args()
    write = sys.stdout.write
    with tempfile.TemporaryDirectory() as name:
        pair = WanPair(Path(name), options.fastvideo, options.python, options.device)
        parameters = pair.write_weights(wan_1_3b(options.layers), GAIN)
        write(f"{parameters / 1e9:.2f} billion parameters, {options.layers} blocks\n")
        if options.all_bfloat16:
            pair.edit(
                "torch_dtype=ctx.dtype).to(ctx.device)", "torch_dtype=ctx.dtype).to(ctx.device, ctx.dtype)", ADAPTER
            )
        spec = pair.spec(cases=options.cases, threads=4, trials=False, align_backends=options.align_backends)
        run = Path(name) / "run"
        run.mkdir()
        value = component_parity(spec, Job(run))
    write(f"verdict {value['verdict']}, reference {value['reference']['kind']}: {value['reference']['why']}\n")
    write(f"{value['pairing']['paired']} of {value['pairing']['modules']} called modules paired, {value['timings']}\n")
    write(f"{'case':8} {'logic':>8} {'boundary':>9} {'bf16':>8} {'max |d| fp32':>13} {'bf16 beyond 1e-4':>17}\n")
    for case in value["cases"]:
        row = case["precision"]["bfloat16"]
        worst = case["worst_boundary"]["ratio"] if case.get("worst_boundary") else float("nan")
        write(
            f"{case['case']:8} {case['logic_ratio']:8.3f} {worst:9.2f} {case['precision_ratio']:8.3f} "
            f"{case['max_abs']:13.2e} {row['outside_strict']:16.1%}\n"
        )
        write(f"         bf16 error: port {row['port_error']:.3%}, official {row['reference_error']:.3%}\n")
    for finding in value["findings"]:
        write(f"{finding['verdict']:12} {finding['code']}: {finding['message'][:300]}\n")
    write(f"attention: {value['attention_backends']}\n")


if __name__ == "__main__":
    main()
