"""Mistakes and rewrites in FastVideo's CLIP vision encoder."""

MODEL = "fastvideo/models/encoders/clip.py"
CONFIG = "fastvideo/configs/models/encoders/clip.py"

FAULTS = [
    {
        "id": "clip_vision-class-token-last",
        "file": MODEL,
        "old": "embeddings = torch.cat([class_embeds, patch_embeds], dim=1)",
        "new": "embeddings = torch.cat([patch_embeds, class_embeds], dim=1)",
        "category": "layout",
        "place": ["vision_model.embeddings"],
        "glue": True,
        "note": "The class token stands behind the patches.",
    },
    {
        "id": "clip_vision-positions-missing",
        "file": MODEL,
        "old": "        embeddings = embeddings + self.position_embedding(self.position_ids)\n",
        "new": "",
        "category": "wiring",
        "place": ["vision_model.embeddings"],
        "glue": True,
        "note": "No position embedding.",
    },
    {
        "id": "clip_vision-patches-transposed",
        "file": MODEL,
        "old": "patch_embeds = patch_embeds.flatten(2).transpose(1, 2)",
        "new": "patch_embeds = patch_embeds.transpose(2, 3).flatten(2).transpose(1, 2)",
        "category": "layout",
        "place": ["vision_model.embeddings"],
        "glue": True,
        "traps": ["layout-patch-geometry-and-grid-bounds"],
        "note": "Patches are read column by column.",
    },
    {
        "id": "clip_vision-first-norm-missing",
        "file": MODEL,
        "old": "        hidden_states = self.pre_layrnorm(hidden_states)\n",
        "new": "",
        "category": "wiring",
        "place": ["vision_model"],
        "glue": True,
        "note": "The norm before the layers never runs.",
    },
    {
        "id": "clip_vision-last-layer-and-norm",
        "file": MODEL,
        "old": "num_hidden_layers = num_hidden_layers_override",
        "new": "num_hidden_layers = num_hidden_layers_override + 1",
        "category": "wiring",
        "place": ["vision_model.encoder", "vision_model"],
        "glue": True,
        "traps": ["text-clip-vision-post-norm-on-sequence", "text-hidden-state-selection"],
        "note": "One layer too many, and the norm that comes with all of them.",
    },
    {
        "id": "clip_vision-causal",
        "file": CONFIG,
        "old": "    enable_scale: bool = False\n    is_causal: bool = False\n    prefix",
        "new": "    enable_scale: bool = False\n    is_causal: bool = True\n    prefix",
        "category": "mask",
        "place": ["vision_model.encoder.layers.*.self_attn.attn"],
        "note": "Patches see only those before them.",
    },
    {
        "id": "clip_vision-first-norm-epsilon",
        "file": MODEL,
        "old": "self.pre_layrnorm = nn.LayerNorm(embed_dim, eps=config.layer_norm_eps)",
        "new": "self.pre_layrnorm = nn.LayerNorm(embed_dim, eps=1e-6)",
        "category": "norm",
        "place": ["vision_model.pre_layrnorm"],
        "traps": ["loading-config-default-differs-from-official"],
        "note": "Epsilon 1e-6 where the reference has 1e-5.",
    },
]

REWRITES = [
    {
        "id": "clip_vision-rewrite-scale-given",
        "file": CONFIG,
        "old": "    enable_scale: bool = False\n    is_causal: bool = False\n    prefix",
        "new": "    enable_scale: bool = True\n    is_causal: bool = False\n    prefix",
        "category": "attention",
        "note": "The scale given explicitly is the default one.",
    },
    {
        "id": "clip_vision-rewrite-patches-as-matmul",
        "file": MODEL,
        "old": "        patch_embeds = patch_embeds.flatten(2).transpose(1, 2)",
        "new": "        size = self.patch_size\n"
        "        patches = torch.nn.functional.unfold(pixel_values.to(dtype=target_dtype), size, stride=size)\n"
        "        patch_embeds = patches.transpose(1, 2) @ self.patch_embedding.weight.flatten(1).t()",
        "category": "wiring",
        "note": "A convolution without overlap as a matrix product.",
    },
]
