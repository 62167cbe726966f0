"""Doors of the application's own: authenticators, conditions, problems, and rules that only report."""

import asyncio
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from servers import Answer, ask, serving, wsgi_serving

from bartizan import Issuer, Misuse, Rule, allow, asgi, current_principal, wsgi
from bartizan.core.principal import Caller
from bartizan.credentials.jws import new_signing_key
from bartizan.errors import BartizanError, InvalidToken, Unavailable
from bartizan.testing import Kit
from bartizan.testing.authenticators import AuthenticatorContract
from bartizan.testing.kit import headers_of
from bartizan.types import Identified, Request

EVERY: Any = Caller
HEADER = "x-client-subject"
PROXY = {"127.0.0.1/32"}


class FromProxy:
    """The subject of a client certificate, as a proxy that checked it says."""

    def __init__(
        self, *, name: str = "mtls", peers: Collection[str] | None = frozenset(PROXY), slot: str = HEADER
    ) -> None:
        self.name = name
        self.slot = slot
        self.ambient = True
        self.peers = peers

    def recognises(self, presented: bytes) -> bool:
        return presented.startswith(b"CN=")

    def authenticate(self, presented: bytes, request: Request) -> Identified:
        org, _, subject = presented.decode("latin-1").removeprefix("CN=").partition("/")
        if org not in {"org_1", "org_2"}:
            raise InvalidToken
        return Identified(org=org, subject=subject, scopes={"orders:read"}, roles={"viewer"})


class Basic:
    """HTTP Basic (RFC 7617) for one old client."""

    name, slot, ambient, peers = "legacy", "authorization", True, None
    challenge = 'Basic realm="reports"'

    def recognises(self, presented: bytes) -> bool:
        return presented[:6].lower() == b"basic "

    async def authenticate(self, presented: bytes, request: Request) -> Identified:
        await asyncio.sleep(0)
        try:
            user, _, password = b64decode(presented[6:], validate=True).partition(b":")
        except ValueError:
            raise InvalidToken from None
        if (user, password) != (b"reports", b"secret"):
            raise InvalidToken
        return Identified(org="org_1", subject="reports")


class BlockingBasic(Basic):
    def authenticate(self, presented: bytes, request: Request) -> Identified:  # type: ignore[override]
        coroutine = super().authenticate(presented, request)
        try:
            while True:
                coroutine.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


BASIC = ("Authorization", "Basic " + b64encode(b"reports:secret").decode())


async def app(scope: Any, receive: Any, send: Any) -> None:
    principal = current_principal(EVERY, optional=True)
    who = (principal.actor if principal else "nobody").encode()
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(who))]})
    await send({"type": "http.response.body", "body": who})


