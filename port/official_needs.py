"""What the official code needs against what the port's interpreter has: conflicts, what to install, what to stub."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from packaging.markers import InvalidMarker, Marker
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field

from .errors import PortError
from .paths import open_regular
from .python_source import parse_python
from .requirements import Needed

LIMIT_S = 30.0
_MARK = "fastvideo-port:"
_ASK = f"""
import importlib.metadata as m, json, platform, sys
found = {{}}
for item in m.distributions():
    try:
        found.setdefault(item.metadata["Name"], item.version)
    except Exception:
        pass
try:
    tops = m.packages_distributions()
except Exception:
    tops = {{}}
marker = {{"python_version": "%d.%d" % sys.version_info[:2], "python_full_version": platform.python_version(),
    "sys_platform": sys.platform, "platform_system": platform.system(), "platform_machine": platform.machine(),
    "os_name": __import__("os").name, "implementation_name": sys.implementation.name}}
sys.stdout.write("\\n{_MARK}" + json.dumps({{"installed": found, "tops": tops, "marker": marker}}) + "\\n")
"""

_STUB = {
    "flash-attn": "attention kernels; SDPA computes the same",
    "flash-attn-3": "attention kernels; SDPA computes the same",
    "xformers": "attention kernels; SDPA computes the same",
    "sageattention": "approximate attention; parity needs SDPA",
    "apex": "fused layers; torch has them",
    "deepspeed": "training and sharding",
    "bitsandbytes": "quantisation",
    "triton": "kernels for a GPU",
    "tensorrt": "deployment",
    "transformer-engine": "FP8 layers",
    "liger-kernel": "fused layers",
    "xfuser": "sequence parallelism",
    "yunchang": "sequence parallelism",
    "gradio": "a web demonstration",
    "wandb": "logging of training",
    "tensorboard": "logging of training",
    "dashscope": "a prompt service on the network",
}
"""Packages that numbers do not need: what they are for."""
_HELD = ("torch", "torchvision", "torchaudio", "fastvideo", "numpy")
"""Packages of FastVideo's environment that nobody may exchange for the official code."""
_MODULES = {
    "pillow": "PIL", "opencv-python": "cv2", "opencv-python-headless": "cv2", "pyyaml": "yaml",
    "scikit-image": "skimage",    "scikit-learn": "sklearn", "flash-attn": "flash_attn",
    "python-dateutil": "dateutil", "protobuf": "google",
    "imageio-ffmpeg": "imageio_ffmpeg", "beautifulsoup4": "bs4", "transformer-engine": "transformer_engine",
}  # fmt: skip
_MOST_FILES = 4000


class Conflict(BaseModel):
    """A requirement that the port's interpreter does not meet."""

    model_config = ConfigDict(extra="forbid")

    package: str
    needs: str = Field(description="As the file has it.")
    has: str | None = Field(description="Installed version; null: absent.")
    file: str
    advice: str


@dataclass(frozen=True)
class Environment:
    """What an interpreter has.

    Attributes:
        installed: Normalised distribution name to version.
        modules: Importable top-level module to the distributions that bring it.
        marker: Values of environment markers.
    """

    installed: dict[str, str]
    modules: dict[str, list[str]]
    marker: dict[str, str]


@dataclass
class Use:
    """Where the official code imports a top-level module.

    Attributes:
        guarded: ``file:line`` inside a try, an if or a function: its absence may be survived.
        plain: ``file:line`` at the top of a module: its absence ends the import.
    """

    guarded: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)


def look(python: str) -> Environment:
    """Ask ``python`` what is installed; nothing of it is imported.

    Raises:
        PortError: It does not run or does not answer.
    """
    from .requirements import normal

    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK],
            cwd=os.sep,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
        lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith(_MARK)]
        answer = json.loads(lines[-1].removeprefix(_MARK))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError) as error:
        raise PortError(
            "The port's interpreter does not say what is installed.",
            seen=f"{python}: {type(error).__name__}",
            fix="Repair that environment; create_worktree takes another python.",
        ) from error
    installed = {normal(str(name)): str(version) for name, version in answer["installed"].items()}
    return Environment(installed, answer["tops"], answer["marker"])


