"""Where consumers sign in, stay in and sign out, over HTTP through either adapter, in both transports."""

import asyncio
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import pytest
from cancelling import ended
from cookie_places import ORG, ORIGIN, Browser, Reply, Site
from hypothesis import given, settings, strategies as st

from bartizan import ConsumerPrincipal, Misuse, SigninPolicy, current_principal
from bartizan.core.cookies import ACCESS, BIND, DEVICE, PRE, REFRESH
from bartizan.core.drive import run
from bartizan.core.encoding import base64url
from bartizan.endpoints import session_app, session_wsgi
from bartizan.sessions.codes import CODES
from bartizan.sessions.handlers import AUTHORIZE_SCOPE
from bartizan.testing import Kit

VERIFIER = "v" * 43
CHALLENGE = base64url(sha256(VERIFIER.encode()).digest())
ANNA = "anna@shop.example"


class Client:
    """A program with tokens in its hands: it sends no cookie, and no Origin."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.key = site.kit.key(org=ORG, kind="publishable").key
        self.secret = site.kit.key(org=ORG, scopes={AUTHORIZE_SCOPE}).key

    def post(self, path: str, *headers: tuple[str, str], token: str | None = None, **sent: Any) -> Reply:
        came = [("X-Publishable-Key", self.key), ("Content-Type", "application/json"), *headers]
        if token is not None:
            came.append(("Authorization", f"Bearer {token}"))
        return self.site.ask("POST", path, came, json.dumps(sent).encode())

    def get(self, path: str, token: str) -> Reply:
        return self.site.ask("GET", path, [("X-Publishable-Key", self.key), ("Authorization", f"Bearer {token}")])

    def sign_in(self, address: str = ANNA, token: str | None = None) -> Reply:
        asked = self.post("/auth/otp/request", token=token, address=address)
        assert asked.status == 200
        sent = {"requestId": asked.json["requestId"], "code": self.site.code(), "address": address}
        return self.post("/auth/otp/verify", token=token, **sent)

    def authorize(self, **more: Any) -> Reply:
        sent = {"provider": "oidc", "issuer": "https://login.example", "subject": "248289", **more}
        headers = [("Authorization", f"Bearer {self.secret}"), ("Content-Type", "application/json")]
        return self.site.ask("POST", "/auth/external/authorize", headers, json.dumps(sent).encode())


@pytest.fixture(params=["asgi", "wsgi"])
def client(request: pytest.FixtureRequest) -> Client:
    return Client(Site(request.param, transport="body"))


@pytest.fixture(params=["asgi", "wsgi"])
def browser(request: pytest.FixtureRequest) -> Browser:
    return Browser(Site(request.param))


# --- tokens in bodies ---


def test_a_guest_signs_in_and_keeps_what_it_had(client: Client) -> None:
    """The application's own function moves the cart: it is asked while the guest is current."""
    carts: dict[str, list[str]] = {}

    def resolving(who: Any) -> str:
        guest = current_principal(ConsumerPrincipal, optional=True)
        assert (who.org, who.provider, who.issuer) == (ORG, "otp", "email")
        if guest is not None:
            carts["cons_1"] = carts.pop(guest.subject)
        return "cons_1"

    client.site.resolving = resolving
    guest = client.post("/auth/guest").json
    assert guest["session"]["type"] == "guest"
    carts[guest["session"]["subject"]] = ["skates"]
    signed_in = client.sign_in(token=guest["accessToken"])
    assert signed_in.status == 200
    assert signed_in.cookies == {}
    assert signed_in.header("cache-control") == "no-store"
    said = signed_in.json
    assert (said["session"]["type"], said["session"]["subject"]) == ("authenticated", "cons_1")
    assert carts == {"cons_1": ["skates"]}
    assert client.get("/card", said["accessToken"]).status == 200
    assert client.post("/auth/refresh", refreshToken=guest["refreshToken"]).status == 401  # session fixation
    assert client.get("/me", guest["accessToken"]).status == 401
    following = client.post("/auth/refresh", refreshToken=said["refreshToken"])
    assert following.header("cache-control") == "no-store"
    assert client.get("/me", following.json["accessToken"]).json["who"] == "cons_1"


