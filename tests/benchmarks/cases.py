"""What is measured, all of it fixed here: the calls, what is taken off, and the bounds.

The unit is B: one call of an application that does nothing by a server that does next to nothing. The server makes for
each request a scope of 14 keys with 8 headers and the two closures; the application answers with two headers. It is
held under the 18,900 instructions of the prototype from which the bounds come: a heavier unit would flatter us.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from hmac import compare_digest, digest
from importlib import import_module
from importlib.util import find_spec
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

from bartizan import Bartizan, Misuse, Rejected, Rule, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.events import AuditEvent
from bartizan.core.ring import new_root
from bartizan.gate.patterns import Pattern, Table, segments_of
from bartizan.operations.upkeep import Upkeep
from bartizan.types import Decision

Message = MutableMapping[str, Any]
Calls = Callable[[int], None]

BARE = "bare ASGI application"
BARE_WSGI = "bare WSGI application"
EMPTY = "empty loop"
FLOOR = "key floor"
SEGMENTS = "segments of a path"
RULES = 100
MANY = 10_000


class Bound(NamedTuple):
    """At most `limit`: in B, in us, in instructions, or times another case (`times` by time, `instruction times` by count)."""

    limit: float
    unit: str = "B"
    of: str = ""

    @property
    def gated(self) -> bool:
        """Whether `--check` fails on it: counts repeat, times do not."""
        return self.unit.startswith("instruction")


class Case(NamedTuple):
    """`calls(n)` makes n calls; what `base` costs is taken off. `check` raises unless a call does what its name says."""

    calls: Calls
    check: Callable[[], None]
    settle: Callable[[], object] = lambda: None  # outside the time that is measured


class Entry(NamedTuple):
    """A row of the table, before it is made: making ten thousand rules takes its time."""

    make: Callable[[], Case]
    base: str
    bounds: tuple[Bound, ...] = ()


# --- the two bare applications and their servers ---

WIRE = [
    (b"host", b"api.shop.example"),
    (b"user-agent", b"shop-server/2.11 (linux)"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"content-type", b"application/json"),
    (b"x-request-id", b"01J9ZK3V6W8Q2M4N5P7R"),
    (b"x-forwarded-for", b"203.0.113.7"),
]  # and `authorization`, the eighth
PLAIN = [(b"content-type", b"text/plain"), (b"content-length", b"2")]


async def application(
    scope: MutableMapping[str, Any], receive: Any, send: Callable[[Message], Awaitable[None]]
) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": PLAIN})
    await send({"type": "http.response.body", "body": b"ok"})


def asgi(
    app: Any, path: str, authorization: bytes, query: bytes = b"", *, header: bytes = b"authorization"
) -> Callable[[], list[Message]]:
    """A server for one connection: each call is a request, and gives what was sent."""
    wire = [*WIRE, (header, authorization)]
    raw = path.encode()

    def one() -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 50_000),
            "scheme": "http",
            "method": "GET",
            "root_path": "",
            "path": path,
            "raw_path": raw,
            "query_string": query,
            "headers": wire[:],
            "state": {},
            "extensions": {},
        }
        try:
            app(scope, receive, send).send(None)
        except StopIteration:
            return sent
        raise RuntimeError("it waits")

    return one


def wsgi_application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


def wsgi(app: Any, path: str, authorization: bytes, query: bytes = b"") -> Callable[[], list[Message]]:
    """The same for WSGI; what was sent is told in the words of ASGI."""
    wire = {"HTTP_" + name.decode().upper().replace("-", "_"): value.decode() for name, value in WIRE}
    wire["CONTENT_TYPE"] = wire.pop("HTTP_CONTENT_TYPE")
    wire["HTTP_AUTHORIZATION"] = authorization.decode()

    def one() -> list[Message]:
        sent: list[Message] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> object:
            sent.append({"status": int(status[:3]), "headers": headers})
            return sent.append

        environ = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "RAW_URI": path,
            "QUERY_STRING": query.decode(),
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_PORT": "50000",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": None,
            "wsgi.errors": None,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            **wire,
        }
        answer = app(environ, start_response)
        for chunk in answer:
            sent.append({"body": chunk})
        if (close := getattr(answer, "close", None)) is not None:
            close()
        return sent

    return one


def requests(one: Callable[[], list[Message]], status: int, settle: Callable[[], object] = lambda: None) -> Case:
    def calls(n: int) -> None:
        for _ in range(n):
            one()

    def check() -> None:
        sent = one()
        settle()
        if sent[0]["status"] != status or not b"".join(part.get("body", b"") for part in sent):
            raise RuntimeError(f"{sent[0]['status']} instead of {status}")

    return Case(calls, check, settle)


def empty() -> Case:
    def calls(n: int) -> None:
        for _ in range(n):
            pass

    return Case(calls, lambda: None)


# --- keys and the gate ---


class House:
    """A Bartizan with one secret key, warm. No upkeep thread runs: its share is a row of its own."""

    def __init__(self, **more: Any) -> None:
        with patch.object(Upkeep, "need", lambda _: None):
            self.security = Bartizan("memory://", environment="live", secrets=[new_root(bytes)], staleness=300, **more)
        self.key = self.security.blocking.keys.create(org="org_1", kind="secret", scopes={"orders:read"}).key
        self.mangled = self.key[:-1] + ("0" if self.key[-1] != "0" else "1")
        self.security.blocking.keys.authenticate(self.key)
        self.journal = self.security._shared.journal
        self.gate = self.security.gate(
            [
                Rule(["GET /health", "GET /static/**"], allow.untouched()),
                Rule("GET /v1/status", allow.public()),
                Rule("GET /v1/orders/{id}", allow.secret_key()),
                Rule(
                    "GET /v1/asked/{id}",
                    allow.secret_key() & allow.when("mine", lambda caller, _: caller.org == "org_1"),
                ),
                Rule("GET /orgs/{org}/orders/{id}", allow.secret_key("orders:read")),
                *(Rule(f"/v1/resource{i}/{{id}}", allow.secret_key()) for i in range(RULES - 5)),
            ]
        )

    def request(self, adapter: str, path: str, status: int, *, mangled: bool = False, query: bytes = b"") -> Case:
        key = (self.mangled if mangled else self.key).encode()
        if adapter == "asgi":
            one = asgi(GateMiddleware(application, self.gate), path, b"Bearer " + key, query)
        else:
            middleware = import_module("bartizan.wsgi").GateMiddleware
            one = wsgi(middleware(wsgi_application, self.gate), path, b"Bearer " + key, query)
        return requests(one, status, self.journal.drain)


def gated(adapter: str, path: str, status: int = 200, **more: Any) -> Callable[[], Case]:
    return lambda: House().request(adapter, path, status, **more)


def observed() -> Case:
    def observe(decision: Decision) -> None:
        seen[decision.rule] += 1

    seen: Counter[str | None] = Counter()
    return House(on_decision=observe).request("asgi", "/v1/orders/17", 200)


def floor() -> Case:
    """The least that finds a key by its id and compares a MAC of its secret."""
    text = House().key
    pepper = bytes(32)
    _, _, key_id, secret = text.split("_")
    rows = {key_id: digest(pepper, secret.encode(), "sha256")}

    def verify(key: str) -> bool:
        _, _, key_id, secret = key.split("_")
        mac = rows.get(key_id)
        return mac is not None and compare_digest(digest(pepper, secret.encode(), "sha256"), mac)

    def calls(n: int) -> None:
        for _ in range(n):
            verify(text)

    def check() -> None:
        if not verify(text) or verify(text[:-1] + "-"):
            raise RuntimeError("the floor verifies nothing")

    return Case(calls, check)


def authenticate() -> Case:
    house = House()
    keys, text = house.security.keys, house.key

    def calls(n: int) -> None:
        for _ in range(n):
            try:
                keys.authenticate(text).send(None)
            except StopIteration:
                continue
            raise RuntimeError("it waits")

    def check() -> None:
        if house.security.blocking.keys.authenticate(text).org != "org_1":
            raise RuntimeError("another caller")
        calls(1)

    return Case(calls, check)


def mangled() -> Case:
    house = House()
    keys, text = house.security.keys, house.mangled

    def calls(n: int) -> None:
        for _ in range(n):
            try:
                keys.authenticate(text).send(None)
            except Rejected:
                continue
            raise RuntimeError("a mangled key verifies")

    return Case(calls, lambda: calls(1))


def drained() -> Case:
    """An event noted and told, by the upkeep thread otherwise; the log is off, as it is by default."""
    journal = House().journal

    def calls(n: int) -> None:
        for _ in range(n):
            journal.note(AuditEvent(name="request.refused", org=None, actor="anonymous", target="GET /v1/orders/{id}"))
        journal.drain()

    def check() -> None:
        calls(1)

    return Case(calls, check)


# --- rule sets ---

LITERAL = ("/v1/resource{}/items", "/v1/resource{}/items")
REST = ("/v1/resource{}/**", "/v1/resource{}/a/b")
PATHS = 10_000  # as many different texts for a small set as for a large one
STEP = 4_099  # from one text to the next: neighbours are no neighbours in memory


def segments() -> Case:
    texts = [LITERAL[1].format(i) for i in range(PATHS)]
    at = 0

    def calls(n: int) -> None:
        nonlocal at
        for _ in range(n):
            segments_of(texts[at])
            at = (at + STEP) % PATHS

    return Case(calls, lambda: None)


def matching(forms: tuple[str, str], rules: int, *, asked: int) -> Callable[[], Case]:
    """A set of `rules`, of which the paths ask for `asked`, spread evenly."""

    def make() -> Case:
        rule = Rule("/", allow.secret_key())
        match = Table([Pattern(forms[0].format(i), rule) for i in range(rules)]).match
        texts = [forms[1].format(i % asked * (rules // asked)) for i in range(PATHS)]
        at = 0

        def calls(n: int) -> None:
            nonlocal at
            for _ in range(n):
                match(segments_of(texts[at]))
                at = (at + STEP) % PATHS

        def check() -> None:
            if any(match(segments_of(text)) is None for text in texts) or match(["v1", "nothing"]) is not None:
                raise RuntimeError("the rule set does not match")
            calls(1)

        return Case(calls, check)

    return make


def mixed(levels: int) -> list[str]:
    """Literal or `*` at every level."""
    return [
        "/" + "/".join("*" if number >> level & 1 else f"s{level}" for level in range(levels))
        for number in range(1 << levels)
    ]


def one_literal(levels: int) -> list[str]:
    """One literal and else `*`, at every place: a subset construction needs two to the power of the levels."""
    return ["/" + "/".join("a" if level == place else "*" for level in range(levels)) for place in range(levels)]


def drawn(rules: int, levels: int) -> list[str]:
    """One literal or `*` at every level, at random: long lists of places, each almost another's."""
    chance = Random(1)
    return list(
        {
            "/" + "/".join("*" if chance.random() < 0.7 else f"s{level}" for level in range(levels)): None
            for _ in range(rules)
        }
    )


