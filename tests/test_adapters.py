"""Both adapters change nothing but what they refuse."""

import asyncio
import io
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from servers import ask, exchange, serving, wsgi_serving
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bartizan import Misuse, Rule, allow, asgi, current_principal, wsgi
from bartizan.core.passage import Admit
from bartizan.core.principal import current_unit
from bartizan.core.request import of_environ
from bartizan.errors import NotFound, Unauthenticated, Unavailable, WrongCredential
from bartizan.integrations import starlette
from bartizan.testing import Kit
from bartizan.testing.kit import headers_of

RULES = [
    Rule("/public", allow.public()),
    Rule("/untouched/**", allow.untouched()),
    Rule("/secret", allow.secret_key()),
    Rule("/orgs/{org}/files/{path:path}", allow.secret_key()),
    Rule("/small", allow.public(), body_limit=10),
]

colour: ContextVar[str] = ContextVar("colour", default="none")


def scope_of(path: str, headers: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    pairs = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
    return {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": pairs, "client": ("127.0.0.1", 1), "server": ("x", 80), "scheme": "http", "http_version": "1.1",
        "extensions": {}, "asgi": {"version": "3.0"}, "state": {}, **more,
    }  # fmt: skip


def sent(app: Any, scope: dict[str, Any], *received: dict[str, Any]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    waiting = list(received) or [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        out.append(message)

    asyncio.run(app(scope, receive, send))
    return out


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def gate_of(kit: Kit) -> Any:
    return kit.security.gate(RULES)


def test_untouched_changes_nothing() -> None:
    kit, seen = Kit(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))
        raise WrongCredential  # not even an error of ours is answered here

    scope = scope_of("/untouched/x", {"Authorization": "Bearer sk_nonsense", "X-HTTP-Method": "x"})
    before = dict(scope)

    receive: Any = object()
    send: Any = object()
    with pytest.raises(WrongCredential):
        asyncio.run(asgi.GateMiddleware(app, gate_of(kit))(scope, receive, send))
    assert seen[0][0] is scope
    assert scope == before
    assert seen[0][1:] == (receive, send)
    assert sent(asgi.GateMiddleware(app, gate_of(kit)), scope_of("/untouched//x"))[0]["status"] == 404


def test_the_verdict_is_in_the_scope_and_marker_cannot_be_supplied() -> None:
    kit = Kit()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["bartizan"])
        await hello(scope, receive, send)

    middleware = asgi.GateMiddleware(app, gate_of(kit))
    headers = headers_of(kit.key(org="o1"))
    sent(middleware, scope_of("/orgs/o1/files/a/b", headers, bartizan="already ran"))
    assert isinstance(seen[0], Admit)
    assert seen[0].params == {"org": "o1", "path": "a/b"}
    assert seen[0].callers[0].org == "o1"
    assert seen[0].rule is RULES[3]
    assert (
        sent(middleware, scope_of("/secret", {"bartizan": "1", "x-bartizan": "1"}, bartizan=seen[0]))[0]["status"]
        == 401
    )


def test_lifespan_passes_and_unknown_scope_type_refused() -> None:
    kit, seen = Kit(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    middleware = asgi.GateMiddleware(app, gate_of(kit))
    sent(middleware, {"type": "lifespan"})
    for kind in ("http.push", "webtransport", "", "HTTP"):
        with pytest.raises(Misuse):
            sent(middleware, {**scope_of("/public"), "type": kind})
    assert seen == ["lifespan"]


def test_foreign_exceptions_and_misuse_pass_unchanged() -> None:
    kit = Kit()
    for error in (ValueError("mine"), KeyError("x"), Misuse("mine"), asyncio.CancelledError()):

        async def app(scope: Any, receive: Any, send: Any, error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            sent(asgi.GateMiddleware(app, gate_of(kit)), scope_of("/public"))
        assert caught.value is error or isinstance(error, asyncio.CancelledError)


def test_an_error_of_ours_is_answered_before_the_response_and_raised_after() -> None:
    kit = Kit()

    def raising(after: bool) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if after:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            raise NotFound

        return asgi.GateMiddleware(app, gate_of(kit))

    answer = sent(raising(False), scope_of("/secret", headers_of(kit.key(org="o"))))
    assert answer[0]["status"] == 404
    event = kit.events[-1]
    assert (event.name, event.reason, event.org, event.target) == ("request.refused", "application", "o", "/secret")
    with pytest.raises(NotFound):
        sent(raising(True), scope_of("/public"))


def test_context_variables_of_the_application_pass_through() -> None:
    kit = Kit()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(colour.get())
        colour.set("blue")
        await hello(scope, receive, send)

    seen: list[str] = []

    async def scene() -> None:
        colour.set("red")
        middleware = asgi.GateMiddleware(app, gate_of(kit))

        async def nothing(*_: Any) -> Any:
            return {"type": "http.disconnect"}

        await middleware(scope_of("/public"), nothing, nothing)
        seen.append(colour.get())
        with pytest.raises(Misuse):
            current_principal()  # whoever called is left with nobody's principal

    asyncio.run(scene())
    assert seen == ["red", "blue"]


def test_background_tasks_run_as_the_caller() -> None:
    kit = Kit()
    seen: list[str] = []

    async def endpoint(_: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("x", background=BackgroundTask(lambda: seen.append(current_principal().actor)))

    app = Starlette(routes=[Route("/secret", endpoint)])
    starlette.install(app, gate_of(kit))
    key = kit.key(org="o")
    with serving(app) as port:
        assert ask(port, "/secret", *headers_of(key).items()).status == 200
    assert seen == [f"sk_test_{key.record.id}"]


def reading(scope: Any, receive: Any, send: Any) -> Any:
    async def read() -> None:
        size = 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"%d" % (size % 10)})

    return read()


CHUNKED = "POST {0} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_body_limit_counts_what_streams_in(http: str) -> None:
    kit = Kit()
    with serving(asgi.GateMiddleware(reading, gate_of(kit)), http) as port:
        assert ask(port, "/small", method="POST", body=b"x" * 10).status == 200
        assert ask(port, "/small", method="POST", body=b"x" * 11).status == 413
        assert kit.events[-1].reason == "body_too_large"
        for chunks, status in (("5\r\nxxxxx\r\n5\r\nxxxxx\r\n", 200), ("5\r\nxxxxx\r\n6\r\nxxxxxx\r\n", 413)):
            assert (
                f" {status} ".encode()
                in exchange(port, (CHUNKED.format("/small") + chunks + "0\r\n\r\n").encode())[:20]
            )
        huge = ask(port, "/small", ("Content-Length", "9" * 15), method="GET")
        assert huge.status == 413


def test_body_limit_holds_though_the_application_swallows_it() -> None:
    kit = Kit()

    async def swallowing(scope: Any, receive: Any, send: Any) -> None:
        try:
            await reading(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b"could not parse"})

    with serving(asgi.GateMiddleware(swallowing, gate_of(kit))) as port:
        raw = exchange(port, (CHUNKED.format("/small") + "b\r\nxxxxxxxxxxx\r\n0\r\n\r\n").encode())
    assert b" 413 " in raw[:20]
    assert kit.events[-1].reason == "body_too_large"


def test_hooks_at_the_end_run_once_with_the_status() -> None:
    kit = Kit()
    gate = gate_of(kit)
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def hook(status: int) -> None:
            seen.append(status)

        scope["bartizan"].ends = [hook]
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent(asgi.GateMiddleware(app, gate), scope_of("/public"))
    assert seen == [201]


# --- WSGI ---


def environ_of(path: str, headers: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    folded = {"HTTP_" + k.upper().replace("-", "_"): v for k, v in (headers or {}).items()}
    return {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http", "wsgi.input": more.pop("input", io.BytesIO()), "REMOTE_ADDR": "127.0.0.1", **folded, **more,
    }  # fmt: skip


def called(app: Any, environ: dict[str, Any]) -> tuple[str, list[bytes]]:
    statuses: list[str] = []
    body = app(environ, lambda status, headers, exc_info=None: statuses.append(status))
    try:
        chunks = list(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    return statuses[-1], chunks


def plain(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


def test_wsgi_untouched_and_lists_go_as_they_are() -> None:
    kit = Kit()
    result = [b"hello"]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return result

    middleware = wsgi.GateMiddleware(app, gate_of(kit))
    environ = environ_of("/untouched/x", {"Authorization": "Bearer sk_nonsense"})
    before = dict(environ)
    assert middleware(environ, lambda *_: None) is result
    assert environ == before
    assert middleware(environ_of("/public"), lambda *_: None) is result
    assert called(middleware, environ_of("/untouched//x"))[0] == "404 Not Found"


def test_public_after_unclosed_private() -> None:
    kit = Kit()
    seen: list[str] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(3):
            try:
                seen.append(current_principal().actor)
            except Unauthenticated:
                seen.append("nobody")
            yield b"x"

    middleware = wsgi.GateMiddleware(app, gate_of(kit))
    key = kit.key(org="o")

    def one_thread() -> None:
        private = iter(middleware(environ_of("/secret", headers_of(key)), lambda *_: None))
        next(private)  # and never closed
        assert not current_unit.get().callers
        public = iter(middleware(environ_of("/public"), lambda *_: None))
        next(public)
        next(private)  # steps of two requests, one after the other in one thread
        next(public)
        with pytest.raises(Misuse):
            current_principal()

    copy_context().run(one_thread)
    name = f"sk_test_{key.record.id}"
    assert seen == [name, "nobody", name, "nobody"]


def test_wsgi_context_is_one_for_the_application_and_its_body() -> None:
    kit = Kit()
    seen: list[str] = []

    class Body:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> bytes:
            seen.append(colour.get())
            if len(seen) > 2:
                raise StopIteration
            return b"x"

        def close(self) -> None:
            seen.append("closed " + colour.get())

    def app(environ: Any, start_response: Any) -> Body:
        colour.set("blue")
        start_response("200 OK", [])
        return Body()

    called(wsgi.GateMiddleware(app, gate_of(kit)), environ_of("/public"))
    assert seen == ["blue", "blue", "blue", "closed blue"]
    assert colour.get() == "none"


def test_wsgi_errors_of_ours_before_and_after() -> None:
    kit = Kit()

    def raising(environ: Any, start_response: Any) -> list[bytes]:
        raise Unavailable

    def generating(environ: Any, start_response: Any) -> Iterator[bytes]:
        if environ["QUERY_STRING"]:
            start_response("200 OK", [])
        if environ["QUERY_STRING"] == "chunk":
            yield b"x"
        raise NotFound

    assert called(wsgi.GateMiddleware(raising, gate_of(kit)), environ_of("/public"))[0] == "503 Service Unavailable"
    status, chunks = called(wsgi.GateMiddleware(generating, gate_of(kit)), environ_of("/public"))
    assert (status, len(chunks)) == ("404 Not Found", 1)
    status, _ = called(wsgi.GateMiddleware(generating, gate_of(kit)), environ_of("/public", QUERY_STRING="x"))
    assert status == "404 Not Found"  # the head of the application was not sent yet
    with pytest.raises(NotFound):
        called(wsgi.GateMiddleware(generating, gate_of(kit)), environ_of("/public", QUERY_STRING="chunk"))

    def mistaken(environ: Any, start_response: Any) -> list[bytes]:
        raise Misuse("mine")

    with pytest.raises(Misuse):
        called(wsgi.GateMiddleware(mistaken, gate_of(kit)), environ_of("/public"))


def test_wsgi_verdict_in_the_environment_and_hooks() -> None:
    kit = Kit()
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        async def hook(status: int) -> None:
            seen.append(status)

        environ["bartizan"].ends = [hook]
        start_response("202 Accepted", [])
        seen.append(environ["bartizan"].params)
        yield b"x"

    environ = environ_of("/orgs/o1/files/a", headers_of(kit.key(org="o1")), bartizan="already ran")
    called(wsgi.GateMiddleware(app, gate_of(kit)), environ)
    assert seen == [{"org": "o1", "path": "a"}, 202]


def test_wsgi_head_has_no_body_and_a_refusal_no_second_one() -> None:
    kit = Kit()
    middleware = wsgi.GateMiddleware(plain, gate_of(kit))
    assert called(middleware, environ_of("/secret", REQUEST_METHOD="HEAD")) == ("401 Unauthorized", [])
    assert called(middleware, environ_of("/public")) == ("200 OK", [b"hello"])


def test_wsgi_body_limit() -> None:
    kit = Kit()
    reads: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        way = environ["QUERY_STRING"]
        stream = environ["wsgi.input"]
        if way == "lines":
            data = b"".join(stream.readlines())
        elif way == "line":
            data = stream.readline() + stream.readline(3)
        elif way == "iter":
            data = b"".join(stream)
        elif way == "pieces":
            data = b"".join(iter(lambda: stream.read(4), b""))
        else:
            data = stream.read()
        reads.append(len(data))
        start_response("200 OK", [])
        return [data]

    middleware = wsgi.GateMiddleware(app, gate_of(kit))
    for way in ("", "lines", "line", "iter", "pieces"):
        fits, over = io.BytesIO(b"12345\n7890"), io.BytesIO(b"12345678901\n")
        status, _ = called(middleware, environ_of("/small", QUERY_STRING=way, input=fits))
        assert status == "200 OK", way
        status, _ = called(middleware, environ_of("/small", QUERY_STRING=way, input=over))
        assert status == "413 " + "Request Entity Too Large", way
    assert called(middleware, environ_of("/small", CONTENT_LENGTH="11"))[0].startswith("413")
    assert called(middleware, environ_of("/small", CONTENT_LENGTH="10"))[0].startswith("200")


def test_wsgi_under_the_validator() -> None:
    kit = Kit()
    key = kit.key(org="o")

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield current_principal().actor.encode()

    with wsgi_serving(wsgi.GateMiddleware(app, gate_of(kit))) as port:
        assert ask(port, "/secret", *headers_of(key).items()).body.decode() == f"sk_test_{key.record.id}"
        assert ask(port, "/secret").status == 401
        assert ask(port, "/secret", method="HEAD").status == 401
        assert ask(port, "/public").status == 401  # nobody, and the application asks who is calling


def test_wsgi_headers_as_the_request_sees_them() -> None:
    request = of_environ(environ_of("/", {"X-One": "1", "Cookie": "a=b"}, CONTENT_TYPE="t/t", CONTENT_LENGTH=""))
    assert sorted(request.headers) == [(b"content-type", b"t/t"), (b"cookie", b"a=b"), (b"x-one", b"1")]
    assert len(request.headers) == 3
    assert request.headers[0] in list(request.headers)
    assert request.header("X-ONE") == "1"
    assert request.header("none") is None
    assert repr(request) == "<Request GET>"
