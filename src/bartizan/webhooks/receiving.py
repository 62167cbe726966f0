"""Receiving over ASGI: refused from the headers alone where they are enough, hashed while chunks arrive, once each."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol
from urllib.parse import quote

from bartizan.core.events import AuditEvent
from bartizan.core.once import Claiming, Once
from bartizan.errors import (
    BartizanError,
    MalformedWebhook,
    MethodNotAllowed,
    Misuse,
    Reason,
    Rejected,
    TooLarge,
    Unavailable,
)
from bartizan.webhooks.event import WebhookEvent
from bartizan.webhooks.matching import Matcher

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
WsgiApp = Callable[..., Any]
Refuse = Callable[[BartizanError, Send], Awaitable[None]]

FOUND: Final = "bartizan.webhook"  # where the application finds the event
ANONYMOUS: Final = "anonymous"


class Security(Protocol):
    """What a receiver needs of a `Bartizan`: claims, and a log for refusals."""

    @property
    def once(self) -> Once:
        """The claims."""

    @property
    def blocking(self) -> Any:
        """The same without `await`."""


class HttpRequest(Protocol):
    """What `receive` needs of a request: Starlette's and FastAPI's has it."""

    @property
    def scope(self) -> Scope:
        """The ASGI scope."""

    def stream(self) -> AsyncIterator[bytes]:
        """The body, chunk by chunk."""


class AsgiReceiver:
    """See `WebhookVerifier.asgi`."""

    __slots__ = ("_app", "_path", "_security", "_verifier")

    def __init__(self, verifier: Matcher, app: AsgiApp, *, path: str, security: Security | None) -> None:
        self._verifier = verifier
        self._app = app
        self._path = checked_path(path)
        self._security = security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or not is_at(self._path, _path_of(scope)):
            await self._app(scope, receive, send)
            return
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(headers=(("Allow", "POST"),))
            event = await self._verified(scope, receive)
        except (Rejected, Unavailable) as error:
            await self._refuse(error, send)
            return
        if event is None:
            return  # the client hung up
        scope[FOUND] = event
        replay = _Replay(event.body, receive)
        if self._security is None:
            await self._answered(_Answer(send), scope, replay)
        else:
            await self._once(self._security.once, event, scope, replay, send)

    async def _verified(self, scope: Scope, receive: Receive) -> WebhookEvent | None:
        check = self._verifier.begin(scope["headers"], target=target_of(scope))
        declared(_length(scope), self._verifier.max_bytes)
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            check.update(chunk)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return check.end(b"".join(chunks))

    async def _once(self, once: Once, event: WebhookEvent, scope: Scope, replay: "_Replay", send: Send) -> None:
        """Run the application for an event that nobody has handled or is at, and remember it before it is answered."""
        claiming = once.claim(event, namespace=self._path)
        try:
            claim = await claiming.enter()
        except (Rejected, Unavailable) as error:
            await self._refuse(error, send)
            return
        if not claim.first:
            await claiming.leave(failed=False)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        answer = _Answer(send, claiming, self._refuse)
        try:
            await self._answered(answer, scope, replay)
        except GeneratorExit:
            raise  # a coroutine that is being closed awaits nothing: the lease lapses
        except BaseException:
            await answer.release()
            raise
        await answer.release()

    async def _answered(self, answer: "_Answer", scope: Scope, replay: "_Replay") -> None:
        try:
            await self._app(scope, replay.receive, answer.send)
        except (Rejected, Unavailable) as error:
            if answer.begun:
                raise
            await answer.release()
            await self._refuse(error, answer.forward)

    async def _refuse(self, error: BartizanError, send: Send) -> None:
        if self._security is not None:
            note_refusal(self._security, error, self._path)
        body, headers = problem(error)
        wire = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": error.status, "headers": wire})
        await send({"type": "http.response.body", "body": body})


class _Replay:
    """The body that was read, for the application to read again."""

    __slots__ = ("_body", "_receive")

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def receive(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Answer:
    """The application's answer. With a claim it waits for its last message, and goes out after the commit.

    Anything but 2xx gives the event back: the sender tries again.
    """

    __slots__ = ("_claiming", "_held", "_refuse", "_refused", "begun", "forward")

    def __init__(self, forward: Send, claiming: Claiming | None = None, refuse: Refuse | None = None) -> None:
        self.forward: Send = forward
        self.begun: bool = False
        self._claiming = claiming
        self._refuse = refuse
        self._refused = False
        self._held: list[Message] = []

    async def send(self, message: Message) -> None:
        if self._refused:
            return
        if self._claiming is None:
            self.begun = True
            await self.forward(message)
            return
        self._held.append(message)
        if message["type"] == "http.response.start" or message.get("more_body", False):
            return
        status: int = self._held[0].get("status", 0)
        claiming, self._claiming = self._claiming, None
        self.begun = True
        try:
            await claiming.leave(failed=not 200 <= status < 300)
        except (Rejected, Unavailable) as error:
            # The lease was lost, or the store: nobody may say that it was handled. It is not the application's error.
            self._refused = True
            if self._refuse is not None:
                await self._refuse(error, self.forward)
            return
        for held in self._held:
            await self.forward(held)

    async def release(self) -> None:
        """Give the event back, unless it was committed."""
        claiming, self._claiming = self._claiming, None
        if claiming is not None:
            await claiming.leave(failed=True)


async def received(verifier: Matcher, request: HttpRequest) -> WebhookEvent:
    """See `WebhookVerifier.receive`."""
    scope = request.scope
    check = verifier.begin(scope["headers"], target=target_of(scope))
    declared(_length(scope), verifier.max_bytes)
    chunks: list[bytes] = []
    try:
        async for chunk in request.stream():
            check.update(chunk)
            chunks.append(chunk)
    except RuntimeError:
        raise Misuse(
            "the body has been read already, as a form: receive(request) comes before anything reads it"
        ) from None
    return check.end(b"".join(chunks))


def checked_path(path: str) -> str:
    """A path that a receiver may stand at; it is the namespace of its claims too."""
    if not path.startswith("/") or len(path) > 100 or not path.isprintable():
        raise Misuse("path is the receiver's path, such as /hooks, in at most 100 printable characters")
    return path.rstrip("/") or "/"


def is_at(mine: str, path: str) -> bool:
    """Whether a path is the receiver's. One that differs in a slash at its end may reach the same handler."""
    return path == mine or (path.rstrip("/") or "/") == mine


