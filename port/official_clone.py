"""Bring a foreign repository to one commit in a folder of its own; nothing of it is run, not even by git."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import git
from .errors import PortError
from .official_tree import read_tree
from .paths import open_regular

FOLDER = "official_repos"
STAGING = ".cloning-"
"""Begins the name of a clone that is not whole."""
CLONE_LIMIT_S = 3600.0
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PLACES = ("refs/heads/", "refs/tags/", "")


@dataclass(frozen=True)
class Found:
    """What a revision means at its source.

    Attributes:
        commit: Full hash; empty where only the whole history can tell (a shortened hash).
        reference: The full name of the branch or tag, or empty for a hash.
        kind: ``branch``, ``tag`` or ``commit``.
    """

    commit: str
    reference: str
    kind: str


def resolve(url: str, transport: str, revision: str | None, cwd: Path) -> Found:
    """Ask the source what ``revision`` is now; a full hash is asked of nobody.

    Raises:
        PortError: The source cannot be read, has no commit, or has no such branch or tag; or a branch and a tag bear
            the name and differ.
    """
    if revision is not None and _HASH.fullmatch(revision.lower()):
        return Found(revision.lower(), "", "commit")
    listed = git.run(["ls-remote", "--quiet", "--", url], cwd=cwd, transports=(transport,), limit_s=120).stdout
    rows = [line.split("\t", 1) for line in listed.splitlines() if "\t" in line]
    heads = {name: commit for commit, name in rows}
    if not heads:
        raise PortError(
            "The official repository has no commit.", seen=git.redact(url), fix="Check the address; it may be empty."
        )
    if revision is None:
        if "HEAD" not in heads:
            raise PortError(
                "The official repository names no default branch.",
                seen=", ".join(sorted(heads))[:300],
                fix="Give revision: one of these, without refs/heads/.",
            )
        branch = next((name for name in heads if name.startswith("refs/heads/") and heads[name] == heads["HEAD"]), "")
        return Found(heads["HEAD"], branch, "branch")
    names = [place + revision for place in _PLACES if place + revision in heads]
    # An annotated tag is an object of its own; name^{} is the commit it stands for.
    commits = {heads.get(f"{name}^{{}}", heads[name]): name for name in names}
    if len(commits) > 1:
        raise PortError(
            "The revision names a branch and a tag that differ.",
            seen=f"{revision}: " + ", ".join(f"{name} is {commit[:12]}" for commit, name in commits.items()),
            fix=f"Give revision={names[0]!r} or {names[1]!r}, or the commit's hash.",
        )
    if commits:
        commit, name = next(iter(commits.items()))
        return Found(commit, name, "tag" if name.startswith("refs/tags/") else "branch")
    if re.fullmatch(r"[0-9a-fA-F]{7,63}", revision):
        return Found("", "", "commit")
    known = sorted(name.split("/", 2)[-1] for name in heads if name.startswith("refs/") and "^" not in name)
    raise PortError(
        "The official repository has no such branch, tag or commit.",
        seen=f"revision={revision!r}; there are: {', '.join(known)[:300]}",
        fix="Give one of these, or a commit hash of at least 7 digits.",
    )


def folder_name(url: str, commit: str) -> str:
    """Name of the clone's folder: the repository's own name, made legal, and the commit."""
    last = re.split(r"[/:\\]", url.rstrip("/\\"))[-1].removesuffix(".git")
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', last).strip('-.')[:60] or 'official'}-{commit[:12]}"


def clone(
    url: str, transport: str, found: Found, revision: str | None, root: Path, report: Callable[[str], None]
) -> tuple[Path, str]:
    """The folder with the commit checked out, and the commit; whole under its name or not there.

    The commit alone is fetched where the source allows that, else all branches and tags. Submodules and LFS contents
    stay where they are; hooks, templates, filters of the repository and configurations of it do not apply.

    Raises:
        PortError: The source has no such commit, or git failed.
    """
    if found.commit and (known := root / folder_name(url, found.commit)).exists():
        check_clone(known, found.commit)
        return known, found.commit
    staging = root / f"{STAGING}{secrets.token_hex(6)}"
    try:
        staging.mkdir()
        git.run(["init", "--quiet", "--template=", "--", str(staging)], cwd=root)
        commit = _fetch(url, transport, found, revision, staging, report)
        report(f"checking out {commit[:12]}")
        git.run(["update-ref", "--no-deref", "HEAD", commit], cwd=staging)
        git.run(["reset", "--hard", "--quiet"], cwd=staging, disarm=git.hostile_filters(staging), limit_s=1200)
        place = root / folder_name(url, commit)
        if not place.exists():
            staging.rename(place)
        check_clone(place, commit)
        return place, commit
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_clone(folder: Path, commit: str) -> None:
    """Raises: PortError: ``folder`` is no clone of ours at ``commit``."""
    if folder.is_symlink() or not (folder / ".git").is_dir() or (folder / ".git").is_symlink():
        raise PortError(
            "Something else stands where the official clone belongs.",
            seen=str(folder),
            fix="Move it away, then call fetch_official_repo again.",
        )
    head = git.run(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], cwd=folder, check=False)
    if head.code != 0 or head.stdout != commit:
        raise PortError(
            "The official clone is not at its commit any more.",
            seen=f"{folder}: HEAD is {head.stdout[:12] or 'nothing'}, recorded is {commit[:12]}",
            fix=f"Check out {commit} there again, or remove the folder and call fetch_official_repo again.",
        )


def differences(folder: Path, commit: str) -> dict[str, str]:
    """What differs in the clone from the commit: path to ``gone``, ``link`` or the new content's hash.

    The files are compared with git's objects, not through the index, which can be told to overlook changes. Bytecode
    that Python wrote is passed over.

    Raises:
        PortError: Git cannot read the commit.
    """
    tree = read_tree(folder, commit)
    found: dict[str, str] = {}
    for path, (name, _) in tree.files.items():
        digest = _blob(folder / path, name)
        if digest != name:
            found[path] = digest
    for path, target in tree.links.items():
        if not (folder / path).is_symlink() or str((folder / path).readlink()) != target:
            found[path] = "link"
    known = {*tree.files, *tree.links}
    for here, folders, names in os.walk(folder):
        inside = Path(here).relative_to(folder)
        folders[:] = [name for name in folders if name not in (".git", "__pycache__")]
        for name in [*names, *(name for name in folders if (Path(here) / name).is_symlink())]:
            path = (inside / name).as_posix()
            if path not in known and not name.endswith(".pyc"):
                found[path] = _blob(folder / path, commit)
    return dict(sorted(found.items()))


def _blob(path: Path, like: str) -> str:
    """Git's name of the file's content, in the hash that ``like`` is; ``gone`` or ``link`` where it is no file."""
    if path.is_symlink():
        return "link"
    if not path.exists():
        return "gone"
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.new("sha1" if len(like) == 40 else "sha256", b"blob %d\0" % size)
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except PortError:
        return "no file"
    return digest.hexdigest()


def _fetch(
    url: str, transport: str, found: Found, revision: str | None, staging: Path, report: Callable[[str], None]
) -> str:
    base = ["fetch", "--quiet", "--no-recurse-submodules", "--no-write-fetch-head", "--no-auto-maintenance"]
    name = git.redact(url)
    if found.commit:
        report(f"fetching {found.commit[:12]} of {name}")
        command = [*base, "--depth=1", "--no-tags", "--", url, f"{found.commit}:refs/port/commit"]
        alone = git.run(command, cwd=staging, transports=(transport,), limit_s=CLONE_LIMIT_S, check=False)
        if alone.code == 0:
            return _commit(staging, "refs/port/commit", name, found.commit)
    # Not every server gives a single commit, and plain files served over HTTP have no depth.
    report(f"fetching all of {name}")
    everything = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
    git.run([*base, "--", url, *everything], cwd=staging, transports=(transport,), limit_s=CLONE_LIMIT_S)
    return _commit(staging, found.commit or str(revision), name, found.commit)


def _commit(staging: Path, expression: str, name: str, wanted: str) -> str:
    asked = git.run(["rev-parse", "--verify", "--quiet", f"{expression}^{{commit}}"], cwd=staging, check=False)
    if asked.code != 0 or (wanted and asked.stdout != wanted):
        raise PortError(
            "The official repository has no such commit.",
            seen=f"{expression[:64]} in {name}",
            fix="Give a commit that a branch or tag of the repository reaches.",
        )
    return asked.stdout