HOSTILE: dict[str, Callable[[], Sequence[str]]] = {
    "literal or * on 12 levels, all 4,096": lambda: mixed(12),
    "one literal on 20 levels of *": lambda: one_literal(20),
    "10,000 drawn from literal or * on 16 levels": lambda: drawn(MANY, 16),
    "10,000 drawn from literal or * on 30 levels": lambda: drawn(MANY, 30),
}


def compiled(patterns: Sequence[str]) -> bool:
    """Whether a gate of these was made; else it was refused."""
    security = Bartizan("memory://", environment="live", secrets=[new_root(bytes)])
    try:
        security.gate([Rule(patterns, allow.secret_key())])
    except Misuse:
        return False
    return True


# --- the table ---

GATE: tuple[tuple[str, str, dict[str, Any], tuple[Bound, ...]], ...] = (
    ("untouched()", "/health", {}, (Bound(2),)),
    ("public()", "/v1/status", {}, (Bound(3.5),)),
    ("secret key, 1 of 100 rules", "/v1/orders/17", {}, (Bound(7.5), Bound(85_000, "instructions"))),
    ("secret key, scope, {org}, query", "/orgs/org_1/orders/17", {"query": b"limit=20&after=b2xk&sort=-created"}, ()),
    ("refused: mangled key, event", "/v1/orders/17", {"status": 401, "mangled": True}, (Bound(8),)),
)
ORDINARY = f"ASGI {GATE[2][0]}"
WSGI_MAY = 1.3  # times what ASGI may


