"""What got past an earlier version, request by request."""

import asyncio
import io
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask, request as flask_request
from servers import ask, exchange, serving, wsgi_serving
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route

from bartizan import Misuse, Rule, allow, asgi, current_principal, wsgi
from bartizan.core.cache import Cache
from bartizan.core.drive import run
from bartizan.core.principal import current_unit
from bartizan.core.request import of_scope
from bartizan.core.tables import ANYTHING, Update
from bartizan.credentials.key_rows import KEYS
from bartizan.errors import InvalidKey, InvalidRequest, NotFound, Reason
from bartizan.integrations import flask, starlette
from bartizan.stores import streams, watches
from bartizan.stores.memory import MemoryBackend
from bartizan.testing import FakeClock, Kit
from bartizan.testing.kit import headers_of


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def test_lower_case_method_is_not_the_rule_without_methods() -> None:
    """Flask reads `post` as POST, and runs what only the rule for POST guards."""
    kit = Kit()
    app = Flask(__name__)

    @app.route("/items", methods=["GET", "POST"])
    def items() -> str:
        return "written" if flask_request.method == "POST" else "read"

    rules = [Rule("POST /items", allow.secret_key("items:write")), Rule("/items", allow.public())]
    flask.install(app, kit.security.gate(rules))
    with wsgi_serving(app) as flask_port, serving(asgi.GateMiddleware(hello, kit.security.gate(rules)), "h11") as port:
        for method in ("post", "Post", "pOST", "get"):
            for each in (flask_port, port):
                answer = ask(each, "/items", method=method)
                assert answer.status in {400, 405, 501}, (method, answer)
                assert answer.body != b"written"
        assert ask(flask_port, "/items").body == b"read"


def test_http_method_websocket_is_no_handshake() -> None:
    kit = Kit()
    gate = kit.security.gate([Rule("WEBSOCKET /raw", allow.public()), Rule("/raw", allow.secret_key())])
    with serving(asgi.GateMiddleware(hello, gate), "h11") as port:
        assert ask(port, "/raw", method="WEBSOCKET").status in {400, 405}
        assert ask(port, "/raw").status == 401
    assert gate.rule_for("WEBSOCKET", "/raw") is not gate.rule_for("GET", "/raw")


def test_origin_of_many_labels_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit()
    key = kit.key(org="o", kind="publishable", origins=["https://*.shop.example"])
    monkeypatch.setattr("bartizan.credentials.key_format._ORIGIN", None)  # whoever looks closer fails
    gate = kit.security.gate([Rule("/page", allow.publishable_key())])
    with serving(asgi.GateMiddleware(hello, gate)) as port:
        answer = ask(port, "/page", *headers_of(key).items(), ("Origin", "https://" + "a." * 20_000 + "example"))
    assert (answer.status, kit.events[-1].reason) == (403, "origin_not_allowed")


@pytest.mark.parametrize(
    "length", ["000000000000000000000000000000005000", "+5000", "5_000", " 5000 x", "5000,5000", "0x10"]
)
def test_content_length_that_two_readers_read_differently(length: str) -> None:
    kit = Kit()
    seen: list[int] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(len(environ["wsgi.input"].read()))
        start_response("200 OK", [])
        return [b""]

    middleware = wsgi.GateMiddleware(app, kit.security.gate([Rule("POST /up", allow.public(), body_limit=1000)]))
    statuses: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/up", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(b"x" * 5000), "CONTENT_LENGTH": length,
    }  # fmt: skip
    list(middleware(environ, lambda status, *_: statuses.append(status)))
    assert statuses[-1][:3] in {"400", "413"}
    assert seen == []


def test_a_body_beyond_its_declared_length_is_counted() -> None:
    """A server may hand over a chunked body beside a small Content-Length."""
    kit = Kit()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        data = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [data]

    middleware = wsgi.GateMiddleware(app, kit.security.gate([Rule("POST /up", allow.public(), body_limit=1000)]))
    statuses: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/up", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(b"x" * 5000), "CONTENT_LENGTH": "5",
    }  # fmt: skip
    list(middleware(environ, lambda status, *_: statuses.append(status)))
    assert statuses[-1].startswith("413")


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Kit:
    monkeypatch.setattr(streams, "AGE", 0.0)
    monkeypatch.setattr(watches, "AGE", 0.0)
    return Kit(staleness=0)


def test_wsgi_chunk_made_after_revocation_is_not_delivered(kit: Kit) -> None:
    issued = kit.key(org="o")

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"before;"
        kit.security.blocking.keys.revoke(issued.record.id, org="o")  # while the application waits for something
        yield b"SECRET"

    gate = kit.security.gate([Rule("/x", allow.secret_key())])
    gate.blocking._service.every = 0
    with wsgi_serving(wsgi.GateMiddleware(app, gate)) as port:
        lines = "".join(f"{n}: {v}\r\n" for n, v in headers_of(issued).items())
        received = exchange(port, f"GET /x HTTP/1.0\r\n{lines}\r\n".encode())
    assert b"before;" in received
    assert b"SECRET" not in received
    assert [e.name for e in kit.events][-2:] == ["key.revoked", "stream.ended"]


