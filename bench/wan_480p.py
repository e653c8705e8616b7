"""Wan DiT at the real 1.3B geometry, seeded weights, 480p latents: `python bench/wan_480p.py --fastvideo FOLDER`.

Runs the whole component comparison (official diffusers model, FastVideo's port, both from one checkpoint) on a small
input, where the reference is float64, and on 480p latents (1, 16, 21, 60, 104) with 512 text tokens, where it is
float32; in float32 and bfloat16. Prints what the verdict rests on and how long the two sides took.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fastvideo_port.parity.component_job import component_parity
from fastvideo_port.parity.job import Job

ROOT = Path(__file__).resolve().parent.parent
LAYERS = 30
CASES = (
    '\nCASES = {"small": {"batch": 1, "frames": 2, "height": 8, "width": 12, "text": 16}, '
    '"480p": {"batch": 1, "frames": 21, "height": 60, "width": 104, "text": 512}}\n'
)
_BUILD = """
import sys, torch
from diffusers import WanTransformer3DModel
torch.manual_seed(0)
with torch.device(sys.argv[3]):
    model = WanTransformer3DModel(num_layers=int(sys.argv[2]), num_attention_heads=12, ffn_dim=8960)
with torch.no_grad():
    for name, value in model.named_parameters():
        if value.ndim == 1:
            value.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
        elif "scale_shift_table" in name:
            value.normal_(0.0, 0.5)
        else:
            value.normal_(0.0, 1.5 / value[0].numel() ** 0.5)
model.save_pretrained(sys.argv[1])
print(sum(p.numel() for p in model.parameters()))
"""


def main() -> None:
    """Build the checkpoint, run the comparison, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fastvideo", type=Path, required=True, help="a checkout or an unpacked wheel")
    parser.add_argument("--python", default=sys.executable, help="interpreter with FastVideo's requirements")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--cases", nargs="+", default=["small", "480p"])
    parser.add_argument("--align-backends", action="store_true", help="both sides on torch's math attention")
    options = parser.parse_args()
    write = sys.stdout.write
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        worktree, run = work / "worktree", work / "run"
        run.mkdir()
        shutil.copytree(options.fastvideo / "fastvideo", worktree / "fastvideo")
        adapter = worktree / "parity_transformer.py"
        adapter.write_text((ROOT / "prompts" / "adapters" / "wan_dit.py").read_text() + CASES)
        command = [options.python, "-c", _BUILD, str(work / "weights" / "transformer"), str(options.layers)]
        built = subprocess.run([*command, options.device], capture_output=True, text=True, check=True)
        write(f"{int(built.stdout.split()[-1]) / 1e9:.2f} billion parameters, {options.layers} blocks\n")
        spec: dict[str, Any] = {
            "adapter": str(adapter),
            "worktree": str(worktree),
            "official_repo": None,
            "official_weights": str(work / "weights"),
            "converted_weights": None,
            "python": options.python,
            "official_python": None,
            "cases": options.cases,
            "seeds": [0],
            "dtypes": ["float32", "bfloat16"],
            "device": options.device,
            "patches": ["cpu-attention"] if options.device == "cpu" else [],
            "threads": 4,
            "align_backends": options.align_backends,
        }
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
