"""Websockets of pages, which can set no header: tickets and tokens as a subprotocol, by real clients on uvicorn."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import websockets.exceptions
from cookie_places import ORIGIN, Browser, Site
from outside import Provider
from servers import serving
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.sync.client import ClientConnection, connect

from bartizan import Issuer, Misuse, Rule, SessionPolicy, allow, asgi, current_principal
from bartizan.core.principal import NOBODY, Presence, current_unit
from bartizan.core.request import Request
from bartizan.errors import InvalidToken, Reason, Unauthenticated
from bartizan.integrations import starlette
from bartizan.testing import Kit, ProofKey, acting_as
from bartizan.testing.kit import headers_of

RULES = [
    Rule("WEBSOCKET /live", allow.consumer()),
    Rule("WEBSOCKET /other", allow.consumer()),
    Rule("WEBSOCKET /orders", allow.consumer("orders:read")),
    Rule("WEBSOCKET /maybe", allow.optional(allow.consumer())),
    Rule("WEBSOCKET /public", allow.public()),
    Rule("WEBSOCKET /away", allow.untouched()),
    Rule("WEBSOCKET /key", allow.secret_key() | allow.consumer()),
    Rule("GET /live", allow.consumer()),
]
OFFERED = ["bartizan", "graphql-transport-ws"]

seen: list[Any] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says what it was offered and who is calling, and then echoes."""
    if scope["type"] != "websocket":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    await receive()
    offered = scope["subprotocols"]
    chosen = next((name for name in offered if name.startswith("graphql")), None)
    await send({"type": "websocket.accept", **({} if chosen is None else {"subprotocol": chosen})})
    who = None if scope["path"] in {"/public", "/away"} else current_principal(optional=True)  # type: ignore[call-overload]
    await send({"type": "websocket.send", "text": json.dumps({"offered": offered, "who": who and who.actor})})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    seen.append(message)


@pytest.fixture
def kit() -> Kit:
    seen.clear()
    return Kit(staleness=0, origins=[ORIGIN])


@pytest.fixture(params=["websockets-sansio", "wsproto"])
def port(request: pytest.FixtureRequest, kit: Kit) -> Iterator[int]:
    gate = kit.security.gate(RULES)
    with serving(asgi.GateMiddleware(app, gate), ws=request.param, timeout_graceful_shutdown=1) as number:
        yield number


def ticket(kit: Kit, path: str = "/live", token: str | None = None, **fields: Any) -> str:
    sessions = kit.security.blocking.sessions
    pair = token or sessions.start(**{"org": "org_1", "subject": "anna", **fields}).access_token
    with acting_as(sessions.authenticate(pair), of=kit):
        return sessions.ticket(path=path)


def opened(
    port: int, text: str, *, path: str = "/live", more: list[str] | None = None, **headers: str
) -> ClientConnection:
    offered: Any = ["bartizan", text, *(more or [])]
    return connect(f"ws://127.0.0.1:{port}{path}", subprotocols=offered, additional_headers=headers)


