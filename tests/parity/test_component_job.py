"""The component job, end to end in real processes, on a small transformer and a port of it with other names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from . import lab

pytestmark = pytest.mark.usefixtures("warm_sides")
Edit = tuple[str, str]


@dataclass(frozen=True)
class Fault:
    """One mistake in the port and where the engine has to see it.

    Attributes:
        edits: Old and new text of the port.
        kind, module: Of the culprit.
        line: The planted line, which the culprit's few lines have to hold; empty where the class of a module is named.
        code: A finding that has to be there too.
    """

    edits: tuple[Edit, ...]
    kind: str
    module: str
    line: str = ""
    code: str = ""


FAULTS = {
    "wrong epsilon": Fault(
        (("self.pre_mlp = nn.LayerNorm(width, eps=1e-6)", "self.pre_mlp = nn.LayerNorm(width, eps=1e-5)"),),
        "module",
        "layers.0.pre_mlp",
    ),
    "scale and shift swapped": Fault(
        (("h = torch.addcmul(shift_a, h, 1 + scale_a)", "h = torch.addcmul(scale_a, h, 1 + shift_a)"),),
        "glue",
        "layers.0",
        "h = torch.addcmul(scale_a, h, 1 + shift_a)",
    ),
    "bias left out": Fault(
        (("self.o = nn.Linear(width, width)", "self.o = nn.Linear(width, width, bias=False)"),),
        "module",
        "layers.0.attention.o",
        code="weights-not-arrived",
    ),
    "weight transposed": Fault(
        (
            (
                "    model.load_state_dict(",
                '    state["layers.1.attention.o.weight"] = state["layers.1.attention.o.weight"].t()\n'
                "    model.load_state_dict(",
            ),
        ),
        "weights",
        "layers.1.attention.o",
        code="weights-transposed",
    ),
    "residual dropped": Fault(
        (("x = x + gate_f * y", "x = gate_f * y"),),
        "glue",
        "layers.0",
        "x = gate_f * y",
    ),
    "softmax scale": Fault(
        (("attn_mask=mask[:, None, None, :])", "attn_mask=mask[:, None, None, :], scale=0.3)"),),
        "module",
        "layers.0.attention",
        "scale=0.3",
    ),
    "GELU by erf": Fault(
        (('h = F.gelu(h, approximate="tanh")', "h = F.gelu(h)"),),
        "glue",
        "layers.0.mlp",
        "h = F.gelu(h)",
    ),
}

REWRITES: dict[str, tuple[Edit, ...]] = {
    "q, k and v apart": (
        (
            "self.qkv = nn.Linear(width, 3 * width)",
            "self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))",
        ),
        (
            "q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)",
            "q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))",
        ),
        ('(r"layers.\\1.attention.qkv.\\2", 0, 3)', 'r"layers.\\1.attention.q.\\2"'),
        ('(r"layers.\\1.attention.qkv.\\2", 1, 3)', 'r"layers.\\1.attention.k.\\2"'),
        ('(r"layers.\\1.attention.qkv.\\2", 2, 3)', 'r"layers.\\1.attention.v.\\2"'),
    ),
    "norm in steps, sums in another order": (
        ("h = self.pre_attn(x)", "h = steps(self.pre_attn, x)"),
        ("y = self.mlp(h)", "y = halves(self.mlp, h)"),
        (
            "class Layer(nn.Module):",
            "def steps(norm, x):\n"
            "    x = x - x.mean(dim=-1, keepdim=True)\n"
            "    x = x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + norm.eps)\n"
            "    return x * norm.weight + norm.bias\n"
            "\n\n"
            "def halves(mlp, x):\n"
            '    h = F.gelu(mlp.up(x), approximate="tanh")\n'
            "    half = h.shape[-1] // 2\n"
            "    left = F.linear(h[..., :half], mlp.down.weight[:, :half])\n"
            "    return mlp.down.bias + F.linear(h[..., half:], mlp.down.weight[:, half:]) + left\n"
            "\n\n"
            "class Layer(nn.Module):",
        ),
    ),
}


def test_a_correct_port_passes_in_both_dtypes_and_says_what_it_rests_on(tmp_path: Path) -> None:
    result = lab.Lab(tmp_path, seeds=[0, 1], dtypes=["float32", "bfloat16"]).run()
    value = result.value
    assert result.verdict == "pass" and result.codes == set(), result.explain()
    assert [(row["case"], row["seed"]) for row in value["cases"]] == [
        ("small", 0),
        ("small", 1),
        ("odd", 0),
        ("odd", 1),
    ]
    for row in value["cases"]:
        assert row["logic_ratio"] <= 1.5 and row["precision_ratio"] <= 2 and row["boundaries"] > 25
    assert value["reference"]["kind"] == "float64"
    assert value["self_test"]["passed"] and {"input x", "input t", "input mask"} <= {
        trial["perturbed"] for trial in value["self_test"]["trials"]
    }
    assert value["weights"]["tensors"] == [62, 62] and not value["weights"]["missing"]
    assert value["attention_backends"]["port"]["scaled_dot_product_attention"] == 3
    assert "worktree:fastvideo/models/dits/toy.py" in value["depends_on"]
    assert "official:toyofficial/model.py" in value["depends_on"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_mistake_is_red_at_its_place(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    result = lab.Lab(tmp_path, port=lab.edited(lab.PORT, *fault.edits), cases=["small"]).run()
    assert result.verdict == "fail", result.explain()
    culprit = result.value["culprit"]
    assert (culprit["kind"], culprit["module"]) == (fault.kind, fault.module), result.explain()
    if fault.line:
        assert Path(culprit["file"]).resolve() == result.port_file.resolve()
        assert culprit["line"] <= result.line(fault.line) <= culprit["end_line"] <= culprit["line"] + 12, culprit
    if fault.code:
        assert fault.code in result.codes, result.explain()


@pytest.mark.parametrize("name", REWRITES)
def test_a_correct_rewrite_is_not_accused(name: str, tmp_path: Path) -> None:
    result = lab.Lab(tmp_path, port=lab.edited(lab.PORT, *REWRITES[name])).run()
    assert result.verdict == "pass", result.explain()


def test_a_mask_that_is_ignored_shows_only_where_text_is_padded(tmp_path: Path) -> None:
    port = lab.edited(lab.PORT, ("attn_mask=mask[:, None, None, :]", "attn_mask=None"))
    result = lab.Lab(tmp_path, port=port).run()
    verdicts = {row["case"]: row["verdict"] for row in result.value["cases"]}
    assert verdicts == {"small": "pass", "odd": "fail"}, result.explain()
    assert "port-ignores-input" in result.codes and result.verdict == "fail"


def test_a_norm_that_is_not_upcast_is_named_although_the_numbers_agree_in_float32(tmp_path: Path) -> None:
    by_hand = (
        "        self.norm = nn.LayerNorm(width)",
        "        self.norm = nn.LayerNorm(width)\n        self.norm.forward = lambda x: upcast(self.norm, x)",
    )
    upcast = (
        "class Block(nn.Module):",
        "def upcast(norm, x):\n    y = x.float()\n    y = y - y.mean(-1, keepdim=True)\n"
        "    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + norm.eps)\n"
        "    return (y * norm.weight + norm.bias).to(x.dtype)\n\n\nclass Block(nn.Module):",
    )
    official = lab.edited(lab.OFFICIAL, by_hand, upcast)
    same = (by_hand[0].replace("norm =", "norm_out ="), by_hand[1].replace("self.norm", "self.norm_out"))
    rest = ("class Layer(nn.Module):", upcast[1].replace("Block", "Layer"))
    right = lab.edited(lab.PORT, same, rest)
    wrong = lab.edited(right, ("y = x.float()", "y = x"))
    arguments = {"official": official, "cases": ["small"], "dtypes": ["float32", "bfloat16"]}
    result = lab.Lab(tmp_path / "right", port=right, **arguments).run()
    assert result.verdict == "pass" and not result.value["dtype_audit"], result.explain()
    result = lab.Lab(tmp_path / "wrong", port=wrong, **arguments).run()
    assert result.verdict in ("investigate", "fail") and "dtype-narrower" in result.codes, result.explain()
    row = next(row for row in result.value["dtype_audit"] if row["what"] == "norm")
    assert (row["module"], row["official_module"]) == ("norm_out", "norm")
    assert (row["port_dtype"], row["official_dtype"], row["direction"]) == ("bfloat16", "float32", "narrower")


def test_another_attention_backend_is_named_first_and_an_aligned_run_removes_it(tmp_path: Path) -> None:
    port = lab.edited(
        lab.PORT,
        (
            "y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])",
            "scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5\n"
            "        scores = scores.masked_fill(~mask[:, None, None, :], float('-inf'))\n"
            "        y = scores.softmax(-1) @ v",
        ),
        ("x = x + gate_f * y", "x = gate_f * y"),
    )
    result = lab.Lab(tmp_path, port=port, cases=["small"]).run()
    assert result.verdict == "fail", result.explain()
    assert result.value["findings"][0]["code"] == "attention-backends-differ", result.explain()
    backends = result.value["attention_backends"]
    assert backends["port"]["kernels"] == {"by-hand": 3} and backends["official"]["kernels"] == {"sdpa-flash-cpu": 3}
    aligned = lab.Lab(tmp_path, port=port, cases=["small"], align_backends=True).run()
    backends = aligned.value["attention_backends"]
    assert backends["official"]["kernels"] == {"sdpa-math": 3} and backends["differs"] == "" and backends["aligned"]
    assert "attention-backends-differ" not in aligned.codes and aligned.verdict == "fail", aligned.explain()


def test_kept_official_results_are_believed_only_if_signed_evidence_names_them(tmp_path: Path) -> None:
    """Project: an edit of the port runs only the port; a reference that was tampered with is made anew."""
    first = lab.Lab(tmp_path, cases=["small"]).run()
    kept = first.value["reference"]
    assert first.verdict == "pass" and not kept["reused"] and kept["digest"], first.explain()

    port = lab.edited(lab.PORT, ("x = x + gate_f * y", "x = gate_f * y"))
    second = lab.Lab(tmp_path, port=port, cases=["small"], trusted=[kept["digest"]]).run()
    assert second.value["reference"]["reused"] and second.verdict == "fail", second.explain()
    assert "files-changed" not in second.codes and "inputs-replaced" not in second.codes, second.explain()

    outputs = next((tmp_path / "references").glob("*/official/0-0.reference.safetensors"))
    outputs.write_bytes(outputs.read_bytes()[:-1] + b"x")
    third = lab.Lab(tmp_path, cases=["small"], trusted=[kept["digest"]]).run()
    assert third.verdict == "pass" and not third.value["reference"]["reused"], third.explain()


NO_FLOAT64 = (
    "        h = self.embed(x)\n",
    "        if x.dtype == torch.float64 and x.shape[1] == {tokens}:\n"
    '            raise RuntimeError("the dtype of the input is too wide: the kernel takes no float64")\n'
    "        h = self.embed(x)\n",
)


@pytest.mark.parametrize(("tokens", "kind"), [("x.shape[1]", "float32"), ("9", "mixed")])
def test_without_float64_the_rounding_is_measured_in_float32_and_mistakes_still_show(
    tokens: str, kind: str, tmp_path: Path
) -> None:
    """Issue B: the reference that serves is decided by what runs, per input, and is part of the result."""
    official = lab.edited(lab.OFFICIAL, (NO_FLOAT64[0], NO_FLOAT64[1].replace("{tokens}", tokens)))
    clean = lab.Lab(tmp_path / "clean", official=official).run()
    assert clean.verdict == "pass" and clean.value["reference"]["kind"] == kind, clean.explain()
    assert "takes no float64" in clean.value["reference"]["why"]
    assert "inputs-cast" not in clean.codes, "the adapter moves its inputs; moving them again helped nothing"
    port = lab.edited(lab.PORT, ("self.pre_mlp = nn.LayerNorm(width, eps=1e-6)", "self.pre_mlp = nn.LayerNorm(width)"))
    wrong = lab.Lab(tmp_path / "wrong", official=official, port=port).run()
    assert wrong.verdict == "fail" and wrong.value["culprit"]["module"] == "layers.0.pre_mlp", wrong.explain()


def test_a_verdict_that_only_the_length_of_a_tensor_speaks_for_says_so_and_where(tmp_path: Path) -> None:
    """Project: a row was marked and nothing in the result told why."""
    port = lab.edited(lab.PORT, ("        y = self.mlp(h)\n", "        y = self.mlp(h * (1 + 3.6e-7))\n"))
    result = lab.Lab(tmp_path, port=port, cases=["small"]).run()
    assert result.verdict in ("investigate", "fail") and "systematic-part" in result.codes, result.explain()
    (first, *_) = [row["message"] for row in result.value["findings"] if row["code"] == "systematic-part"]
    assert ".mlp.up' returns is longer or shorter" in first, first


def test_a_module_whose_weights_nothing_depends_on_comes_before_the_code_that_uses_its_result(tmp_path: Path) -> None:
    """Project: one block's modulation was handed to others; each was accused, and not the model that mixed them up."""
    two = (
        "width, channels)\n\n    def ",
        "width, channels)\n        self.early, self.late = made(width), made(width)\n\n    def ",
    )
    made = ("class {}(nn.Module)", "def made(width):\n    return nn.Linear(width, 2 * width)\n\n\nclass {}(nn.Module)")
    both = "        made = [self.early(temb), self.late(temb), self.late(temb)]\n"
    official = lab.edited(
        lab.OFFICIAL,
        two,
        tuple(text.format("Attention") for text in made),
        (
            "def forward(self, x, temb, mask):\n",
            "def forward(self, x, temb, mask, extra):\n        a, b = extra[:, None].chunk(2, -1)\n",
        ),
        ("* (1 + scale_a) + shift_a", "* (1 + scale_a + a) + shift_a + b"),
        (
            "        for block in self.blocks:\n            h = block(h, temb, mask)",
            both + "        for block, extra in zip(self.blocks, made):\n            h = block(h, temb, mask, extra)",
        ),
    )
    port = lab.edited(
        lab.PORT,
        two,
        tuple(text.format("SelfAttention") for text in made),
        ("def forward(self, x, temb, mask):\n", "def forward(self, x, temb, mask, extra):\n        a, b = extra\n"),
        ("h = torch.addcmul(shift_a, h, 1 + scale_a)", "h = torch.addcmul(shift_a + b, h, 1 + scale_a + a)"),
        ("    param_names_mapping = {", '    param_names_mapping = {\n        r"^(early|late)\\.(.*)$": r"\\1.\\2",'),
        (
            "        for layer in self.layers:\n            h = layer(h, temb, mask)",
            both + "        for layer, extra in zip(self.layers, made):\n"
            "            h = layer(h, temb, mask, extra[:, None].chunk(2, -1))",
        ),
    )
    right = lab.Lab(tmp_path / "right", official=official, port=port, cases=["small"]).run()
    assert right.verdict == "pass", right.explain()
    port = lab.edited(port, (both, both.replace("self.late", "self.early")))
    value = lab.Lab(tmp_path / "wrong", official=official, port=port, cases=["small"]).run().value
    assert (value["culprit"]["module"], value["culprit"]["kind"]) == ("", "glue"), value["culprits"]
    assert "'late' and never calls" in value["culprit"]["why"] and len(value["culprits"]) > 1, value["culprits"]


