"""Named changes to the port's environment. They are applied only when asked for, and every result reports them."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from typing import Any

import torch

from .errors import ParityError


def _cpu_attention() -> None:
    """FastVideo's CPU platform names no attention backend; answer torch's scaled dot product attention."""
    platform = importlib.import_module("fastvideo.platforms.cpu").CpuPlatform
    backend = "fastvideo.attention.backends.sdpa.SDPABackend"
    platform.get_attn_backend_cls = classmethod(lambda cls, *args, **kwargs: backend)


def _cpu_device() -> None:
    """FastVideo's loaders and stages ask for the local device and get mps where there is no GPU; answer cpu."""
    for name in (
        "fastvideo.distributed",
        "fastvideo.distributed.parallel_state",
        "fastvideo.models.loader.component_loader",
    ):
        importlib.import_module(name)
    # Stages and pipelines import the function by its name, and some are imported along with the platform already.
    for name, module in list(sys.modules.items()):
        if name.startswith("fastvideo.") and "get_local_torch_device" in vars(module):
            module.get_local_torch_device = lambda: torch.device("cpu")  # type: ignore[attr-defined]


class _Torch:
    """``torch``, as one module sees it in which some names mean something else."""

    def __init__(self) -> None:
        self.instead: dict[str, Callable[[], Any]] = {}

    def __getattr__(self, name: str) -> Any:
        instead = self.instead.get(name)
        return getattr(torch, name) if instead is None else instead()


def _torch_of(name: str) -> _Torch:
    module = importlib.import_module(name)
    if not isinstance(vars(module).get("torch"), _Torch):
        module.torch = _Torch()  # type: ignore[attr-defined]
    found: _Torch = vars(module)["torch"]
    return found


_asked = [torch.bfloat16]


def ask_for(dtype: torch.dtype) -> None:
    """Which dtype `denoising-dtype` answers from now on; without that patch this changes nothing."""
    _asked[0] = dtype


def _denoising_dtype() -> None:
    """FastVideo's denoising stage casts the latents to bfloat16 whatever it is asked for; answer the dtype asked."""
    _torch_of("fastvideo.pipelines.stages.denoising").instead["bfloat16"] = lambda: _asked[0]


def _cpu_autocast() -> None:
    """FastVideo's stages ask for autocast on cuda, which does nothing without a GPU; give them the CPU's."""

    def autocast(device_type: str, **options: Any) -> torch.autocast:
        return torch.autocast(device_type="cpu", **options)

    for name in ("denoising", "decoding"):
        _torch_of(f"fastvideo.pipelines.stages.{name}").instead["autocast"] = lambda: autocast


PATCHES: dict[str, Callable[[], None]] = {
    "cpu-attention": _cpu_attention,
    "cpu-device": _cpu_device,
    "cpu-autocast": _cpu_autocast,
    "denoising-dtype": _denoising_dtype,
}


_WANTS_A_GPU = re.compile(r"attention backend for CPU|\bmps\b|\bcuda\b|\bNVIDIA\b", re.IGNORECASE)
_applied: set[str] = set()


def advice(error: BaseException) -> str:
    """What to do about an ``error`` of the port's side that a missing environment patch explains; else empty."""
    if torch.cuda.is_available() or "cpu-attention" in _applied or not _WANTS_A_GPU.search(str(error)):
        return ""
    return (
        " FastVideo does not run without a GPU as it is, and this port was begun without environment patches: begin it "
        "again with create_worktree(environment_patches=['cpu-attention', 'cpu-device', 'cpu-autocast']) and copy your "
        "files over, rather than work around it in the adapter or the port."
    )


def apply_patches(names: list[str]) -> list[str]:
    """Apply patches by name and return a sentence for each.

    Raises:
        ParityError: A name is unknown, or FastVideo does not have what the patch changes.
    """
    reports = []
    for name in names:
        patch = PATCHES.get(name)
        if patch is None:
            raise ParityError(
                "There is no environment patch of this name.",
                seen=f"{name!r}; known: {', '.join(PATCHES)}",
                fix="Create the port again with one of the known names, or with none.",
            )
        try:
            patch()
        except (ImportError, AttributeError) as error:
            raise ParityError(
                f"The environment patch {name!r} could not be applied.",
                seen=f"{type(error).__name__}: {error}",
                fix="Check that fastvideo imports in the port's interpreter, with the worktree as the current folder.",
            ) from error
        _applied.add(name)
        reports.append(f"{name}: {(patch.__doc__ or '').strip()}")
    return reports
