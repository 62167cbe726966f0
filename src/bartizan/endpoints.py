"""Applications to mount: what others fetch from us over HTTP."""

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from bartizan.errors import BartizanError, Unavailable
from bartizan.gate.problems import refusal

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


def _refused(error: BartizanError) -> Response:
    refuse = refusal(error, None, [])
    return Response(
        refuse.body,
        status_code=refuse.status,
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in refuse.headers},
    )