def wsgi_app(environ: Any, start_response: Any) -> Any:
    principal = current_principal(EVERY, optional=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [(principal.actor if principal else "nobody").encode()]


RULES = [
    Rule("/orgs/{org}/orders", allow.credential("mtls", "orders:read") | allow.secret_key("orders:read")),
    Rule("/reports", allow.credential("legacy")),
    Rule("/member", allow.member("viewer") | allow.secret_key()),
    Rule("/public", allow.public()),
    Rule("/scoped", allow.credential("mtls", "orders:write")),
]


@contextmanager
def asking(kit: Kit, adapter: str, rules: Any = RULES, **options: Any) -> Iterator[Callable[..., Answer]]:
    gate = kit.security.gate(rules, **options)
    if adapter == "asgi":
        with serving(asgi.GateMiddleware(app, gate)) as port:
            yield lambda *a, **k: ask(port, *a, **k)
    else:
        with wsgi_serving(wsgi.GateMiddleware(wsgi_app, gate)) as port:
            yield lambda *a, **k: ask(port, *a, **k)


def with_an_issuer(**arguments: Any) -> Kit:
    jwks = {"keys": [dict(new_signing_key("EdDSA", os.urandom).verification.public or {})]}
    issuer = Issuer("https://login.example", organizations={"org_1"}, audience="a", jwks=jwks)
    return Kit(issuers=[issuer], **arguments)


@pytest.fixture
def kit() -> Kit:
    return with_an_issuer()


def own(adapter: str) -> list[Any]:
    return [FromProxy(), Basic() if adapter == "asgi" else BlockingBasic()]


both = pytest.mark.parametrize("adapter", ["asgi", "wsgi"])


@both
def test_a_door_lets_in_whom_it_names(kit: Kit, adapter: str) -> None:
    with asking(kit, adapter, authenticators=own(adapter)) as asked:
        answer = asked("/orgs/org_1/orders", (HEADER, "CN=org_1/till 7"))
        assert (answer.status, answer.body) == (200, b"member:credential:mtls till 7")
        assert asked("/reports", BASIC).body == b"member:credential:legacy reports"


@both
def test_a_door_refuses(kit: Kit, adapter: str) -> None:
    with asking(kit, adapter, authenticators=own(adapter)) as asked:
        nobody = asked("/reports")
        assert (nobody.status, nobody.headers["www-authenticate"]) == (401, 'Basic realm="reports"')
        assert asked("/reports", ("Authorization", "Basic eDp5")).status == 401
        assert asked("/reports", ("Authorization", "Basic ???")).status == 401
        assert asked("/orgs/org_1/orders", (HEADER, "CN=org_9/x")).status == 401
        assert asked("/orgs/org_1/orders", (HEADER, "something else")).status == 401
        assert asked("/orgs/org_2/orders", (HEADER, "CN=org_1/x")).status == 404
        assert asked("/scoped", (HEADER, "CN=org_1/x")).status == 403
        assert asked("/public", (HEADER, "CN=org_9/x")).status == 200


@both
def test_authenticator_named_secret(kit: Kit, adapter: str) -> None:
    """Whom a door names is met by no requirement of ours, whatever it is called and whatever roles it says."""
    for name in ("secret", "publishable", "consumer", "member", "job"):
        with pytest.raises(Misuse):
            kit.security.gate(RULES, authenticators=[FromProxy(name=name)])
    with asking(kit, adapter, authenticators=own(adapter)) as asked:
        assert asked("/member", (HEADER, "CN=org_1/x")).status == 403


@both
def test_proxy_header_from_stranger(kit: Kit, adapter: str) -> None:
    elsewhere = [FromProxy(peers={"203.0.113.0/24"}), own(adapter)[1]]
    with asking(kit, adapter, authenticators=elsewhere) as asked:
        answer = asked("/orgs/org_1/orders", (HEADER, "CN=org_1/till 7"))
        assert (answer.status, kit.events[-1].reason) == (403, "network_not_allowed")
        # Whoever sends it is refused, though another credential would do.
        key = kit.key(org="org_1", scopes={"orders:read"})
        assert asked("/orgs/org_1/orders", (HEADER, "anything"), *headers_of(key).items()).status == 403


def test_proxy_header_from_a_rewritten_peer(kit: Kit) -> None:
    """A server that puts a forwarded address in the peer's place leaves port 0: that is no socket of the proxy's."""
    gate = kit.security.gate(RULES, authenticators=own("asgi"))
    headers = [(HEADER.encode(), b"CN=org_1/till 7")]

    def asked(client: tuple[str, int] | None) -> int:
        verdict = asyncio.run(gate.check(Request("GET", "/orgs/org_1/orders", headers, client, "https")))
        return getattr(verdict, "status", 200)

    assert [asked(("127.0.0.1", 50_000)), asked(("127.0.0.1", 0)), asked(None), asked(("127.0.0.2", 1))] == [
        200,
        403,
        403,
        403,
    ]


@both
def test_basic_cross_site_post(kit: Kit, adapter: str) -> None:
    with asking(kit, adapter, authenticators=own(adapter)) as asked:
        for header in (
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
            ("Origin", "https://evil.example"),
            ("Origin", "null"),
        ):
            assert asked("/reports", BASIC, header, method="POST").status == 403, header
            assert asked("/reports", BASIC, header).status == 200, header
        for header in (("Sec-Fetch-Site", "same-origin"), ("X-Other", "1")):
            assert asked("/reports", BASIC, header, method="POST").status == 200, header


@both
def test_basic_cross_site_post_where_the_site_names_its_origins(adapter: str) -> None:
    """Then what browsers send by themselves is checked as our own cookies are: who names no origin is refused."""
    ours = "https://shop.example"
    with asking(with_an_issuer(origins=[ours]), adapter, authenticators=own(adapter)) as asked:
        for headers in (
            [("Origin", "https://evil.example")], [("Origin", "null")], [("Sec-Fetch-Site", "cross-site")], [],
            [("Sec-Fetch-Site", "none")], [("Origin", "http://shop.example"), ("Sec-Fetch-Site", "same-origin")],
        ):  # fmt: skip
            assert asked("/reports", BASIC, *headers, method="POST").status == 403, headers
            assert asked("/reports", BASIC, *headers).status == 200, headers
        for headers in ([("Origin", ours)], [("Sec-Fetch-Site", "same-origin")]):
            assert asked("/reports", BASIC, *headers, method="POST").status == 200, headers


@both
def test_a_header_that_comes_twice_or_holds_a_key_of_ours(kit: Kit, adapter: str) -> None:
    key = kit.key(org="org_1", scopes={"orders:read"})
    with asking(kit, adapter, authenticators=own(adapter)) as asked:
        assert asked("/orgs/org_1/orders", (HEADER, key.key)).status == 403
        assert kit.events[-1].reason == "wrong_slot"
        if adapter == "asgi":  # a WSGI server joins them before we see them
            assert asked("/orgs/org_1/orders", (HEADER, "CN=org_1/a"), (HEADER, "CN=org_2/b")).status == 400


@both
def test_two_doors_for_one_value(kit: Kit, adapter: str) -> None:
    with asking(kit, adapter, authenticators=[*own(adapter), FromProxy(name="second")]) as asked:
        assert asked("/orgs/org_1/orders", (HEADER, "CN=org_1/x")).status == 400


@both
def test_a_bad_credential_beside_a_good_one(kit: Kit, adapter: str) -> None:
    key = kit.key(org="org_1", scopes={"orders:read"})
    other = kit.key(org="org_2", scopes={"orders:read"})
    with asking(kit, adapter, authenticators=own(adapter)) as asked:
        assert asked("/orgs/org_1/orders", (HEADER, "CN=org_9/x"), *headers_of(key).items()).status == 401
        assert asked("/orgs/org_1/orders", (HEADER, "CN=org_1/x"), *headers_of(other).items()).status == 400
        assert (
            asked("/orgs/org_1/orders", (HEADER, "CN=org_1/x"), *headers_of(key).items()).body
            == b"member:credential:mtls x"
        )


@both
@pytest.mark.parametrize("wrong", [RuntimeError("boom"), None, "org_1", Misuse("no"), Identified])
def test_an_authenticator_that_fails_is_503(kit: Kit, adapter: str, wrong: Any) -> None:
    class Broken(FromProxy):
        def authenticate(self, presented: bytes, request: Request) -> Any:
            if isinstance(wrong, Exception):
                raise wrong
            if wrong is Identified:
                return Identified(org="", subject="x" * 200)
            return wrong

    with asking(kit, adapter, authenticators=[Broken(), own(adapter)[1]]) as asked:
        assert asked("/orgs/org_1/orders", (HEADER, "CN=org_1/x")).status == 503
        assert kit.events[-1].reason == "callback_failed"


def test_a_form_that_raises_is_503(kit: Kit) -> None:
    class Broken(FromProxy):
        def recognises(self, presented: bytes) -> bool:
            raise UnicodeError

    with asking(kit, "asgi", authenticators=[Broken(), Basic()]) as asked:
        assert asked("/orgs/org_1/orders", (HEADER, "CN=org_1/x")).status == 503


def test_its_life_is_an_hour_at_most(kit: Kit) -> None:
    class Short(FromProxy):
        life = 10

        def authenticate(self, presented: bytes, request: Request) -> Identified:
            return Identified(org="org_1", subject="x", scopes={"orders:read"}, expires_at=kit.clock() + self.life)

    short = Short()
    gate = kit.security.gate(RULES, authenticators=[short, Basic()])
    request = Request("GET", "/orgs/org_1/orders", [(HEADER.encode(), b"CN=org_1/x")], ("127.0.0.1", 5), "https")

    async def admitted() -> Any:
        return await gate.check(request)

    admit = asyncio.run(admitted())
    assert admit.principal.expires_at == kit.clock() + 10
    asyncio.run(gate.recheck(admit))
    kit.clock.advance(10)
    with pytest.raises(BartizanError):
        asyncio.run(gate.recheck(admit))
    assert kit.events[-1].name == "stream.ended"
    short.life = 10**6
    assert asyncio.run(admitted()).principal.expires_at == kit.clock() + 3600
    short.life = 0
    assert asyncio.run(admitted()).status == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"slot": "Authorization"},
        {"slot": "host"},
        {"slot": "x-publishable-key"},
        {"slot": ""},
        {"slot": "a b"},
        {"name": "Mtls"},
        {"peers": set()},
        {"peers": {"here"}},
    ],
)
def test_a_door_that_cannot_be(kit: Kit, wrong: Any) -> None:
    with pytest.raises(Misuse):
        kit.security.gate(RULES, authenticators=[FromProxy(**wrong), Basic()])


