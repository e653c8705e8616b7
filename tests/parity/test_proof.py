"""The proof that weights arrived: every finding seen red, and what is right left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.mapping import plan
from fastvideo_port.parity.mapping_job import left_on_meta
from fastvideo_port.parity.proof import Proof
from fastvideo_port.parity.prove import prove
from fastvideo_port.parity.weights import FileTensors, entry, tensors_of_model
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
RULES: dict[str, Any] = {
    r"^a\.(.*)$": r"x.\1",
    r"^b\.(.*)$": r"y.\1",
    r"^q\.(.*)$": (r"qkv.\1", 0, 3),
    r"^k\.(.*)$": (r"qkv.\1", 1, 3),
    r"^v\.(.*)$": (r"qkv.\1", 2, 3),
}


def _official() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.w": (4, 4), "b.w": (4, 4), "a.wide": (4, 6), "a.bias": (4,), "b.bias": (4,)}
    shapes |= {f"{part}.w": (2, 4) for part in "qkv"}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _port(official: Tensors) -> Tensors:
    port = {name.replace("a.", "x.").replace("b.", "y."): t.clone() for name, t in official.items() if name[0] in "ab"}
    return port | {"qkv.w": torch.cat([official["q.w"], official["k.w"], official["v.w"]])}


def _prove(official: Tensors, port: Tensors, rules: dict[str, Any] | None = RULES, *, at_hand: bool = False) -> Proof:
    entries = {name: entry(name, tensor) for name, tensor in official.items()}
    planned = plan(rules, entries) if rules else None
    found = prove(entries, port, planned, official if at_hand else None)
    other = prove(entries, port, planned, None if at_hand else official)
    assert found.tensors == other.tensors and found.missing == other.missing, "values and digests judge alike"
    assert Proof.from_json(found.to_json()) == found
    return found


def _codes(proof: Proof) -> list[str]:
    return sorted(finding.code for finding in proof.findings)


def _whole(proof: Proof) -> bool:
    return proof.tensors[0] == proof.tensors[1] and not (proof.missing or proof.unexpected or proof.shape_mismatches)


def test_everything_arrives_and_says_how() -> None:
    official = _official()
    proof = _prove(official, _port(official))
    assert _whole(proof) and proof.tensors == (8, 8) and proof.parameters == (88, 88) and not proof.findings
    rows = {link.official: (link.port, link.rows, link.how) for link in proof.links}
    assert rows["a.w"] == ("x.w", None, "rule") and rows["k.w"] == ("qkv.w", (2, 4), "rule")


def test_lossless_casts_and_strides_do_not_count() -> None:
    official = {name: tensor.bfloat16() for name, tensor in _official().items()}
    port = {name: tensor.float() for name, tensor in _port(official).items()}
    port["x.w"] = port["x.w"].t().contiguous().t()
    assert _whole(_prove(official, port))


def test_a_swapped_pair_is_named_with_the_rules_that_say_where_the_values_are() -> None:
    official = _official()
    port = _port(official)
    port["x.w"], port["y.w"] = port["y.w"], port["x.w"]
    proof = _prove(official, port)
    assert _codes(proof) == ["swapped", "swapped"] and proof.tensors == (6, 8)
    assert any('r"^a\\.w$": r"y.w"' in text for text in proof.suggestions), proof.suggestions


def test_a_wrong_target_is_named() -> None:
    official = _official()
    port = _port(official)
    port["z.w"], port["x.w"] = port["x.w"], torch.randn(4, 4)
    proof = _prove(official, port)
    assert "wrong-target" in _codes(proof)
    assert any('r"^a\\.w$": r"z.w"' in text for text in proof.suggestions), proof.suggestions


def test_a_transposed_square_is_fatal_and_a_transpose_that_the_shape_shows_is_a_remark() -> None:
    """Project: a loader that keeps the name and transposes a square is almost always wrong."""
    official = _official()
    port = _port(official)
    port["x.w"] = port["x.w"].t().contiguous()
    square = _prove(official, port)
    assert _codes(square) == ["transposed"] and square.findings[0].fatal and square.tensors == (7, 8)
    port = _port(official)
    port["x.wide"] = port["x.wide"].t().contiguous()
    wide = _prove(official, port)
    assert _whole(wide) and [(item.code, item.fatal) for item in wide.findings] == [("rearranged", False)]
    assert {link.official: link.how for link in wide.links}["a.wide"] == "transposed"


_KERNEL = torch.randn(6, 4, 1, 2, 3, generator=torch.Generator().manual_seed(1))
ARRANGED = {
    "a patch embedding as a matrix": (_KERNEL, _KERNEL.reshape(6, 24), "reshaped"),
    "channels last": (_KERNEL, _KERNEL.permute(0, 2, 3, 4, 1), "permuted (0,2,3,4,1)"),
    "channels last as a matrix": (
        _KERNEL,
        _KERNEL.permute(0, 2, 3, 4, 1).reshape(6, 24),
        "permuted (0,2,3,4,1) and reshaped",
    ),
    "a kernel of one as a matrix, transposed": (
        _KERNEL[:, :, 0, 0, :1],
        _KERNEL[:, :, 0, 0, 0].t().contiguous(),
        "permuted (1,0,2) and reshaped",
    ),
}


@pytest.mark.parametrize("case", ARRANGED)
@pytest.mark.parametrize("rules", [None, {"^nothing$": "x"}])
def test_a_tensor_that_changed_its_shape_in_a_usual_way_arrives(case: str, rules: dict[str, Any] | None) -> None:
    theirs, mine, how = ARRANGED[case]
    proof = _prove({"in.w": theirs}, {"in.w": mine.clone()}, rules)
    assert _whole(proof) and [link.how for link in proof.links] == [how]
    assert [item.code for item in proof.findings if not item.fatal][-1] == "rearranged"
    other = _prove({"in.w": theirs + 1}, {"in.w": mine.clone()}, rules)
    assert other.tensors == (0, 1)


def _heads(stacked: torch.Tensor, parts: int, heads: int) -> torch.Tensor:
    each = stacked.shape[0] // parts // heads
    return stacked.reshape(parts, heads, each, *stacked.shape[1:]).transpose(0, 1).reshape(stacked.shape).clone()


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda t: _heads(t, 3, 4), "permuted", "3 stacked parts arrive interleaved by 4 heads"),
        (lambda t: torch.cat([t[12:], t[:12]]), "rows-swapped", "halves swapped"),
        (lambda t: t[torch.randperm(24, generator=torch.Generator().manual_seed(3))], "permuted", "no known"),
    ],
)
def test_rows_in_another_order_are_named(change: Any, code: str, says: str) -> None:
    """Project: an interleaved q, k, v, a swapped gate and up, and an order that nobody knows."""
    theirs = torch.randn(24, 5, generator=torch.Generator().manual_seed(2))
    proof = _prove({"qkv.w": theirs}, {"qkv.w": change(theirs)}, {"^nothing$": "x"})
    found = [item for item in proof.findings if item.fatal]
    assert [item.code for item in found] == [code] and says in found[0].message
    back = _prove({"qkv.w": _heads(theirs, 3, 4)}, {"qkv.w": theirs}, {"^nothing$": "x"})
    assert any("3 parts interleaved by 4 heads arrive stacked" in item.message for item in back.findings)


def test_merged_parts_that_are_interleaved_by_heads_arrive_and_say_so() -> None:
    official = {f"{part}.w": torch.randn(8, 4) for part in "qkv"}
    port = {"qkv.w": _heads(torch.cat(list(official.values())), 3, 2)}
    proof = _prove(official, port)
    assert _whole(proof) and {link.how for link in proof.links} == {"permuted: rows interleaved by 2 heads"}


def test_a_fused_official_tensor_that_is_split_arrives_with_its_rows() -> None:
    fused = torch.randn(12, 4)
    port = {f"attn.to_{part}.w": fused[a:b].clone() for part, a, b in (("q", 0, 4), ("k", 4, 6), ("v", 6, 12))}
    proof = _prove({"attn.qkv.w": fused}, port)
    assert _whole(proof), proof
    assert {link.port: link.part for link in proof.links} == {
        "attn.to_q.w": (0, 4),
        "attn.to_k.w": (4, 6),
        "attn.to_v.w": (6, 12),
    }
    assert {link.how for link in proof.links} == {"split rows 0:4", "split rows 4:6", "split rows 6:12"}
    port["attn.to_v.w"][0, 0] += 1
    assert _prove({"attn.qkv.w": fused}, port).unexpected == ["attn.qkv.w"]


def test_a_merge_whose_part_was_never_written_is_named_with_its_rows() -> None:
    """FastVideo's encoder loaders: one shard marks a fused target as loaded, and the rest is uninitialised memory."""
    official = _official()
    port = _port(official)
    del official["k.w"]
    port["qkv.w"][2:4] = torch.randn(2, 4)
    for rules in (None, RULES):
        proof = _prove(official, port, rules)
        found = [item for item in proof.findings if item.code == "rows-unfilled"]
        assert len(found) == 1 and found[0].fatal, proof
        assert "Rows 2:4 of 'qkv.w'" in found[0].message and "'v.w' in 4:6" in found[0].message
    port["qkv.w"][2:4] = 0
    assert any("2:4 (zeros)" in item.message for item in _prove(official, port).findings)


