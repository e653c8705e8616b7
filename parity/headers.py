"""Names, shapes and dtypes of a checkpoint from the headers of its files: 28 GB in milliseconds, no tensor read."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ParityError
from .mapping import Finding
from .weights import Entry, weight_files

DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32",
    "I64": "int64", "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64",
}  # fmt: skip
"""Safetensors' names of dtypes -> torch's."""
_MAX_HEADER = 100_000_000
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What a document of another form raises on the way to what is wanted of it."""


@dataclass
class Headers:
    """What the headers of a folder say.

    Attributes:
        entries: By name; without digests.
        homes: The file of each name and its name there; of two files with one key the last, as FastVideo's loaders do.
        findings: What is wrong with the files.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    homes: dict[str, tuple[Path, str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def dtype(self) -> str:
        """The dtype among float32, bfloat16 and float16 in which most elements are stored; float32 if none is."""
        count = dict.fromkeys(("float32", "bfloat16", "float16"), 0)
        for item in self.entries.values():
            if item.dtype in count:
                count[item.dtype] += item.elements
        return max(count, key=lambda name: count[name])


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors that one file declares, in the order of their bytes.

    Raises:
        ParityError: The file is not a safetensors file, or is shorter than its header says.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
            (length,) = struct.unpack("<Q", start)
            size = path.stat().st_size
            if length > min(size - 8, _MAX_HEADER):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            document = json.loads(file.read(length))
        document.pop("__metadata__", None)
        rows = sorted(document.items(), key=lambda row: row[1]["data_offsets"][0])
        end = 8 + length + max((row["data_offsets"][1] for _, row in rows), default=0)
        if end != size:
            raise ValueError(f"the header describes {end} bytes, the file has {size}")
        return {name: _entry(name, row) for name, row in rows}
    except (OSError, *_MALFORMED, struct.error) as error:
        raise ParityError(
            "A weights file cannot be read.",
            seen=f"{path}: {error}",
            fix="Fetch the weights again; a truncated download is the usual cause.",
        ) from error


def _entry(name: str, row: dict[str, Any]) -> Entry:
    shape = row["shape"]
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"{name[:80]!r} has the shape {shape!r:.60}")
    return Entry(name, tuple(shape), DTYPES.get(row["dtype"], row["dtype"].lower()))


def read_headers(folder: Path) -> Headers:
    """All headers of a folder, and what is wrong between its files and its index.

    Raises:
        ParityError: There is no safetensors file, or one cannot be read.
    """
    files = weight_files(folder)
    if not files:
        raise ParityError(
            "The component's weights folder holds no safetensors file.",
            seen=str(folder),
            fix="Fetch the weights again with patterns that include the component's *.safetensors files.",
        )
    found = Headers()
    holds: dict[str, set[str]] = {}
    twice: dict[tuple[str, str], list[str]] = {}
    for path in files:
        rows = read_header(path)
        holds[path.name] = set(rows)
        for name in rows.keys() & found.homes.keys():
            twice.setdefault((found.homes[name][0].name, path.name), []).append(name)
        found.entries.update(rows)
        found.homes.update({name: (path, name) for name in rows})
    for (first, second), names in twice.items():
        message = (
            f"{len(names)} keys, {sorted(names)[0]!r} first, are in {first} and in {second}; "
            "the loader keeps whichever it reads last."
        )
        found.findings.append(Finding("duplicate-key", message, tuple(sorted(names))))
    for index in sorted(folder.glob("*.safetensors.index.json")):
        found.findings += _index_findings(index, holds)
    return found


def _index_findings(path: Path, holds: dict[str, set[str]]) -> Iterator[Finding]:
    try:
        table = {str(name): str(file) for name, file in json.loads(path.read_text("utf-8"))["weight_map"].items()}
    except (OSError, *_MALFORMED) as error:
        yield Finding("index-unreadable", f"{path.name} cannot be read: {type(error).__name__}: {error}", (path.name,))
        return
    for file in sorted(set(table.values()) - set(holds)):
        names = tuple(sorted(name for name, home in table.items() if home == file))
        message = f"{path.name} names {file}, which is not there; it holds {len(names)} keys, {names[0]!r} first."
        yield Finding("shard-absent", message, names)
    lost = tuple(sorted(name for name, file in table.items() if file in holds and name not in holds[file]))
    if lost:
        message = f"{path.name} says that {table[lost[0]]} holds {lost[0]!r}, and it does not ({len(lost)} such keys)."
        yield Finding("index-wrong", message, lost)
    unlisted = tuple(sorted(set(holds) - set(table.values())))
    if unlisted:
        message = (
            f"{path.name} does not name {', '.join(unlisted)}: text encoders leave such files out, "
            "FastVideo's DiT and VAE loaders read them."
        )
        yield Finding("file-not-in-index", message, unlisted, fatal=False)


def elements(entries: dict[str, Entry]) -> int:
    """Elements of all tensors together."""
    return sum(math.prod(item.shape) for item in entries.values())
