"""Prove by value that every official tensor arrived in the port."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .mapping import Finding, Plan, Source
from .weights import Entry, digest


@dataclass(frozen=True)
class Link:
    """An official tensor that arrived, bit for bit, at ``rows`` (dimension 0) of a port tensor; all rows if none."""

    official: str
    port: str
    rows: tuple[int, int] | None
    how: str


@dataclass
class Proof:
    """Where every official tensor went.

    Attributes:
        links: The tensors that arrived.
        missing: Port tensors that no official tensor feeds.
        unexpected: Official tensors that arrive nowhere.
        shape_mismatches: ``(official, port, official shape, port shape)``.
        findings: Everything else that is wrong, named.
        suggestions: Rules that would put a stray tensor where its values belong.
        tensors, parameters: ``(arrived, all)`` over the official side.
    """

    links: list[Link] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shape_mismatches: list[tuple[str, str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    suggestions: list[str] = field(default_factory=list)
    tensors: tuple[int, int] = (0, 0)
    parameters: tuple[int, int] = (0, 0)

    def to_json(self) -> dict[str, Any]:
        """The proof as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Proof:
        """Read `to_json`."""
        pair = tuple(document["tensors"]), tuple(document["parameters"])
        return cls(
            links=[
                Link(x["official"], x["port"], tuple(x["rows"]) if x["rows"] else None, x["how"])
                for x in document["links"]
            ],
            missing=list(document["missing"]),
            unexpected=list(document["unexpected"]),
            shape_mismatches=[(a, b, tuple(c), tuple(d)) for a, b, c, d in document["shape_mismatches"]],
            findings=[
                Finding(x["code"], x["message"], tuple(x["names"]), bool(x["fatal"])) for x in document["findings"]
            ],
            suggestions=list(document["suggestions"]),
            tensors=(pair[0][0], pair[0][1]),
            parameters=(pair[1][0], pair[1][1]),
        )


