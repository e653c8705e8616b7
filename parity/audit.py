"""What a side really is and ran on: foreign code, imported files, environment, attention backends."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from . import watched
from .facts import gpu_facts, sha256

FOREIGN = ("diffusers", "transformers")
ALLOWED = ("transformers.activations",)
"""Foreign modules that are plain utilities; FastVideo's rules allow them in production code."""


def _is_foreign(name: str, official_repo: Path | None) -> bool:
    if name.startswith(ALLOWED):
        return False
    if name.split(".")[0] in FOREIGN:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return bool(official_repo and file and Path(file).resolve().is_relative_to(official_repo.resolve()))


def foreign_code(model: torch.nn.Module, official_repo: Path | None) -> list[str]:
    """Where the port uses the official implementation: its submodules' classes, and what their files import.

    Returns:
        Sentences, empty when the port stands on its own.
    """
    found: dict[str, None] = {}
    files: set[str] = set()
    for name, module in model.named_modules():
        origin = type(module).__module__
        if _is_foreign(origin, official_repo):
            found[f"module {name or '(root)'!r} is a {origin}.{type(module).__qualname__}"] = None
        files.add(origin)
    for origin in sorted(files):
        if origin.split(".")[0] == "torch":
            continue
        for key, value in vars(sys.modules.get(origin, object())).items() if origin in sys.modules else ():
            home = getattr(value, "__module__", "") or ""
            is_model = isinstance(value, type) and issubclass(value, torch.nn.Module)
            if is_model and _is_foreign(home, official_repo) and not _is_foreign(origin, official_repo):
                found[f"{origin} imports the model class {home}.{key}"] = None
    return list(found)


def imported_files(root: Path) -> dict[str, str]:
    """Code below ``root`` that this process has executed: relative path -> SHA-256.

    The digest is of what was compiled; of a module that the watch cannot see (compiled code, bytecode without source)
    it is of the file as it is now.
    """
    root = root.resolve()
    found = watched.executed_below(root)
    folders: dict[str, str] = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not file or not str(file).endswith(_CODE):
            continue
        named = os.path.abspath(file)  # noqa: PTH100 (the same)
        for name in (named, _real(str(file), folders)):  # a link counts by its own name
            if not name.startswith(f"{root}{os.sep}"):
                continue
            path = Path(name)
            if not _in_environment(path, root) and path.is_file():
                below = path.relative_to(root).as_posix()
                if below not in found:
                    found[below] = sha256(path)
                break
    return dict(sorted(found.items()))


def data_read(spec: dict[str, Any], side: str) -> dict[str, str]:
    """What a side read of the worktree besides code (configs beside the weights, tables, prompts): path -> SHA-256.

    Of the official side also code of the worktree that it executed. Without the adapter, which is known for itself.
    """
    worktree, adapter = Path(spec["worktree"]), str(spec.get("adapter") or "")
    repo = Path(spec["official_repo"]).resolve() if spec.get("official_repo") else None
    found = watched.read_below(worktree)
    if side == "official":
        found.update(watched.executed_below(worktree))
    places = {path: (worktree / path).resolve() for path in found}
    return {
        path: digest
        for path, digest in found.items()
        if str(places[path]) != os.path.realpath(adapter) and not (repo and places[path].is_relative_to(repo))
    }


_CODE = (".py", ".pyc", ".so", ".pyd", ".dylib")


def _in_environment(path: Path, root: Path) -> bool:
    """Whether a file belongs to this interpreter's environment, which may lie below ``root``."""
    prefixes = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    return any(prefix.is_relative_to(root) and path.is_relative_to(prefix) for prefix in prefixes - {root})


def sources_outside_engine() -> list[str]:
    """Every Python source file that this process has imported, and the data that it read, as absolute paths.

    Without this engine's own files, which the key of a kept reference names for themselves.
    """
    folders: dict[str, str] = {}
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    sources = {_real(str(file), folders) for file in files if file and str(file).endswith(".py")}
    here = str(Path(__file__).parent)
    return sorted(path for path in sources | set(watched.opened()) if not path.startswith(here))


def _real(file: str, folders: dict[str, str]) -> str:
    """``file`` with links followed; ``folders`` keeps those of the folders, which thousands of modules share."""
    folder, name = os.path.split(file)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    path = f"{folders[folder]}{os.sep}{name}"
    return os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114 (a Path for each module: 0.1 s)


def stands_on(official: dict[str, Any], port: dict[str, Any], spec: dict[str, Any] | None = None) -> dict[str, str]:
    """Files and facts that a comparison of two sides rests on; a change in one of them makes its result stale.

    Args:
        official, port: What the two processes said: their ``files`` (path -> SHA-256), their ``data`` (see `data_read`)
            and their ``environment``.
        spec: Of the run, for its adapter, which is kept by its name.
    """
    found: dict[str, str] = {}
    for files in (official["data"], port["data"], port["files"]):
        found.update({f"worktree:{path}": digest for path, digest in files.items()})
    found.update({f"official:{path}": digest for path, digest in official["files"].items()})
    if spec is not None:
        found[f"adapter:{Path(spec['adapter']).name}"] = adapter_digest(spec)
    for side, facts in (("official", official), ("port", port)):
        found.update({f"environment:{side}.{name}": text for name, text in facts["environment"].items()})
    return found


def adapter_digest(spec: dict[str, Any]) -> str:
    """SHA-256 of the adapter that the run began with, the only one that its processes execute."""
    return str(spec.get("adapter_sha256") or sha256(Path(spec["adapter"])))


def environment(device: torch.device) -> dict[str, str]:
    """What a result depends on besides files: versions, device, driver."""
    facts = {"python": platform.python_version(), "torch": torch.__version__, "device": device.type}
    for name in ("diffusers", "transformers", "accelerate", "flash-attn"):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda or ""
        facts["driver"] = gpu_facts("driver_version").split("\n")[0]
    else:
        facts["cpu"] = platform.machine()
        facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return facts


def flags() -> dict[str, Any]:
    """Global numeric switches as they are now."""
    matmul = torch.backends.cuda.matmul
    return {
        "float32_matmul_precision": _read(torch.get_float32_matmul_precision),
        "cuda_matmul_tf32": _read(lambda: matmul.allow_tf32),
        "cudnn_tf32": _read(lambda: torch.backends.cudnn.allow_tf32),
        "bf16_reduced_precision_reduction": _read(lambda: matmul.allow_bf16_reduced_precision_reduction),
        "fp16_reduced_precision_reduction": _read(lambda: matmul.allow_fp16_reduced_precision_reduction),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "autocast": torch.is_autocast_enabled(),
        "cudnn_sdp": torch.backends.cuda.cudnn_sdp_enabled(),  # type: ignore[no-untyped-call]
    }


def _read(get: Callable[[], Any]) -> str:
    try:
        return str(get())
    except RuntimeError as error:  # torch refuses to answer when code mixed its old and new precision switches
        return f"unknown ({str(error).splitlines()[0][:80]})"


def reset_flags() -> None:
    """Full float32 arithmetic, float32 as default dtype: the state in which logic is compared."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.set_default_dtype(torch.float32)


def attention_classes(model: torch.nn.Module) -> dict[str, str]:
    """The attention implementation that each layer resolved: module name -> class.

    FastVideo keeps it in ``attn_impl``, diffusers in ``processor``.
    """
    found = {}
    for name, module in model.named_modules():
        for attribute in ("attn_impl", "processor"):
            value = getattr(module, attribute, None)
            if value is not None:
                found[name] = type(value).__name__
    return found
