"""The ledger's head: a signed note beside the database of how many entries there are and how the last one ends.

The chain inside the database proves that nothing in it was changed. It cannot prove that the database is the newest
one: an older copy of the whole file is a sound chain as well. The head is the anchor outside.

Two files cannot be written in one step, so the head names both states of an append: before the commit it says "n
entries, and perhaps n+1"; after the commit "n+1 entries". A crash in between leaves the first form, and the database
decides which of the two is true. Who puts back an older copy of the *whole* state folder, key and head included, is
not found out: nothing outside it is known here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import PortError

KEY_FILE, HEAD_FILE = "ledger.key", "ledger.head"
_MOST_BYTES = 4096


@dataclass(frozen=True)
class Tip:
    """How a ledger ends: the number of its entries and the digest of the last."""

    count: int
    digest: str


@dataclass(frozen=True)
class Head:
    """What was written last: the tip, and while an append is under way the tip that it leads to."""

    tip: Tip
    next: Tip | None = None


def read_head(home: Path, key: bytes) -> Head | str | None:
    """The head, a sentence that says why it is none, or none if there is no such file."""
    try:
        data = _read(home / HEAD_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{HEAD_FILE} cannot be read: {error.strerror}"
    try:
        document = json.loads(data)
        body, signature = document["head"], document["signature"]
        if not hmac.compare_digest(str(signature).encode(), _sign(key, body).encode()):
            return f"{HEAD_FILE} is not signed with this state folder's key"
        following = body["next"]
        return Head(Tip(**body["tip"]), Tip(**following) if following else None)
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{HEAD_FILE} is damaged"


def write_head(home: Path, key: bytes, head: Head) -> None:
    """Replace the head in one step; it is on the disk before this returns.

    Raises:
        PortError: It cannot be written; the old one stands.
    """
    body = {"tip": asdict(head.tip), "next": asdict(head.next) if head.next else None}
    try:
        _write(home / HEAD_FILE, json.dumps({"head": body, "signature": _sign(key, body)}).encode())
    except OSError as error:
        raise PortError(
            "The ledger's head cannot be written, so the entry was not recorded.",
            seen=f"{home / HEAD_FILE}: {error.strerror}",
            fix="Free disk space or make the state folder writable, then ask for the result again.",
        ) from error


def read_key(home: Path) -> bytes | None:
    """The state folder's key, or none if there is none yet.

    Raises:
        PortError: It is there and cannot be read, or is not a key.
    """
    try:
        key = _read(home / KEY_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PortError(
            "The ledger's key cannot be read.",
            seen=f"{home / KEY_FILE}: {error.strerror}",
            fix="Make it a file that this user can read; without it no evidence can be verified.",
        ) from error
    return key


def make_key(home: Path) -> bytes:
    """Make the key, readable by this user alone; of two processes that do so at once, one wins for both."""
    path = home / KEY_FILE
    draft = home / f"{KEY_FILE}.{secrets.token_hex(4)}"
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_bytes(32))
                stream.flush()
                os.fsync(stream.fileno())
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was faster; its key is the key
        finally:
            draft.unlink()
    except OSError as error:
        raise PortError(
            "The ledger's key cannot be made.",
            seen=f"{path}: {error.strerror}",
            fix="Free disk space or make the state folder writable, then ask for the result again.",
        ) from error
    return _read(path)


def _sign(key: bytes, body: object) -> str:
    # The purpose is signed too, so that an entry's signature can never pass for a head's.
    return hmac.new(key, b"head\n" + json.dumps(body, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _read(path: Path) -> bytes:
    # A FIFO in its place must not make us wait.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        return stream.read(_MOST_BYTES)


def _write(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