@pytest.mark.parametrize("line", ["name", "slot", "ambient", "peers", "recognises", "authenticate"])
def test_a_door_without_one_of_its_lines(kit: Kit, line: str) -> None:
    """Whoever forgets who may send a header, for one, is told so at the start."""
    lines = {name: getattr(FromProxy(), name) for name in dir(FromProxy()) if not name.startswith("__")}
    whole = type("Whole", (), {name: value for name, value in lines.items() if name != line})
    with pytest.raises(Misuse, match=f"Whole: an authenticator says its {line}; nothing is assumed"):
        kit.security.gate(RULES, authenticators=[whole(), Basic()])


def test_a_cookie_is_ambient(kit: Kit) -> None:
    cookie = FromProxy(slot="cookie", peers=None)
    cookie.ambient = False
    with pytest.raises(Misuse, match="ambient"):
        kit.security.gate(RULES, authenticators=[cookie, Basic()])


def test_a_rule_without_its_authenticator(kit: Kit) -> None:
    with pytest.raises(Misuse, match="no authenticator for legacy"):
        kit.security.gate(RULES, authenticators=[FromProxy()])
    with pytest.raises(Misuse, match="one name"):
        kit.security.gate(RULES, authenticators=[FromProxy(), Basic(), Basic()])


@pytest.mark.parametrize(
    "fields",
    [
        {"org": ""},
        {"subject": "\n"},
        {"scopes": "orders:read"},
        {"scopes": {"a b"}},
        {"factors": {"otp": "now"}},
        {"expires_at": -1},
        {"expires_at": True},
    ],
)
def test_identified_is_checked(fields: Any) -> None:
    with pytest.raises(Misuse):
        Identified(**{"org": "org_1", "subject": "x", **fields})


