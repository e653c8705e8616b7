"""Clone the official code at one commit and describe it; nothing of it is executed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import filelock

from ...parity.errors import ParityError
from ...parity.job import Job
from ...port.errors import PortError
from ...port.licence import LICENCE_FILE, Licence, none_found, rank, recognise
from ...port.official_clone import STAGING, Found, clone, differences, resolve
from ...port.official_needs import compare, imports_of, look, python_conflict
from ...port.official_tree import MAX_TEXT, Tree, lfs_pointers, read_text, read_tree, submodule_urls
from ...port.requirements import is_dependency_file, read


def fetch_official(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Bring the repository to its folder and describe what its commit holds.

    Args:
        spec: ``url``, ``transport``, ``revision`` (or none), ``home`` (state folder), ``root`` (official_repos of
            the worktree), ``python`` (the interpreter that will run the code), ``pinned`` and ``pinned_revision``
            (commit and revision on record for this URL, or none).
        job: Progress in steps.

    Raises:
        ParityError: What the clone refuses.
    """
    try:
        return _fetch(spec, job)
    except PortError as error:
        raise ParityError(error.what, seen=error.seen, fix=error.fix) from error


def _fetch(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    root, url, revision = Path(spec["root"]), spec["url"], spec["revision"]
    job.progress(0, 4, "asking which commit this is")
    found = resolve(url, spec["transport"], revision, root)
    moved = None
    # A branch that moved does not move the port: what was measured was measured with the commit on record.
    if spec["pinned"] and revision == spec["pinned_revision"] and found.commit not in ("", spec["pinned"]):
        moved = found.commit
        found = Found(spec["pinned"], "", found.kind)
    job.progress(1, 4, "fetching")
    known = {path.name for path in root.iterdir()}
    key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    locks = Path(spec["home"]) / "locks"
    locks.mkdir(exist_ok=True)
    with filelock.FileLock(locks / f"official-{key}.lock"):
        for left in root.glob(f"{STAGING}*"):  # of a fetch that was killed: nobody else holds the lock
            shutil.rmtree(left, ignore_errors=True)
        folder, commit = clone(url, spec["transport"], found, revision, root, lambda text: job.progress(1, 4, text))
    job.progress(2, 4, "reading licence, dependencies, links")
    tree = read_tree(folder, commit)
    licence, others = _licence(folder, tree)
    needs, notes, python, files = [], [], [], []
    for path in sorted(filter(is_dependency_file, tree.files)):
        if tree.files[path][1] > MAX_TEXT:
            notes.append(f"{path} is too large to be read")
            continue
        items, remarks, version = read(path, read_text(folder, tree.files[path][0]))
        files.append(path)
        needs += items
        notes += remarks
        if version:
            python.append((path, version))
    links = [path for path in tree.links if LICENCE_FILE.fullmatch(path) or is_dependency_file(path)]
    notes += [f"{path} is a link to {tree.links[path]!r}; it was not followed" for path in links]
    job.progress(3, 4, "comparing with the port's interpreter")
    has = look(spec["python"])
    conflicts, words = compare(needs, has, imports_of(folder, tree.files))
    conflicts += [old for path, version in python if (old := python_conflict(version, has, path))]
    return {
        "path": str(folder),
        "commit": commit,
        "reference": found.reference,
        "kind": found.kind,
        "new": folder.name not in known,
        "moved_to": moved,
        "dirty": list(differences(folder, commit)),
        "licence": {"name": licence.name, "words": licence.words, "file": licence.file},
        "more_licences": [f"{item.file}: {item.name}" for item in others],
        "dependency_files": files,
        "requirements": len(needs),
        "conflicts": [conflict.model_dump() for conflict in conflicts],
        "install": words,
        "submodules": [f"{path} -> {url or 'no URL'}" for path, url in submodule_urls(folder, tree).items()]
        or [f"{path} -> no URL" for path in tree.submodules],
        "lfs_pointers": lfs_pointers(folder, commit),
        "outside_links": [f"{path} -> {target}" for path, target in tree.outside.items()],
        "odd_names": tree.odd,
        "notes": notes,
        "files": len(tree.files),
        "bytes": sum(size for _, size in tree.files.values()),
    }


def _licence(folder: Path, tree: Tree) -> tuple[Licence, list[Licence]]:
    """The licence of the top folder, and those of other folders (models often have one of their own)."""
    paths = [path for path in tree.files if LICENCE_FILE.fullmatch(path.rpartition("/")[2]) and path.count("/") <= 3]
    paths = [path for path in paths if not path.endswith((".py", ".json")) and tree.files[path][1] <= MAX_TEXT]
    found = [recognise(read_text(folder, tree.files[path][0]), path) for path in sorted(paths, key=rank)[:20]]
    top = [item for item in found if "/" not in item.file]
    main = next((item for item in top if item.name != "unknown"), top[0] if top else none_found())
    return main, [item for item in found if item is not main]
