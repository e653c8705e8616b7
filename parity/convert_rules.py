"""Declarative conversion: rules that say where each source tensor goes, checked against all names before a byte moves.

A rule is a table:

- ``match``: a regular expression for the whole source name, ``<folder>/<tensor>`` (no folder for files at the top);
- ``to``: ``<component>/<tensor>``, with ``\\1`` for groups; a list of them splits the tensor;
- ``split``: ``{"sizes": [...], "dim": 0}``; without sizes equal parts;
- ``merge``: ``{"index": 0, "of": 3, "dim": 0}``: this tensor is that part of the target;
- ``transpose``, ``permute``, ``reshape``, ``cast``, or ``ops``, a list of them: on the source, before split or merge;
- ``then``: a list of steps on the target, behind the merge;
- ``drop``: why the tensor is left out on purpose;
- ``optional``: that the rule may match nothing.

The first rule that matches a name takes it. Every name must be taken and every rule must take one.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .convert_ops import Op, dtype_after, read_ops, shape_after
from .errors import ParityError
from .mapping import Finding
from .weights import Entry

_KEYS = (
    "match", "to", "split", "merge", "transpose", "permute", "reshape", "cast", "ops", "then", "drop", "optional",
)  # fmt: skip
_MOST_PARTS = 10_000
_TARGET = re.compile(r"(?P<component>[A-Za-z][A-Za-z0-9_]*)/(?P<name>[^/\s]+)")


@dataclass(frozen=True)
class ConvertRule:
    """One rule; see the module."""

    pattern: str
    to: tuple[str, ...] = ()
    ops: tuple[Op, ...] = ()
    sizes: tuple[int, ...] = ()
    dim: int = 0
    index: int | None = None
    of: int = 0
    then: tuple[Op, ...] = ()
    drop: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Piece:
    """A source tensor behind its steps, or ``length`` of it from ``start`` on along ``dim``."""

    source: str
    ops: tuple[Op, ...]
    dim: int
    start: int
    length: int


@dataclass(frozen=True)
class Output:
    """A target tensor: its pieces joined along ``dim``, then ``then``."""

    name: str
    pieces: tuple[Piece, ...]
    dim: int
    then: tuple[Op, ...]
    shape: tuple[int, ...]
    dtype: str


@dataclass
class ConversionPlan:
    """What the rules do with all source names.

    Attributes:
        outputs: Target name -> how it is made.
        dropped: Source name -> why it is left out.
        findings: What is wrong; fatal ones forbid the conversion.
    """

    outputs: dict[str, Output] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


_Row = tuple[ConvertRule, Piece, tuple[int, ...], str]
"""Rule, piece, and the piece's shape and dtype."""


def read_convert_rules(rows: object) -> list[ConvertRule]:
    """Check the list of rules.

    Raises:
        ParityError: A rule has an unknown key or form.
    """
    if not isinstance(rows, list) or not rows:
        raise ParityError("The rule file has no rules.", seen=f"{rows!r:.80}", fix='Give "rules": a list of tables.')
    return [_rule(row, f"rule {number}") for number, row in enumerate(rows, 1)]


def _rule(row: object, place: str) -> ConvertRule:
    if not isinstance(row, Mapping):
        raise ParityError("A rule is not a table.", seen=f"{place}: {row!r:.120}", fix='Give "match" and "to".')
    for key in row:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            fix = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(_KEYS)}."
            raise ParityError("A rule has an unknown key.", seen=f"{place}: {str(key)[:60]!r}", fix=fix)
    pattern = row.get("match")
    place = f"{place}, {pattern!r:.120}"
    try:
        if not isinstance(pattern, str):
            raise TypeError(f"match is a {type(pattern).__name__}")
        compiled = re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise ParityError(
            "A rule is not a regular expression.", seen=f"{place}: {error}", fix="Repair match."
        ) from error
    to = row.get("to", [])
    to = (to,) if isinstance(to, str) else tuple(to) if isinstance(to, list) else (None,)
    drop = row.get("drop", "")
    if not isinstance(drop, str) or bool(to) == bool(drop.strip()) or not all(isinstance(item, str) for item in to):
        raise ParityError(
            "A rule needs either a target or a reason to drop.", seen=place, fix='Give "to", or "drop": "why".'
        )
    for template in to:
        try:
            compiled.sub(template, "")
        except (re.error, IndexError) as error:
            raise ParityError(
                "A target refers to a group that its pattern does not have.", seen=f"{place} -> {template!r}: {error}",
                fix="Add the group to match, or correct its number.",
            ) from error  # fmt: skip
    split, merge = row.get("split"), row.get("merge")
    sizes: tuple[int, ...] = ()
    dim, index, of = 0, None, 0
    if split is not None or len(to) > 1:
        split = {} if split is None else split
        if merge is not None or not _table(split, {"sizes": list, "dim": int}) or len(to) < 2:
            raise _form(place, "split", '"to": ["a/q", "a/k"], "split": {"sizes": [8, 8], "dim": 0}')
        sizes, dim = tuple(split.get("sizes", ())), split.get("dim", 0)
        if (sizes and len(sizes) != len(to)) or not all(type(size) is int and size > 0 for size in sizes):
            raise _form(place, "split", f"as many positive sizes as targets: {len(to)}")
    elif merge is not None:
        if not _table(merge, {"index": int, "of": int, "dim": int}) or not {"index", "of"} <= set(merge):
            raise _form(place, "merge", '"merge": {"index": 0, "of": 3, "dim": 0}')
        index, of, dim = merge["index"], merge["of"], merge.get("dim", 0)
        if dim < 0:
            raise _form(place, "merge", f"a dim counted from the front, not {dim}")
        if not 0 <= index < of <= _MOST_PARTS:
            raise _form(place, "merge", f"an index from 0 to of - 1, at most {_MOST_PARTS} parts, not {index} of {of}")
    then = read_ops({"ops": row["then"]}, place) if "then" in row else ()
    ops = read_ops(row, place)
    return ConvertRule(pattern, to, ops, sizes, dim, index, of, then, drop, bool(row.get("optional")))