class TestFromProxy(AuthenticatorContract):
    good = (b"CN=org_1/till 7",)
    refused = (b"CN=org_9/x", b"CN=")
    foreign = (b"", b"Bearer x", b"DN=org_1/x")

    def authenticator(self) -> FromProxy:
        return FromProxy()


class TestBasic(AuthenticatorContract):
    good = (BASIC[1].encode(),)
    refused = (b"Basic eDp5", b"Basic ???", b"basic ")
    foreign = (b"", b"Bearer x", b"Negotiate abc")

    def authenticator(self) -> Basic:
        return Basic()


# --- conditions ---


def test_where_a_condition_may_stand() -> None:
    yes = allow.when("mine", lambda principal, request: True)
    for wrong in (
        lambda: Rule("/a", yes),
        lambda: Rule("/a", yes & yes),
        lambda: yes | allow.secret_key(),
        lambda: allow.secret_key() | yes,
        lambda: allow.optional(yes),
        lambda: allow.optional(allow.secret_key()) & yes,
        lambda: yes & allow.optional(allow.secret_key()),
        lambda: allow.public() & yes,
        lambda: allow.when("Not A Name", lambda principal, request: True),
        lambda: allow.when("name", None),  # type: ignore[arg-type]
    ):
        with pytest.raises(Misuse):
            wrong()
    Rule("/a", allow.optional(allow.secret_key() & yes & yes))
    Rule("/a", (allow.secret_key() & yes) | allow.publishable_key())


