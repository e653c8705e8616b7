"""The place where a port is made: a git worktree beside a FastVideo repository, or a clone."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import filelock

from . import git
from .errors import PortError

FASTVIDEO_URL = "https://github.com/hao-ai-lab/FastVideo.git"
MARKERS = ("fastvideo/__init__.py", "fastvideo/registry.py")
"""The files that make a repository a FastVideo repository."""

CLONE_LIMIT_S = 1800.0


@dataclass
class Workspace:
    """A worktree or clone that is ready to work in.

    Attributes:
        path: Absolute path.
        branch: The port's branch, checked out there.
        base_commit: Commit that the branch begins at.
        mode: How it was made.
        repository: The FastVideo repository's path, or the URL it was cloned from.
        dirty: Changes of the source repository that were not carried over, as ``XY path``.
        notes: What a person should know.
    """

    path: Path
    branch: str
    base_commit: str
    mode: Literal["worktree", "clone"]
    repository: str
    dirty: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_repository(start: Path, *, required: bool) -> Path | None:
    """The top of the FastVideo work tree that ``start`` lies in, or none.

    Args:
        start: A folder.
        required: Raise instead of answering none.

    Raises:
        PortError: ``required``, and this is no FastVideo work tree; or it is one that git refuses to read.
    """

    def no(what: str, seen: str, fix: str) -> None:
        if required:
            raise PortError(what, seen=seen, fix=fix)

    fix = "Give the top folder of a FastVideo git repository, or leave fastvideo_repo out to clone one."
    if not start.is_dir():
        no("The FastVideo repository is not there.", str(start), fix)
        return None
    asked = git.run(["rev-parse", "--is-bare-repository", "--is-inside-work-tree"], cwd=start, check=False)
    if asked.code != 0:
        if "not a git repository" not in asked.stderr:
            raise git.failure(["rev-parse"], asked)
        no("This is not a git repository.", str(start), fix)
        return None
    if asked.stdout.split() != ["false", "true"]:
        no(
            "This repository has no work tree.",
            f"{start} is {'a bare repository' if asked.stdout.startswith('true') else 'a git folder'}",
            "Give a repository with files checked out, or pass its path as clone_url to clone it.",
        )
        return None
    top = Path(git.run(["rev-parse", "--show-toplevel"], cwd=start).stdout)
    if not start.resolve().is_relative_to(top.resolve()):  # core.worktree of the repository points elsewhere
        no("The repository says that its work tree is elsewhere.", f"{start} says {top}", fix)
        return None
    absent = [marker for marker in MARKERS if not (top / marker).is_file()]
    if absent:
        no("This is not a FastVideo repository.", f"{top} has no {' and no '.join(absent)}", fix)
        return None
    return top.resolve()


def make_worktree(repository: Path, slug: str, prefix: str, home: Path) -> Workspace:
    """Add a worktree beside ``repository`` on a new branch at its HEAD.

    The checkout obeys neither hooks nor filters that the repository's own configuration names. When anything fails,
    the folder, the branch and git's record of the worktree are removed.

    Raises:
        PortError: Nothing is committed, HEAD is not FastVideo, the branch cannot be, or git failed.
    """
    head = git.run(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], cwd=repository, check=False)
    if head.code != 0:
        named = git.run(["rev-parse", "--verify", "--quiet", "HEAD"], cwd=repository, check=False)
        if named.code == 0:
            raise PortError(
                "The commit that the FastVideo repository stands at cannot be read.",
                seen=f"{repository}: HEAD is {named.stdout[:12]}",
                fix="Look at it with git fsck, then fetch that commit again or clone FastVideo anew.",
            )
        raise PortError(
            "The FastVideo repository has no commit to branch from.",
            seen=str(repository),
            fix="Commit FastVideo there first (git add -A && git commit), then call create_worktree again.",
        )
    commit = head.stdout
    _check_committed(repository, commit)
    notes: list[str] = []
    if git.run(["rev-parse", "--is-shallow-repository"], cwd=repository).stdout == "true":
        notes.append("The repository is a shallow clone: history before its boundary is not there.")
    dirty = uncommitted(repository)
    with _git_lock(repository, home), _reserved(repository.parent, slug, prefix, repository) as (path, branch):
        # Made by itself, which fails if somebody else's is there: so a clean-up only ever removes our own.
        git.run(["update-ref", f"refs/heads/{branch}", commit, "0" * len(commit)], cwd=repository)
        try:
            # Checked out in a second step: only inside the worktree does git know every setting that would apply.
            git.run(["worktree", "add", "--quiet", "--no-checkout", "--", str(path), branch], cwd=repository)
            git.run(["reset", "--hard", "--quiet"], cwd=path, disarm=git.hostile_filters(path), limit_s=600)
        except BaseException:
            remove(Workspace(path, branch, commit, "worktree", str(repository)))
            raise
    _note_submodules(path, notes)
    _note_identity(path, notes)
    return Workspace(path, branch, commit, "worktree", str(repository), dirty, notes)


def make_clone(url: str, transport: str, slug: str, prefix: str, parent: Path) -> Workspace:
    """Clone FastVideo to a new folder below ``parent`` and begin a branch there.

    Args:
        url: From ``git.check_url``, with its transport.
        transport: See ``url``.
        slug: The model's slug.
        prefix: Begins the branch name.
        parent: Made if absent, removed again if the clone fails.

    Raises:
        PortError: The clone failed, is empty, or is not FastVideo; nothing is left.
    """
    made_parent = not parent.exists()
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PortError(
            "The folder for clones cannot be made.", seen=f"{parent}: {error.strerror}", fix="Make it writable."
        ) from error
    try:
        with _reserved(parent, slug, prefix, None) as (path, branch):
            try:
                commit = _clone(url, transport, path, branch)
            except BaseException:
                shutil.rmtree(path, ignore_errors=True)
                raise
    except BaseException:
        if made_parent:
            with suppress(OSError):
                parent.rmdir()
        raise
    notes: list[str] = []
    _note_submodules(path, notes)
    _note_identity(path, notes)
    return Workspace(path, branch, commit, "clone", url, [], notes)


def remove(workspace: Workspace) -> None:
    """Undo ``make_worktree`` or ``make_clone``: folder, branch and git's record of it, as far as they are there."""
    if workspace.mode == "worktree":
        repository = Path(workspace.repository)
        git.run(["worktree", "remove", "--force", "--", str(workspace.path)], cwd=repository, check=False)
    shutil.rmtree(workspace.path, ignore_errors=True)
    if workspace.mode == "worktree":
        git.run(["worktree", "prune"], cwd=repository, check=False)
        # Only while it still points where it began: `update-ref -d` compares.
        reference = f"refs/heads/{workspace.branch}"
        git.run(["update-ref", "-d", reference, workspace.base_commit], cwd=repository, check=False)


