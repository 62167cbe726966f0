"""Receivers in front of real applications: over sockets, once each, and whatever crashes where."""

import asyncio
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import django.http  # type: ignore[import-untyped]
import flask
import httpx
import pytest
from django.conf import settings  # type: ignore[import-untyped]
from django.test import RequestFactory  # type: ignore[import-untyped]
from fastapi import FastAPI, Request as FastRequest
from servers import ask, exchange, serving, wsgi_serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bartizan import Bartizan, MalformedWebhook, Misuse, Rule, WebhookEvent, WebhookVerifier, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.drive import run
from bartizan.core.once import ONCE, Marker
from bartizan.errors import BartizanError, InFlight, TooLarge, Unavailable
from bartizan.stores.memory import MemoryBackend
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing import FakeClock, Kit

pytest_plugins = ["bartizan.testing.plugin"]

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8")

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"type":"order.created","id":7}'


class Shop:
    """A receiver of both kinds over one store, and what its handler did."""

    def __init__(self, **arguments: Any) -> None:
        self.kit = Kit(**arguments)
        self.hooks = WebhookVerifier(SECRET, clock=self.kit.clock, max_bytes=100_000)
        self.handled: list[str] = []
        self.bodies: list[bytes] = []
        self.status = 200
        self.raises: Exception | None = None

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        event: WebhookEvent = scope["bartizan.webhook"]
        message = await receive()
        assert not message["more_body"]
        self.work(event, message["body"])
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await send({"type": "http.response.body", "body": b"k"})

    def wsgi_app(self, environ: Any, start_response: Any) -> Any:
        event: WebhookEvent = environ["bartizan.webhook"]
        self.work(event, environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        write = start_response(f"{self.status} Whatever", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        write(b"o")
        return iter([b"k"])

    def work(self, event: WebhookEvent, body: bytes) -> None:
        self.handled.append(event.id)
        self.bodies.append(body)
        if self.raises is not None:
            raise self.raises

    def asgi(self, *, once: bool = True) -> Any:
        return self.hooks.asgi(self.app, path="/hooks", security=self.kit.security if once else None)

    def wsgi(self, *, once: bool = True) -> Any:
        return self.hooks.wsgi(self.wsgi_app, path="/hooks", security=self.kit.security if once else None)

    def message(self, identity: str = "msg_1", body: bytes = BODY) -> dict[str, str]:
        return self.hooks.test_request(body, id=identity).headers


@pytest.fixture(params=["asgi", "wsgi"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Shop, Callable[..., Any]]]:
    """A shop behind a real server, and how to send to it."""
    shop = Shop()
    server = serving(shop.asgi()) if request.param == "asgi" else wsgi_serving(shop.wsgi())
    with server as port:

        def post(headers: dict[str, str], body: bytes = BODY, path: str = "/hooks", method: str = "POST") -> Any:
            return ask(port, path, ("Content-Type", "application/json"), *headers.items(), method=method, body=body)

        post.port = port  # type: ignore[attr-defined]
        yield shop, post


Served = tuple[Shop, Callable[..., Any]]


def markers(shop: Shop) -> list[Marker]:
    backend = shop.kit.security._shared.blocking_side.backend
    assert backend is not None
    return list(run(backend.find(ONCE, ())))


def test_in_flight_is_409_done_is_200(served: Served) -> None:
    shop, post = served
    headers = shop.message()
    first = post(headers)
    assert (first.status, first.body, shop.handled, shop.bodies) == (200, b"ok", ["msg_1"], [BODY])
    again = post(headers)
    assert (again.status, again.body, shop.handled) == (200, b"", ["msg_1"])
    event = shop.hooks.verify(BODY, shop.message("msg_2"))
    with shop.kit.security.blocking.once.claim(event, namespace="/hooks"):
        meanwhile = post(shop.message("msg_2"))
    assert (meanwhile.status, meanwhile.headers["retry-after"]) == (409, "300")
    assert shop.handled == ["msg_1"]
    assert [(e.name, e.reason, e.target, e.actor) for e in shop.kit.events] == [
        ("webhook.refused", "in_flight", "/hooks", "anonymous")
    ]


def test_forged_request_changes_nothing_in_the_store(served: Served) -> None:
    shop, post = served
    headers = shop.message()
    refusals = [
        ({}, BODY, 400, "header_missing"),
        (headers, BODY + b" ", 401, "signature_mismatch"),
        ({**headers, "webhook-id": "msg_2"}, BODY, 401, "signature_mismatch"),
        ({**headers, "webhook-timestamp": "1"}, BODY, 401, "timestamp_too_old"),
        ({**headers, "webhook-signature": "v1,x"}, BODY, 400, "malformed_signature"),
        (headers, b"x" * 100_001, 413, "body_too_large"),
    ]
    for given, body, status, reason in refusals:
        answer = post(given, body)
        assert (answer.status, shop.kit.events[-1].reason) == (status, reason)
        assert answer.headers["content-type"] == "application/problem+json"
        assert reason.encode() not in answer.body
    assert (shop.handled, markers(shop)) == ([], [])
    assert post(headers).status == 200


def test_other_methods_and_paths(served: Served) -> None:
    shop, post = served
    answer = post(shop.message(), method="PUT")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert post({}, path="/hooks/").status == 400, "a path that reaches the same handler is not a way around"
    assert shop.handled == []


def test_a_failed_handler_is_tried_again(served: Served) -> None:
    shop, post = served
    headers = shop.message()
    shop.status = 503
    assert post(headers).status == 503
    shop.status, shop.raises = 200, MalformedWebhook()
    assert post(headers).status == 400
    shop.raises = None
    assert post(headers).status == 200
    assert post(headers).status == 200
    assert shop.handled == ["msg_1"] * 3


def test_retry_after_24h_not_rerun(served: Served) -> None:
    """Every attempt of the whole schedule has a fresh time and a fresh signature, and the same id."""
    shop, post = served
    total = 0
    for delay in (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400):
        shop.kit.clock.advance(delay)
        total += delay
        assert post(shop.message()).status == 200
    assert total > 72 * 3600
    assert shop.handled == ["msg_1"]
    shop.kit.clock.advance(86_400 + 7200)
    assert [marker.done for marker in markers(shop)] == [1]


def test_refused_before_the_body_is_read(served: Served) -> None:
    """Nothing of the body is sent, and the answer comes."""
    shop, post = served
    head = "POST /hooks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 50000\r\n"
    lines = {"": 400, "stale": 401}
    for kind, status in lines.items():
        given = {**shop.message(), "webhook-timestamp": "1"} if kind else {}
        text = head + "".join(f"{name}: {value}\r\n" for name, value in given.items()) + "\r\n"
        got = exchange(post.port, text.encode())  # type: ignore[attr-defined]
        assert int(got.split(b" ")[1]) == status
    large = head.replace("50000", "100001") + "".join(f"{n}: {v}\r\n" for n, v in shop.message().items()) + "\r\n"
    assert exchange(post.port, large.encode()).split(b" ")[1] == b"413"  # type: ignore[attr-defined]


def test_a_chunked_body_is_capped_and_verified() -> None:
    shop = Shop()
    with serving(shop.asgi()) as port:
        for body, status in ((BODY, b"200"), (b"x" * 100_001, b"413")):
            head = "POST /hooks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in shop.message(body=body).items()) + "\r\n"
            chunks = b"".join(
                f"{len(body[at : at + 9999]):x}\r\n".encode() + body[at : at + 9999] + b"\r\n"
                for at in range(0, len(body), 9999)
            )
            assert exchange(port, head.encode() + chunks + b"0\r\n\r\n").split(b" ")[1] == status
    assert shop.bodies == [BODY]


def test_without_security_nothing_is_claimed() -> None:
    shop = Shop()
    with serving(shop.asgi(once=False)) as port, wsgi_serving(shop.wsgi(once=False)) as other:
        for at in (port, other):
            for _ in range(2):
                assert ask(at, "/hooks", *shop.message().items(), method="POST", body=BODY).body == b"ok"
            assert ask(at, "/hooks", method="POST", body=BODY).status == 400
    assert shop.handled == ["msg_1"] * 4
    assert (markers(shop), shop.kit.events) == ([], [])


def test_verify_alone_changes_no_store() -> None:
    shop = Shop()
    shop.hooks.verify(BODY, shop.message())
    assert markers(shop) == []


def test_slow_handler_outlives_lease() -> None:
    """Two handlers ran, and only the one that holds the lease says so: the other is told, and its sender comes again."""
    shop = Shop()
    event = shop.hooks.verify(BODY, shop.message())

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        shop.kit.clock.advance(301)
        with shop.kit.security.blocking.once.claim(event, namespace="/hooks") as claim:
            assert claim.first
        await shop.app(scope, lambda: _ready({"type": "http.request", "body": BODY, "more_body": False}), send)

    app = shop.hooks.asgi(slow, path="/hooks", security=shop.kit.security)
    answer = Client(app).post("/hooks", content=BODY, headers=shop.message())
    assert answer.status_code == 409
    assert {e.name for e in shop.kit.events} == {"once.lease_lost", "webhook.refused"}


async def _ready(message: Any) -> Any:
    return message


def test_an_event_is_claimed_by_what_is_signed_and_by_its_endpoint() -> None:
    shop = Shop()
    once = shop.kit.security.blocking.once
    event = shop.hooks.verify(BODY, shop.message())
    other = WebhookVerifier.svix(SECRET, clock=shop.kit.clock)
    firsts = []
    for claimed, namespace in (
        (event, "/a"),
        (event, "/a"),
        (event, "/b"),
        (other.verify(BODY, other.test_request(BODY, id="msg_1").headers), "/a"),
        ("msg_1", "/a"),
    ):
        with once.claim(claimed, namespace=namespace) as claim:
            firsts.append(claim.first)
    with shop.kit.security.job("nightly", org="org_1"), once.claim(event, namespace="/a") as claim:
        firsts.append(claim.first)
    assert firsts == [True, False, True, True, True, False]
    for wrong in (7, None, b"x", object()):
        with pytest.raises(Misuse):
            once.claim(wrong, namespace="/a")  # type: ignore[arg-type]


def test_what_is_not_signed_is_no_key() -> None:
    hooks = WebhookVerifier.stripe("whsec_a_text_of_enough_bytes")
    one = hooks.verify(b'{"id":"evt_1"}', hooks.test_request(b'{"id":"evt_1"}').headers)
    other = hooks.verify(
        b'{"id":"evt_1","pending_webhooks":0}', hooks.test_request(b'{"id":"evt_1","pending_webhooks":0}').headers
    )
    assert one.id == "evt_1"
    assert one.once_key == other.once_key, "Stripe's retries differ in their body"
    for body in (b'{"id":7}', b'{"id":""}', b'{"id":"%s"}' % (b"x" * 300), b"[]", b"[" * 100_000):
        assert hooks.verify(body, hooks.test_request(body).headers).id.startswith("sha256:")


class Client:
    """An ASGI application asked in the same process."""

    def __init__(self, app: Any, root_path: str = "") -> None:
        self._transport = httpx.ASGITransport(app, root_path=root_path)

    def post(self, path: str, content: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        async def once() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://shop.example") as client:
                return await client.post(path, content=content, headers=headers or {})

        return asyncio.run(once())


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 10_000):
        yield body[at : at + 10_000]


# --- crashes ---

POINTS = ["claim<", "claim>", "run<", "run>", "commit<", "commit>"]


class Crash(BaseException):
    """The process is gone."""


class Hooked:
    """A backend that crashes before or after the change of this name; after a crash it is gone."""

    def __init__(self, inner: Any, point: str) -> None:
        self._inner = inner
        self._point = point
        self.crashed = False

    async def change(self, step: Any, /, *, also: Any = ()) -> Any:
        if step.table is not ONCE:
            return await self._inner.change(step, also=also)
        name = {"Insert": "claim", "Update": "commit", "Delete": "release"}[type(step).__name__]
        self.at(f"{name}<")
        answer = await self._inner.change(step, also=also)
        self.at(f"{name}>")
        return answer

    def at(self, point: str) -> None:
        if self.crashed or point == self._point:
            self.crashed = True
            raise Crash

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("face", ["asgi", "wsgi"])
def test_crash_at_every_step(point: str, kind: str, face: str, tmp_path: Path) -> None:
    """The effect happened once, or it happens at a later attempt: never not at all, and a known 200 is never run again."""
    clock = FakeClock()
    file = SqliteFile(tmp_path / "once.db", clock) if kind == "sqlite" else None
    memory = MemoryBackend(clock)
    effects: list[str] = []
    hooks = WebhookVerifier(SECRET, clock=clock)

    def attempt(at: str) -> int | None:
        inner: Any = memory if file is None else file.asynchronous if face == "asgi" else file.blocking
        backend = Hooked(inner, at)
        security = Bartizan(backend, environment="test", clock=clock)

        def work() -> None:
            backend.at("run<")
            effects.append(at)
            backend.at("run>")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            work()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
            work()
            start_response("200 OK", [])
            return []

        headers = hooks.test_request(BODY, id="msg_1").headers
        try:
            if face == "asgi":
                return asyncio.run(asked(hooks.asgi(app, path="/hooks", security=security), headers))
            return wsgi_asked(hooks.wsgi(wsgi_app, path="/hooks", security=security), headers)
        except Crash:
            return None

    assert attempt(point) is None
    assert effects == ([] if point in {"claim<", "claim>", "run<"} else [point])
    statuses: list[int] = []
    while not statuses or statuses[-1] != 200:
        clock.advance(100)
        statuses.append(attempt("never") or 0)
        assert len(statuses) < 10
    assert (
        effects
        == {
            "claim<": ["never"],
            "claim>": ["never"],
            "run<": ["never"],
            "run>": ["run>", "never"],
            "commit<": ["commit<", "never"],
            "commit>": ["commit>"],
        }[point]
    )
    assert set(statuses) <= {200, 409}
    assert attempt("never") == 200
    assert len(effects) <= 2
    if file is not None:
        file.close()


async def asked(app: Any, headers: dict[str, str], body: bytes = BODY) -> int:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    wire = [(name.encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": "POST", "path": "/hooks", "headers": wire}, receive, send)
    status: int = sent[0]["status"]
    return status


def wsgi_asked(app: Any, headers: dict[str, str], body: bytes = BODY) -> int:
    from io import BytesIO

    statuses: list[int] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/hooks",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": BytesIO(body),
        "wsgi.version": (1, 0),
        **{"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()},
    }
    list(app(environ, lambda status, headers: statuses.append(int(status[:3]))))
    return statuses[0]


# --- many at once ---


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_64_concurrent_deliveries_of_1000_events_are_handled_once_each(kind: str, tmp_path: Path) -> None:
    clock = FakeClock()
    file = SqliteFile(tmp_path / "once.db", clock) if kind == "sqlite" else None
    security = Bartizan(file.asynchronous if file else MemoryBackend(clock), environment="test", clock=clock)
    hooks = WebhookVerifier(SECRET, clock=clock)
    handled: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        event = scope["bartizan.webhook"]
        await asyncio.sleep(0)
        handled.append(event.id)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    receiver = hooks.asgi(app, path="/hooks", security=security)
    deliveries = [f"msg_{number}" for number in range(1000)] * 3
    Random(11).shuffle(deliveries)
    statuses: list[int] = []

    async def worker(queue: "asyncio.Queue[str]") -> None:
        while not queue.empty():
            identity = queue.get_nowait()
            statuses.append(await asked(receiver, hooks.test_request(BODY, id=identity).headers))

    async def scene() -> None:
        queue: asyncio.Queue[str] = asyncio.Queue()
        for identity in deliveries:
            queue.put_nowait(identity)
        await asyncio.gather(*(worker(queue) for _ in range(64)))

    asyncio.run(scene())
    assert sorted(handled) == sorted({f"msg_{number}" for number in range(1000)})
    assert (len(statuses), set(statuses) <= {200, 409}) == (3000, True)
    if file is not None:
        file.close()


def test_64_threads_handle_one_event_once() -> None:
    shop = Shop()
    app, headers = shop.wsgi(), shop.message()
    barrier = threading.Barrier(64)
    statuses: list[int] = []

    def one() -> None:
        barrier.wait(30)
        statuses.append(wsgi_asked(app, headers))

    threads = [threading.Thread(target=one) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (shop.handled, len(statuses), set(statuses) <= {200, 409}) == (["msg_1"], 64, True)


def test_a_cancelled_delivery_is_given_back() -> None:
    shop = Shop()

    begun = asyncio.Event()

    async def hanging(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def scene() -> None:
        task = asyncio.create_task(
            asked(shop.hooks.asgi(hanging, path="/hooks", security=shop.kit.security), shop.message())
        )
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scene())
    assert markers(shop) == []
    assert asyncio.run(asked(shop.asgi(), shop.message())) == 200


def test_a_store_that_fails_is_503() -> None:
    class Failing(MemoryBackend):
        async def change(self, *_: Any, **__: Any) -> Any:
            raise Unavailable

    clock = FakeClock()
    security = Bartizan(Failing(clock), environment="test", clock=clock)
    shop = Shop()
    hooks = WebhookVerifier(SECRET, clock=clock)
    headers = hooks.test_request(BODY).headers
    assert asyncio.run(asked(hooks.asgi(shop.app, path="/hooks", security=security), headers)) == 503
    assert wsgi_asked(hooks.wsgi(shop.wsgi_app, path="/hooks", security=security), headers) == 503
    assert shop.handled == []


# --- in applications ---


def test_behind_the_gate_the_path_is_untouched() -> None:
    shop = Shop()
    gate = shop.kit.security.gate([Rule("POST /hooks", allow.untouched()), Rule("/**", allow.secret_key())])
    client = Client(GateMiddleware(shop.asgi(), gate))
    assert client.post("/hooks", content=BODY, headers=shop.message()).status_code == 200
    assert client.post("/hooks", content=BODY).status_code == 400
    assert client.post("/other", content=BODY, headers=shop.message()).status_code == 401


def test_below_a_mount_and_other_paths_pass() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        if scope["type"] == "http":
            await PlainTextResponse("passed")(scope, receive, send)

    shop = Shop()
    receiver = shop.hooks.asgi(app, path="/hooks/")
    client = Client(receiver, root_path="/api")
    assert client.post("/api/hooks", content=BODY).status_code == 400
    assert client.post("/api/other", content=BODY).text == "passed"
    unused: Any = None
    socket: Any = receiver({"type": "websocket", "path": "/hooks"}, unused, unused)
    asyncio.run(socket)
    assert seen[-1] == "websocket"
    for path in ("hooks", "", "/" + "x" * 100, "/\n"):
        with pytest.raises(Misuse):
            shop.hooks.asgi(app, path=path)


def test_starlette_and_fastapi() -> None:
    shop = Shop()

    async def hook(request: Request) -> PlainTextResponse:
        event = await shop.hooks.receive(request)
        return PlainTextResponse(event.type or "")

    fast = FastAPI()

    @fast.post("/hook")
    async def fast_hook(request: FastRequest) -> str | None:
        return (await shop.hooks.receive(request)).type

    @fast.exception_handler(BartizanError)
    async def answer(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("", getattr(error, "status", 500))

    star = Starlette(routes=[Route("/hook", hook, methods=["POST"])], exception_handlers={BartizanError: answer})
    for app in (star, fast):
        client = Client(app)
        assert "order.created" in client.post("/hook", content=BODY, headers=shop.message()).text
        assert client.post("/hook", content=BODY).status_code == 400
        assert client.post("/hook", content=b"x" * 100_001, headers=shop.message()).status_code == TooLarge.status
        chunks = client.post("/hook", content=pieces(b"x" * 100_001), headers=shop.message())
        assert chunks.status_code == TooLarge.status


def test_a_form_that_was_read_before_is_a_mistake() -> None:
    shop = Shop()

    async def hook(request: Request) -> PlainTextResponse:
        async for _ in request.stream():
            pass
        await shop.hooks.receive(request)
        return PlainTextResponse("")

    with pytest.raises(Misuse, match="read already"):
        Client(Starlette(routes=[Route("/hook", hook, methods=["POST"])])).post(
            "/hook", content=b"a=b", headers=shop.message(body=b"a=b")
        )


def test_flask_and_django() -> None:
    """Three lines each: the raw body, the headers as the framework has them."""
    shop = Shop()
    app = flask.Flask("shop")

    @app.post("/hook")
    def hook() -> str:
        return shop.hooks.verify(flask.request.get_data(), flask.request.headers).type or ""

    assert app.test_client().post("/hook", data=BODY, headers=shop.message()).text == "order.created"
    environ = {
        "REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": str(len(BODY)),
        "wsgi.version": (1, 0),
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        **{"HTTP_" + name.upper().replace("-", "_"): value for name, value in shop.message().items()},
    }
    request = django.http.HttpRequest()
    request.META = environ
    assert shop.hooks.verify(BODY, request.headers).type == "order.created"
    assert shop.hooks.verify(BODY, environ).type == "order.created"


def test_flask_and_django_from_the_environment() -> None:
    """As `receive`: refused from the headers before the body is read, capped, and readable afterwards."""
    shop = Shop()
    app = flask.Flask("shop")

    @app.post("/hook")
    def hook() -> bytes:
        event = shop.hooks.receive_wsgi(flask.request.environ)
        assert flask.request.get_data() == event.body
        return event.body

    @app.errorhandler(BartizanError)
    def answer(error: BartizanError) -> tuple[str, int]:
        return error.reason, error.status

    client = app.test_client()
    assert client.post("/hook", data=BODY, headers=shop.message()).data == BODY
    assert client.post("/hook", data=b"x" * 100_001, headers=shop.message()).status_code == 413
    assert client.post("/hook", data=BODY).text == "header_missing"
    form = shop.message(body=b"a=b")
    assert (
        client.post("/hook", data=b"a=b", headers=form, content_type="application/x-www-form-urlencoded").data == b"a=b"
    )
    request = RequestFactory().post("/hook", BODY, content_type="application/json", headers=shop.message())
    assert shop.hooks.receive_wsgi(request.environ).body == BODY


def test_the_fixture(webhook_request: Callable[..., Any]) -> None:
    shop = Shop()
    request = webhook_request(shop.hooks, {"type": "x"}, id="msg_9")
    assert shop.hooks.verify(request.body, request.headers).id == "msg_9"


def test_an_error_after_the_answer_began_is_the_servers() -> None:
    shop = Shop()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise MalformedWebhook

    with pytest.raises(MalformedWebhook):
        asyncio.run(asked(shop.hooks.asgi(app, path="/hooks"), shop.message()))
    assert asyncio.run(asked(shop.hooks.asgi(app, path="/hooks", security=shop.kit.security), shop.message())) == 400


def test_a_commit_that_fails_is_not_the_applications_error() -> None:
    """Whatever the application does with errors, its sender is told that nothing is settled, and comes again."""

    class Failing(MemoryBackend):
        failing = True

        async def change(self, step: Any, /, **more: Any) -> Any:
            if self.failing and type(step).__name__ == "Update":
                raise Unavailable
            return await super().change(step, **more)

    clock = FakeClock()
    backend = Failing(clock)
    security = Bartizan(backend, environment="test", clock=clock)
    shop = Shop()
    hooks = WebhookVerifier(SECRET, clock=clock)

    async def hook(request: Request) -> PlainTextResponse:
        return PlainTextResponse("handled")

    async def answer(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("an error of mine", 200)

    app = Starlette(routes=[Route("/hooks", hook, methods=["POST"])], exception_handlers={BartizanError: answer})
    headers = hooks.test_request(BODY).headers
    client = Client(hooks.asgi(app, path="/hooks", security=security))
    assert client.post("/hooks", content=BODY, headers=headers).status_code == 503
    assert wsgi_asked(hooks.wsgi(shop.wsgi_app, path="/hooks", security=security), headers) == 409
    backend.failing = False
    clock.advance(301)
    assert client.post("/hooks", content=BODY, headers=hooks.test_request(BODY).headers).text == "handled"


def test_a_delivery_that_is_closed_awaits_nothing() -> None:
    shop = Shop()

    class Suspended:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def hanging(scope: Any, receive: Any, send: Any) -> None:
        await Suspended()

    security: Any = SimpleNamespace(once=shop.kit.security._shared.blocking_side.once)
    coroutine = asked(shop.hooks.asgi(hanging, path="/hooks", security=security), shop.message())
    coroutine.send(None)
    coroutine.close()
    assert [marker.done for marker in markers(shop)] == [0]


def test_a_client_that_hangs_up_is_nobody() -> None:
    shop = Shop()

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        raise AssertionError

    wire = [(name.encode(), value.encode()) for name, value in shop.message().items()]
    asyncio.run(shop.asgi()({"type": "http", "method": "POST", "path": "/hooks", "headers": wire}, receive, send))
    assert shop.handled == []


@pytest.mark.parametrize("length", ["x", "-1", "٣", "1_0", "9" * 30])
def test_odd_lengths(length: str) -> None:
    shop = Shop()
    headers = {**shop.message(), "content-length": length}
    wire = {name: value for name, value in headers.items() if value.isascii()}
    if "content-length" in wire:
        assert asyncio.run(asked(shop.asgi(), wire)) in {400, 413}


def test_memory_of_verify_and_of_the_wrapper() -> None:
    body = b"x" * (1 << 20)
    clock = FakeClock()
    hooks = WebhookVerifier(SECRET, clock=clock)
    headers = hooks.test_request(body).headers
    wire = [(name.encode(), value.encode()) for name, value in headers.items()]
    chunks = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def whole() -> int:
        left = iter(chunks)

        async def receive() -> Any:
            chunk = next(left, None)
            return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

        async def send(_: Any) -> None: ...

        await hooks.asgi(app, path="/hooks")(
            {"type": "http", "method": "POST", "path": "/hooks", "headers": wire}, receive, send
        )
        return 200

    def peak(call: Callable[[], Any]) -> int:
        call()
        tracemalloc.start()
        call()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(lambda: hooks.verify(body, headers)) <= 16_384
    loop = asyncio.new_event_loop()
    assert peak(lambda: loop.run_until_complete(whole())) <= len(body) + 16_384
    loop.close()


def test_in_flight_is_of_the_claim() -> None:
    shop = Shop()
    event = shop.hooks.verify(BODY, shop.message())
    once = shop.kit.security.blocking.once
    with once.claim(event, namespace="/hooks"), pytest.raises(InFlight), once.claim(event, namespace="/hooks"):
        pass
