"""Attacks on tokens as requests through the ASGI adapter; those that a wire carries, over a socket too."""

import asyncio
import io
import os
import time
from contextvars import Context
from typing import Any

import pytest
from servers import ask, serving
from token_forge import CLAIMS, FORMS, PARAMETERS, Forge, confusions, es256_twins

from bartizan import ConsumerPrincipal, Rule, SessionPolicy, allow, current_principal
from bartizan.asgi import GateMiddleware
from bartizan.core.drive import run
from bartizan.credentials.jws import new_signing_key
from bartizan.testing import Kit
from bartizan.testing.kit import headers_of
from bartizan.wsgi import GateMiddleware as WsgiMiddleware

RULES = [
    Rule("GET /me", allow.consumer()),
    Rule("GET /orders", allow.consumer("orders:read")),
    Rule("GET /account", allow.consumer(guests=False)),
    Rule("GET /card", allow.consumer(factors={"otp"}, max_auth_age=300)),
    Rule("GET /recent", allow.consumer(max_auth_age=300)),
    Rule("GET /either", allow.secret_key("orders:read") | allow.consumer("orders:read")),
    Rule("GET /both", allow.publishable_key() & allow.consumer()),
    Rule("GET /maybe", allow.optional(allow.consumer())),
    Rule("GET /orgs/{org}/me", allow.consumer()),
    Rule("GET /server", allow.secret_key()),
]
Answer = tuple[int, dict[str, str]]


async def app(scope: Any, receive: Any, send: Any) -> None:
    who = current_principal(optional=True).actor.encode() if scope["path"] != "/maybe" else b"-"  # type: ignore[call-overload]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-who", who)]})
    await send({"type": "http.response.body", "body": b""})


class Place:
    def __init__(self, **arguments: Any) -> None:
        self.kit = Kit(**arguments)
        self.forge = Forge(self.kit)
        self.app = GateMiddleware(app, self.kit.security.gate(RULES))

    def get(self, path: str, *headers: tuple[str, str], query: bytes = b"") -> Answer:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query,
            "root_path": "", "scheme": "https", "client": None,
            "headers": [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers],
        }  # fmt: skip
        asyncio.run(self.app(scope, None, send))  # type: ignore[arg-type]
        head = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return sent[0]["status"], head

    def with_token(self, token: str, path: str = "/me", scheme: str = "Bearer") -> Answer:
        return self.get(path, ("Authorization", f"{scheme} {token}"))

    @property
    def reason(self) -> str | None:
        return self.kit.events[-1].reason


@pytest.fixture(scope="module")
def place() -> Place:
    return Place()