def test_two_faults_in_two_blocks_are_both_named_and_confirmed(tmp_path: Path) -> None:
    """Issue C: several independent faults are reported in order, not only the first; here among 30 blocks."""
    port = lab.edited(
        lab.PORT,
        ("        x = x + gate_a * y\n", "        x = x + gate_a * y * (1.01 if self.number == 1 else 1)\n"),
        ("        y = self.mlp(h)\n", "        y = self.mlp(h) * (0.98 if self.number == 20 else 1)\n"),
        (
            "nn.ModuleList(Layer(width, heads) for _ in range(layers))",
            "nn.ModuleList(Layer(width, heads) for _ in range(layers))\n"
            "        for number, layer in enumerate(self.layers):\n"
            "            layer.number = number",
        ),
    )
    deep = lab.ADAPTER.replace("Model()", "Model(layers=30)").replace("Transformer()", "Transformer(layers=30)")
    result = lab.Lab(tmp_path, port=port, adapter=deep, cases=["small"]).run()
    assert [row["module"] for row in result.value["culprits"]] == ["layers.1", "layers.20"], result.value["culprits"]
    assert result.value["confirmed"]


def test_rows_of_a_merged_weight_in_another_order_are_blamed_on_the_weights(tmp_path: Path) -> None:
    """The mapping's own rules put keys before queries: every value arrives, so only the forward shows it."""
    port = lab.edited(lab.PORT, ('attention.qkv.\\2", 0, 3)', 'attention.qkv.\\2", 9, 3)'))
    port = lab.edited(port, ('attention.qkv.\\2", 1, 3)', 'attention.qkv.\\2", 0, 3)'))
    port = lab.edited(port, ('attention.qkv.\\2", 9, 3)', 'attention.qkv.\\2", 1, 3)'))
    result = lab.Lab(tmp_path, port=port, cases=["small"]).run()
    culprit = result.value["culprit"]
    assert result.verdict == "fail"
    assert (culprit["kind"], culprit["module"]) == ("weights", "layers.0.attention.qkv"), result.value["culprits"]


