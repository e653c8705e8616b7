"""Model weights from a Hugging Face hub: pinned to a commit, fetched with resume, checked against the hub's list."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from . import git
from .errors import PortError
from .hashes import hash_files
from .textsafe import REDACTED, redact
from .weights_folder import MAX_FILES, UNSAFE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Report = Callable[[float, "float | None", str], None]

REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<id>[^/?#\s]+/[^/?#\s]+)(?P<rest>\S*)", re.IGNORECASE
)
_WORKERS = 4


@dataclass(frozen=True)
class HubFile:
    """A file of a hub repository.

    Attributes:
        path: Relative POSIX path, checked to stay inside.
        size: Bytes.
        sha256: Of the content, for large files; none for small ones.
        blob: Git's SHA-1 of the content, for small files.
    """

    path: str
    size: int
    sha256: str | None
    blob: str | None

    @property
    def unsafe(self) -> bool:
        """Whether the format can run code when loaded."""
        return PurePosixPath(self.path).suffix.lower() in UNSAFE


@dataclass(frozen=True)
class Snapshot:
    """A hub repository at one commit.

    Attributes:
        repo_id: ``org/name``.
        commit: Full hash that the revision stood for.
        files: All files at that commit.
    """

    repo_id: str
    commit: str
    files: tuple[HubFile, ...]


def check_id(repo_id: str) -> None:
    """Accept what can be the id of a model.

    Raises:
        PortError: It cannot.
    """
    if not REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id or repo_id.endswith((".git", ".", "-")):
        raise PortError(
            "This is not a model id of the hub.",
            seen=repr(repo_id[:120]),
            fix="Give org/name, as in the model page's URL.",
        )


def id_of(source: str) -> str:
    """``source``, and of a model page's URL the model's id.

    Raises:
        PortError: It is another URL.
    """
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:[/\\]", source):
        return source
    page = _PAGE.fullmatch(source)
    if page and not page["rest"].strip("/") and REPO_ID.fullmatch(page["id"]):
        return page["id"]
    here = f" (here {page['id']!r})" if page and page["id"].split("/")[0] not in ("datasets", "spaces") else ""
    raise PortError(
        "This URL is not the page of a model on the hub.",
        seen=f"source={git.hidden(source)[:200]!r}",
        fix=f"Give the hub id org/name{here}, with revision for a branch or commit, or a local folder.",
    )


def resolve(repo_id: str, revision: str | None) -> Snapshot:
    """Ask the hub which commit ``revision`` is now, and list its files.

    The hub is ``$HF_ENDPOINT`` or huggingface.co; the token is the person's own (``$HF_TOKEN`` or their login) and is
    in no output.

    Raises:
        PortError: The id or revision is malformed, the repository is absent, gated or private, the hub cannot be
            reached, or it names a file outside the repository.
    """
    check_id(repo_id)
    from huggingface_hub.hf_api import RepoFile

    with _worded(repo_id, revision):
        api = _api()
        commit = api.model_info(repo_id, revision=revision, timeout=30).sha
        if not commit or not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise PortError(
                "The hub named no commit for this revision.", seen=repr(commit)[:80], fix="Try again later."
            )
        files = []
        for entry in api.list_repo_tree(repo_id, recursive=True, revision=commit):
            if not isinstance(entry, RepoFile):
                continue
            large = entry.lfs
            files.append(
                HubFile(
                    path=_inside(entry.path),
                    size=large.size if large else entry.size,
                    sha256=large.sha256 if large else None,
                    blob=None if large else entry.blob_id,
                )
            )
            if len(files) > MAX_FILES:
                raise PortError(
                    "The hub repository has too many files.",
                    seen=f"more than {MAX_FILES}",
                    fix="Give one model's repository.",
                )
    return Snapshot(repo_id, commit, tuple(files))


def select(snapshot: Snapshot, allow: Sequence[str] | None, ignore: Sequence[str] | None) -> tuple[HubFile, ...]:
    """The files to fetch. Without ``allow``, formats that can run code stay on the hub.

    Raises:
        PortError: No file matches.
    """
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    wanted = [file for file in snapshot.files if allow is not None or not file.unsafe]
    chosen = tuple(
        filter_repo_objects(
            wanted,
            allow_patterns=list(allow) if allow is not None else None,
            ignore_patterns=list(ignore) if ignore is not None else None,
            key=lambda file: file.path,
        )
    )
    if not chosen:
        names = ", ".join(file.path for file in snapshot.files[:8]) or "no file"
        unsafe = " Formats that can run code are fetched only if allow_patterns names them." if allow is None else ""
        raise PortError(
            "No file of the repository is to be fetched.",
            seen=f"{snapshot.repo_id}@{snapshot.commit[:12]} has {names[:300]}",
            fix=f"Change allow_patterns and ignore_patterns.{unsafe}",
        )
    return chosen


def download(snapshot: Snapshot, files: Sequence[HubFile], folder: Path, home: Path, report: Report) -> None:
    """Bring ``files`` into ``folder`` and prove that they are what the hub listed.

    Files that are there already are kept. A connection that breaks is taken up again where it broke, a few times; a
    file that is still cut when this ends, or is killed, begins anew in the next call: the hub's client keeps no parts.
    Every file is then compared with the hub's list, by size and by hash (unsafe formats by size alone), because the
    client falls back to whatever lies on the disk when the hub does not answer. Two downloads into one folder wait for
    each other.

    Args:
        snapshot: Where from.
        files: What, from ``select``.
        folder: Made if absent.
        home: State folder, for the memory of hashes.
        report: Progress in bytes: each counts when it has arrived and again when it has been compared.

    Raises:
        PortError: See above, or the disk is too small. Complete files stay, so that the next call goes on from there.
    """
    from huggingface_hub import hf_hub_download

    folder.mkdir(parents=True, exist_ok=True)
    bytes_ = sum(file.size for file in files)
    arrivals = _Arrivals(bytes_, report)

    def fetch(file: HubFile) -> None:
        hf_hub_download(
            snapshot.repo_id,
            file.path,
            revision=snapshot.commit,
            local_dir=folder,
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            tqdm_class=arrivals.bar(file),
        )
        arrivals.complete(file)

    with _alone(folder, report):
        _remove_parts(folder)
        _check_space(files, folder)
        with _worded(snapshot.repo_id, snapshot.commit), ThreadPoolExecutor(max_workers=_WORKERS) as pool:
            futures = [pool.submit(fetch, file) for file in files]
            done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
            for future in waiting:
                future.cancel()
            for future in done:
                future.result()
        _verify(files, folder, home, lambda read, name: report(bytes_ + read, 2 * bytes_, f"comparing {name}"))


@contextmanager
def _alone(folder: Path, report: Report) -> Iterator[None]:
    """Hold the folder's lock; the kernel gives it back when we die."""
    handle = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(0, None, "waiting for another download of the same model")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_parts(folder: Path) -> None:
    """Remove what a killed download left: parts have a name of their own each time, so nothing takes them up again."""
    for part in (folder / ".cache" / "huggingface" / "download").rglob("*.incomplete"):
        part.unlink(missing_ok=True)


