"""The main job, over real HTTP: a shop behind the gate, keys of two organizations, and what the gate makes of them.

Prints each request with what was expected, what came back and how many microseconds the gate took, then the events
that it caused; ends with 1 if anything differs. With `--serve` the shop stays up, and curl lines to try are printed.
"""

import http.client
import logging
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import shop
import uvicorn

from bartizan import Bartizan
from bartizan.core.ring import new_root
from bartizan.types import Decision


class Row(NamedTuple):
    what: str
    method: str
    target: str
    headers: Mapping[str, str]
    expected: int


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


def serve(security: Bartizan) -> tuple[uvicorn.Server, int, threading.Thread]:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(shop.behind_a_gate(security), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    return server, listening.getsockname()[1], thread


def rows(security: Bartizan, clock: Turned) -> list[tuple[Row, int]]:
    """Every request, with how far the clock is turned for it."""
    keys = security.blocking.keys
    mine = {"org": "org_1", "kind": "secret", "scopes": {"orders:read"}}
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
    del mine, clock
    own, other = "/orgs/org_1/orders", "/orgs/org_2/orders"
    published, from_shop = {"X-Publishable-Key": page.key}, {"X-Publishable-Key": tied.key}
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
        Row("//admin", "GET", "//admin/keys", bearer(admin.key), 404),
        Row("%2F in the path", "GET", "/admin%2Fkeys", bearer(admin.key), 404),
        Row("a .. segment", "GET", "/products/../admin/keys", bearer(admin.key), 404),
        Row("method override header", "GET", own, bearer(key.key) | {"X-HTTP-Method-Override": "POST"}, 400),
        Row("rotated key, within the overlap", "GET", own, bearer(rotated.key), 200),
        Row("its successor", "GET", own, bearer(successor.key), 200),
    ]
    later = [
        Row("rotated key, after the overlap", "GET", own, bearer(rotated.key), 401),
        Row("its successor, after the overlap", "GET", own, bearer(successor.key), 200),
    ]
    return [(row, 0) for row in now] + [(row, 3600) for row in later]


def main() -> int:
    heard, decisions, clock = Heard(), list[Decision](), Turned()
    log = logging.getLogger("bartizan.audit")
    log.setLevel(logging.INFO)
    log.addHandler(heard)
    with tempfile.TemporaryDirectory() as place:
        store = f"sqlite:///{Path(place, 'security.db')}"
        security = Bartizan(store, environment="live", secrets=[new_root()], on_decision=decisions.append, clock=clock)
        with security.blocking:
            server, port, thread = serve(security)
            wrong = 0
            print(f"{'request':38} {'expected':>8} {'came':>6} {'gate us':>8}")
            for row, ahead in rows(security, clock):
                clock.ahead = ahead
                decisions.clear()
                status = asked(port, row)
                wrong += status != row.expected
                took = f"{decisions[-1].nanoseconds / 1000:8.1f}" if decisions else f"{'-':>8}"
                mark = "" if status == row.expected else "   <-- differs"
                print(f"{row.what:38} {row.expected:>8} {status:>6} {took}{mark}")
            if "--serve" in sys.argv[1:]:
                stay(security, port, thread)
            server.should_exit = True
            thread.join(10)
        report(security, heard)
    print(f"\n{'every row as expected' if not wrong else f'{wrong} rows differ'}")
    return 1 if wrong else 0


def report(security: Bartizan, heard: Heard) -> None:
    print("\nnoted")
    for line in heard.lines:
        print(" ", line)


def stay(security: Bartizan, port: int, thread: threading.Thread) -> None:
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
        thread.join()
    except KeyboardInterrupt:
        print("closing")


if __name__ == "__main__":
    sys.exit(main())
