"""Our cookies at the gate, through either adapter: who they are, when they are renewed, and the attacks on both."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cancelling import ended
from cookie_places import ORG, ORIGIN, Browser, Site
from django.core.handlers.asgi import ASGIHandler  # type: ignore[import-untyped]
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
from django.http import HttpResponse  # type: ignore[import-untyped]
from django.urls import path  # type: ignore[import-untyped]
from flask import Flask
from frameworks import django_site
from servers import ask, serving, wsgi_serving
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bartizan import ConsumerPrincipal, Misuse, Rule, allow, current_principal
from bartizan.core.cookies import ACCESS, REFRESH
from bartizan.errors import Forbidden, NotFound, Unavailable
from bartizan.integrations.flask import install as install_flask
from bartizan.integrations.starlette import install as install_starlette
from bartizan.testing import Kit

HANDLERS: dict[str, tuple[Any, Any]] = {"wsgi": (WSGIHandler, wsgi_serving), "asgi": (ASGIHandler, serving)}
LIFE = 400  # longer than an access token
both = pytest.mark.parametrize("adapter", ["asgi", "wsgi"])


@pytest.fixture(params=["asgi", "wsgi"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(request.param)


@pytest.fixture
def anna(site: Site) -> Browser:
    browser = Browser(site)
    assert browser.sign_in().status == 200
    return browser


# --- who they are ---


def test_a_browser_is_signed_in_by_its_cookies(anna: Browser) -> None:
    assert anna.get("/me").json["who"] == "cons_anna"
    assert anna.get("/card").status == 200
    assert Browser(anna.site).get("/me").status == 401
    assert anna.get("/about").json == {}  # public: nobody looks


def test_where_cookies_are_no_credential_they_are_not_read(anna: Browser) -> None:
    """They come along to every path of the host: a page cannot leave them out."""
    key = anna.site.kit.key(org=ORG, kind="publishable").key
    assert anna.get("/products", ("X-Publishable-Key", key)).status == 200
    assert anna.get("/products").status == 401


def test_without_origins_a_gate_takes_no_cookies() -> None:
    kit = Kit()
    pair = kit.security.blocking.sessions.start(org=ORG, subject="cons_1")
    gate = kit.security.gate([Rule("/me", allow.consumer())])
    from bartizan.core.request import Request

    request = Request("GET", "/me", [(b"cookie", f"{ACCESS}={pair.access_token}".encode())], None, "https")
    assert type(gate.blocking.check(request)).__name__ == "Refuse"


def test_cookie_and_bearer_other_subject(anna: Browser) -> None:
    """Two credentials that are not of one session: which is the caller is not for us to guess."""
    site = anna.site
    bert = site.blocking.start(org=ORG, subject="cons_bert")
    own = anna.jar[ACCESS][0]
    for token in (bert.access_token, site.blocking.start(org=ORG, subject="cons_anna").access_token):
        refused = anna.get("/me", ("Authorization", f"Bearer {token}"))
        assert (refused.status, site.reason) == (400, "credentials_disagree")
    assert anna.get("/me", ("Authorization", f"Bearer {own}")).status == 200
    assert anna.post("/me", ("Authorization", f"Bearer {own}"), origin="https://evil.example").status == 403
    secret = site.kit.key(org=ORG).key
    assert anna.get("/staff", ("Authorization", f"Bearer {secret}")).status == 400
    assert Browser(site).get("/staff", ("Authorization", f"Bearer {secret}")).status == 200


def test_cookie_split_http2(anna: Browser) -> None:
    if anna.site.adapter == "asgi":
        split = [("Cookie", f"{name}={value}") for name, (value, _) in anna.jar.items()]
        assert anna.site.ask("GET", "/me", split).status == 200


def test_cookie_name_twice(anna: Browser) -> None:
    (_, cookie), access = anna.cookies()[0], anna.jar[ACCESS][0]
    for text in (f"{cookie}; {ACCESS}={access}", f"{ACCESS}=x; {cookie}"):
        assert anna.site.ask("GET", "/me", [("Cookie", text)]).status == 400


def test_a_cookie_of_another_kind_is_no_token(anna: Browser) -> None:
    site = anna.site
    access, refresh = anna.jar[ACCESS][0], anna.jar[REFRESH][0]
    secret = site.kit.key(org=ORG).key
    for text in (
        f"{ACCESS}={refresh}",
        f"{ACCESS}={secret}",
        f"{REFRESH}={access}",
        f"{ACCESS}=",
        f"x{ACCESS}={access}",
    ):
        assert site.ask("GET", "/me", [("Cookie", text)]).status == 401


# --- cross-site ---


@pytest.mark.parametrize("path", ["/me", "/app/order", "/auth/logout", "/auth/sessions/revoke"])
@pytest.mark.parametrize("headers", [
    [("Origin", "https://evil.example")], [("Origin", "null")], [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")], [("Sec-Fetch-Site", "none")], [],
    [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "same-origin")],
])  # fmt: skip
def test_cross_site_post_with_cookie(anna: Browser, path: str, headers: list[tuple[str, str]]) -> None:
    refused = anna.post(path, *headers, origin=None)
    assert (refused.status, anna.site.reason) == (403, "origin_not_allowed")
    assert anna.get("/me").status == 200


def test_cross_site_post_renews_nothing(anna: Browser) -> None:
    anna.site.clock.advance(LIFE)
    assert anna.post("/me", origin="https://evil.example").status == 403
    (row,) = anna.site.rows()
    assert row.generation == 0


def test_a_page_of_ours_posts(anna: Browser) -> None:
    assert anna.post("/me").status == 200
    assert anna.post("/me", ("Sec-Fetch-Site", "same-origin"), origin=None).status == 200


def test_websocket_cross_origin() -> None:
    site = Site("asgi")
    anna = Browser(site)
    anna.sign_in()
    live = [*anna.cookies()]
    assert site.ask("WEBSOCKET", "/live", [*live, ("Origin", ORIGIN)]).status == 101
    for headers in ([], [("Origin", "https://evil.example")], [("Sec-Fetch-Site", "same-origin")]):
        assert site.ask("WEBSOCKET", "/live", [*live, *headers]).status == 403
    site.clock.advance(LIFE)
    assert site.ask("WEBSOCKET", "/live", [*anna.cookies(), ("Origin", ORIGIN)]).status == 403  # it renews nothing
    assert site.rows()[0].generation == 0


# --- renewing ---


def test_an_access_cookie_that_is_over_is_renewed(anna: Browser) -> None:
    session = anna.session
    for _ in range(5):
        anna.site.clock.advance(LIFE)
        assert f"{ACCESS}=" not in anna.cookies()[0][1]
        reply = anna.get("/me")
        assert reply.status == 200
        assert set(reply.cookies) == {ACCESS, REFRESH}
        assert reply.header("cache-control") == "no-store"
        assert reply.header("vary") == "Cookie"
    assert anna.session == session
    assert anna.site.rows()[0].generation == 5
    assert anna.get("/me").cookies == {}  # a live one is left alone


def test_an_expired_access_cookie_beside_is_renewed_if_it_is_of_that_session(anna: Browser) -> None:
    site = anna.site
    old = anna.jar[ACCESS][0]
    other = Browser(site)
    other.sign_in("bert@shop.example")
    site.clock.advance(LIFE)
    refresh = anna.jar[REFRESH][0]
    mixed = f"{ACCESS}={other.jar[ACCESS][0]}; {REFRESH}={refresh}"
    assert site.ask("GET", "/me", [("Cookie", mixed)]).status == 401
    assert site.reason == "token_expired"
    forged = f"{ACCESS}={old[:-4]}AAAA; {REFRESH}={refresh}"
    assert site.ask("GET", "/me", [("Cookie", forged)]).status == 401  # expired is one thing, forged another
    assert site.ask("GET", "/me", [("Cookie", f"{ACCESS}={old}; {REFRESH}={refresh}")]).status == 200


def test_three_tabs_load_at_once(anna: Browser) -> None:
    session = anna.session
    for _ in range(4):
        anna.site.clock.advance(LIFE)
        tabs = [anna.copy() for _ in range(3)]
        replies = [tab.get("/me") for tab in tabs]
        assert [reply.status for reply in replies] == [200] * 3
        assert len({reply.cookies[REFRESH] for reply in replies}) == 1
        anna.jar = tabs[1].jar
    assert anna.session == session
    assert anna.site.events("session.reused") == 0


def test_failing_page_is_no_theft(anna: Browser) -> None:
    """A page that fails uses nothing up, whoever loads it again and again for a day."""

    def fails() -> Any:
        raise RuntimeError("a bug")

    site = anna.site
    site.pages["/app/fails"] = fails
    before = site.rows()
    for _ in range(50):
        site.clock.advance(LIFE)
        with pytest.raises(RuntimeError):
            anna.get("/app/fails")
    assert site.rows() == before
    assert anna.get("/me").status == 200


def test_a_body_that_fails_before_its_first_byte_uses_nothing_up(anna: Browser) -> None:
    site = anna.site
    if site.adapter == "asgi":

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise RuntimeError("a bug")

        site._asgi.app = app
    else:

        def chunks(_: Any, start: Any) -> Any:
            start("200 OK", [])
            yield b""
            raise RuntimeError("a bug")

        site._wsgi.app = chunks
    before = site.rows()
    for _ in range(20):
        site.clock.advance(LIFE)
        with pytest.raises((RuntimeError, IndexError)):
            anna.get("/me")
    assert site.rows() == before


@pytest.mark.parametrize("error", [NotFound(), Forbidden(), Unavailable()])
def test_a_refusal_of_the_application_uses_nothing_up(anna: Browser, error: Exception) -> None:
    def refuses() -> Any:
        raise error

    anna.site.pages["/app/refuses"] = refuses
    before = anna.site.rows()
    anna.site.clock.advance(LIFE)
    reply = anna.get("/app/refuses")
    assert reply.status in {403, 404, 503}
    assert reply.cookies == {}
    assert anna.site.rows() == before


def test_a_refusal_of_the_gate_uses_nothing_up(anna: Browser) -> None:
    guest = Browser(anna.site)
    guest.guest()
    anna.site.clock.advance(LIFE)
    assert guest.get("/card").status == 401
    assert len(anna.site.rows()) == 1  # the guest's is not even stored


def test_login_in_refreshing_request(anna: Browser) -> None:
    """The request that signs somebody in comes with a session to be renewed: its own cookies are the ones set."""
    site = anna.site
    asked = anna.post("/auth/otp/request", address="bert@shop.example")
    anna.site.clock.advance(LIFE)
    old = site.rows()[0]
    reply = anna.post(
        "/auth/otp/verify",
        requestId=asked.json["requestId"],
        code=site.code() and site.sent[-1][1],
        address="bert@shop.example",
    )
    assert reply.status == 200
    assert [name for name, _ in reply.pairs].count("set-cookie") == 3  # access, refresh, device; each once
    assert anna.get("/me").json["who"] == "cons_bert"
    assert site.row(old.id).revoked_at is not None  # whoever sat here before is signed out
    assert site.row(old.id).generation == old.generation


def test_slow_answer_after_login_in_other_tab(anna: Browser) -> None:
    """A slow page of the old session answers after another tab has signed in: it leaves the new cookies alone."""
    site = anna.site
    guest = Browser(site)
    guest.guest()
    site.clock.advance(1)
    guest.post("/auth/refresh")  # stored
    site.clock.advance(LIFE)
    tab = guest.copy()

    def slow() -> Any:
        assert guest.sign_in("carl@shop.example").status == 200  # in the other tab, meanwhile
        return 200, [], b"slow"

    site.pages["/app/slow"] = slow
    if site.adapter == "asgi":  # an own thread: this one's loop is taken
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            site.pages["/app/slow"] = lambda: pool.submit(slow).result()
            reply = tab.get("/app/slow")
    else:
        reply = tab.get("/app/slow")
    assert (reply.status, reply.raw) == (200, b"slow")
    assert reply.cookies == {}
    assert guest.get("/me").json["who"] == "cons_carl"
    late = tab.post("/auth/refresh")  # nor does whoever still has the old ones take the new ones away
    assert late.status == 401
    assert late.cookies == {}


def test_a_store_that_fails_when_the_head_leaves_changes_no_answer(anna: Browser) -> None:
    site = anna.site
    site.clock.advance(LIFE)
    for side in (site.kit.security._shared.side, site.kit.security._shared.blocking_side):
        backend: Any = side.sessions._rotation._backend

        class Failing:
            def __init__(self, real: Any) -> None:
                self.real = real

            def __getattr__(self, name: str) -> Any:
                return getattr(self.real, name)

            async def change(self, *_: Any, **__: Any) -> Any:
                raise Unavailable

        side.sessions._rotation._backend = Failing(backend)
    reply = anna.get("/me")
    assert (reply.status, reply.json["who"], reply.cookies) == (200, "cons_anna", {})


def test_stolen_refresh_cookie_is_found(anna: Browser) -> None:
    site = anna.site
    thief = anna.copy()
    site.clock.advance(LIFE)
    assert thief.get("/me").status == 200
    site.clock.advance(LIFE)
    assert thief.get("/me").status == 200
    reply = anna.get("/me")
    assert (reply.status, site.reason) == (401, "session_reused")
    assert site.events("session.reused") == 1
    assert thief.get("/me").status == 401


def test_stolen_refresh_cookie_is_found_on_a_page_for_anybody(anna: Browser) -> None:
    """A dead cookie is no credential there; theft is acted on all the same."""
    site = anna.site
    thief = anna.copy()
    for _ in range(2):
        site.clock.advance(LIFE)
        assert thief.get("/").json["who"] == "cons_anna"
    assert anna.get("/").json == {}
    assert site.events("session.reused") == 1
    assert thief.get("/").json == {}


@pytest.mark.parametrize("cookie", [f"{REFRESH}=rt_garbage", f"{ACCESS}=eyJ.x.y", f"{REFRESH}=", f"{REFRESH}=%00"])
def test_a_dead_cookie_is_no_credential_where_none_is_needed(site: Site, cookie: str) -> None:
    assert site.ask("GET", "/", [("Cookie", cookie)]).status == 200
    assert site.ask("GET", "/me", [("Cookie", cookie)]).status == 401
    assert site.ask("GET", "/", [("Authorization", "Bearer eyJhbGciOiJFZERTQSJ9.x.y")]).status == 401


def test_ended_sessions_are_over_at_once(anna: Browser) -> None:
    anna.site.blocking.revoke(str(anna.session), org=ORG)
    assert anna.get("/me").status == 401
    assert anna.get("/").json == {}
    anna.site.clock.advance(LIFE)
    assert anna.get("/me").status == 401
    assert REFRESH in anna.jar  # the gate takes no cookie away: the browser may have another's by now


def test_idle_sessions_are_not_renewed(anna: Browser) -> None:
    refresh = anna.jar[REFRESH][0]
    anna.site.clock.advance(15 * 86_400)
    assert anna.get("/me").status == 401
    assert anna.site.ask("GET", "/me", [("Cookie", f"{REFRESH}={refresh}")]).status == 401


def test_whoever_left_the_organization_is_not_renewed(site: Site) -> None:
    members = {"cons_anna"}
    made = Site(site.adapter, member_of=lambda subject, _: subject in members)
    anna = Browser(made)
    anna.sign_in()
    members.clear()
    made.clock.advance(LIFE)
    assert anna.get("/me").status == 401
    assert anna.get("/").json == {}


def test_a_renewed_stream_may_be_asked_about(anna: Browser) -> None:
    site = anna.site
    site.clock.advance(LIFE)
    principal = site.kit.security.blocking.sessions._service.look(anna.jar[REFRESH][0])
    from bartizan.core.drive import run

    who = run(principal)
    site.kit.security.blocking.recheck(who)
    site.blocking.revoke(who.session_id, org=ORG)
    from bartizan.errors import InvalidSession

    with pytest.raises(InvalidSession):
        site.kit.security.blocking.recheck(who)


def test_a_cancelled_request_rotates_whole_or_not_at_all() -> None:
    """Whoever hangs up while the head leaves has used the token up, and is given the same successor when it comes."""

    async def story(moment: int) -> None:
        site = Site("asgi")
        pair = await site.kit.security.sessions.start(org=ORG, subject="cons_1")
        cookie = [("Cookie", f"{REFRESH}={pair.refresh_token}")]
        site.clock.advance(LIFE)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(_: Any) -> None:
            await asyncio.sleep(0)

        await ended(moment, site._asgi(site.scope("GET", "/me", cookie), receive, send))
        assert site.rows()[0].generation in {0, 1}
        again = await site.kit.security.sessions.refresh(pair.refresh_token)
        assert site.rows()[0].generation == 1
        site.clock.advance(20)
        await site.kit.security.sessions.refresh(again.refresh_token)

    for moment in range(1, 8):
        asyncio.run(story(moment))


# --- what answers say to caches ---


@pytest.mark.parametrize(
    ("headers", "caching", "vary"),
    [
        ([], "private", "Cookie"),
        ([("Cache-Control", "public, max-age=60")], "public, max-age=60", "Cookie"),
        ([("Vary", "Accept")], "private", "Accept, Cookie"),
        ([("Vary", "cookie")], "private", "cookie"),
        ([("Vary", "*")], "private", "*"),
        ([("Expires", "Thu, 01 Dec 2033 16:00:00 GMT")], None, "Cookie"),
    ],
)
def test_answers_that_depend_on_cookies_say_so(
    anna: Browser, headers: list[tuple[str, str]], caching: str | None, vary: str
) -> None:
    anna.site.pages["/app/cached"] = lambda: (200, headers, b"")
    for browser in (anna, Browser(anna.site)):  # with cookies and without: it is the same place in a cache
        reply = browser.get("/app/cached")
        assert (reply.header("cache-control"), reply.header("vary")) == (caching, vary)
    assert anna.get("/about").header("vary") is None


def test_an_answer_with_new_cookies_is_stored_nowhere(anna: Browser) -> None:
    cached = [("Cache-Control", "public, max-age=600"), ("Expires", "Thu, 01 Dec 2033 16:00:00 GMT"),
              ("CDN-Cache-Control", "max-age=60"), ("Surrogate-Control", "max-age=60"), ("X-Other", "1")]  # fmt: skip
    anna.site.pages["/app/cached"] = lambda: (200, cached, b"body")
    anna.site.clock.advance(LIFE)
    reply = anna.get("/app/cached")
    assert set(reply.cookies) == {ACCESS, REFRESH}
    assert reply.header("cache-control") == "no-store"
    assert [reply.header(name) for name in ("expires", "cdn-cache-control", "surrogate-control", "x-other")] == [
        None, None, None, "1",
    ]  # fmt: skip
    assert reply.raw == b"body"


def test_header_names_in_capitals_are_seen() -> None:
    """ASGI wants them in lower case; an application that sends others signs somebody in all the same."""
    site = Site("asgi")
    anna = Browser(site)
    anna.sign_in()
    site.clock.advance(LIFE)

    async def app(_: Any, __: Any, send: Any) -> None:
        headers = [(b"Set-Cookie", REFRESH.encode() + b"=another"), (b"Cache-Control", b"public")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    site._asgi.app = app
    reply = site.ask("GET", "/me", anna.cookies())
    assert reply.header("cache-control") == "no-store"
    assert [name for name, _ in reply.pairs].count("set-cookie") == 1
    assert site.rows()[0].generation == 0


def test_what_cookies_need() -> None:
    with pytest.raises(Misuse):
        Kit(origins="https://shop.example")
    with pytest.raises(Misuse):
        Kit(origins=["https://shop.example/"])
    from bartizan.endpoints import session_app

    with pytest.raises(Misuse, match="origins"):
        session_app(Kit().security, deliver=lambda _, __: None, resolve=lambda _: "", transport="cookie")


def test_a_renewing_request_costs_one_read_and_one_change_more() -> None:
    site = Site("wsgi", staleness=5)
    anna = Browser(site)
    anna.sign_in()
    anna.get("/me")
    site.clock.advance(6)
    counted: list[str] = []
    for part in ("_rotation", "_state", "_changes"):
        owner: Any = getattr(site.kit.security._shared.blocking_side.sessions, part)
        owner._backend = _Counted(owner._backend, counted)
    live = _cost(anna, counted)
    site.clock.advance(LIFE)
    renewing = _cost(anna, counted)
    assert live == {"read": 1}
    assert renewing == {"get": 1, "read": 1, "change": 1}


class _Counted:
    def __init__(self, real: Any, counted: list[str]) -> None:
        self.real, self.counted = real, counted

    def __getattr__(self, name: str) -> Any:
        self.counted.append(name)
        return getattr(self.real, name)


def _cost(browser: Browser, counted: list[str]) -> dict[str, int]:
    counted.clear()
    assert browser.get("/me").status == 200
    return {name: counted.count(name) for name in counted}


# --- Django, which makes its answers itself ---


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_cookies_under_django(kind: str) -> None:
    site = Site("wsgi")

    def page(_: Any) -> Any:
        return HttpResponse(current_principal(ConsumerPrincipal).subject)

    def out(_: Any) -> Any:
        response = HttpResponse("bye")
        for cookie in site.kit.security.sessions.cleared_cookies():
            response.set_cookie(**cookie.args())
        return response

    def refuses(_: Any) -> Any:
        raise NotFound

    handler, serve = HANDLERS[kind]
    rules = [Rule("GET|POST /app/{what}", allow.consumer())]
    urls = [path("app/page", page), path("app/out", out), path("app/refuses", refuses)]
    pair = site.blocking.start(org=ORG, subject="cons_1")
    live = ("Cookie", "; ".join(cookie.header().partition(";")[0] for cookie in pair.cookies))
    with django_site(urls, site.kit.security.gate(rules)), serve(handler()) as port:
        answer = ask(port, "/app/page", live)
        assert answer.status == 200
        assert b"cons_1" in answer.body
        assert (answer.headers["cache-control"], answer.headers["vary"]) == ("private", "Cookie")
        assert "set-cookie" not in answer.headers
        assert ask(port, "/app/page", live, ("Origin", "https://evil.example"), method="POST").status == 403
        site.clock.advance(LIFE)
        for target in ("/app/refuses", "/app/out"):
            answer = ask(port, target, live)
            assert site.row(pair.session.id).generation == 0
            assert pair.refresh_token not in answer.headers.get("set-cookie", "")
        answer = ask(port, "/app/page", live)
        assert b"cons_1" in answer.body
        assert answer.headers["set-cookie"].count("__Host-") == 2
        assert answer.headers["cache-control"] == "no-store"
        assert site.row(pair.session.id).generation == 1


def test_cookies_under_flask_and_starlette() -> None:
    """What a view refuses uses nothing up, though the framework makes an answer of it."""
    for kind in ("flask", "starlette"):
        site = Site("wsgi")
        pair = site.blocking.start(org=ORG, subject="cons_1")
        live = ("Cookie", "; ".join(cookie.header().partition(";")[0] for cookie in pair.cookies))
        gate = site.kit.security.gate([Rule("GET /app/{what}", allow.consumer())])

        def act(name: str) -> str:
            if name == "refuses":
                raise NotFound
            return current_principal(ConsumerPrincipal).subject

        with _FRAMEWORKS[kind](act, gate) as port:
            site.clock.advance(LIFE)
            refused = ask(port, "/app/refuses", live)
            assert (refused.status, refused.headers.get("set-cookie")) == (404, None)
            assert site.row(pair.session.id).generation == 0
            answer = ask(port, "/app/page", live)
            assert b"cons_1" in answer.body
            assert answer.headers["set-cookie"].count("__Host-") == 2
            assert answer.headers["cache-control"] == "no-store"


@contextmanager
def _flask(act: Any, gate: Any) -> Iterator[int]:
    app = Flask("cookies", static_folder=None)
    app.add_url_rule("/app/<name>", view_func=act)
    install_flask(app, gate)
    with wsgi_serving(app) as port:
        yield port


@contextmanager
def _starlette(act: Any, gate: Any) -> Iterator[int]:
    async def view(request: Any) -> Any:
        return PlainTextResponse(act(request.path_params["name"]))

    app = Starlette(routes=[Route("/app/{name}", view)])
    install_starlette(app, gate)
    with serving(app) as port:
        yield port


_FRAMEWORKS = {"flask": _flask, "starlette": _starlette}


# --- for developers ---


def test_an_explanation_reads_cookies_and_writes_nothing() -> None:
    site = Site("asgi")
    anna = Browser(site)
    anna.sign_in()
    site.clock.advance(LIFE)
    before, events = site.rows(), len(site.kit.events)
    cookies = anna.cookies()

    def said(method: str, *headers: tuple[str, str]) -> Any:
        return asyncio.run(site.gate.explain(method, "/me", [*cookies, *headers]))

    assert said("GET").admitted is True
    assert (said("POST").reason, said("POST", ("Origin", ORIGIN)).admitted) == ("origin_not_allowed", True)
    assert anna.jar[REFRESH][0] not in str(said("GET"))
    assert (site.rows(), len(site.kit.events)) == (before, events)
    thief = anna.copy()
    for _ in range(2):
        thief.get("/me")
        site.clock.advance(LIFE)
    assert said("GET").admitted is None  # it would end the session
    assert site.events("session.reused") == 0


def test_origins_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from bartizan import Bartizan

    monkeypatch.setenv("BARTIZAN_ENVIRONMENT", "test")
    monkeypatch.setenv("BARTIZAN_ORIGINS", "https://shop.example https://admin.shop.example")
    origins = Bartizan.from_env()._shared.origins
    assert origins is not None
    origins.verify("POST", {"Origin": "https://admin.shop.example"})
    monkeypatch.setenv("BARTIZAN_ORIGINS", "shop.example")
    with pytest.raises(Misuse):
        Bartizan.from_env()
