"""Attacks on tokens as requests through the ASGI adapter; those that a wire carries, over a socket too."""

import io
import os
import socket
from collections.abc import Callable
from contextvars import Context
from threading import current_thread
from typing import Any

import pytest
from servers import ask, serving
from token_forge import CLAIMS, FORMS, PARAMETERS, Forge, confusions, es256_twins
from token_place import RULES, Place, app, refused

from bartizan import ConsumerPrincipal, SessionPolicy
from bartizan.asgi import GateMiddleware
from bartizan.core.drive import run
from bartizan.credentials.access_tokens import signed
from bartizan.credentials.jwks import published_key_set
from bartizan.credentials.jws import SigningKey, new_signing_key
from bartizan.credentials.tokens import TokenReader, access_policy
from bartizan.errors import InvalidSession, InvalidToken
from bartizan.testing import Kit, ProofKey
from bartizan.testing.kit import headers_of
from bartizan.wsgi import GateMiddleware as WsgiMiddleware


@pytest.fixture(scope="module")
def place() -> Place:
    return Place()


def test_a_good_token_is_admitted_before_any_attack_is_tried(place: Place) -> None:
    assert place.with_token(place.forge.good) == (200, {"x-who": "consumer:cons_1"})
    assert place.with_token(place.forge.raw(place.forge.header, place.forge.claims))[0] == 200
    assert place.with_token(place.forge.with_claims(nbf=place.forge.now + 5, iat=place.forge.now + 5))[0] == 200
    assert place.with_token(place.forge.with_claims(aud=["other", "kit-api"]))[0] == 200  # aud_str_vs_list
    assert (
        place.with_token(place.forge.with_header(typ="application/AT+JWT"))[0] == 200
    )  # typ_case_and_application_prefix
    assert place.with_token(place.forge.with_header(alg="Ed25519"))[0] == 200  # RFC 9864
    assert place.with_token(place.forge.with_header(x=[{}] * 7))[0] == 200  # nobody asks what it means
    assert (
        place.with_token(place.forge.with_claims(exp=place.forge.now - 4, iat=place.forge.now - 60))[0] == 200
    )  # leeway_edges


@pytest.mark.parametrize("name", [*FORMS, *PARAMETERS, *CLAIMS])
def test_attack(place: Place, name: str) -> None:
    refused(place, (FORMS | PARAMETERS | CLAIMS)[name](place.forge))  # type: ignore[operator]


SIGNED_BY = {algorithm: Place(sessions=SessionPolicy(algorithm=algorithm)) for algorithm in ("RS256", "ES256", "EdDSA")}
CONFUSED = [(algorithm, name) for algorithm, place in SIGNED_BY.items() for name in confusions(place.forge)]


@pytest.mark.parametrize(("algorithm", "name"), CONFUSED)
def test_alg_rs256_to_hs256(algorithm: str, name: str) -> None:
    """The public key, in every text that a library has taken for a secret of HMAC."""
    place = SIGNED_BY[algorithm]
    assert place.with_token(place.forge.good)[0] == 200
    refused(place, place.forge.by_hmac(confusions(place.forge)[name]))
    assert place.reason == "wrong_algorithm"


def test_every_text_of_a_public_key_is_tried() -> None:
    assert {name for _, name in CONFUSED} >= {
        "pem", "der", "pkcs1", "ssh", "jwk", "jwks", "nested_jwk", "b64der", "hexder", "modulus", "ec_point", "ed25519_raw",
    }  # fmt: skip


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


ELSEWHERE = "https://evil.example/keys"
EMBEDDED: dict[str, tuple[Any, Callable[[SigningKey, str], dict[str, Any]]]] = {
    "jwk_embedded_okp": ("EdDSA", lambda mine, _: {"jwk": mine.verification.public}),
    "jwk_embedded_ec": ("ES256", lambda mine, _: {"jwk": mine.verification.public}),
    "jwk_embedded_rsa": ("RS256", lambda mine, _: {"jwk": mine.verification.public}),
    "jwk_embedded_oct": ("HS256", lambda mine, _: {"jwk": mine.private_jwk()}),
    "jwk_embedded_and_its_kid": ("EdDSA", lambda mine, kid: {"jwk": mine.verification.public, "kid": kid}),
    "jku_ssrf": ("EdDSA", lambda _, kid: {"jku": ELSEWHERE, "kid": kid}),
    "x5u_ssrf": ("EdDSA", lambda _, kid: {"x5u": ELSEWHERE, "kid": kid}),
    "x5c_foreign": ("EdDSA", lambda _, __: {"x5c": ["MIIBszCCARygAwIBAgIB"]}),
    "x5t_foreign": ("EdDSA", lambda _, kid: {"x5t": "A" * 27, "kid": kid}),
}


