"""The table of an application's routes: what it says is what the gate does, and what has no counterpart is named."""

import asyncio
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
from django.urls import Resolver404, get_resolver, include, path as django_path, re_path  # type: ignore[import-untyped]
from django.views import View  # type: ignore[import-untyped]
from fastapi import APIRouter, FastAPI
from flask import Flask
from frameworks import FRAMEWORKS, asked, django_site, same
from hypothesis import given, settings, strategies as st
from litestar import Litestar, WebSocket, asgi as litestar_asgi, get, post, websocket
from litestar.static_files import create_static_files_router
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route as StarletteRoute, WebSocketRoute
from starlette.staticfiles import StaticFiles
from werkzeug.routing import Rule as WerkzeugRule

from bartizan import Gate, Misuse, Rule, allow, asgi
from bartizan.cli.main import main
from bartizan.integrations import fastapi, flask, litestar, starlette
from bartizan.integrations.application import table_of
from bartizan.integrations.coverage import coverage, tell
from bartizan.integrations.routes import Route, of_django, routes_of
from bartizan.testing import Kit

TABLES = Path(__file__).parent / "tables"
PATHS = ["/", "/admin/x", "/admin/{id}", "/shop/{id}", "/forgotten/{id}"]
RULES = [
    Rule("/admin/**", allow.secret_key("admin") | allow.member("owner") & allow.consumer()),
    Rule("GET /admin/report", allow.secret_key("report", "admin"), unsafe_encoded_slash=True),
    Rule(["/shop/{id}", "/shop/gone/deep"], allow.optional(allow.publishable_key()), body_limit=10),
    Rule("GET /", allow.public()),
]


def kit() -> Kit:
    from outside import Provider

    from bartizan import Issuer

    provider = Provider()
    return Kit(
        issuers=[Issuer(provider.url, organizations={"o"}, audience="a", jwks=provider.document, roles={"a": "owner"})]
    )


def nothing(*_: Any, **__: Any) -> Any:
    return PlainTextResponse("")


