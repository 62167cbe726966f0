"""Whatever two routers could read differently is refused: real applications, real servers, the bytes as written."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import pytest
from fastapi import FastAPI
from flask import Flask
from hypothesis import given, settings, strategies as st
from servers import ask, serving, wsgi_serving
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from bartizan import Rule, allow, asgi, wsgi
from bartizan.gate.targets import _BAD, ENCODED_SLASH, MALFORMED, PLAIN, judged
from bartizan.integrations import fastapi, flask, starlette
from bartizan.testing.kit import Kit, headers_of

RULES = [
    Rule("/admin/**", allow.secret_key()),
    Rule("/auth/*", allow.secret_key()),
    Rule(["GET /only/get"], allow.publishable_key()),
    Rule(["/literal/a%", "/x"][1:], allow.publishable_key()),
    Rule("/**", allow.publishable_key()),
]

GUARDED = ["/admin", "/admin/keys", "/admin/{x}", "/admin/{x}/deep"]
OPEN = ["/", "/open/{x}", "/auth/{a}/{b}", "/only/{x}", "/{x}"]


def starlette_app(install: Callable[[Any], None]) -> Any:
    async def guarded(_: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("guarded")

    async def opened(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("open")

    every = ["GET", "POST", "DELETE", "PUT"]
    app = Starlette(
        routes=[Route(p, guarded, methods=every) for p in GUARDED] + [Route(p, opened, methods=every) for p in OPEN]
    )
    install(app)
    return app


def fastapi_app(install: Callable[[Any], None]) -> Any:
    app = FastAPI(openapi_url=None)
    every = ["GET", "POST", "DELETE", "PUT", "HEAD"]

    def guarded() -> str:
        return "guarded"

    def opened() -> str:
        return "open"

    for path in GUARDED:
        app.add_api_route(path, guarded, methods=every, response_class=PlainTextResponse)
    for path in OPEN:
        app.add_api_route(path, opened, methods=every, response_class=PlainTextResponse)
    install(app)
    return app


def flask_app(install: Callable[[Any], None]) -> Any:
    app = Flask(__name__)
    every = ["GET", "POST", "DELETE", "PUT"]

    def answer(text: str) -> Callable[..., str]:
        return lambda **_: text

    for path in GUARDED:
        app.add_url_rule(path.replace("{", "<").replace("}", ">"), f"g{path}", answer("guarded"), methods=every)
    for path in OPEN:
        app.add_url_rule(path.replace("{", "<").replace("}", ">"), f"o{path}", answer("open"), methods=every)
    install(app)
    return app


class Place(NamedTuple):
    kit: Kit
    ports: dict[str, int]
    page: dict[str, str]
    secret: dict[str, str]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    kit = Kit()
    gate = kit.security.gate(RULES)
    with ExitStack() as stack:
        ports = {}
        for http in ("h11", "httptools"):
            app = starlette_app(lambda a: starlette.install(a, gate))
            ports[f"starlette {http}"] = stack.enter_context(serving(app, http))
            app = fastapi_app(lambda a: fastapi.install(a, gate))
            ports[f"fastapi {http}"] = stack.enter_context(serving(app, http))
        ports["flask"] = stack.enter_context(wsgi_serving(flask_app(lambda a: flask.install(a, gate))))
        page = headers_of(kit.key(org="o", kind="publishable"))
        yield Place(kit, ports, page, headers_of(kit.key(org="o")))


# target as sent, whether a publishable key gets in, whether a secret one does
CASES = {
    "rule_plain": ("/admin/keys", 403, 200),
    "rule_percent_encoded_letter": ("/%61dmin/keys", 403, 200),
    "rule_percent_encoded_all": ("/%61%64%6D%69%6e/%6bey%73", 403, 200),
    "rule_encoded_slash": ("/admin%2Fkeys", 404, 404),
    "rule_encoded_slash_lower": ("/admin%2fkeys", 404, 404),
    "rule_encoded_backslash": ("/admin%5Ckeys", 404, 404),
    "rule_backslash": ("/admin\\keys", 404, 404),
    "rule_double_encoded": ("/%2561dmin/keys", 404, 403),  # a literal % in a path of no rule but the last: no such route
    "rule_double_slash_litestar": ("//admin/keys", 404, 404),
    "rule_double_slash_inside": ("/admin//keys", 404, 404),
    "rule_trailing_slash": ("/admin/", 403, None),
    "rule_trailing_slash_below": ("/admin/keys/", 403, None),
    "rule_dot": ("/./admin/keys", 404, 404),
    "rule_dot_dot": ("/open/../admin/keys", 404, 404),
    "rule_encoded_dot_dot": ("/open/%2e%2E/admin/keys", 404, 404),
    "rule_dot_at_the_end": ("/admin/.", 404, 404),
    "rule_dot_dot_at_the_end": ("/admin/keys/..", 404, 404),
    "rule_nul": ("/admin%00/keys", 404, 404),
    "rule_newline": ("/admin/keys%0a", 404, 404),
    "rule_carriage_return": ("/admin%0d/keys", 404, 404),
    "rule_escape": ("/%1badmin/keys", 404, 404),
    "rule_c1_control": ("/%c2%85admin/keys", 404, 404),
    "rule_invalid_utf8": ("/%ffadmin/keys", 404, 404),
    "rule_overlong_slash": ("/admin%c0%afkeys", 404, 404),
    "rule_surrogate": ("/%ed%a0%80admin", 404, 404),
    "rule_replacement_character": ("/%ef%bf%bdadmin", 404, 404),
    "rule_upper_case": ("/ADMIN/keys", 404, 403),  # no route: the guard of /** decides, then the router's 404
    "rule_full_width": ("/%ef%bd%81dmin/keys", 404, 403),
    "rule_auth_encoded_slash": ("/auth/a%2Fb", 404, 404),
    "rule_auth_star": ("/auth/a", 403, None),
    "rule_semicolon": ("/admin;x/keys", 404, 403),
    "rule_at": ("/open/a%40b", 200, 403),
    "rule_space": ("/open/a%20b", 200, 403),
    "rule_utf8": ("/open/%C3%A9", 200, 403),
    "rule_plus": ("/open/a+b", 200, 403),
    "rule_question_mark_encoded": ("/open/a%3Fb", 200, 403),
    "rule_query_with_dots": ("/open/a?x=/../admin//", 200, 403),
    "absolute_form_target": ("http://shop.example/admin/keys", None, None),
    "absolute_form_other_host": ("http://evil.example/admin/keys", None, None),
    "rule_asterisk": ("/*", 200, 403),
    "rule_long": ("/open/" + "a" * 5000, 200, 403),
}  # fmt: skip


# WSGI knows no raw path: an encoded slash is a slash before anybody can see it, to the gate and to Flask alike; and the
# server of the standard library takes `//` off the front by itself.
BEFORE_WSGI = {
    "rule_encoded_slash",
    "rule_encoded_slash_lower",
    "rule_auth_encoded_slash",
    "rule_double_slash_litestar",
}


@pytest.mark.parametrize("name", CASES)
def test_no_target_reaches_the_admin_handler_with_a_publishable_key(place: Place, name: str) -> None:
    target, with_page, with_secret = CASES[name]
    for server, port in place.ports.items():
        page, secret = ask(port, target, *place.page.items()), ask(port, target, *place.secret.items())
        assert page.body != b"guarded", server
        assert page.status < 500, server
        assert secret.status < 500, server
        if server == "flask" and name in BEFORE_WSGI:
            continue
        if with_page is not None:
            assert page.status == with_page, (server, page)
        if with_secret is not None:
            assert secret.status == with_secret, (server, secret)


def test_rule_head_is_get(place: Place) -> None:
    for server, port in place.ports.items():
        assert ask(port, "/admin/keys", *place.page.items(), method="HEAD").status == 403, server
        assert ask(port, "/admin/keys", *place.secret.items(), method="HEAD").status == 200, server
        assert ask(port, "/only/get", *place.page.items(), method="HEAD").status == 200, server


def test_rule_method_never_falls_through(place: Place) -> None:
    for server, port in place.ports.items():
        answer = ask(port, "/only/get", *place.page.items(), method="POST")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD"), server
        assert place.kit.events[-1].reason == "method_not_listed"


def test_method_override_headers_are_refused(place: Place) -> None:
    for name in ("X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"):
        for server, port in place.ports.items():
            assert ask(port, "/open/a", *place.page.items(), (name, "DELETE")).status == 400, server


def test_a_preflight_is_refused_and_never_reaches_the_application(place: Place) -> None:
    preflight = ("Origin", "https://shop.example"), ("Access-Control-Request-Method", "POST")
    for server, port in place.ports.items():
        for path in ("/open/a", "/only/get"):
            answer = ask(port, path, *preflight, method="OPTIONS")
            assert (answer.status, place.kit.events[-1].reason) == (403, "preflight"), server
        assert ask(port, "/only/get", method="OPTIONS").status == 405, server


def test_the_same_verdict_through_both_adapters(place: Place) -> None:
    assert place.kit.security.gate(RULES).rule_for("GET", "/admin/x") is RULES[0]
    for name, (target, _, _) in CASES.items():
        if name in BEFORE_WSGI or name.startswith("absolute"):
            continue
        statuses = {server: ask(port, target, *place.page.items()).status for server, port in place.ports.items()}
        assert len(set(statuses.values())) == 1, (name, statuses)


def test_a_target_without_a_slash_and_a_star_target(place: Place) -> None:
    for server, port in place.ports.items():
        for target in ("admin/keys", "*", "http:admin/keys"):
            assert ask(port, target, *place.page.items(), method="OPTIONS").status in {400, 403, 404}, (server, target)


def test_unsafe_encoded_slash_is_the_rules_own_choice() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    rules = [Rule("/files/{path:path}", allow.public(), unsafe_encoded_slash=True), Rule("/other/**", allow.public())]
    with serving(asgi.GateMiddleware(app, Kit().security.gate(rules))) as port:
        assert ask(port, "/files/a%2Fb%5Cc").status == 404  # the backslash is decoded, and is one to every router
        assert ask(port, "/files/a%2Fb").status == 200
        assert ask(port, "/other/a%2Fb").status == 404
        assert ask(port, "/files/%2F%2Fb").status == 404
        assert ask(port, "/files/a%2F..%2Fb").status == 404


def test_rule_root_path_mount() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    kit = Kit()
    gate = kit.security.gate([Rule("/admin/**", allow.secret_key()), Rule("/**", allow.publishable_key())])
    page = headers_of(kit.key(org="o", kind="publishable"))
    with serving(asgi.GateMiddleware(app, gate), root_path="/api") as port:  # the server puts /api before the path
        assert ask(port, "/admin/keys", *page.items()).status == 403
        assert ask(port, "/%61dmin/keys", *page.items()).status == 403
        assert ask(port, "/open", *page.items()).status == 200
        assert ask(port, "/admin%2Fkeys", *page.items()).status == 404
    mounted = Starlette(routes=[Mount("/sub", app=asgi.GateMiddleware(app, gate))])
    with serving(mounted) as port:
        assert ask(port, "/sub/admin/keys", *page.items()).status == 403
        assert ask(port, "/sub/open", *page.items()).status == 200
        assert ask(port, "/sub/%61dmin", *page.items()).status == 403


def test_raw_and_decoded_paths_must_agree() -> None:
    assert judged("/a b", b"/a%20b", "") == PLAIN
    assert judged("/a", b"/a", "") == PLAIN
    assert judged("/a", None, "") == PLAIN
    assert judged("/a", b"/api/a", "/api") == PLAIN
    assert judged("/\u00e9", b"/%C3%A9", "") == PLAIN
    assert judged("/a/b", b"/a%2Fb", "") == ENCODED_SLASH
    for path, raw in (
        ("/a", b"/b"), ("/a", b"/%62"), ("/a", b"/a?"), ("/\u00e9", "/\u00e9".encode()), ("/a", b"/other/a"), ("/a%", b"/a%25%"),
        ("/%41", b"/%41"), ("/A", b"/%2541"), ("/%", b"/%2525"),
    ):  # fmt: skip
        assert judged(path, raw, "/api") == MALFORMED, (path, raw)
    assert judged("/%41", b"/%2541", "") == PLAIN


hostile = st.text(st.sampled_from("/.\\%2Fa\0\n\x7f\ufffd\u00e9\u2028 "), max_size=12)


@settings(max_examples=1000)
@given(hostile | st.text(max_size=12), st.none() | st.binary(max_size=12))
def test_a_target_is_well_formed_or_malformed_and_nothing_else(rest: str, raw: bytes | None) -> None:
    path = "/" + rest
    if judged(path, raw, "") != MALFORMED:
        assert not set(path) & set("\\\0\n\r\x7f\ufffd\ud800")
        assert "//" not in path
        assert not {".", ".."} & set(path.split("/"))
        assert raw is None or unquote_to_bytes(raw).decode() == path
    else:
        assert raw is not None or _BAD.search(path)
    assert judged(rest, raw, "") == MALFORMED or rest.startswith("/")


def test_wsgi_raw_paths_where_a_server_gives_one() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    middleware = wsgi.GateMiddleware(app, Kit().security.gate([Rule("/**", allow.unsafe_public_rest())]))
    seen: list[str] = []

    def status_of(**environ: str) -> str:
        base = {"REQUEST_METHOD": "GET", "wsgi.url_scheme": "http", "wsgi.input": None}
        list(middleware({**base, **environ}, lambda status, *_: seen.append(status)))
        return seen[-1][:3]

    assert status_of(PATH_INFO="/a/b") == "200"
    assert status_of(PATH_INFO="", SCRIPT_NAME="/app") == "200"
    assert status_of(PATH_INFO="/a/b", RAW_URI="/a%2Fb") == "404"
    assert status_of(PATH_INFO="/a/b", REQUEST_URI="/a/b?x=%2F") == "200"
    assert status_of(PATH_INFO="/b", SCRIPT_NAME="/a", REQUEST_URI="/a/b") == "200"
    assert status_of(PATH_INFO="/a/b", RAW_URI="http://x/a/b") == "404"
    assert status_of(PATH_INFO="/\xff") == "404"
    assert status_of(PATH_INFO="/\u20ac") == "404"
    assert status_of(PATH_INFO="//a") == "404"
