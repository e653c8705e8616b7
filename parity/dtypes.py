"""dtype audit: in which dtype each side computes what matters for precision, module by module, and whether it matters.

What a side computed comes from `observe`. An operation belongs to the nearest module around it that has a partner on
the other side, so glue in a parent's forward and a norm that one side writes by hand are compared too. A role that only
one side has there (the other computes it in a deeper or outer module) is moved outwards until both have it; a role that
only one side has anywhere is not compared.

**What is judged.** Most rows are listed and decide nothing. A row makes ``dtype-narrower`` (investigate) when the port
computes one of `JUDGED` in a narrower dtype than the official model does at the same place. Two things are not counted
as narrower, because no number moves:

* One kernel for the statistics (``F.layer_norm``, ``F.group_norm``, ``F.rms_norm``, the length in ``F.normalize``) that
  takes bfloat16 accumulates in float32 inside and rounds once. It counts as narrower only if it also hands on a
  narrower dtype than the official module. Measured: FastVideo's Wan VAE calls ``F.normalize`` in bfloat16 in 12 places
  where diffusers upcasts, and is a correct port. Statistics written out in bfloat16 (``x.pow(2).mean()``) round every
  square, and are judged.
* A softmax written by hand in bfloat16, where the official side calls torch's attention (float32 inside the kernel), is
  listed and not judged. ``F.softmax`` of bfloat16 accumulates in float32 and rounds once: on the CPU it equals
  ``F.softmax(x.float()).to(bfloat16)`` in every element, and the correct rewrites ``*-rewrite-attention-by-hand`` of
  the fault suite do just that. Where the official code writes a softmax in float32, a narrower one is judged.

Parameters, buffers, modulation, projections and outputs are listed only: correct ports of the catalogue differ there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from .observe import Observation
from .pairing import Pair
from .roles import IN_KERNEL, bits
from .trace import Trace
from .verdict import Finding

JUDGED = {
    "norm": "the statistics of the norm",
    "softmax": "the softmax",
    "rope": "the rotation of queries and keys",
    "rope table": "the table of the rotation",
    "rope angles": "the angles of the rotation",
    "timestep embedding": "the sine and cosine of the timestep",
    "residual": "the residual addition",
}
"""Roles in which a narrower dtype than the official model's is a downgrade, and how a message calls them."""
_INSIDE = "(float32 inside)"
_PROCESS = "(process)"

Row = dict[str, str]
Table = dict[str, dict[str, set[str]]]


def fold(name: str) -> str:
    """A module's name with ``*`` for the numbers of blocks."""
    return re.sub(r"\.\d+(?=\.|$|:)", ".*", name)


class Regions:
    """The paired modules of both sides, and to which of them what happened elsewhere belongs; keys are port names."""

    def __init__(self, pairs: dict[str, Pair]) -> None:
        modules = sorted((name for name in pairs if "::" not in name), key=lambda name: (name.count("."), name))
        self._port = {"": "", **{name: name for name in modules}}
        self._official: dict[str, str] = {}
        for name in modules:
            self._official.setdefault(pairs[name].official, name)
        self._official.setdefault("", "")
        self.official_names = {"": "", **{name: pairs[name].official for name in modules}}

    def of_port(self, name: str) -> str:
        """Key of the nearest paired module that is or holds port module ``name``."""
        return _nearest(name, self._port)

    def of_official(self, name: str) -> str:
        """The same for a module of the official model."""
        return _nearest(name, self._official)

    def both(
        self, port: dict[str, dict[str, dict[str, int]]], official: dict[str, dict[str, dict[str, int]]]
    ) -> tuple[Table, Table]:
        """What each side did, by key and role, with one-sided roles moved outwards."""
        mine, theirs = _table(port, self.of_port), _table(official, self.of_official)
        for key in sorted({*mine, *theirs}, key=lambda name: -name.count(".") - bool(name)):
            if key:
                _lift(mine, theirs, key, self.of_port(_parent(key)))
                _lift(theirs, mine, key, self.of_official(_parent(self.official_names[key])))
        return mine, theirs


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _nearest(name: str, known: dict[str, str]) -> str:
    while name not in known:
        name = _parent(name)
    return known[name]