def compare(needed: Iterable[Needed], has: Environment, uses: dict[str, Use]) -> tuple[list[Conflict], list[str]]:
    """Conflicts, and sentences that say what to install and what to stub.

    Only what everybody needs counts as a conflict; an extra's package counts when the code imports it.
    """
    conflicts: list[Conflict] = []
    install: dict[str, str] = {}
    words: list[str] = []
    seen: set[str] = set()
    for item in needed:
        if not _applies(item.marker, has.marker):
            continue
        version = has.installed.get(item.name)
        if version is not None and _meets(version, item.specifier):
            continue
        use = _use(item.name, has, uses)
        if item.optional and (use is None or version is not None):
            continue
        advice = _advice(item, version, use)
        conflicts.append(Conflict(package=item.name, needs=item.text[:200], has=version, file=item.file, advice=advice))
        if item.name in seen:
            continue
        seen.add(item.name)
        if version is None and item.name not in (*_STUB, *_HELD) and use is not None and use.plain:
            install[item.name] = item.text.split(";")[0].strip() if item.specifier or "://" in item.text else item.name
        elif version is None and item.name in _STUB and use is not None and use.plain:
            words.append(
                f"Stub {item.name} ({_STUB[item.name]}): a module of that name on sys.path in the adapter's "
                f"load_official, for {use.plain[0]}."
            )
    if install:
        words.insert(
            0, "Install without touching torch: pip install --no-deps " + " ".join(f"'{x}'" for x in install.values())
        )
    if any(conflict.package in _HELD and conflict.has for conflict in conflicts):
        words.append(
            "Do not change torch, torchvision or numpy of FastVideo's environment: try the official code with "
            "them; where it fails, give create_worktree an official_python of its own."
        )
    return conflicts, words


def imports_of(root: Path, paths: Iterable[str]) -> dict[str, Use]:
    """Top-level modules that the Python files import, each with the places; the files are parsed, never imported."""
    uses: dict[str, Use] = {}
    for path in [path for path in sorted(paths) if path.endswith(".py")][:_MOST_FILES]:
        try:
            with open_regular(root / path) as file:
                tree = parse_python(file.read(1 << 20))
        except (PortError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in {name.split(".")[0] for name in names}:
                use = uses.setdefault(name, Use())
                (use.plain if id(node) in top else use.guarded).append(f"{path}:{getattr(node, 'lineno', 0)}")
    return uses


def python_conflict(needs: str, has: Environment, file: str) -> Conflict | None:
    """A conflict with the Python version that the project asks for, if there is one."""
    version = has.marker["python_full_version"]
    if not needs or _meets(version, needs):
        return None
    advice = "Give create_worktree an official_python of that version, or try: the limit is often only untested."
    return Conflict(package="python", needs=needs[:200], has=version, file=file, advice=advice)


def _advice(item: Needed, version: str | None, use: Use | None) -> str:
    where = "the code imports it nowhere at the top" if use is None or not use.plain else f"imported at {use.plain[0]}"
    if use is None:
        where = "the code never imports it"
    elif not use.plain:
        where = f"imported only inside a try, an if or a function ({use.guarded[0]})"
    if version is not None:
        held = "keep the port's and try; a parity run will show" if item.name in _HELD else "try it as it is first"
        return f"other version: {held}; {where}"
    if item.name in _STUB:
        return f"stub it, {_STUB[item.name]}; {where}"
    if use is None or not use.plain:
        return f"leave it out; {where}"
    return f"install it; {where}"


def _use(name: str, has: Environment, uses: dict[str, Use]) -> Use | None:
    from .requirements import normal

    modules = [module for module, brings in has.modules.items() if name in {normal(item) for item in brings}]
    for module in (*modules, _MODULES.get(name, ""), name.replace("-", "_"), name):
        if module in uses:
            return uses[module]
    return None


def _applies(marker: str, values: dict[str, str]) -> bool:
    try:
        return not marker or Marker(marker).evaluate({**values, "extra": ""})
    except (InvalidMarker, ValueError, KeyError):
        return True


def _meets(version: str, specifier: str) -> bool:
    try:
        return not specifier or SpecifierSet(specifier).contains(Version(version.split("+")[0]), prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return True
