"""Mistakes and rewrites in FastVideo's T5 encoder, where it differs from UMT5."""

MODEL = "fastvideo/models/encoders/t5.py"

FAULTS = [
    {
        "id": "t5-bias-in-every-layer",
        "file": MODEL,
        "old": "            is_umt5=False,",
        "new": "            is_umt5=True,",
        "category": "wiring",
        "place": ["encoder.block.*.layer.0.SelfAttention"],
        "shows": "load",
        "traps": ["loading-reused-class-strict-loads-but-differs"],
        "note": "UMT5's rule in T5: the second layer's table is in no file.",
    },
    {
        "id": "t5-bias-not-shared",
        "file": MODEL,
        "old": "            attn_metadata.attn_bias = attn_bias\n",
        "new": "            attn_metadata.attn_bias = torch.zeros_like(attn_bias)\n",
        "category": "wiring",
        "place": ["encoder.block.*.layer.0.SelfAttention"],
        "glue": True,
        "cases": ["small", "odd", "long"],
        "note": "Later layers do not see the first one's position bias.",
    },
    {
        "id": "t5-loader-query-key-swapped",
        "file": MODEL,
        "old": '            (".qkv_proj", ".q", "q"),\n            (".qkv_proj", ".k", "k"),',
        "new": '            (".qkv_proj", ".q", "k"),\n            (".qkv_proj", ".k", "q"),',
        "category": "mapping",
        "place": ["encoder.block.*.layer.0.SelfAttention.qkv_proj"],
        "traps": ["mapping-merge-concat-axis-and-order"],
        "note": "The loader puts keys where queries belong; with one token the trace alone shows it.",
    },
    {
        "id": "t5-attention-norm-epsilon",
        "file": MODEL,
        "old": '            prefix=f"{prefix}.SelfAttention",\n        )\n'
        "        self.layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)",
        "new": '            prefix=f"{prefix}.SelfAttention",\n        )\n'
        "        self.layer_norm = RMSNorm(config.d_model, eps=1e-5)",
        "category": "norm",
        "place": ["encoder.block.*.layer.0.layer_norm"],
        "traps": ["loading-config-default-differs-from-official"],
        "note": "Epsilon 1e-5 before attention.",
    },
]

REWRITES = [
    {
        "id": "t5-rewrite-product-order",
        "file": MODEL,
        "old": "hidden_states = hidden_gelu * hidden_linear",
        "new": "hidden_states = hidden_linear.contiguous() * hidden_gelu",
        "category": "wiring",
        "note": "A product's factors commute.",
    },
]
