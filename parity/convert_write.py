"""Write converted tensors as safetensors, one after the other: the header first, then bytes, shard by shard.

Peak memory beside memory-mapped files: chunks of a few million elements; a reshape of a permuted tensor copies it once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from .convert_ops import rearranged
from .convert_rules import Output, Piece
from .digests import flat_pieces
from .errors import ParityError
from .headers import DTYPES

SHARD_BYTES = 5 * 1000**3
"""Largest shard, as diffusers and transformers write them by default."""
_NAMES = {torch_name: name for name, torch_name in DTYPES.items()}


def item_bytes(dtype: str) -> int:
    """Bytes of one element.

    Raises:
        ParityError: This torch does not know the dtype.
    """
    known = getattr(torch, dtype, None)
    if dtype not in _NAMES or not isinstance(known, torch.dtype):
        raise ParityError(
            "A tensor has a dtype that cannot be converted.", seen=dtype, fix="Convert it with a script, or drop it."
        )
    return int(torch.empty((), dtype=known).element_size())


def shards(outputs: list[Output], limit: int = SHARD_BYTES) -> list[list[Output]]:
    """The outputs in natural order of their names, cut where a shard would grow beyond ``limit`` bytes."""
    groups: list[list[Output]] = [[]]
    size = 0
    for output in sorted(outputs, key=lambda item: _natural(item.name)):
        more = math.prod(output.shape) * item_bytes(output.dtype)
        if groups[-1] and size + more > limit:
            groups.append([])
            size = 0
        groups[-1].append(output)
        size += more
    return groups


def write_component(
    folder: Path,
    stem: str,
    outputs: list[Output],
    source: Mapping[str, torch.Tensor],
    advance: Callable[[int, str], None],
    limit: int = SHARD_BYTES,
) -> dict[str, str]:
    """Write one component's shards and, where there are several, their index; file name -> SHA-256.

    Args:
        folder: Made if absent.
        stem: File name before the number.
        outputs: All tensors of the component; their names begin with ``<component>/``.
        source: The source tensors, memory-mapped.
        advance: Called with bytes written and the tensor's name.
        limit: Bytes of tensors per shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = shards(outputs, limit)
    digests: dict[str, str] = {}
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = f"{stem}.safetensors" if len(groups) == 1 else f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors"
        digests[name] = _write_file(folder / name, group, source, advance)
        weight_map |= {_inner(output.name): name for output in group}
    if len(groups) > 1:
        total = sum(math.prod(item.shape) * item_bytes(item.dtype) for item in outputs)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return digests


def _write_file(
    path: Path, group: list[Output], source: Mapping[str, torch.Tensor], advance: Callable[[int, str], None]
) -> str:
    # Wider elements first, so that every tensor lies aligned to its own size.
    ordered = sorted(group, key=lambda item: (-item_bytes(item.dtype), _natural(item.name)))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for output in ordered:
        size = math.prod(output.shape) * item_bytes(output.dtype)
        header[_inner(output.name)] = {
            "dtype": _NAMES[output.dtype],
            "shape": list(output.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        start = struct.pack("<Q", len(text)) + text
        file.write(start)
        digest.update(start)
        for output in ordered:
            for chunk in stream(output, source):
                # flat and contiguous: its bytes are written as they are, so bfloat16 survives bit for bit
                data = chunk.view(torch.uint8).numpy().data
                file.write(data)
                digest.update(data)
                advance(len(data), output.name)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def stream(output: Output, source: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """The elements of a target in row-major order, as flat contiguous tensors of its dtype of bounded size."""
    dtype = getattr(torch, output.dtype)
    rows = [taken(piece, source) for piece in output.pieces]
    if not output.then and (len(rows) == 1 or output.dim == 0):
        parts = rows
    else:
        parts = [rearranged(rows[0] if len(rows) == 1 else torch.cat(rows, output.dim), output.then)]
    for part in parts:
        for flat in flat_pieces(part):
            yield flat.to(dtype).contiguous()


def taken(piece: Piece, source: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A source tensor behind its steps, cut to the piece; a view as far as torch has one."""
    tensor = rearranged(source[piece.source], piece.ops)
    if tensor.ndim and piece.dim < tensor.ndim and (piece.start or piece.length != tensor.shape[piece.dim]):
        tensor = tensor.narrow(piece.dim, piece.start, piece.length)
    return tensor


def _inner(name: str) -> str:
    return name.partition("/")[2]


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