def _verify(
    files: Sequence[HubFile], folder: Path, home: Path, report: Callable[[int, str], None] = lambda read, name: None
) -> None:
    wrong = []
    read = 0
    for file in files:
        report(read, file.path)
        read += file.size
        path = folder / file.path
        size = path.stat().st_size if path.is_file() else -1
        if size != file.size:
            wrong.append((file.path, f"{max(size, 0)} of {file.size} bytes"))
        elif file.unsafe:
            continue
        elif file.sha256 and hash_files(home, [path])[0] != file.sha256:
            wrong.append((file.path, "another SHA-256 than the hub lists"))
        elif file.blob and _git_blob(path, size) != file.blob:
            wrong.append((file.path, "another content than the hub lists"))
        report(read, file.path)
    for name, _ in wrong:
        (folder / name).unlink(missing_ok=True)  # otherwise the next call would take it for done
    if wrong:
        raise PortError(
            "What arrived is not what the hub lists.",
            seen="; ".join(f"{name}: {fault}" for name, fault in wrong[:5])[:600],
            fix="Those files were removed; call fetch_weights again to fetch them anew.",
        )


def _git_blob(path: Path, size: int) -> str:
    """Git's name for the content of a file."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_space(files: Sequence[HubFile], folder: Path) -> None:
    absent = [file for file in files if not (folder / file.path).is_file()]
    needed, free = sum(file.size for file in absent), shutil.disk_usage(folder).free
    if needed > free:
        raise PortError(
            "The disk is too small for these weights.",
            seen=f"{needed / 2**30:.1f} GiB to fetch, {free / 2**30:.1f} GiB free at {folder}",
            fix="Free space, or fetch less with allow_patterns.",
        )


def _inside(path: str) -> str:
    parts = path.split("/")
    reserved = any(part.lower() in ("", ".", "..", ".git", ".cache") for part in parts)
    if reserved or "\\" in path or ":" in path or not path.isprintable() or len(path) > 1000:
        raise PortError(
            "The hub repository names a file that would leave its folder.",
            seen=repr(path[:120]),
            fix="Do not use this repository; tell its owner.",
        )
    return path


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


class _Arrivals:
    """Adds up the bytes of all files; a file that is begun again does not count back."""

    def __init__(self, total: int, report: Report) -> None:
        self._total = total
        self._report = report
        self._lock = threading.Lock()
        self._arrived: dict[str, float] = {}

    def complete(self, file: HubFile) -> None:
        """The file is there, whether it came now or before."""
        self._set(file, file.size)

    def _set(self, file: HubFile, arrived: float) -> None:
        with self._lock:
            before = self._arrived.get(file.path, 0)
            self._arrived[file.path] = min(max(before, arrived), float(file.size))
            done = sum(self._arrived.values())
            said = f"fetching {file.path}: {done / 2**30:.2f} of {self._total / 2**30:.2f} GiB in all"
            self._report(done, 2 * self._total, said)

    def bar(self, file: HubFile) -> Any:
        """A class in the form of a progress bar, as the hub's client wants one."""
        arrivals = self

        class Bar:
            def __init__(self, *arguments: Any, initial: float = 0, **options: Any) -> None:
                self._here = float(initial)

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *error: object) -> None:
                pass

            def update(self, n: float | None = 1) -> None:
                self._here += n or 0
                arrivals._set(file, self._here)

            def close(self) -> None:
                pass

            def refresh(self, *arguments: Any, **options: Any) -> None:
                pass

            def set_description_str(self, *arguments: Any, **options: Any) -> None:
                pass

            def set_postfix_str(self, *arguments: Any, **options: Any) -> None:
                pass

        return Bar


