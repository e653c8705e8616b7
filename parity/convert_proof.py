"""Proof that a conversion by rules lost and doubled no value: what was written is read back and compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from .convert_ops import shape_after, undone
from .convert_rules import ConversionPlan, Output, Piece
from .convert_write import taken
from .digests import bag, same, same_rounded
from .mapping import Finding
from .weights import Entry


@dataclass
class ConversionProof:
    """Where every source value went.

    Attributes:
        arrived: ``(tensors, all)`` of the source; those dropped on purpose are not counted.
        parameters: The same in elements.
        lost: Source tensors that arrive nowhere, in whole or in part.
        doubled: Target tensors whose values another target holds already.
        invented: Target tensors that hold nothing of the source.
        changed: Targets that hold a source tensor's values in changed form.
        findings: All of that in sentences.
        how: Tensors by the way they arrived.
    """

    arrived: tuple[int, int] = (0, 0)
    parameters: tuple[int, int] = (0, 0)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    how: dict[str, int] = field(default_factory=dict)

    def add(self, code: str, message: str, *names: str, fatal: bool = True) -> None:
        """Note a finding."""
        self.findings.append(Finding(code, message, names, fatal))

    def to_json(self) -> dict[str, Any]:
        """The proof as JSON."""
        rows = [{"code": f.code, "message": f.message, "names": list(f.names)[:20], "fatal": f.fatal}
                for f in self.findings]  # fmt: skip
        return {**self.__dict__, "findings": rows}


def prove_plan(
    plan: ConversionPlan,
    source: Mapping[str, Entry],
    values: Mapping[str, torch.Tensor],
    written: Mapping[str, torch.Tensor],
    advance: Callable[[str], None],
) -> ConversionProof:
    """Compare every piece with the source, bit for bit (rounded where a cast was asked for), and count values.

    Three independent things have to hold. Each target, with its last steps undone, holds the pieces. The pieces of a
    source tensor cover each of its rows once. And the bag of a source tensor's values (digest that ignores order)
    is the sum of the bags of its pieces as they stand in the files, which no mistake in a step can satisfy by chance.
    """
    proof = ConversionProof()
    where: dict[str, list[tuple[Piece, Output, torch.Tensor]]] = defaultdict(list)
    for name in written:
        if name not in plan.outputs:
            proof.invented.append(name)
            proof.add("invented", f"{name!r} stands in the files, and no rule makes it.", name)
    for output in plan.outputs.values():
        advance(output.name)
        if output.name not in written:
            proof.add("not-written", f"{output.name!r} was planned and is not in the files.", output.name)
            continue
        for piece, part in _parts(output, written[output.name], source):
            where[piece.source].append((piece, output, part))
            if not _holds(taken(piece, values), part):
                proof.changed.append(output.name)
                message = f"{output.name!r} does not hold the values of {piece.source!r} where the rules put them."
                proof.add("values-differ", message, output.name, piece.source)
    counted = [name for name in source if name not in plan.dropped]
    whole = []
    for name in counted:
        advance(name)
        pieces = sorted(where[name], key=lambda row: row[0].start)
        shape = shape_after(source[name].shape, pieces[0][0].ops) if pieces else ()
        height = shape[pieces[0][0].dim] if pieces and shape and isinstance(shape, tuple) else 0
        spans = [(piece.start, piece.start + piece.length) for piece, *_ in pieces]
        covered = spans and spans[0][0] == 0 and all(one[1] == two[0] for one, two in pairwise(spans))
        if not pieces or (len(spans) > 1 and not (covered and spans[-1][1] == height)):
            proof.lost.append(name)
            proof.add("lost", f"{name!r} arrives nowhere, or only in part.", name)
        elif not _same_bag(values[name], [part for *_, part in pieces]):
            proof.changed.append(name)
            proof.add("values-counted", f"The values of {name!r} are not all there, each once, in its targets.", name)
        else:
            whole.append(name)
    proof.arrived = (len(whole), len(counted))
    proof.parameters = (sum(source[n].elements for n in whole), sum(source[n].elements for n in counted))
    proof.how = _how(plan, source)
    for key, count in proof.how.items():
        if key.startswith("rounded"):
            proof.add("cast-loses-bits", f"{count} tensors were {key}, as the rules say.", fatal=False)
    return proof


def _parts(output: Output, tensor: torch.Tensor, source: Mapping[str, Entry]) -> list[tuple[Piece, torch.Tensor]]:
    """The pieces as they stand in a written target."""
    shapes = []
    for piece in output.pieces:
        shape = shape_after(source[piece.source].shape, piece.ops)
        assert isinstance(shape, tuple)
        cut = piece.dim < len(shape)
        shapes.append((*shape[: piece.dim], piece.length, *shape[piece.dim + 1 :]) if cut else shape)
    joined = list(shapes[0])
    if len(shapes) > 1:
        joined[output.dim] = sum(shape[output.dim] for shape in shapes)
    back = undone(tensor, tuple(joined), output.then)
    if len(shapes) == 1:
        return [(output.pieces[0], back)]
    parts, start = [], 0
    for piece, shape in zip(output.pieces, shapes, strict=True):
        parts.append((piece, back.narrow(output.dim, start, shape[output.dim])))
        start += shape[output.dim]
    return parts


def _holds(theirs: torch.Tensor, mine: torch.Tensor) -> bool:
    if theirs.shape != mine.shape:
        return False
    return same([theirs], [mine]) or (theirs.dtype != mine.dtype and same_rounded(theirs, mine, mine.dtype))


def _same_bag(theirs: torch.Tensor, parts: list[torch.Tensor]) -> bool:
    if any(part.dtype != theirs.dtype for part in parts) or theirs.dtype == torch.float64:
        return sum(part.numel() for part in parts) == theirs.numel()  # rounded: compared value by value above
    found = [bag(part) for part in parts]
    count, total, squares = (sum(column) for column in zip(*found, strict=True))
    return (count, total % 2**64, squares % 2**64) == bag(theirs)


def _how(plan: ConversionPlan, source: Mapping[str, Entry]) -> dict[str, int]:
    how: dict[str, int] = defaultdict(int)
    for output in plan.outputs.values():
        for piece in output.pieces:
            steps = [op.kind for op in (*piece.ops, *output.then) if op.kind != "cast"]
            steps += ["merged"] if len(output.pieces) > 1 else []
            shape = shape_after(source[piece.source].shape, piece.ops)
            part = isinstance(shape, tuple) and piece.dim < len(shape) and piece.length != shape[piece.dim]
            steps += ["split"] if part else []
            how[" and ".join(steps) or "as it was"] += 1
            before = source[piece.source].dtype
            if _loses(before, output.dtype):
                how[f"rounded to {output.dtype}"] += 1
            elif before != output.dtype:
                how[f"widened to {output.dtype}"] += 1
    return dict(how)


def _loses(before: str, after: str) -> bool:
    wider = {"float16": ("float32", "float64"), "bfloat16": ("float32", "float64"), "float32": ("float64",)}
    return before != after and after not in wider.get(before, ())
