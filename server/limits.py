"""What one client may cost over HTTP: connections, headers, bytes and seconds of a request.

The SDK has a limit of the body alone, and answers in a few words; uvicorn waits for ever for the end of headers.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import h11
from mcp_types import INVALID_REQUEST
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..port.errors import PortError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 4 * 1024 * 1024
"""Bytes of one request."""

MAX_HEADERS = 64 * 1024
"""Bytes of one request's headers."""

MAX_CONNECTIONS = 256
"""Connections served at once; requests on more are answered 503."""

MAX_SESSIONS = 1000
"""Sessions of the older protocol that are kept; the newer one has none."""

HEADER_S = 20.0
"""Seconds from the connection, or the last answer, to the end of the next headers."""

BODY_S = 30.0
"""Seconds from the end of the headers to the end of the body."""

RETRY_S = 5
"""What a client that is turned away is told to wait, in seconds."""


class Limits:
    """Reads the body of a request within bounds before the application sees any of it.

    Too much is answered with 431, 413 or 408, and no more than the bounds is ever held in memory.
    """

    def __init__(self, app: ASGIApp, *, body_s: float = BODY_S) -> None:
        self._app = app
        self._body_s = body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            _check_headers(scope)
            body = await asyncio.wait_for(_read(receive), self._body_s)
            if body is not None and body.lstrip()[:1] == b"[":
                raise _batch()
        except _Refused as refused:
            await refused.answer(send)
            return
        except asyncio.TimeoutError:
            await _slow(self._body_s).answer(send)
            return
        if body is None:  # the client is gone
            return
        unread = [body]

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        started = False

        async def send_with_advice(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start" and message["status"] == 503:
                message = {**message, "headers": [*message["headers"], (b"retry-after", str(RETRY_S).encode())]}
            started = True
            await send(message)

        try:
            await self._app(scope, replay, send_with_advice)
        except asyncio.CancelledError:
            # uvicorn cancels what is left when the server ends, and nothing else does.
            if not started:
                await _ending().answer(send)


def _check_headers(scope: Scope) -> None:
    """Refuse headers that no honest request has.

    Raises:
        _Refused: They, or the declared length, are over the limit.
    """
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size > MAX_HEADERS:
        raise _Refused(
            431,
            PortError(
                "The request's headers are too large.",
                seen=f"{size:,} bytes; the limit is {MAX_HEADERS:,}",
                fix="Send the usual headers of MCP and the token, and nothing else.",
            ),
        )
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if declared.isdigit() and int(declared[:20]) > MAX_BODY:
        raise _large(f"{declared[:20].decode()} bytes")


async def _read(receive: Receive) -> bytes | None:
    """The whole body; none if the client has gone.

    Raises:
        _Refused: It is over the limit.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise _large(f"more than {MAX_BODY:,} bytes")
        if not message.get("more_body", False):
            return bytes(body)


class _Refused(Exception):
    """A request that is not let through."""

    def __init__(self, status: int, error: PortError) -> None:
        super().__init__(status)
        self.status = status
        self.error = error

    async def answer(self, send: Send) -> None:
        """Send the answer.

        What is left of the request is read and thrown away, for `HEADER_S` at most: a connection that is closed while
        the client still writes takes the answer with it.
        """
        body = _json_rpc(self.error)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if self.status == 503:
            headers += [(b"connection", b"close"), (b"retry-after", str(RETRY_S).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _large(seen: str) -> _Refused:
    error = PortError(
        "The request is too large.",
        seen=f"{seen}; the limit is {MAX_BODY:,}",
        fix="Shorten the arguments, or write long text to a file in the worktree and name the file.",
    )
    return _Refused(413, error)


def _batch() -> _Refused:
    error = PortError(
        "The request is a list of messages, and only one is taken.",
        seen="a body that begins with '['",
        fix="Send each JSON-RPC message as a request of its own.",
    )
    return _Refused(400, error)


def _ending() -> _Refused:
    error = PortError(
        "The server was told to end while this call waited.",
        seen="SIGTERM or Ctrl-C",
        fix="Runs go on without it: when a server is there again, call run_status, or the same tool once more.",
    )
    return _Refused(503, error)


def _slow(seconds: float) -> _Refused:
    error = PortError("The request did not arrive in time.", seen=f"{seconds:g} s", fix="Send it again at once.")
    return _Refused(408, error)


def _json_rpc(error: PortError) -> bytes:
    """The error as a JSON-RPC answer to a request whose id is not known, as the SDK's own refusals are."""
    document = {"jsonrpc": "2.0", "id": None, "error": {"code": INVALID_REQUEST, "message": str(error)}}
    return json.dumps(document).encode()


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    error = PortError(
        "The server has too many connections.",
        seen=f"more than {MAX_CONNECTIONS}",
        fix=f"Try again in {RETRY_S} s; use one connection for many calls, and close what is not used.",
    )
    await _Refused(503, error).answer(send)


class PatientProtocol(H11Protocol):
    """uvicorn's protocol that ends a connection whose request does not come, and turns away one too many.

    Without an end, a client that sends one byte now and then holds its connection for ever; 256 of them hold them all.
    """

    header_s = HEADER_S
    max_connections = MAX_CONNECTIONS
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self.app = _overloaded
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """See uvicorn."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        """Count the time while the headers are not complete, or while the rest of an answered request comes in."""
        mine, theirs = self.conn.our_state, self.conn.their_state
        waits = theirs is h11.IDLE or (theirs is h11.SEND_BODY and mine in (h11.DONE, h11.MUST_CLOSE))
        if not waits or self.transport.is_closing():
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.header_s, self._end)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()
