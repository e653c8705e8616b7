"""The values of a tensor as an aligned stream of bit patterns: digests of it, and comparison bit for bit.

Everything here works on bounded chunks, on the device where the tensor is, so that a 2 GiB embedding costs a few
hundred MiB beside itself; and it gives the same digest on a CPU and on a GPU, because it only adds and multiplies
integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

CHUNK = 1 << 22
"""Elements that are looked at together: at most about 150 MiB of temporaries."""
_BLOCK = 1 << 16
_HEAD = 64


@dataclass(frozen=True)
class Fingerprint:
    """Two digests of a tensor's values.

    Attributes:
        ordered: Of the values in row-major order; the shape does not count.
        bag: Of the values whatever their order: a permuted tensor has the same one.
        constant: The value that all elements have, or none.
    """

    ordered: str
    bag: str
    constant: float | None


def chunks(*tensors: torch.Tensor, raw: bool = False) -> Iterator[torch.Tensor]:
    """The bit patterns of all values in row-major order, tensor after tensor, ``CHUNK`` at a time.

    Floats are widened to float32 first, so that a lossless cast does not show (int32 patterns; where a float64 value
    does not survive float32 the chunk holds its int64 patterns). Other dtypes give int64 values, with ``raw`` the
    values as they are; complex numbers give their parts.
    """
    held: list[torch.Tensor] = []
    count = 0
    for tensor in tensors:
        for piece in flat_pieces(torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.detach()):
            rest = piece
            while rest.numel():
                part = rest[: CHUNK - count]
                rest = rest[part.numel() :]
                held.append(part)
                count += part.numel()
                if count == CHUNK:
                    yield _bits(held, raw)
                    held, count = [], 0
    if held:
        yield _bits(held, raw)


def flat_pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Flat pieces of at most ``CHUNK`` elements; what has to be copied (strided views) is copied piece by piece."""
    if tensor.is_contiguous():
        flat = tensor.view(-1)
        for start in range(0, flat.numel(), CHUNK):
            yield flat[start : start + CHUNK]
    elif tensor.numel() <= CHUNK:
        yield tensor.reshape(-1)
    else:
        rows = max(1, CHUNK // max(1, tensor[0].numel()))
        for start in range(0, tensor.shape[0], rows):
            part = tensor[start : start + rows]
            if rows == 1:
                yield from flat_pieces(part[0])
            else:
                yield part.reshape(-1)


def _bits(parts: list[torch.Tensor], raw: bool = False) -> torch.Tensor:
    if len({part.dtype for part in parts}) > 1 or len({part.device for part in parts}) > 1:
        parts = [part.to(parts[0].device, _wide(part)) for part in parts]
    values = parts[0] if len(parts) == 1 else torch.cat(parts)
    if not values.is_floating_point():
        return values if raw else values.to(torch.int64)
    narrow = values.to(torch.float32)
    if values.dtype == torch.float64 and not torch.equal(narrow.to(torch.float64).nan_to_num(), values.nan_to_num()):
        return values.contiguous().view(torch.int64)
    return narrow.contiguous().view(torch.int32)


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.is_floating_point() else torch.int64


def same(theirs: list[torch.Tensor], mine: list[torch.Tensor]) -> bool:
    """Whether two sequences of tensors hold the same values, bit for bit after a lossless cast; stops at a difference.

    Chunks of ``theirs`` are moved to the device of ``mine``.
    """
    if sum(t.numel() for t in theirs) != sum(t.numel() for t in mine):
        return False
    if (theirs and mine) and _kind(theirs[0]) != _kind(mine[0]):
        return False
    raw = len({tensor.dtype for tensor in (*theirs, *mine)}) == 1
    if raw:
        theirs, mine = _patterns(theirs), _patterns(mine)
    return all(
        ours.dtype == other.dtype and torch.equal(other.to(ours.device), ours)
        for other, ours in zip(chunks(*theirs, raw=raw), chunks(*mine, raw=raw), strict=True)
    )


def _patterns(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors of one dtype as the integers of their bits: between equal dtypes nothing has to be widened."""
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensors[0].element_size())
    if integer is None or tensors[0].dtype == torch.bool:
        return tensors
    return [tensor.detach().view(integer) for tensor in tensors]


def _kind(tensor: torch.Tensor) -> str:
    return "float" if tensor.is_floating_point() or tensor.is_complex() else "integer"


def same_rounded(theirs: torch.Tensor, mine: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether ``mine`` holds ``theirs`` rounded to ``dtype``, chunk by chunk."""
    if theirs.shape != mine.shape or not (theirs.is_floating_point() and mine.is_floating_point()):
        return False
    pairs = zip(flat_pieces(theirs.contiguous()), flat_pieces(mine.contiguous()), strict=True)
    return all(
        torch.equal(_bits([other.to(ours.device).to(dtype)]), _bits([ours])) for other, ours in pairs if ours.numel()
    )


def head(tensor: torch.Tensor) -> bytes:
    """The bit patterns of the first 64 values: what differs here differs, at almost no cost."""
    part = tensor
    while part.ndim > 1 and part.shape[0] and part[0].numel() >= _HEAD:
        part = part[0]
    if part.ndim > 1 and part.shape[0] and part[0].numel():
        part = part[: -(-_HEAD // part[0].numel())]
    flat = part.reshape(-1)[:_HEAD]
    return next((bits.cpu().numpy().tobytes() for bits in chunks(flat)), b"")


def constant(tensor: torch.Tensor) -> float | None:
    """The value that all elements have, or none; stops at the first chunk that has another."""
    if not tensor.numel() or tensor.is_complex():
        return None
    first: torch.Tensor | None = None
    for bits in chunks(tensor):
        first = bits[:1] if first is None else first
        # Most tensors have another value among their first ones.
        if bits.dtype != first.dtype or not all(bool((part == first).all()) for part in (bits[:_HEAD], bits)):
            return None
    return float(tensor[(0,) * tensor.ndim])


def fingerprint(*tensors: torch.Tensor) -> Fingerprint:
    """Digests of the values of ``tensors``, one after the other."""
    return Fingerprint(ordered(*tensors), unordered(*tensors), constant(tensors[0]) if len(tensors) == 1 else None)


def ordered(*tensors: torch.Tensor) -> str:
    """Digest of the values in row-major order, tensor after tensor.

    Each block of 65,536 patterns is hashed with two multilinear functions modulo 2^64 with odd pseudo-random
    coefficients (Carter and Wegman 1979; coefficients by splitmix64), and the sums of all blocks with BLAKE2b.
    """
    sums, kinds = bytearray(), ""
    for bits in chunks(*tensors):
        kinds += _kind_of_chunk(bits, tensors[0])
        whole = bits.numel() // _BLOCK * _BLOCK
        for part in (bits[:whole].view(-1, _BLOCK), bits[whole:].view(1, -1)):
            if part.numel():
                sums += _sums(part)
    return hashlib.blake2b(_head_line(kinds, tensors).encode() + bytes(sums), digest_size=16).hexdigest()


def unordered(*tensors: torch.Tensor) -> str:
    """Digest of the values whatever their order: sum and sum of squares of the patterns modulo 2^64."""
    total, squares, kinds = 0, 0, ""
    for bits in chunks(*tensors):
        kinds += _kind_of_chunk(bits, tensors[0])
        powers = _powers(bits)
        total, squares = (total + powers[0]) % 2**64, (squares + powers[1]) % 2**64
    return f"{_head_line(kinds, tensors)} {total:x} {squares:x}"


def bag(*tensors: torch.Tensor) -> tuple[int, int, int]:
    """Number of values, and the sum and the sum of squares of their bit patterns modulo 2^64, whatever their order.

    Bags add: that of a tensor is the sum of those of its parts. The digest `unordered` is made of the same numbers.
    """
    count, total, squares = 0, 0, 0
    for bits in chunks(*tensors):
        powers = _powers(bits.cpu())
        count += bits.numel()
        total, squares = (total + powers[0]) % 2**64, (squares + powers[1]) % 2**64
    return count, total, squares


def _kind_of_chunk(bits: torch.Tensor, first: torch.Tensor) -> str:
    return "d" if bits.dtype == torch.int64 and first.is_floating_point() else ""


def _head_line(kinds: str, tensors: tuple[torch.Tensor, ...]) -> str:
    return f"{_kind(tensors[0])}{kinds} {sum(tensor.numel() for tensor in tensors)}"


def _widened(bits: torch.Tensor) -> Iterator[npt.NDArray[np.int64]]:
    """Pieces of a flat tensor on the CPU as int64, block after block in one array that stays in the cache."""
    values = bits.numpy()
    wide = np.empty(min(_BLOCK, values.size), np.int64)
    for start in range(0, values.size, _BLOCK):
        piece = values[start : start + _BLOCK]
        np.copyto(wide[: piece.size], piece)
        yield wide[: piece.size]


def _sums(part: torch.Tensor) -> bytes:
    """The multilinear sums of each row of ``part``: those of the first function, then those of the second."""
    tables = _tables(str(part.device))
    if part.device.type != "cpu":
        return _sums_by_torch(part, *tables)
    first, second = (table.numpy()[: part.shape[1]] for table in tables)
    rows = [(np.einsum("i,i", row, first), np.einsum("i,i", row, second)) for row in _widened(part.reshape(-1))]
    return np.array(rows, np.int64).T.tobytes()


def _sums_by_torch(part: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> bytes:
    """The same on any device."""
    width = part.shape[1]
    wide = part.to(torch.int64)
    return torch.stack([(wide * table[:width]).sum(1) for table in (first, second)]).cpu().numpy().tobytes()


def _powers(bits: torch.Tensor) -> tuple[int, int]:
    """The sum and the sum of squares of a chunk, modulo 2^64 with a sign or without."""
    if bits.device.type != "cpu":
        wide = bits.to(torch.int64)
        total, squares = torch.stack([wide.sum(), (wide * wide).sum()]).tolist()
        return total, squares
    found = [(int(row.sum()), int(np.einsum("i,i", row, row))) for row in _widened(bits)]
    return sum(total for total, _ in found), sum(squares for _, squares in found)


@cache
def _tables(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of odd 64-bit coefficients: splitmix64 (Steele, Lea, Flood 2014) from 1 on."""
    with np.errstate(over="ignore"):
        state = np.arange(1, 2 * _BLOCK + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = (state ^ (state >> np.uint64(31))) | np.uint64(1)
    table = torch.from_numpy(state.view(np.int64).copy()).to(device)
    return table[:_BLOCK], table[_BLOCK:]