def test_whoever_has_a_session_is_given_no_guests(client: Client) -> None:
    anna = client.sign_in().json
    assert client.post("/auth/guest", token=anna["accessToken"]).status == 409
    assert len(client.site.rows()) == 1
    web = Browser(Site(client.site.adapter))
    web.guest()
    assert web.guest().status == 409
    assert web.get("/me").json["guest"] is True


def test_signing_in_again_is_a_step_up(client: Client) -> None:
    first = client.sign_in().json
    client.site.clock.advance(61)
    second = client.sign_in(token=first["accessToken"]).json
    assert second["session"]["id"] != first["session"]["id"]
    assert client.get("/me", first["accessToken"]).status == 401  # ASVS 7.2.4
    assert len([row for row in client.site.rows() if row.revoked_at is None]) == 1


def test_refresh_body_and_cookie(client: Client) -> None:
    """An attacker's token in the body and the victim's cookie: whose session the answer would be is nobody's guess."""
    own, other = client.sign_in().json, client.sign_in("bert@shop.example").json
    cookie = ("Cookie", f"{REFRESH}={own['refreshToken']}")
    before = client.site.rows()
    assert client.post("/auth/refresh", cookie, refreshToken=other["refreshToken"]).status == 400
    assert client.site.rows() == before
    web = Browser(Site(client.site.adapter))
    web.sign_in()
    assert web.post("/auth/refresh", refreshToken=other["refreshToken"]).status == 400
    assert web.post("/auth/refresh").status == 200


def test_refresh_of_nothing(client: Client) -> None:
    assert client.post("/auth/refresh").status == 401
    assert client.post("/auth/refresh", ("Cookie", f"{REFRESH}=rt_x")).status == 401  # body transport reads no cookie
    for token in ("", "rt_x", 7, None, ["rt"]):
        assert client.post("/auth/refresh", refreshToken=token).status in {400, 401}
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        assert client.site.ask(method, "/auth/refresh", []).status == 405


def test_a_device_that_is_remembered(client: Client) -> None:
    device = client.sign_in().json["device"]
    assert client.post("/auth/otp/request", address=ANNA, device=device).status == 200
    assert client.site.code()
    assert len(client.site.sent) == 2
    assert client.post("/auth/otp/request", address=ANNA, device="dev_made_up").status == 200
    assert len(client.site.sent) == 2  # a stranger's request, a minute too soon


def test_sessions_for_a_settings_page(client: Client) -> None:
    phone = client.sign_in().json
    client.site.clock.advance(61)
    laptop = client.sign_in().json
    other = client.sign_in("bert@shop.example").json
    listed = client.get("/auth/sessions", laptop["accessToken"]).json["sessions"]
    assert {each["id"]: each["current"] for each in listed} == {
        phone["session"]["id"]: False, laptop["session"]["id"]: True,
    }  # fmt: skip
    stolen = client.post("/auth/sessions/revoke", token=laptop["accessToken"], session=other["session"]["id"])
    assert stolen.status == 404  # another's session is not there
    assert client.get("/me", other["accessToken"]).status == 200
    ended = client.post("/auth/sessions/revoke", token=laptop["accessToken"], session=phone["session"]["id"])
    assert (ended.status, ended.json) == (200, {"ended": 1})
    assert client.get("/me", phone["accessToken"]).status == 401
    client.site.clock.advance(61)
    tablet = client.sign_in().json
    assert client.post("/auth/sessions/revoke", token=laptop["accessToken"], others=True).json == {"ended": 1}
    assert client.get("/me", tablet["accessToken"]).status == 401
    assert client.get("/me", laptop["accessToken"]).status == 200
    assert client.get("/auth/sessions", "none").status == 401
    assert client.post("/auth/sessions/revoke", others=True).status == 401