def test_what_fastvideos_loader_fills_with_zeros_is_named() -> None:
    official = _official()
    port = _port(official) | {"attn.proj_linear.w": torch.zeros(3, 3)}
    proof = _prove(official, port)
    assert _codes(proof) == ["zero-filled"] and "'proj_l'" in proof.findings[0].message
    assert proof.missing == ["attn.proj_linear.w"]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_target_left_at_its_initial_value_is_named(value: float) -> None:
    official = _official()
    port = _port(official)
    port["x.w"] = torch.full((4, 4), value)
    assert _codes(_prove(official, port)) == ["left-unfilled"]
    port["new.scale"] = torch.full((4,), value)
    proof = _prove(official, port)
    assert proof.missing == ["new.scale"] and _codes(proof) == ["left-unfilled"] * 2


def test_a_target_on_meta_is_named() -> None:
    official = _official()
    port = _port(official)
    port["x.w"] = port["x.w"].to("meta")
    proof = _prove(official, port)
    assert _codes(proof) == ["never-loaded"] and proof.tensors == (7, 8)
    port["qkv.w"] = port["qkv.w"].to("meta")
    assert _prove(official, port).tensors == (4, 8), "rows of a tensor without values prove nothing"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_that_loses_bits_is_named(dtype: torch.dtype) -> None:
    official = _official()
    port = _port(official)
    port["x.w"] = port["x.w"].to(dtype)
    assert _codes(_prove(official, port, at_hand=True)) == ["cast-loses-bits"]
    port["x.w"] = port["x.w"].float()  # there and back
    found = _prove(official, port, at_hand=True)
    assert _codes(found) == ["cast-loses-bits"] and found.findings[0].fatal
    assert _codes(_prove(official, port)) == ["values-differ"]


