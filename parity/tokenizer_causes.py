"""Why two tokenizers answer differently: what turns one answer into the other."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .scheduler_causes import Cause
from .tokenizer_prompts import TRANSFORMS

Rows = list[Any]
Answer = dict[str, Any]


def ids_of(answer: Answer) -> list[int] | None:
    """The first row of ids."""
    for name in ("input_ids", "ids", "tokens"):
        if name in answer:
            return _row(answer[name])
    return next((row for name, value in answer.items() if "mask" not in name and (row := _row(value))), None)


def mask_of(answer: Answer) -> list[int] | None:
    """The first row of the mask, if there is one."""
    return next((_row(value) for name, value in answer.items() if "mask" in name), None)


def _row(value: Any) -> list[int] | None:
    while isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    return value if isinstance(value, list) and all(isinstance(item, int) for item in value) else None


def content(answer: Answer, pad: int | None) -> list[int]:
    """The ids without padding: what the mask keeps; without a mask, without the pads at both ends."""
    ids, mask = ids_of(answer) or [], mask_of(answer)
    if mask is not None and len(mask) == len(ids):
        return [number for number, kept in zip(ids, mask, strict=True) if kept]
    if pad is None:
        return ids
    start, end = 0, len(ids)
    while end > start and ids[end - 1] == pad:
        end -= 1
    while start < end and ids[start] == pad:
        start += 1
    return ids[start:end]


def form_cause(port: Answer, official: Answer, pads: tuple[int | None, int | None]) -> Cause | None:
    """A cause that the two answers to one prompt show by themselves: padding, length, ends, template."""
    if "error" in port or "error" in official:
        return None
    mine, theirs = ids_of(port), ids_of(official)
    if mine is None or theirs is None:
        return None
    if mine == theirs:
        return _mask_cause(port, official)
    a, b = content(port, pads[0]), content(official, pads[1])
    if a == b:
        if len(mine) != len(theirs):
            return Cause("padded-length", f"the port pads to {len(mine)} tokens in place of {len(theirs)}")
        start = _leading(mine, a)
        if start != _leading(theirs, b) and len(a) < len(mine):
            side = "left" if start else "right"
            return Cause("padding-side", f"the port pads on the {side}, the official code on the other side")
        filler = {number for number, kept in zip(mine, mask_of(port) or [], strict=False) if not kept}
        return Cause("pad-token", f"the port pads with id {min(filler, default=pads[0])}")
    if a == b[:-1]:
        return Cause("missing-eos", f"the last token, id {b[-1]} (end of text), is missing")
    if b == a[:-1]:
        return Cause("extra-eos", f"a token is added at the end, id {a[-1]}")
    if a == b[1:]:
        return Cause("missing-bos", f"the first token, id {b[0]}, is missing")
    if b == a[1:]:
        return Cause("extra-bos", f"a token is added at the beginning, id {a[0]}")
    same = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if len(a) != len(b) and same >= min(len(a), len(b)) - 1 and same > 0:
        return Cause("max-length", f"long prompts are cut at {len(a)} tokens in place of {len(b)}")
    return _template(a, b)


def _mask_cause(port: Answer, official: Answer) -> Cause | None:
    a, b = mask_of(port), mask_of(official)
    if b is not None and a is None:
        return Cause("mask-absent", "the port returns no mask")
    if a is None or b is None or a == b:
        return None
    if all(a) and not all(b):
        return Cause("mask-all-ones", "the port's mask keeps the padding: it is all ones")
    if len(a) == len(b) and [1 - value for value in a] == b:
        return Cause("mask-inverted", "the port's mask is inverted")
    return Cause("mask", f"the port's mask keeps {sum(a)} tokens in place of {sum(b)}")


def _leading(ids: list[int], kept: list[int]) -> int:
    return next((n for n in range(len(ids) - len(kept) + 1) if ids[n : n + len(kept)] == kept), 0)


def _template(a: list[int], b: list[int]) -> Cause | None:
    """One answer stands inside the other: the rest is a template."""
    for inner, outer, words in ((a, b, "leaves out"), (b, a, "adds")):
        # The last token may be an end that the template's own follows.
        for core in (inner, inner[:-1], inner[1:-1]):
            extra = len(outer) - len(core)
            if len(core) < 3 or extra < 2:
                continue
            at = next((n for n in range(extra + 1) if outer[n : n + len(core)] == core), None)
            if at is not None:
                after = extra - at
                return Cause(
                    "template", f"the port {words} a template: {at} tokens before the prompt and {after} after it"
                )
    return None


def text_cause(
    failing: list[str],
    port: dict[str, Any],
    official: dict[str, Any],
) -> tuple[Cause, int] | None:
    """What one side does to the text and the other does not, with the number of prompts that it explains.

    Args:
        failing: Prompts whose answers differ.
        port, official: One case of each side: ``answers`` and ``changed`` (the same for changed prompts).
    """
    explained: Counter[tuple[str, str]] = Counter()
    for prompt in failing:
        for name in TRANSFORMS:
            for who, other, plain in (("port", official, port), ("official code", port, official)):
                tried = other["changed"][name].get(prompt)
                if tried is not None and tried == plain["answers"].get(prompt):
                    explained[who, name] += 1
    if not explained:
        return None
    order = list(TRANSFORMS)
    (who, name), count = max(explained.items(), key=lambda row: (row[1], -order.index(row[0][1])))
    whom = "official code" if who == "port" else "port"
    return Cause(f"text-{name}", f"the {who} {TRANSFORMS[name][0]}, the {whom} does not"), count
