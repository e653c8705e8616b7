"""The header of a safetensors file, read and checked without torch and without touching a tensor's bytes."""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .errors import PortError
from .paths import open_regular

MAX_HEADER = 100_000_000
"""Largest header in bytes; the limit that the safetensors library itself has."""

_LFS = b"version "
"""What every pointer of git LFS begins with; as the length of a header it would be 2e18."""

BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits of one element of each dtype that safetensors 0.8 knows."""


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as the header describes it.

    Attributes:
        dtype: Safetensors' name, for example ``BF16``.
        shape: Sizes; empty for a scalar.
        begin: Offset of the first byte, counted from the end of the header.
        end: Offset behind the last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A checked header.

    Attributes:
        tensors: By name, in the order of the file.
        metadata: The free text that came along; untrusted.
        data_start: Offset of the first tensor's bytes in the file.
        file_bytes: Size of the file.
    """

    tensors: dict[str, TensorHeader]
    metadata: dict[str, str]
    data_start: int
    file_bytes: int


def read_header(path: Path) -> Header:
    """Read and check the header of ``path``.

    What holds afterwards: the JSON has no key twice; every dtype is known; every tensor has exactly the bytes that its
    shape needs; the tensors fill the rest of the file without a gap, an overlap or a byte behind them.

    Raises:
        PortError: One of these does not hold, the header is larger than ``MAX_HEADER``, or the file cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        if len(start) < 8:
            _refuse(path, "it is too short to hold a header", f"{size} bytes", cut=True)
        if start == _LFS:
            raise PortError(
                f"{path.name} is not a safetensors file but the note that git LFS leaves in its place.",
                seen=f"{path}: {size} bytes of text",
                fix="Fetch the file itself: git lfs pull where it came from, or fetch_weights with a hub id.",
            )
        (length,) = struct.unpack("<Q", start)
        if length > MAX_HEADER:
            _refuse(path, "its header is larger than any safetensors header may be", f"{length} bytes")
        if length > size - 8:
            _refuse(path, "it ends inside its header", f"header of {length} bytes, file of {size}", cut=True)
        text = file.read(length)
    if len(text) != length or not text.startswith(b"{"):
        _refuse(path, "its header is not a JSON object", repr(text[:20]))
    entries = _parse(path, text)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, "its __metadata__ is not a table of texts", repr(metadata)[:80])
    tensors = {name: _tensor(path, name, entry) for name, entry in entries.items()}
    _check_cover(path, tensors, size - 8 - length)
    return Header(tensors, metadata, 8 + length, size)


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            _refuse(path, "its header holds a key twice", repr(twice[:120]))
        return table

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_constant=constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        _refuse(path, "its header is not valid JSON", str(error)[:120])
    if not isinstance(entries, dict):
        _refuse(path, "its header is not a JSON object", type(entries).__name__)
    return entries


def _tensor(path: Path, name: str, entry: Any) -> TensorHeader:
    shown = f"tensor {name[:120]!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"{shown} is not described by dtype, shape and data_offsets", repr(entry)[:120])
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _refuse(path, f"{shown} has a dtype that is not known", repr(dtype)[:60])
    if not _counts(shape) or len(shape) > 64:
        _refuse(path, f"{shown} has no valid shape", repr(shape)[:80])
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, f"{shown} has no valid data_offsets", repr(offsets)[:80])
    tensor = TensorHeader(dtype, tuple(shape), offsets[0], offsets[1])
    bits = tensor.elements * BITS[dtype]
    if bits % 8 or bits // 8 != tensor.end - tensor.begin:
        _refuse(
            path,
            f"{shown} does not have the bytes that its shape needs",
            f"{dtype} {list(shape)} needs {bits / 8:g}, data_offsets give {tensor.end - tensor.begin}",
        )
    return tensor


def _counts(value: Any) -> bool:
    """Whether ``value`` is a list of counts that a 64-bit reader can hold (a bool is none)."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_cover(path: Path, tensors: dict[str, TensorHeader], available: int) -> None:
    position, before = 0, "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            fault = "overlaps" if tensor.begin < position else "leaves a gap behind"
            _refuse(
                path,
                f"tensor {name[:120]!r} {fault} {before}",
                f"it begins at {tensor.begin}, the bytes before end at {position}",
            )
        position, before = tensor.end, f"tensor {name[:120]!r}"
    if position > available:
        _refuse(path, "it ends before its last tensor", f"{available} bytes of {position}", cut=True)
    if position < available:
        _refuse(path, "it has bytes behind its last tensor", f"{available - position} bytes too many")


def _refuse(path: Path, why: str, seen: str, *, cut: bool = False) -> NoReturn:
    raise PortError(
        f"{path.name} is not a sound safetensors file: {why}.",
        seen=f"{path}: {seen}",
        fix="The file is cut short: fetch or copy it again."
        if cut
        else "Fetch the file again, or ask its author for a sound one.",
    )
