"""Policies and verifiers of tokens: edges of time, the remembered ones, danger in the configuration, and peers."""

import json
import os
import pickle
from types import MappingProxyType
from typing import Any

import joserfc.jwk
import joserfc.jwt
import jwt
import pytest
from fuzz.tokens import fuzz, fuzz_members
from hypothesis import given, settings, strategies as st
from token_forge import Forge

from bartizan import Misuse, SessionPolicy, TokenVerifier
from bartizan.core.drive import run
from bartizan.core.encoding import DEEPEST, parsed
from bartizan.credentials.access_tokens import signed
from bartizan.credentials.issuers import CHOICES as OF_OTHERS
from bartizan.credentials.jws import KeySet, Reader, SigningKey, new_signing_key, signing_key
from bartizan.credentials.tokens import CACHED, CHOICES, CLAIMS, TokenPolicy, TokenReader, access_policy
from bartizan.errors import InvalidToken, Reason
from bartizan.testing import Kit
from bartizan.types import VerifiedToken

NOW = 1_800_000_000
SAID: dict[str, Any] = {
    "iss": "shop", "aud": "api", "sub": "cons_1", "exp": NOW + 300, "iat": NOW, "jti": "j", "org": "org_1", "sid": "s_1",
    "gen": 0, "env": "live",
}  # fmt: skip
KEY = new_signing_key("EdDSA", os.urandom)


def claims(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**SAID, **changes}.items() if value is not ...}


def verifier(*keys: SigningKey, **more: Any) -> TokenVerifier:
    jwks = {"keys": [dict(key.verification.public or key.private_jwk()) for key in keys or (KEY,)]}
    given: dict[str, Any] = {"issuer": "shop", "audience": "api", "environment": "live", "algorithms": CHOICES, **more}
    return TokenVerifier(jwks, **given)


def reason(check: TokenVerifier, token: str, now: int = NOW) -> Reason | None:
    try:
        check.verify(token, now=now)
    except InvalidToken as error:
        return error.reason
    return None


def test_what_a_good_token_says() -> None:
    token = verifier().verify(signed(KEY, claims(aud=["api", "x"], a={"b": [1, {"c": 2}]}, f=1.5)), now=NOW)
    assert (token.subject, token.expires_at) == ("cons_1", NOW + 300)
    assert token.claims["org"] == "org_1"
    assert token.claims["aud"] == ("api", "x")
    assert token.claims["a"]["b"][1]["c"] == 2
    assert "cons_1" not in repr(token)


def test_a_verified_token_is_made_by_its_verifier_and_does_not_change() -> None:
    token = verifier().verify(signed(KEY, claims(a={"b": []})), now=NOW)
    with pytest.raises(Misuse):
        VerifiedToken(token)
    with pytest.raises(Misuse):
        token.subject = "x"
    with pytest.raises(Misuse):
        pickle.dumps(token)
    assert isinstance(token.claims, MappingProxyType)
    assert isinstance(token.claims["a"], MappingProxyType)
    with pytest.raises(TypeError):
        token.claims["a"]["b"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "now", "wrong"),
    [
        ({}, NOW, None),
        ({"exp": NOW, "iat": NOW - 60}, NOW, None),  # leeway
        ({"exp": NOW - 4, "iat": NOW - 60}, NOW, None),
        ({"exp": NOW - 5, "iat": NOW - 60}, NOW, Reason.TOKEN_EXPIRED),
        ({"nbf": NOW + 5}, NOW, None),
        ({"nbf": NOW + 6}, NOW, Reason.TOKEN_NOT_YET),
        ({"iat": NOW + 5}, NOW, None),
        ({"iat": NOW + 6}, NOW, Reason.TOKEN_NOT_YET),
        ({"exp": NOW + 3600}, NOW, None),
        ({"exp": NOW + 3601}, NOW, Reason.TOKEN_LIVES_TOO_LONG),
        ({"cnf": {}}, NOW, Reason.TOKEN_BOUND),
        ({"env": "test"}, NOW, Reason.WRONG_ENVIRONMENT),
        ({"iss": "shop/"}, NOW, Reason.WRONG_ISSUER),
        ({"aud": []}, NOW, Reason.WRONG_AUDIENCE),
        ({"gen": 1.0}, NOW, Reason.CLAIM_INVALID),
    ],
)
def test_edges(changes: dict[str, Any], now: int, wrong: Reason | None) -> None:
    assert reason(verifier(), signed(KEY, claims(**changes)), now) is wrong