def refused(place: Place, token: str) -> None:
    status, headers = place.with_token(token)
    assert (status, headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


def test_a_good_token_is_admitted_before_any_attack_is_tried(place: Place) -> None:
    assert place.with_token(place.forge.good) == (200, {"x-who": "consumer:cons_1"})
    assert place.with_token(place.forge.raw(place.forge.header, place.forge.claims))[0] == 200
    assert place.with_token(place.forge.with_claims(nbf=place.forge.now + 5, iat=place.forge.now + 5))[0] == 200
    assert place.with_token(place.forge.with_claims(aud=["other", "kit-api"]))[0] == 200
    assert (
        place.with_token(place.forge.with_header(typ="application/AT+JWT"))[0] == 200
    )  # typ_case_and_application_prefix
    assert place.with_token(place.forge.with_header(alg="Ed25519"))[0] == 200  # RFC 9864
    assert (
        place.with_token(place.forge.with_claims(exp=place.forge.now - 4, iat=place.forge.now - 60))[0] == 200
    )  # leeway_edges


@pytest.mark.parametrize("name", [*FORMS, *PARAMETERS, *CLAIMS])
def test_attack(place: Place, name: str) -> None:
    refused(place, (FORMS | PARAMETERS | CLAIMS)[name](place.forge))  # type: ignore[operator]


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_alg_rs256_to_hs256(algorithm: Any) -> None:
    place = Place(sessions=SessionPolicy(algorithm=algorithm))
    assert place.with_token(place.forge.good)[0] == 200
    for secret in confusions(place.forge).values():
        refused(place, place.forge.by_hmac(secret))
        assert place.reason == "wrong_algorithm"


def test_es256_signatures() -> None:
    place = Place(sessions=SessionPolicy(algorithm="ES256"))
    twins = es256_twins(place.forge.good)
    # The second spelling of a signature is good: nothing that happens once is keyed by a token's text.
    assert place.with_token(twins.pop("es256_high_s_twin"))[0] == 200
    for token in twins.values():
        refused(place, token)


def test_ed25519_noncanonical_S(place: Place) -> None:
    head, body, third = place.forge.good.split(".")
    from bartizan.core.encoding import base64url, unbase64url

    raw = unbase64url(third) or b""
    order = 2**252 + 27742317777372353535851937790883648493
    twin = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    refused(place, f"{head}.{body}.{base64url(twin)}")


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256", "HS256"])
def test_jwk_embedded(place: Place, algorithm: str) -> None:
    """Nothing that the token brings along is a key: `jwk`, `jku`, `x5u`, `x5c`."""
    mine = new_signing_key(algorithm, os.urandom)
    jwk = mine.verification.public or mine.private_jwk()
    for header in (
        {"jwk": jwk}, {"jwk": jwk, "kid": mine.verification.kid}, {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/x5u"}, {"x5c": ["MIIB"]},
    ):  # fmt: skip
        refused(place, place.forge.by_another(mine, **header))


def test_signed_by_a_stranger_under_our_kid(place: Place) -> None:
    refused(place, place.forge.by_another(new_signing_key("EdDSA", os.urandom)))
    assert place.reason == "wrong_signature"


def test_kid_of_retired_revoked_and_next_key() -> None:
    place = Place()
    signing = place.kit.security.blocking.signing_keys
    place.kit.clock.advance(700)
    old = place.kit.token(org="org_1", subject="cons_1")
    first = place.forge.key.verification.kid
    signing.rotate()
    assert place.with_token(old)[0] == 200  # retiring: what it signed is good until it ends
    new = place.kit.token(org="org_1", subject="cons_1")
    assert place.with_token(new)[0] == 200
    signing.revoke(first)
    refused(place, old)
    assert place.reason == "unknown_signing_key"
    assert place.with_token(new)[0] == 200


def test_kid_of_encryption_key_and_kid_unknown_flood(place: Place) -> None:
    before = len(place.forge.kit.events)
    for i in range(200):
        refused(place, place.forge.with_header(kid=f"unknown-{i}"))
    assert len(place.forge.kit.events) == before + 200
    refused(place, place.forge.with_header(kid="enc-1"))


def test_secret_token_refused_on_live() -> None:
    """Issuer, audience, secret and store are shared: the environment alone keeps them apart, twice over."""
    from bartizan.core.ring import new_root

    root = new_root()
    test = Place(environment="test", secrets=[root], issuer="shop", audience="api")
    live = Place(environment="live", secrets=[root], issuer="shop", audience="api")
    refused(live, test.forge.good)
    # Even if both had one signing key, the claim is held against the instance's own environment.
    refused(live, live.forge.with_claims(env="test"))
    assert live.reason == "wrong_environment"
    assert test.with_token(test.forge.good)[0] == live.with_token(live.forge.good)[0] == 200


test_consumer_token_on_live = test_secret_token_refused_on_live


def test_another_issuers_store_is_another_ring() -> None:
    a, b = Place(issuer="a"), Place(issuer="b")
    refused(b, a.forge.good)


# --- several credentials, and RFC 6750 ---


def test_without_credentials_there_is_no_error_code(place: Place) -> None:
    assert place.get("/me")[1]["www-authenticate"] == "Bearer"
    assert place.get("/me", ("Authorization", "Basic Zm9vOmJhcg=="))[1]["www-authenticate"] == "Bearer"


def test_insufficient_scope_says_which(place: Place) -> None:
    status, headers = place.with_token(place.forge.good, "/orders")
    assert (status, headers["www-authenticate"]) == (403, 'Bearer error="insufficient_scope", scope="orders:read"')
    token = place.kit.token(org="org_1", subject="cons_1", scopes={"orders:read", "a:b"})
    assert place.with_token(token, "/orders")[0] == 200


def test_invalid_request(place: Place) -> None:
    bearer = ("Authorization", f"Bearer {place.forge.good}")
    for status, headers in (
        place.get("/me", bearer, bearer),
        place.get("/me", query=b"access_token=" + place.forge.good.encode()),
        place.get("/me", query=b"x=" + place.forge.good.encode()),
    ):
        assert (status, headers["www-authenticate"]) == (400, 'Bearer error="invalid_request"')
    # A cursor that is JSON in base64url is no token, nor is a signed text of somebody else's.
    assert place.get("/me", bearer, query=b"after=eyJpZCI6MX0&t=eyJpZCI6MX0.aaaa.bbbb")[0] == 200


def test_dpop_is_reserved(place: Place) -> None:
    for scheme in ("DPoP", "dpop", "DPOP"):
        status, headers = place.with_token(place.forge.good, scheme=scheme)
        assert (status, place.reason) == (401, "token_bound")
        assert headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_alternatives_do_not_add_scopes(place: Place) -> None:
    weak = place.kit.key(org="org_1", scopes={"a:b"})
    assert place.get("/either", *headers_of(weak).items())[0] == 403
    assert place.with_token(place.forge.good, "/either")[0] == 403


def test_bad_credential_beside_good_one(place: Place) -> None:
    page = headers_of(place.kit.key(org="org_1", kind="publishable"))
    assert place.get("/both", *page.items(), ("Authorization", f"Bearer {place.forge.good}"))[0] == 200
    assert place.get("/both", *page.items(), ("Authorization", f"Bearer {place.forge.good}x"))[0] == 401
    assert place.get("/server", *page.items(), ("Authorization", f"Bearer {place.forge.good}"))[0] == 403
    other = headers_of(place.kit.key(org="org_2", kind="publishable"))
    assert place.get("/both", *other.items(), ("Authorization", f"Bearer {place.forge.good}"))[0] == 400


def test_optional_takes_nobody_and_no_bad_token(place: Place) -> None:
    assert place.get("/maybe")[0] == 200
    assert place.with_token(place.forge.good, "/maybe")[0] == 200
    assert place.with_token(place.forge.unsigned("none"), "/maybe")[0] == 401


def test_org_foreign(place: Place) -> None:
    assert place.with_token(place.forge.good, "/orgs/org_1/me")[0] == 200
    assert place.with_token(place.forge.good, "/orgs/org_2/me")[0] == 404


@pytest.mark.parametrize(
    ("path", "factors", "guest", "asked"),
    [
        ("/card", {"otp": -10}, False, None),
        ("/card", {"otp": -299}, True, None),
        ("/card", {"otp": -301}, False, 'acr_values="otp", max_age="300"'),
        ("/card", {"pwd": -10}, False, 'acr_values="otp", max_age="300"'),
        ("/card", {"otp": 6}, False, 'acr_values="otp", max_age="300"'),
        ("/card", {"otp": 5}, False, None),
        ("/recent", {"pwd": -1000, "otp": -10}, False, None),
        ("/recent", {"pwd": -1000}, False, 'max_age="300"'),
        ("/recent", {}, False, 'max_age="300"'),
        ("/account", {}, False, None),
        ("/account", {}, True, ""),
    ],
)
def test_rfc_9470(place: Place, path: str, factors: dict[str, int], guest: bool, asked: str | None) -> None:
    now = place.forge.now
    times = {name: now + at for name, at in factors.items()}
    token = place.kit.token(org="org_1", subject="cons_1", factors=times, guest=guest)
    status, headers = place.with_token(token, path)
    if asked is None:
        assert status == 200
    else:
        want = 'Bearer error="insufficient_user_authentication"' + (f", {asked}" if asked else "")
        assert (status, headers["www-authenticate"], place.reason) == (401, want, "sign_in_again")


def test_an_open_stream_ends_with_its_token() -> None:
    place = Place()
    gate = place.kit.security.gate(RULES)
    from bartizan.errors import InvalidToken
    from bartizan.types import Admit, Request

    request = Request("GET", "/me", [(b"authorization", f"Bearer {place.forge.good}".encode())], None, "https")
    verdict = Context().run(gate.blocking.check, request)
    assert isinstance(verdict, Admit)
    assert isinstance(verdict.principal, ConsumerPrincipal)
    gate.blocking.recheck(verdict)
    place.kit.clock.advance(400)
    with pytest.raises(InvalidToken):
        gate.blocking.recheck(verdict)
    with pytest.raises(InvalidToken):
        run(place.kit.security.recheck(verdict.principal))


WIRED = sorted(
    name
    for name in {**FORMS, **PARAMETERS, **CLAIMS}
    if not name.startswith(("size_", "nested_60k", "kid_10kb", "newline", "trailing", "nul", "full_width", "empty"))
)


def test_every_attack_that_a_wire_carries_over_a_socket(place: Place) -> None:
    forge = Forge(Kit())
    with serving(GateMiddleware(app, forge.kit.security.gate(RULES)), "httptools") as port:
        assert ask(port, "/me", ("Authorization", f"Bearer {forge.good}")).status == 200
        for name in WIRED:
            token = (FORMS | PARAMETERS | CLAIMS)[name](forge)  # type: ignore[operator]
            assert ask(port, "/me", ("Authorization", f"Bearer {token}")).status == 401, name


def test_wsgi_gives_the_same_verdicts(place: Place) -> None:
    def answer(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"ok"]

    wrapped = WsgiMiddleware(answer, place.kit.security.gate(RULES))

    def status(token: str) -> str:
        told: list[str] = []
        environ = {
            "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/me", "QUERY_STRING": "", "wsgi.url_scheme": "https",
            "wsgi.input": io.BytesIO(),
            "HTTP_AUTHORIZATION": "Bearer " + token.encode("latin-1", "replace").decode("latin-1"),
        }  # fmt: skip
        Context().run(lambda: list(wrapped(environ, lambda line, _: told.append(line))))
        return told[0]

    assert status(place.forge.good) == "200 OK"
    for name, attack in {**FORMS, **PARAMETERS, **CLAIMS}.items():
        assert status(attack(place.forge)).startswith("401"), name


def test_a_megabyte_costs_no_more_than_its_length() -> None:
    place = Place()
    token = place.forge.with_claims(x="a" * 1_000_000)
    started = time.thread_time()
    for _ in range(1000):
        with pytest.raises(Exception, match="token"):
            run(place.kit.security._shared.blocking_side.tokens.verify(token))
    assert time.thread_time() - started < 1