def start(app: Any) -> None:
    """What a server does first: a lifespan, where there is one, or a request."""
    if isinstance(app, (Flask, WSGIHandler)):
        asked(app, "/")
        return

    async def run() -> None:
        sent = []
        incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> Any:
            return incoming.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "lifespan", "app": app, "state": {}, "asgi": {"version": "3.0"}}, receive, send)

    if type(app).__name__ == "ASGIHandler":
        asked(app, "/")  # Django knows no lifespan
    else:
        asyncio.run(run())


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_table_is_pinned(framework: str) -> None:
    k = kit()
    with FRAMEWORKS[framework](PATHS, k.security.gate(RULES), same) as app:
        k.assert_routes(app, TABLES / f"{framework}.txt")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_forgotten_route_and_a_rule_without_one_are_named_at_the_start(
    framework: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FRAMEWORKS[framework](PATHS, kit().security.gate(RULES), same) as app:
        with caplog.at_level(logging.WARNING, "bartizan.integrations"):
            start(app)
            asked(app, "/")
        told = [record.getMessage() for record in caplog.records if record.name == "bartizan.integrations"]
        assert len(told) == 2, "once"
        assert "forgotten/" in told[0]
        assert "admin" not in told[0]
        assert told[1].endswith(": /shop/gone/deep")


@pytest.mark.parametrize("name", ["shop", "shop_wsgi"])
def test_the_table_of_an_example_is_pinned(name: str) -> None:
    import shop
    import shop_wsgi

    k = Kit()
    app: Any = {"shop": shop.behind_a_gate, "shop_wsgi": shop_wsgi.behind_a_gate}[name](k.security)
    k.assert_routes(app, TABLES / f"{name}.txt")


def test_a_change_of_protection_fails_and_says_how_to_renew(tmp_path: Path) -> None:
    k, file = Kit(), tmp_path / "routes.txt"

    def app(*scopes: str) -> Starlette:
        made = Starlette(routes=[StarletteRoute("/orders", nothing), StarletteRoute("/health", nothing)])
        rules = [Rule("GET /orders", allow.secret_key(*scopes)), Rule("GET /health", allow.untouched())]
        starlette.install(made, k.security.gate(rules))
        return made

    with pytest.raises(AssertionError, match="commit it"):
        k.assert_routes(app("orders:read"), file)
    k.assert_routes(app("orders:read"), file)
    with pytest.raises(AssertionError, match=r"delete .*routes\.txt") as told:
        k.assert_routes(app(), str(file))
    assert "-GET /orders -> secret_key('orders:read') by GET /orders\n+GET /orders -> secret_key() by" in str(
        told.value
    )
    assert "health" not in [line[:1] + line for line in str(told.value).splitlines() if line[:1] in "+-"]


def listed(app: Any, rules: Sequence[Rule]) -> list[str]:
    return list(coverage(Kit().security.gate(rules), routes_of(app)).lines)


def test_what_is_mounted_and_included_is_listed() -> None:
    inner = FastAPI(openapi_url=None)
    inner.add_api_route("/items/{id}", nothing, methods=["PUT"])
    below, router = APIRouter(prefix="/below"), APIRouter(prefix="/router")
    below.add_api_route("/{rest:path}", nothing, methods=["GET"])
    below.add_api_websocket_route("/live", nothing)
    router.include_router(below)
    old = Flask("old", static_folder=None)
    old.add_url_rule("/<int:id>", "one", nothing)
    app = FastAPI(openapi_url=None)
    app.include_router(router, prefix="/v1")
    app.mount("/orgs/{org}/inner", inner)
    app.mount("/static", StaticFiles(directory=TABLES))
    app.mount("/orgs/{org}/old", type("WSGIMiddleware", (), {"app": old})())
    app.mount("/gated", asgi.GateMiddleware(Starlette(routes=[StarletteRoute("/x", nothing)]).router, gate_of("/x")))
    app.router.routes.append(Host("admin.example", Starlette(routes=[StarletteRoute("/h", nothing)])))
    app.router.routes.append(StarletteRoute("/class", type("Class", (HTTPEndpoint,), {})))
    late = APIRouter()
    app.include_router(late)
    late.add_api_route("/late", nothing, methods=["GET"])  # after it was included: FastAPI routes it
    assert listed(
        app, [Rule("GET /static/**", allow.untouched()), Rule("PUT /orgs/*/inner/**", allow.secret_key())]
    ) == [
        "* /class -> refused",
        "GET /gated/x -> refused",
        "GET /late -> refused",
        "PUT /orgs/{org}/inner/items/{id} -> secret_key() by PUT /orgs/*/inner/**",
        "GET /orgs/{org}/old/<int:id> -> refused",
        "GET /static/** -> untouched() by GET /static/**",
        "WEBSOCKET /v1/router/below/live -> refused",
        "GET /v1/router/below/{rest:path} -> refused",
        "GET [admin.example]/h -> refused",
    ]


def gate_of(*patterns: str) -> Gate:
    return Kit().security.gate([Rule(pattern, allow.secret_key()) for pattern in patterns])


def test_litestar_with_mounts_static_files_and_websockets(tmp_path: Path) -> None:
    @get("/orders/{id:int}", sync_to_thread=False)
    def order() -> None: ...

    @post(["/orders", "/more"], sync_to_thread=False)
    def more() -> None: ...

    @websocket("/live")
    async def live(socket: WebSocket[Any, Any, Any]) -> None: ...

    @litestar_asgi("/raw", is_mount=True, copy_scope=True)
    async def raw(scope: Any, receive: Any, send: Any) -> None: ...

    mounted = litestar_asgi("/sub", is_mount=True, copy_scope=True)(
        Starlette(routes=[StarletteRoute("/x/{y}", nothing), WebSocketRoute("/ws", nothing)])
    )
    files = create_static_files_router(path="/static", directories=[tmp_path])
    app = Litestar([order, more, live, raw, mounted, files], openapi_config=None, logging_config=None)
    assert listed(app, [Rule("/sub/**", allow.secret_key()), Rule("GET /static/**", allow.untouched())]) == [
        "WEBSOCKET /live -> refused",
        "POST /more -> refused",
        "POST /orders -> refused",
        "GET /orders/{id:int} -> refused",
        "* /raw/** -> refused",
        "GET /static/{file_path:path} -> untouched() by GET /static/**",
        "WEBSOCKET /sub/ws -> secret_key() by /sub/**",
        "GET /sub/x/{y} -> secret_key() by /sub/**",
    ]


def test_flask_with_converters_hosts_and_methods() -> None:
    app = Flask("x", static_folder=None)
    app.url_map.host_matching = False
    app.add_url_rule("/a/<int:x>/<path:p>", "a", nothing, methods=["GET", "POST"])
    app.add_url_rule("/b/<any(x,y):z>.json", "b", nothing)
    app.add_url_rule("/c", "c", nothing, methods=["OPTIONS"])
    app.add_url_rule("/d", "d", nothing, subdomain="api")
    app.add_url_rule("/ws", "ws", nothing, websocket=True)
    app.url_map.add(WerkzeugRule("/elsewhere", endpoint="elsewhere", build_only=True))  # a name, and no route
    app.url_map.add(WerkzeugRule("/moved/<x>", endpoint="moved", redirect_to="/a/<x>"))
    assert listed(app, [Rule("GET /a/*/**", allow.secret_key()), Rule("GET /b/*", allow.public())]) == [
        "GET /a/<int:x>/<path:p> -> secret_key() by GET /a/*/**",
        "POST /a/<int:x>/<path:p> -> refused",
        "GET /b/<any(x,y):z>.json -> public() by GET /b/*",
        "OPTIONS /c -> refused",
        "* /moved/<x> -> refused",
        "WEBSOCKET /ws -> refused",
        "GET [api]/d -> refused",
    ]


class OrderView(View):  # type: ignore[misc]
    def get(self, request: Any) -> None: ...

    def delete(self, request: Any) -> None: ...


URLS = [
    django_path("orders/<int:id>/", OrderView.as_view()),
    django_path("files/<path:rest>", nothing),
    django_path(
        "api/<slug:org>/", include([re_path(r"^reports/(?P<year>[0-9]{4})/$", nothing), django_path("", nothing)])
    ),
]


def test_django_with_includes_and_expressions() -> None:
    table = coverage(gate_of("/api/{tenant}/reports/*", "DELETE /orders/*", "GET /files/**"), of_django(URLS, "/", "/"))
    assert list(table.lines) == [
        "* /api/<slug:org>/ -> refused",
        "* /api/<slug:org>/^reports/(?P<year>[0-9]{4})/$ -> secret_key() by /api/{tenant}/reports/*",
        "GET /files/<path:rest> -> secret_key() by GET /files/**",
        "DELETE /orders/<int:id>/ -> secret_key() by DELETE /orders/*",
        "GET /orders/<int:id>/ -> refused",
    ]
    assert list(table.unnamed) == ["/api/<slug:org>/", "GET /orders/<int:id>/"]
    assert list(table.unmet) == []


def test_django_in_several_languages() -> None:
    """`translated_route`: whatever the path is in a language, a rule has to be able to name it."""
    from django.conf.urls.i18n import i18n_patterns  # type: ignore[import-untyped]
    from django.utils.translation import gettext_lazy  # type: ignore[import-untyped]

    urls = [
        *i18n_patterns(django_path("a", nothing)),
        *i18n_patterns(django_path("b", nothing), prefix_default_language=False),
        django_path(gettext_lazy("orders/"), nothing),
        django_path("under/", include([re_path(gettext_lazy("^x$"), nothing)])),
    ]
    assert [(one.shape, one.rest) for one in of_django(urls, "/", "/")] == [
        ((None, "a"), False),
        ((), True),
        ((), True),
        (("under",), True),
    ]


EXPRESSIONS = [
    r"^admin/x$", r"a/b/?$", r"x\$", r"^admin/(?P<y>[0-9]{4})/$", r"^a/(?P<s>[\w-]+)/\Z", r"admin/x$", r"^admin/x", r"^a/(b/)?c$", r"^a/.*$",
    r"^(?P<a>\d+)\.html$", r"^a/x?$", r"^x\$", r"^a/[^/]+$", r"^a/[ -~]+$", r"^a|b$", r"^$", r"(?i)^a$", r"^A$",
    r"^a/(?P<x>(b/)+)c$", r"^b\d*/c$", r"^a/(?P<f>[^/]+\.(?:json))$", r"^a/(x|b/c)$", r"^[ab]*/c$", r"^a/(?!b)[^/]*$",
    r"^a\Wc$", r"^a\/b$", r"^a(?:/b)?$", r"^a/\S+$", r"^a(?=/)/b$", r"^(a/){2}c$", r"^a/b*$", r"^a{0,2}/b$", r"^(?x: a ) / b$",
]  # fmt: skip
segment = st.sampled_from(
    ["a", "b", "c", "x", "aa", "admin", "A", "12", "2024", "x.json", "1.html", "bb", "b12", "", " "]
)


@settings(max_examples=1500)
@given(st.sampled_from(EXPRESSIONS), st.lists(segment, max_size=4))
def test_an_expression_is_spelled_as_wide_as_it_matches(expression: str, segments: list[str]) -> None:
    """What Django would run on a path is a route of the table that this path is on: never narrower."""
    path = "/" + "/".join(segments)
    urlconf = (re_path(expression, nothing),)
    try:
        get_resolver(urlconf).resolve(path)
    except Resolver404:
        return
    one = next(iter(of_django(urlconf, "/", "/")))
    on = path.removeprefix("/").removesuffix("/").split("/") if path.strip("/") else []
    if "" in on or on == [""]:
        return  # the gate refuses it
    assert len(on) == len(one.shape) or (one.rest and len(on) > len(one.shape)), (one, path)
    assert all(want in {None, got} for want, got in zip(one.shape, on, strict=False)), (one, path)


piece = st.sampled_from(["a", "b", "*"])
shape = st.tuples(st.lists(piece, max_size=3), st.booleans())
METHOD = st.sampled_from(["", "GET ", "POST ", "GET|POST "])


def text_of(parts: list[str], rest: bool) -> str:
    return "/" + "/".join([*parts, *(["**"] if rest else [])])


@settings(max_examples=600)
@given(
    st.dictionaries(shape.map(lambda s: text_of(*s)), METHOD, min_size=1, max_size=6),
    shape,
    st.sampled_from([None, {"GET"}, {"GET", "POST"}, {"POST"}]),
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=5),
    st.sampled_from(["GET", "POST", "DELETE"]),
)
def test_the_table_names_every_rule_that_decides_on_a_route(
    patterns: dict[str, str], routed: tuple[list[str], bool], methods: set[str] | None, path: list[str], method: str
) -> None:
    parts, rest = routed
    gate = Kit().security.gate([Rule(asks + text, allow.secret_key()) for text, asks in patterns.items()])
    one = Route(
        "R", None if methods is None else frozenset(methods), tuple(None if p == "*" else p for p in parts), rest
    )
    fits = all(want in {"*", got} for want, got in zip(parts, path, strict=False))
    if not fits or (len(path) != len(parts) and not (rest and len(path) > len(parts))):
        return
    if methods is not None and method not in methods:
        return
    table = coverage(gate, [one])
    decided = gate.rule_for(method, "/" + "/".join(path))
    label = [line for line in table.lines if method in line.partition(" ")[0] or line.startswith("*")]
    if decided is None:
        return  # a route may be refused in part, which its line need not say
    (name,) = decided.patterns
    assert any(line.removesuffix(", in part").endswith(f" by {name}") for line in label), (table.lines, path, name)
    assert name not in table.unmet
    assert not one.rest or not any(method in name.partition(" ")[0] for name in table.unnamed)


