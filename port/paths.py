"""Paths that came from outside: refused unless they stay where they may go."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO, Literal

from .errors import PortError

MAX_PATH = 4096
"""Longest path that is looked at, in characters."""

MAX_COMPONENT = 255
"""Longest name of one file or folder, in bytes: no usual file system has a longer one."""

Kind = Literal["file", "folder", "any"]


def check_text(argument: str, name: str = "path") -> str:
    """Return ``argument`` if it can be a path at all.

    Raises:
        PortError: It is empty, holds a NUL, another control character or half of a surrogate pair, or it or one of its
            parts is overlong.
    """
    if not argument.strip():
        raise PortError(f"The argument {name} is empty.", seen=f"{name}={argument[:80]!r}", fix="Give a path.")
    if len(argument) > MAX_PATH:
        raise PortError(
            f"The path in {name} is too long.",
            seen=f"{len(argument)} characters, beginning {argument[:60]!r}",
            fix=f"Give a path of at most {MAX_PATH} characters.",
        )
    longest = max(argument.split("/"), key=len)
    if len(longest.encode("utf-8", "surrogatepass")) > MAX_COMPONENT:
        raise PortError(
            f"The path in {name} holds a name that is too long.",
            seen=f"{len(longest)} characters, beginning {longest[:60]!r}",
            fix=f"Give a path whose parts have at most {MAX_COMPONENT} bytes each; no file has a longer name.",
        )
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in argument):
        raise PortError(
            f"The path in {name} holds a control character or half of a surrogate pair.",
            seen=f"{name}={argument[:120]!r}",
            fix="Give the path without NUL, newlines and other control characters.",
        )
    return argument


def resolve_inside(root: Path, argument: str, *, name: str = "path", kind: Kind = "any") -> Path:
    """The existing path that ``argument`` names below ``root``, every link followed.

    An absolute argument is accepted when it lies below ``root``. Nothing is expanded or decoded: ``~`` and ``%2e`` are
    letters. Git's own folder is closed in any letter case. Opening the result later follows no new link if
    ``open_regular`` is used, which looks again.

    Raises:
        PortError: The path leaves ``root`` (also by a link), does not exist, or is not of the kind asked for.
    """
    check_text(argument, name)
    root = root.resolve()
    try:
        path = (root / argument).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links, or a component that is too long
        raise PortError(
            f"The path in {name} cannot be followed.", seen=f"{argument[:200]!r}: {error}", fix="Give another path."
        ) from error
    if not path.is_relative_to(root):
        raise PortError(
            f"The path in {name} leaves the folder that it must stay in.",
            seen=f"{argument[:200]!r} is {str(path)[:200]}, outside {root}",
            fix="Give a path below that folder; links that lead out of it are not followed.",
        )
    if any(part.lower().rstrip(". ") == ".git" for part in path.relative_to(root).parts):
        raise PortError(
            f"The path in {name} lies in git's own folder.",
            seen=argument[:200],
            fix="Give a path of the work tree, outside .git.",
        )
    check_kind(path, kind, name=name)
    return path


def require_worktree(worktree: Path) -> Path:
    """Return a port's ``worktree`` if it is still the folder that was made: a link in its place is not followed.

    Raises:
        PortError: It is gone, or something else stands there.
    """
    if worktree.is_symlink() or (worktree.exists() and not worktree.is_dir()):
        kind = f"a link to {worktree.readlink()}" if worktree.is_symlink() else "no folder"
        raise PortError(
            "Something else stands in the place of the port's worktree.",
            seen=f"{worktree} is {kind}",
            fix="Move it away and put the worktree back, or begin again with create_worktree.",
        )
    if not worktree.exists():
        raise PortError(
            "The port's worktree is gone.", seen=str(worktree), fix="Restore it, or begin again with create_worktree."
        )
    return worktree


def require_utf8(path: Path, name: str) -> Path:
    """Return ``path`` if a record, a result and a worker's JSON can hold it.

    Raises:
        PortError: It is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise PortError(
            f"The path of {name} is not UTF-8, so no record can hold it.",
            seen=str(path)[:300],
            fix="Rename that folder, or take another one.",
        ) from error
    return path


def check_kind(path: Path, kind: Kind, *, name: str = "path") -> None:
    """Refuse a path that is absent, or is neither a regular file nor a folder (FIFO, device, socket).

    Raises:
        PortError: See above, or it is not of the kind asked for.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise PortError(
            f"The path in {name} cannot be used.",
            seen=f"{str(path)[:300]}: {error.strerror}",
            fix="Check the spelling; the path shown is where it was looked for.",
        ) from error
    is_file, is_folder = stat.S_ISREG(mode), stat.S_ISDIR(mode)
    if not (is_file or is_folder):
        raise PortError(
            f"The path in {name} is neither a file nor a folder.",
            seen=f"{path} is a {_special(mode)}",
            fix="Give a regular file or a folder.",
        )
    if (kind == "file" and not is_file) or (kind == "folder" and not is_folder):
        raise PortError(
            f"The path in {name} is a {'file' if is_file else 'folder'}, and a {kind} is needed.",
            seen=str(path),
            fix=f"Give the path of a {kind}.",
        )


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, and nothing else: a FIFO swapped in after a check neither blocks nor is read.

    Raises:
        PortError: It is not a regular file, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise PortError(
            "The file cannot be read.",
            seen=f"{path}: {error.strerror}",
            fix="Check that it exists and its permissions.",
        ) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise PortError("This is not a regular file.", seen=f"{path} is a {_special(mode)}", fix="Give a regular file.")
    return os.fdopen(descriptor, "rb")


def open_inside(root: Path, path: Path) -> BinaryIO:
    """Open what ``resolve_inside`` returned, looking again: a link that took its place, or that of a folder above it,
    is not followed.

    Raises:
        PortError: It is not where it was, is not a regular file, or cannot be read.
    """
    file = open_regular(path)
    here = path.resolve()
    try:
        same = (
            here == path
            and here.is_relative_to(root.resolve())
            and os.path.samestat(os.fstat(file.fileno()), here.stat())
        )
    except OSError:
        same = False
    if not same:
        file.close()
        raise PortError(
            "The file was replaced between the look at its path and its use.",
            seen=f"{path} leads to {here}",
            fix="Leave files and links alone while a tool is called, then call it again.",
        )
    return file


def digest_inside(root: Path, path: Path) -> str:
    """SHA-256 of what ``open_inside`` opens.

    Raises:
        PortError: See there.
    """
    digest = hashlib.sha256()
    with open_inside(root, path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _special(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "FIFO",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
        stat.S_IFSOCK: "socket",
        stat.S_IFDIR: "folder",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")