def test_rounding_to_the_dtype_that_was_asked_for_is_a_remark_and_not_more() -> None:
    """Project: of a mostly bfloat16 checkpoint FastVideo casts the float32 rest too; rounding further is damage."""
    official = {name: tensor if name[0] in "aq" else tensor.bfloat16() for name, tensor in _official().items()}
    port = {name: tensor.bfloat16() for name, tensor in _port(_official()).items()}
    proof = prove(
        {n: entry(n, t) for n, t in official.items()}, port, plan(RULES, official), official, asked=torch.bfloat16
    )
    assert _whole(proof) and [(item.code, item.fatal) for item in proof.findings] == [("cast-loses-bits", False)]
    assert set(proof.findings[0].names) == {"a.w", "a.wide", "a.bias", "q.w"}
    port["x.w"] = official["a.w"].half().float()
    worse = prove(
        {n: entry(n, t) for n, t in official.items()}, port, plan(RULES, official), official, asked=torch.bfloat16
    )
    assert [item.code for item in worse.findings if item.fatal] == ["cast-loses-bits"]


def test_one_changed_bit_is_seen() -> None:
    official = _official()
    port = _port(official)
    port["x.w"].view(-1)[5] = torch.nextafter(port["x.w"].view(-1)[5], torch.tensor(9.0))
    assert _codes(_prove(official, port)) == ["values-differ"]
    port = _port(official)
    port["qkv.w"].view(-1)[-1] += 1e-6
    proof = _prove(official, port)
    assert _codes(proof) == ["values-differ"] and "Rows 4:6" in proof.findings[0].message


