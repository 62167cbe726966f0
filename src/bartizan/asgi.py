"""The gate in front of an ASGI application: build a `Request`, ask, write the answer. Nothing is decided here."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bartizan.core.passage import Refuse
from bartizan.core.request import Request
from bartizan.errors import BartizanError, Misuse
from bartizan.gate.gate import Gate

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class GateMiddleware:
    """`app` behind `gate`. It stands directly before whatever routes: what rewrites paths goes outside it."""

    def __init__(self, app: App, gate: Gate) -> None:
        if getattr(app, "root_path", ""):
            raise Misuse("this application adds a root_path of its own behind the gate: use install(app, gate)")
        self.app = app
        self.gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self.app(scope, receive, send)
        else:
            raise Misuse("the gate serves http and lifespan")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = request_of(scope, scope["method"])
        verdict = await self.gate.check(request)
        if isinstance(verdict, Refuse):
            await _answer(verdict, send)
            return
        started = 0

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Misuse:
            raise
        except BartizanError as error:
            if started:
                raise
            await _answer(self.gate.refusal(error, request), send)


def request_of(scope: Scope, method: str) -> Request:
    """The request of an ASGI scope; its path is what the application routes on (root_path taken off as Starlette does)."""
    path: str = scope["path"]
    mount: str = scope.get("root_path", "")
    if mount and path.startswith(mount) and path[len(mount) : len(mount) + 1] in {"", "/"}:
        path = path[len(mount) :]
    else:
        mount = ""
    return Request(
        method,
        path,
        scope["headers"],
        scope.get("client"),
        scope.get("scheme", "http"),
        query=scope.get("query_string", b""),
        raw_path=scope.get("raw_path"),
        mount=mount,
    )


async def _answer(refuse: Refuse, send: Send) -> None:
    await send({"type": "http.response.start", "status": refuse.status, "headers": refuse.headers})
    await send({"type": "http.response.body", "body": refuse.body})
