"""Applications to mount: what others fetch from us over HTTP."""

import json
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from http import HTTPStatus
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from bartizan.core.drive import run, settle
from bartizan.core.request import of_environ, of_scope
from bartizan.errors import BartizanError, Misuse, TooLarge, Unavailable
from bartizan.gate.problems import refusal
from bartizan.services import Side
from bartizan.sessions.handlers import Handlers, Resolve, Transport
from bartizan.sessions.signin import PendingCode
from bartizan.sessions.wire import LONGEST_BODY, Answered, Asked

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from bartizan.wiring import Bartizan


def jwks_app(security: "Bartizan") -> "ASGIApp":
    """An ASGI application that answers every GET with the public signing keys, as a JWKS (RFC 7517 section 8.5).

    Others may keep the answer for as long as `Cache-Control` says (RFC 9111): no key signs before all of them have it.
    With the `ETag` of what they have they are told 304 where it still stands. Mount it under a public rule.
    """
    signing = security.signing_keys

    async def app(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            raise RuntimeError("jwks_app answers HTTP requests")
        request = Request(scope)
        if request.method not in {"GET", "HEAD"}:
            await Response(status_code=405, headers={"Allow": "GET, HEAD"})(scope, receive, send)
            return
        try:
            keys = await signing.current()
        except Unavailable as error:
            await _refused(error)(scope, receive, send)
            return
        headers = {"ETag": keys.etag, "Cache-Control": f"public, max-age={signing.max_age}"}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if keys.etag in known or "*" in known:
            answer = Response(status_code=304, headers=headers)
        else:
            answer = Response(keys.jwks, headers=headers, media_type="application/jwk-set+json")
        await answer(scope, receive, send)

    return app


Deliver = Callable[[str, PendingCode], Awaitable[None] | None]


def session_app(
    security: "Bartizan",
    *,
    deliver: Deliver,
    resolve: Resolve,
    transport: Transport = "body",
    org: str | None = None,
) -> "ASGIApp":
    """An ASGI application at which consumers sign in, refresh and sign out, to be mounted behind a gate.

    `deliver(address, pending)` sends `pending.code`, and no answer waits for it; `resolve(identity)` gives the subject,
    your own id of whoever that is, and may take over what `current_principal()`, a guest, had. Both may be async.
    `transport` is where tokens travel: in bodies, or in cookies for pages of `Bartizan(origins=[…])`. `org` is the
    organization of a site whose pages send no publishable key.
    """
    handlers = _handlers(security, security._shared.side, deliver, resolve, transport, org)  # noqa: SLF001

    async def app(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            raise RuntimeError("session_app answers HTTP requests")
        body = bytearray()
        async for chunk in Request(scope, receive).stream():
            body += chunk
            if len(body) > LONGEST_BODY:
                raise TooLarge
        request = of_scope(scope, scope["method"])
        answered = await handlers.answer(Asked(request, bytes(body)))
        head, content = _written(answered)
        response = Response(content, status_code=answered.status)
        response.raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in head]
        await response(scope, receive, send)

    return app


def session_wsgi(
    security: "Bartizan",
    *,
    deliver: Deliver,
    resolve: Resolve,
    transport: Transport = "body",
    org: str | None = None,
) -> Callable[..., Iterable[bytes]]:
    """`session_app` for WSGI; `deliver` and `resolve` are plain functions."""
    if _suspends(deliver) or _suspends(resolve):
        raise Misuse("deliver and resolve are plain functions for WSGI")
    handlers = _handlers(security, security._shared.blocking_side, deliver, resolve, transport, org)  # noqa: SLF001

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request, size = of_environ(environ), environ.get("CONTENT_LENGTH") or "0"
        if not size.isdecimal() or int(size) > LONGEST_BODY:
            raise TooLarge
        body = environ["wsgi.input"].read(int(size))
        answered = run(handlers.answer(Asked(request, body)))
        head, content = _written(answered)
        start_response(f"{answered.status} {HTTPStatus(answered.status).phrase}", head)
        return [content]

    return app


def _handlers(  # noqa: PLR0917 - as both take them
    security: "Bartizan", side: Side, deliver: Deliver, resolve: Resolve, transport: Transport, org: str | None
) -> Handlers:
    shared, signin = security._shared, side.signin  # noqa: SLF001 - its own endpoints
    if transport == "cookie" and shared.issuing is not None and shared.issuing.policy.binding == "dpop":
        raise Misuse('with binding="dpop" every request proves its key, which a page that is navigated to cannot do')
    waits = side.waits if _suspends(deliver) else shared.blocking_side.waits

    async def sent(pending: PendingCode, whose: str) -> None:
        try:
            await settle(partial(deliver, pending.address, pending), waits)
        except (Misuse, Unavailable):
            signin.undelivered(whose)

    def handed_on(pending: PendingCode, whose: str) -> None:
        if not shared.deliveries.later(partial(sent, pending, whose), suspends=_suspends(deliver)):
            signin.undelivered(whose)

    return Handlers(
        sessions=side.sessions, signin=signin, waits=side.waits, clock=shared.clock, origins=shared.origins,
        deliver=handed_on, resolve=resolve, transport=transport, org=org,
    )  # fmt: skip


def _suspends(function: Callable[..., Any]) -> bool:
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _written(answered: Answered) -> tuple[list[tuple[str, str]], bytes]:
    content = b"" if answered.body is None else json.dumps(answered.body, separators=(",", ":")).encode()
    head = [*answered.headers, *(("Set-Cookie", cookie.header()) for cookie in answered.cookies)]
    if answered.body is not None:
        head += [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    return head, content


def _refused(error: BartizanError) -> Response:
    refuse = refusal(error, None, [])
    return Response(
        refuse.body,
        status_code=refuse.status,
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in refuse.headers},
    )