def _table(value: object, kinds: Mapping[str, type]) -> bool:
    return isinstance(value, Mapping) and all(k in kinds and type(v) is kinds[k] for k, v in value.items())


def _form(place: str, what: str, wanted: str) -> ParityError:
    return ParityError(f"The {what} of a rule has an unknown form.", seen=place, fix=f"Write {wanted}.")


def plan_conversion(rules: Sequence[ConvertRule], source: Mapping[str, Entry]) -> ConversionPlan:
    """Apply the rules to all source names and say what is wrong with them, without reading a value."""
    plan = ConversionPlan()
    parts: dict[str, list[_Row]] = defaultdict(list)
    taken: dict[int, list[str]] = defaultdict(list)
    unused: list[str] = []
    compiled = [re.compile(rule.pattern) for rule in rules]
    for name, item in source.items():
        hit = next(((n, m) for n, pattern in enumerate(compiled) if (m := pattern.fullmatch(name))), None)
        if hit is None:
            unused.append(name)
            continue
        number, match = hit
        taken[number].append(name)
        if rules[number].drop:
            plan.dropped[name] = rules[number].drop
            continue
        for target, piece, shape in _pieces(rules[number], match, item, plan.findings):
            parts[target].append((rules[number], piece, shape, dtype_after(item.dtype, rules[number].ops)))
    for target, rows in parts.items():
        try:
            plan.outputs[target] = _output(target, rows)
        except _Wrong as wrong:
            code, message = wrong.args
            plan.findings.append(Finding(code, message, (target, *(piece.source for _, piece, _, _ in rows))))
    plan.findings += _unused(unused, rules)
    plan.findings += _idle(rules, taken, source)
    return plan


