"""Names that are legal everywhere, made from whatever a person typed."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from .errors import PortError

MAX_SLUG = 40
"""Longest slug in characters; leaves room for prefixes and stamps in paths of 255 bytes."""

MAX_MODEL_NAME = 200
"""Longest model name that is accepted, in characters."""

_DIGEST = 6
_RESERVED = re.compile(r"(con|prn|aux|nul|clock|com\d|lpt\d)", re.ASCII)


def slugify(name: str) -> str:
    """A branch and folder name made from any text: ``[a-z0-9-]``, 1 to ``MAX_SLUG`` characters.

    The letters are those that survive a compatibility decomposition, in lower case; every run of other characters is
    one hyphen, so ``Wan 2.2 / TI2V (5B)`` becomes ``wan-2-2-ti2v-5b``. Where letters or symbols of other scripts had
    to be dropped, or the text was too long, a digest of the whole name keeps two names apart. Names that Windows
    reserves for devices get the prefix ``model-``.
    """
    decomposed = unicodedata.normalize("NFKD", name)
    kept = "".join(" " if not char.isascii() else char for char in decomposed if not unicodedata.combining(char))
    slug = re.sub(r"[^a-z0-9]+", "-", kept.lower()).strip("-")
    dropped = any(unicodedata.category(char)[0] in "LNSC" for char in decomposed if not char.isascii())
    if not slug or dropped or len(slug) > MAX_SLUG:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
        slug = f"{(slug or 'model')[: MAX_SLUG - _DIGEST - 1].strip('-')}-{digest}"
    return f"model-{slug}" if _RESERVED.fullmatch(slug) else slug


def display_name(name: str) -> str:
    """The name as it may be shown and stored: one line, without control, bidirectional or zero-width characters.

    Raises:
        PortError: Nothing visible is left, or the name is longer than ``MAX_MODEL_NAME``.
    """
    if len(name) > MAX_MODEL_NAME:
        raise PortError(
            "The model's name is too long.",
            seen=f"{len(name)} characters, beginning {name[:40]!r}",
            fix=f"Give a name of at most {MAX_MODEL_NAME} characters.",
        )
    spaced = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in name)
    visible = "".join(char for char in spaced if unicodedata.category(char) not in ("Cf", "Cs", "Co", "Cn"))
    shown = " ".join(visible.split())
    if not shown:
        raise PortError(
            "The model has no name.",
            seen=f"model_name={name!r}",
            fix="Give the model's name, for example 'Wan 2.2 TI2V 5B'.",
        )
    return shown


def check_branch_prefix(prefix: str) -> str:
    """Return ``prefix`` if a branch name may begin with it (it may be empty).

    Raises:
        PortError: Git or some platform's file system would not take it.
    """
    parts = prefix.split("/")
    legal = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_-])?", re.ASCII)
    wrong = [
        part
        for part in (parts[:-1] if parts[-1] == "" else parts)
        if not legal.fullmatch(part) or ".." in part or part.endswith(".lock") or _RESERVED.fullmatch(part.lower())
    ]
    if prefix and (wrong or len(prefix) > 60):
        raise PortError(
            "The branch prefix cannot begin a branch name.",
            seen=f"branch_prefix={prefix[:80]!r}",
            fix="Use letters, digits, '-', '_' and '/', at most 60 characters, for example 'codex/'.",
        )
    return prefix