class _Prover:
    def __init__(
        self,
        official: Mapping[str, Entry],
        port: Mapping[str, Entry],
        values: Mapping[str, torch.Tensor],
        official_values: Mapping[str, torch.Tensor],
    ) -> None:
        self.official = official
        self.port = port
        self.values = values
        self.official_values = official_values
        self.proof = Proof()
        self.fed: set[str] = set()
        self.explained: set[str] = set()
        self.by_digest: dict[str, list[str]] = defaultdict(list)
        for name, item in port.items():
            if item.digest:
                self.by_digest[item.digest].append(name)

    def arrived(self, official: str, port: str, rows: tuple[int, int] | None, how: str) -> None:
        self.proof.links.append(Link(official, port, rows, how))
        self.explained.add(official)
        self.fed.add(port)

    def by_rules(self, plan: Plan) -> None:
        for target, sources in plan.targets.items():
            if target not in self.port:
                continue
            if sources[0].index is not None:
                self.merge(target, sources)
            else:
                # With two sources the loader keeps the last one; the collision itself is the plan's finding.
                self.single(sources[-1].name, target)

    def single(self, name: str, target: str) -> None:
        source, goal = self.official[name], self.port[target]
        if source.shape != goal.shape:
            if self.padded(name, target):
                return
            if target in self.fed or not self.transposed(name, target):
                self.proof.shape_mismatches.append((name, target, source.shape, goal.shape))
                self.explained.add(name)
                self.fed.add(target)
            return
        if not goal.digest:
            self.proof.findings.append(Finding("never-loaded", f"{target!r} is still on the meta device.", (target,)))
        elif source.digest == goal.digest:
            self.arrived(name, target, None, "rule")
            return
        else:
            self.differs(name, target)
        self.explained.add(name)
        self.fed.add(target)

    def padded(self, name: str, target: str) -> bool:
        """Whether the port's tensor is the official one with rows added at its end (vocabularies are padded so)."""
        source, goal = self.official[name], self.port[target]
        if len(source.shape) != len(goal.shape) or not source.shape or source.shape[1:] != goal.shape[1:]:
            return False
        rows = source.shape[0]
        if not 0 < rows < goal.shape[0] or self.rows(target, (0, rows)) != source.digest:
            return False
        message = f"{target!r} is {name!r} with {goal.shape[0] - rows} rows added at its end."
        self.proof.findings.append(Finding("padded", message, (name, target), fatal=False))
        self.arrived(name, target, (0, rows), "rule")
        return True

    def transposed(self, name: str, target: str) -> bool:
        value = self.values[target]
        if value.ndim != 2 or tuple(value.shape[::-1]) != self.official[name].shape or value.device.type == "meta":
            return False
        if digest(value.t()) != self.official[name].digest:
            return False
        message = f"{name!r} arrives transposed in {target!r}."
        self.proof.findings.append(Finding("transposed", message, (name, target)))
        self.explained.add(name)
        self.fed.add(target)
        return True

    def differs(self, name: str, target: str) -> None:
        """The rule leads to a tensor of the right shape that holds other values: say what it holds."""
        goal = self.port[target]
        value = self.values[target]
        if value.ndim == 2 and value.shape[0] == value.shape[1] and digest(value.t()) == self.official[name].digest:
            self.add(
                "transposed", f"{name!r} arrives transposed in {target!r} (a square matrix hides it).", name, target
            )
            return
        if name in self.official_values and _lossy(self.official_values[name], value):
            dtype = str(value.dtype).removeprefix("torch.")
            self.add("cast-loses-bits", f"{name!r} lost bits on its way to {target!r} ({dtype}).", name, target)
            return
        if goal.constant is not None:
            self.add(
                "left-unfilled",
                f"{target!r} holds {goal.constant:g} everywhere, not the values of {name!r}: never loaded.",
                name,
                target,
            )
            return
        held = [other for other, item in self.official.items() if item.digest == goal.digest and other != name]
        elsewhere = [other for other in self.by_digest[self.official[name].digest] if other != target]
        if held:
            where = f"; the values of {name!r} are in {elsewhere[0]!r}" if elsewhere else ""
            self.add(
                "swapped", f"{target!r} holds the values of {held[0]!r} instead of {name!r}{where}.", name, held[0]
            )
            self.proof.suggestions.append(
                f"Rename {held[0]!r} to {target!r}" + (f" and {name!r} to {elsewhere[0]!r}." if elsewhere else ".")
            )
        elif elsewhere:
            self.add(
                "wrong-target", f"The values of {name!r} are in {elsewhere[0]!r}, not in {target!r}.", name, target
            )
            self.proof.suggestions.append(f"Rename {name!r} to {elsewhere[0]!r}.")
        else:
            self.add(
                "values-differ",
                f"{target!r} does not hold the values of {name!r}; they changed on the way.",
                name,
                target,
            )

    def add(self, code: str, message: str, *names: str) -> None:
        self.proof.findings.append(Finding(code, message, names))

    def merge(self, target: str, sources: list[Source]) -> None:
        goal = self.port[target]
        ordered = sorted(sources, key=lambda source: source.index or 0)
        shapes = [self.official[source.name].shape for source in ordered]
        rows = sum(shape[0] for shape in shapes if shape)
        tails = {shape[1:] for shape in shapes}
        self.fed.add(target)
        self.explained.update(source.name for source in sources)
        if len(tails) != 1 or (rows, *next(iter(tails))) != goal.shape:
            names = " + ".join(source.name for source in ordered)
            self.proof.shape_mismatches.append((names, target, (rows, *sorted(tails)[0]), goal.shape))
            return
        start = 0
        for source, shape in zip(ordered, shapes, strict=True):
            span = (start, start + shape[0])
            start = span[1]
            if self.rows(target, span) == self.official[source.name].digest:
                self.arrived(source.name, target, span, "rule")
                continue
            holder = next(
                (other.name for other in ordered if self.official[other.name].digest == self.rows(target, span)), None
            )
            if holder:
                self.add(
                    "merge-order",
                    f"Rows {span[0]}:{span[1]} of {target!r} hold {holder!r} where the rules put {source.name!r}.",
                    source.name,
                    target,
                )
            else:
                self.add(
                    "values-differ",
                    f"Rows {span[0]}:{span[1]} of {target!r} do not hold the values of {source.name!r}.",
                    source.name,
                    target,
                )

    def rows(self, target: str, span: tuple[int, int]) -> str:
        value = self.values[target]
        return "" if value.device.type == "meta" else digest(value[span[0] : span[1]])

    def by_value(self) -> None:
        """Find what the rules do not explain (encoders load through their own code): whole tensors, then rows."""
        waiting = [name for name in self.official if name not in self.explained]
        for name in waiting:
            found = [
                target
                for target in self.by_digest[self.official[name].digest]
                if self.port[target].shape == self.official[name].shape and target not in self.fed
            ]
            best = max(found, key=lambda target: _alike(name, target), default=None)
            if best is not None and (self.official[name].constant is None or _alike(name, best) > 0):
                self.arrived(name, best, None, "value")
        by_tail: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name in self.official:
            if name not in self.explained and self.official[name].shape:
                by_tail[self.official[name].shape[1:]].append(name)
        for target, item in self.port.items():
            if target in self.fed or not item.shape or not item.digest:
                continue
            self.fill_rows(target, by_tail.get(item.shape[1:], []))
        for name in self.official:
            if name in self.explained:
                continue
            tied = [
                link
                for link in self.proof.links
                if self.official[link.official].digest == self.official[name].digest and link.rows is None
            ]
            if tied and self.official[name].constant is None:
                self.arrived(name, tied[0].port, None, "tied")

    def fill_rows(self, target: str, candidates: list[str]) -> None:
        start, parts = 0, []
        height = self.port[target].shape[0]
        while start < height:
            for name in sorted(candidates, key=lambda name: -_alike(name, target)):
                rows = self.official[name].shape[0]
                fits = name not in self.explained and rows and start + rows <= height
                telling = self.official[name].constant is None or _alike(name, target) > 0
                if fits and telling and self.rows(target, (start, start + rows)) == self.official[name].digest:
                    parts.append((name, (start, start + rows)))
                    break
            else:
                return
            start += rows
            candidates = [name for name in candidates if name != parts[-1][0]]
        for name, span in parts:
            self.arrived(name, target, span, "value")

    def finish(self, plan: Plan | None) -> Proof:
        proof = self.proof
        proof.unexpected = [name for name in self.official if name not in self.explained]
        tied = {link.port for link in proof.links}
        twins = {self.port[name].digest for name in tied}
        for target, item in self.port.items():
            if target in self.fed:
                continue
            if item.digest and item.digest in twins and item.constant is None:
                continue  # another name of a tensor that arrived (tied weights)
            proof.missing.append(target)
            if item.constant is not None:
                message = f"{target!r} holds {item.constant:g} everywhere: zero-filled or left at its initial value."
                proof.findings.append(Finding("left-unfilled", message, (target,)))
        for name in proof.unexpected:
            equal = [goal for goal in self.by_digest[self.official[name].digest] if goal in proof.missing]
            fitting = [goal for goal in proof.missing if self.port[goal].shape == self.official[name].shape]
            if equal:
                proof.suggestions.append(f"{name!r} belongs to {equal[0]!r}: the values are equal.")
            elif fitting:
                nearest = max(fitting, key=lambda goal: _alike(name, goal))
                proof.suggestions.append(f"{name!r} may belong to {nearest!r}: same shape and the nearest name.")
        arrived = {link.official for link in proof.links}
        proof.tensors = (len(arrived), len(self.official))
        proof.parameters = (
            sum(self.official[name].elements for name in arrived),
            sum(item.elements for item in self.official.values()),
        )
        if plan is not None:
            proof.findings = [*plan.findings, *proof.findings]
        return proof


