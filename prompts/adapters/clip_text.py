"""CLIP text encoder: transformers' CLIPTextModel (official) against FastVideo's CLIPTextModel (port).

FastVideo ignores the padding mask, which the causal mask makes harmless for real tokens: only those are compared.
Weights: ``<official_weights>/text_encoder``, with the hub's ``text_model.`` prefix.
"""

import json
import os

import torch

CASES = {
    "small": {"lengths": [9]},
    # CLIP pads with the end token, so the pooled vector must come from the first of several.
    "odd": {"lengths": [21, 6]},
    "short": {"lengths": [2]},
}


def load_official(ctx):
    """The official encoder as its users load it."""
    from transformers import CLIPTextModel

    folder = ctx.official_weights / "text_encoder"
    return CLIPTextModel.from_pretrained(folder, dtype=ctx.dtype).to(ctx.device).eval()


def load_port(ctx):
    """The FastVideo encoder, filled by its own load_weights."""
    os.environ["FASTVIDEO_ATTENTION_BACKEND"] = "TORCH_SDPA"
    from fastvideo.configs.models.encoders import CLIPTextConfig
    from fastvideo.distributed import maybe_init_distributed_environment_and_model_parallel
    from fastvideo.models.encoders.clip import CLIPTextModel
    from fastvideo.models.loader.fsdp_load import set_default_dtype
    from fastvideo.models.loader.weight_utils import safetensors_weights_iterator

    maybe_init_distributed_environment_and_model_parallel(1, 1)
    config = CLIPTextConfig()
    config.update_model_arch(_hf_config(ctx))
    with set_default_dtype(ctx.dtype), ctx.device:
        model = CLIPTextModel(config)
    files = sorted(str(file) for file in (ctx.official_weights / "text_encoder").glob("*.safetensors"))
    loaded = model.load_weights(safetensors_weights_iterator(files, to_cpu=True))
    missing = {name for name, _ in model.named_parameters()} - loaded
    if missing:
        raise ValueError(f"Weights were not loaded: {sorted(missing)}")
    return model.requires_grad_(False).eval()


def make_inputs(ctx):
    """Token ids (B, L), closed and padded by the end token, and a mask (B, L), both int64, on the CPU."""
    config = _hf_config(ctx)
    lengths = torch.tensor(ctx.case["lengths"])[:, None]
    rng = torch.Generator().manual_seed(ctx.seed)
    position = torch.arange(int(lengths.max()))[None]
    ids = torch.randint(3, config["eos_token_id"], (len(lengths), position.shape[1]), generator=rng)
    ids = torch.where(position >= lengths - 1, config["eos_token_id"], ids)
    return {"input_ids": ids, "attention_mask": (position < lengths).long()}


def call_official(model, inputs, ctx):
    """Hidden states of the real tokens (N, D), those before the last layer, and the pooled vector (B, D)."""
    return _call(model, inputs, ctx)


def call_port(model, inputs, ctx):
    """The same three."""
    from fastvideo.forward_context import set_forward_context

    with set_forward_context(current_timestep=0, attn_metadata=None):
        return _call(model, inputs, ctx)


def param_mapping(ctx):
    """What load_weights does, as rules: the projections become rows of qkv_proj."""
    return {
        rf"^(.*)\.self_attn\.{part}_proj\.(.*)$": (r"\1.self_attn.qkv_proj.\2", index, 3)
        for index, part in enumerate("qkv")
    }


def _call(model, inputs, ctx):
    real = inputs["attention_mask"].bool().to(ctx.device)
    output = model(
        input_ids=inputs["input_ids"].to(ctx.device),
        attention_mask=inputs["attention_mask"].to(ctx.device),
        output_hidden_states=True,
    )
    return {
        "hidden": output.last_hidden_state[real],
        "penultimate": output.hidden_states[-2][real],
        "pooled": output.pooler_output,
    }


def _hf_config(ctx):
    return json.loads((ctx.official_weights / "text_encoder" / "config.json").read_text())
