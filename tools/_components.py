"""What the tools that run a component have in common: which component, which adapter, which files and device."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ..port.converted import why_unproven
from ..port.errors import PortError
from ..port.freshness import plan_digest
from ..port.ledger import Ledger
from ..port.official import require_official_code
from ..port.paths import digest_inside, resolve_inside
from ..port.records import ComponentRecord, PortRecord
from .base import ToolContext

WEIGHT_FOLDERS = {"dit": ("transformer", "dit"), "vae": ("vae",), "encoder": ("text_encoder", "image_encoder")}


def planned_component(port: PortRecord, name: str) -> ComponentRecord:
    """The planned component called ``name``.

    Raises:
        PortError: The plan has no such component; the nearest is named.
    """
    component = port.component(name)
    if component is not None:
        return component
    known = [item.name for item in port.components]
    near = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.4)
    raise PortError(
        "The plan has no component of this name.",
        seen=f"component={name[:80]!r}; planned: {', '.join(known) or 'none yet'}",
        fix=f"Did you mean {near[0]!r}?" if near else "Call write_plan with this component first.",
    )


def adapter_path(port: PortRecord, component: ComponentRecord, adapter: str | None) -> Path:
    """The adapter file, confined to the worktree.

    Raises:
        PortError: It is absent or lies elsewhere.
    """
    argument = adapter if adapter is not None else component.adapter
    worktree = Path(port.worktree)
    if adapter is None and not (worktree / argument).exists():
        raise PortError(
            "The component has no adapter yet.",
            seen=str(worktree / argument),
            fix="Write it there with load_official(ctx), load_port(ctx), make_inputs(ctx), "
            "call_official(model, inputs, ctx), call_port(model, inputs, ctx); the skill shows an example.",
        )
    return resolve_inside(worktree, argument, name="adapter", kind="file")


def is_planned(port: PortRecord, component: ComponentRecord, adapter: Path) -> bool:
    """Whether this is the adapter that the plan names; with another one a run is no evidence for the gate."""
    return adapter == (Path(port.worktree) / component.adapter).resolve()


def choose_device(device: str) -> str:
    """``auto`` is the first NVIDIA GPU that the driver lists, else the CPU; anything else is left as it is."""
    if device != "auto":
        return device
    query = shutil.which("nvidia-smi")
    if query is None:
        return "cpu"
    try:
        listed = subprocess.run([query, "-L"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return "cpu"
    return "cuda:0" if listed.startswith("GPU ") else "cpu"


def component_spec(port: PortRecord, component: ComponentRecord, adapter: Path, device: str) -> dict[str, Any]:
    """The part of a job's spec that mapping and component parity share."""
    return {
        **port_spec(port, adapter, device),
        "weights_folder": weights_folder(port, component),
        "port_class": component.port,
    }


def port_spec(port: PortRecord, adapter: Path, device: str) -> dict[str, Any]:
    """What every job that runs both sides is told of the port."""
    require_official_code(port)
    worktree = Path(port.worktree)
    converted = worktree / "converted_weights" / port.slug
    return {
        "adapter": str(adapter),
        # What the processes of the run may execute: an adapter that is replaced after this is not run.
        "adapter_sha256": digest_inside(worktree, adapter) if adapter.is_file() else None,
        "worktree": port.worktree,
        "official_repo": port.official_repo,
        "official_weights": port.weights.path if port.weights else None,
        "weights_identities": port.weights.identities if port.weights else {},
        "converted_weights": str(converted) if converted.is_dir() else None,
        "python": port.python,
        "official_python": port.official_python,
        "device": device,
        "devices": [] if device == "cpu" else [device],
        "patches": port.environment_patches,
        "threads": max(1, (os.cpu_count() or 2) // 2),
    }


def reference_cache(ctx: ToolContext) -> Path:
    """Where official results are kept, for all ports."""
    return ctx.home / "cache" / "reference"


def trusted_references(ctx: ToolContext, port_id: str) -> list[str]:
    """Digests of the official results that signed evidence of this port names."""
    entries = Ledger(ctx.home).entries(port_id)
    return sorted({str(entry.summary["reference"]) for entry in entries if entry.summary.get("reference")})


def weights_folder(port: PortRecord, component: ComponentRecord) -> str | None:
    """The folder with the component's safetensors files: named after it, after its kind, or the only one.

    Of weights that convert_weights made and proved, where there are such; else of the official ones.
    """
    if port.weights is None:
        return None
    # Converted weights stand for the official ones only while the proof of their conversion holds.
    roots = [] if why_unproven(port) else [Path(str(port.converted.path))] if port.converted else []
    for root in (*roots, Path(port.weights.path)):
        found = _folder_in(root, component)
        if found is not None:
            return found
    return None


def uses_converted(port: PortRecord) -> str | None:
    """Digest of the converted weights that a run may read, or none; part of what its evidence depends on."""
    return port.converted.digest if port.converted is not None and not why_unproven(port) else None


def _folder_in(root: Path, component: ComponentRecord) -> str | None:
    for folder in (root / component.name, *(root / name for name in WEIGHT_FOLDERS.get(component.kind, ())), root):
        if any(folder.glob("*.safetensors")):
            return str(folder)
    return None


def started_with(port: PortRecord, component: ComponentRecord, adapter: Path) -> dict[str, Any]:
    """What a run of a component starts with, kept among its arguments; `dependencies` makes evidence of it."""
    return {
        "component": component.name,
        "adapter": str(adapter),
        "weights": port.weights.digest if port.weights else None,
        "converted": uses_converted(port),
        "plan": plan_digest(port, component.name),
    }


def dependencies(port: PortRecord, arguments: dict[str, Any], measured: dict[str, str]) -> dict[str, str]:
    """What the entry depends on: what the job measured, and the adapter, weights and plan that the run started with."""
    adapter = Path(arguments["adapter"])
    found = {key: value for key, value in measured.items() if not key.startswith("adapter:") and key != "weights"}
    digest = next((value for key, value in measured.items() if key.startswith("adapter:")), "")
    found[f"adapter:{adapter.relative_to(Path(port.worktree).resolve()).as_posix()}"] = digest
    found["weights"] = arguments["weights"] or ""
    if arguments.get("converted"):
        found["converted"] = arguments["converted"]
    found["plan"] = arguments["plan"]
    return found