def _lossy(official: torch.Tensor, port: torch.Tensor) -> bool:
    """Whether the port's values are the official ones rounded to bfloat16 or float16 on the way."""
    return any(
        torch.equal(official.to(dtype).to(torch.float32), port.to(torch.float32).to(official.device))
        for dtype in (torch.bfloat16, torch.float16)
        if official.is_floating_point() and port.is_floating_point()
    )


def _alike(a: str, b: str) -> int:
    """How many parts of the dotted names two keys share."""
    return len(set(a.split(".")) & set(b.split(".")))


def prove(
    official: Mapping[str, Entry],
    port: Mapping[str, Entry],
    values: Mapping[str, torch.Tensor],
    plan: Plan | None,
    official_values: Mapping[str, torch.Tensor] | None = None,
) -> Proof:
    """Prove that every official tensor arrived.

    Args:
        official: Entries of the checkpoint (or of the official model's state dict).
        port: Entries of the port's state dict.
        values: The port's state dict; slices of it are digested.
        plan: What the port's rules do with the official names, or none if it loads in another way.
        official_values: Official tensors at hand, to tell a lossy cast from other damage.
    """
    prover = _Prover(official, port, values, official_values or {})
    if plan is not None:
        prover.by_rules(plan)
    prover.by_value()
    return prover.finish(plan)
