"""The real Wan DiT pair for benches: FastVideo's worktree, an adapter, a seeded checkpoint of any geometry."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastvideo_port.parity.children import Child

ROOT = Path(__file__).resolve().parent.parent
BLOCK = "fastvideo/models/dits/wanvideo.py"
_480P = '\nCASES["480p"] = {"batch": 1, "frames": 21, "height": 60, "width": 104, "text": 512}\n'

_BUILD = """
import json, sys, torch
from diffusers import WanTransformer3DModel
torch.manual_seed(0)
with torch.device(sys.argv[3]):
    model = WanTransformer3DModel(**json.loads(sys.argv[2]))
with torch.no_grad():
    for name, value in model.named_parameters():
        if value.ndim == 1:
            value.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
        elif "scale_shift_table" in name:
            value.normal_(0.0, 0.5)
        else:
            value.normal_(0.0, float(sys.argv[4]) / value[0].numel() ** 0.5)
model.save_pretrained(sys.argv[1])
print(sum(p.numel() for p in model.parameters()))
"""


@dataclass(frozen=True)
class Geometry:
    """Arguments of diffusers' WanTransformer3DModel; the width is heads times head size."""

    num_layers: int
    num_attention_heads: int = 2
    attention_head_dim: int = 32
    ffn_dim: int = 128
    in_channels: int = 4
    out_channels: int = 4
    text_dim: int = 48
    freq_dim: int = 32


def wan_1_3b(layers: int = 30) -> Geometry:
    """Wan2.1-T2V-1.3B: 30 blocks, 1536 wide."""
    return Geometry(layers, 12, 128, 8960, 16, 16, 4096, 256)


def wan_14b(layers: int = 40) -> Geometry:
    """Wan2.1-T2V-14B: 40 blocks, 5120 wide."""
    return Geometry(layers, 40, 128, 13824, 16, 16, 4096, 256)


class WanPair:
    """One pair in a folder.

    Attributes:
        folder: Holds ``worktree``, ``weights``, ``references`` and the runs.
        python: Interpreter with what FastVideo and diffusers need.
    """

    def __init__(self, folder: Path, fastvideo: Path, python: str, device: str) -> None:
        self.folder, self.python, self.device = folder, python, device
        self.worktree = folder / "worktree"
        shutil.copytree(fastvideo / "fastvideo", self.worktree / "fastvideo")
        self.adapter = self.worktree / "parity_transformer.py"
        self.adapter.write_text((ROOT / "prompts" / "adapters" / "wan_dit.py").read_text() + _480P)
        self._runs = 0

    def write_weights(self, geometry: Geometry, gain: float = 1.0) -> int:
        """Write the seeded checkpoint in Diffusers layout, matrices with ``gain`` over the root of their inputs.

        Returns:
            Number of parameters.
        """
        target = str(self.folder / "weights" / "transformer")
        done = subprocess.run(
            [self.python, "-c", _BUILD, target, json.dumps(asdict(geometry)), self.device, str(gain)],
            check=True,
            capture_output=True,
            text=True,
        )
        return int(done.stdout.split()[-1])

    def edit(self, old: str, new: str, file: str = BLOCK) -> None:
        """Change one line of the port, as an agent does: the first that holds ``old``.

        Raises:
            ValueError: The old text is not there.
        """
        path = self.worktree / file
        text = path.read_text()
        if old not in text:
            raise ValueError(f"{old!r} does not stand in {file}")
        path.write_text(text.replace(old, new, 1))

    def spec(self, **changes: Any) -> dict[str, Any]:
        """What the engine's jobs take; one case, one seed and both dtypes unless ``changes`` say otherwise."""
        return {
            "adapter": str(self.adapter),
            "worktree": str(self.worktree),
            "official_repo": None,
            "official_weights": str(self.folder / "weights"),
            "converted_weights": None,
            "python": self.python,
            "official_python": None,
            "cases": ["small"],
            "seeds": [0],
            "dtypes": ["float32", "bfloat16"],
            "device": self.device,
            "patches": ["cpu-attention"] if self.device == "cpu" else [],
            "threads": 1,
            "trials": True,
            "reference_cache": None,
            "trusted_references": [],
            **changes,
        }

    def run(self, job: str, spec: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """Run a job in a process of its own, as the server does; its value and the seconds from start to end."""
        self._runs += 1
        began = time.perf_counter()
        child = Child(self.python, job, self.folder / f"run {self._runs}", spec, self.worktree)
        value = child.value()
        return value, time.perf_counter() - began


def children_cost() -> tuple[float, float]:
    """CPU seconds of all ended descendants, and the peak memory of the largest of them in MiB."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
