"""Git, run so that neither a repository's configuration nor an argument can make it run something else.

The command itself is run rather than GitPython: GitPython hands the whole environment on and cannot leave a variable
out, so a ``GIT_DIR`` or ``GIT_INDEX_FILE`` of the caller would redirect every command, and a repository's own
configuration (filters, hooks, file system monitor) would be obeyed.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from . import textsafe
from .errors import PortError

_KEPT = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH")
"""The caller's GIT_* variables that are handed on; all others could redirect a command."""

_DISARMED = (
    "core.fsmonitor=",
    f"core.hooksPath={os.devnull}",
    "core.sshCommand=",
    "core.gitProxy=",
    "core.askPass=",
    "core.pager=cat",
    "diff.external=",
    "protocol.ext.allow=never",
    "submodule.recurse=false",
    "maintenance.auto=false",
    "gc.auto=0",
)
_LOCAL_CREDENTIALS = re.compile(r"://[^/\s]*@")
_FILTER = re.compile(r"filter\.(?P<driver>.+)\.(?:clean|smudge|process|required)", re.IGNORECASE | re.DOTALL)
_TRANSPORTS = {"https": "https", "http": "http", "ssh": "ssh", "git+ssh": "ssh", "ssh+git": "ssh", "file": "file"}


@dataclass(frozen=True)
class Output:
    """What a git command printed.

    Attributes:
        code: Exit status.
        stdout: Text, undecodable bytes kept as surrogates, without the last newline.
        stderr: Text, credentials of URLs removed.
    """

    code: int
    stdout: str
    stderr: str


def redact(text: str) -> str:
    """``text`` without tokens and without the user and password parts of URLs."""
    return textsafe.redact(_LOCAL_CREDENTIALS.sub("://", text))


def hidden(url: str) -> str:
    """A refused ``url`` as it may be shown: what could be a password is where one would be, however it is written."""
    shown = re.sub(r":.*@", "://", re.sub(r"[?#].*", "", url, flags=re.DOTALL), flags=re.DOTALL)
    return redact(re.sub(r"(://[^/:]*):(?!\d+(?:/|$))[^/]*", r"\1", shown))  # a port that is no number


def run(
    arguments: Sequence[str],
    *,
    cwd: Path,
    transports: Sequence[str] = (),
    disarm: Sequence[str] = (),
    limit_s: float = 120,
    check: bool = True,
) -> Output:
    """Run ``git <arguments>`` in ``cwd`` without a terminal, hooks, monitors, prompts or any transport not listed.

    Operands that came from outside belong behind ``--`` (or through ``check_revision``): that is the caller's part.

    Args:
        arguments: Command and arguments, without ``git``.
        cwd: Working folder.
        transports: Protocols that may be used (``https``, ``file`` ...); none for local commands, so that a partial
            clone cannot fetch behind our back.
        disarm: More ``key=value`` settings that outrank the repository's, see ``hostile_filters``.
        limit_s: Seconds until the whole process group is killed.
        check: Raise when the command fails.

    Raises:
        PortError: Git is not installed, took too long, or failed (with ``check``).
    """
    settings = [part for item in (*_DISARMED, *disarm) for part in ("-c", item)]
    if "ssh" in transports:  # a person's own ssh command is theirs to choose; a repository's does not apply to a clone
        settings = [part for item in (*_DISARMED, *disarm) if item != "core.sshCommand=" for part in ("-c", item)]
    command = ["git", *settings, *arguments]
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=_environment(transports),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        missing = "the folder" if not cwd.is_dir() else "git"
        raise PortError(
            f"Git cannot be run: {missing} is not there.", seen=str(error), fix="Install git 2.31 or newer."
        ) from error
    try:
        out, err = process.communicate(timeout=limit_s)
    except BaseException as error:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise PortError(
                f"git {arguments[0]} did not end in {limit_s:g} s and was stopped.",
                seen=redact(" ".join(arguments)[:300]),
                fix="Check the network and the repository, then try again.",
            ) from None
        raise
    output = Output(
        process.returncode,
        out.decode("utf-8", "surrogateescape").rstrip("\n"),
        redact(err.decode("utf-8", "replace").strip()),
    )
    if check and output.code != 0:
        raise failure(arguments, output)
    return output


def failure(arguments: Sequence[str], output: Output) -> PortError:
    """The error for a git command that failed, with the end of what git said."""
    said = "\n".join(output.stderr.splitlines()[-6:])[-800:] or f"exit status {output.code}"
    command = redact(shlex.join(("git", *arguments)))[:400]
    fix = f"Read git's message; to see more, run it in a terminal: {command}"
    if "dubious ownership" in output.stderr:
        fix = "The folder belongs to another user: if you trust it, add it to safe.directory in your git configuration."
    elif "No space left" in output.stderr:
        fix = "Free disk space, then try again."
    return PortError(f"git {arguments[0]} failed.", seen=said, fix=fix)


