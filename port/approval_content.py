"""What an approval is of: the exact content, built from evidence, never from what an agent says of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from .ledger import Entry
from .plan_steps import StepSpec
from .records import ComponentRecord, PortRecord
from .textsafe import clean, one_line

_LINE = 400


@dataclass(frozen=True)
class Block:
    """A list that belongs to the content, for example the rules of a mapping.

    Attributes:
        title: What the lines are.
        lines: The lines, one each, safe to show.
        total: How many there are in all; more than ``lines`` when the evidence keeps only the first ones.
    """

    title: str
    lines: tuple[str, ...]
    total: int


@dataclass(frozen=True)
class Content:
    """What a person approves.

    Attributes:
        port_id, step_id: Whose step.
        title: What is approved, in one line.
        acceptance: The step's criterion.
        parts: Named digests (or short values) that the approval is bound to; a change names itself by its part.
        facts: ``(label, value)`` rows.
        blocks: Lists.
        evidence: Ids of the runs behind it.
    """

    port_id: str
    step_id: str
    title: str
    acceptance: str
    parts: dict[str, str]
    facts: tuple[tuple[str, str], ...] = ()
    blocks: tuple[Block, ...] = ()
    evidence: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over port, step, criterion and parts. Run ids are no part of it: measuring the same again is no
        change."""
        bound = [self.port_id, self.step_id, self.acceptance, sorted(self.parts.items())]
        return hashlib.sha256(json.dumps(bound).encode()).hexdigest()

    def changed_parts(self, parts: dict[str, str]) -> list[str]:
        """Names of the parts that differ from ``parts``."""
        return [name for name in sorted({*self.parts, *parts}) if self.parts.get(name) != parts.get(name)]


def mapping_content(port: PortRecord, step: StepSpec, component: ComponentRecord, entry: Entry) -> Content | None:
    """The mapping of ``component`` as ``entry`` (a complete, passing check_mapping) proved it.

    The approval is bound to the rules, to where each tensor went and how, to what is left out, and to adapter, weights
    and planned classes. It is not bound to every file that the run imported: an edit elsewhere makes the *proof* stale,
    and when the proof is repeated and the mapping came out the same, what the person has read still stands.

    Returns:
        None if the entry was recorded by a version that did not keep the rules.
    """
    found = entry.summary
    if not found.get("arrivals") or "rule_lines" not in found:
        return None
    adapter = [value for key, value in sorted(entry.depends_on.items()) if key.startswith("adapter:")]
    rules, unused = found["rule_lines"], found["unused_names"]
    left_out = int(found["unused_on_purpose"])
    arrived, total = found["tensors"]
    ways = ", ".join(f"{count} by {one_line(way)}" for way, count in sorted(found["how"].items(), key=lambda x: -x[1]))
    facts = [
        ("Component", f"{component.name} ({component.kind})"),
        ("Official class", component.official),
        ("FastVideo class", component.port),
        ("Adapter", component.adapter),
        ("Weights", _weights(port)),
        ("Tensors proven by value", f"{arrived} of {total}"),
        ("How they arrived", ways or "nothing arrived"),
        ("Left out on purpose", str(left_out)),
    ]
    blocks = [
        Block("Rules, in the order in which they are tried", _lines(rules), int(found["rules"])),
        Block("Official tensors left out on purpose", _lines(unused), left_out),
    ]
    patterns = [f"{pattern!r}: {count} tensors" for pattern, count in found["unused_patterns"].items()]
    if patterns:
        blocks.append(Block("Patterns by which they are left out", _lines(patterns), len(patterns)))
    return Content(
        port_id=port.port_id,
        step_id=step.id,
        title=f"The weight mapping of {component.name}",
        acceptance=step.acceptance,
        parts={
            "rules": str(found["rules_digest"]),
            "where the tensors arrive": str(found["arrivals"]),
            "adapter": " ".join(adapter),
            "weights": entry.depends_on.get("weights", ""),
            "planned classes": entry.depends_on.get("plan", ""),
        },
        facts=tuple((label, one_line(value)[:_LINE]) for label, value in facts),
        blocks=tuple(blocks),
        evidence=(entry.run_id,),
    )


def _weights(port: PortRecord) -> str:
    if port.weights is None:
        return "none fetched: the official model's own state dict"
    at = f" at {port.weights.revision}" if port.weights.revision else ""
    return f"{port.weights.source}{at}, sha256 {port.weights.digest[:16]}"


def _lines(texts: list[str]) -> tuple[str, ...]:
    return tuple(one_line(text)[:_LINE] for text in texts)


def as_text(content: Content, words: str, limit: int = 100_000) -> str:
    """The content for a terminal or a client's dialogue: ours first, the agent's words last, quoted and named so.

    Text longer than ``limit`` characters loses lines of its longest lists, and says so.
    """
    shown = max((len(block.lines) for block in content.blocks), default=0)
    while True:
        text = _text(content, words, shown)
        if len(text) <= limit or shown == 0:
            return text
        shown //= 2


def _text(content: Content, words: str, shown: int) -> str:
    lines = [content.title, f"Step: {content.step_id} of {content.port_id}", f"Accepted when: {content.acceptance}", ""]
    lines += [f"{label}: {value}" for label, value in content.facts]
    for block in content.blocks:
        if block.total == 0:
            lines += ["", f"{block.title}: none"]
            continue
        lines += ["", f"{block.title} ({block.total}):", *(f"  {line}" for line in block.lines[:shown])]
        rest = block.total - min(shown, len(block.lines))
        if rest:
            lines.append(f"  ... and {rest} more that are not shown here")
    lines += ["", f"Evidence: {', '.join(content.evidence) or 'none'}", f"Content: sha256 {content.digest}"]
    said = clean(words).strip()
    if said:
        lines += ["", "The agent's own words, which nobody has checked:", *(f"> {line}" for line in said.split("\n"))]
    return "\n".join(lines)