def test_the_order_of_a_merge_is_checked() -> None:
    official = _official()
    port = _port(official)
    port["qkv.w"] = torch.cat([official["k.w"], official["q.w"], official["v.w"]])
    proof = _prove(official, port)
    assert _codes(proof) == ["merge-order", "merge-order"]
    assert "hold 'k.w' where the rules put 'q.w'" in proof.findings[0].message


def test_missing_unexpected_and_shape_mismatches_are_told_apart() -> None:
    official = _official()
    port = _port(official)
    del port["x.bias"]
    port["x.offset"] = torch.randn(4)
    port["x.wide"] = torch.randn(4, 7)
    proof = _prove(official, port)
    assert proof.unexpected == ["a.bias"] and proof.missing == ["x.offset"]
    assert proof.shape_mismatches == [("a.wide", "x.wide", (4, 6), (4, 7))]
    assert any('r"^a\\.bias$": r"x.offset"' in text and "a guess" in text for text in proof.suggestions)


def test_a_merge_of_the_wrong_size_is_a_shape_mismatch() -> None:
    official = _official()
    port = _port(official) | {"qkv.w": torch.randn(7, 4)}
    assert _prove(official, port).shape_mismatches == [("q.w + k.w + v.w", "qkv.w", (6, 4), (7, 4))]
    official["k.w"] = torch.randn(2, 5)
    assert [row[1] for row in _prove(official, port).shape_mismatches] == ["qkv.w"]


def test_without_rules_values_decide_also_fused_rows_and_tied_weights() -> None:
    official = _official()
    official["embed.w"] = torch.randn(5, 3)
    official["head.w"] = official["embed.w"].clone()
    port = {f"other.{name}": t for name, t in _port(official).items()} | {"shared.w": official["embed.w"].clone()}
    proof = _prove(official, port, rules=None)
    assert _whole(proof), proof
    how = {link.official: link.how for link in proof.links}
    assert (
        how["a.w"] == "value" and how["q.w"] == "value" and sorted((how["embed.w"], how["head.w"])) == ["tied", "value"]
    )
    assert {link.official: link.rows for link in proof.links}["v.w"] == (4, 6)


def test_an_extra_name_of_a_tensor_that_arrived_is_not_missing() -> None:
    official = _official()
    port = _port(official)
    port["tied.w"] = port["x.w"]
    assert _whole(_prove(official, port))


def test_equal_constants_are_no_proof_of_a_place() -> None:
    """Project: that two tensors are all ones says nothing about which is which, unless their names agree."""
    official = {"block.norm.weight": torch.ones(4)}
    assert _prove(official, {"unlike": torch.ones(4)}, rules=None).unexpected == ["block.norm.weight"]
    assert _whole(_prove(official, {"layer.norm.weight": torch.ones(4)}, rules=None))


