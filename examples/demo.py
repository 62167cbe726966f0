"""The main job, over real HTTP: a shop behind the gate, keys of two organizations, and what the gate makes of them.

Prints each request with what was expected, what came back and how many microseconds the gate took, through the ASGI
and the WSGI adapter, then the events that it caused, and what becomes of webhooks; ends with 1 if anything differs.
With `--serve` the shop stays up, and curl lines to try are printed.
"""

import http.client
import json
import logging
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import binding_demo
import isolation_demo
import session_demo
import shop
import shop_wsgi
import signin_demo
import token_demo
import webhook_demo
from loopback import asgi_served, wsgi_served

from bartizan import Bartizan
from bartizan.core.ring import new_root
from bartizan.types import Decision

ANY = -1  # this adapter's own server, or the protocol, has something else to say here


class Row(NamedTuple):
    what: str
    method: str
    target: str
    headers: Mapping[str, str]
    asgi: int
    wsgi: int | None = None  # the same, unless it is given

    def expected(self, adapter: str) -> int:
        return self.asgi if adapter == "asgi" or self.wsgi is None else self.wsgi


class Turned:
    """A clock that can be turned forward: an hour of overlap passes at once."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return int(time.time()) + self.ahead


class Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def mangled(key: str) -> str:
    return key[:-1] + ("0" if key[-1] != "0" else "1")


def asked(port: int, row: Row) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(row.method, row.target)  # the target goes out as it is: no client tidies it up
        for name, value in row.headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def rows(security: Bartizan) -> list[tuple[Row, int]]:
    """Every request, with how many seconds the clock is turned forward for it."""
    keys = security.blocking.keys
    key = keys.create(org="org_1", kind="secret", scopes={"orders:read"})
    writer = keys.create(org="org_1", kind="secret", scopes={"orders:read", "orders:write"})
    admin = keys.create(org="org_1", kind="secret", scopes={"admin"})
    theirs = keys.create(org="org_2", kind="secret", scopes={"orders:read"})
    page = keys.create(org="org_1", kind="publishable")
    tied = keys.create(org="org_1", kind="publishable", origins={"https://shop.example"})
    trial = keys.create(org="org_1", kind="secret", scopes={"orders:read"}, environment="test")
    revoked = keys.create(org="org_1", kind="secret", scopes={"orders:read"})
    keys.revoke(revoked.record.id, org="org_1")
    rotated = keys.create(org="org_1", kind="secret", scopes={"orders:read"})
    successor = keys.rotate(rotated.record.id, org="org_1", overlap=3600)
    invitation = security.blocking.links.issue("invitation", org="org_1", subject="anna", seconds=3600)
    empty = {"Content-Length": "0"}
    own, other = "/orgs/org_1/orders", "/orgs/org_2/orders"
    published, from_shop = {"X-Publishable-Key": page.key}, {"X-Publishable-Key": tied.key}
    handshake = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    now = [
        Row("no gate at all: untouched()", "GET", "/health", {}, 200),
        Row("right key", "GET", own, bearer(key.key), 200),
        Row("right key, right scope, POST", "POST", own, bearer(writer.key) | {"Content-Length": "0"}, 201),
        Row("right key of the other organization", "GET", other, bearer(theirs.key), 200),
        Row("another organization's orders", "GET", other, bearer(key.key), 404),
        Row("scope missing", "POST", own, bearer(key.key), 403),
        Row("publishable key where it may", "GET", "/products", published, 200),
        Row("publishable key, wrong kind", "GET", own, published, 403),
        Row("publishable key in the wrong place", "GET", "/products", bearer(page.key), 403),
        Row("publishable key, its own origin", "GET", "/products", from_shop | {"Origin": "https://shop.example"}, 200),
        Row("publishable key, foreign origin", "GET", "/products", from_shop | {"Origin": "https://evil.example"}, 403),
        Row("keys of two organizations", "GET", "/products", published | bearer(theirs.key), 400),
        Row("revoked key", "GET", own, bearer(revoked.key), 401),
        Row("mangled key", "GET", own, bearer(mangled(key.key)), 401),
        Row("test key on live", "GET", own, bearer(trial.key), 401),
        Row("no key", "GET", own, {}, 401),
        Row("key in the query", "GET", f"{own}?api_key={key.key}", {}, 400),
        Row("unknown path", "GET", "/nothing", bearer(key.key), 404),
        Row("wrong method", "DELETE", own, bearer(key.key), 405),
        Row("/%61dmin by the wrong key", "GET", "/%61dmin/keys", bearer(key.key), 403),
        Row("/%61dmin by the right key", "GET", "/%61dmin/keys", bearer(admin.key), 200),
        # The server of the standard library takes the first slash off, and WSGI knows no %2F: to gate and router alike.
        Row("//admin", "GET", "//admin/keys", bearer(admin.key), 404, ANY),
        Row("%2F in the path", "GET", "/admin%2Fkeys", bearer(admin.key), 404, ANY),
        Row("%2F in the path, the wrong key", "GET", "/admin%2Fkeys", bearer(key.key), 404, 403),
        Row("a .. segment", "GET", "/products/../admin/keys", bearer(admin.key), 404),
        Row("method override header", "GET", own, bearer(key.key) | {"X-HTTP-Method-Override": "POST"}, 400),
        Row("websocket with a key", "GET", "/live", handshake | published, 101, ANY),
        Row("websocket without one", "GET", "/live", handshake, 401, ANY),
        Row("invitation, by GET", "GET", f"/invitations/org_1?{invitation}", {}, 405),
        Row("invitation of another organization", "POST", f"/invitations/org_2?{invitation}", empty, 401),
        Row("invitation, redeemed", "POST", f"/invitations/org_1?{invitation}", empty, 200, 401),  # one store: once
        Row("invitation, redeemed again", "POST", f"/invitations/org_1?{invitation}", empty, 401),
        Row("rotated key, within the overlap", "GET", own, bearer(rotated.key), 200),
        Row("its successor", "GET", own, bearer(successor.key), 200),
    ]
    later = [
        Row("rotated key, after the overlap", "GET", own, bearer(rotated.key), 401),
        Row("its successor, after the overlap", "GET", own, bearer(successor.key), 200),
    ]
    return [(row, 0) for row in now] + [(row, 3600) for row in later]


def compared(ports: Mapping[str, int], table: list[tuple[Row, int]], clock: Turned, seen: list[Decision]) -> int:
    """Ask every row through every adapter; how many answers differ from what was expected."""
    wrong = 0
    print(f"{'request':38} {'expected':>8}" + "".join(f" {adapter:>6} {'gate us':>8}" for adapter in ports))
    for row, ahead in table:
        clock.ahead = ahead
        line = f"{row.what:38} {row.asgi:>8}"
        for adapter, port in ports.items():
            expected = row.expected(adapter)
            if expected == ANY:
                line += f" {'-':>6} {'-':>8}"
                continue
            seen.clear()
            status = asked(port, row)
            line += f" {status:>6} {seen[-1].nanoseconds / 1000:8.1f}"
            if status != expected:
                wrong += 1
                line += f"  <-- not {expected}"
        print(line)
    return wrong


def report(heard: Heard, file: Path) -> None:
    """What was noted of requests, and what was written with the changes of keys."""
    print("\nrefusals, as the log has them")
    for line in heard.lines:
        event = json.loads(line)
        if event["outcome"] == "refused":
            who = json.loads(event["data"]).get("credential") or event["actor"]  # a key that verified is named
            print(f"  {event['reason']:22} {who:26} {event['target'] or '-'}")
    print("changes, as the store has them, each written in the change it tells of")
    with sqlite3.connect(file) as db:
        for name, count in db.execute("SELECT name, count(*) FROM bartizan_outbox GROUP BY name ORDER BY name"):
            print(f"  {name:22} {count}")
    db.close()


def stay(security: Bartizan, port: int) -> None:
    keys = security.blocking.keys
    key = keys.create(org="org_1", kind="secret", scopes={"orders:read"}).key
    page = keys.create(org="org_1", kind="publishable").key
    print(
        f"""