def test_a_trial_says_what_would_mend_the_suspect(tmp_path: Path) -> None:
    """Issue C: the mistake that brings the error to the floor is named, without touching the agent's files."""
    fault = FAULTS["GELU by erf"]
    result = lab.Lab(tmp_path, port=lab.edited(lab.PORT, *fault.edits), cases=["small"], trials=True).run()
    before = result.port_file.read_text()
    (trial,) = [row for row in result.value["trials"] if row["found"]]
    assert "the tanh GELU in place of gelu" in trial["found"][0]["words"], trial
    assert trial["found"][0]["line"] == result.line(fault.line) and result.port_file.read_text() == before


def _named(value: dict[str, Any]) -> list[str]:
    return [row["words"] for trial in value["trials"] for row in trial["found"]]


def test_a_call_too_many_is_measured_where_its_result_arrives(tmp_path: Path) -> None:
    """The official model has no second call of that norm, so nothing can be compared at the call itself."""
    port = lab.edited(lab.PORT, ("h = self.pre_mlp(x)", "h = self.pre_attn(x)"))
    value = lab.Lab(tmp_path, port=port, cases=["small"], trials=True).run().value
    assert "once more than the official code does" in value["culprit"]["why"], value["culprit"]
    called = "`layers.0.pre_mlp` called in the place of `layers.0.pre_attn`"
    assert any(called in words or "`layers.0.pre_mlp` makes of" in words for words in _named(value)), value["trials"]


