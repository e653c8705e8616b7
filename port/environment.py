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
        "FastVideo's get_local_torch_device answers cpu in fastvideo.distributed, fastvideo.distributed.parallel_state "
        "and fastvideo.models.loader.component_loader, so that its loaders run without a GPU."
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