@both
def test_a_condition_decides(adapter: str) -> None:
    kit = Kit()
    said: list[Any] = []
    answer: Any = True

    def check(principal: Any, request: Any) -> Any:
        said.append((principal.org, request.path))
        if isinstance(answer, Exception):
            raise answer
        return answer

    rules = [
        Rule("/orgs/{org}/a", allow.secret_key("a:b") & allow.when("open-hours", check)),
        Rule(
            "/b",
            (allow.secret_key() & allow.when("open-hours", check))
            | (allow.secret_key() & allow.when("never", lambda p, r: False)),
        ),
        Rule("/c", (allow.secret_key() & allow.when("open-hours", check)) | allow.secret_key("c:d")),
    ]
    good, poor = kit.key(org="org_1", scopes={"a:b"}), kit.key(org="org_1")
    rich = kit.key(org="org_1", scopes={"c:d"})
    with asking(kit, adapter, rules) as asked:
        assert asked("/orgs/org_1/a", *headers_of(good).items()).status == 200
        assert said == [("org_1", "/orgs/org_1/a")]
        said.clear()
        assert asked("/orgs/org_1/a").status == 401
        assert asked("/orgs/org_1/a", *headers_of(poor).items()).status == 403
        assert asked("/orgs/org_2/a", *headers_of(good).items()).status == 404
        assert said == []  # nobody who would be refused anyway is asked about
        answer = False
        assert asked("/orgs/org_1/a", *headers_of(good).items()).status == 403
        event = kit.events[-1]
        assert (event.reason, json.loads(event.data)) == ("condition", {"condition": "open-hours"})
        assert asked("/b", *headers_of(good).items()).status == 403
        assert asked("/c", *headers_of(good).items()).status == 403
        assert asked("/c", *headers_of(rich).items()).status == 200
        for answer in (1, None, "yes", RuntimeError("boom"), InvalidToken(), Unavailable()):
            assert asked("/orgs/org_1/a", *headers_of(good).items()).status == 503, answer
            assert asked("/b", *headers_of(good).items()).status == 503, answer
            assert asked("/c", *headers_of(rich).items()).status == 200, answer


def test_an_async_condition() -> None:
    async def check(principal: Any, request: Any) -> bool:
        await asyncio.sleep(0)
        return bool(principal.may("a:b"))

    kit = Kit()
    rules = [Rule("/a", allow.secret_key() & allow.when("mine", check))]
    with asking(kit, "asgi", rules) as asked:
        assert asked("/a", *headers_of(kit.key(org="org_1", scopes={"a:b"})).items()).status == 200
        assert asked("/a", *headers_of(kit.key(org="org_1")).items()).status == 403
    gate = kit.security.gate(rules)
    pairs = [(k.lower().encode(), v.encode()) for k, v in headers_of(kit.key(org="org_1")).items()]
    with pytest.raises(Misuse, match="async"):
        gate.blocking.check(Request("GET", "/a", pairs, None, "https"))


