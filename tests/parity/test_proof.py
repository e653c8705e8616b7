"""The proof that weights arrived: every finding seen red, and what is right left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.mapping import plan
from fastvideo_port.parity.proof import Proof, prove
from fastvideo_port.parity.weights import digest, entry, read_files, weight_files
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
    found = prove(
        entries, {name: entry(name, t) for name, t in port.items()}, port, planned, official if at_hand else None
    )
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


def test_a_swapped_pair_is_named_with_the_way_back() -> None:
    official = _official()
    port = _port(official)
    port["x.w"], port["y.w"] = port["y.w"], port["x.w"]
    proof = _prove(official, port)
    assert _codes(proof) == ["swapped", "swapped"] and proof.tensors == (6, 8)
    assert "Rename 'b.w' to 'x.w' and 'a.w' to 'y.w'." in proof.suggestions


def test_a_wrong_target_is_named() -> None:
    official = _official()
    port = _port(official)
    port["z.w"], port["x.w"] = port["x.w"], torch.randn(4, 4)
    proof = _prove(official, port)
    assert "wrong-target" in _codes(proof) and "Rename 'a.w' to 'z.w'." in proof.suggestions


@pytest.mark.parametrize("name", ["x.w", "x.wide"])
def test_a_transpose_is_named_square_or_not(name: str) -> None:
    official = _official()
    port = _port(official)
    port[name] = port[name].t().contiguous()
    proof = _prove(official, port)
    assert _codes(proof) == ["transposed"] and proof.tensors == (7, 8) and not proof.shape_mismatches


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
    assert _codes(_prove(official, port, at_hand=True)) == ["cast-loses-bits"]
    assert _codes(_prove(official, port)) == ["values-differ"]


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
    assert "'a.bias' may belong to 'x.offset': same shape and the nearest name." in proof.suggestions


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


def test_digests_see_values_not_storage() -> None:
    base = torch.arange(24.0).reshape(4, 6)
    assert digest(base) == digest(base.double()) == digest(base.bfloat16()) == digest(base.t().contiguous().t())
    assert digest(base) != digest(base.t()) and digest(base) != digest(base + 1)
    assert digest(torch.tensor([1, 2])) == digest(torch.tensor([1, 2], dtype=torch.int32))


def test_checkpoints_are_streamed_and_broken_ones_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model-2.safetensors")
    save_file({"b": torch.ones(3)}, tmp_path / "model-1.safetensors")
    found = [(name, path.name) for name, _, path in read_files(weight_files(tmp_path))]
    assert found == [("b", "model-1.safetensors"), ("a", "model-2.safetensors")]
    whole = (tmp_path / "model-1.safetensors").read_bytes()
    (tmp_path / "model-1.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ParityError, match="cannot be read"):
        list(read_files(weight_files(tmp_path)))


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