def test_sign_out_here_and_everywhere(client: Client) -> None:
    first = client.sign_in().json
    client.site.clock.advance(61)
    second = client.sign_in().json
    out = client.post("/auth/logout", token=first["accessToken"])
    assert (out.status, out.raw, out.cookies) == (204, b"", {})
    assert client.get("/me", first["accessToken"]).status == 401
    assert client.get("/me", second["accessToken"]).status == 200
    client.site.clock.advance(61)
    third = client.sign_in().json
    assert client.post("/auth/logout", token=third["accessToken"], everywhere=True).status == 204
    assert client.get("/me", second["accessToken"]).status == 401
    assert client.post("/auth/logout").status == 401


def test_guest_flood_rows_bounded(client: Client) -> None:
    """Whoever starts a thousand guests writes no row, and no event in the store."""
    for _ in range(1000):
        assert client.post("/auth/guest").status == 200
    assert client.site.rows() == []


def test_otp_64_parallel_guesses_count_64(client: Client) -> None:
    asked = client.post("/auth/otp/request", address=ANNA).json
    right = client.site.code()
    guesses = [str((int(right) + n) % 10**6).zfill(6) for n in range(1, 65)]
    with ThreadPoolExecutor(8) as pool:
        said = pool.map(
            lambda code: client.post("/auth/otp/verify", requestId=asked["requestId"], code=code, address=ANNA), guesses
        )
        answers = list(said)
    assert {(answer.status, answer.json["code"]) for answer in answers} == {(401, "invalid_code")}
    assert sum(event.reason == "code_wrong" for event in client.site.kit.events if event.name == "code.refused") == 5
    last = client.post("/auth/otp/verify", requestId=asked["requestId"], code=right, address=ANNA)
    assert last.status == 401


def test_otp_timing_known_unknown(client: Client) -> None:
    """What the application does with a code is nobody's wait: a slow mailer for those it knows tells nothing."""
    import threading

    held = threading.Event()
    deliver = client.site.deliver

    def slow(address: str, pending: Any) -> None:
        if address == ANNA:
            assert held.wait(30)
        deliver(address, pending)

    security = client.site.kit.security
    common: Any = {"deliver": slow, "resolve": lambda _: "cons_1", "org": ORG}
    client.site._auth, client.site._wsgi_auth = session_app(security, **common), session_wsgi(security, **common)
    known = client.post("/auth/otp/request", address=ANNA)  # it would hang here
    unknown = client.post("/auth/otp/request", address="nobody@shop.example")
    assert known.json.keys() == unknown.json.keys()
    assert [len(reply.raw) for reply in (known, unknown)] == [len(known.raw)] * 2
    held.set()
    client.site.code()
    client.site.code()
    assert {address for address, _ in client.site.sent} == {ANNA, "nobody@shop.example"}


def test_a_code_that_cannot_be_sent_is_an_event_and_the_same_answer(client: Client) -> None:
    def fails(_: str, __: Any) -> None:
        raise OSError("no route to the mail server")

    security = client.site.kit.security
    common: Any = {"deliver": fails, "resolve": lambda _: "cons_1", "org": ORG}
    client.site._auth, client.site._wsgi_auth = session_app(security, **common), session_wsgi(security, **common)
    assert client.post("/auth/otp/request", address=ANNA).status == 200
    security._shared.deliveries.close()
    assert client.site.events("code.undelivered") == 1


def test_otp_mail_bomb(client: Client) -> None:
    answers = [client.post("/auth/otp/request", address=spelled) for spelled in (ANNA, "ANNA@shop.example", ANNA) * 20]
    assert {answer.status for answer in answers} == {200}
    assert len({len(answer.raw) for answer in answers}) == 1
    client.site.kit.security._shared.deliveries.close()
    assert len(client.site.sent) == 1


def test_otp_tries_survive_new_code(client: Client) -> None:
    for asks in range(2):
        asked = client.post("/auth/otp/request", address=ANNA).json
        wrong = str((int(client.site.code()) + 1) % 10**6).zfill(6)
        for _ in range(5):
            assert client.post("/auth/otp/verify", requestId=asked["requestId"], code=wrong, address=ANNA).status == 401
        client.site.clock.advance(61)
        assert asks < 2
    client.post("/auth/otp/request", address=ANNA)
    assert len(client.site.code()) == 8