def _pieces(
    rule: ConvertRule, match: re.Match[str], item: Entry, findings: list[Finding]
) -> list[tuple[str, Piece, tuple[int, ...]]]:
    """Where one source tensor goes: target, piece, and the piece's shape."""
    shape = shape_after(item.shape, rule.ops)
    if isinstance(shape, str):
        findings.append(Finding("shape-impossible", f"{item.name!r} cannot be rearranged: {shape}.", (item.name,)))
        return []
    found = []
    start = 0
    if len(rule.to) > 1 and not 0 <= rule.dim < len(shape):
        message = f"{item.name!r} has no dimension {rule.dim} to split: its shape is {list(shape)}."
        findings.append(Finding("split-impossible", message, (item.name,)))
        return []
    whole = shape[rule.dim] if shape else 1
    sizes = rule.sizes or tuple([whole // len(rule.to)] * len(rule.to))
    if len(rule.to) > 1 and sum(sizes) != whole:
        message = (
            f"{item.name!r} has {whole} along dimension {rule.dim}, and the split takes {' + '.join(map(str, sizes))}."
        )
        findings.append(Finding("split-incomplete", message, (item.name,)))
        return []
    for template, size in zip(rule.to, sizes, strict=True):
        target = match.expand(template)
        legal = _TARGET.fullmatch(target)
        if not legal or target.isprintable() is False:
            message = f"{item.name!r} goes to {target!r}, which is not <component>/<tensor>."
            findings.append(Finding("target-illegal", message, (item.name,)))
            continue
        piece_shape = shape if len(rule.to) == 1 else (*shape[: rule.dim], size, *shape[rule.dim + 1 :])
        length = (shape[rule.dim] if 0 <= rule.dim < len(shape) else 0) if len(rule.to) == 1 else size
        found.append((target, Piece(item.name, rule.ops, rule.dim, start, length), piece_shape))
        start += size
    return found


class _Wrong(Exception):
    """A target that cannot be made: the finding's code and message."""


def _output(target: str, rows: list[_Row]) -> Output:
    """How a target is made of everything that goes there."""
    shown = ", ".join(repr(piece.source) for _, piece, _, _ in rows[:4])
    merged = [rule for rule, *_ in rows if rule.index is not None]
    if len(rows) > 1 and len(merged) < len(rows):
        raise _Wrong("collision", f"{len(rows)} source tensors go to {target!r}: {shown}. Merge them, or drop one.")
    if merged:
        if len({(rule.of, rule.dim, rule.then) for rule in merged}) > 1:
            raise _Wrong("merge-differs", f"The parts of {target!r} name different 'of', 'dim' or 'then': {shown}.")
        indices = sorted(rule.index for rule in merged if rule.index is not None)
        if len(set(indices)) < len(indices):
            raise _Wrong("collision", f"Two parts of {target!r} have one index ({indices}): {shown}.")
        if indices != list(range(merged[0].of)):
            lacking = sorted(set(range(merged[0].of)) - set(indices))
            raise _Wrong("incomplete-merge", f"{target!r} lacks part {lacking} of {merged[0].of}; it has {shown}.")
        rows = sorted(rows, key=lambda row: row[0].index or 0)
    rule, _, shape, dtype = rows[0]
    if len(rows) > 1:
        dim = rule.dim
        tails = {(*item[2][:dim], *item[2][dim + 1 :]) if dim < len(item[2]) else None for item in rows}
        if len(tails) > 1 or None in tails:
            raise _Wrong("merge-shapes", f"The parts of {target!r} do not fit: {[list(row[2]) for row in rows]}.")
        if len({row[3] for row in rows}) > 1:
            raise _Wrong(
                "merge-dtypes", f"The parts of {target!r} differ in dtype: {sorted({row[3] for row in rows})}."
            )
        shape = (*shape[:dim], sum(row[2][dim] for row in rows), *shape[dim + 1 :])
    after = shape_after(shape, rule.then)
    if isinstance(after, str):
        raise _Wrong("shape-impossible", f"{target!r} cannot be rearranged: {after}.")
    pieces = tuple(piece for _, piece, _, _ in rows)
    return Output(target, pieces, rule.dim, rule.then, after, dtype_after(dtype, rule.then))


def _unused(names: list[str], rules: Sequence[ConvertRule]) -> list[Finding]:
    """One finding for all names that differ in numbers only, with the rule that nearly takes them."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[re.sub(r"\d+", "#", name)].append(name)
    found = []
    for group in groups.values():
        near = [(rule.pattern, _almost(rule.pattern, group[0])) for rule in rules]
        best, score = max(near, key=lambda row: row[1], default=("", 0.0))
        advice = f" Rule {best!r} nearly takes it." if score > 0.6 else ""
        message = f"No rule takes {group[0]!r}{_more(group)}.{advice} Add a rule, or drop it with a reason."
        found.append(Finding("unused-key", message, tuple(group)))
    return found


def _idle(rules: Sequence[ConvertRule], taken: Mapping[int, list[str]], source: Mapping[str, Entry]) -> list[Finding]:
    found = []
    for number, rule in enumerate(rules):
        if number in taken or rule.optional:
            continue
        before = [name for name in source if re.fullmatch(rule.pattern, name)]
        if before:
            other = next(r.pattern for r in rules if re.fullmatch(r.pattern, before[0]))
            message = f"Rule {rule.pattern!r} never applies: rule {other!r} before it takes {before[0]!r}."
            found.append(Finding("rule-shadowed", message, (rule.pattern,)))
            continue
        inside = next((name for name in source if re.search(rule.pattern, name)), None)
        nearest = max(source, key=lambda name: _almost(rule.pattern, name), default="")
        advice = (
            f" It matches only a part of {inside!r}; a rule has to match the whole name."
            if inside
            else f" The nearest name is {nearest!r}."
        )
        found.append(Finding("rule-never-matches", f"Rule {rule.pattern!r} takes no tensor.{advice}", (rule.pattern,)))
    return found


def _almost(pattern: str, name: str) -> float:
    """How alike a pattern and a name look, numbers and escapes aside."""
    plain = re.sub(r"\\d\+|\[0-9\]\+|\\d", "#", pattern).replace("\\.", ".")
    plain = re.sub(r"[\^$()\\]|\.\*|\?[:P]", "", plain)
    return difflib.SequenceMatcher(None, plain, re.sub(r"\d+", "#", name)).ratio()


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} like it" if len(names) > 1 else ""