def test_wsgi_first_chunk_made_after_revocation_is_a_refusal(kit: Kit) -> None:
    issued = kit.key(org="o")

    def app(environ: Any, start_response: Any) -> list[bytes]:
        kit.security.blocking.keys.revoke(issued.record.id, org="o")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"SECRET"]

    gate = kit.security.gate([Rule("/x", allow.secret_key())])
    gate.blocking._service.every = 0
    with wsgi_serving(wsgi.GateMiddleware(app, gate)) as port:
        answer = ask(port, "/x", *headers_of(issued).items())
    assert answer.status == 401
    assert b"SECRET" not in answer.body


def test_wsgi_write_after_revocation_writes_nothing(kit: Kit) -> None:
    issued = kit.key(org="o")

    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"before;")
        kit.security.blocking.keys.revoke(issued.record.id, org="o")
        write(b"SECRET")
        return []

    gate = kit.security.gate([Rule("/x", allow.secret_key())])
    gate.blocking._service.every = 0
    with wsgi_serving(wsgi.GateMiddleware(app, gate)) as port:
        lines = "".join(f"{n}: {v}\r\n" for n, v in headers_of(issued).items())
        received = exchange(port, f"GET /x HTTP/1.0\r\n{lines}\r\n".encode())
    assert b"before;" in received
    assert b"SECRET" not in received


