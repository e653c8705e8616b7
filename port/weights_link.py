"""Where a port's weights stand: ``official_weights/<slug>`` is a link, so that it changes in one step or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from .errors import PortError
from .paths import check_kind, require_worktree

FOLDER = "official_weights"


def weights_root(worktree: Path) -> Path:
    """``official_weights`` of the worktree, made if absent.

    Raises:
        PortError: The worktree is gone, or a link or file stands in the folder's place.
    """
    root = require_worktree(worktree) / FOLDER
    with suppress(FileExistsError):
        root.mkdir()
    if root.is_symlink() or not root.is_dir():
        raise PortError(
            f"{FOLDER} in the worktree is not a folder of its own.",
            seen=str(root),
            fix="Move it away; fetch_weights makes the folder and links what you give as source.",
        )
    return root


def hub_folder(root: Path, repo_id: str, commit: str) -> Path:
    """Where a hub repository's files at ``commit`` are kept below ``official_weights``."""
    return root / ".hub" / f"{repo_id.replace('/', '--')}@{commit}"


def local_folder(source: Path, worktree: Path, root: Path) -> Path:
    """The folder to link for a local ``source``; for a single file, a folder that holds a link to it.

    Raises:
        PortError: It is not a folder or a safetensors file, or it contains the worktree.
    """
    check_kind(source, "any", name="source")
    source = source.resolve()
    if source.is_dir():
        if worktree.resolve().is_relative_to(source) or source == root.resolve():
            raise PortError(
                "The source contains the port's own worktree.", seen=str(source), fix="Give the folder of one model."
            )
        return source
    if source.suffix.lower() != ".safetensors":
        raise PortError(
            "A single file must be a safetensors file.",
            seen=str(source),
            fix="Give a folder or a .safetensors file; formats that can run code are not opened.",
        )
    folder = root / ".files" / source.stem[:80]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / source.name).symlink_to(source)
    return folder


def place(root: Path, slug: str, target: Path) -> Path:
    """Make ``official_weights/<slug>`` a link to ``target``, in place of the link that was there.

    Raises:
        PortError: Something that is no link stands there, or the file system has no links.
    """
    link = root / slug
    if link.exists() and not link.is_symlink():
        raise PortError(
            "Something stands where the weights belong.",
            seen=str(link),
            fix="Move it away and give its new path as source; fetch_weights links it, without a copy.",
        )
    fresh = root / f".{slug}-{secrets.token_hex(4)}"
    try:
        # Relative below official_weights, so that the worktree can be moved; absolute to the outside.
        fresh.symlink_to(os.path.relpath(target, root) if target.is_relative_to(root) else target)
        fresh.replace(link)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise PortError(
            "The weights cannot be linked into the worktree.",
            seen=f"{link}: {error.strerror}",
            fix="Check permissions.",
        ) from error
    return link