@contextmanager
def _worded(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn the hub client's errors into ours; no token survives."""
    import httpx2
    from huggingface_hub import errors

    where = f"{repo_id}@{revision or 'main'}"
    retry = (
        "Check the network and HF_ENDPOINT, then call fetch_weights again: files that have arrived whole are kept; "
        "one that was cut begins anew."
    )
    try:
        yield
    except PortError:
        raise
    except errors.GatedRepoError as error:
        fix = "Accept its terms on the model's page, and set HF_TOKEN (or run 'hf auth login') for that account."
        raise PortError(
            "The model is gated, and this account has no access.", seen=_said(error, where), fix=fix
        ) from None
    except errors.RevisionNotFoundError as error:
        fix = "Give a branch, tag or commit of this repository, or leave revision out."
        raise PortError("The repository has no such revision.", seen=_said(error, where), fix=fix) from None
    except errors.RepositoryNotFoundError as error:
        fix = "Check spelling and letter case of org/name; if it is private, set HF_TOKEN (or run 'hf auth login')."
        raise PortError("The hub shows no such model to this account.", seen=_said(error, where), fix=fix) from None
    except errors.RemoteEntryNotFoundError as error:
        raise PortError("The hub lists a file that it does not have.", seen=_said(error, where), fix=retry) from None
    except errors.HfHubHTTPError as error:
        raise _status(error, where, retry) from None
    except errors.OfflineModeIsEnabled:
        fix = "Unset HF_HUB_OFFLINE, or give a local folder as source."
        raise PortError("The hub may not be asked: HF_HUB_OFFLINE is set.", seen=where, fix=fix) from None
    except errors.HFValidationError as error:
        raise PortError("This is not a model id of the hub.", seen=_clean(error), fix="Give org/name.") from None
    except (httpx2.HTTPError, errors.LocalEntryNotFoundError, errors.FileMetadataError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, errors.HfHubHTTPError):
            raise _status(cause, where, retry) from None
        seen = f"{where}: {_clean(cause)}"
        raise PortError("The download broke off, or the hub cannot be reached.", seen=seen, fix=retry) from None
    except OSError as error:
        raise PortError("The download could not be written or broke off.", seen=_clean(error), fix=retry) from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # The hub's client takes what it is sent for what it expects.
        fix = "Check that HF_ENDPOINT names a hub (unset it for huggingface.co), then call fetch_weights again."
        raise PortError("The hub's answer is not one of a hub.", seen=f"{where}: {_clean(error)}", fix=fix) from None


def _status(error: Any, where: str, retry: str) -> PortError:
    status = error.response.status_code
    if status in (401, 403):
        fix = "Set HF_TOKEN (or run 'hf auth login') for an account that may read this model."
        return PortError("The hub refuses access to the model.", seen=_said(error, where), fix=fix)
    return PortError(f"The hub answered with status {status}.", seen=_said(error, where), fix=retry)


def _said(error: Any, where: str) -> str:
    request = f", request id {error.request_id}" if getattr(error, "request_id", None) else ""
    message = error.server_message or f"status {error.response.status_code}"
    return f"{where}: {_redact(str(message))[:200]}{request}"


def _clean(error: BaseException) -> str:
    return _redact(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]


def _redact(text: str) -> str:
    secret = None
    with suppress(Exception):
        from huggingface_hub import get_token

        secret = get_token()
    return redact(text.replace(secret, REDACTED) if secret else text)
