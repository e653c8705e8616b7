"""CLIP vision encoder: transformers' CLIPVisionModel (official) against FastVideo's CLIPVisionModel (port).

As image-to-video pipelines use it: the hidden states before the last layer, which FastVideo therefore does not build.
Weights: ``<official_weights>/image_encoder``, with the hub's ``vision_model.`` prefix.
"""

import json
import os

import torch

CASES = {"small": {"batch": 1}, "odd": {"batch": 3}}


def load_official(ctx):
    """The official encoder as its users load it."""
    from transformers import CLIPVisionModel

    folder = ctx.official_weights / "image_encoder"
    return CLIPVisionModel.from_pretrained(folder, dtype=ctx.dtype).to(ctx.device).eval()


def load_port(ctx):
    """The FastVideo encoder with all layers but the last, filled by its own load_weights."""
    os.environ["FASTVIDEO_ATTENTION_BACKEND"] = "TORCH_SDPA"
    from fastvideo.configs.models.encoders import CLIPVisionConfig
    from fastvideo.distributed import maybe_init_distributed_environment_and_model_parallel
    from fastvideo.models.encoders.clip import CLIPVisionModel
    from fastvideo.models.loader.fsdp_load import set_default_dtype
    from fastvideo.models.loader.weight_utils import safetensors_weights_iterator

    maybe_init_distributed_environment_and_model_parallel(1, 1)
    hf_config = _hf_config(ctx)
    config = CLIPVisionConfig(num_hidden_layers_override=hf_config["num_hidden_layers"] - 1)
    config.update_model_arch(hf_config)
    with set_default_dtype(ctx.dtype), ctx.device:
        model = CLIPVisionModel(config)
    files = sorted(str(file) for file in (ctx.official_weights / "image_encoder").glob("*.safetensors"))
    loaded = model.load_weights(safetensors_weights_iterator(files, to_cpu=True))
    missing = {name for name, _ in model.named_parameters()} - loaded
    if missing:
        raise ValueError(f"Weights were not loaded: {sorted(missing)}")
    return model.requires_grad_(False).eval()


def make_inputs(ctx):
    """Normalised pixels (B, 3, S, S), float32, on the CPU; S is the one image size that the model takes."""
    size = _hf_config(ctx)["image_size"]
    rng = torch.Generator().manual_seed(ctx.seed)
    return {"pixels": torch.randn(ctx.case["batch"], 3, size, size, generator=rng)}


def call_official(model, inputs, ctx):
    """Hidden states before the last layer (B, 1 + patches, D)."""
    output = model(pixel_values=inputs["pixels"].to(ctx.device, ctx.dtype), output_hidden_states=True)
    return output.hidden_states[-2]


def call_port(model, inputs, ctx):
    """Hidden states of the last layer that was built (B, 1 + patches, D)."""
    from fastvideo.forward_context import set_forward_context

    with set_forward_context(current_timestep=0, attn_metadata=None):
        return model(inputs["pixels"].to(ctx.device, ctx.dtype)).last_hidden_state


def param_mapping(ctx):
    """What load_weights does, as rules: the projections become rows of qkv_proj."""
    return {
        rf"^(.*)\.self_attn\.{part}_proj\.(.*)$": (r"\1.self_attn.qkv_proj.\2", index, 3)
        for index, part in enumerate("qkv")
    }


def unused(ctx):
    """Official keys that the port leaves out on purpose: the last layer and the norm behind it are not built."""
    last = _hf_config(ctx)["num_hidden_layers"] - 1
    return (rf"^vision_model\.encoder\.layers\.{last}\.", r"^vision_model\.post_layernorm\.")


def _hf_config(ctx):
    return json.loads((ctx.official_weights / "image_encoder" / "config.json").read_text())
