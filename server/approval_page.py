"""`fastvideo-port page`: requests for approval as a page on this machine, for the person who started it.

The link with the secret is printed once, on the terminal. The browser trades it for a cookie; requests without the
cookie, for another host, from another origin, or without the form's own token are refused before anything is read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs

import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from ..port.approvals import Approvals
from ..port.errors import PortError
from ..port.home import state_home
from ..port.templates import render
from ..port.textsafe import clean
from ..tools._approval_page import note_page

_MOST_BODY = 64 * 1024
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class ApprovalPage:
    """The page of one process.

    Attributes:
        port: Loopback port that it is served on.
        token: The secret of the link.
    """

    def __init__(self, home: Path, port: int) -> None:
        self.port = port
        self.token = secrets.token_urlsafe(32)
        self._approvals = Approvals(home)
        self._session = secrets.token_urlsafe(32)
        self._key = secrets.token_bytes(32)
        self._cookie = f"fastvideo_port_{port}"

    @property
    def url(self) -> str:
        """The link with the secret."""
        return f"http://127.0.0.1:{self.port}/enter?token={self.token}"

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/enter", self._guarded(self._enter, session=False), methods=["GET"]),
                Route("/", self._guarded(self._show), methods=["GET"]),
                Route("/decide", self._guarded(self._decide), methods=["POST"]),
            ]
        )

    def form_token(self, approval_id: str, digest: str) -> str:
        """What a form must carry: made for one request and the very content that the form stands below."""
        return hmac.new(self._key, f"{approval_id}\n{digest}".encode(), hashlib.sha256).hexdigest()

    def _guarded(
        self, answer: Callable[[Request], Awaitable[Response]], *, session: bool = True
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            refusal = self._refusal(request, session=session)
            response = PlainTextResponse(f"{refusal}\n", status_code=403) if refusal else await answer(request)
            response.headers.update(_HEADERS)
            return response

        return guarded

    def _refusal(self, request: Request, *, session: bool) -> str | None:
        """Why the request is refused, or none. A page of another name that resolves to us has another Host."""
        hosts = [f"127.0.0.1:{self.port}", f"localhost:{self.port}"]
        if request.headers.getlist("host") not in ([host] for host in hosts):
            return "This page answers to its own address only."
        origins = request.headers.getlist("origin")
        own = [f"http://{request.headers['host']}"]
        if origins not in ([], own) or (request.method == "POST" and origins != own):
            return "This came from another page."
        if request.method == "POST" and request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return "This came from another site."
        given = request.cookies.get(self._cookie, "")
        if session and not hmac.compare_digest(given.encode(), self._session.encode()):
            return "Open the link that fastvideo-port page printed."
        return None

    async def _enter(self, request: Request) -> Response:
        given = request.query_params.get("token", "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return PlainTextResponse("Open the link that fastvideo-port page printed.\n", status_code=403)
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(self._cookie, self._session, httponly=True, samesite="lax", path="/")
        return response

    async def _show(self, request: Request) -> Response:
        return HTMLResponse(await anyio.to_thread.run_sync(self._html))

    def _html(self, said: str = "") -> str:
        try:
            views = self._approvals.views()
        except PortError as error:  # a damaged ledger, a policy that cannot be read: nothing can be approved
            return render("approve.html.j2", waiting=[], others=[], tokens={}, said=str(error), clean=clean)
        waiting = [view for view in views if view.state == "pending" and view.content is not None]
        tokens = {
            view.request.approval_id: self.form_token(view.request.approval_id, view.content.digest)
            for view in waiting
            if view.content is not None
        }
        others = [view for view in views if view not in waiting][:50]
        return render("approve.html.j2", waiting=waiting, others=others, tokens=tokens, said=said, clean=clean)

    async def _decide(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BODY:
                return PlainTextResponse("Too large.\n", status_code=413)
        try:
            fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, strict_parsing=True, max_num_fields=10)
        except ValueError:
            return PlainTextResponse("This is not the page's form.\n", status_code=400)
        wanted = ("approval_id", "digest", "form", "decision")
        if any(len(fields.get(name, [])) != 1 for name in wanted):
            return PlainTextResponse("This is not the page's form.\n", status_code=403)
        approval_id, digest, form, decision = (fields[name][0] for name in wanted)
        if not hmac.compare_digest(form.encode(), self.form_token(approval_id, digest).encode()):
            return PlainTextResponse("This is not the page's form.\n", status_code=403)
        if decision not in ("approve", "decline"):
            return PlainTextResponse("Approve or decline.\n", status_code=400)
        note = clean(" ".join(fields.get("note", [])))[:2000].strip()

        def enter() -> tuple[str, int]:
            try:
                view = self._approvals.decide(
                    approval_id,
                    approve=decision == "approve",
                    digest=digest,
                    channel="page",
                    asserted_by="page",
                    note=note,
                )
            except PortError as error:
                return self._html(str(error)), 409
            return self._html(f"{view.request.step_id} of {clean(view.port.model_name)}: {view.state}."), 200

        text, status = await anyio.to_thread.run_sync(enter)
        return HTMLResponse(text, status_code=status)


def serve_page(port: int = 0) -> int:
    """Serve the page on a loopback port until Ctrl-C; print its link.

    Raises:
        PortError: The port is taken.
    """
    import uvicorn

    home = state_home()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise PortError(
            "The page cannot listen there.", seen=f"127.0.0.1:{port}: {error}", fix="Take another --port."
        ) from error
    page = ApprovalPage(home, listener.getsockname()[1])
    note = note_page(home, os.getpid(), page.port)
    sys.stdout.write(f"Open this link in your browser; keep it to yourself, whoever has it can approve:\n{page.url}\n")
    sys.stdout.flush()
    config = uvicorn.Config(page.app(), log_config=None, access_log=False, server_header=False, limit_concurrency=64)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        note.unlink(missing_ok=True)
    return 0
