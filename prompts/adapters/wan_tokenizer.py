"""Wan's tokenizer and what stands around it: diffusers' WanPipeline (official) against FastVideo's text stage.

What is compared is what reaches the text encoder: the ids as far as the mask goes, because diffusers pads to 512 and
masks, while FastVideo encodes a prompt at its own length and pads the embeddings. Both truncate at 512. Weights:
``<official_weights>/tokenizer``.
"""

from types import SimpleNamespace

LENGTH = 512


def load_official(ctx):
    """The tokenizer as diffusers' pipeline loads it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ctx.official_weights / "tokenizer")


def load_port(ctx):
    """The tokenizer through FastVideo's own loader and the pipeline's configuration."""
    from fastvideo.configs.pipelines.wan import WanT2V480PConfig
    from fastvideo.models.loader.component_loader import TokenizerLoader

    config = WanT2V480PConfig()
    settings = SimpleNamespace(pipeline_config=config, trust_remote_code=False)
    tokenizer = TokenizerLoader().load(str(ctx.official_weights / "tokenizer"), settings)
    return SimpleNamespace(tokenizer=tokenizer, config=config)


def call_official(tokenizer, inputs, ctx):
    """As WanPipeline encodes prompts."""
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    answer = tokenizer(
        [prompt_clean(text) for text in inputs["prompts"]],
        padding="max_length",
        max_length=LENGTH,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return _as_far_as_the_mask_goes(answer["input_ids"], answer["attention_mask"])


def call_port(loaded, inputs, ctx):
    """As FastVideo's text encoding stage does: each prompt is cleaned, then encoded with the encoder's options."""
    config = loaded.config
    options = config.text_encoder_configs[0].tokenizer_kwargs
    rows = []
    for text in inputs["prompts"]:
        answer = loaded.tokenizer([config.preprocess_text_funcs[0](text)], **options)
        rows += _as_far_as_the_mask_goes(answer["input_ids"], answer["attention_mask"])["input_ids"]
    return {"input_ids": rows}


def _as_far_as_the_mask_goes(ids, mask):
    return {"input_ids": [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]}