def test_resolve_that_fails_signs_nobody_in(client: Client) -> None:
    def fails(_: Any) -> str:
        raise LookupError

    for resolving in (fails, lambda _: None, lambda _: "", lambda _: "x" * 129, lambda _: 7):
        client.site.resolving = resolving  # type: ignore[assignment]
        client.site.clock.advance(3700)
        assert client.sign_in().status == 503
    assert client.site.rows() == []


# --- exchange codes ---


def test_exchange_double_submit(client: Client) -> None:
    code = client.authorize(codeChallenge=CHALLENGE).json["exchangeCode"]
    sent = {"exchangeCode": code, "codeVerifier": VERIFIER}
    first, second = (client.post("/auth/external/exchange", **sent) for _ in range(2))
    assert first.json["session"]["id"] == second.json["session"]["id"]
    assert first.json["refreshToken"] == second.json["refreshToken"]
    client.site.clock.advance(11)
    stranger = client.post("/auth/external/exchange", exchangeCode=code, codeVerifier="w" * 43)
    assert stranger.status == 401
    assert client.get("/me", first.json["accessToken"]).status == 200  # who has the code alone cancels nothing
    assert client.post("/auth/external/exchange", **sent).status == 401
    assert client.get("/me", first.json["accessToken"]).status == 401


def test_exchange_double_submit_of_a_guest(browser: Browser) -> None:
    client = Client(browser.site)
    browser.guest()
    code = client.authorize(codeChallenge=CHALLENGE).json["exchangeCode"]
    tab = browser.copy()
    first = browser.post("/auth/external/exchange", exchangeCode=code, codeVerifier=VERIFIER)
    second = tab.post("/auth/external/exchange", exchangeCode=code, codeVerifier=VERIFIER)
    assert (first.status, second.status) == (200, 200)
    assert first.json["session"]["id"] == second.json["session"]["id"]
    assert tab.get("/me").status == 200


def test_exchange_login_csrf(browser: Browser) -> None:
    """An attacker hands their own code to a victim's browser, by a form or a link."""
    client = Client(browser.site)
    code = client.authorize(codeChallenge=CHALLENGE).json["exchangeCode"]
    for origin in ("https://evil.example", None):
        refused = browser.post("/auth/external/exchange", origin=origin, exchangeCode=code, codeVerifier=VERIFIER)
        assert refused.status == 403
    victims = browser.post("/auth/external/exchange", exchangeCode=code, codeVerifier="x" * 43)  # by a page of ours
    assert victims.status == 401
    assert browser.post("/auth/external/exchange", exchangeCode=code).status == 400  # cookies need the proof
    assert client.authorize().status == 400
    assert browser.jar == {}


def test_who_may_say_who_somebody_is(client: Client) -> None:
    weak = client.site.kit.key(org=ORG, scopes={"orders:read"}).key
    good = client.secret
    client.secret = weak
    assert client.authorize().status == 403
    client.secret = good
    assert client.authorize(provider="otp", issuer="email", subject=ANNA).status == 400  # that only a code says
    for more in (
        {"subject": ""},
        {"subject": "x" * 256},
        {"issuer": None},
        {"org": "org_2"},
        {"codeChallenge": "short"},
    ):
        assert client.authorize(**more).status == 400
    body = json.dumps({"provider": "oidc", "issuer": "i", "subject": "s"}).encode()
    headers = [("X-Publishable-Key", client.key), ("Content-Type", "application/json")]
    assert client.site.ask("POST", "/auth/external/authorize", headers, body).status in {401, 403}
    other = Client(client.site)
    other.key = client.site.kit.key(org="org_2", kind="publishable").key
    code = client.authorize().json["exchangeCode"]
    assert other.post("/auth/external/exchange", exchangeCode=code).status == 401
    assert client.post("/auth/external/exchange", exchangeCode=code).status == 200