def told(connection: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(connection.recv(timeout=10))
    return found


def refused(kit: Kit, port: int, text: str, reason: Reason, status: int = 401, **more: Any) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        opened(port, text, **more)
    assert (caught.value.response.status_code, kit.events[-1].reason) == (status, reason)


@pytest.mark.parametrize("guest", [False, True])
def test_a_ticket_opens_its_websocket(port: int, kit: Kit, guest: bool) -> None:
    with opened(port, ticket(kit, guest=guest)) as connection:
        assert told(connection) == {"offered": [], "who": "consumer:anna"}
        assert connection.subprotocol == "bartizan", "a browser closes where none of its offers is chosen"
        connection.send("more")
        assert connection.recv(timeout=10) == "more"


def test_the_application_chooses_what_else_is_offered(port: int, kit: Kit) -> None:
    with opened(port, ticket(kit), more=["graphql-transport-ws"]) as connection:
        assert told(connection)["offered"] == ["graphql-transport-ws"]
        assert connection.subprotocol == "graphql-transport-ws"


def test_an_access_token_opens_it_too(port: int, kit: Kit) -> None:
    token = kit.token(org="org_1", subject="anna", scopes={"orders:read"})
    for path in ("/live", "/orders", "/maybe", "/key"):
        with opened(port, token, path=path) as connection:
            assert told(connection)["who"] == "consumer:anna"


def test_ticket_second_use(port: int, kit: Kit) -> None:
    text = ticket(kit)
    with opened(port, text) as connection:
        told(connection)
    refused(kit, port, text, Reason.ALREADY_USED)


def test_ticket_by_many_at_once(port: int, kit: Kit) -> None:
    text, opens, barrier = ticket(kit), [], threading.Barrier(8)

    def one() -> None:
        barrier.wait()
        try:
            with opened(port, text) as connection:
                opens.append(told(connection)["who"])
        except websockets.exceptions.InvalidStatus:
            pass

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opens == ["consumer:anna"]


def test_ticket_other_path(port: int, kit: Kit) -> None:
    text = ticket(kit)
    for path in ("/other", "/live/", "/maybe"):
        refused(kit, port, text, Reason.FORGED, path=path)
    with opened(port, text) as connection:
        assert told(connection)["who"] == "consumer:anna"


def test_ticket_after_half_a_minute(port: int, kit: Kit) -> None:
    text = ticket(kit)
    kit.clock.advance(30)
    refused(kit, port, text, Reason.EXPIRED)


def test_ticket_of_a_session_that_has_ended(port: int, kit: Kit) -> None:
    pair = kit.security.blocking.sessions.start(org="org_1", subject="anna")
    text = ticket(kit, token=pair.access_token)
    kit.security.blocking.sessions.revoke(pair.session.id, org="org_1")
    refused(kit, port, text, Reason.SESSION_REVOKED)


def test_ticket_of_another_environment_or_instance(port: int, kit: Kit) -> None:
    refused(kit, port, ticket(Kit(origins=[ORIGIN])), Reason.FORGED)


def test_a_ticket_has_the_scopes_of_its_session(port: int, kit: Kit) -> None:
    refused(kit, port, ticket(kit, "/orders"), Reason.SCOPE_MISSING, status=403, path="/orders")
    with opened(port, ticket(kit, "/orders", scopes={"orders:read"}), path="/orders") as connection:
        assert told(connection)["who"] == "consumer:anna"


def test_a_ticket_anywhere_else_is_refused(port: int, kit: Kit) -> None:
    text = ticket(kit)
    url = f"ws://127.0.0.1:{port}/live"
    for where, headers, reason in (
        (url, {"Authorization": f"Bearer {text}"}, Reason.WRONG_TOKEN_TYPE),
        (url, {"Authorization": f"DPoP {text}"}, Reason.WRONG_TOKEN_TYPE),
        (f"{url}?ticket={text}", {}, Reason.CREDENTIAL_IN_QUERY),
    ):
        with pytest.raises(websockets.exceptions.InvalidStatus):
            connect(where, additional_headers=headers)
        assert kit.events[-1].reason == reason
    assert by_http(kit, [("authorization", f"Bearer {text}")]) == Reason.WRONG_TOKEN_TYPE
    assert by_http(kit, [("sec-websocket-protocol", f"bartizan, {text}")]) == Reason.NO_CREDENTIAL
    with opened(port, text) as connection:
        assert told(connection)["who"] == "consumer:anna", "none of it used it up"


def by_http(kit: Kit, headers: list[tuple[str, str]]) -> str:
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    verdict: Any = kit.security.gate(RULES).blocking.check(Request("GET", "/live", pairs, None, "https"))
    reason: str = verdict.error.reason
    return reason


@pytest.mark.parametrize("offered", [
    ["bartizan"], ["x", "bartizan"], ["bartizan", "bartizan"], ["bartizan", "TOKEN", "bartizan"],
])  # fmt: skip
def test_an_offer_that_is_no_credential(port: int, kit: Kit, offered: list[str]) -> None:
    text = ticket(kit)
    line = ", ".join(text if name == "TOKEN" else name for name in offered)
    assert handshake(port, f"Sec-WebSocket-Protocol: {line}\r\n").startswith(b"HTTP/1.1 400")
    assert kit.events[-1].reason == Reason.CREDENTIALS_DISAGREE


def test_two_credentials_are_none(port: int, kit: Kit) -> None:
    token = kit.token(org="org_1", subject="anna")
    bearer = {"Authorization": f"Bearer {token}"}
    refused(kit, port, token, Reason.CREDENTIALS_DISAGREE, 400, **bearer)
    refused(kit, port, ticket(kit), Reason.CREDENTIALS_DISAGREE, 400, **bearer)


def test_the_lines_of_an_offer_are_one(port: int, kit: Kit) -> None:
    lines = f"Sec-WebSocket-Protocol: bartizan\r\nSec-WebSocket-Protocol: {ticket(kit)}\r\n"
    assert handshake(port, lines).startswith(b"HTTP/1.1 101")


def handshake(port: int, lines: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(
            f"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{lines}"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        return sock.recv(65536)


@pytest.mark.parametrize(
    "text", ["x", "rt_x", "ticket_x", "ticket_" + "A" * 100 + "." + "A" * 43, "eyJhbGciOiJub25lIn0.e30."]
)
def test_what_is_no_credential_of_ours(port: int, kit: Kit, text: str) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        opened(port, text)
    assert caught.value.response.status_code == 401


def test_a_key_is_no_subprotocol(port: int, kit: Kit) -> None:
    key = kit.key(org="org_1")
    refused(kit, port, key.key, Reason.MALFORMED_TOKEN, path="/key")
    with connect(f"ws://127.0.0.1:{port}/key", additional_headers=headers_of(key)) as connection:
        assert told(connection)["who"] == key.record.id.join(["sk_test_", ""])


def test_untouched_is_untouched(port: int) -> None:
    with opened(port, "graphql-x", path="/away") as connection:
        assert told(connection)["offered"] == ["bartizan", "graphql-x"]
    with opened(port, "x", path="/public") as connection:
        assert told(connection)["offered"] == []


def test_websocket_closed_after_revoke(port: int, kit: Kit) -> None:
    """A stream that a ticket opened outlives the ticket and its token, and ends with its session."""
    sessions = kit.security.blocking.sessions
    pair = sessions.start(org="org_1", subject="anna")
    with opened(port, ticket(kit, token=pair.access_token)) as connection:
        told(connection)
        kit.clock.advance(400)
        connection.send("still")
        assert connection.recv(timeout=10) == "still"
        sessions.revoke(pair.session.id, org="org_1")
        with pytest.raises(websockets.exceptions.ConnectionClosed) as caught:
            connection.recv(timeout=30)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4401


def test_a_bound_token_opens_nothing_and_its_ticket_does(port: int, kit: Kit) -> None:
    key = ProofKey(kit.clock)
    sessions = kit.security.blocking.sessions
    pair = sessions.start(org="org_1", subject="anna", proof=key.request("POST", f"{ORIGIN}/in"))
    token = pair.access_token
    refused(kit, port, token, Reason.TOKEN_BOUND)
    proof = key.headers("GET", f"{ORIGIN}/live", token=token, nonce=pair.dpop_nonce)
    refused(kit, port, token, Reason.TOKEN_BOUND, DPoP=proof["DPoP"])
    with connect(f"ws://127.0.0.1:{port}/live", additional_headers=proof) as connection:
        assert told(connection)["who"] == "consumer:anna"
    came = key.request("POST", f"{ORIGIN}/ticket", token=token, nonce=pair.dpop_nonce)
    with acting_as(sessions.authenticate(token, proof=came), of=kit):
        text = sessions.ticket(path="/live")
    with opened(port, text) as connection:
        assert told(connection)["who"] == "consumer:anna"


def test_a_page_with_cookies_has_one_session(kit: Kit) -> None:
    """The cookies of a page come along: they must be of the session of its ticket, and from a page of ours."""
    site = Site("asgi")
    browser, other = Browser(site), Browser(site)
    browser.sign_in()
    other.sign_in("ben@shop.example")
    cookies = browser.cookies()
    mine = ticket(site.kit, token=browser.jar["__Host-access"][0])
    theirs = ticket(site.kit, token=other.jar["__Host-access"][0])

    def status(text: str, *headers: tuple[str, str]) -> int:
        scope = {**site.scope("WEBSOCKET", "/live", [*headers]), "subprotocols": ["bartizan", text]}
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(site._asgi(scope, receive, send))
        return 101 if sent[0]["type"] == "websocket.accept" else 403

    assert status(theirs, ("Origin", ORIGIN), *cookies) == 403
    assert site.reason == Reason.CREDENTIALS_DISAGREE
    assert status(mine, ("Origin", "https://evil.example"), *cookies) == 403
    assert site.reason == Reason.ORIGIN_NOT_ALLOWED
    mine, theirs = (
        ticket(site.kit, token=browser.jar["__Host-access"][0]),
        ticket(site.kit, token=other.jar["__Host-access"][0]),
    )
    assert status(mine, ("Origin", ORIGIN), *cookies) == 101
    assert status(theirs) == 101


def test_a_member_s_token_opens_it() -> None:
    provider = Provider()
    issuer = Issuer(provider.url, organizations={"org_1"}, audience="dashboard", jwks=json.loads(provider.jwks))
    kit = Kit(issuers=[issuer])
    gate = kit.security.gate([Rule("WEBSOCKET /live", allow.member())])
    with serving(asgi.GateMiddleware(app, gate), ws="websockets-sansio", timeout_graceful_shutdown=1) as port:
        with opened(port, provider.token(kit.clock())) as connection:
            assert told(connection)["who"] is not None
        refused(kit, port, ticket(kit), Reason.WRONG_KIND, status=403)


def test_a_starlette_site_behind_install(kit: Kit) -> None:
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json({"offered": list(websocket.scope["subprotocols"])})
        await websocket.close()

    site = Starlette(routes=[WebSocketRoute("/live", live)])
    starlette.install(site, kit.security.gate(RULES))
    with serving(site, ws="wsproto", timeout_graceful_shutdown=1) as port, opened(port, ticket(kit)) as connection:
        assert told(connection) == {"offered": []}
        assert connection.subprotocol == "bartizan"


def test_what_a_program_does_wrong(kit: Kit) -> None:
    sessions = kit.security.blocking.sessions
    with pytest.raises(Misuse):
        sessions.ticket(path="/live")
    principal = sessions.authenticate(kit.token(org="org_1", subject="anna"))
    with acting_as(principal, of=kit):
        for path in ("live", "", "/live?x=1", "/live#x", 7):
            with pytest.raises(Misuse):
                sessions.ticket(path=path)  # type: ignore[arg-type]


def test_a_ticket_says_nothing_to_whoever_may_not_have_one(kit: Kit) -> None:
    before = current_unit.set(Presence(NOBODY, "GET"))
    try:
        with pytest.raises(Unauthenticated):
            kit.security.sessions.ticket(path="/live")
    finally:
        current_unit.reset(before)


def test_mutants_of_a_ticket(kit: Kit) -> None:
    text = ticket(kit)
    tickets = kit.security._shared.side.sessions._tickets
    for at in range(len(text)):
        for char in "Aa0_-.":
            mutant = text[:at] + char + text[at + 1 :]
            if mutant != text:
                with pytest.raises(InvalidToken):
                    tickets.read(mutant, "/live")
    assert tickets.read(text, "/live")[0].subject == "anna"


def test_policy_of_cookies_and_tickets() -> None:
    """A session that is bound to a cookie opens a websocket with its token where the cookie comes along."""
    kit = Kit(sessions=SessionPolicy(binding="cookie"))
    pair = kit.security.blocking.sessions.start(org="org_1", subject="anna")
    assert pair.bind is not None
    gate = kit.security.gate(RULES)
    with serving(asgi.GateMiddleware(app, gate), ws="wsproto", timeout_graceful_shutdown=1) as port:
        refused(kit, port, pair.access_token, Reason.SESSION_MISBOUND)
        jar = pair.bind.header().partition(";")[0]
        with opened(port, pair.access_token, Cookie=jar) as connection:
            assert told(connection)["who"] == "consumer:anna"