def declared(length: str | None, limit: int) -> None:
    """Refuse a body that says itself that it is too large."""
    if length is None:
        return
    if not length.isdecimal() or not length.isascii():
        raise MalformedWebhook(Reason.MALFORMED_HEADER)
    if len(length) > 18 or int(length) > limit:
        raise TooLarge


def note_refusal(security: Security, error: BartizanError, path: str) -> None:
    """Tell the log."""
    event = AuditEvent(
        name="webhook.refused", org=None, actor=ANONYMOUS, target=path, outcome="refused", reason=error.reason
    )
    security.once.note(event)


def problem(error: BartizanError) -> tuple[bytes, list[tuple[str, str]]]:
    """The body (RFC 9457) and the headers of a refusal."""
    body = json.dumps(error.problem, separators=(",", ":")).encode()
    return body, [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *error.headers,
    ]


def target_of(scope: Scope) -> str:
    """Path and query as they were requested."""
    raw = scope.get("raw_path")
    path = quote(scope["path"], safe="/%:@!$&'()*+,;=~-._") if raw is None else raw.decode("latin-1")
    query = scope.get("query_string", b"")
    return path + ("?" + query.decode("latin-1") if query else "")


def _path_of(scope: Scope) -> str:
    """What the application routes on: the path without its leading `root_path`."""
    path: str = scope["path"]
    mount: str = scope.get("root_path", "")
    inside = mount and path.startswith(mount) and path[len(mount) : len(mount) + 1] in {"", "/"}
    return path[len(mount) :] or "/" if inside else path


def _length(scope: Scope) -> str | None:
    found = [value for name, value in scope["headers"] if name == b"content-length"]
    if len(found) > 1:
        raise MalformedWebhook(Reason.REPEATED_HEADER)
    return found[0].decode("latin-1") if found else None
