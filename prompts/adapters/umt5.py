"""UMT5 encoder: transformers' UMT5EncoderModel (official) against FastVideo's UMT5EncoderModel (port).

Every layer has a relative position bias of its own. Weights: ``<official_weights>/text_encoder``.
"""

import json

import torch

CASES = {
    "small": {"lengths": [12]},
    # Padding shows what happens to the mask; 150 tokens reach past relative_attention_max_distance.
    "odd": {"lengths": [37, 11]},
    "long": {"lengths": [150]},
    "short": {"lengths": [1]},
}


def load_official(ctx):
    """The official encoder as its users load it."""
    from transformers import UMT5EncoderModel

    folder = ctx.official_weights / "text_encoder"
    return UMT5EncoderModel.from_pretrained(folder, dtype=ctx.dtype).to(ctx.device).eval()


def load_port(ctx):
    """The FastVideo encoder, filled by its own load_weights."""
    from fastvideo.configs.models.encoders import T5Config
    from fastvideo.distributed import maybe_init_distributed_environment_and_model_parallel
    from fastvideo.models.encoders.t5 import UMT5EncoderModel
    from fastvideo.models.loader.fsdp_load import set_default_dtype
    from fastvideo.models.loader.weight_utils import safetensors_weights_iterator

    maybe_init_distributed_environment_and_model_parallel(1, 1)
    config = T5Config()
    config.update_model_arch(_hf_config(ctx))
    with set_default_dtype(ctx.dtype), ctx.device:
        model = UMT5EncoderModel(config)
    files = sorted(str(file) for file in (ctx.official_weights / "text_encoder").glob("*.safetensors"))
    loaded = model.load_weights(safetensors_weights_iterator(files, to_cpu=True))
    missing = {name for name, _ in model.named_parameters()} - loaded
    if missing:
        raise ValueError(f"Weights were not loaded: {sorted(missing)}")
    # Norms take the default dtype on CUDA only; elsewhere FastVideo builds them in float32.
    return model.to(ctx.dtype).requires_grad_(False).eval()


def make_inputs(ctx):
    """Token ids (B, L) and a mask (B, L) of ones and zeros, both int64, on the CPU."""
    lengths = torch.tensor(ctx.case["lengths"])
    rng = torch.Generator().manual_seed(ctx.seed)
    shape = (len(lengths), int(lengths.max()))
    mask = (torch.arange(shape[1])[None] < lengths[:, None]).long()
    ids = torch.randint(2, _hf_config(ctx)["vocab_size"], shape, generator=rng)
    return {"input_ids": ids * mask, "attention_mask": mask}


def call_official(model, inputs, ctx):
    """Hidden states (B, L, D)."""
    return model(
        input_ids=inputs["input_ids"].to(ctx.device),
        attention_mask=inputs["attention_mask"].to(ctx.device),
    ).last_hidden_state


def call_port(model, inputs, ctx):
    """Hidden states (B, L, D)."""
    return model(
        input_ids=inputs["input_ids"].to(ctx.device),
        attention_mask=inputs["attention_mask"].to(ctx.device),
    ).last_hidden_state


def param_mapping(ctx):
    """What load_weights does, as rules: q, k and v become rows of qkv_proj."""
    return {
        rf"^(.*)\.SelfAttention\.{part}\.weight$": (r"\1.SelfAttention.qkv_proj.weight", index, 3)
        for index, part in enumerate("qkv")
    }


def _hf_config(ctx):
    return json.loads((ctx.official_weights / "text_encoder" / "config.json").read_text())
