"""Small seeded official checkpoints in the layout that the loaders expect. Runs in FastVideo's interpreter.

    python tests/pairs/build_weights.py PAIR FOLDER [SEED]

Weights are not what a fresh model would hold: norms are not ones, biases not zeros, heads and gates that start at zero
are filled, and projections are large enough that attention is far from uniform. Otherwise half of the mistakes that a
port can contain would not show.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)

QUERIES_AND_KEYS = (".to_q.", ".to_k.", ".add_q_proj.", ".add_k_proj.", ".q.", ".k.", ".q_proj.", ".k_proj.")
TABLES = ("shared.weight", "token_embedding.weight", "position_embedding.weight", "relative_attention_bias.weight")
_PUBLISHED = (
    "_class_name",
    "num_train_timesteps",
    "solver_order",
    "prediction_type",
    "flow_shift",
    "use_flow_sigmas",
    "solver_type",
    "predict_x0",
    "lower_order_final",
    "timestep_spacing",
    "final_sigmas_type",
)
_T5 = {
    "vocab_size": 120,
    "d_model": 64,
    "d_kv": 24,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
}


def fill(model: ModelT, seed: int, attention: float = 1.5) -> ModelT:
    """Overwrite every floating-point parameter of ``model`` with seeded values, in name order.

    Matrices get a standard deviation of ``1 / sqrt(fan_in)``, times ``attention`` for queries and keys, so that logits
    spread over several units; vectors that multiply (norm weights) lie around one, all other vectors around zero.
    """
    rng = torch.Generator().manual_seed(seed)
    norms = {f"{name}.weight" for name, module in model.named_modules() if "norm" in type(module).__name__.lower()}
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            mean = 1.0 if name in norms or name.endswith(".gamma") else 0.0
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float32)
            parameter.copy_(noise * _spread(name, parameter, attention) + mean)
    return model


def _spread(name: str, parameter: torch.Tensor, attention: float) -> float:
    if parameter.dim() == 1 or name.endswith(".gamma"):
        return 0.2
    if name.endswith(TABLES):
        return 1.0
    if "scale_shift_table" in name:
        return 0.5
    factor = attention if any(part in name for part in QUERIES_AND_KEYS) else 1.0
    return factor / math.sqrt(math.prod(parameter.shape[1:]))


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


def wan_vae(folder: Path, seed: int) -> None:
    """All stages of the real one, a twelfth as wide; the last layer is small, so that the clamp hides nothing."""
    from diffusers import AutoencoderKLWan

    model = AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        num_res_blocks=1,
        latents_mean=[-0.7571, 0.1075, 0.9653, -0.1517],
        latents_std=[2.8184, 1.4541, 2.3275, 1.2196],
    )
    fill(model, seed)
    with torch.no_grad():
        model.decoder.conv_out.weight.mul_(0.2)
        model.decoder.conv_out.bias.mul_(0.5)
    model.save_pretrained(folder / "vae")


def umt5(folder: Path, seed: int) -> None:
    """Two layers; the inner width (4 x 24) differs from the model's (64), so that a transpose cannot hide."""
    from transformers import UMT5Config, UMT5EncoderModel

    fill(UMT5EncoderModel(UMT5Config(**_T5)), seed, attention=0.5).save_pretrained(folder / "text_encoder")


def t5(folder: Path, seed: int) -> None:
    """As ``umt5``; the second layer reuses the first one's position bias."""
    from transformers import T5Config, T5EncoderModel

    fill(T5EncoderModel(T5Config(**_T5)), seed, attention=0.5).save_pretrained(folder / "text_encoder")


def clip_text(folder: Path, seed: int) -> None:
    """Two layers; the end token also pads."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=100,
        hidden_size=64,
        intermediate_size=128,
        projection_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=98,
        eos_token_id=99,
        pad_token_id=99,
    )
    _save_with_prefix(fill(CLIPTextModel(config), seed), folder / "text_encoder", "text_model.")


def clip_vision(folder: Path, seed: int) -> None:
    """Three layers, of which two are used; 5 x 5 patches and the class token."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        projection_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=40,
        patch_size=8,
    )
    _save_with_prefix(fill(CLIPVisionModel(config), seed), folder / "image_encoder", "vision_model.")


def hunyuanvideo_dit(folder: Path, seed: int) -> None:
    """Two double and two single blocks behind two refiner blocks; RoPE axes of 4, 8 and 12."""
    from diffusers import HunyuanVideoTransformer3DModel

    model = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=24,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=2,
        mlp_ratio=2.0,
        text_embed_dim=40,
        pooled_projection_dim=28,
        rope_axes_dim=(4, 8, 12),
    )
    fill(model, seed).save_pretrained(folder / "transformer", max_shard_size="1500KB")


def flow_match_euler(folder: Path, seed: int) -> None:
    """A shift that is not one; nothing is random."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")


def flow_unipc(folder: Path, seed: int) -> None:
    """Wan's 480p settings; nothing is random."""
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.save_pretrained(folder / "scheduler")


def wan_pipeline(folder: Path, seed: int) -> None:
    """A whole text-to-video pipeline: one block, the small VAE and encoder of the other pairs, a tokenizer of words."""
    import json

    from diffusers import WanTransformer3DModel

    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=4,
        out_channels=4,
        text_dim=_T5["d_model"],
        freq_dim=32,
        ffn_dim=96,
        num_layers=1,
    )
    fill(transformer, seed).save_pretrained(folder / "transformer")
    wan_vae(folder, seed + 1)
    umt5(folder, seed + 2)
    flow_unipc(folder, seed)
    _word_tokenizer(folder / "tokenizer")
    # Only what the published checkpoints hold: FastVideo's loader refuses names that newer diffusers adds.
    file = folder / "scheduler" / "scheduler_config.json"
    config = {name: value for name, value in json.loads(file.read_text()).items() if name in _PUBLISHED}
    file.write_text(json.dumps(config))
    index = {
        "_class_name": "WanPipeline",
        "_diffusers_version": "0.33.0",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def _word_tokenizer(folder: Path) -> None:
    """One id a word, the end token after the last, 0 pads."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ("a", "red", "fox", "runs", "over", "the", "snow", "blurred", "low", "quality", "static", "two", "birds")
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{word: i + 3 for i, word in enumerate(dict.fromkeys(words))}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)


def _save_with_prefix(model: Any, folder: Path, prefix: str) -> None:
    """Save as files on the hub are: with the level of the module tree that newer transformers dropped."""
    from safetensors.torch import load_file, save_file

    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = {name if name.startswith(prefix) else prefix + name: value for name, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


BUILDERS: dict[str, Callable[[Path, int], None]] = {
    builder.__name__: builder
    for builder in (
        wan_dit,
        wan_vae,
        umt5,
        t5,
        clip_text,
        clip_vision,
        hunyuanvideo_dit,
        flow_match_euler,
        flow_unipc,
        wan_pipeline,
    )
}


def build(pair: str, folder: Path, seed: int = 0) -> Path:
    """Write the small official checkpoint of ``pair`` below ``folder`` and return ``folder``.

    Raises:
        KeyError: ``pair`` is not one of ``BUILDERS``.
    """
    BUILDERS[pair](folder, seed)
    return folder


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