def test_leeway_none() -> None:
    exact = verifier(leeway=0)
    assert reason(exact, signed(KEY, claims(exp=NOW, iat=NOW - 1))) is Reason.TOKEN_EXPIRED
    assert reason(exact, signed(KEY, claims(exp=NOW + 1))) is None
    assert reason(exact, signed(KEY, claims(nbf=NOW + 1))) is Reason.TOKEN_NOT_YET


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "iat", "jti", "org", "sid", "gen", "env"])
def test_every_required_claim_is(name: str) -> None:
    assert reason(verifier(), signed(KEY, claims(**{name: ...}))) is not None


@pytest.mark.parametrize(
    "more",
    [
        {"issuer": ""}, {"audience": ""}, {"audience": []}, {"audience": ["a", ""]}, {"environment": "prod"}, {"environment": ""},
        {"algorithms": []}, {"algorithms": "EdDSA"}, {"algorithms": ["none"]}, {"algorithms": ["RS512"]},
        {"leeway": -1}, {"leeway": 601}, {"leeway": True}, {"leeway": 1.5}, {"max_lifetime": 0}, {"max_lifetime": 3601},
        {"max_bytes": 0}, {"max_bytes": 10**6}, {"typ": ""},
    ],
)  # fmt: skip
def test_a_policy_says_everything(more: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        verifier(**more)


def test_a_default_verifier_takes_no_other_algorithm() -> None:
    key = new_signing_key("ES256", os.urandom)
    with pytest.raises(Misuse):
        TokenVerifier({"keys": [dict(key.verification.public or {})]}, issuer="a", audience="b", environment="live")


@pytest.mark.parametrize(
    "more",
    [
        {"access": 0},
        {"access": 3601},
        {"access": True},
        {"signing_key_days": 0},
        {"algorithm": "none"},
        {"algorithm": "RS512"},
    ],
)
def test_a_session_policy_is_checked(more: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        SessionPolicy(**more)


def test_kinds_of_token_exclude_each_other() -> None:
    """`beacon_token_as_access_token`: one key, two policies, and neither takes the other's."""
    from bartizan.credentials.jws import KeySet

    keys = KeySet([KEY.verification])
    access = TokenReader(access_policy(issuer="shop", audience="api", environment="live"))
    beacon = TokenReader(
        TokenPolicy(
            algorithms=frozenset({"EdDSA"}),
            exact={"iss": "shop", "type": "beacon"},
            audience=None,
            typ=frozenset({"jwt"}),
        )
    )
    a = signed(KEY, claims())
    forge_b = signed(KEY, claims(type="beacon"))
    head, _, rest = jwt_with_typ("JWT", claims(type="beacon")).partition(".")
    b = f"{head}.{rest}"
    assert access.verify(a, keys, NOW).subject == beacon.verify(b, keys, NOW).subject == "cons_1"
    for reader, other in ((access, b), (beacon, a), (beacon, forge_b), (beacon, jwt_with_typ("JWT", claims()))):
        with pytest.raises(InvalidToken):
            reader.verify(other, keys, NOW)


def jwt_with_typ(typ: str, said: dict[str, Any]) -> str:
    from bartizan.core.encoding import base64url

    head = base64url(json.dumps({"alg": "EdDSA", "typ": typ, "kid": KEY.verification.kid}).encode())
    body = base64url(json.dumps(said).encode())
    return f"{head}.{body}.{base64url(KEY.sign(f'{head}.{body}'.encode()))}"


# --- what is remembered ---


class Counted(TokenVerifier):
    def verified(self) -> int:
        return len(self._reader._kept)


def counted() -> Counted:
    return Counted({"keys": [dict(KEY.verification.public or {})]}, issuer="shop", audience="api", environment="live")


def test_success_only_and_the_same_value() -> None:
    check = counted()
    token = signed(KEY, claims())
    assert check.verify(token, now=NOW) is check.verify(token, now=NOW + 1)
    forged = token[:-3] + ("A" if token[-3] != "A" else "B") + token[-2:]
    for bad in (forged, signed(KEY, claims(exp=NOW - 10, iat=NOW - 60)), "x"):
        with pytest.raises(InvalidToken):
            check.verify(bad, now=NOW)
    assert check.verified() == 1


def test_cache_expired_without_iat() -> None:
    """fast-jwt CVE-2026-107719: what was good once is held against the clock at every use."""
    check = counted()
    token = signed(KEY, claims(exp=NOW + 10))
    check.verify(token, now=NOW)
    check.verify(token, now=NOW + 14)
    assert reason(check, token, NOW + 15) is Reason.TOKEN_EXPIRED


def test_cache_not_before() -> None:
    check = counted()
    token = signed(KEY, claims(nbf=NOW + 5))
    check.verify(token, now=NOW)
    assert reason(check, token, NOW - 1) is Reason.TOKEN_NOT_YET


def test_cache_key_confusion() -> None:
    """fast-jwt CVE-2026-35039: two policies never share what they remember, nor two texts of one signature."""
    a, b = (
        counted(),
        TokenVerifier(
            {"keys": [dict(KEY.verification.public or {})]}, issuer="shop", audience="other", environment="live"
        ),
    )
    token = signed(KEY, claims())
    a.verify(token, now=NOW)
    assert reason(b, token) is Reason.WRONG_AUDIENCE


def test_clock_step_back_empties_cache() -> None:
    check = counted()
    check.verify(signed(KEY, claims()), now=NOW + 10)
    check.verify(signed(KEY, claims(jti="2")), now=NOW + 9)
    assert check.verified() == 2
    assert reason(check, "x.y.z", NOW) is Reason.MALFORMED_TOKEN
    assert check.verified() == 0


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bartizan.credentials.tokens.CACHED", 10)
    check = counted()
    for i in range(25):
        check.verify(signed(KEY, claims(jti=str(i))), now=NOW)
        assert check.verified() <= 10
    assert CACHED == 10_000


# --- strict JSON ---


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b'"\\ud800"',
        b'["\\udfff\\ud800"]',
        b"\xff",
        b"\xef\xbb\xbf1",
        b"[" * 33 + b"]" * 33,
        b"[" * 100_000,
        b'{"a":' * 9_000,
        b"",
        b"1 2",
        b"{}{}",
        b"{} ]",
        b"[] \x0b",
        b"{}\xc2\xa0",
        b"{}\0",
        b"'a'",
        b"{a:1}",
        b'"\n"',
        b"9" * 5000,
    ],
)
def test_json_that_two_readers_could_read_differently_is_none(text: bytes) -> None:
    with pytest.raises(ValueError):
        parsed(text)