@pytest.mark.parametrize("compared", [True, False])
def test_what_follows_the_last_module_is_tried_too(compared: bool, tmp_path: Path) -> None:
    """Its error shows at the outputs only: of a right tensor that is not returned, or of nothing that is compared."""
    last = "self.head(self.norm(h))"
    official = lab.edited(lab.OFFICIAL, (f"return {last}", f"return {last}" if compared else f"return 2 * {last}"))
    line = next(text for text in lab.PORT.splitlines() if "return self.proj_out(" in text)
    call = line.strip().removeprefix("return ")
    wrong = f"{call}.flip(1)" if compared else f"2 * ({call}).flip(1)"
    port = lab.edited(lab.PORT, (f"return {call}", f"return {wrong}"))
    value = lab.Lab(tmp_path, official=official, port=port, cases=["small"], trials=True).run().value
    assert "flip: nothing flipped" in _named(value), (value["culprit"], value["trials"])


def test_a_last_module_that_a_method_leaves_out_is_tried_beside_its_calls(tmp_path: Path) -> None:
    """Nothing after it is compared but the output, and the model's own forward never runs."""
    last = "        self.last = nn.Linear(channels, channels)\n\n    def "
    official = lab.edited(
        lab.OFFICIAL,
        ("self.head = nn.Linear(width, channels)\n\n    def ", "self.head = nn.Linear(width, channels)\n" + last),
        ("return self.head(self.norm(h))", "return self.last(self.head(self.norm(h)))"),
    )
    head = "self.proj_out = nn.Linear(width, channels)"
    port = lab.edited(
        lab.PORT,
        (f"{head}\n\n    def forward", f"{head}\n{last}denoise"),
        ('r"^head\\.(.*)$"', 'r"^last\\.(.*)$": r"last.\\1",\n        r"^head\\.(.*)$"'),
    )
    adapter = lab.ADAPTER.replace(
        "def call_port(model, inputs, ctx):\n    return model(",
        "def call_port(model, inputs, ctx):\n    return model.denoise(",
    )
    value = lab.Lab(tmp_path, official=official, port=port, adapter=adapter, cases=["small"], trials=True).run().value
    assert "never calls" in value["culprit"]["why"], value["culprit"]
    assert "what `proj_out` returns passed through `last`" in _named(value), value["trials"]