def test_nothing_is_linked_by_a_mail_address(client: Client) -> None:
    """Somebody else at another provider has the same address, or says so."""
    seen = []

    def resolving(who: Any) -> str:
        seen.append((who.provider, who.issuer, who.subject))
        return f"cons_{len(set(seen))}"

    client.site.resolving = resolving
    one = client.sign_in().json
    code = client.authorize(provider="evil", issuer="email", subject=ANNA).json["exchangeCode"]
    two = client.post("/auth/external/exchange", exchangeCode=code).json
    assert one["session"]["subject"] != two["session"]["subject"]
    assert seen == [("otp", "email", ANNA), ("evil", "email", ANNA)]


# --- tokens in cookies ---


def test_cookies_carry_tokens_and_bodies_do_not(browser: Browser) -> None:
    guest = browser.guest()
    assert set(guest.cookies) == {ACCESS, REFRESH}
    assert set(guest.json) == {"session"}
    signed_in = browser.sign_in()
    assert set(signed_in.cookies) == {ACCESS, REFRESH, DEVICE}
    assert set(signed_in.json) == {"session"}
    assert set(browser.jar) == {ACCESS, REFRESH, DEVICE, PRE}
    refreshed = browser.post("/auth/refresh")
    assert set(refreshed.cookies) == {ACCESS, REFRESH}
    assert refreshed.header("cache-control") == "no-store"
    for reply in (guest, signed_in, refreshed):
        for token in reply.cookies.values():
            assert token.encode() not in reply.raw


@pytest.mark.parametrize("path", ["guest", "otp/request", "otp/verify", "external/exchange", "refresh", "logout"])
@pytest.mark.parametrize("headers", [
    [("Origin", "https://evil.example")], [("Origin", "null")], [("Sec-Fetch-Site", "cross-site")], [],
])  # fmt: skip
def test_login_csrf_cross_site_no_cookie(browser: Browser, path: str, headers: list[tuple[str, str]]) -> None:
    """Without any cookie too: whoever is signed in by a stranger's page is signed in as that stranger."""
    refused = browser.post(f"/auth/{path}", *headers, origin=None)
    assert (refused.status, browser.site.reason) == (403, "origin_not_allowed")
    assert refused.cookies == {}


def test_csrf_on_refresh(browser: Browser) -> None:
    browser.sign_in()
    browser.site.clock.advance(400)
    before = browser.site.rows()
    for origin in ("https://evil.example", "null", None):
        assert browser.post("/auth/refresh", origin=origin).status == 403
    assert browser.get("/auth/refresh").status == 405
    assert browser.site.rows() == before
    assert browser.post("/auth/refresh").status == 200


def test_logout_csrf(browser: Browser) -> None:
    browser.sign_in()
    assert browser.post("/auth/logout", origin="https://evil.example").status == 403
    assert browser.get("/me").status == 200


def test_cookie_not_cleared_by_loser(browser: Browser) -> None:
    """Of tabs that refresh at once none takes the cookies of the others away, nor does one that comes too late."""
    browser.sign_in()
    browser.site.clock.advance(400)
    tabs = [browser.copy() for _ in range(4)]
    replies = [tab.post("/auth/refresh") for tab in tabs]
    assert [reply.status for reply in replies] == [200] * 4
    assert len({reply.cookies[REFRESH] for reply in replies}) == 1
    browser.jar = tabs[0].jar
    late = browser.copy()
    browser.site.clock.advance(61)
    assert browser.sign_in().status == 200
    refused = late.post("/auth/refresh")  # its session was replaced by the one of the other tab
    assert (refused.status, refused.cookies) == (401, {})
    assert browser.get("/me").status == 200


def test_dead_cookies_are_taken_away_by_refresh_alone(browser: Browser) -> None:
    browser.sign_in()
    browser.site.blocking.revoke(str(browser.session), org=ORG)
    refused = browser.post("/auth/refresh")
    assert refused.status == 401
    assert refused.cookies == {ACCESS: "", REFRESH: "", BIND: ""}
    assert REFRESH not in browser.jar
    forged = browser.site.ask("POST", "/auth/refresh", [("Origin", ORIGIN), ("Cookie", f"{REFRESH}=rt_forged")])
    assert (forged.status, forged.cookies) == (401, {})
    assert browser.post("/auth/refresh").status == 401