def test_asgi_answer_made_after_revocation_is_not_delivered(kit: Kit) -> None:
    """A long poll, and a stream whose first event comes late."""
    issued = kit.key(org="o")
    lived = kit.key(org="o")

    async def poll(scope: Any, receive: Any, send: Any) -> None:
        if scope["query_string"] == b"started":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await kit.security.keys.revoke(issued.record.id, org=current_principal().org or "")
        if scope["query_string"] != b"started":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"SECRET"})

    gate = kit.security.gate([Rule("/x", allow.secret_key())])
    with serving(asgi.GateMiddleware(poll, gate)) as port:
        answer = ask(port, "/x", *headers_of(issued).items())
        assert (answer.status, answer.headers["content-type"]) == (401, "application/problem+json")
        assert ask(port, "/x", *headers_of(lived).items()).body.endswith(b"SECRET\r\n0\r\n\r\n")
        again = kit.key(org="o")
        issued = again
        lines = "".join(f"{n}: {v}\r\n" for n, v in headers_of(again).items())
        received = exchange(port, f"GET /x?started HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode())
        assert b"200 OK" in received
        assert b"SECRET" not in received


def test_asgi_late_first_event_of_a_stream(kit: Kit) -> None:
    issued = kit.key(org="o")

    async def events(_: Any) -> StreamingResponse:
        async def late() -> Any:
            await kit.security.keys.revoke(issued.record.id, org="o")
            yield b"SECRET"
            yield b"SECRET"

        return StreamingResponse(late())

    app = Starlette(routes=[Route("/x", events)])
    starlette.install(app, kit.security.gate([Rule("/x", allow.secret_key())]))
    with serving(app) as port:
        lines = "".join(f"{n}: {v}\r\n" for n, v in headers_of(issued).items())
        received = exchange(port, f"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode())
    assert b"SECRET" not in received


def test_an_upload_beside_its_response_ends_with_the_verdict(kit: Kit) -> None:
    issued = kit.key(org="o")
    heard: list[str] = []

    async def duplex(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await kit.security.keys.revoke(issued.record.id, org="o")
        while True:
            message = await receive()
            heard.append(message["type"])
            if message["type"] == "http.disconnect":
                return
            await asyncio.sleep(0)

    gate = kit.security.gate([Rule("/x", allow.secret_key())])
    gate.every = 0.01

    async def scene() -> None:
        async def receive() -> Any:
            await asyncio.sleep(0.001)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(_: Any) -> None: ...

        headers = [(n.lower().encode(), v.encode()) for n, v in headers_of(issued).items()]
        scope = {"type": "http", "method": "POST", "path": "/x", "headers": headers}
        await asyncio.wait_for(asgi.GateMiddleware(duplex, gate)(scope, receive, send), 20)

    asyncio.run(scene())
    assert heard[-1] == "http.disconnect"


def test_floods_of_pairs_and_cookies_are_refused() -> None:
    kit = Kit()
    gate = kit.security.gate([Rule("/x", allow.secret_key()), Rule("/p", allow.public())])
    with serving(asgi.GateMiddleware(hello, gate), "h11") as port:
        assert ask(port, "/x?" + "a&" * 1001).status == 400
        assert ask(port, "/x?" + "a_=1&" * 1001).status == 400
        assert ask(port, "/x?" + "&" * 20_000).status == 401  # nothing in it, and nobody there
        assert ask(port, "/p", *[("Cookie", "")] * 50).status == 200
    request = of_scope({"path": "/p", "headers": [(b"cookie", b"")] * 300_000}, "GET")
    assert type(run(gate.check(request))).__name__ == "Refuse"


def test_a_job_is_entered_once() -> None:
    kit = Kit()
    nightly = kit.security.job("nightly", org="o")
    with nightly:
        with pytest.raises(Misuse, match="once"), nightly:
            pass
        assert current_principal().actor == "job:nightly"
    assert not current_unit.get().callers
    with pytest.raises(Misuse, match="once"), nightly:
        pass


def test_a_carried_context_is_not_entered_after_its_end() -> None:
    kit = Kit()
    with kit.security.job("first", org="o"):
        carried = kit.security.carry(name="second", seconds=60)
    resumed = kit.security.resume(carried, name="second")
    kit.clock.advance(60)
    with pytest.raises(Exception, match="credentials"), resumed:
        pass


def test_root_path_behind_the_gate_is_found_though_it_is_wrapped_or_mounted() -> None:
    kit = Kit()
    gate = kit.security.gate([Rule("/admin/**", allow.secret_key()), Rule("/**", allow.unsafe_public_rest())])
    inner = FastAPI()
    inner.root_path = "/api"
    with pytest.raises(Misuse, match="install"):
        asgi.GateMiddleware(GZipMiddleware(inner), gate)
    outer = Starlette(routes=[Mount("/v1", app=inner)])
    with pytest.raises(Misuse, match="root_path"):
        starlette.check_routes(outer)


@pytest.mark.parametrize("beside", ["/*/*/orders2", "/{a}/{b}/x", "/orgs/**", "/orgs/{rest:path}", "/{a}/{b}/{c}/d"])
def test_nothing_beside_leaves_the_organization_open(beside: str) -> None:
    kit = Kit()
    with pytest.raises(Misuse, match="org"):
        kit.security.gate([Rule("/orgs/{org}/orders", allow.secret_key()), Rule(beside, allow.secret_key())])


def test_hostile_ids_are_not_found() -> None:
    kit = Kit()
    keys = kit.security.blocking.keys
    for text in ("\0", "\ud800", "", "x" * 17, "é" * 16, "../../../../../.."):
        for call in (keys.get, keys.rotate, keys.revoke, keys.disable, keys.enable):
            with pytest.raises(NotFound):
                call(text, org="o")
        if text:
            with pytest.raises(InvalidRequest):
                keys.list(org="o", after=text)


def test_a_row_whose_root_was_edited_takes_no_other_with_it() -> None:
    kit = Kit()
    keys = kit.security.blocking.keys
    broken, whole = kit.key(org="o"), kit.key(org="o")
    backend = kit.security._shared.blocking_side.backend
    assert backend is not None
    run(backend.change(Update(KEYS, broken.record.id, where=ANYTHING, set=(("pepper", "zzzzzzzz"),))))
    assert [record.id for record in keys.list(org="o")] == [whole.record.id]
    assert kit.events[-1].name == "key.row_edited"
    assert keys.revoke(broken.record.id, org="o").status == "revoked"


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_flight_that_began_before_is_not_joined_past_the_bound(staleness: int) -> None:
    clock = FakeClock()
    backend = MemoryBackend(clock)
    here = Kit(url=backend, clock=clock, staleness=staleness)
    issued = here.key(org="o")
    original, loaded, go_on = backend.get, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        row = await original(*args)
        if not loaded.is_set():
            loaded.set()
            await go_on.wait()
        return row

    async def scene() -> None:
        keys = here.security.keys
        backend.get = slow  # type: ignore[method-assign]
        first = asyncio.create_task(keys.authenticate(issued.key))
        await loaded.wait()
        step = Update(KEYS, issued.record.id, where=ANYTHING, set=(("disabled_at", 1),))  # what another process does
        assert await backend.change(step) is not None
        clock.advance(staleness + 1)
        second = asyncio.create_task(keys.authenticate(issued.key))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        go_on.set()
        await first
        with pytest.raises(InvalidKey):
            await second

    asyncio.run(scene())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are of POSIX systems")
def test_a_fork_does_not_inherit_a_held_cache() -> None:
    cache: Cache[int] = Cache(clock=FakeClock())
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with cache._lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        cache.put("a", 1, cache.begin())
        os._exit(0 if cache.get("a") == 1 else 1)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_refusals_name_the_key_that_verified() -> None:
    kit = Kit()
    revoked = kit.key(org="o")
    kit.security.blocking.keys.revoke(revoked.record.id, org="o")
    gate = kit.security.gate([Rule("/x", allow.secret_key())])
    with serving(asgi.GateMiddleware(hello, gate)) as port:
        ask(port, "/x", *headers_of(revoked).items())
        event = kit.events[-1]
        assert (event.reason, event.data) == (
            Reason.KEY_REVOKED.value,
            f'{{"credential":"sk_test_{revoked.record.id}"}}',
        )
        ask(port, "/x", *headers_of(Kit().key(org="o")).items())
        assert (kit.events[-1].reason, kit.events[-1].data) == ("unknown_key", "{}")
