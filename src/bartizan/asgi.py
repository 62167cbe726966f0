"""The gate in front of an ASGI application: build a `Request`, ask, write the answer. Nothing is decided here."""

from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from bartizan.core.passage import Admit, Refuse
from bartizan.core.principal import NO_GATE, callers, passage_method
from bartizan.core.request import Request
from bartizan.errors import Misuse, Rejected, TooLarge, Unavailable
from bartizan.gate.gate import Gate
from bartizan.stores.streams import ENDED, Stream

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

AGE = 30.0  # seconds from which a response that is still being sent is a stream, whose caller is asked for again
CLOSED = 4401  # the close code of a websocket whose credential has ended


class GateMiddleware:
    """`app` behind `gate`. It stands directly before whatever routes: what rewrites paths goes outside it.

    The application finds the verdict in `scope["bartizan"]`, except under `untouched()`.
    """

    def __init__(self, app: App, gate: Gate) -> None:
        if hasattr(app, "build_middleware_stack") or getattr(app, "root_path", None):
            # It would answer errors of ours by itself, as 500, and may put a root_path before the path behind the gate.
            raise Misuse("this is an application of Starlette or FastAPI: use install(app, gate)")
        self.app: App = app
        self.gate: Gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: PLR0915 - the hot path: one frame
        """Serve one connection."""
        kind = scope["type"]
        if kind != "http":
            await self._other(scope, receive, send)
            return
        before, method = callers.get(NO_GATE), passage_method.get()
        try:
            request = request_of(scope, scope["method"])
            admit = await self.gate.check(request)
            if isinstance(admit, Refuse):
                await _answer(admit, send)
                return
            if admit.rule.requirement.look == "away":
                await self.app(scope, receive, send)
                return
            scope["bartizan"] = admit
            status = read = 0
            limit = admit.rule.body_limit
            whole = False  # whether the request's body has been read to its end
            stream: Stream | None = None

            async def receiving() -> Message:
                nonlocal read, whole, stream
                if whole and admit.callers:
                    # From here on it waits for the client to hang up: as long as the response goes on.
                    stream = stream or self._stream(admit)
                    return await stream.until_over(receive) or {"type": "http.disconnect"}
                message = await receive()
                if message["type"] == "http.request":
                    read += len(message.get("body", b""))
                    if read > limit:
                        raise TooLarge
                    whole = not message.get("more_body", False)
                return message

            async def sending(message: Message) -> None:
                nonlocal status, stream
                if stream is not None and stream.over:
                    raise OSError(ENDED)
                if message["type"] == "http.response.start":
                    if read > limit:
                        raise TooLarge  # the application made an answer of its own of it
                    status = message["status"]
                elif message["type"] == "http.response.body":
                    if message.get("more_body") and admit.callers:
                        stream = stream or self._stream(admit)
                        stream.start(AGE)
                    elif stream is not None:
                        stream.stop()  # a response ends with its last message, not with its background tasks
                await send(message)

            try:
                await self.app(scope, receiving, sending)
            except (Rejected, Unavailable) as error:
                if status:
                    raise
                await _answer(self.gate.refusal(error, request), send)
            finally:
                if stream is not None:
                    await stream.end()
                if admit.ends is not None:
                    await self.gate.end(admit, status)
        finally:
            # Whoever calls an application in its own task is not left with its caller.
            passage_method.set(method)
            callers.set(before)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "websocket":
            raise Misuse("the gate serves http, websocket and lifespan: it lets nothing else through")
        before, method = callers.get(NO_GATE), passage_method.get()
        try:
            request = request_of(scope, "WEBSOCKET")
            verdict = await self.gate.check(request)
            if isinstance(verdict, Refuse):
                await _turn_away(verdict, scope, receive, send)
            elif verdict.rule.requirement.look == "away":
                await self.app(scope, receive, send)
            else:
                scope["bartizan"] = verdict
                await self._websocket(scope, receive, send, request, verdict)
        finally:
            passage_method.set(method)
            callers.set(before)

    def _stream(self, admit: Admit, close: Callable[[], Coroutine[Any, Any, None]] | None = None) -> Stream:
        return Stream(lambda: self.gate.recheck(admit), self.gate.every, close)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, request: Request, admit: Admit) -> None:
        async def close() -> None:
            await send({"type": "websocket.close", "code": CLOSED, "reason": ENDED})

        stream = self._stream(admit, close)
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
            refuse = self.gate.refusal(error, request)
            await (_deny(refuse, scope, send) if heard else _turn_away(refuse, scope, receive, send))
        finally:
            await stream.end()
            if admit.ends is not None:
                await self.gate.end(admit, 101 if answered else 0)


def request_of(scope: Scope, method: str) -> Request:
    """The request of an ASGI scope; its path is what the application routes on, without its leading `root_path`."""
    path: str = scope["path"]
    get = scope.get
    mount: str = get("root_path", "")
    if mount:
        if path.startswith(mount) and path[len(mount) : len(mount) + 1] in {"", "/"}:
            path = path[len(mount) :]
        else:
            mount = ""
    return Request(
        method,
        path,
        scope["headers"],
        get("client"),
        get("scheme", "http"),
        get("query_string", b""),
        get("raw_path"),
        mount,
    )


async def _answer(refuse: Refuse, send: Send) -> None:
    await send({"type": "http.response.start", "status": refuse.status, "headers": refuse.headers})
    await send({"type": "http.response.body", "body": refuse.body})


async def _turn_away(refuse: Refuse, scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect: a server may take nothing before it
    await _deny(refuse, scope, send)


async def _deny(refuse: Refuse, scope: Scope, send: Send) -> None:
    """Refuse a websocket before it is accepted: with the refusal's own answer where the server can send one."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await send({"type": "websocket.http.response.start", "status": refuse.status, "headers": refuse.headers})
        await send({"type": "websocket.http.response.body", "body": refuse.body})
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