def test_reuse_takes_the_cookies_away(browser: Browser) -> None:
    browser.sign_in()
    thief = browser.copy()
    for _ in range(2):
        browser.site.clock.advance(400)
        assert browser.post("/auth/refresh").status == 200
        assert browser.get("/me").status == 200
    caught = thief.post("/auth/refresh")
    assert (caught.status, browser.site.events("session.reused")) == (401, 1)
    assert caught.cookies == {ACCESS: "", REFRESH: "", BIND: ""}
    assert browser.get("/me").status == 401


def test_logout_keeps_sibling_app_cookies(browser: Browser) -> None:
    """`Clear-Site-Data: "cookies"` would clear those of every application under the registrable domain."""
    browser.sign_in()
    out = browser.post("/auth/logout")
    assert out.status == 204
    assert out.header("clear-site-data") == '"cache", "storage"'
    assert out.cookies == {ACCESS: "", REFRESH: "", BIND: ""}
    assert set(browser.jar) == {DEVICE, PRE}
    assert browser.get("/me").status == 401
    assert browser.post("/auth/logout").status == 204  # again, with nothing
    assert all(row.revoked_at is not None for row in browser.site.rows())


def test_logout_of_a_session_that_has_to_be_renewed(browser: Browser) -> None:
    browser.sign_in()
    browser.site.clock.advance(400)
    out = browser.post("/auth/logout")
    assert (out.status, out.cookies) == (204, {ACCESS: "", REFRESH: "", BIND: ""})
    (row,) = browser.site.rows()
    assert row.revoked_at is not None
    assert row.generation == 0


def test_a_code_is_of_the_browser_that_asked(browser: Browser) -> None:
    """Who reads the code over a shoulder, and the id in the page, has not its cookie."""
    asked = browser.post("/auth/otp/request", address=ANNA)
    sent = {"requestId": asked.json["requestId"], "code": browser.site.code(), "address": ANNA}
    assert Browser(browser.site).post("/auth/otp/verify", **sent).status == 401
    assert browser.post("/auth/otp/verify", **sent).status == 200


def test_otp_stranger_cannot_lock_owner_device(browser: Browser) -> None:
    browser.sign_in()
    browser.post("/auth/logout")
    stranger = Browser(browser.site)
    for _ in range(12):
        browser.site.clock.advance(61)
        stranger.post("/auth/otp/request", address=ANNA)
    browser.site.kit.security._shared.deliveries.close()
    many = len(browser.site.sent)
    assert stranger.post("/auth/otp/request", address=ANNA).status == 200
    while browser.site.mailed.acquire(blocking=False):
        pass
    assert browser.sign_in().status == 200
    assert len(browser.site.sent) == many + 1


# --- whatever is sent ---


@pytest.mark.parametrize("body", [
    b"{", b"[]", b"7", b'"x"', b'{"address":1}', b'{"address":null}', b'{"address":"a@b.example","x":1}', b"\xff",
    b'{"address":"a@b.example","address":"c@d.example"}', b'{"address":"\\ud800@b.example"}', b"[" * 10_000, b"{}",
    b'{"address":"a@b.example","device":7}',
])  # fmt: skip
def test_bodies_that_are_none(client: Client, body: bytes) -> None:
    headers = [("X-Publishable-Key", client.key), ("Content-Type", "application/json")]
    assert client.site.ask("POST", "/auth/otp/request", headers, body).status == 400


