"""Headers and names: read without a value, wrong files named, and a misfit only where it is certain."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.fit import misfit, nearest
from fastvideo_port.parity.headers import read_header, read_headers
from fastvideo_port.parity.mapping import plan
from fastvideo_port.parity.weights import Entry
from safetensors.torch import save_file


def _shards(folder: Path) -> None:
    save_file({"a.w": torch.ones(2, 3), "a.b": torch.ones(2).bfloat16()}, folder / "model-1.safetensors")
    save_file({"c.w": torch.ones(4, 3).half()}, folder / "model-2.safetensors")
    table = {"a.w": "model-1.safetensors", "a.b": "model-1.safetensors", "c.w": "model-2.safetensors"}
    _index(folder, table)


def _index(folder: Path, table: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def _codes(folder: Path) -> list[tuple[str, bool]]:
    return [(finding.code, finding.fatal) for finding in read_headers(folder).findings]


def test_names_shapes_and_dtypes_come_from_the_headers(tmp_path: Path) -> None:
    _shards(tmp_path)
    found = read_headers(tmp_path)
    assert not found.findings and found.dtype == "float16"
    rows = {name: (item.shape, item.dtype, found.homes[name][0].name) for name, item in found.entries.items()}
    assert rows["a.b"] == ((2,), "bfloat16", "model-1.safetensors")
    assert rows["c.w"] == ((4, 3), "float16", "model-2.safetensors") and len(rows) == 3


def test_28_gb_of_nothing_are_read_from_their_header(tmp_path: Path) -> None:
    size = 14_000_000_000
    header = json.dumps({"w": {"dtype": "BF16", "shape": [140_000, 100_000], "data_offsets": [0, 2 * size]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 2 * size)
    assert read_headers(tmp_path).entries["w"].elements == size


def test_an_index_and_its_files_that_disagree_are_named(tmp_path: Path) -> None:
    _shards(tmp_path)
    good = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    _index(tmp_path, good | {"d.w": "model-3.safetensors"})
    assert _codes(tmp_path) == [("shard-absent", True)]
    assert "model-3.safetensors" in read_headers(tmp_path).findings[0].message
    _index(tmp_path, good | {"d.w": "model-2.safetensors"})
    assert _codes(tmp_path) == [("index-wrong", True)]
    _index(tmp_path, {name: file for name, file in good.items() if file == "model-1.safetensors"})
    assert _codes(tmp_path) == [("file-not-in-index", False)]
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert _codes(tmp_path) == [("index-unreadable", True)]


def test_two_files_that_hold_one_key_are_named(tmp_path: Path) -> None:
    _shards(tmp_path)
    save_file({"a.w": torch.zeros(2, 3)}, tmp_path / "whole.safetensors")
    assert ("duplicate-key", True) in _codes(tmp_path)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="holds no safetensors file"):
        read_headers(tmp_path)
    _shards(tmp_path)
    path = tmp_path / "model-1.safetensors"
    whole = path.read_bytes()
    for broken in (whole[:-1], whole + b"0", whole[:6], b"\xff" * 64, struct.pack("<Q", 2) + b"[]"):
        path.write_bytes(broken)
        with pytest.raises(ParityError, match="cannot be read"):
            read_header(path)


def _entries(**shapes: tuple[int, ...]) -> dict[str, Entry]:
    return {
        name.replace("__", "."): Entry(name.replace("__", "."), shape, "bfloat16") for name, shape in shapes.items()
    }


OFFICIAL = _entries(a__w=(4, 4), b__w=(4, 6), c__w=(3,))
RULES = {r"^a\.(.*)$": r"x.\1", r"^b\.(.*)$": r"y.\1"}


def test_a_misfit_is_certain_or_none() -> None:
    planned = plan(RULES, OFFICIAL)
    port = {"x.w": (4, 4), "y.w": (4, 6), "c.w": (3,)}
    assert misfit(OFFICIAL, port, planned) is None
    assert misfit(OFFICIAL, port, None) is None
    lost = misfit(OFFICIAL, {"x.w": (4, 4), "y.w": (4, 6)}, planned)
    assert lost is not None and lost.unexpected == ["c.w"]
    assert misfit(OFFICIAL, {"x.w": (4, 4), "y.w": (4, 6)}, planned, unused={"c.w"}) is None
    more = misfit(OFFICIAL, port | {"z.w": (7, 7)}, planned)
    assert more is not None and more.missing == ["z.w"]
    assert misfit(OFFICIAL, port | {"z.w": (7, 7)}, planned, buffers={"z.w"}) is None


def test_what_only_values_can_tell_is_left_to_them() -> None:
    planned = plan(RULES, OFFICIAL)
    elsewhere = {"x.w": (4, 4), "y.w": (4, 6), "moved.w": (3,)}
    assert misfit(OFFICIAL, elsewhere, planned) is None, "the loader may have a rule of its own"
    assert misfit(OFFICIAL, {"x.w": (4, 4), "y.w": (4, 6), "c.w": (3,), "tied.w": (3,)}, planned) is None
    assert misfit(OFFICIAL, {"x.w": (4, 4), "y.w": (8, 6), "c.w": (3,)}, planned) is None, "a padded vocabulary"


def test_a_loader_that_refused_is_explained_by_names_with_a_rule_that_was_tried() -> None:
    official = {
        f"blocks.{n}.attn1.to_q.weight": Entry(f"blocks.{n}.attn1.to_q.weight", (4, 4), "bfloat16") for n in range(30)
    }
    port = {f"blocks.{n}.to_q.weight": (4, 4) for n in range(30)}
    found = misfit(official, port, plan({}, official), refused="ValueError: Parameter not found")
    assert found is not None and len(found.unexpected) == len(found.missing) == 30
    rule = r'r"^blocks\.(\d+)\.attn1\.to_q\.(.*)$": r"blocks.\1.to_q.\2" (30 tensors'
    assert len(found.suggestions) == 1 and rule in found.suggestions[0], found.suggestions
    assert misfit(official, dict.fromkeys(official, (4, 4)), plan({}, official), refused="out of luck") is None


def test_the_nearest_place_is_chosen_block_by_block() -> None:
    stray = {f"b.{n}.attn2.k.w": (4,) for n in range(3)} | {f"b.{n}.attn1.k.w": (4,) for n in range(3)}
    empty = {f"b.{n}.attn1.to_k.w": (4,) for n in range(3)} | {f"b.{n}.attn2.to_k.w": (4,) for n in range(3)}
    places = {place.official: place.port for place in nearest(stray, empty)}
    assert places == {name: name.replace("k.w", "to_k.w") for name in stray}
