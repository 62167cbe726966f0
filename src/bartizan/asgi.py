"""The gate in front of an ASGI application: build a `Request`, ask, write the answer. Nothing is decided here."""

from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from bartizan.core.passage import PROTOCOL, Admit, Refuse
from bartizan.core.principal import current_unit
from bartizan.core.request import Request, of_scope
from bartizan.errors import Misuse, Rejected, Unavailable
from bartizan.gate.gate import Gate
from bartizan.stores.streams import Message, Passing, Receive, Send, Stream
from bartizan.stores.watches import ENDED

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CLOSED = 4401  # the close code of a websocket whose credential has ended


class GateMiddleware:
    """`app` behind `gate`. It stands directly before whatever routes: what rewrites paths goes outside it.

    The application finds the verdict in `scope["bartizan"]`, except under `untouched()`.
    """

    def __init__(self, app: App, gate: Gate) -> None:
        inner: Any = app
        for _ in range(100):  # whatever wraps it
            if hasattr(inner, "build_middleware_stack") or getattr(inner, "root_path", None):
                # It would answer errors of ours by itself, as 500, and may put a root_path before the path.
                raise Misuse("this is an application of Starlette or FastAPI: use install(app, gate)")
            inner = getattr(inner, "app", None)
        self.app: App = app
        self.gate: Gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        if kind != "http":
            await self._other(scope, receive, send)
            return
        before = current_unit.get()
        try:
            request = of_scope(scope, scope["method"])
            admit = await self.gate.check(request)
            if isinstance(admit, Refuse):
                await _answer(admit, send)
                return
            if admit.rule.requirement.look == "away":
                await self.app(scope, receive, send)
                return
            scope["bartizan"] = admit
            ask = partial(self.gate.recheck, admit) if admit.callers else None
            head = admit.head
            begin = partial(self.gate.begin, head) if head is not None and head.pending else None
            passing = Passing(receive, send, admit.rule.body_limit, ask, self.gate.every, head, begin)
            try:
                await self.app(scope, passing.receive, passing.send)
            except (Rejected, Unavailable) as error:
                if passing.status:
                    raise
                await _answer(self.gate.refusal(error, request), send)
            finally:
                admit.over = True
                if passing.stream is not None:
                    await passing.stream.end()
                if admit.ends is not None:
                    await self.gate.end(admit, passing.status)
        finally:
            # Whoever calls an application in its own task is not left with its caller.
            current_unit.set(before)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "websocket":
            raise Misuse("the gate serves http, websocket and lifespan: it lets nothing else through")
        before = current_unit.get()
        try:
            request = of_scope(scope, "WEBSOCKET")
            verdict = await self.gate.check(request)
            if isinstance(verdict, Refuse):
                await _deny(verdict, scope, send, receive)
            elif verdict.rule.requirement.look == "away":
                await self.app(scope, receive, send)
            else:
                scope["bartizan"] = verdict
                if PROTOCOL in (offered := list(scope.get("subprotocols", ()))):
                    at = offered.index(PROTOCOL)
                    # What stands behind our name is for us; a browser wants to hear one of the names that it offered.
                    scope["subprotocols"] = offered[:at] + offered[at + 2 :]
                    send = _chosen(send)
                await self._websocket(scope, receive, send, request, verdict)
        finally:
            current_unit.set(before)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, request: Request, admit: Admit) -> None:
        async def close() -> None:
            await send({"type": "websocket.close", "code": CLOSED, "reason": ENDED})

        stream = Stream(partial(self.gate.recheck, admit), self.gate.every, close)
        heard = answered = False

        async def receiving() -> Message:
            nonlocal heard
            heard = True
            if not admit.callers:
                return await receive()
            return await stream.until_over(receive) or {"type": "websocket.disconnect", "code": CLOSED, "reason": ENDED}

        async def sending(message: Message) -> None:
            nonlocal answered
            if stream.over:
                raise OSError(ENDED)
            answered = True
            if message["type"] == "websocket.accept" and admit.callers:
                stream.start(self.gate.every)
            elif message["type"] == "websocket.close":
                stream.stop()
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        except (Rejected, Unavailable) as error:
            if answered:
                raise
            await _deny(self.gate.refusal(error, request), scope, send, None if heard else receive)
        finally:
            admit.over = True
            await stream.end()
            if admit.ends is not None:
                await self.gate.end(admit, 101 if answered else 0)


def _chosen(send: Send) -> Send:
    async def choosing(message: Message) -> None:
        if message["type"] == "websocket.accept" and not message.get("subprotocol"):
            message = {**message, "subprotocol": PROTOCOL}
        await send(message)

    return choosing


async def _answer(refuse: Refuse, send: Send) -> None:
    await send({"type": "http.response.start", "status": refuse.status, "headers": refuse.headers})
    await send({"type": "http.response.body", "body": refuse.body})


async def _deny(refuse: Refuse, scope: Scope, send: Send, receive: Receive | None) -> None:
    """Refuse a websocket before it is accepted: with the refusal's own answer where the server can send one."""
    if receive is not None:
        await receive()  # websocket.connect: a server may take nothing before it
    if "websocket.http.response" in scope.get("extensions", {}):
        await send({"type": "websocket.http.response.start", "status": refuse.status, "headers": refuse.headers})
        await send({"type": "websocket.http.response.body", "body": refuse.body})
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