def test_simple_request_text_plain_json(client: Client) -> None:
    """What a form of another origin can send is no JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        headers = [("X-Publishable-Key", client.key), ("Content-Type", kind)]
        assert client.site.ask("POST", "/auth/otp/request", headers, b'{"address":"a@b.example"}').status == 400


def test_a_body_that_is_too_large(client: Client) -> None:
    assert client.post("/auth/otp/request", address="a" * 20_000).status == 413


def test_paths_that_are_none(client: Client) -> None:
    assert client.post("/auth/nothing").status == 404
    assert client.post("/auth/otp").status == 404
    assert client.post("/auth/sessions").status == 405
    assert client.post("/auth/guest/").status == 200


def test_nobody_is_signed_in_for_no_organization(client: Client) -> None:
    security = client.site.kit.security
    common: Any = {"deliver": lambda _, __: None, "resolve": lambda _: "cons_1"}
    client.site._auth, client.site._wsgi_auth = session_app(security, **common), session_wsgi(security, **common)
    assert client.site.ask("POST", "/auth/guest", []).status == 401
    assert client.post("/auth/guest").status == 200


def test_async_functions_are_for_asgi() -> None:
    async def deliver(_: str, __: Any) -> None:
        """Send."""

    with pytest.raises(Misuse):
        session_wsgi(Kit().security, deliver=deliver, resolve=lambda _: "x")
    sent = []

    async def delivered(address: str, _: Any) -> None:
        sent.append(address)

    async def resolve(_: Any) -> str:
        return "cons_async"

    site = Site("asgi", transport="body")
    site._auth = session_app(site.kit.security, deliver=delivered, resolve=resolve, org=ORG)
    assert Client(site).post("/auth/otp/request", address=ANNA).status == 200
    deadline = time.monotonic() + 30
    while not sent and time.monotonic() < deadline:
        pass
    assert sent == [ANNA]


def test_closing_waits_for_codes_that_are_on_their_way() -> None:
    sent = []

    async def deliver(address: str, _: Any) -> None:
        for _again in range(20):
            await asyncio.sleep(0)
        sent.append(address)

    site = Site("asgi", transport="body")
    site._auth = session_app(site.kit.security, deliver=deliver, resolve=lambda _: "cons_1", org=ORG)
    body = json.dumps({"address": ANNA}).encode()

    async def story() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(_: Any) -> None:
            """Nobody looks at it."""

        async with site.kit.security:
            headers = [("Content-Type", "application/json")]
            await site._asgi(site.scope("POST", "/auth/otp/request", headers), receive, send)
            assert sent == []
        assert sent == [ANNA]

    asyncio.run(story())


def test_no_gate_no_service() -> None:
    site = Site("wsgi", transport="body")
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/guest", "wsgi.url_scheme": "https"}
    with pytest.raises(Misuse):
        site._wsgi_auth({**environ, "wsgi.input": io.BytesIO(), "CONTENT_LENGTH": ""}, lambda *_: None)


def test_codes_that_nobody_can_carry_off_are_dropped_and_told(client: Client) -> None:
    """A mailer that hangs holds no more than so many of them, and no request."""
    import threading

    from bartizan.stores.waits import Afterwards

    held = threading.Event()
    security = client.site.kit.security
    security._shared.deliveries = Afterwards(6)
    common: Any = {"deliver": lambda _, __: held.wait(30), "resolve": lambda _: "cons_1", "org": ORG}
    client.site._auth, client.site._wsgi_auth = session_app(security, **common), session_wsgi(security, **common)
    for n in range(20):
        assert client.post("/auth/otp/request", address=f"a{n}@shop.example").status == 200
    held.set()
    security._shared.deliveries.close()
    assert client.site.events("code.undelivered") == 14


def test_what_holds_a_secret_is_not_pickled(client: Client) -> None:
    import pickle

    pending = client.site.kit.security.blocking.signin.request_code(org=ORG, address=ANNA)
    pair = client.site.blocking.start(org=ORG, subject="cons_1")
    for value in (pending, pair, *pair.cookies):
        with pytest.raises(Misuse):
            pickle.dumps(value)
        assert str(pending.code) not in repr(value)
        assert pair.access_token not in repr(value)


@pytest.mark.parametrize("adapter", ["asgi", "wsgi"])
def test_otp_sms_country(adapter: str) -> None:
    """Codes cost money where nobody lives whom the shop serves: numbers of other countries are sent none."""
    site = Site(adapter, transport="body", signin=SigninPolicy(countries={"+49"}, daily_ceiling=2))
    client = Client(site)
    for number in ("+18765550100", "+882161234567", "+44 20 7946 0000"):
        assert client.post("/auth/otp/request", address=number).status == 400
    answers = [client.post("/auth/otp/request", address=f"+49 151 2345678{n}") for n in range(4)]
    assert {answer.status for answer in answers} == {200}
    assert len({len(answer.raw) for answer in answers}) == 1
    site.kit.security._shared.deliveries.close()
    assert [address for address, _ in site.sent] == ["+4915123456780", "+4915123456781"]
    assert client.post("/auth/otp/request", address=ANNA).status == 200  # mail is not what is bounded by it


def test_hang_up_after_wrong_code() -> None:
    """Who hangs up, wherever the request is, has used a try up if the code was compared."""
    site = Site("asgi", transport="body")
    client = Client(site)
    asked = client.post("/auth/otp/request", address=ANNA).json["requestId"]
    wrong = str((int(site.code()) + 1) % 10**6).zfill(6)
    sent = json.dumps({"requestId": asked, "code": wrong, "address": ANNA}).encode()
    headers = [("X-Publishable-Key", client.key), ("Content-Type", "application/json")]

    async def once(moment: int) -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(_: Any) -> None:
            await asyncio.sleep(0)

        await ended(moment, site._asgi(site.scope("POST", "/auth/otp/verify", headers), receive, send))

    for moment in range(1, 12):
        asyncio.run(once(moment))
        (row,) = run(site.backend.find(CODES, ()))
        compared = sum(event.reason == "code_wrong" for event in site.kit.events if event.name == "code.refused")
        assert row.tries == 5 - compared
    assert run(site.backend.find(CODES, ()))[0].tries == 0
    right = {"requestId": asked, "code": site.sent[-1][1], "address": ANNA}
    assert client.post("/auth/otp/verify", **right).status == 401


SITES = {kind: Client(Site(adapter, transport=kind)) for kind, adapter in (("body", "asgi"), ("cookie", "wsgi"))}
PATHS = ["guest", "otp/request", "otp/verify", "external/authorize", "external/exchange", "refresh", "logout",
         "sessions/revoke", "sessions", "nothing"]  # fmt: skip
FIELDS = st.sampled_from([
    "address", "requestId", "code", "device", "provider", "issuer", "subject", "codeChallenge", "exchangeCode",
    "codeVerifier", "refreshToken", "session", "everywhere", "others",
])  # fmt: skip
PLAUSIBLE = st.sampled_from(
    [ANNA, "123456", "otp_AQ.x", "exc_AQ.x", "rt_AQ.x", "dev_AQ.x", "0" * 32, "v" * 43, "", True]
)
VALUES = st.one_of(PLAUSIBLE, st.text(max_size=40), st.none(), st.booleans(), st.integers(), st.lists(st.integers()))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*SITES]), st.sampled_from(PATHS), st.dictionaries(FIELDS, VALUES, max_size=4), st.booleans())
def test_whatever_is_sent_is_an_answer_or_a_refusal(kind: str, path: str, sent: dict[str, Any], own: bool) -> None:
    client = SITES[kind]
    headers = [("Origin", ORIGIN)] if kind == "cookie" else []
    if own:
        pair = client.site.blocking.start(org=ORG, subject="cons_1")
        if kind == "cookie":
            headers.append(("Cookie", "; ".join(each.header().partition(";")[0] for each in pair.cookies)))
        else:
            headers.append(("Authorization", f"Bearer {pair.access_token}"))
    assert client.post(f"/auth/{path}", *headers, **sent).status < 500


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(
    st.sampled_from([ACCESS, REFRESH, PRE, DEVICE, "theme", "", " ", "__Host-"]),
    st.sampled_from(["", "=", "=rt_AQ.x", "=eyJ.x.y", '="x"', "=\x00", "=\xff", " =x", "=" + "A" * 9000]),
), max_size=4), st.sampled_from([";", "; ", ",", "=", ""]))  # fmt: skip
def test_whatever_cookies_come_are_read_or_refused(parts: list[tuple[str, str]], between: str) -> None:
    text = between.join(name + value for name, value in parts)
    for path in ("/", "/me", "/about"):
        reply = SITES["cookie"].site.ask("GET", path, [("Cookie", text)])
        assert reply.status in {200, 400, 401}
        assert b"who" not in reply.raw
