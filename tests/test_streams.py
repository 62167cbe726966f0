"""What outlives its request is asked for again: real clients, on uvicorn."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import websockets.exceptions
from servers import serving, wsgi_serving
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
from websockets.sync.client import connect

from bartizan import Rule, allow, asgi, current_principal, wsgi
from bartizan.errors import InvalidKey, Rejected, Unavailable, WrongCredential
from bartizan.integrations import starlette
from bartizan.stores import streams, watches
from bartizan.stores.streams import Stream
from bartizan.testing.kit import Kit, headers_of

RULES = [
    Rule("WEBSOCKET /socket", allow.secret_key()),
    Rule("WEBSOCKET /open", allow.public()),
    Rule("WEBSOCKET /away", allow.untouched()),
    Rule("/any", allow.secret_key()),
    Rule("GET /get", allow.secret_key()),
    Rule("GET /events", allow.secret_key()),
    Rule("GET /away/events", allow.untouched()),
    Rule("GET /public/events", allow.public()),
]

principal_seen: ContextVar[str] = ContextVar("principal_seen")


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """A websocket that echoes, and a response that goes on for ever."""
    if scope["type"] == "websocket":
        assert (await receive())["type"] == "websocket.connect"
        if scope["path"] == "/any" and scope["query_string"] == b"raise":
            raise WrongCredential
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message.get("text") or ""})
        ended.append(message)
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError:
            ended.append("OSError")
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    try:
        while True:
            await send({"type": "http.response.body", "body": b"data: tick\n\n", "more_body": True})
            await asyncio.sleep(0.02)
    except OSError:
        ended.append("OSError")
        raise


ended: list[Any] = []


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Kit:
    monkeypatch.setattr(streams, "AGE", 0.1)
    monkeypatch.setattr(watches, "AGE", 0.0)
    ended.clear()
    return Kit(staleness=0)


@pytest.fixture(params=["websockets-sansio", "wsproto"])
def port(request: pytest.FixtureRequest, kit: Kit) -> Iterator[int]:
    kit.security.gate(RULES)
    with serving(
        asgi.GateMiddleware(echo, kit.security.gate(RULES)), ws=request.param, timeout_graceful_shutdown=1
    ) as number:
        yield number


def refused(port: int, path: str, headers: dict[str, str] | None = None) -> int:
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{port}{path}", additional_headers=headers or {})
    return caught.value.response.status_code


def test_websocket_needs_own_rule(port: int, kit: Kit) -> None:
    key = headers_of(kit.key(org="o"))
    assert refused(port, "/get", key) == 405  # a rule for GET is none for a handshake
    assert refused(port, "/nothing", key) == 404
    assert refused(port, "/socket") == 401
    assert [e.reason for e in kit.events[-3:]] == ["method_not_listed", "no_rule", "no_credential"]
    for path in ("/socket", "/any"):
        with connect(f"ws://127.0.0.1:{port}{path}", additional_headers=key) as socket_:
            socket_.send("hello")
            assert socket_.recv() == "hello"
    for path in ("/open", "/away"):
        with connect(f"ws://127.0.0.1:{port}{path}") as socket_:
            socket_.send("hello")
            assert socket_.recv() == "hello"


def test_a_refusal_of_a_websocket_carries_its_problem(port: int) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{port}/socket")
    response = caught.value.response
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == "Bearer"
    assert b"unauthenticated" in response.body


def test_an_error_of_the_application_before_accept_is_a_refusal(port: int, kit: Kit) -> None:
    assert refused(port, "/any?raise", headers_of(kit.key(org="o"))) == 403


def test_websocket_closed_after_revoke(port: int, kit: Kit) -> None:
    issued = kit.key(org="o")
    with connect(f"ws://127.0.0.1:{port}/socket", additional_headers=headers_of(issued)) as socket_:
        socket_.send("hello")
        assert socket_.recv() == "hello"
        kit.security.blocking.keys.revoke(issued.record.id, org="o")
        with pytest.raises(websockets.exceptions.ConnectionClosed) as caught:
            socket_.recv(timeout=10)  # it is idle, and ends all the same
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4401
    assert ended[0]["type"] == "websocket.disconnect"
    assert ended[1] == "OSError"


def read_until_closed(
    port: int, path: str, headers: dict[str, str], after_first: Callable[[], None], most: int
) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        received = connection.recv(65536)
        after_first()
        while len(received) < most and (chunk := connection.recv(65536)):
            received += chunk
    return received


def test_sse_ends_after_expiry(port: int, kit: Kit) -> None:
    issued = kit.key(org="o", expires_at=kit.clock() + 60)
    received = read_until_closed(port, "/events", headers_of(issued), lambda: kit.clock.advance(60), 10**7)
    assert b"data: tick" in received
    assert not received.endswith(b"0\r\n\r\n")  # unfinished: no client takes it for the whole
    assert ended == ["OSError"]


def test_sse_ends_after_revoke_and_others_go_on(port: int, kit: Kit) -> None:
    issued = kit.key(org="o")

    def revoke() -> None:
        kit.security.blocking.keys.revoke(issued.record.id, org="o")

    received = read_until_closed(port, "/events", headers_of(issued), revoke, 10**7)
    assert not received.endswith(b"0\r\n\r\n")
    tick = len(b"c\r\ndata: tick\n\n\r\n")
    for path in ("/away/events", "/public/events"):
        assert len(read_until_closed(port, path, {}, revoke, 100 * tick)) >= 100 * tick


def test_an_idle_stream_of_starlette_ends(kit: Kit) -> None:
    """It sends nothing, and listens only for its client to hang up."""
    still = threading.Event()

    async def events(_: Any) -> StreamingResponse:
        async def one_and_no_more() -> Any:
            yield b"data: first\n\n"
            try:
                await asyncio.sleep(3600)
            finally:
                still.set()

        return StreamingResponse(one_and_no_more())

    app = Starlette(routes=[Route("/events", events)])
    starlette.install(app, kit.security.gate(RULES))
    issued = kit.key(org="o")
    with serving(app) as port:

        def disable() -> None:
            kit.security.blocking.keys.disable(issued.record.id, org="o")

        received = read_until_closed(port, "/events", headers_of(issued), disable, 10**6)
    assert b"data: first" in received
    assert not received.endswith(b"0\r\n\r\n")
    assert still.wait(10)


def test_a_stream_of_a_wsgi_application_ends(kit: Kit) -> None:
    issued = kit.key(org="o")
    steps = 0

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        nonlocal steps
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1000000")])
        for _ in range(1000):
            steps += 1
            if steps == 5:
                kit.security.blocking.keys.revoke(issued.record.id, org="o")
                kit.clock.advance(10)
            yield b"x" * 1000

    gate = kit.security.gate(RULES)
    gate.blocking._service.every = 0
    with wsgi_serving(wsgi.GateMiddleware(app, gate)) as port:
        received = read_until_closed(port, "/events", headers_of(issued), lambda: None, 10**7)
    assert steps == 5
    assert len(received) < 10_000


def watched(*answers: Exception | None) -> tuple[int, bool]:
    """How often a stream asked that gets these answers, and whether it was closed."""
    asked = 0
    closed: list[bool] = []

    async def scene() -> None:
        nonlocal asked

        async def ask() -> None:
            nonlocal asked
            asked += 1
            answer = answers[asked - 1]
            if answer is not None:
                raise answer

        async def close() -> None:
            closed.append(True)
            raise OSError("the client is gone")

        stream = Stream(ask, 0, close)
        stream.start(0)
        stream.start(0)
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        assert await stream.until_over(lambda: never) is None
        assert await stream.until_over(lambda: never) is None
        assert stream.over
        await stream.end()

    asyncio.run(scene())
    return asked, bool(closed)


def test_a_store_that_fails_ends_a_stream_only_twice_in_a_row() -> None:
    assert watched(None, Unavailable(), None, Unavailable(), Unavailable()) == (5, True)
    assert watched(InvalidKey()) == (1, True)
    assert watched(None, ValueError("a mistake of ours is no yes")) == (2, True)


def test_a_stream_gives_what_comes_before_its_end() -> None:
    async def scene() -> None:
        async def ask() -> None:
            await asyncio.sleep(3600)

        async def give() -> str:
            return "message"

        async def fail() -> str:
            raise Rejected

        stream = Stream(ask, 1)
        stream.start(0)
        assert await stream.until_over(give) == "message"
        with pytest.raises(Rejected):
            await stream.until_over(fail)
        waiting = asyncio.create_task(stream.until_over(asyncio.Event().wait))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        stream.stop()
        await stream.end()

    asyncio.run(scene())


def test_a_watch_is_nobodys_request() -> None:
    seen: list[bool] = []

    async def scene() -> None:
        async def ask() -> None:
            try:
                current_principal()
            except Exception as error:
                seen.append(type(error).__name__ == "Misuse")
            raise InvalidKey

        principal_seen.set("x")
        stream = Stream(ask, 0)
        stream.start(0)
        await stream.until_over(asyncio.Event().wait)

    asyncio.run(scene())
    assert seen == [True]
