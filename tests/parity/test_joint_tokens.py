"""Text and video in one attention: a port may join them in another order, and may call a module on each apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import lab

_ATTEND = "        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])\n"
_TEXT_LAST = """        q, k, v, mask = q.roll(2, 2), k.roll(2, 2), v.roll(2, 2), mask.roll(2, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :]).roll(-2, 2)
"""
TEXT_LAST = lab.edited(lab.PORT, (_ATTEND, _TEXT_LAST))
_MODULATED = "parts = [torch.addcmul(shift_a, part, 1 + scale_a) for part in (a, b)]"
_JOINT = """class Joint(nn.Module):
    def forward(self, video, text, mask):
        q, k, v = (torch.cat(pair, 2) for pair in zip(video, text))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])


class Layer(nn.Module):
"""
_CALLS = """        parts = [self.qkv(part).view(*part.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4) for part in parts]
        parts = [(q, self.norm_k(k), v) for q, k, v in parts]
        y = self.o(self.joint(*parts, mask).transpose(1, 2).flatten(2))
"""
_NORM_RULE = '        r"^norm\\.(.*)$"'
_KEY_RULE = '        r"^blocks\\.(\\d+)\\.attn\\.norm_k\\.(.*)$": r"layers.\\1.norm_k.\\2",\n'
APART = lab.edited(
    lab.PORT,
    ("class Layer(nn.Module):\n", _JOINT),
    (
        "        self.attention = SelfAttention(width, heads)\n",
        "        self.qkv, self.o, self.joint = nn.Linear(width, 3 * width), nn.Linear(width, width), Joint()\n"
        "        self.norm_k = nn.LayerNorm(width // heads)\n",
    ),
    ("h = self.pre_attn(x)", "a, b = self.pre_attn(x[:, :4]), self.pre_attn(x[:, 4:])"),
    ("h = torch.addcmul(shift_a, h, 1 + scale_a)", _MODULATED),
    ("        y = self.attention(h, mask)\n", _CALLS),
    (_NORM_RULE, _KEY_RULE + _NORM_RULE),
).replace(".attention.", ".")
OFFICIAL = lab.edited(
    lab.OFFICIAL,
    ("        self.to_q =", "        self.norm_k = nn.LayerNorm(width // heads)\n        self.to_q ="),
    ("        y = F.scaled", "        k = self.norm_k(k)\n        y = F.scaled"),
)


def test_tokens_in_another_order_in_attention_are_no_fault(tmp_path: Path) -> None:
    """Project: with text behind video every mistake elsewhere was blamed on what attention is handed."""
    port = lab.edited(
        TEXT_LAST, ("self.pre_mlp = nn.LayerNorm(width, eps=1e-6)", "self.pre_mlp = nn.LayerNorm(width, eps=1e-4)")
    )
    result = lab.Lab(tmp_path, port=port, cases=["small"]).run()
    assert result.verdict == "fail"
    assert [row["module"] for row in result.value["culprits"]] == ["layers.0.pre_mlp"], result.value["culprits"]


@pytest.mark.parametrize("wrong", ["k.roll(2, 2), v.roll(3, 2)", "k.roll(2, 2).flip(3), v.roll(2, 2)"])
def test_keys_that_do_not_stand_as_the_values_do_are_one(wrong: str, tmp_path: Path) -> None:
    port = lab.edited(TEXT_LAST, ("k.roll(2, 2), v.roll(2, 2)", wrong))
    result = lab.Lab(tmp_path, port=port, cases=["small"]).run()
    culprit = result.value["culprit"]
    assert result.verdict == "fail"
    assert culprit["module"] == "layers.0.attention", culprit
    assert culprit["line"] <= result.line("q.roll(2, 2)") <= culprit["end_line"], culprit


def test_a_module_called_on_text_and_video_apart_is_not_called_too_often(tmp_path: Path) -> None:
    """Project: the second call was blamed, whatever was wrong around it."""
    wrong = _MODULATED.replace("shift_a, part, 1 + scale_a", "scale_a, part, 1 + shift_a")
    assert lab.Lab(tmp_path / "right", official=OFFICIAL, port=APART, cases=["small"]).run().verdict == "pass"
    port = lab.edited(APART, (_MODULATED, wrong))
    result = lab.Lab(tmp_path / "wrong", official=OFFICIAL, port=port, cases=["small"]).run()
    culprit = result.value["culprit"]
    assert result.verdict == "fail" and "once more" not in culprit["why"], culprit
    assert culprit["line"] <= result.line(wrong) <= culprit["end_line"], culprit


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ("scale_a, shift_a, gate_a, shift_f, scale_f, gate_f", "numbers 1 and 2 of the 6 tensors that `layers.0.ada`"),
        ("shift_f, scale_f, gate_f, shift_a, scale_a, gate_a", "the last half of the 6 tensors that `layers.0.ada`"),
    ],
)
def test_what_a_module_returns_taken_in_another_order_is_tried(order: str, words: str, tmp_path: Path) -> None:
    port = lab.edited(
        lab.PORT,
        (
            "class Layer(nn.Module):\n",
            """class Modulation(nn.Module):
    def __init__(self, width, many):
        super().__init__()
        self.linear = nn.Linear(width, many)

    def forward(self, temb):
        return self.linear(F.silu(temb))[:, None].chunk(6, dim=-1)


class Layer(nn.Module):
""",
        ),
        ("self.ada = nn.Linear(", "self.ada = Modulation("),
        ('r"layers.\\1.ada.\\2"', 'r"layers.\\1.ada.linear.\\2"'),
        ("        table = self.ada(F.silu(temb))[:, None]\n", ""),
        (
            "shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = table.chunk(6, dim=-1)",
            f"{order} = self.ada(temb)",
        ),
    )
    result = lab.Lab(tmp_path, port=port, cases=["small"], trials=True).run()
    found = [row for trial in result.value["trials"] for row in trial["found"]]
    assert result.verdict == "fail"
    assert any(row["words"].startswith(words) for row in found), (found, result.value["culprits"])
