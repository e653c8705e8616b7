"""Headers of real files, and of files that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.safetensors_header import BITS, MAX_HEADER, read_header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    """A file with this header (JSON, or raw bytes) and these bytes behind it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def test_a_note_of_git_lfs_is_named_as_that(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(PortError, match="git LFS") as caught:
        read_header(path)
    assert "git lfs pull" in caught.value.fix


def test_a_real_file_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    tensors = {"a.weight": np.ones((3, 4), np.float16), "scalar": np.array(2.0), "empty": np.zeros((0, 5), np.int8)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        assert set(file.keys()) == set(header.tensors)
        for name in file.keys():  # noqa: SIM118 - not a dict
            assert list(header.tensors[name].shape) == file.get_slice(name).get_shape()
            assert header.tensors[name].dtype == file.get_slice(name).get_dtype()
    assert header.metadata == {"format": "pt"}
    assert header.tensors["a.weight"].elements == 12
    assert header.tensors["scalar"].elements == 1


def test_no_tensors_at_all_is_a_sound_file(tmp_path: Path) -> None:
    assert read_header(write(tmp_path / "x.safetensors", {})).tensors == {}


BAD = {
    "empty file": (None, "too short"),
    "seven bytes": (b"1234567", "too short"),
    "header of 2 GB": (struct.pack("<Q", 2 << 30) + b"{}", "larger than any"),
    "header just over the limit": (struct.pack("<Q", MAX_HEADER + 1) + b"{}", "larger than any"),
    "cut in the header": (struct.pack("<Q", 100) + b'{"a"', "ends inside its header"),
    "not JSON": (b'{"a": }', "not valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', "not valid JSON"),
    "NaN": (b'{"a": NaN}', "not valid JSON"),
    "a list": (b"[]", "not a JSON object"),
    "spaces first": (b" {}", "not a JSON object"),
    "endless nesting": (b'{"a":' + b"[" * 100_000, "not valid JSON"),
    "an endless number": (b'{"a":' + b"9" * 10_000 + b"}", "not valid JSON"),
    "the same tensor twice": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        "a key twice",
    ),
    "the same field twice": (b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', "a key twice"),
    "unknown dtype": ({"a": entry("F128")}, "dtype that is not known"),
    "dtype no text": ({"a": entry(["F32"])}, "dtype that is not known"),
    "negative shape": ({"a": entry(shape=[-2])}, "no valid shape"),
    "shape of truths": ({"a": entry(shape=[True, 2])}, "no valid shape"),
    "shape beyond 64 bits": ({"a": entry(shape=[2**70])}, "no valid shape"),
    "offsets reversed": ({"a": entry(offsets=[8, 0])}, "no valid data_offsets"),
    "three offsets": ({"a": entry(offsets=[0, 4, 8])}, "no valid data_offsets"),
    "negative offset": ({"a": entry(offsets=[-8, 0])}, "no valid data_offsets"),
    "wrong size": ({"a": entry(shape=[3])}, "bytes that its shape needs"),
    "half a byte": ({"a": entry("F4", [3], [0, 2])}, "bytes that its shape needs"),
    "sizes that multiply to the moon": ({"a": entry(shape=[2**62, 2**62])}, "bytes that its shape needs"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "not described by"),
    "more than is known": ({"a": entry(extra=1)}, "not described by"),
    "tensor no table": ({"a": 3}, "not described by"),
    "metadata no texts": ({"__metadata__": {"a": 1}}, "table of texts"),
    "overlap": ({"a": entry(), "b": entry(offsets=[4, 12])}, "overlaps"),
    "same place twice": ({"a": entry(), "b": entry()}, "overlaps"),
    "gap": ({"a": entry(), "b": entry(offsets=[12, 20])}, "leaves a gap"),
    "gap at the start": ({"a": entry(offsets=[8, 16])}, "leaves a gap"),
    "truncated": ({"a": entry(shape=[20], offsets=[0, 80])}, "ends before its last tensor"),
    "bytes behind": ({"a": entry("U8", [1], [0, 1])}, "bytes behind"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_unsound_file_is_refused_by_name(tmp_path: Path, case: str) -> None:
    content, what = BAD[case]
    path = tmp_path / "bad.safetensors"
    if content is None or (isinstance(content, bytes) and not content.lstrip().startswith((b"{", b"["))):
        path.write_bytes(content or b"")
    else:
        write(path, content, b"" if isinstance(content, bytes) else b"x" * 20)
    with pytest.raises(PortError, match=what) as caught:
        read_header(path)
    assert "bad.safetensors" in caught.value.what
    assert caught.value.fix


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.tuples(
            st.sampled_from([*BITS, "F99"]),
            st.lists(st.integers(0, 3), max_size=2),
            st.integers(0, 8),
            st.integers(0, 12),
        ),
        max_size=3,
    ),
    st.integers(0, 16),
)
def test_whatever_the_library_refuses_is_refused_here(tmp_path: Path, tensors: dict[str, Any], size: int) -> None:
    header = {name: entry(dtype, shape, [begin, end]) for name, (dtype, shape, begin, end) in tensors.items()}
    path = write(tmp_path / "x.safetensors", header, b"x" * size)
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError:
        with pytest.raises(PortError):
            read_header(path)
    else:
        read_header(path)
