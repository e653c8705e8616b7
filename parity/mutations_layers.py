"""Activations, linear layers, norms and resampling that are often mistaken for one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .activations import ACTIVATIONS
from .mutations_numbers import EPSILONS
from .variant import Call, Variant, after, given, of_first, op_name, set_to, with_argument, with_keywords

_INTERPOLATIONS = {
    4: ("nearest", "bilinear", "bicubic", "area"),
    5: ("nearest", "trilinear", "area"),
    3: ("nearest", "linear"),
}
_WITH_CORNERS = ("linear", "bilinear", "bicubic", "trilinear")


def activations(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    for words, other in {**ACTIVATIONS, "no activation": lambda x: x}.items():
        yield Variant(f"{words} in place of {op_name(function)}", of_first(other))


def linears(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if len(args) > 2 and args[2] is not None:
        yield Variant("no bias", lambda f, a, k: f(*a[:2]))
    for words in ("the exact GELU (erf)", "the tanh GELU", "SiLU", "ReLU"):
        yield Variant(f"{words} after the linear layer", after(ACTIVATIONS[words]))


def convolutions(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if given(2, "bias", args, kwargs) is not None:
        yield Variant("no bias", set_to(2, "bias", None))


def norms(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    place = next((i for i in range(len(args) - 1, 0, -1) if isinstance(args[i], float)), None)
    now = kwargs.get("eps", args[place] if place is not None else None)
    for value in EPSILONS:
        if now is not None and value != now:
            change = with_keywords(eps=value) if "eps" in kwargs or place is None else with_argument(place, value)
            yield Variant(f"an epsilon of {value:g} in place of {now:g}", change)
    for name, position in (("weight", 2), ("bias", 3)):
        if isinstance(kwargs.get(name), torch.Tensor):
            yield Variant(f"no {name} in the norm", with_keywords(**{name: None}))
        elif len(args) > position and isinstance(args[position], torch.Tensor):
            yield Variant(f"no {name} in the norm", with_argument(position, None))


def lengths(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Vectors of length 1: over another dimension, with another epsilon."""
    now, epsilon = given(2, "dim", args, kwargs, 1), given(3, "eps", args, kwargs, 1e-12)
    for dim in range(1, result.ndim):
        if dim != now % result.ndim:
            yield Variant(f"the norm over dimension {dim} in place of {now}", set_to(2, "dim", dim))
    for value in EPSILONS:
        if value != epsilon:
            yield Variant(f"an epsilon of {value:g} in place of {epsilon:g}", set_to(3, "eps", value))


def interpolations(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Another way to resample; of what lies at the corners, both."""
    mode, corners = given(3, "mode", args, kwargs, "nearest"), given(4, "align_corners", args, kwargs)
    for other in _INTERPOLATIONS.get(result.ndim, ()):
        for aligned in (False, True) if other in _WITH_CORNERS else (None,):
            if (other, bool(aligned)) == (mode.removesuffix("-exact"), bool(corners)):
                continue

            def change(
                f: Call, a: tuple[Any, ...], k: dict[str, Any], other: str = other, aligned: bool | None = aligned
            ) -> Any:
                left = {name: value for name, value in k.items() if name not in ("mode", "align_corners")}
                return f(*a[:3], **left, mode=other, align_corners=aligned)

            words = f"{other} in place of {mode}"
            yield Variant(f"{words}, corners aligned" if aligned else words, change)
