"""Write a small official Wan checkpoint in Diffusers layout. Runs in FastVideo's interpreter, as a script.

    python checkpoint.py FOLDER [SEED] [GEOMETRY]

``FOLDER`` gets what the published text-to-video checkpoints hold: ``model_index.json``, ``transformer`` (three
safetensors shards), ``vae``, ``text_encoder``, ``tokenizer`` and ``scheduler``. The weights are not what a fresh model
holds: norms are not ones, biases not zeros, modulation tables are filled, and attention is far from uniform. Otherwise
half of the mistakes that a port can contain would not show. ``GEOMETRY`` is JSON of a `Geometry`.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Heads of 32 give the three RoPE axes unequal shares (12, 10, 10), so that no two can be exchanged unseen.
TRANSFORMER = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 48,
    "freq_dim": 64,
    "ffn_dim": 256,
    "num_layers": 2,
}
# All stages of the real one, a twelfth as wide.
VAE = {
    "base_dim": 8,
    "z_dim": 4,
    "num_res_blocks": 1,
    "latents_mean": [-0.7571, 0.1075, 0.9653, -0.1517],
    "latents_std": [2.8184, 1.4541, 2.3275, 1.2196],
}
# The inner width (4 x 20) differs from the model's (48), so that a transpose cannot hide.
TEXT_ENCODER = {
    "vocab_size": 120,
    "d_model": 48,
    "d_kv": 20,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
}
# Wan's settings for 480p; only names that the published file holds, because FastVideo's loader refuses newer ones.
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "num_train_timesteps": 1000,
    "solver_order": 2,
    "prediction_type": "flow_prediction",
    "flow_shift": 3.0,
    "use_flow_sigmas": True,
    "solver_type": "bh2",
    "predict_x0": True,
    "lower_order_final": True,
    "timestep_spacing": "linspace",
    "final_sigmas_type": "zero",
}
WORDS = (
    *("a", "red", "fox", "runs", "over", "the", "snow", "two", "birds", "fly", "slow", "camera"),
    *("blurred", "low", "quality", "static"),
)
_TABLES = ("shared.weight", "relative_attention_bias.weight")


@dataclass(frozen=True)
class Geometry:
    """Arguments of the three classes, and the largest shard of the transformer."""

    transformer: dict[str, Any] = field(default_factory=lambda: dict(TRANSFORMER))
    vae: dict[str, Any] = field(default_factory=lambda: dict(VAE))
    text_encoder: dict[str, Any] = field(default_factory=lambda: dict(TEXT_ENCODER))
    shard: str = "800KB"


def fill(model: nn.Module, seed: int) -> None:
    """Overwrite every parameter of ``model`` with seeded values, in name order.

    Norm weights lie around one, those of queries and keys around 1.5, all other vectors around zero (standard deviation
    0.2). Matrices get ``1 / sqrt(fan_in)``, tables of embeddings one. Queries and keys get half of that: in the
    transformer their RMSNorm takes the scale out again, and before it a variance below one shows an epsilon as real
    checkpoints do.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=rng)
            parameter.copy_(_centre(name, parameter) + noise * _spread(name, parameter))


def _centre(name: str, parameter: torch.Tensor) -> float:
    if name.endswith(".gamma"):
        return 1.0
    if parameter.dim() == 1 and "norm" in name and name.endswith(".weight"):
        return 1.5 if "norm_q" in name or "norm_k" in name else 1.0
    return 0.0


def _spread(name: str, parameter: torch.Tensor) -> float:
    if parameter.dim() == 1 or name.endswith(".gamma"):
        return 0.2
    if name.endswith(_TABLES):
        return 1.0
    if "scale_shift_table" in name:
        return 0.5
    gain = 0.5 if any(part in name for part in (".to_q.", ".to_k.", ".q.", ".k.")) else 1.0
    return gain / math.sqrt(math.prod(parameter.shape[1:]))


def write_checkpoint(folder: Path, seed: int = 0, geometry: Geometry | None = None) -> Path:
    """Write the checkpoint into ``folder`` (made if absent) and return it; without ``geometry`` the small one."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    sizes = geometry or Geometry()
    transformer = WanTransformer3DModel(**sizes.transformer)
    fill(transformer, seed)
    transformer.save_pretrained(folder / "transformer", max_shard_size=sizes.shard)
    vae = AutoencoderKLWan(**sizes.vae)
    fill(vae, seed + 1)
    with torch.no_grad():  # a small last layer, so that the clamp behind it hides nothing
        vae.decoder.conv_out.weight.mul_(0.2)
        vae.decoder.conv_out.bias.mul_(0.5)
    vae.save_pretrained(folder / "vae")
    encoder = UMT5EncoderModel(UMT5Config(**sizes.text_encoder))
    fill(encoder, seed + 2)
    encoder.save_pretrained(folder / "text_encoder")
    _write_tokenizer(folder / "tokenizer")
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    index = {
        "_class_name": "WanPipeline",
        "_diffusers_version": "0.33.0",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    _write_json(folder / "model_index.json", index)
    return folder


def _write_tokenizer(folder: Path) -> None:
    """One id a word, the end token after the last; 0 pads."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{word: n + 3 for n, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> None:
    """See the module."""
    seed = int(arguments[1]) if len(arguments) > 1 else 0
    geometry = Geometry(**json.loads(arguments[2])) if len(arguments) > 2 else None
    write_checkpoint(Path(arguments[0]), seed, geometry)


if __name__ == "__main__":
    main(sys.argv[1:])