def entries() -> dict[str, Entry]:
    """The rows in their order; a name is what other rows refer to."""
    rows = {
        BARE: Entry(lambda: requests(asgi(application, "/v1/status", b"Bearer none"), 200), EMPTY),
        BARE_WSGI: Entry(lambda: requests(wsgi(wsgi_application, "/v1/status", b"Bearer none"), 200), EMPTY),
        EMPTY: Entry(empty, EMPTY),
        FLOOR: Entry(floor, EMPTY),
        "keys.authenticate, warm": Entry(authenticate, EMPTY, (Bound(2, "times", FLOOR),)),
        "keys.authenticate, mangled": Entry(mangled, EMPTY, (Bound(1.3, "times", FLOOR),)),
        "an event noted and drained": Entry(drained, EMPTY),
    }
    for name, path, more, bounds in GATE:
        rows[f"ASGI {name}"] = Entry(gated("asgi", path, **more), BARE, bounds)
    if find_spec("bartizan.wsgi") is not None:
        for name, path, more, bounds in GATE:
            loose = tuple(bound._replace(limit=round(bound.limit * WSGI_MAY, 2)) for bound in bounds)
            rows[f"WSGI {name}"] = Entry(gated("wsgi", path, **more), BARE_WSGI, loose)
    rows["ASGI secret key, with on_decision"] = Entry(observed, ORDINARY, (Bound(0.5),))
    rows["ASGI secret key, with a plain condition"] = Entry(gated("asgi", "/v1/asked/17"), ORDINARY, (Bound(0.5),))
    rows[SEGMENTS] = Entry(segments, EMPTY)
    for kind, forms in (("literal", LITERAL), ("**", REST)):
        few, many = f"match, {RULES} {kind} rules", f"match, {MANY:,} {kind} rules"
        ratio = (Bound(1.2, "times", few), Bound(1.2, "instruction times", few))
        rows[few] = Entry(matching(forms, RULES, asked=RULES), SEGMENTS)
        rows[f"{many}, {RULES} asked for"] = Entry(matching(forms, MANY, asked=RULES), SEGMENTS, ratio)
        rows[f"{many}, all asked for"] = Entry(matching(forms, MANY, asked=MANY), SEGMENTS, ratio)
    for module, table in (
        ("stamps", "stamp_entries"),
        ("tokens", "token_entries"),
        ("sessions", "session_entries"),
        ("bound", "bound_entries"),
        ("members", "member_entries"),
        ("webhooks", "webhook_entries"),
        ("leaks", "leak_entries"),
        ("access", "access_entries"),
        ("cookies", "cookie_entries"),
    ):
        rows |= getattr(import_module(f"benchmarks.{module}"), table)()  # they take their units from here
    return rows