def _clone(url: str, transport: str, path: Path, branch: str) -> str:
    try:
        git.run(
            ["clone", "--quiet", "--no-recurse-submodules", "--no-local", "--", url, str(path)],
            cwd=path.parent,
            transports=(transport,),
            limit_s=CLONE_LIMIT_S,
        )
    except PortError as error:
        other = "Or give fastvideo_repo, a FastVideo repository of this machine, or another clone_url."
        raise PortError(error.what, seen=error.seen, fix=f"{error.fix}\n{other}") from error
    head = git.run(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], cwd=path, check=False)
    if head.code != 0:
        raise PortError(
            "The cloned repository has no commit.", seen=git.redact(url), fix="Give the URL of a FastVideo repository."
        )
    _check_committed(path, head.stdout)
    git.run(["switch", "--quiet", "--create", branch], cwd=path)
    return head.stdout


def _check_committed(repository: Path, commit: str) -> None:
    listed = git.run(["ls-tree", "--name-only", "-z", commit, "--", *MARKERS], cwd=repository).stdout.split("\0")
    absent = [marker for marker in MARKERS if marker not in listed]
    if absent:
        raise PortError(
            "The commit to branch from is not FastVideo.",
            seen=f"{commit[:12]} has no {' and no '.join(absent)}",
            fix="Commit FastVideo's files, or give another repository.",
        )