def _table(found: dict[str, dict[str, dict[str, int]]], region: Any) -> Table:
    table: Table = defaultdict(lambda: defaultdict(set))
    for module, roles in found.items():
        for role, dtypes in roles.items():
            table[region(module)][role] |= set(dtypes)
    return table


def _lift(own: Table, other: Table, key: str, outer: str) -> None:
    """Move what ``own`` did at ``key``, and ``other`` did not, to ``outer``."""
    for role in [role for role in own.get(key, {}) if role not in other.get(key, {})]:
        own[outer][role] |= own[key].pop(role)


def audit_dtypes(
    port: Trace,
    official: Trace,
    port_seen: Observation,
    official_seen: Observation,
    pairs: dict[str, Pair],
    asked: str,
) -> tuple[list[Row], list[Finding]]:
    """Differences between the sides, one row per place and role, and what they make of the verdict.

    Args:
        port, official: Traces of one input in the production dtype.
        port_seen, official_seen: What was observed in another forward of the same input and dtype.
        pairs: Port module -> pair.
        asked: The dtype that was asked for.

    Returns:
        Rows with ``module``, ``official_module`` (block numbers folded to ``*``), ``what`` (the role),
        ``port_dtype``, ``official_dtype``, ``asked`` and ``direction``: ``narrower`` or ``wider`` for the port, or
        ``differs``.
    """
    rows: dict[tuple[str, str], Row] = {}
    outputs = list(_outputs(port, official, pairs))
    for name, other, mine, expected in outputs:
        _add(rows, name, other, "output", {mine}, {expected}, asked)
    reduced = {name for name, _, mine, expected in outputs if bits(mine) < bits(expected)}
    regions = Regions(pairs)
    table, expected_table = regions.both(port_seen.roles, official_seen.roles)
    judged: list[Row] = []
    for key in sorted(table):
        for role, dtypes in sorted(table[key].items()):
            theirs = expected_table.get(key, {}).get(role)
            if theirs and _plain(theirs) != _plain(dtypes):
                row = _add(rows, key, regions.official_names[key], role, dtypes, theirs, asked)
                if role in JUDGED and _is_downgrade(dtypes, theirs, key in reduced):
                    judged.append(row)
    _final(rows, port_seen, official_seen, asked)
    _autocast(rows, regions, port_seen, official_seen, asked)
    _flags(rows, port_seen, official_seen, asked)
    return list(rows.values()), _findings(judged)


def _outputs(port: Trace, official: Trace, pairs: dict[str, Pair]) -> Iterable[tuple[str, str, str, str]]:
    theirs = {(call.module, call.occurrence): call for call in official.calls}
    for call in port.calls:
        pair = pairs.get(call.module)
        other = theirs.get((pair.official, call.occurrence)) if pair else None
        if pair is None or other is None or not call.outputs or not other.outputs:
            continue
        mine = port.tensors[call.outputs[0][1]].dtype
        expected = official.tensors[other.outputs[0][1]].dtype
        if mine != expected and "float" in mine and "float" in expected:
            yield call.module, pair.official, mine, expected


def _is_downgrade(port: set[str], official: set[str], hands_on_less: bool) -> bool:
    """Whether the port's dtypes are narrower where it can cost precision; see the module."""
    if _direction(port, official) != "narrower" or any(name.endswith(IN_KERNEL) for name in official):
        return False
    return hands_on_less or _direction({_inside(name) for name in port}, {_inside(name) for name in official}) == (
        "narrower"
    )


def _plain(dtypes: set[str]) -> set[str]:
    return {name.removesuffix(f" {IN_KERNEL}") for name in dtypes}


