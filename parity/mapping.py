"""FastVideo's rules for renaming and merging checkpoint keys, with their exact semantics.

Read and run from ``fastvideo/models/loader/utils.py`` (0.2.1): rules are tried in order and the first one for which
``re.match`` succeeds wins; ``re.sub`` then replaces every occurrence in the key; rules are never chained. A value is a
template or ``(template, index, total)``; the parts of a merge are concatenated on dimension 0 in index order.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .errors import ParityError


@dataclass(frozen=True)
class Rule:
    """One entry of ``param_names_mapping``."""

    pattern: str
    template: str
    index: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class Source:
    """Where one official tensor goes: as a whole (``index`` none) or as part ``index`` of ``total``."""

    name: str
    index: int | None
    total: int | None
    rule: int | None


@dataclass(frozen=True)
class Finding:
    """Something wrong with the rules or the weights, named.

    Attributes:
        code: Stable short name.
        message: What is wrong and what follows.
        names: The keys or rules concerned.
        fatal: Whether the mapping cannot be right while it holds.
        wrong: The port tensor that holds something else than it should; "" where there is none such.
    """

    code: str
    message: str
    names: tuple[str, ...] = ()
    fatal: bool = True
    wrong: str = ""


@dataclass
class Plan:
    """What the rules do with a list of official names."""

    rules: list[Rule]
    targets: dict[str, list[Source]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def read_rules(mapping: Mapping[str, object]) -> list[Rule]:
    """Check a ``param_names_mapping`` and turn it into rules.

    Raises:
        ParityError: A pattern is no regular expression, or a value is neither a template nor a triple.
    """
    rules = []
    for pattern, value in mapping.items():
        try:
            compiled = re.compile(pattern)
        except (re.error, TypeError, OverflowError, RecursionError) as error:
            raise ParityError(
                "A rule of the mapping is not a regular expression.",
                seen=f"{pattern!r}: {error}",
                fix="Repair the pattern in the port's param_names_mapping.",
            ) from error
        if isinstance(value, str):
            rule = Rule(pattern, value)
        elif (
            isinstance(value, tuple)  # a list is no merge to FastVideo: it fails in re.sub
            and len(value) == 3
            and isinstance(value[0], str)
            and (value[1] is None or isinstance(value[1], int))
            and (value[2] is None or isinstance(value[2], int))
        ):
            rule = Rule(pattern, *value)
        else:
            raise ParityError(
                "A rule of the mapping has an unknown form.",
                seen=f"{pattern!r}: {value!r:.200}",
                fix="Use a template string, or (template, index, total) for a merge.",
            )
        try:
            compiled.sub(rule.template, "")  # reads the template, whether or not the pattern matches
        except (re.error, IndexError) as error:
            raise ParityError(
                "A template refers to a group that its pattern does not have.",
                seen=f"{pattern!r} -> {rule.template!r}: {compiled.groups} groups; {error}",
                fix="Add the group to the pattern or correct the number.",
            ) from error
        rules.append(rule)
    return rules


def apply(rules: list[Rule], name: str) -> tuple[str, Source]:
    """The target of one official name."""
    for number, rule in enumerate(rules):
        if re.match(rule.pattern, name):
            return re.sub(rule.pattern, rule.template, name), Source(name, rule.index, rule.total, number)
    return name, Source(name, None, None, None)


def plan(mapping: Mapping[str, object], names: Iterable[str]) -> Plan:
    """Apply the rules to all official names and say what is wrong with them, without reading a value."""
    result = Plan(read_rules(mapping))
    targets: dict[str, list[Source]] = defaultdict(list)
    fired: dict[int, list[str]] = defaultdict(list)
    ordered = list(names)
    for name in ordered:
        target, source = apply(result.rules, name)
        targets[target].append(source)
        if source.rule is not None:
            fired[source.rule].append(name)
    result.targets = dict(targets)
    for target, sources in result.targets.items():
        result.findings.extend(_target_findings(target, sources))
    for number, taken in fired.items():
        result.findings.extend(_careless_matches(result.rules[number], taken))
    for number, rule in enumerate(result.rules):
        if number not in fired and ordered:
            taken = [name for name in ordered if re.match(rule.pattern, name)]
            if taken:
                earlier = apply(result.rules, taken[0])[1].rule
                message = (
                    f"Rule {rule.pattern!r} never applies: rule {result.rules[earlier or 0].pattern!r} before it takes "
                    f"{taken[0]!r} and {len(taken) - 1} more."
                )
                result.findings.append(Finding("rule-shadowed", message, (rule.pattern,)))
            else:
                message = f"Rule {rule.pattern!r} matches no official key."
                result.findings.append(Finding("rule-never-matches", message, (rule.pattern,), fatal=False))
    return result


def _careless_matches(rule: Rule, names: list[str]) -> list[Finding]:
    """What is wrong with the keys that a rule took; one finding for each fault, whatever their number."""
    inside, twice = [], []
    for name in names:
        match = re.match(rule.pattern, name)
        assert match is not None
        end = match.end()
        if 0 < end < len(name) and _in_a_word(name[end - 1]) and _in_a_word(name[end]):
            inside.append(name)
        elif re.sub(rule.pattern, rule.template, name, count=1) != re.sub(rule.pattern, rule.template, name):
            twice.append(name)
    findings = []
    if inside:
        name, end = inside[0], re.match(rule.pattern, inside[0]).end()  # type: ignore[union-attr]
        message = (
            f"Rule {rule.pattern!r} matches only {name[:end]!r} of {name!r}{_more(inside)}: it ends inside a name, so "
            "it also takes longer ones (blocks.1 takes blocks.10). End it with an escaped dot or $."
        )
        findings.append(Finding("rule-matches-too-much", message, (rule.pattern, *inside)))
    if twice:
        message = (
            f"Rule {rule.pattern!r} replaces more than one place of {twice[0]!r}{_more(twice)}; cover it all (^ to $)."
        )
        findings.append(Finding("rule-replaces-twice", message, (rule.pattern, *twice)))
    strict = _SEPARATOR.sub(r"\\.", rule.pattern)
    loose = [name for name in names if not re.match(strict, name)]
    if loose and len(loose) < len(names) and not findings:
        message = (
            f"Rule {rule.pattern!r} also takes {loose[0]!r}{_more(loose)}, because a dot that is not escaped stands "
            "for any character. Escape it."
        )
        findings.append(Finding("rule-matches-too-much", message, (rule.pattern, *loose)))
    return findings


_SEPARATOR = re.compile(r"(?<=[\w)])\.(?=[\w(])")
"""A bare dot between two parts of a name in a pattern: a separator that was not escaped."""


def _in_a_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _target_findings(target: str, sources: list[Source]) -> list[Finding]:
    names = tuple(source.name for source in sources)
    whole = [source for source in sources if source.index is None]
    if len(whole) == len(sources):
        if len(sources) > 1:
            message = f"{len(sources)} official tensors go to {target!r}; the last one wins silently."
            return [Finding("collision", message, names)]
        return []
    if whole:
        message = f"{target!r} is the target of a merge and of a whole tensor at once."
        return [Finding("collision", message, names)]
    indices = sorted(source.index for source in sources if source.index is not None)
    totals = {source.total for source in sources}
    if len(totals) > 1:
        return [
            Finding("merge-totals-differ", f"The parts of {target!r} declare totals {sorted(map(str, totals))}.", names)
        ]
    total = sources[0].total or 0
    if len(set(indices)) < len(indices):
        message = f"Two parts of {target!r} have one index ({indices}); the later overwrites the earlier."
        return [Finding("collision", message, names)]
    if indices != list(range(total)) and len(indices) == total:
        message = f"{target!r} has parts {indices}, not 0 to {total - 1}: FastVideo's loader fails with a KeyError."
        return [Finding("incomplete-merge", message, names)]
    if indices != list(range(total)):
        message = f"{target!r} is merged from {total} parts but gets {indices}; it never appears in the state dict."
        return [Finding("incomplete-merge", message, names)]
    return []
