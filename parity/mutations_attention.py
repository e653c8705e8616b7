"""Attention: scale, masks, which of query, key and value, what the softmax runs over, relative positions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from .variant import Call, Variant, argument, of_first, swap_last, with_keywords

BUCKETS = (32, 64)
DISTANCES = (128, 256, 64, 20)
"""Numbers of buckets and longest distances of relative positions, as in T5 and what was made of it."""
_MOST_POSITIONS = 4096


def attention(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    width = next((value.shape[-1] for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), 1)
    scales = {
        "the default softmax scale 1/sqrt(d)": None,
        "a softmax scale of 1": 1.0,
        "a softmax scale of 1/d": 1.0 / width,
        "a softmax scale of sqrt(d)": width**0.5,
    }
    for words, scale in scales.items():
        if kwargs.get("scale") != scale:
            yield Variant(words, with_keywords(scale=scale))
    causal = bool(kwargs.get("is_causal"))
    masked = kwargs.get("attn_mask") if len(args) < 4 else args[3]
    if masked is None or causal:
        yield Variant("no causal mask" if causal else "a causal mask", with_keywords(is_causal=not causal))
    if masked is not None:

        def unmasked(f: Call, a: tuple[Any, ...], k: dict[str, Any]) -> Any:
            return f(
                *a[:3], *((None, *a[4:]) if len(a) > 3 else ()), **{n: v for n, v in k.items() if n != "attn_mask"}
            )

        yield Variant("no attention mask", unmasked)
        if masked.dtype == torch.bool and "attn_mask" in kwargs:
            yield Variant("the mask inverted", lambda f, a, k: f(*a, **{**k, "attn_mask": ~k["attn_mask"]}))
    if len(args) >= 3:
        swaps = (("query", 0), ("key", 1), ("value", 2))
        for (first, i), (second, j) in itertools.combinations(swaps, 2):
            if args[i].shape == args[j].shape:

                def change(f: Call, a: tuple[Any, ...], k: dict[str, Any], i: int = i, j: int = j) -> Any:
                    changed = list(a)
                    changed[i], changed[j] = changed[j], changed[i]
                    return f(*changed, **k)

                yield Variant(f"{first} and {second} of the attention swapped", change)


def softmaxes(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    for dim in range(1, min(result.ndim, 4) + 1):
        yield Variant(f"the softmax over dimension {-dim}", of_first(partial(torch.softmax, dim=-dim)))


def branches(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if len(args) == 3:
        yield Variant("the branches of where swapped", lambda f, a, k: f(a[0], a[2], a[1]))


def fills(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    yield Variant("the mask inverted", lambda f, a, k: f(a[0], ~a[1].bool(), *a[2:], **k))
    if not (isinstance(args[1], torch.Tensor) and args[1].bool().all()):  # else the two are the same
        yield Variant("nothing masked", argument(0))


def products(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if isinstance(args[1], torch.Tensor) and args[1].ndim >= 2 and args[1].shape[-1] == args[1].shape[-2]:
        yield Variant("the second factor transposed", lambda f, a, k: f(a[0], swap_last(a[1])))


def added_masks(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """A sum with a mask of zeros and ones, which hides nothing."""
    if len(args) < 2 or not all(isinstance(value, torch.Tensor) for value in args[:2]):
        return
    if args[0].is_floating_point() and result.shape == args[0].shape and is_mask(args[1]):
        hide = masking(args[1])
        yield Variant("the places hidden at which the mask is 0 (not the mask added)", of_first(hide))


def is_mask(value: Any) -> bool:
    """Whether it is a tensor of zeros and ones, and of both."""
    if not isinstance(value, torch.Tensor) or value.ndim < 2 or value.numel() > 1 << 20:
        return False
    zeros, ones = value == 0, value == 1
    return bool((zeros | ones).all()) and bool(zeros.any()) and bool(ones.any())


def hidden(result: Any, masks: list[tuple[str, torch.Tensor]]) -> Iterator[Variant]:
    """What hides the keys that a mask of the suspect's arguments leaves out, after a call that makes scores.

    Args:
        result: Of the call, ``(batch or 1, heads or 1, queries, keys)``.
        masks: Names of arguments that hold zeros and ones, and they, ``(batch, ..., keys)``.
    """
    if not isinstance(result, torch.Tensor) or result.ndim != 4 or not result.is_floating_point():
        return
    for name, mask in masks:
        if mask.shape[-1] == result.shape[-1] > 1 and mask.shape[0] in (1, result.shape[0]):
            shaped = mask if mask.ndim == 4 else mask.reshape(mask.shape[0], 1, -1, mask.shape[-1])
            if shaped.shape[2] in (1, result.shape[2]):
                hide = masking(shaped)
                words = f"the keys hidden at which {name} is 0"
                yield Variant(words, lambda f, a, k, hide=hide: hide(f(*a, **k)))  # type: ignore[misc]


def masking(mask: torch.Tensor) -> Any:
    """Fills scores with the smallest number at which the mask is 0; ``mask`` is copied."""
    gone = mask == 0

    def hide(scores: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(gone.to(scores.device), torch.finfo(scores.dtype).min)

    return hide


def positions(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Numbers of queries and keys that depend on their distance only are rows of a table of relative positions."""
    if not _is_relative(result):
        return
    for both, buckets, far, back in itertools.product((True, False), BUCKETS, DISTANCES, (False, True)):
        table = buckets_of(result.shape[0], both, buckets, far, back)
        if torch.equal(table, result.cpu()):
            continue
        sign, ways = "query - key" if back else "key - query", "both directions" if both else "one direction"
        words = f"T5's buckets of the relative positions ({sign}, {ways}, {buckets} buckets, half of those of a "
        words += f"direction for the shortest distances, up to a distance of {far})"
        table = table.to(result.device, result.dtype)
        yield Variant(words, lambda f, a, k, table=table: table)  # type: ignore[misc]


def _is_relative(value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.ndim != 2 or value.is_floating_point() or value.is_complex():
        return False
    size = value.shape[0]
    if value.dtype == torch.bool or value.shape[1] != size or not 3 <= size <= _MOST_POSITIONS:
        return False
    return bool(torch.equal(value[1:, 1:], value[:-1, :-1])) and int(value.min()) >= 0


def buckets_of(size: int, both: bool, buckets: int, far: int, back: bool) -> torch.Tensor:
    """T5's relative position buckets, ``(size, size)``, int64.

    Formula: Raffel et al. (2020), as in mesh_tensorflow's ``_relative_position_bucket``.
    """
    place = torch.arange(size)
    distance = place[None, :] - place[:, None]
    if back:
        distance = -distance
    offset: Any = 0
    if both:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = buckets // 2
    scaled = torch.log(distance.clamp(min=1).float() / exact) / math.log(far / exact) * (buckets - exact)
    wide = (exact + scaled.long()).clamp(max=buckets - 1)
    found: torch.Tensor = offset + torch.where(distance < exact, distance, wide)
    return found