def _inside(name: str) -> str:
    return "float32" if name.endswith(_INSIDE) else name


def _direction(port: set[str], official: set[str]) -> str:
    """By the narrowest dtype of each side; if those are equal, by the widest."""
    mine, theirs = sorted(map(_depth, port)), sorted(map(_depth, official))
    for a, b in ((mine[0], theirs[0]), (mine[-1], theirs[-1])):
        if a != b:
            return "narrower" if a < b else "wider"
    return "differs"


def _depth(name: str) -> float:
    """Bits of the mantissa; a fused kernel stands just above a plain one of its dtype."""
    return bits(name) + (0.5 if name.endswith(_INSIDE) else 0.0)


def _add(
    rows: dict[tuple[str, str], Row],
    port: str,
    official: str,
    what: str,
    mine: set[str],
    expected: set[str],
    asked: str,
) -> Row:
    return rows.setdefault(
        (fold(port), what),
        {
            "module": fold(port),
            "official_module": fold(official),
            "what": what,
            "port_dtype": _text(mine),
            "official_dtype": _text(expected),
            "asked": asked,
            "direction": _direction(mine, expected),
        },
    )


def _text(dtypes: set[str]) -> str:
    return "/".join(sorted(dtypes, key=lambda name: (bits(name), name)))


def _final(rows: dict[tuple[str, str], Row], port: Observation, official: Observation, asked: str) -> None:
    if port.final and official.final and port.final[1] != official.final[1]:
        _add(rows, port.final[0], official.final[0], "final projection", {port.final[1]}, {official.final[1]}, asked)


def _autocast(
    rows: dict[tuple[str, str], Row], regions: Regions, port: Observation, official: Observation, asked: str
) -> None:
    """The outermost modules in which autocast is on for one side only, or in another dtype."""
    told: list[tuple[str, str, str]] = []
    for name in sorted(port.autocast, key=lambda name: (name.count("."), name)):
        other = regions.official_names.get(name)
        if other is None or other not in official.autocast:
            continue
        mine, theirs = port.autocast[name], official.autocast[other]
        known = any((a, b) == (mine, theirs) and (not m or name.startswith(f"{m}.")) for m, a, b in told)
        if mine != theirs and not known:
            told.append((name, mine, theirs))
            _add(rows, name, other, "autocast", {mine}, {theirs}, asked)["direction"] = "differs"


def _flags(rows: dict[tuple[str, str], Row], port: Observation, official: Observation, asked: str) -> None:
    """Global switches that loading or the forward leaves otherwise on one side."""
    for when in ("load", "forward"):
        mine, theirs = port.flags.get(when, {}), official.flags.get(when, {})
        for name in sorted(mine.keys() & theirs.keys()):
            if mine[name] != theirs[name]:
                what = f"{name} {'after loading' if when == 'load' else 'in the forward'}"
                row = _add(rows, _PROCESS, _PROCESS, what, {str(mine[name])}, {str(theirs[name])}, asked)
                row["direction"] = "differs"


def _findings(rows: list[Row]) -> list[Finding]:
    """One finding for each role, with all its places."""
    found = []
    unique = {(row["module"], row["what"]): row for row in rows}
    for role in dict.fromkeys(row["what"] for row in unique.values()):
        places = [row for row in unique.values() if row["what"] == role]
        first = places[0]
        more = f" (and {len(places) - 1} more places: {', '.join(row['module'] for row in places[1:4])})"
        found.append(
            Finding(
                "dtype-narrower",
                "investigate",
                f"In {first['asked']} {first['module'] or 'the model'!r}{more if len(places) > 1 else ''} computes "
                f"{JUDGED[role]} in {first['port_dtype']}; {first['official_module'] or 'the model'!r} of the official "
                f"model does in {first['official_dtype']}. Cast to that dtype there, and back after it, as the "
                "official code does.",
            )
        )
    return found