# --- problems ---


@both
def test_problems_of_the_applications_own(adapter: str) -> None:
    def problems(error: BartizanError, request: Request) -> tuple[str, bytes]:
        if request.path == "/fails":
            raise RuntimeError
        if request.path == "/wrong":
            return "text/plain\r\nX-Injected: 1", b"x"
        if request.path == "/text":
            return "text/plain", "text"  # type: ignore[return-value]
        return "application/vnd.shop+json", json.dumps({"error": error.code}).encode()

    kit = Kit()
    rules = [Rule("/**", allow.secret_key())]
    with asking(kit, adapter, rules, problems=problems) as asked:
        answer = asked("/a")
        assert (answer.status, answer.body) == (401, b'{"error": "unauthenticated"}')
        assert answer.headers["content-type"] == "application/vnd.shop+json"
        assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/fails", "/wrong", "/text"):
            answer = asked(path)
            assert (answer.status, answer.headers["content-type"]) == (401, "application/problem+json"), path
            assert "x-injected" not in answer.headers


# --- report only ---


@both
def test_report_only(adapter: str) -> None:
    kit = Kit()
    rules = [
        Rule("GET|POST /a", allow.secret_key(), body_limit=4),
        Rule("/b/**", allow.secret_key()),
        Rule("/orgs/{org}", allow.secret_key()),
    ]
    gate = kit.security.gate(rules).unsafe_report_only("GET|POST /a", "/orgs/{org}")
    key = kit.key(org="org_1")
    guarded: Any = asgi.GateMiddleware(app, gate) if adapter == "asgi" else wsgi.GateMiddleware(wsgi_app, gate)
    with (serving if adapter == "asgi" else wsgi_serving)(guarded) as port:
        assert ask(port, "/a", *headers_of(key).items()).body.decode() == f"sk_test_{key.record.id}"
        assert (ask(port, "/a").status, ask(port, "/a").body) == (200, b"nobody")
        event = kit.events[-1]
        assert (event.name, event.reason, event.target) == ("gate.would_refuse", "no_credential", "GET|POST /a")
        assert ask(port, "/orgs/org_2", *headers_of(key).items()).body == b"nobody"  # never another organization's
        assert ask(port, "/b").status == 401
        assert ask(port, "/c").status == 404
        assert ask(port, "/a", method="DELETE").status == 405
        assert ask(port, "/orgs//a").status == 404
        assert ask(port, "/a", body=b"12345", method="POST").status == 413
    refused = [(d.admitted, d.enforced, d.status) for d in kit.decisions if d.reason == "no_credential"]
    assert set(refused) == {(False, False, 401), (False, True, 401)}


@pytest.mark.parametrize("patterns", [(), ("/a",), ("GET /a", "/**"), ("/",)])
def test_report_only_takes_the_rules_own_patterns(patterns: tuple[str, ...]) -> None:
    gate = Kit().security.gate([Rule("GET /a", allow.secret_key()), Rule("/b", allow.secret_key())])
    with pytest.raises(Misuse):
        gate.unsafe_report_only(*patterns)


def test_report_only_leaves_the_gate_itself_as_it_is() -> None:
    gate = Kit().security.gate([Rule("/a", allow.secret_key())])
    reporting = gate.unsafe_report_only("/a")
    request = Request("GET", "/a", [], None, "https")
    assert asyncio.run(gate.check(request)).status == 401  # type: ignore[union-attr]
    assert asyncio.run(reporting.check(request)).callers == ()  # type: ignore[union-attr]
    assert gate.blocking.check(request).status == 401  # type: ignore[union-attr]
    assert reporting.blocking.check(request).callers == ()  # type: ignore[union-attr]
