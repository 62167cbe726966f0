import asyncio
import logging
from typing import Any

import pytest
from deferred import trapped
from fastapi import APIRouter, FastAPI
from flask import Flask
from hypothesis import given, settings, strategies as st
from servers import ask, serving, wsgi_serving
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute

from bartizan import Misuse, Rule, allow, asgi, current_principal
from bartizan.errors import CrossOrigin, MissingScope, Unavailable
from bartizan.gate.targets import PLAIN, judged
from bartizan.integrations import fastapi, flask, starlette
from bartizan.integrations.fastapi import Caller, SecretKey
from bartizan.testing import Kit
from bartizan.testing.kit import headers_of

RULES = [Rule("/admin/**", allow.secret_key()), Rule("/**", allow.publishable_key())]


async def whoami(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.user.display_name + " " + ",".join(request.auth.scopes))


class Rewriter:
    """A middleware that changes the path."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "").replace("/v1", "", 1)
        await self.app({**scope, "path": path, "raw_path": path.encode()}, receive, send)


def test_starlette_knows_the_caller() -> None:
    kit = Kit()

    @requires(["authenticated", "a:b"])
    async def needy(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.user.is_authenticated) + request.user.identity)

    app = Starlette(routes=[Route("/who", whoami), Route("/needy", needy)])
    rules = [Rule("/who", allow.optional(allow.secret_key())), Rule("/needy", allow.secret_key())]
    starlette.install(app, kit.security.gate(rules))
    rich, poor = kit.key(org="o", scopes={"a:b"}), kit.key(org="o")
    with serving(app) as port:
        assert ask(port, "/who").body == b" "
        assert (
            ask(port, "/who", *headers_of(rich).items()).body.decode() == f"sk_test_{rich.record.id} authenticated,a:b"
        )
        assert ask(port, "/needy", *headers_of(rich).items()).body.decode() == f"Truesk_test_{rich.record.id}"
        assert ask(port, "/needy", *headers_of(poor).items()).status == 403


def test_fastapi_takes_the_caller_as_a_parameter() -> None:
    kit = Kit()
    app = FastAPI(openapi_url=None)
    router = APIRouter(prefix="/admin")

    @router.get("/who")
    async def who(caller: SecretKey) -> str:
        return caller.key_id

    @app.get("/any")
    async def anyone(caller: Caller) -> str:
        return caller.kind

    @app.get("/wrong")
    async def wrong(caller: SecretKey) -> str:
        return caller.key_id

    @app.get("/raise/{what}")
    async def raising(what: str) -> None:
        raise {"scope": MissingScope, "store": Unavailable, "origin": CrossOrigin}[what]

    app.include_router(router)
    fastapi.install(app, kit.security.gate(RULES))
    secret, page = kit.key(org="o"), kit.key(org="o", kind="publishable")
    with serving(app) as port:
        assert ask(port, "/admin/who", *headers_of(secret).items()).body.decode() == f'"{secret.record.id}"'
        assert ask(port, "/any", *headers_of(page).items()).body == b'"publishable"'
        assert ask(port, "/wrong", *headers_of(page).items()).status == 403  # an error of ours, as an answer
        for what, status in (("scope", 403), ("store", 503), ("origin", 403)):
            answer = ask(port, f"/raise/{what}", *headers_of(page).items())
            assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
            assert kit.events[-1].name == "request.refused"
        assert ask(port, "/admin/who?caller=sk_live_x", *headers_of(page).items()).status == 400


@pytest.mark.parametrize("nested", [False, True])
def test_a_dependency_that_would_never_run_is_misuse_at_start(nested: bool, caplog: pytest.LogCaptureFixture) -> None:
    kit = Kit()
    app = trapped(nested=nested)
    fastapi.install(app, kit.security.gate(RULES))

    async def start() -> None:
        async def nothing(*_: Any) -> Any:
            return {"type": "lifespan.startup"}

        await app({"type": "lifespan", "app": app, "state": {}}, nothing, nothing)

    with caplog.at_level(logging.ERROR, "bartizan"):
        for _ in range(2):  # a server that passes over it meets it again
            with pytest.raises(Misuse, match="never run"):
                asyncio.run(start())
    assert "never run" in caplog.text


def test_a_dependency_that_would_never_run_is_found_in_what_is_mounted() -> None:
    app = Starlette(routes=[Mount("/sub", app=trapped())])
    starlette.install(app, Kit().security.gate(RULES))
    included, outer = FastAPI(), FastAPI()
    included.include_router(trapped().router, prefix="/sub")
    outer.include_router(included.router)
    for found in (app, included, outer):
        with pytest.raises(Misuse):
            starlette.check_routes(found)
    starlette.check_routes(Starlette(routes=[Route("/", whoami), WebSocketRoute("/w", whoami)]))


def test_install_is_misuse_after_the_start_and_twice() -> None:
    kit = Kit()
    gate = kit.security.gate(RULES)
    started = Starlette()
    started.middleware_stack = started.build_middleware_stack()
    twice = FastAPI()
    fastapi.install(twice, gate)
    for app in (started, twice):
        with pytest.raises(Misuse):
            starlette.install(app, gate)
    flask_started, wrapped = Flask("a"), Flask("b")
    flask_started.test_client().get("/")
    wrapped.wsgi_app = lambda *_: []  # type: ignore[method-assign]
    for other in (flask_started, wrapped):
        with pytest.raises(Misuse):
            flask.install(other, gate)
    for app in (Starlette(), FastAPI()):
        with pytest.raises(Misuse, match="install"):
            asgi.GateMiddleware(app, gate)


def test_rewriter_added_before_install(caplog: pytest.LogCaptureFixture) -> None:
    kit = Kit()
    page = headers_of(kit.key(org="o", kind="publishable"))

    async def admin(_: Request) -> PlainTextResponse:
        return PlainTextResponse("guarded")

    for after in (False, True):
        app = Starlette(routes=[Route("/admin/x", admin)], middleware=[] if after else [Middleware(Rewriter)])
        starlette.install(app, kit.security.gate(RULES))
        app.add_middleware(GZipMiddleware)
        if after:
            app.add_middleware(Rewriter)
        with caplog.at_level(logging.INFO, "bartizan"), serving(app) as port:
            for path in ("/v1/admin/x", "/admin/x", "/admin/v1/x"):
                assert ask(port, path, *page.items()).status == 403, path
        assert "Rewriter" in caplog.text
        assert "GZipMiddleware" in caplog.text


def test_something_appended_behind_the_gate_is_misuse() -> None:
    kit = Kit()
    app = Starlette()
    starlette.install(app, kit.security.gate(RULES))
    app.user_middleware.append(Middleware(Rewriter))
    with serving(app) as port:
        assert ask(port, "/admin/x", *headers_of(kit.key(org="o")).items()).status == 500


def test_root_path_set_inside() -> None:
    kit = Kit()
    page, secret = headers_of(kit.key(org="o", kind="publishable")), headers_of(kit.key(org="o"))
    app = FastAPI(openapi_url=None)
    app.root_path = "/api"  # as its argument of that name does

    @app.get("/admin/x")
    async def admin() -> str:
        return "guarded"

    fastapi.install(app, kit.security.gate(RULES))
    with serving(app) as port:
        for path in ("/admin/x", "/api/admin/x", "/%61pi/admin/x", "/api/%61dmin/x"):
            assert ask(port, path, *page.items()).status == 403, path
            assert ask(port, path, *secret.items()).status == 200, path
        assert ask(port, "/api//admin/x", *page.items()).status == 404


def test_what_wraps_flask_later_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """What is mounted beside it there is not behind the gate."""
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = Flask("x")
    flask.install(app, Kit().security.gate(RULES))
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {})  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO, "bartizan.integrations"):
        for _ in range(2):
            app.test_client().get("/")
    assert caplog.text.count("DispatcherMiddleware") == 1


def test_flask_answers_errors_of_ours() -> None:
    kit = Kit()
    app = Flask(__name__)

    @app.get("/who")
    def who() -> str:
        return current_principal().actor

    @app.get("/scope")
    def scope() -> str:
        raise MissingScope

    @app.get("/store")
    def store() -> str:
        raise Unavailable

    @app.get("/bug")
    def bug() -> str:
        raise ValueError("mine")

    flask.install(app, kit.security.gate(RULES))
    page = kit.key(org="o", kind="publishable")
    with wsgi_serving(app) as port:
        assert ask(port, "/who", *headers_of(page).items()).body.decode() == f"pk_test_{page.record.id}"
        assert ask(port, "/who").status == 401
        before = len(kit.events)
        for path, status in (("/scope", 403), ("/store", 503)):
            answer = ask(port, path, *headers_of(page).items())
            assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
        assert ask(port, "/bug", *headers_of(page).items()).status == 500
        assert [e.name for e in kit.events[before:]] == ["request.refused"] * 2


# --- what a rule guards is what the router routes there ---

piece = st.sampled_from(["a", "b", "{x}"])
route = st.builds(lambda parts: "/" + "/".join(parts), st.lists(piece, max_size=3))
target = st.builds(
    lambda parts, slash: "/" + "/".join(parts) + slash,
    st.lists(
        st.sampled_from(["a", "b", "c", "%61", "%62", "A", ".", "..", "", "a%2Fb", "%2e", "é", "%C3%A9", "a b", "*"]),
        max_size=4,
    ),
    st.sampled_from(["", "/"]),
)


def distinct(routes: list[str]) -> list[str]:
    return list({r.replace("{x}", "*"): r for r in routes}.values())


def renamed(path: str) -> str:
    """Names of their own for each place."""
    return "/".join(f"{{x{n}}}" if part == "{x}" else part for n, part in enumerate(path.split("/")))


def reached_starlette(app: Any, path: str, raw: bytes) -> str | None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": raw,
        "root_path": "",
        "headers": [],
        "query_string": b"",
    }
    for item in app.router.routes:
        match, _ = item.matches(scope)
        if match.value == 2:
            return str(item.path)
    return None


def reached_flask(app: Flask, path: str) -> str | None:
    adapter = app.url_map.bind("x")
    try:
        rule, _ = adapter.match(path, method="GET", return_rule=True)
    except Exception:
        return None
    return rule.rule.replace("<", "{").replace(">", "}")


@settings(max_examples=400)
@given(st.lists(route, min_size=1, max_size=6).map(distinct), st.lists(target, min_size=1, max_size=12), st.data())
def test_verdict_equals_router(routes: list[str], targets: list[str], data: Any) -> None:
    """For any routes, with one rule for each, what the router would run is what its own rule decides on."""
    from urllib.parse import unquote

    named = [renamed(path) for path in routes]
    ordered = sorted(named, key=lambda p: [part.startswith("{") for part in p.split("/")])  # a router takes the first
    rules = {path: Rule(path, allow.public()) for path in named}
    gate = Kit().security.gate([*rules.values(), Rule("/**", allow.secret_key())])
    endpoint: Any = whoami
    star = Starlette(routes=[Route(path, endpoint) for path in ordered])
    fast = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    flas = Flask("x")
    for path in ordered:
        fast.add_api_route(path, lambda: "x", methods=["GET"])
        flas.add_url_rule(path.replace("{", "<").replace("}", ">"), path, lambda **_: "x")
    for text in targets:
        raw = text.encode()
        path = unquote(text)
        if judged(path, raw, "") != PLAIN:
            continue
        decided = gate.rule_for("GET", path)
        for reached in (
            reached_starlette(star, path, raw),
            reached_starlette(fast, path, raw),
            reached_flask(flas, path),
        ):
            if reached is not None:
                assert decided is rules[reached], (path, reached)