def test_strict_json_reads_json() -> None:
    assert parsed(b' {"a": [1, 2.5, null, true, "\\u00e9\\ud83d\\ude00\xc3\xa9"]}\n') == {
        "a": [1, 2.5, None, True, "é😀é"]
    }
    for text in (b"{}", b" {}", b"{} \t\r\n", b"\n[] ", b"0", b" 0 ", b'""'):
        assert parsed(text) == json.loads(text)
    assert parsed(b"[" * DEEPEST + b"]" * DEEPEST) is not None
    assert parsed(b'"' + b"[" * 100 + b'"') == "[" * 100
    assert parsed(b"[" + b"[]," * 100 + b"[]]") == [[]] * 101


# --- issuing ---


def test_issued_tokens_say_what_was_asked() -> None:
    kit = Kit(audience=["api", "other"])
    principal = run(
        kit.security._shared.blocking_side.tokens.verify(
            run(
                kit.security._shared.blocking_side.tokens.issue(
                    org="org_1",
                    subject="cons_é",
                    session="session_1",
                    scopes={"b:c", "a:b"},
                    guest=True,
                    factors={"otp": 5},
                    generation=3,
                )
            )
        )
    )
    assert (principal.org, principal.subject, principal.session_id, principal.guest) == (
        "org_1",
        "cons_é",
        "session_1",
        True,
    )
    assert principal.scopes == {"a:b", "b:c"}
    assert principal.factors == {"otp": 5}
    assert principal.actor == "consumer:cons_é"
    with pytest.raises(TypeError):
        principal.factors["x"] = 1  # type: ignore[index]
    forge = Forge(kit)
    assert forge.header == {"alg": "EdDSA", "kid": forge.key.verification.kid, "typ": "at+jwt"}
    assert forge.claims["aud"] == ["api", "other"]
    assert set(forge.claims) == {
        "iss",
        "aud",
        "sub",
        "exp",
        "iat",
        "jti",
        CLAIMS.org,
        CLAIMS.session,
        CLAIMS.generation,
        CLAIMS.environment,
        CLAIMS.epochs,
    }


def test_lives_differ_by_a_twentieth() -> None:
    kit = Kit()
    lives = {json.loads(parsed_payload(kit.token(org="o", subject="s")))["exp"] - kit.clock() for _ in range(200)}
    assert min(lives) >= 285
    assert max(lives) <= 300
    assert len(lives) > 5


def parsed_payload(token: str) -> bytes:
    from bartizan.core.encoding import unbase64url

    return unbase64url(token.split(".")[1]) or b""


