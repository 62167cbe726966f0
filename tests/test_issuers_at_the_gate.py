"""Members of an OpenID provider in this process: discovery, keys and tokens over TLS, the gate over both adapters."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from authorities import Authority
from outside import Provider
from servers import Answer, ask, serving, wsgi_serving
from tls_servers import Peer, answer, tls_serving

from bartizan import Bartizan, Issuer, MemberPrincipal, Misuse, Rule, allow, asgi, current_principal, wsgi
from bartizan.core.address import EndpointPolicy
from bartizan.core.drive import run
from bartizan.errors import InvalidToken, Reason
from bartizan.testing import FakeClock
from bartizan.testing.kit import Kit

RULES = [
    Rule("GET /me", allow.member()),
    Rule("GET /view", allow.member("viewer")),
    Rule("GET /own", allow.member("owner")),
    Rule("GET /scope", allow.member("orders:read")),
    Rule("GET /proved", allow.member(factors={"otp"}, max_auth_age=60)),
    Rule("/orgs/{org}/orders", allow.member("viewer")),
]
BOTH = [*RULES, Rule("GET /key", allow.secret_key()), Rule("GET /either", allow.consumer() | allow.member())]


def who() -> str:
    caller = current_principal()
    return f"{caller.kind} {caller.org} {getattr(caller, 'subject', '')}"


async def app(scope: Any, receive: Any, send: Any) -> None:
    body = who().encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def wsgi_app(environ: Any, start_response: Any) -> Sequence[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [who().encode()]


class Place:
    """A provider behind TLS, and a service that trusts it, behind one of the adapters."""

    def __init__(self, peer: Peer, authority: Authority) -> None:
        self.peer = peer
        self.authority = authority
        self.provider = Provider(f"https://127.0.0.1:{peer.port}")
        self.down = False
        self.port = 0
        self.kit = self.made()

    def made(self, **arguments: Any) -> Kit:
        return Kit(**{"issuers": [self.issuer()], **arguments})

    def issuer(self, **fields: Any) -> Issuer:
        endpoint = EndpointPolicy(
            ports={self.peer.port}, unsafe_networks=["127.0.0.1"], authorities=self.authority.pem, seconds=5
        )
        given: dict[str, Any] = {
            "organizations": {"org_1", "org_2"},
            "audience": "dashboard",
            "roles": {"Viewers": "viewer"},
            "factors": {"otp": "otp"},
            "endpoint": endpoint,
            **fields,
        }
        return Issuer(self.provider.url, **given)

    def serve(self, connection: Any, head: bytes, _: Peer) -> None:
        if self.down:
            connection.sendall(answer(b"", status="500 Internal Server Error"))
        else:
            connection.sendall(answer(self.provider.metadata if b"well-known" in head else self.provider.jwks))

    def token(self, **claims: Any) -> str:
        return self.provider.token(self.kit.clock(), **claims)

    def ask(self, target: str, token: str | None = None, *headers: tuple[str, str]) -> Answer:
        bearer = [("Authorization", f"Bearer {token}")] if token is not None else []
        return ask(self.port, target, *bearer, *headers)

    @property
    def reason(self) -> str | None:
        return self.kit.events[-1].reason


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def certificate(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority.certificate(tmp_path_factory.mktemp("certificates"), "127.0.0.1")


Serve = Callable[[Any], Any]
ADAPTERS: Mapping[str, Serve] = {
    "asgi": lambda gate: serving(asgi.GateMiddleware(app, gate)),
    "wsgi": lambda gate: wsgi_serving(wsgi.GateMiddleware(wsgi_app, gate)),
}


@pytest.fixture(params=ADAPTERS)
def place(request: pytest.FixtureRequest, authority: Authority, certificate: Path) -> Iterator[Place]:
    made: list[Place] = []
    with tls_serving(certificate, lambda *given: made[0].serve(*given)) as peer:
        made.append(Place(peer, authority))
        with ADAPTERS[request.param](made[0].kit.security.gate(BOTH)) as port:
            made[0].port = port
            yield made[0]
        made[0].kit.security.blocking.__exit__()


def problem(given: Answer) -> tuple[int, str, str | None]:
    return given.status, json.loads(given.body)["code"], given.headers.get("www-authenticate")


INVALID = (401, "invalid_token", 'Bearer error="invalid_token"')


def test_a_member_of_an_oidc_provider(place: Place) -> None:
    """Discovery, keys, token, role and organization, over real sockets; the provider is asked once."""
    token = place.token(roles=["Viewers"])
    for target in ("/me", "/view", "/orgs/org_1/orders", "/either"):
        assert (place.ask(target, token).status, place.ask(target, token).body) == (200, b"member org_1 user_1")
    assert [head.split(b" ")[1] for head in place.peer.requests] == [b"/.well-known/openid-configuration", b"/keys"]


def test_nobody_is_asked_for_a_token(place: Place) -> None:
    assert problem(place.ask("/me")) == (401, "unauthenticated", "Bearer")
    assert place.peer.requests == []


def test_roles_and_scopes(place: Place) -> None:
    token = place.token(roles=["Viewers", "owner"])
    assert place.ask("/view", token).status == 200
    assert problem(place.ask("/own", token)) == (
        403,
        "missing_scope",
        'Bearer error="insufficient_scope", scope="owner"',
    )
    assert place.ask("/scope", place.token(scope="orders:read")).status == 403  # the issuer's scopes are not ours


def test_the_organization_of_the_path(place: Place) -> None:
    token = place.token(roles=["Viewers"], org_id="org_2")
    assert place.ask("/orgs/org_2/orders", token).status == 200
    assert place.ask("/orgs/org_1/orders", token).status == 404
    assert place.reason == "wrong_organization"


def test_issuer_a_asserts_org_b_at_the_gate(place: Place) -> None:
    assert problem(place.ask("/me", place.token(org_id="org_3"))) == INVALID
    assert place.reason == "foreign_organization"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "other"}, "wrong_audience"),
        ({"nonce": "n"}, "claim_invalid"),
        ({"exp": 1}, "claim_invalid"),
        ({"header": {"typ": "JWT"}}, "wrong_token_type"),
        ({"header": {"alg": "none"}}, "wrong_algorithm"),
        ({"header": {"kid": "other"}}, "unknown_signing_key"),
        ({"cnf": {"jkt": "x"}}, "token_bound"),
    ],
)
def test_tokens_that_let_nobody_in(place: Place, claims: dict[str, Any], reason: str) -> None:
    assert place.ask("/me", place.token()).status == 200
    assert problem(place.ask("/me", place.token(**claims))) == INVALID
    assert place.reason == reason


def test_another_providers_token(place: Place) -> None:
    evil = Provider(place.provider.url)
    token = evil.token(place.kit.clock(), header={"kid": place.provider.kid})
    assert problem(place.ask("/me", token)) == INVALID
    assert place.reason == "wrong_signature"
    assert problem(place.ask("/me", Provider("https://evil.example").token(place.kit.clock()))) == INVALID


def test_a_token_in_the_query(place: Place) -> None:
    assert place.ask(f"/me?t={place.token()}").status == 400
    assert place.reason == "credential_in_query"


def test_consumer_and_member_side_by_side(place: Place) -> None:
    """`iss` says whose keys are asked; a token of one kind is no token of the other."""
    consumer = place.kit.as_consumer(org="org_1", subject="cons_1")["Authorization"].removeprefix("Bearer ")
    assert place.ask("/either", consumer).body == b"consumer org_1 cons_1"
    assert place.ask("/either", place.token()).body == b"member org_1 user_1"
    assert place.ask("/me", consumer).status == 403
    key = place.kit.as_key(org="org_1")["Authorization"].removeprefix("Bearer ")
    assert place.ask("/key", key).body == b"secret org_1 "
    assert place.ask("/key", place.token()).status == 403


def test_a_factor_that_is_too_old(place: Place) -> None:
    """RFC 9470: sign in again, and how."""
    now = place.kit.clock()
    assert place.ask("/proved", place.token(amr=["otp"], auth_time=now - 59)).status == 200
    for claims in (
        {"amr": ["otp"], "auth_time": now - 61},
        {"amr": ["otp"]},
        {"auth_time": now},
        {"amr": ["pwd"], "auth_time": now},
    ):
        refused = place.ask("/proved", place.token(**claims))
        assert refused.status == 401
        assert 'error="insufficient_user_authentication"' in refused.headers["www-authenticate"]


def test_a_provider_that_is_down(place: Place) -> None:
    """503 while nothing is known of it, and no difference once its keys are held."""
    place.down = True
    assert problem(place.ask("/me", place.token())) == (503, "unavailable", None)
    place.down = False
    place.kit.clock.advance(10)
    assert place.ask("/me", place.token()).status == 200
    place.down = True
    place.kit.clock.advance(3600)
    assert place.ask("/me", place.token()).status == 200


def test_upkeep_fetches_what_is_stale(place: Place) -> None:
    assert place.ask("/me", place.token()).status == 200
    place.provider.rotate()
    del place.provider.keys[1:]
    place.kit.clock.advance(300)
    place.kit.security._shared.upkeep.flush()
    assert len(place.peer.requests) == 2  # nobody used it since
    old = Provider(place.provider.url)
    assert place.ask("/me", old.token(place.kit.clock())).status == 401
    assert len(place.peer.requests) == 4
    assert place.ask("/me", place.token()).status == 200


def test_recheck_ends_with_the_token(place: Place) -> None:
    kept: list[MemberPrincipal] = []
    security = place.made(on_decision=lambda decision: kept.append(decision.principal)).security
    with serving(asgi.GateMiddleware(app, security.gate(RULES))) as port:
        token = place.provider.token(FakeClock()())
        assert ask(port, "/me", ("Authorization", f"Bearer {token}")).status == 200
    assert isinstance(kept[0], MemberPrincipal)
    security.blocking.recheck(kept[0])
    (authenticator,) = [a for a in security._shared.side.authenticators({"test"}) if "member" in a.kinds]
    run(authenticator.recheck(kept[0]))
    clock = security._shared.clock
    clock.seconds.advance(600)  # type: ignore[attr-defined]
    for recheck in (security.blocking.recheck, lambda member: run(authenticator.recheck(member))):
        with pytest.raises(InvalidToken) as caught:
            recheck(kept[0])
        assert caught.value.reason is Reason.TOKEN_EXPIRED


def test_a_service_of_issuers_alone(place: Place) -> None:
    """Neither a store nor a secret: a gate of issuers needs none."""
    security = Bartizan(environment="live", issuers=[place.issuer()])
    with serving(asgi.GateMiddleware(app, security.gate(RULES))) as port:
        token = place.provider.token(int(time.time()))
        assert ask(port, "/me", ("Authorization", f"Bearer {token}")).body == b"member org_1 user_1"
        for text in ("nonsense", "ey", "ey.", "ey!a.b.c", "eyJ9.e30.", "sk_live_x"):
            assert ask(port, "/me", ("Authorization", f"Bearer {text}")).status == 401
    closed = security.gate([Rule("GET /me", allow.member())], environments={"test"})
    with serving(asgi.GateMiddleware(app, closed)) as port:
        assert ask(port, "/me", ("Authorization", f"Bearer {token}")).status == 401


def test_member_rules_need_issuers() -> None:
    with pytest.raises(Misuse, match="issuers="):
        Kit().security.gate([Rule("GET /me", allow.member())])
    with pytest.raises(Misuse, match="sequence"):
        Bartizan(environment="test", issuers=Issuer("https://a.example", organizations={"o"}, audience="a"))  # type: ignore[arg-type]


def test_without_httpcore_only_given_keys_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider()
    monkeypatch.setitem(sys.modules, "httpcore", None)
    with pytest.raises(Misuse, match="send"):
        Bartizan(environment="test", issuers=[Issuer(provider.url, organizations={"o"}, audience="a")])
    Bartizan(
        environment="test", issuers=[Issuer(provider.url, organizations={"o"}, audience="a", jwks=provider.document)]
    )
