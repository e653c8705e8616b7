"""Small seeded official checkpoints in the layout that the loaders expect. Runs in FastVideo's interpreter.

    python tests/pairs/build_weights.py PAIR FOLDER [SEED]

Weights are not what a fresh model would hold: norms are not ones, biases not zeros, heads and gates that start at zero
are filled, and projections are large enough that attention is far from uniform. Otherwise half of the mistakes that a
port can contain would not show.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import nn


def fill(model: nn.Module, seed: int, gain: float = 1.0) -> nn.Module:
    """Overwrite every floating-point parameter of ``model`` with seeded values, in name order.

    Matrices get a standard deviation of ``gain / sqrt(fan_in)`` times two for queries and keys, so that attention
    logits spread over several units; vectors that multiply (norm weights) lie around one, all others around zero.
    """
    rng = torch.Generator().manual_seed(seed)
    norms = {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
    }
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if not parameter.is_floating_point():
                continue
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float32)
            parameter.copy_(noise * _spread(name, parameter, gain) + (1.0 if _multiplies(name, norms) else 0.0))
    return model


def _multiplies(name: str, norms: set[str]) -> bool:
    return name in norms or name.endswith((".gamma", "layer_norm.weight"))


def _spread(name: str, parameter: torch.Tensor, gain: float) -> float:
    if parameter.dim() == 1 or name.endswith(".gamma"):
        return 0.2
    if "relative_attention_bias" in name or "embedding" in name and parameter.dim() == 2 and "proj" not in name:
        return 1.0
    if "scale_shift_table" in name:
        return 0.5
    fan_in = math.prod(parameter.shape[1:])
    queries = any(part in name for part in (".to_q.", ".to_k.", ".q.", ".k.", "q_proj.", "k_proj."))
    return gain * (2.0 if queries else 1.0) / math.sqrt(fan_in)


def wan_dit(folder: Path, seed: int) -> None:
    """Two blocks in three shards; heads of 32, so that the RoPE axes have unequal shares (12, 10, 10)."""
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=4,
        out_channels=4,
        text_dim=48,
        freq_dim=64,
        ffn_dim=256,
        num_layers=2,
    )
    fill(model, seed).save_pretrained(folder / "transformer", max_shard_size="800KB")


BUILDERS = {"wan_dit": wan_dit}


def build(pair: str, folder: Path, seed: int = 0) -> Path:
    """Write the small official checkpoint of ``pair`` below ``folder`` and return ``folder``.

    Raises:
        KeyError: ``pair`` is not one of ``BUILDERS``.
    """
    BUILDERS[pair](folder, seed)
    return folder


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
