"""What becomes of a session: refreshed by six tabs at once, stolen, revoked. `python session_demo.py` prints the table.

A shop that signs consumers in, over real HTTP, through the ASGI and the WSGI adapter. The clock is turned, so that the
grace window of ten seconds passes at once.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any, NamedTuple

from loopback import Awaited, asgi_served, wsgi_served

from bartizan import ConsumerPrincipal, Rule, TokenPair, allow, asgi, current_principal, wsgi
from bartizan.testing import Kit

RULES = [
    Rule("GET /me", allow.consumer()),
    Rule("POST /sign-in", allow.public()),  # whatever proves who they are stands here
    Rule("POST /refresh", allow.public()),
    Rule("POST /logout", allow.consumer()),
]
TABS = 6


class Row(NamedTuple):
    what: str
    expected: str
    found: str


class Shop:
    """The shop's handlers, over the sessions of one form: what they give is the answer's body."""

    def __init__(self, sessions: Any) -> None:
        self.sessions = sessions

    async def answered(self, path: str, sent: dict[str, str]) -> dict[str, str]:
        """The body of a 200; what is refused is raised, and answered by the gate's adapter."""
        if path == "/sign-in":
            return told(await self.sessions.start(org="org_1", subject="anna"))
        if path == "/refresh":
            return told(await self.sessions.refresh(sent["refresh"]))
        me = current_principal(ConsumerPrincipal)
        if path == "/logout":
            await self.sessions.revoke(me.session_id, org=me.org)
        return {"subject": me.subject}


def told(pair: TokenPair) -> dict[str, str]:
    return {"access": pair.access_token, "refresh": pair.refresh_token}


def over_asgi(kit: Kit) -> Any:
    """The shop behind the gate, as ASGI."""
    shop = Shop(kit.security.sessions)

    async def application(scope: Any, receive: Any, send: Callable[[Any], Any]) -> None:
        done = await shop.answered(scope["path"], json.loads((await receive())["body"] or b"{}"))
        body = json.dumps(done).encode()
        head = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    return asgi.GateMiddleware(application, kit.security.gate(RULES))


def over_wsgi(kit: Kit) -> Any:
    """The shop behind the gate, as WSGI."""
    shop = Shop(Awaited(kit.security.blocking.sessions))

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        sent = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = json.dumps(asyncio.run(shop.answered(environ["PATH_INFO"], json.loads(sent or b"{}")))).encode()
        start_response("200 OK", [("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
        return [body]

    return wsgi.GateMiddleware(application, kit.security.gate(RULES))


def rows(port: int, kit: Kit) -> Iterator[Row]:
    """Every step, with what was expected of it."""

    def ask(method: str, path: str, access: str = "", **sent: str) -> tuple[int, dict[str, str]]:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        headers = {"Authorization": f"Bearer {access}"} if access else {}
        connection.request(method, path, json.dumps(sent).encode() if sent else b"", headers)
        answer = connection.getresponse()
        body = json.loads(answer.read() or b"{}")
        connection.close()
        return answer.status, body

    def refreshed(token: str) -> tuple[int, dict[str, str]]:
        return ask("POST", "/refresh", refresh=token)

    status, first = ask("POST", "/sign-in")
    yield Row("sign in", "200", str(status))
    yield Row("the access token", "200", str(ask("GET", "/me", first["access"])[0]))
    yield Row("the refresh token as an access token", "401", str(ask("GET", "/me", first["refresh"])[0]))
    kit.clock.advance(60)
    with ThreadPoolExecutor(TABS) as tabs:
        answers = list(tabs.map(lambda _: refreshed(first["refresh"]), range(TABS)))
    successors = {body.get("refresh") for _, body in answers}
    statuses = {status for status, _ in answers}
    yield Row(f"{TABS} tabs refresh at once", "200, 1 successor", f"{_one(statuses)}, {len(successors)} successor")
    second = answers[0][1]
    every = {ask("GET", "/me", body["access"])[0] for _, body in answers}
    yield Row("the access token of each tab", "200", _one(every))
    kit.clock.advance(60)
    status, third = refreshed(second["refresh"])
    yield Row("a minute later, refreshed again", "200", str(status))
    yield Row("its access token", "200", str(ask("GET", "/me", third["access"])[0]))
    kit.clock.advance(60)
    status, body = refreshed(first["refresh"])
    yield Row("a stolen token, used up two minutes ago", "401 session_reused", f"{status} {body.get('code')}")
    yield Row("the thief's session is the owner's: refresh", "401", str(refreshed(third["refresh"])[0]))
    yield Row("and its access token", "401", str(ask("GET", "/me", third["access"])[0]))
    status, mine = ask("POST", "/sign-in")
    yield Row("the owner signs in anew", "200", str(status))
    yield Row("signs out", "200", str(ask("POST", "/logout", mine["access"])[0]))
    yield Row(
        "everything of it is refused", "401 401", f"{ask('GET', '/me', mine['access'])[0]} {_end(refreshed, mine)}"
    )
    yield Row("a forged token", "401", str(refreshed(mine["refresh"][:-6] + "AAAAAA")[0]))


def _one(statuses: set[int]) -> str:
    return " ".join(map(str, sorted(statuses)))


def _end(refreshed: Callable[[str], tuple[int, Any]], pair: dict[str, str]) -> int:
    return refreshed(pair["refresh"])[0]


def main() -> int:
    """Print every row through both adapters, and the events; how many rows differ."""
    wrong = 0
    for adapter, behind, served in (("asgi", over_asgi, asgi_served), ("wsgi", over_wsgi, wsgi_served)):
        kit = Kit()
        with kit.security.blocking, served(behind(kit)) as port:
            for row in rows(port, kit):
                differs = row.found != row.expected
                wrong += differs
                print(f"{adapter}  {row.what:44} {row.expected:20} {row.found:20}" + ("  <-- WRONG" if differs else ""))
            print(f"{adapter}  events:")
            for event in kit.events:
                if event.name.startswith(("session.", "request.")):
                    print(f"      {event.name:18} {event.outcome:8} {event.reason or '-':18} {event.actor}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