The shop is up until Ctrl-C. Try:
  curl -i http://127.0.0.1:{port}/orgs/org_1/orders -H 'Authorization: Bearer {key}'
  curl -i http://127.0.0.1:{port}/orgs/org_2/orders -H 'Authorization: Bearer {key}'
  curl -i http://127.0.0.1:{port}/products -H 'X-Publishable-Key: {page}'
  curl -i http://127.0.0.1:{port}/products
  curl -i --path-as-is http://127.0.0.1:{port}//admin/keys
""",
        flush=True,
    )
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("closing")


def main() -> int:
    heard, seen, clock = Heard(), list[Decision](), Turned()
    log = logging.getLogger("bartizan.audit")
    log.setLevel(logging.INFO)
    log.addHandler(heard)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "security.db")
        url = f"sqlite:///{file}"
        security = Bartizan(url, environment="live", secrets=[new_root()], on_decision=seen.append, clock=clock)
        app, wsgi_app = shop.behind_a_gate(security), shop_wsgi.behind_a_gate(security)
        with security.blocking, asgi_served(app) as asgi, wsgi_served(wsgi_app) as wsgi:
            wrong = compared({"asgi": asgi, "wsgi": wsgi}, rows(security), clock, seen)
            if "--serve" in sys.argv[1:]:
                stay(security, asgi)
        report(heard, file)
    print("\ntokens, at another gate over ASGI and WSGI")
    wrong += token_demo.main()
    print("\nsessions, refreshed, stolen and revoked")
    wrong += session_demo.main()
    print("\nsessions that are bound to a key, and their tokens without it")
    wrong += binding_demo.main()
    print("\nsigning in without a password, in a browser")
    wrong += signin_demo.main()
    print("\nwho may do what, and never in another organization")
    wrong += isolation_demo.main()
    print("\nwebhooks, as their receiver answers")
    wrong += webhook_demo.main()
    print(f"\n{'every row as expected' if not wrong else f'{wrong} answers differ'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
