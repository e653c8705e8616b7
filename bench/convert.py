"""Convert a generated checkpoint by rules and tell time and peak anonymous memory.

    python bench/convert.py [GIGABYTES] [FOLDER]

The checkpoint is a monolithic bfloat16 one with fused qkv (split), a transposed projection and a large embedding
(cast); its values are seeded noise. Anonymous memory (RssAnon) is what cannot be dropped; memory-mapped files can.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from fastvideo_port.parity.convert_job import convert_weights
from fastvideo_port.parity.job import Job

WIDTH, EMBEDDING = 4096, (65536, 4096)


def generate(path: Path, gigabytes: float) -> tuple[int, int]:
    """Write the checkpoint without holding it; bytes of all tensors and of the largest."""
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": EMBEDDING}
    number = 0
    while sum(int(np.prod(shape)) * 2 for shape in shapes.values()) < gigabytes * 1e9:
        shapes[f"model.blocks.{number}.qkv.weight"] = (3 * WIDTH, WIDTH)
        shapes[f"model.blocks.{number}.qkv.bias"] = (3 * WIDTH,)
        shapes[f"model.blocks.{number}.proj.weight"] = (WIDTH, WIDTH)
        shapes[f"model.blocks.{number}.norm.weight"] = (WIDTH,)
        number += 1
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * 2
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32)
    block = (noise.view(np.uint32) >> 16).astype(np.uint16)
    drawn = 0
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:
                count = min(left, len(block))
                # other low bits for each block, so that no two tensors are alike
                file.write((block[:count] ^ np.uint16(drawn % 128)).tobytes())
                left -= count
                drawn += 1
    return offset, max(int(np.prod(shape)) * 2 for shape in shapes.values())


RULES = [
    {"match": r"model\.blocks\.(\d+)\.qkv\.(\w+)", "to": [rf"transformer/blocks.\1.to_{part}.\2" for part in "qkv"]},
    {"match": r"model\.blocks\.(\d+)\.proj\.weight", "to": r"transformer/blocks.\1.out.weight", "transpose": [0, 1]},
    {"match": r"model\.(.*)", "to": r"transformer/\1"},
    {"match": r"embed\.weight", "to": "text_encoder/embed.weight", "cast": "float32"},
]


class Peak(threading.Thread):
    """The most anonymous memory that this process held, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.005):
            self.most = max(self.most, anonymous())


def anonymous() -> int:
    """RssAnon of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    folder = Path(tempfile.mkdtemp(dir=sys.argv[2] if len(sys.argv) > 2 else None))
    try:
        (folder / "source").mkdir()
        (folder / "run").mkdir()
        total, largest = generate(folder / "source" / "model.safetensors", gigabytes)
        before = anonymous()
        peak = Peak()
        peak.start()
        begun = time.monotonic()
        value = convert_weights(
            {
                "source": str(folder / "source"),
                "target": str(folder / "converted_weights" / "m"),
                "worktree": str(folder),
                "rules": RULES,
                "components": {
                    "transformer": {"class": "T", "config": {}},
                    "text_encoder": {"library": "transformers", "class": "E", "config": {}},
                },
                "model_index": {"_class_name": "P"},
            },
            Job(folder / "run"),
        )
        seconds = time.monotonic() - begun
        peak.stop.set()
        row = {
            "verdict": value["verdict"],
            "gigabytes": round(total / 1e9, 2),
            "largest_tensor_mib": round(largest / 2**20),
            "seconds": round(seconds, 1),
            "seconds_per_gigabyte": round(seconds / (total / 1e9), 2),
            "peak_anonymous_mib": round((peak.most - before) / 2**20),
            "peak_over_largest_tensor": round((peak.most - before) / largest, 2),
        }
        sys.stdout.write(json.dumps(row, indent=1) + "\n")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
