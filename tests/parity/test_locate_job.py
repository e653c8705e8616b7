"""The ladder on real runs: the first cause that explains a failure, in the order in which to look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.parity.locate_job import locate

from . import lab

BY_HAND = (
    "y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])",
    "scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5\n"
    "        scores = scores.masked_fill(~mask[:, None, None, :], float('-inf'))\n"
    "        y = scores.softmax(-1) @ v",
)


@pytest.fixture
def climb(tmp_path: Path, warm_sides: None) -> Callable[..., tuple[Any, dict[str, str]]]:
    """Runs the job on an edited port; its result, and the states of the rungs."""

    def run(*edits: tuple[str, str], **settings: Any) -> tuple[Any, dict[str, str]]:
        port = lab.edited(lab.PORT, *edits)
        result = lab.Lab(tmp_path, port=port, cases=["small"], trials=True, job=locate, **settings).run()
        return result, {row["rung"]: row["state"] for row in result.value["ladder"]}

    return run


def test_a_right_port_agrees_on_every_rung_that_it_has(climb: Any) -> None:
    result, states = climb()
    assert result.verdict == "pass" and result.value["culprit"] is None, result.explain()
    assert states == {
        "mapping": "agrees",
        "attention-backend": "agrees",
        "scheduler": "unmeasured",
        "activations": "agrees",
    }


def test_wrong_weights_are_named_before_anything_deeper(climb: Any) -> None:
    result, states = climb(('attention.qkv.\\2", 0, 3)', 'attention.qkv.\\2", 9, 3)'))
    assert result.verdict in ("fail", "error"), result.explain()
    assert states["mapping"] == "explains" and states["activations"] == "unreached", result.value["ladder"]


def test_another_attention_kernel_is_tried_out_and_does_not_explain_a_lost_residual(climb: Any) -> None:
    result, states = climb(BY_HAND, ("x = x + gate_f * y", "x = gate_f * y"))
    assert result.value["aligned"] == "fail"
    assert (states["attention-backend"], states["activations"]) == ("differs", "explains"), result.value["ladder"]
    assert result.value["culprit"]["kind"] == "glue" and result.value["confirmed"], result.explain()


def test_an_attention_kernel_that_is_the_whole_difference_is_the_culprit(climb: Any) -> None:
    """Written by hand in half the digits, unless torch is told to use its math kernel."""
    coarse = (
        BY_HAND[0],
        "if not torch.backends.cuda.flash_sdp_enabled():\n"
        "            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])\n"
        "        else:\n"
        "            q, k, v = (part.bfloat16().to(part.dtype) for part in (q, k, v))\n"
        "            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5\n"
        "            scores = scores.masked_fill(~mask[:, None, None, :], float('-inf'))\n"
        "            y = scores.softmax(-1) @ v",
    )
    result, states = climb(coarse)
    assert result.verdict == "fail" and result.value["aligned"] == "pass", result.explain()
    assert states["attention-backend"] == "explains" and states["activations"] == "unreached"
    culprit = result.value["culprit"]
    assert (culprit["kind"], culprit["module"]) == ("backend", "layers.0.attention"), culprit


def test_the_official_values_in_another_order_are_called_that(climb: Any) -> None:
    """Heads and their width exchanged when they are merged again."""
    result, states = climb(
        ("return self.o(y.transpose(1, 2).reshape(b, n, c))", "return self.o(y.permute(0, 2, 3, 1).reshape(b, n, c))")
    )
    assert states["activations"] == "explains", result.explain()
    why = result.value["culprit"]["why"]
    assert "The values are the official ones, with axis 2" in why and "interleaved" in why, why


def test_a_narrower_norm_is_the_culprit_when_no_number_shows_it(climb: Any) -> None:
    official = lab.edited(lab.OFFICIAL, *_norms("norm", "y = x.float()"))
    result, _ = climb(*_norms("norm_out", "y = x"), official=official, dtypes=["float32", "bfloat16"])
    culprit = result.value["culprit"]
    assert result.verdict in ("investigate", "fail") and culprit is not None, result.explain()
    assert culprit["module"] == "norm_out", culprit


def _norms(name: str, cast: str) -> list[tuple[str, str]]:
    owner = "class Block(nn.Module):" if name == "norm" else "class Layer(nn.Module):"
    return [
        (
            f"        self.{name} = nn.LayerNorm(width)",
            f"        self.{name} = nn.LayerNorm(width)\n"
            f"        self.{name}.forward = lambda x: upcast(self.{name}, x)",
        ),
        (
            owner,
            f"def upcast(norm, x):\n    {cast}\n    y = y - y.mean(-1, keepdim=True)\n"
            "    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + norm.eps)\n"
            f"    return (y * norm.weight + norm.bias).to(x.dtype)\n\n\n{owner}",
        ),
    ]


def test_the_curve_follows_the_forward_and_leaves_the_noise_at_the_culprit(climb: Any) -> None:
    result, _ = climb(("self.pre_mlp = nn.LayerNorm(width, eps=1e-6)", "self.pre_mlp = nn.LayerNorm(width, eps=1e-3)"))
    rows = result.value["curve"]["rows"]
    beyond = [row["module"] for row in rows if row["ratio"] > 4]
    assert beyond[0] == "layers.0.pre_mlp", rows
    before = rows[: [row["module"] for row in rows].index("layers.0.pre_mlp")]
    assert before and all(row["port_error"] <= 4 * max(row["reference_error"], 1.2e-7) for row in before)