def test_values_find_what_a_wrong_rule_does_not() -> None:
    official = {"a.w": torch.ones(3), "b.w": torch.arange(3.0)}
    proof = _prove(
        official, {"x.w": torch.ones(3), "elsewhere": torch.arange(3.0)}, rules={r"^b\.w$": "gone.w", r"^a\.": "x."}
    )
    assert proof.tensors == (2, 2), "found by value although the rule points to nothing"


def test_official_tensors_left_out_on_purpose_are_listed_and_a_false_declaration_is_named() -> None:
    official = _official() | {"head.w": torch.randn(3, 3)}
    entries = {name: entry(name, tensor) for name, tensor in official.items()}
    proof = prove(entries, _port(official), plan(RULES, official), unused={"head.w"})
    assert _whole(proof) and proof.unused == ["head.w"] and proof.tensors == (8, 8)
    proof = prove(entries, _port(official), plan(RULES, official), unused={"head.w", "a.w"})
    assert _codes(proof) == ["unused-arrives"] and proof.findings[0].names == ("a.w",)


def test_files_are_read_one_tensor_at_a_time_and_broken_ones_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    values = FileTensors({"a": (tmp_path / "model.safetensors", "a"), "b": (tmp_path / "absent.safetensors", "b")})
    assert list(values) == ["a", "b"] and torch.equal(values["a"], torch.ones(2))
    with pytest.raises(ParityError, match="cannot be read"):
        values["b"]


def test_one_suggestion_for_all_blocks_in_fastvideos_own_form() -> None:
    """Project: a rule that sends every block's tensors to the wrong place is answered with one rule that does not."""
    official, port = {}, {}
    for block in range(12):
        for tail in ("weight", "bias"):
            shape = (4, 4) if tail == "weight" else (4,)
            for theirs, mine in (("to_q", "norm"), ("norm", "to_q")):
                official[f"blocks.{block}.attn1.{theirs}.{tail}"] = torch.randn(shape)
                port[f"blocks.{block}.{mine}.{tail}"] = official[f"blocks.{block}.attn1.{theirs}.{tail}"].clone()
    old = r"^blocks\.(\d+)\.attn1\.(.*)$"
    proof = _prove(official, port, {old: r"blocks.\1.\2"})
    assert len(proof.suggestions) == 2, proof.suggestions
    rule = r"""r"^blocks\.(\d+)\.attn1\.to_q\.(.*)$": r"blocks.\1.norm.\2" (24 tensors, by value)."""
    assert any(rule in text for text in proof.suggestions), proof.suggestions


def test_a_vocabulary_padded_with_rows_arrives_and_rows_that_differ_do_not() -> None:
    """Project: FastVideo pads embeddings to a multiple of 64; the official rows must be the first ones."""
    official = _official()
    port = _port(official)
    port["x.w"] = torch.cat([official["a.w"], torch.zeros(3, 4)])
    proof = _prove(official, port)
    assert _whole(proof) and _codes(proof) == ["padded"] and not proof.findings[0].fatal
    port["x.w"] = torch.cat([torch.zeros(3, 4), official["a.w"]])
    shifted = _prove(official, port)
    assert shifted.shape_mismatches == [("a.w", "x.w", (4, 4), (7, 4))] and not _whole(shifted)


def test_what_no_checkpoint_holds_is_named_where_it_was_not_computed() -> None:
    """FastVideo: non-persistent buffers stay on meta unless the model makes them; _extra_state is skipped."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("freqs", torch.ones(3, device="meta"), persistent=False)
            self.register_buffer("table", torch.ones(3))

        def get_extra_state(self) -> torch.Tensor:
            return torch.ones(1)

    tensors = tensors_of_model(Net())
    assert list(tensors) == ["table"]
    found = left_on_meta(Net(), tensors)
    assert [item.code for item in found] == ["never-loaded"] and "'freqs'" in found[0].message