def test_a_rule_is_unmet_where_no_route_takes_its_method() -> None:
    app = Starlette(routes=[StarletteRoute("/orders", nothing, methods=["GET"])])
    table = coverage(gate_of("POST /orders", "HEAD /orders", "/orders/**"), routes_of(app))
    assert list(table.unmet) == ["POST /orders"]


def test_a_route_added_after_the_start_is_in_the_next_table() -> None:
    app = Starlette()
    starlette.install(app, gate_of("/late"))
    start(app)
    app.add_route("/late", nothing)
    app.add_route("/later", nothing)
    assert list(table_of(app).lines) == ["GET /late -> secret_key() by /late", "GET /later -> refused"]
    assert asked(app, "/late").status == 401
    assert asked(app, "/later").status == 404


def test_an_application_that_cannot_be_listed_serves_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Any:
        raise RuntimeError("no routes today")

    tell(gate_of("/x"), broken)
    assert "could not be listed" in caplog.text


def test_an_application_without_a_gate_has_no_table() -> None:
    for app in (Starlette(), Flask("x"), Litestar([], openapi_config=None, logging_config=None), nothing):
        with pytest.raises(Misuse, match="no gate"):
            table_of(app)


def test_every_way_to_put_a_gate_is_found() -> None:
    gate = gate_of("/x")
    apps: list[Any] = [
        Starlette(),
        FastAPI(openapi_url=None),
        Flask("x", static_folder=None),
        Litestar([], openapi_config=None, logging_config=None),
    ]
    for app, module in zip(apps, (starlette, fastapi, flask, litestar), strict=True):
        module.install(app, gate)
    apps.append(asgi.GateMiddleware(Mount("/m", routes=[]), gate))
    for app in apps:
        assert "no route -> secret_key() by /x" in table_of(app).lines, app
        assert table_of(type("Wrapped", (), {"app": app})()).lines == table_of(app).lines


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = """
from flask import Flask
from bartizan import Rule, allow
from bartizan.integrations.flask import install
from bartizan.testing import Kit

app, bare = Flask("x", static_folder=None), Flask("y")
app.add_url_rule("/orders", "orders", lambda: "")
app.add_url_rule("/forgotten", "forgotten", lambda: "")
install(app, Kit().security.gate([Rule("GET /orders", allow.secret_key()), Rule("/gone", allow.public())]))
"""
    (tmp_path / "routed_site.py").write_text(source, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["routes", "--app", "routed_site:app"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "GET /forgotten -> refused",
        "GET /orders -> secret_key() by GET /orders",
        "no route -> public() by /gone",
    ]
    assert told.err.splitlines() == ["no rule names GET /forgotten", "no route meets the rule of /gone"]
    assert main(["routes", "--app", "routed_site:app", "--check"]) == 1
    assert main(["routes", "--app", "routed_site:bare"]) == 2
    sys.modules.pop("routed_site")


def test_the_command_for_django(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with django_site(URLS, gate_of("/**")):
        monkeypatch.setitem(sys.modules, "django_wsgi_site", type(sys)("django_wsgi_site"))
        sys.modules["django_wsgi_site"].application = WSGIHandler()  # type: ignore[attr-defined]
        assert main(["routes", "--app", "django_wsgi_site:application", "--check"]) == 0
    assert re.search(r"^GET\|?\S* /orders/<int:id>/|^DELETE\|GET /orders", capsys.readouterr().out, re.MULTILINE)


def test_a_sub_application_is_guarded_by_the_rules_of_the_outer_one() -> None:
    """`mount_with_parameters`: what is mounted is routed on what the gate has decided over."""
    inner = FastAPI(openapi_url=None)
    inner.add_api_route("/items/{id}", lambda: PlainTextResponse(""))
    app = FastAPI(openapi_url=None)
    app.mount("/orgs/{org}/inner", inner)
    k = Kit()
    rules = [Rule("/orgs/{org}/inner/**", allow.secret_key()), Rule("/**", allow.publishable_key())]
    fastapi.install(app, k.security.gate(rules))
    secret, page = k.as_key(org="o"), k.as_key(org="o", kind="publishable")
    assert asked(app, "/orgs/o/inner/items/1", secret).status == 200
    assert asked(app, "/orgs/other/inner/items/1", secret).status == 404
    for target in ("/orgs/o/inner/items/1", "/orgs/%6f/inner/items/1", "/orgs/o/%69nner/items/1"):
        assert asked(app, target, page).status == 403, target
    for target in ("/orgs/o%2Finner/items/1", "/orgs/a/../o/inner/items/1", "/orgs//o/inner/items/1"):
        assert asked(app, target, page).status == 404, target


def test_pages_of_a_front_end_are_listed(tmp_path: Path) -> None:
    """FastAPI keeps them beside its routes."""
    (tmp_path / "index.html").write_text("x", "utf-8")
    app, router = FastAPI(openapi_url=None), APIRouter()
    app.frontend("/shop", directory=tmp_path)
    router.frontend("/more", directory=tmp_path)
    app.include_router(router, prefix="/v1")
    assert listed(app, [Rule("/shop/**", allow.untouched())]) == [
        "* /shop/** -> untouched() by /shop/**",
        "* /v1/more/** -> refused",
    ]
