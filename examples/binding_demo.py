"""What a stolen token is worth where sessions are bound to a key. `python binding_demo.py` prints the table.

A shop that signs consumers in, over real HTTP, through the ASGI and the WSGI adapter. Its clients have a key, and every
proof names the URL that the shop is known by; that they talk to a port of this machine makes no difference.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPConnection
from typing import Any, NamedTuple

from loopback import Awaited, asgi_served, wsgi_served
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from bartizan import ConsumerPrincipal, Rule, SessionPolicy, TokenPair, allow, asgi, current_principal, wsgi
from bartizan.testing import Kit, ProofKey

ORIGIN = "https://shop.example"
RULES = [
    Rule("GET /me", allow.consumer()),
    Rule("POST /sign-in", allow.public()),  # whatever proves who they are stands here
    Rule("POST /refresh", allow.public()),
    Rule("POST /ticket", allow.consumer()),
    Rule("WEBSOCKET /live", allow.consumer()),
]


class Row(NamedTuple):
    what: str
    expected: str
    found: str


def bound() -> Kit:
    """A service whose sessions are bound to their owner's key."""
    return Kit(origins=[ORIGIN], sessions=SessionPolicy(binding="dpop"))


class Shop:
    """The shop's handlers, over the sessions of one form: what they give is the answer's body."""

    def __init__(self, sessions: Any) -> None:
        self.sessions = sessions

    async def answered(self, path: str, request: Any, sent: dict[str, str]) -> dict[str, str]:
        """The body of a 200; what is refused is raised, and answered by the gate's adapter."""
        if path == "/sign-in":
            return told(await self.sessions.start(org="org_1", subject="anna", proof=request))
        if path == "/refresh":
            return told(await self.sessions.refresh(sent["refresh"], proof=request))
        me = current_principal(ConsumerPrincipal)
        return {"ticket": self.sessions.ticket(path="/live")} if path == "/ticket" else {"subject": me.subject}


def told(pair: TokenPair) -> dict[str, str]:
    return {
        "access": pair.access_token, "refresh": pair.refresh_token, "type": pair.token_type,
        "nonce": pair.dpop_nonce or "",
    }  # fmt: skip


def over_asgi(kit: Kit) -> Any:
    """The shop behind the gate, as ASGI."""
    shop = Shop(kit.security.sessions)

    async def application(scope: Any, receive: Any, send: Callable[[Any], Any]) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": current_principal(ConsumerPrincipal).subject})
            await send({"type": "websocket.close"})
            return
        sent = json.loads((await receive())["body"] or b"{}")
        body = json.dumps(await shop.answered(scope["path"], scope, sent)).encode()
        head = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    return asgi.GateMiddleware(application, kit.security.gate(RULES))


