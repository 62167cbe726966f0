"""Redirects to a page for signing in and back, through either adapter: never to another site, never for anybody else."""

from typing import Any

import pytest
from cookie_places import ORG, RULES, Browser, Reply, Site
from hypothesis import given, strategies as st

from bartizan import Bartizan, Misuse, Rule, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.cookies import PRE
from bartizan.core.request import Request
from bartizan.testing import Kit
from bartizan.wsgi import GateMiddleware as WsgiMiddleware

NAVIGATION = ("Sec-Fetch-Mode", "navigate")
LOGIN = [
    *RULES,
    Rule("GET|POST /login", allow.public()),
    Rule("GET|POST /account/**", allow.consumer(guests=False), login="/login"),
]


@pytest.fixture(params=["asgi", "wsgi"])
def browser(request: pytest.FixtureRequest) -> Browser:
    site = Site(request.param)
    gate = site.kit.security.gate(LOGIN)
    site._asgi, site._wsgi = GateMiddleware(site._app, gate), WsgiMiddleware(site._wsgi_app, gate)
    return Browser(site)


def location(reply: Reply) -> str:
    assert (reply.status, reply.raw) == (303, b"")
    assert reply.header("cache-control") == "no-store"
    return str(reply.header("location"))


def back(browser: Browser, where: str, default: str = "/") -> str:
    path, _, query = where.partition("?")
    scope = browser.site.scope("GET", f"{path}?{query}", browser.cookies())
    return browser.site.kit.security.return_path(scope, default=default)


def test_a_page_that_needs_somebody_sends_there_and_back(browser: Browser) -> None:
    where = location(browser.get("/account/orders?page=2&q=a%20b", NAVIGATION))
    assert where.startswith("/login?next=next_")
    assert set(browser.jar) == {PRE}
    assert browser.get(where).status == 200
    assert back(browser, where) == "/account/orders?page=2&q=a%20b"
    browser.sign_in()
    assert browser.get(back(browser, where)).status == 200
    environ = {
        "REQUEST_METHOD": "GET", "wsgi.url_scheme": "https", "PATH_INFO": "/login",
        "QUERY_STRING": where.partition("?")[2], "HTTP_COOKIE": browser.cookies()[0][1],
    }  # fmt: skip
    request = Request(
        "POST",
        "/login",
        [(b"cookie", browser.cookies()[0][1].encode())],
        None,
        "https",
        where.partition("?")[2].encode(),
    )
    security = browser.site.kit.security
    split = browser.site.scope("GET", where, [("Cookie", "a=b"), *browser.cookies(), ("Cookie", "c=d")])
    assert security.return_path(split) == "/account/orders?page=2&q=a%20b", "HTTP/2 may split it"
    assert security.return_path(environ) == security.return_path(request) == "/account/orders?page=2&q=a%20b"

    class Framework:
        META = environ

    assert security.return_path(Framework()) == "/account/orders?page=2&q=a%20b"
    with pytest.raises(Misuse):
        security.return_path(object())


def test_a_guest_is_sent_to_sign_in(browser: Browser) -> None:
    browser.guest()
    assert location(browser.get("/account/orders", NAVIGATION)).startswith("/login?next=")


def test_only_a_navigation_is_redirected(browser: Browser) -> None:
    key = browser.site.kit.key(org=ORG).key
    for headers in (
        [("Sec-Fetch-Mode", "cors")], [("Sec-Fetch-Mode", "no-cors")], [], [("Accept", "application/json")],
        [NAVIGATION, ("Authorization", "Bearer eyJhbGciOiJFZERTQSJ9.x.y")], [NAVIGATION, ("Authorization", "Basic eDp5")],
        [("Sec-Fetch-Mode", "cors"), ("Accept", "text/html")],
    ):  # fmt: skip
        assert browser.get("/account/orders", *headers).status == 401
    assert browser.get("/account/orders", NAVIGATION, ("Authorization", f"Bearer {key}")).status in {401, 403}
    assert browser.post("/account/orders", NAVIGATION).status == 401
    assert browser.get("/account/orders", NAVIGATION, method="HEAD").status == 401
    assert browser.get("/me", NAVIGATION).status == 401  # its rule has no such page
    assert browser.get("/account/orders", ("Accept", "text/html,*/*")).status == 303  # an older browser
    assert browser.site.reason == "no_credential"