@pytest.mark.parametrize(
    "fields",
    [
        {"org": ""},
        {"subject": ""},
        {"subject": "a\0"},
        {"session": ""},
        {"generation": -1},
        {"scopes": "a:b"},
        {"factors": {"a": -1}},
    ],
)
def test_what_would_not_verify_is_not_issued(fields: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        tokens = Kit().security._shared.blocking_side.tokens
        run(tokens.issue(**{"org": "o", "subject": "s", "session": "t", **fields}))


def test_services_name_what_they_lack() -> None:
    from bartizan import Bartizan
    from bartizan.core.ring import new_root

    for arguments in ({}, {"issuer": "a"}, {"audience": "a"}):
        security = Bartizan("memory://", environment="test", secrets=[new_root()], **arguments)  # type: ignore[arg-type]
        with pytest.raises(Misuse, match="issuer= and audience="):
            _ = security.signing_keys
    for bad in ({"issuer": "", "audience": "a"}, {"issuer": "a", "audience": []}, {"issuer": "a b", "audience": "a"}):
        with pytest.raises(Misuse):
            Bartizan("memory://", environment="test", secrets=[new_root()], **bad)


# --- peers ---


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # RFC 9864 has another name; everybody reads this one
@pytest.mark.parametrize("algorithm", CHOICES)
def test_interoperability_both_ways(algorithm: str) -> None:
    key = new_signing_key(algorithm, os.urandom)
    kid, private = key.verification.kid, key.private_jwk()
    said = {**claims(), "exp": 2**31, "iat": 2**31 - 600}
    ours = signed(key, said)
    public = dict(key.verification.public or private)
    options: Any = {"verify_iat": False}
    theirs = jwt.decode(
        ours, jwt.PyJWK(public, algorithm), algorithms=[algorithm], audience="api", issuer="shop", options=options
    )
    assert theirs == said
    assert joserfc.jwt.decode(ours, joserfc.jwk.import_key(public), algorithms=[algorithm]).claims == said
    check, now = verifier(key), 2**31 - 100
    header = {"typ": "at+jwt", "kid": kid}
    from_pyjwt = jwt.encode(
        said, jwt.PyJWK({**private, "alg": algorithm}, algorithm).key, algorithm=algorithm, headers=header
    )
    from_joserfc = joserfc.jwt.encode(
        {"alg": algorithm, **header}, said, joserfc.jwk.import_key(private), algorithms=[algorithm]
    )
    assert check.verify(from_pyjwt, now=now).claims["jti"] == "j"
    assert check.verify(from_joserfc, now=now).claims["jti"] == "j"
    assert signing_key(private, {algorithm}).verification.thumbprint == key.verification.thumbprint


@pytest.mark.filterwarnings("ignore:.* is deprecated", "ignore:.* is not recommended")
@pytest.mark.parametrize("algorithm", sorted(set(OF_OTHERS) - set(CHOICES)))
def test_interoperability_of_what_only_outside_issuers_use(algorithm: str) -> None:
    key = new_signing_key(algorithm, os.urandom)
    private, said = key.private_jwk(), {"sub": "cons_1", "exp": 2**31}
    ours = signed(key, said)
    public: Any = dict(key.verification.public or {})
    assert jwt.decode(ours, jwt.PyJWK(public, algorithm), algorithms=[algorithm]) == said
    assert joserfc.jwt.decode(ours, joserfc.jwk.import_key(public), algorithms=[algorithm]).claims == said
    reader = Reader(algorithms=[algorithm], typ={"at+jwt"}, max_bytes=8192, max_header=512)
    header = {"typ": "at+jwt", "kid": key.verification.kid}
    for theirs in (
        jwt.encode(said, jwt.PyJWK({**private, "alg": algorithm}, algorithm).key, algorithm=algorithm, headers=header),
        joserfc.jwt.encode({"alg": algorithm, **header}, said, joserfc.jwk.import_key(private), algorithms=[algorithm]),
    ):
        found, payload = reader.read(theirs, KeySet([key.verification]))
        assert (found, json.loads(payload)) == (key.verification, said)


# --- fuzz ---

EVERY_REASON = (
    "malformed_token", "unknown_signing_key", "wrong_algorithm", "wrong_signature", "wrong_token_type", "wrong_issuer",
    "wrong_audience", "wrong_environment", "claim_invalid", "token_expired", "token_not_yet", "token_lives_too_long",
)  # fmt: skip


def test_fuzz() -> None:
    seen = fuzz(1_000_000, seed=7)
    assert seen["refused"] + seen["verified"] == 1_000_000
    assert seen["refused"] > 750_000
    assert seen["verified"] > 25_000
    assert {f"refused: {reason}" for reason in EVERY_REASON} <= set(seen)  # it got everywhere


def test_fuzz_of_members() -> None:
    seen = fuzz_members(50_000, seed=7)
    assert seen["refused"] + seen["verified"] == 50_000
    assert seen["verified"] > 1000
    assert {f"refused: {reason}" for reason in (*EVERY_REASON, "foreign_organization")} - {
        "refused: wrong_environment"
    } <= set(seen)


@given(st.text(max_size=400) | st.binary(max_size=400).map(lambda data: data.decode("latin-1")))
@settings(max_examples=200, deadline=None)
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidToken):
        verifier().verify(text, now=NOW)
