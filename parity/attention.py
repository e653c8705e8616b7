"""Attention backends: what each side really ran, whether that is the same, and running both on one backend."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel

from .dtypes import Regions, fold
from .observe import BY_HAND, MATH, Observation
from .verdict import Finding

_ENVIRONMENT = {"FASTVIDEO_ATTENTION_BACKEND": "TORCH_SDPA", "DIFFUSERS_ATTN_BACKEND": "native"}
"""What makes FastVideo and diffusers call torch's attention; read when they are imported."""
_EXACT = (BY_HAND, MATH)
"""Kernels that form the whole matrix of scores: the same algorithm, whoever wrote it."""
_SDPA_FLAGS = ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")
_MOST_MODULES = 8


def align_environment(spec: Mapping[str, Any]) -> None:
    """Before a side's packages are imported: ask both for torch's attention, if ``align_backends`` is set."""
    if spec.get("align_backends"):
        os.environ.update(_ENVIRONMENT)


@contextmanager
def one_backend(spec: Mapping[str, Any]) -> Iterator[None]:
    """Around a call: torch's attention computes with its math kernel, if ``align_backends`` is set."""
    if not spec.get("align_backends"):
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


def compare_backends(
    seen: dict[str, dict[str, Observation]],
    classes: dict[str, dict[str, str]],
    regions: Regions,
    aligned: bool,
) -> tuple[dict[str, Any], list[Finding]]:
    """What ran on each side, and a remark if it was not the same.

    Args:
        seen: Side (``official``, ``port``) -> dtype -> observation; float32, which carries the verdict, comes first.
        classes: Side -> module -> class that the layer resolved.
        regions: The paired modules.
        aligned: Whether both sides were asked for the math kernel.

    Returns:
        ``official`` and ``port`` with ``classes``, ``kernels`` (kernel -> calls, in float32), ``production`` (the same
        by dtype), ``modules`` (blocks folded) and ``sdpa_flags``; ``aligned``; ``differs``: a sentence or "", and
        ``differs_at``: the port module that it speaks of.
    """
    report: dict[str, Any] = {side: _side(seen[side], classes[side]) for side in ("official", "port")}
    where, differs = "", ""
    for dtype in seen["port"]:
        if dtype in seen["official"] and not differs:
            where, differs = _difference(dtype, seen["official"][dtype], seen["port"][dtype], regions, aligned)
    report.update(aligned=aligned, differs=differs, differs_at=where)
    findings = []
    if differs:
        findings.append(Finding("attention-backends-differ", "pass", differs))
    if aligned:
        left = {side: _not_exact(seen[side]) for side in ("official", "port")}
        for side, kernels in left.items():
            if kernels:
                message = f"The {side} side still ran {', '.join(kernels)}, which torch's switch does not redirect."
                findings.append(Finding("attention-not-aligned", "pass", message))
    return report, findings


def first(findings: list[Finding], others: list[Finding]) -> list[Finding]:
    """``findings`` before ``others``: an attention mismatch is named before anything deeper."""
    return [*findings, *(finding for finding in others if finding not in findings)]


def _side(seen: dict[str, Observation], classes: dict[str, str]) -> dict[str, Any]:
    modules: dict[str, Counter[str]] = {}
    total: dict[str, Counter[str]] = {dtype: Counter() for dtype in seen}
    for dtype, observation in seen.items():
        for name, kernels in observation.kernels.items():
            total[dtype].update(kernels)
            modules.setdefault(fold(name), Counter()).update(kernels.keys())
    shown = list(modules.items())[:_MOST_MODULES]
    flags = next((observation.flags.get("forward", {}) for observation in seen.values()), {})
    first_dtype = next(iter(total))
    return {
        "classes": sorted(set(classes.values())),
        "kernels": dict(total[first_dtype]),
        "scaled_dot_product_attention": sum(n for name, n in total[first_dtype].items() if name.startswith("sdpa-")),
        "production": {dtype: dict(kernels) for dtype, kernels in total.items() if dtype != first_dtype},
        "modules": {name: sorted(kernels) for name, kernels in shown},
        "sdpa_flags": {name: flags[name] for name in _SDPA_FLAGS if name in flags},
    }


def _difference(
    dtype: str, official: Observation, port: Observation, regions: Regions, aligned: bool
) -> tuple[str, str]:
    """Where the sides ran different kernels: the first such port module, and a sentence; both empty if nowhere."""
    mine, theirs = regions.both(
        {name: {"kernel": kernels} for name, kernels in port.kernels.items()},
        {name: {"kernel": kernels} for name, kernels in official.kernels.items()},
    )
    for key in sorted({*mine, *theirs}):
        a, b = mine.get(key, {}).get("kernel", set()), theirs.get(key, {}).get("kernel", set())
        same = a == b or (aligned and a <= set(_EXACT) and b <= set(_EXACT))
        if not same:
            where = fold(key) or "the model"
            other = fold(regions.official_names[key]) or "the model"
            return key, f"In {dtype} the port ran {_text(a)} at {where!r}, the official side {_text(b)} at {other!r}."
    return "", ""


def _text(kernels: set[str]) -> str:
    return ", ".join(sorted(kernels)) or "no known attention kernel"


def _not_exact(seen: dict[str, Observation]) -> list[str]:
    names = {name for found in seen.values() for kernels in found.kernels.values() for name in kernels}
    return sorted(names - set(_EXACT))
