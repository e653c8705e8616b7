"""`fastvideo-port serve`: the server over stdio or HTTP."""

from __future__ import annotations

import gc
import hmac
import ipaddress
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..port.errors import PortError
from ..port.home import state_home
from .logs import start_logging

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN_VARIABLE = "FASTVIDEO_PORT_TOKEN"
_SHORTEST_TOKEN = 16
_MAKE_TOKEN = "(umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE)"


@dataclass(frozen=True)
class HttpOptions:
    """How to listen.

    Attributes:
        host, port: Address. Port 0 takes a free one.
        token_file: File with the bearer token; none: ``FASTVIDEO_PORT_TOKEN``, and without it no token.
        allow_hosts, allow_origins: Further values of the Host and Origin headers.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token_file: Path | None = None
    allow_hosts: Sequence[str] = ()
    allow_origins: Sequence[str] = ()


def serve_stdio() -> None:
    """Serve one client over stdin and stdout until stdin closes."""
    # Importing the SDK makes half a million objects that live to the end: collecting them saves nothing.
    gc.disable()
    home = state_home()
    start_logging(home)
    from .app import build_server

    server = build_server(home, Path.cwd())
    gc.freeze()
    gc.enable()
    server.run("stdio")


def serve_http(options: HttpOptions) -> None:
    """Serve many clients over streamable HTTP at ``/mcp`` until SIGTERM; runs go on after it.

    Raises:
        PortError: The address is not a loopback address and there is no token, or the token cannot be used.
    """
    token = read_token(options.token_file)
    loopback = is_loopback(options.host)
    if token is None and not loopback:
        raise PortError(
            "Without a token the server listens on this machine only.",
            seen=f"--host {options.host}, no --token-file and no {TOKEN_VARIABLE}",
            fix=f"Make a token ({_MAKE_TOKEN}) and pass --token-file FILE, or listen on 127.0.0.1.",
        )
    home = state_home()
    start_logging(home)
    import sys

    import uvicorn

    from .limits import MAX_HEADERS, PatientProtocol

    listener = _listen(options)
    port = listener.getsockname()[1]
    app = http_app(home, Path.cwd(), options, port=port, token=token)
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        h11_max_incomplete_event_size=MAX_HEADERS,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
        server_header=False,
    )
    shown = f"[{options.host}]" if ":" in options.host else options.host
    sys.stderr.write(f"fastvideo-port listens on http://{shown}:{port}/mcp{'' if token else ' (no token)'}\n")
    sys.stderr.flush()
    uvicorn.Server(config).run(sockets=[listener])


def http_app(home: Path, cwd: Path, options: HttpOptions, *, port: int, token: str | None) -> ASGIApp:
    """The ASGI application: the bearer check outside, then the limits, then Host and Origin, then MCP at ``/mcp``."""
    from mcp.server.transport_security import TransportSecuritySettings

    from .app import build_server
    from .limits import MAX_BODY, MAX_SESSIONS, Limits

    names = ["127.0.0.1", "localhost", "[::1]"]
    if options.host not in ("0.0.0.0", "::", "127.0.0.1", "localhost", "::1"):
        names.append(f"[{options.host}]" if ":" in options.host else options.host)
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[f"{name}:{port}" for name in names] + list(options.allow_hosts),
        allowed_origins=[f"http://{name}:{port}" for name in names] + list(options.allow_origins),
    )
    app: ASGIApp = Limits(
        build_server(home, cwd).streamable_http_app(
            host=options.host,
            transport_security=security,
            max_request_body_size=MAX_BODY,
            max_sessions=MAX_SESSIONS,
        )
    )
    return app if token is None else BearerToken(app, token)


class BearerToken:
    """Lets through only requests that carry the token; compares in constant time."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        given: list[bytes] = [value for name, value in scope.get("headers", []) if name == b"authorization"]
        # Two headers could be read differently by something in front of us.
        if scope["type"] == "http" and len(given) == 1 and hmac.compare_digest(_scheme(given[0]), self._expected):
            await self._app(scope, receive, send)
            return
        from starlette.responses import PlainTextResponse

        text = "This server wants its bearer token: send the header 'Authorization: Bearer TOKEN'.\n"
        response = PlainTextResponse(text, status_code=401, headers={"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)


def _scheme(header: bytes) -> bytes:
    """The header with its scheme, which has no case, spelled our way."""
    return b"Bearer " + header[7:] if header[:7].lower() == b"bearer " else header


def read_token(file: Path | None) -> str | None:
    """The token from ``file``, else from the environment, else none.

    Raises:
        PortError: The file cannot be read, others can read it, or the token is short or no plain ASCII word.
    """
    if file is None:
        text = os.environ.get(TOKEN_VARIABLE)
        if text is None:
            return None
        source = TOKEN_VARIABLE
    else:
        source = str(file)
        try:
            mode = file.stat().st_mode
            if not stat.S_ISREG(mode):
                raise OSError("not a regular file")
            text = file.read_text(encoding="utf-8") if file.stat().st_size < 4096 else ""
        except (OSError, UnicodeDecodeError) as error:
            raise PortError("The token file cannot be read.", seen=f"{file}: {error}", fix=_MAKE_TOKEN) from error
        if os.name == "posix" and mode & 0o077:
            raise PortError(
                "Other users can read the token file.",
                seen=f"{file} has mode {stat.S_IMODE(mode):o}",
                fix=f"chmod 600 {file}, and make a new token if others use this machine.",
            )
    token = text.strip()
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or any(char.isspace() for char in token):
        raise PortError(
            "The token cannot be used.",
            seen=f"{source}: {len(token)} characters",
            fix=f"Use one ASCII word of at least {_SHORTEST_TOKEN} characters: {_MAKE_TOKEN}",
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether every address of ``host`` is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):  # no name of a machine
        return False
    return bool(found) and all(ipaddress.ip_address(str(address).split("%")[0]).is_loopback for address in found)


def _listen(options: HttpOptions) -> socket.socket:
    try:
        if not 0 <= options.port < 65536:  # a larger one would be cut to 16 bits, and we would listen elsewhere
            raise OverflowError("a port is a number from 0 to 65535")
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Whoever reads where we listen may connect at once; it waits until the application is there.
        listener.listen(128)
    except (OSError, OverflowError, UnicodeError) as error:
        raise PortError(
            "The server cannot listen there.",
            seen=f"{options.host}:{options.port}: {error}",
            fix="Take another --port (0 takes a free one) or --host.",
        ) from error
    listener.set_inheritable(False)
    return listener