def hostile_filters(cwd: Path) -> list[str]:
    """Settings that switch off the content filters which the repository itself configures.

    A filter in ``.git/config`` is a command that a checkout or a status would run. Filters from the person's own or
    the system's configuration stay. To be handed to ``run(disarm=...)``.
    """
    listed = run(["config", "--show-scope", "--name-only", "--list", "-z"], cwd=cwd).stdout.split("\0")
    settings: list[str] = []
    for scope, key in zip(listed[::2], listed[1::2], strict=False):
        match = _FILTER.fullmatch(key)
        if match and scope in ("local", "worktree"):
            driver = match["driver"]
            if "=" in driver or "\n" in driver:
                # `-c key=value` splits at the first '=', so such a name cannot be overridden.
                raise PortError(
                    "The repository configures a content filter whose name cannot be switched off.",
                    seen=repr(key[:120]),
                    fix="Remove that filter section from the repository's .git/config.",
                )
            settings += [f"filter.{driver}.{part}=" for part in ("clean", "smudge", "process")]
            settings.append(f"filter.{driver}.required=false")
    return list(dict.fromkeys(settings))


def check_revision(revision: str, name: str = "revision") -> str:
    """Return ``revision`` if it is a plain branch, tag or commit name.

    Raises:
        PortError: It looks like an option, a reflog or range expression, or holds what no name may hold.
    """
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*", revision, re.ASCII)
    if not plain or len(revision) > 250 or ".." in revision or revision.endswith((".lock", "/", ".")):
        raise PortError(
            f"The {name} is not the name of a branch, tag or commit.",
            seen=f"{name}={revision[:80]!r}",
            fix="Give a plain branch or tag name, or a commit hash.",
        )
    return revision


def check_url(url: str, *, allow_local: bool, cwd: Path, name: str = "url") -> tuple[str, str]:
    """Return the URL to clone from and the transport it uses; a local path comes back absolute.

    Args:
        url: ``https://``, ``http://``, ``ssh://``, ``user@host:path``, and with ``allow_local`` ``file://`` or a path.
        allow_local: Whether repositories of this machine may be named.
        cwd: What a relative path counts from.
        name: The argument's name, for errors.

    Raises:
        PortError: Another transport, credentials in the URL, or something that looks like an option.
    """
    shown = hidden(url)[:200]
    fix = "Use https://host/path, ssh://host/path" + (" or the path of a local repository." if allow_local else ".")
    if not url.strip() or len(url) > 2000 or url.startswith("-") or url != url.strip():
        raise PortError(f"The {name} is not one to clone from.", seen=f"{name}={shown!r}", fix=fix)
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in url):
        raise PortError(f"The {name} holds a control character.", seen=f"{name}={shown!r}", fix=fix)
    if "://" in url:
        return _check_absolute_url(url, allow_local=allow_local, name=name, fix=fix)
    if re.match(r"[A-Za-z0-9+.-]*::", url):
        raise PortError(f"The {name} asks git to run a helper program.", seen=f"{name}={shown!r}", fix=fix)
    scp = re.fullmatch(r"(?:[A-Za-z0-9_.][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?!/?/|\\)[^:]+", url)
    try:
        path = (cwd / Path(url).expanduser()).resolve()
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, RuntimeError) as error:  # an unknown ~user, a name that is too long, a loop of links
        raise PortError(f"The {name} names no repository.", seen=f"{shown!r}: {error}", fix=fix) from error
    if scp and not exists:
        return url, "ssh"
    if not allow_local:
        raise PortError(f"The {name} is a local path, and only remote ones are allowed.", seen=shown, fix=fix)
    if not is_folder:
        raise PortError(f"The {name} names no repository.", seen=f"{hidden(str(path))} is not a folder", fix=fix)
    return str(path), "file"


def _check_absolute_url(url: str, *, allow_local: bool, name: str, fix: str) -> tuple[str, str]:
    shown = hidden(url)[:200]
    try:
        parts = urlsplit(url)
        host, has_password, _ = parts.hostname or "", parts.password is not None, parts.port
    except ValueError as error:
        raise PortError(f"The {name} is not a URL.", seen=f"{name}={shown!r}", fix=fix) from error
    transport = _TRANSPORTS.get(parts.scheme.lower())
    if transport is None or (transport == "file" and not allow_local):
        raise PortError(
            f"The {name} uses a transport that is not allowed.", seen=f"{parts.scheme[:20]}:// in {shown!r}", fix=fix
        )
    if transport == "file":
        return url, transport
    if not host or host.startswith("-") or (parts.username or "").startswith("-"):
        raise PortError(f"The {name} names no host.", seen=f"{name}={shown!r}", fix=fix)
    if any(char.isspace() for char in parts.netloc):
        raise PortError(f"The {name} is not a URL: its host holds a space.", seen=f"{name}={shown!r}", fix=fix)
    remote = transport in ("http", "https")
    if has_password or (remote and ("@" in parts.netloc or parts.query or textsafe.redact(url) != url)):
        raise PortError(
            f"The {name} carries credentials, or a query that may hold some.",
            seen=f"{shown!r} (removed)",
            fix="Leave them out and let a git credential helper or ssh key give them; revoke them if others saw this.",
        )
    return url, transport


def _environment(transports: Sequence[str]) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key in _KEPT}
    if "ssh" in transports:
        kept |= {key: os.environ[key] for key in ("GIT_SSH", "GIT_SSH_COMMAND") if key in os.environ}
    return kept | {
        # An unknown word allows nothing: an empty list would mean git's defaults in some versions.
        "GIT_ALLOW_PROTOCOL": ":".join(transports) or "none",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS_REQUIRE": "never",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_ADVICE": "0",
        "LC_ALL": "C",
        "LANGUAGE": "C",
    }
