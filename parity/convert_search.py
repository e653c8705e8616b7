"""Proof for a conversion by a script, of which nothing is known: every source tensor is looked for by its values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch

from .arrivals import Prover
from .convert_names import crossed
from .convert_proof import ConversionProof
from .values import Rows, Values
from .weights import Entry

_ROUNDED = ("bfloat16", "float16", "float32", "float8_e4m3fn", "float8_e5m2")


class _Written(Values):
    """Shapes of the written side from headers: no tensor is opened to ask for one."""

    def __init__(
        self,
        official: Mapping[str, Entry],
        official_values: Mapping[str, torch.Tensor],
        port: Mapping[str, torch.Tensor],
        entries: Mapping[str, Entry],
    ) -> None:
        super().__init__(official, official_values, port)
        self._entries = entries

    def shape(self, target: str) -> tuple[int, ...]:
        return self._entries[target].shape


class ScriptProver(Prover):
    """Where the source tensors are in what a script wrote, and what is lost, doubled, changed or invented."""

    def reshaped(self, name: str, target: str) -> bool:
        """A rearrangement that the shape did not ask for is a mistake: nothing downstream would see it."""
        if self.official[name].shape != self.values.shape(target):
            return super().reshaped(name, target)
        how = self.values.arrangement(name, target)
        if how is None:
            return False
        code = "transposed" if how == "transposed" else "rows-swapped" if "halves" in how else "permuted"
        self.add(
            code, f"{name!r} arrives {how} in {target!r}, although the shape did not have to change.", name, target
        )
        self.spent(name, target)
        return True


def prove_by_value(
    source: Mapping[str, Entry],
    values: Mapping[str, torch.Tensor],
    written: Mapping[str, Entry],
    tensors: Mapping[str, torch.Tensor],
    dropped: Mapping[str, str],
    cast: str | None,
) -> ConversionProof:
    """Find every source tensor among the written ones, and account for every written one.

    Args:
        source, values: The source, entries and memory-mapped tensors.
        written, tensors: The same of what the script wrote.
        dropped: Source names that are left out on purpose, and why.
        cast: The dtype that the conversion is declared to round to, if it is.
    """
    asked = getattr(torch, cast) if cast else torch.float64
    prover = ScriptProver(_Written(source, values, tensors, written), asked, frozenset(dropped))
    prover.by_value()
    proof = ConversionProof()
    _cut(prover, proof)
    _changed(prover, proof)
    _left(prover, proof, tensors)
    for name in prover.waiting():
        if name not in dropped:
            proof.lost.append(name)
            proof.add("lost", f"{name!r} arrives nowhere.", name)
    for finding in prover.proof.findings:
        proof.findings.append(finding)
        if finding.fatal:
            proof.changed += [name for name in finding.names if name in written]
    prover._remarks()
    proof.findings += [finding for finding in prover.proof.findings if finding not in proof.findings]
    links = prover.proof.links
    proof.findings += crossed(links)
    bad = {*proof.lost, *(name for finding in proof.findings if finding.fatal for name in finding.names)}
    counted = [name for name in source if name not in dropped]
    whole = [name for name in counted if name in {link.official for link in links} and name not in bad]
    proof.arrived = (len(whole), len(counted))
    proof.parameters = (sum(source[n].elements for n in whole), sum(source[n].elements for n in counted))
    how: dict[str, int] = defaultdict(int)
    for link in links:
        how["merged" if link.rows and link.how == "value" else link.how.split(" rows ")[0]] += 1
    proof.how = dict(how)
    return proof


def _cut(prover: ScriptProver, proof: ConversionProof) -> None:
    """Source tensors of which only some rows arrived: say which rows are lost."""
    for name in prover.waiting():
        shape = prover.official[name].shape
        if not shape or prover.values.official_constant(name) is not None:
            continue
        spans: list[tuple[Rows, str]] = []
        for target in prover.free():
            rows = _rows_of(prover, name, target)
            if rows is not None and prover.values.port_constant(target) is None:
                spans.append((rows, target))
        if not spans:
            continue
        spans.sort()
        position, gaps, twice = 0, [], []
        for (start, end), target in spans:
            if start > position:
                gaps.append(f"{position}:{start}")
            if start < position:
                twice.append(target)
            position = max(position, end)
        if position < shape[0]:
            gaps.append(f"{position}:{shape[0]}")
        held = ", ".join(f"{start}:{end} in {target!r}" for (start, end), target in spans)
        if gaps:
            proof.lost.append(name)
            proof.add("partly-lost", f"Rows {', '.join(gaps)} of {name!r} arrive nowhere; {held}.", name)
        if twice:
            proof.doubled += twice
            proof.add("doubled", f"Rows of {name!r} arrive more than once: {held}.", name, *twice)
        prover.explained.add(name)
        prover.fed.update(target for _, target in spans)


def _rows_of(prover: ScriptProver, name: str, target: str) -> Rows | None:
    """Rows of a source tensor that a written tensor is, or none."""
    shape, goal = prover.official[name].shape, prover.values.shape(target)
    if len(shape) != len(goal) or not goal or shape[1:] != goal[1:] or not 0 < goal[0] < shape[0]:
        return None
    assert prover.values.at_hand is not None
    theirs, mine = prover.values.at_hand[name], prover.port[target]
    last = shape[0] - goal[0]
    first = mine[:1].reshape(-1)[:8]
    columns = theirs[: last + 1].reshape(last + 1, -1)[:, : first.numel()]
    for start in (columns == first).all(1).nonzero().flatten().tolist()[:64]:
        if prover.values.hold(name, [mine], (start, start + goal[0])):
            return start, start + goal[0]
    return None


def _changed(prover: ScriptProver, proof: ConversionProof) -> None:
    """Source tensors whose changed values stand in a written tensor: rounded, reordered, scaled or overwritten."""
    for name in prover.waiting():
        if name in prover.declared:
            continue
        shape = prover.official[name].shape
        free = sorted(prover.free(), key=lambda target: -_alike(name, target))
        same_shape = [target for target in free if prover.values.shape(target) == shape]
        for target in same_shape:
            dtype = next((d for d in _ROUNDED if _is_rounded(prover, name, target, d)), None)
            if dtype is not None:
                message = f"{name!r} lost bits on its way to {target!r}: it was rounded to {dtype}."
                proof.add("cast-loses-bits", message, name, target)
                break
            if prover.official[name].elements > 1 and prover.values.shuffled(name, target):
                message = f"{target!r} has the values of {name!r} in an order that no known rearrangement gives."
                proof.add("permuted", message, name, target)
                break
        else:
            target = same_shape[0] if same_shape and _alike(name, same_shape[0]) > 1 else ""
            if not target:
                continue
            how = _factor(prover, name, target)
            message = f"{target!r} seems to be {name!r} with changed values{how}."
            proof.add("values-differ", message, name, target)
        proof.changed.append(target)
        prover.spent(name, target)


def _is_rounded(prover: ScriptProver, name: str, target: str, dtype: str) -> bool:
    known = getattr(torch, dtype, None)
    if known is None or known == getattr(torch, prover.official[name].dtype, None):
        return False
    return prover.values.rounded(name, prover.port[target], known)


def _factor(prover: ScriptProver, name: str, target: str) -> str:
    """The number that all values were multiplied with, or added to, if there is one."""
    assert prover.values.at_hand is not None
    theirs = prover.values.at_hand[name].reshape(-1)[:4096].double()
    mine = prover.port[target].reshape(-1)[:4096].double()
    if theirs.numel() < 2 or not bool((theirs != 0).all()):
        return ""
    ratio, shift = mine / theirs, mine - theirs
    if bool((ratio - ratio[0]).abs().max() < 1e-2 * ratio[0].abs()) and float(ratio[0]) != 0:
        return f" (about {float(ratio.median()):.6g} times)"
    if bool((shift - shift[0]).abs().max() < 1e-2 * shift[0].abs()):
        return f" (about {float(shift.median()):+.6g})"
    return ""


def _left(prover: ScriptProver, proof: ConversionProof, tensors: Mapping[str, torch.Tensor]) -> None:
    """Account for written tensors that nothing feeds: copies of what arrived already, constants, inventions."""
    by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, item in prover.official.items():
        by_shape[item.shape].append(name)
    for target in prover.free():
        shape = prover.values.shape(target)
        constant = prover.values.port_constant(target)
        if constant is not None and tensors[target].numel() > 1:
            proof.invented.append(target)
            proof.add("invented", f"{target!r} holds {constant:g} everywhere and comes from no source tensor.", target)
            continue
        whole = next((name for name in by_shape[shape] if prover.values.equal(name, target)), None)
        copy = whole or next((name for name in prover.official if _rows_of(prover, name, target) is not None), None)
        if copy is None:
            size = tensors[target].numel()
            names = [name for name, item in prover.official.items() if item.elements == size > 1]
            copy = next((name for name in names if prover.values.arrangement(name, target) is not None), None)
        if copy is not None:
            proof.doubled.append(target)
            rows = "" if whole else " (rows of it, or rearranged)"
            first = next((link.port for link in prover.proof.links if link.official == copy), "another tensor")
            proof.add(
                "doubled", f"{target!r} holds {copy!r}{rows} once more; it is in {first!r} already.", target, copy
            )
        else:
            proof.invented.append(target)
            proof.add("invented", f"{target!r} holds values of no source tensor.", target)


def _alike(one: str, other: str) -> int:
    return len(set(one.replace("/", ".").split(".")) & set(other.replace("/", ".").split(".")))
