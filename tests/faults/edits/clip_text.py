"""Mistakes and rewrites in FastVideo's CLIP text encoder."""

# ruff: noqa: E501 -- the texts are exact

MODEL = "fastvideo/models/encoders/clip.py"
ACTIVATION = "fastvideo/layers/activation.py"

FAULTS = [
    {
        "id": "clip_text-gelu-tanh",
        "file": MODEL,
        "old": "self.activation_fn = get_act_fn(config.hidden_act)",
        "new": 'self.activation_fn = get_act_fn("gelu_pytorch_tanh")',
        "category": "activation",
        "place": ["text_model.encoder.layers.*.mlp.activation_fn"],
        "traps": ["loading-config-default-differs-from-official"],
        "note": "GELU where the checkpoint says quick_gelu.",
    },
    {
        "id": "clip_text-quick-gelu-constant",
        "file": ACTIVATION,
        "old": "return x * torch.sigmoid(1.702 * x)",
        "new": "return x * torch.sigmoid(1.7 * x)",
        "category": "constant",
        "place": ["text_model.encoder.layers.*.mlp.activation_fn"],
        "note": "1.7 in place of 1.702.",
    },
    {
        "id": "clip_text-norm-epsilon",
        "file": MODEL,
        "old": "self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)",
        "new": "self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=1e-6)",
        "category": "norm",
        "place": ["text_model.encoder.layers.*.layer_norm1"],
        "traps": ["loading-config-default-differs-from-official"],
        "note": "Epsilon 1e-6 where the reference has 1e-5.",
    },
    {
        "id": "clip_text-not-causal",
        "file": MODEL,
        "old": "causal=config.is_causal,",
        "new": "causal=False,",
        "category": "mask",
        "place": ["text_model.encoder.layers.*.self_attn.attn"],
        "note": "Tokens see what follows them.",
    },
    {
        "id": "clip_text-pooled-last-position",
        "file": MODEL,
        "old": "                (input_ids.to(dtype=torch.int, device=last_hidden_state.device) == self.eos_token_id).int().argmax(\n"
        "                    dim=-1),",
        "new": "                input_ids.shape[-1] - 1,",
        "category": "wiring",
        "place": ["text_model"],
        "glue": True,
        "cases": ["odd"],
        "traps": ["text-hidden-state-selection"],
        "note": "The pooled vector comes from the last position, which may be padding.",
    },
    {
        "id": "clip_text-pooled-first-token",
        "file": MODEL,
        "old": "                (input_ids.to(dtype=torch.int, device=last_hidden_state.device) == self.eos_token_id).int().argmax(\n"
        "                    dim=-1),",
        "new": "                0,",
        "category": "wiring",
        "place": ["text_model"],
        "glue": True,
        "traps": ["text-hidden-state-selection"],
        "note": "The pooled vector comes from the first token.",
    },
    {
        "id": "clip_text-position-offset",
        "file": MODEL,
        "old": "position_ids = self.position_ids[:, :seq_length]",
        "new": "position_ids = self.position_ids[:, 1:seq_length + 1]",
        "category": "constant",
        "place": ["text_model.embeddings"],
        "glue": True,
        "note": "Positions start at one.",
    },
    {
        "id": "clip_text-final-norm-missing",
        "file": MODEL,
        "old": "        last_hidden_state = self.final_layer_norm(last_hidden_state)\n",
        "new": "",
        "category": "wiring",
        "place": ["text_model"],
        "glue": True,
        "traps": ["text-hidden-state-selection"],
        "note": "Hidden states before the last norm.",
    },
    {
        "id": "clip_text-norms-exchanged",
        "file": MODEL,
        "old": "hidden_states = self.layer_norm2(hidden_states)",
        "new": "hidden_states = self.layer_norm1(hidden_states)",
        "category": "wiring",
        "place": ["text_model.encoder.layers.*"],
        "glue": True,
        "note": "The first norm runs twice.",
    },
    {
        "id": "clip_text-key-value-exchanged",
        "file": MODEL,
        "old": "query_states, key_states, value_states = qkv_states.chunk(3, dim=-1)",
        "new": "query_states, value_states, key_states = qkv_states.chunk(3, dim=-1)",
        "category": "attention",
        "place": ["text_model.encoder.layers.*.self_attn"],
        "glue": True,
        "traps": ["mapping-merge-concat-axis-and-order"],
        "note": "Values before keys in the fused projection.",
    },
    {
        "id": "clip_text-scale-by-width",
        "file": MODEL,
        "old": "self.scale = self.head_dim**-0.5 if config.enable_scale else None",
        "new": "self.scale = self.embed_dim**-0.5",
        "category": "attention",
        "place": ["text_model.encoder.layers.*.self_attn.attn"],
        "traps": ["attention-softmax-scale-lost-with-mask"],
        "note": "Logits are divided by the model's width, not the head's.",
    },
    {
        "id": "clip_text-loader-query-key-swapped",
        "file": MODEL,
        "old": '            ("qkv_proj", "q_proj", "q"),\n            ("qkv_proj", "k_proj", "k"),',
        "new": '            ("qkv_proj", "q_proj", "k"),\n            ("qkv_proj", "k_proj", "q"),',
        "category": "mapping",
        "place": ["text_model.encoder.layers.*.self_attn.qkv_proj"],
        "traps": ["mapping-merge-concat-axis-and-order"],
        "note": "The loader puts keys where queries belong.",
    },
]

REWRITES = [
    {
        "id": "clip_text-rewrite-quick-gelu",
        "file": ACTIVATION,
        "old": "return x * torch.sigmoid(1.702 * x)",
        "new": "return x / (1.0 + torch.exp(-1.702 * x))",
        "category": "activation",
        "note": "The sigmoid written out.",
    },
    {
        "id": "clip_text-rewrite-qkv-apart",
        "file": MODEL,
        "old": "        qkv_states, _ = self.qkv_proj(hidden_states)\n"
        "        query_states, key_states, value_states = qkv_states.chunk(3, dim=-1)",
        "new": "        query_states, key_states, value_states = (\n"
        "            torch.nn.functional.linear(hidden_states, weight, bias)\n"
        "            for weight, bias in zip(self.qkv_proj.weight.chunk(3), self.qkv_proj.bias.chunk(3), strict=True))",
        "category": "wiring",
        "note": "One fused projection as three.",
    },
]