def test_a_next_of_another_browser_purpose_or_hour(browser: Browser) -> None:
    where = location(browser.get("/account/orders", NAVIGATION))
    other = Browser(browser.site)
    assert back(other, where) == "/"
    other.get("/account/else", NAVIGATION)
    assert back(other, where, "/home") == "/home"
    assert back(browser, where[:-4] + "AAAA") == "/"
    assert back(browser, f"{where}&next=x") == "/"
    link = browser.site.kit.security.blocking.links
    text = link.issue("next", org=ORG, subject="x", seconds=60)
    assert back(browser, f"/login?next={text}") == "/"
    assert back(browser, where) == "/account/orders"
    browser.site.clock.advance(3600)
    assert back(browser, where) == "/"


@pytest.mark.parametrize("text", [
    "https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "/x", "",
    "next_AQ", "%00", "/%0d%0aSet-Cookie:x=1", "\u00e4",
])  # fmt: skip
def test_open_redirect(browser: Browser, text: str) -> None:
    browser.get("/account/orders", NAVIGATION)
    scope = browser.site.scope("GET", "/login", browser.cookies())
    scope["query_string"] = f"next={text}".encode()
    assert browser.site.kit.security.return_path(scope) == "/"
    for default in ("https://evil.example", "//evil.example", "/\\evil.example", "evil", ""):
        with pytest.raises(Misuse):
            browser.site.kit.security.return_path(scope, default=default)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60), st.binary(max_size=60))
def test_whatever_path_is_asked_for_leads_back_to_this_site(path: str, query: bytes) -> None:
    kit = Kit()
    paths = kit.security._shared.return_paths
    assert paths is not None
    headers = dict(paths.redirect("/login", Request("GET", f"/{path}", [], None, "https", query)))
    target = headers[b"location"].decode("ascii")
    assert target.startswith("/login")
    assert target.isprintable()
    if b"set-cookie" not in headers:
        assert path[:1] in "/\\" or "\\" in path
        return
    cookie = headers[b"set-cookie"].partition(b";")[0]
    came = Request("GET", "/login", [(b"cookie", cookie)], None, "https", target.partition("?")[2].encode())
    found = kit.security.return_path(came)
    assert found[:1] == "/"
    assert found[1:2] not in {"/", "\\"}
    assert found.isascii()


def test_a_path_that_is_too_long_is_not_remembered(browser: Browser) -> None:
    assert location(browser.get("/account/" + "x" * 3000, NAVIGATION)) == "/login"


def test_a_mounted_application_is_sent_to_its_own_page() -> None:
    paths = Kit().security._shared.return_paths
    assert paths is not None
    headers = dict(paths.redirect("/login", Request("GET", "/orders", [], None, "https", b"", None, "/shop")))
    assert headers[b"location"].startswith(b"/shop/login?next=")


@pytest.mark.parametrize(
    "login", ["", "login", "//evil.example", "https://evil.example", "/login?x=1", "/lo#g", "/\\x"]
)
def test_login_is_a_path(login: str) -> None:
    with pytest.raises(Misuse):
        Rule("/x", allow.consumer(), login=login)


def test_login_leads_where_nobody_needs_to_be_somebody() -> None:
    kit = Kit()
    for rules in (
        [Rule("/x", allow.consumer(), login="/login")],
        [Rule("/x", allow.consumer(), login="/login"), Rule("/login", allow.consumer())],
        [Rule("/x", allow.consumer(), login="/login"), Rule("POST /login", allow.public())],
    ):
        with pytest.raises(Misuse, match="round in circles"):
            kit.security.gate(rules)
    kit.security.gate([Rule("/x", allow.consumer(), login="/login"), Rule("/login", allow.optional(allow.consumer()))])
    bare: Any = Bartizan(environment="test")
    with pytest.raises(Misuse):
        bare.return_path({"QUERY_STRING": ""})


@pytest.mark.parametrize("held", ["x" * 5000, "x", "", "\x01" * 22, "\u00e4" * 22, '"' * 22, "a b" * 8])
def test_a_browser_secret_that_is_none_of_ours_is_replaced(browser: Browser, held: str) -> None:
    reply = browser.site.ask("GET", "/account/orders", [NAVIGATION, ("Cookie", f"{PRE}={held}")])
    assert reply.status == 303
    assert len(reply.cookies[PRE]) == 22
    assert reply.cookies[PRE] != held
