"""Write a small official Wan checkpoint in Diffusers layout. Runs in FastVideo's interpreter, as a script.

    python checkpoint.py FOLDER [SEED]

``FOLDER`` gets ``model_index.json`` and ``transformer/`` (config, index, three safetensors shards). The weights are not
what a fresh model holds: norms are not ones, biases not zeros, modulation tables are filled, and attention is
far from uniform. Otherwise half of the mistakes that a port can contain would not show.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from torch import nn

# Heads of 32 give the three RoPE axes unequal shares (12, 10, 10), so that no two can be exchanged unseen.
CONFIG = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 48,
    "freq_dim": 64,
    "ffn_dim": 256,
    "num_layers": 2,
}
_SHARD = "800KB"


def fill(model: nn.Module, seed: int) -> None:
    """Overwrite every parameter of ``model`` with seeded values, in name order.

    Norm weights lie around one, those of queries and keys around 1.5, all other vectors around zero (standard deviation
    0.2). Matrices get ``1 / sqrt(fan_in)``. Queries and keys get half of that: their RMSNorm takes the scale out again,
    and before it a variance below one shows an epsilon as real checkpoints do.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=rng)
            parameter.copy_(_centre(name, parameter) + noise * _spread(name, parameter))


def _centre(name: str, parameter: torch.Tensor) -> float:
    if parameter.dim() == 1 and "norm" in name and name.endswith(".weight"):
        return 1.5 if "norm_q" in name or "norm_k" in name else 1.0
    return 0.0


def _spread(name: str, parameter: torch.Tensor) -> float:
    if parameter.dim() == 1:
        return 0.2
    if "scale_shift_table" in name:
        return 0.5
    gain = 0.5 if ".to_q." in name or ".to_k." in name else 1.0
    return gain / math.sqrt(math.prod(parameter.shape[1:]))


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint into ``folder`` (made if absent) and return it."""
    import diffusers

    model = diffusers.WanTransformer3DModel(**CONFIG)
    fill(model, seed)
    model.save_pretrained(folder / "transformer", max_shard_size=_SHARD)
    index = {
        "_class_name": "WanPipeline",
        "_diffusers_version": diffusers.__version__,
        "transformer": ["diffusers", "WanTransformer3DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    write_checkpoint(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
