"""FastVideo's own reference videos: ``<tier>/<GPU>_reference_videos/<model>/<backend>/<prompt>.mp4``, and their rules.

The layout, the order in which GPUs are recognised and the rule for file names are those of FastVideo 0.2.1
(``fastvideo/tests/ssim/reference_utils.py``, ``inference_similarity_utils.py``, ``VideoGenerator``). One rule is
stricter here: a reference has the prompt's whole name, it does not just contain it.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..port.errors import PortError
from ..port.source_tree import SourceTree
from ..port.wiring import strings_in

SUFFIX = "_reference_videos"
TIERS = ("default", "full_quality")
GPUS = ("A40", "L40S", "H100", "H200", "GB200", "B200")
TESTS = "fastvideo/tests/ssim"
_MEDIA = (".mp4", ".png", ".jpg", ".jpeg", ".webp")
_MOST_FOLDERS = 5000
_PROMPT = 100


@dataclass(frozen=True)
class Reference:
    """One reference, and what its place says about it."""

    path: Path
    gpu: str
    model: str
    backend: str
    tier: str

    @property
    def place(self) -> str:
        """GPU, model and backend in words."""
        return " / ".join(part for part in (self.tier, self.gpu, self.model, self.backend) if part)


def is_reference_folder(path: Path) -> bool:
    """Whether a folder is FastVideo's ``reference_videos``, or lies in one, or holds ``<GPU>_reference_videos``."""
    if not path.is_dir():
        return False
    if any(part.name.endswith(SUFFIX) for part in (path, *path.parents)):
        return True
    return any(name.endswith(SUFFIX) for folder in (path, *(path / tier for tier in TIERS)) for name in _names(folder))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def find_reference(folder: Path, candidate: Path, gpu: str) -> Reference:
    """The reference for this candidate.

    Args:
        folder: The root of the references, or any folder in it; what it does not say follows from the candidate's path
            (``.../<model>/<backend>/<prompt>.mp4``, as FastVideo's tests write it) and from this machine.
        candidate: The generated video or picture.
        gpu: This machine's GPU as FastVideo calls it; "" where it has none that FastVideo knows.

    Raises:
        PortError: There is none, or more than one fits; what is there is named.
    """
    every = list(_references(folder))
    if not every:
        raise PortError(
            "The folder of references holds no video and no picture.",
            seen=str(folder),
            fix=f"Download them with {TESTS}/reference_videos_cli.py, or give one video as reference.",
        )
    fitting = [item for item in every if _same_prompt(item.path, candidate)]
    if not fitting:
        names = ", ".join(sorted({repr(item.path.name[:60]) for item in every})[:4])
        raise PortError(
            "There is no reference with the candidate's prompt.",
            seen=f"candidate {candidate.name[:120]!r}; references: {names}",
            fix="Give the candidate the name of its prompt, as FastVideo does, or give one video as reference.",
        )
    parts = candidate.parts
    for wanted in (
        lambda item: item.model in parts,
        lambda item: item.backend in parts,
        lambda item: item.path.suffix.lower() == candidate.suffix.lower(),
        lambda item: item.tier == (TIERS[1] if TIERS[1] in parts else TIERS[0]),
    ):
        fitting = [item for item in fitting if wanted(item)] or fitting
    inside = any(part.name.endswith(SUFFIX) for part in (folder, *folder.parents))
    here = [item for item in fitting if item.gpu == gpu]
    if not here and not inside:
        there = ", ".join(sorted({item.gpu for item in fitting}))
        raise PortError(
            "There is no reference for this machine's GPU.",
            seen=f"GPU here: {gpu or 'none that FastVideo knows'}; references for: {there}",
            fix=f"Run on one of these, or give the folder <GPU>{SUFFIX} itself to compare all the same.",
        )
    fitting = here or fitting
    if len({item.path for item in fitting}) > 1:
        raise PortError(
            "More than one reference fits the candidate.",
            seen="; ".join(item.place for item in fitting[:6]),
            fix="Give the folder of the model and backend as reference.",
        )
    return fitting[0]


def _references(folder: Path) -> Iterator[Reference]:
    seen = 0
    for where, folders, names in os.walk(folder):
        folders.sort()
        seen += 1
        if seen > _MOST_FOLDERS:
            return
        path = Path(where)
        device = next((part for part in (path, *path.parents) if part.name.endswith(SUFFIX)), None)
        if device is None:
            continue
        below = path.relative_to(device).parts
        if not 1 <= len(below) <= 2:
            continue
        tier = device.parent.name if device.parent.name in TIERS else TIERS[0]
        for name in sorted(names):
            if name.lower().endswith(_MEDIA):
                gpu = device.name.removesuffix(SUFFIX)
                yield Reference(path / name, gpu, below[0], below[1] if len(below) > 1 else "", tier)


def _same_prompt(reference: Path, candidate: Path) -> bool:
    theirs, ours = _stem(reference.stem), _stem(re.sub(r"_\d+$", "", candidate.stem))
    return theirs == ours or _stem(candidate.stem) == theirs


def _stem(name: str) -> str:
    """The name as ``VideoGenerator`` would write it, cut as the tests cut prompts."""
    plain = re.sub(r"\s+", " ", re.sub(r'[\\/:*?"<>|]', "", name)).strip().strip(".")
    return plain[:_PROMPT].strip().strip(".")


def gpu_here() -> str:
    """This machine's first GPU as FastVideo calls it; "" without a GPU or for another one."""
    query = shutil.which("nvidia-smi")
    if query is None:
        return ""
    try:
        listed = subprocess.run([query, "-L"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return known_gpu(listed.split("\n")[0])


def known_gpu(name: str) -> str:
    """FastVideo's short name within a device's full one: substrings, GB200 before B200."""
    return next((gpu for gpu in GPUS if gpu in name), "")


def fastvideo_threshold(worktree: Path, model: str) -> tuple[float, str] | None:
    """FastVideo's least mean score for a model and the test that says so; the strictest where several do."""
    tree = SourceTree(worktree, "")
    found: list[tuple[float, str]] = []
    for path in tree.files(TESTS, "_similarity.py"):
        body = tree.tree(path)
        if body is None or not any(text == model or text.endswith(f"/{model}") for text in strings_in(body)):
            continue
        constants = {
            target.id: node.value
            for node in ast.walk(body)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        given = [node.value for node in ast.walk(body) if isinstance(node, ast.keyword) and node.arg == _LEAST]
        given += [value for name, value in constants.items() if name == _LEAST]
        for value in given:
            literal = constants.get(value.id, value) if isinstance(value, ast.Name) else value
            if isinstance(literal, ast.Constant) and isinstance(literal.value, float) and 0 < literal.value <= 1:
                found.append((literal.value, path))
    return max(found, default=None)


_LEAST = "min_acceptable_ssim"


def newer_sibling(candidate: Path) -> Path | None:
    """``name_1.mp4`` beside ``name.mp4`` and written after it: ``VideoGenerator`` appends a number, it overwrites
    nothing."""
    try:
        written = candidate.stat().st_mtime
        near = [
            path
            for path in candidate.parent.iterdir()
            if re.fullmatch(re.escape(candidate.stem) + r"_\d+", path.stem)
            and path.suffix == candidate.suffix
            and path.stat().st_mtime > written
        ]
    except OSError:
        return None
    return max(near, key=lambda path: path.stat().st_mtime, default=None)