def over_wsgi(kit: Kit) -> Any:
    """The shop behind the gate, as WSGI."""
    shop = Shop(Awaited(kit.security.blocking.sessions, "ticket"))

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        sent = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"{}")
        body = json.dumps(asyncio.run(shop.answered(environ["PATH_INFO"], environ, sent))).encode()
        start_response("200 OK", [("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
        return [body]

    return wsgi.GateMiddleware(application, kit.security.gate(RULES))


class Answer(NamedTuple):
    status: int
    body: dict[str, str]
    challenge: str
    nonce: str | None

    def __str__(self) -> str:
        error = self.challenge.partition('error="')[2].partition('"')[0]
        return f"{self.status} {error or self.body.get('code', '')}".strip()


def rows(port: int, kit: Kit, *, sockets: bool) -> Iterator[Row]:
    """Every step, with what was expected of it."""
    key, thief = ProofKey(kit.clock), ProofKey(kit.clock)

    def ask(method: str, path: str, headers: dict[str, str], **sent: str) -> Answer:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path, json.dumps(sent).encode() if sent else b"", headers)
        answer = connection.getresponse()
        body = json.loads(answer.read() or b"{}")
        connection.close()
        return Answer(answer.status, body, answer.getheader("www-authenticate") or "", answer.getheader("dpop-nonce"))

    def url(path: str) -> str:
        return ORIGIN + path

    yield Row("sign in without a key", "401 invalid_dpop_proof", str(ask("POST", "/sign-in", {})))
    first = ask("POST", "/sign-in", key.headers("POST", url("/sign-in")))
    yield Row("sign in with a key", "200 DPoP", f"{first.status} {first.body.get('type')}")
    token, renewal, nonce = (first.body[name] for name in ("access", "refresh", "nonce"))
    mine = key.headers("GET", url("/me"), token=token, nonce=nonce)
    yield Row("the token, with a proof", "200", str(ask("GET", "/me", mine)))
    yield Row("the same proof again", "401 invalid_dpop_proof", str(ask("GET", "/me", mine)))
    bare = ask("GET", "/me", key.headers("GET", url("/me"), token=token))
    yield Row("a proof without the shop's nonce", "401 use_dpop_nonce", str(bare))
    again = ask("GET", "/me", key.headers("GET", url("/me"), token=token, nonce=bare.nonce))
    yield Row("and again, with the nonce that came", "200", str(again))
    elsewhere = key.headers("GET", "https://other.example/me", token=token, nonce=nonce)
    yield Row("a proof for another site", "401 invalid_dpop_proof", str(ask("GET", "/me", elsewhere)))
    stolen = ask("GET", "/me", {"Authorization": f"Bearer {token}"})
    yield Row("the stolen token, as Bearer", "401 invalid_token", str(stolen))
    other = ask("GET", "/me", thief.headers("GET", url("/me"), token=token, nonce=nonce))
    yield Row("the stolen token, with another key", "401 invalid_token", str(other))
    yield Row("the stolen refresh token", "401 invalid_session", str(ask("POST", "/refresh", {}, refresh=renewal)))
    other = ask("POST", "/refresh", thief.headers("POST", url("/refresh"), nonce=nonce), refresh=renewal)
    yield Row("the stolen refresh token, with another key", "401 invalid_session", str(other))
    kit.clock.advance(60)
    renewed = ask("POST", "/refresh", key.headers("POST", url("/refresh"), nonce=nonce), refresh=renewal)
    yield Row("its owner's refresh, a minute later", "200", str(renewed))
    token, nonce = (renewed.body.get(name, "") for name in ("access", "nonce"))
    me = ask("GET", "/me", key.headers("GET", url("/me"), token=token, nonce=nonce))
    yield Row("and the new token", "200", str(me))
    told = sum(event.name == "session.misbound" for event in kit.events)
    yield Row("events of tokens without their key", "4", str(told))
    if sockets:
        answer = ask("POST", "/ticket", key.headers("POST", url("/ticket"), token=token, nonce=nonce))
        ticket = answer.body.get("ticket", "-")
        yield Row("a websocket, by the token", "401", opened(port, token))
        yield Row("a websocket, by a ticket", "anna", opened(port, ticket))
        yield Row("the ticket again", "401", opened(port, ticket))


def opened(port: int, text: str) -> str:
    """What a page hears that says `new WebSocket(url, ["bartizan", text])`."""
    offered: Any = ["bartizan", text]
    try:
        with connect(f"ws://127.0.0.1:{port}/live", subprotocols=offered) as socket:
            return str(socket.recv(timeout=10))
    except InvalidStatus as refused:
        return str(refused.response.status_code)


def main() -> int:
    """Print every row through both adapters; how many rows differ."""
    wrong = 0
    for adapter, behind, served in (("asgi", over_asgi, asgi_served), ("wsgi", over_wsgi, wsgi_served)):
        kit = bound()
        with kit.security.blocking, served(behind(kit)) as port:
            for row in rows(port, kit, sockets=adapter == "asgi"):
                differs = row.found != row.expected
                wrong += differs
                print(f"{adapter}  {row.what:44} {row.expected:24} {row.found:24}" + ("  <-- WRONG" if differs else ""))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
