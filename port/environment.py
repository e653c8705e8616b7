"""Named changes to a port's environment: chosen when the port begins, applied by the engine, always reported."""

from __future__ import annotations

import difflib

from .errors import PortError

PATCHES: dict[str, str] = {
    "cpu-attention": (
        "FastVideo's CpuPlatform names no attention backend; with this patch it answers torch SDPA, "
        "so that attention layers can be built without a GPU."
    ),
    "cpu-device": (
        "FastVideo's get_local_torch_device answers cpu in every module that has it, so that its loaders and stages "
        "run without a GPU."
    ),
    "cpu-autocast": (
        "FastVideo's denoising and decoding stages ask for autocast on cuda, which does nothing without a GPU; with "
        "this patch they get the CPU's, without which mixed precisions meet in one product."
    ),
    "denoising-dtype": (
        "FastVideo's DenoisingStage casts latents to bfloat16 whatever precision is asked for; with this patch it "
        "casts to the dtype asked, so that pipelines can be compared in float32. In bfloat16 it changes nothing."
    ),
}
"""Every valid name with one sentence that says what it changes."""


def check_patches(names: list[str] | None) -> list[str]:
    """The names in the order of ``PATCHES``, each once.

    Raises:
        PortError: A name is not one of ``PATCHES``; the nearest is named.
    """
    for name in names or []:
        if name not in PATCHES:
            near = difflib.get_close_matches(name[:80], PATCHES, n=1, cutoff=0.4)
            raise PortError(
                "There is no environment patch with this name.",
                seen=f"{name[:80]!r}; known: {', '.join(PATCHES)}",
                fix=f"Did you mean {near[0]!r}?" if near else "Use a known name, or leave environment_patches out.",
            )
    return [name for name in PATCHES if name in (names or [])]