def uncommitted(repository: Path, untracked: Literal["normal", "all"] = "normal", limit_s: float = 120) -> list[str]:
    """Changed and untracked paths as ``XY path``; renames name the new path.

    Args:
        repository: A work tree.
        untracked: Whether a new folder is one path or each of its files.
        limit_s: Seconds that git may take.

    Raises:
        PortError: Git failed or took too long.
    """
    said = git.run(
        ["status", "--porcelain=v1", "-z", f"--untracked-files={untracked}", "--ignore-submodules=all"],
        cwd=repository,
        disarm=git.hostile_filters(repository),
        limit_s=limit_s,
    ).stdout
    entries = iter(said.split("\0"))
    dirty = []
    for entry in entries:
        if entry:
            dirty.append(entry.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
            if entry[0] in "RC":
                next(entries, None)  # the old path
    return dirty


@contextmanager
def _reserved(parent: Path, slug: str, prefix: str, repository: Path | None) -> Iterator[tuple[Path, str]]:
    """An empty folder that only we own, and the branch of the same stamp; removed if the block fails.

    Making the folder is the reservation: it succeeds for one process only. A second within the same second, or a
    branch left over from one, counts on.
    """
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    for attempt in range(1, 1000):
        name = f"{slug}-{stamp}" + (f"-{attempt}" if attempt > 1 else "")
        path, branch = parent / f"FastVideo-{name}", f"{prefix}port-{name}"
        if repository is not None and _taken(repository, branch):
            continue
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise PortError(
                "The worktree's folder cannot be made.",
                seen=f"{path}: {error.strerror}",
                fix="Make the parent folder writable, or free disk space.",
            ) from error
        try:
            yield path, branch
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return
    raise PortError("No free name for the worktree was found.", seen=str(parent), fix="Wait a second, then try again.")


def _taken(repository: Path, branch: str) -> bool:
    """Whether the branch exists.

    Raises:
        PortError: A branch has the name of one of its folders, so that git cannot make it.
    """
    parts = branch.split("/")
    for end in range(1, len(parts)):
        above = "/".join(parts[:end])
        if _exists(repository, above):
            raise PortError(
                "The port's branch cannot be made: another branch has the name of its folder.",
                seen=f"branch {above!r} exists, so {branch!r} cannot",
                fix="Give another branch_prefix, for example 'ports/', or rename that branch.",
            )
    return _exists(repository, branch)


def _exists(repository: Path, branch: str) -> bool:
    return git.run(["show-ref", "--verify", "--quiet", f"refs/heads/{branch}"], cwd=repository, check=False).code == 0


@contextmanager
def _git_lock(repository: Path, home: Path) -> Iterator[None]:
    """One worktree at a time per repository, also between linked worktrees and processes."""
    common = git.run(["rev-parse", "--path-format=absolute", "--git-common-dir"], cwd=repository).stdout
    locks = home / "locks"
    locks.mkdir(exist_ok=True)
    key = hashlib.sha256(os.path.realpath(common).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    try:
        with filelock.FileLock(locks / f"worktree-{key}.lock", timeout=300):
            yield
    except filelock.Timeout as error:
        raise PortError(
            "Another create_worktree is at work in this repository.", seen=str(repository), fix="Try again in a minute."
        ) from error


def _note_submodules(path: Path, notes: list[str]) -> None:
    if (path / ".gitmodules").is_file():
        notes.append("Submodules were not fetched; run git submodule update --init there if the port needs them.")


def _note_identity(path: Path, notes: list[str]) -> None:
    if any(git.run(["config", "--get", key], cwd=path, check=False).code != 0 for key in ("user.name", "user.email")):
        notes.append("Git has no identity here: set user.name and user.email before the first commit.")