@pytest.mark.parametrize("name", EMBEDDED)
def test_key_in_the_header(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the token brings along is a key, or says where one is."""
    connected: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: connected.append(given))
    monkeypatch.setattr(socket, "create_connection", lambda *given, **_: connected.append(given))
    algorithm, header = EMBEDDED[name]
    mine = new_signing_key(algorithm, os.urandom)
    refused(place, place.forge.by_another(mine, **header(mine, mine.verification.kid)))
    assert connected == []


def test_signed_by_a_stranger_under_our_kid(place: Place) -> None:
    refused(place, place.forge.by_another(new_signing_key("EdDSA", os.urandom)))
    assert place.reason == "wrong_signature"


def test_kid_of_retired_and_kid_of_revoked_key() -> None:
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


def test_kid_of_next_key() -> None:
    """Another process has activated it, and this one has not heard: what it signs is good, until it is revoked."""
    place = Place()
    signing = place.kit.security.blocking.signing_keys
    ring = run(place.kit.security._shared.blocking_side.tokens.signing.current())
    assert ring.next is not None
    following = ring.keys[ring.next.id]
    assert isinstance(following, SigningKey)
    token = place.forge.by_another(following, kid=following.verification.kid)
    assert place.with_token(token)[0] == 200
    signing.revoke(following.verification.kid)
    refused(place, token)
    assert place.reason == "unknown_signing_key"


def test_kid_of_encryption_key() -> None:
    """A key of the published set that is not for signatures signs nothing."""
    mine = new_signing_key("EdDSA", os.urandom)
    for other in ({"use": "enc"}, {"key_ops": ["deriveKey"]}, {"alg": "ECDH-ES"}):
        keys = published_key_set({"keys": [{**(mine.verification.public or {}), **other}]}, {"EdDSA"})
        with pytest.raises(InvalidToken) as caught:
            TokenReader(access_policy(issuer="shop", audience="api", environment="live")).verify(
                signed(mine, {}), keys, 1
            )
        assert caught.value.reason == "unknown_signing_key"


def test_kid_unknown_flood(place: Place) -> None:
    """Each is one event, and none asks the store."""
    before = len(place.forge.kit.events)
    place.with_token(place.forge.good)
    store, here = place.kit.security._shared.side.backend, current_thread()
    assert store is not None
    find, asked = store.find, []

    def counting(*given: Any, **more: Any) -> Any:
        if current_thread() is here:  # and not the upkeep's
            asked.append(given)
        return find(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "find", counting)
        for i in range(200):
            refused(place, place.forge.with_header(kid=f"unknown-{i}"))
    assert asked == []
    assert len(place.forge.kit.events) == before + 200


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


def test_dpop_bound_token_as_bearer(place: Place) -> None:
    key = ProofKey()
    bound = place.forge.with_claims(cnf={"jkt": key.thumbprint})
    proof = key.proof("GET", "https://shop.example/me", token=bound)
    for extra in ([], [("DPoP", proof)], [("DPoP", "")]):
        status, headers = place.get("/me", ("Authorization", f"Bearer {bound}"), *extra)
        assert (status, place.reason) == (401, "token_bound")
        assert headers["www-authenticate"] == 'DPoP error="invalid_token", algs="ES256 EdDSA Ed25519"'


def test_dpop_proof_with_unbound_token(place: Place) -> None:
    proof = ProofKey().proof("GET", "https://shop.example/me", token=place.forge.good)
    for scheme in ("DPoP", "dpop", "DPOP"):
        status, headers = place.with_token(place.forge.good, scheme=scheme)
        assert (status, place.reason) == (401, "token_not_bound"), "and no proof at all"
        assert headers["www-authenticate"] == 'DPoP error="invalid_token", algs="ES256 EdDSA Ed25519"'
    for scheme in ("DPoP", "Bearer"):
        assert place.get("/me", ("Authorization", f"{scheme} {place.forge.good}"), ("DPoP", proof))[0] == 401
        assert place.reason == "token_not_bound"
    for text in ("abc", "sk_live_" + "A" * 60, place.kit.key(org="org_1").key):
        assert place.get("/me", ("Authorization", f"DPoP {text}"))[0] == 401
        assert place.reason == "malformed_token"


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


def test_an_open_stream_ends_with_its_session_and_not_with_its_token() -> None:
    place = Place()
    gate = place.kit.security.gate(RULES)
    from bartizan.types import Admit, Request

    request = Request("GET", "/me", [(b"authorization", f"Bearer {place.forge.good}".encode())], None, "https")
    verdict = Context().run(gate.blocking.check, request)
    assert isinstance(verdict, Admit)
    assert isinstance(verdict.principal, ConsumerPrincipal)
    gate.blocking.recheck(verdict)
    place.kit.clock.advance(400)
    gate.blocking.recheck(verdict)
    place.kit.security.blocking.sessions.revoke(verdict.principal.session_id, org="org_1")
    with pytest.raises(InvalidSession):
        gate.blocking.recheck(verdict)
    with pytest.raises(InvalidSession):
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


class Untouched(str):
    """A text of which nothing but the length is asked."""

    __slots__ = ()

    def _touched(self, *_: Any) -> Any:
        raise AssertionError("it is looked at")

    isascii = encode = split = partition = rpartition = __iter__ = __getitem__ = __contains__ = __hash__ = _touched  # type: ignore[assignment]


@pytest.mark.parametrize("size", [8 * 1024 + 1, 64 * 1024, 1_000_000])
@pytest.mark.parametrize("name", ["size_1mb_header", "size_1mb_payload", "size_1mb_dots"])
def test_of_a_megabyte_only_the_length_is_looked_at(place: Place, name: str, size: int) -> None:
    token = Untouched(FORMS[name](place.forge)[:size])
    assert len(token) == size
    with pytest.raises(InvalidToken) as caught:
        run(place.kit.security._shared.blocking_side.tokens.verify(token))
    assert caught.value.reason == "malformed_token"
