"""One test for each published hole of a JOSE library that concerns signatures or keys: what it says to refuse, refused.

Tokens go through a gate over ASGI, each signed by our own key unless it says otherwise; keys through what loads them.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
from outside import NOW, Provider
from token_forge import FORMS, PARAMETERS, Forge, confusions, text
from token_place import Place, refused

from bartizan import Issuer, Misuse, SessionPolicy, TokenVerifier
from bartizan.core.drive import run
from bartizan.core.encoding import base64url
from bartizan.core.ports import SteppedClock
from bartizan.credentials.access_tokens import signed
from bartizan.credentials.issuer_keys import COOLDOWN, Outside
from bartizan.credentials.jwks import key_set, published_key_set
from bartizan.credentials.jws import ALGORITHMS, new_signing_key, verification_key
from bartizan.credentials.tokens import CHOICES
from bartizan.credentials.weak_keys import UnusableKey
from bartizan.errors import InvalidRequest, InvalidToken, Reason, Unavailable
from bartizan.outbound import EndpointPolicy
from bartizan.stores.waits import BlockingWaits
from bartizan.testing import FakeClock

EDDSA = Place()
RSA = Place(sessions=SessionPolicy(algorithm="RS256"))
HMAC = Place(sessions=SessionPolicy(algorithm="HS256"))
PUBLIC = dict(EDDSA.forge.key.verification.public or {})


def by_public_key(*names: str) -> Callable[[], Iterator[str]]:
    """Tokens by HMAC, whose secret is the public key in these texts."""
    return lambda: (RSA.forge.by_hmac(confusions(RSA.forge)[name]) for name in names)


def forms(*names: str) -> Callable[[], Iterator[str]]:
    return lambda: ((FORMS | PARAMETERS)[name](EDDSA.forge) for name in names)  # type: ignore[operator]


def claims(**changes: Any) -> Callable[[], Iterator[str]]:
    return lambda: iter([EDDSA.forge.with_claims(**changes)])


def embedded() -> Iterator[str]:
    """A key in the header, and the signature that it makes."""
    for algorithm in ("EdDSA", "ES256", "RS256", "HS256"):
        mine = new_signing_key(algorithm, os.urandom)
        yield EDDSA.forge.by_another(mine, jwk=mine.verification.public or mine.private_jwk())


def json_forms(**members: Any) -> str:
    head, body, _ = EDDSA.forge.good.split(".")
    return json.dumps({"protected": head, "payload": body, **members})


def without_signatures() -> Iterator[str]:
    """A JSON serialization whose list of signatures is empty, or not there: nothing is wrong in nothing."""
    yield json_forms()
    yield json_forms(signatures=[])
    yield json_forms(signature="")
    yield base64url(json_forms(signatures=[]).encode()) + ".."


def unprotected() -> Iterator[str]:
    head, _, signature = EDDSA.forge.good.split(".")
    yield json_forms(signatures=[{"protected": head, "header": {"alg": "none"}, "signature": signature}])
    yield json_forms(signatures=[{"protected": head, "header": {"crit": ["x"]}, "signature": signature}])


def encrypted(**header: Any) -> Iterator[str]:
    bomb = base64url(zlib.compress(b" " * 10_000_000, 9)[:5000])
    for kind in ("RSA1_5", "PBES2-HS256+A128KW", "dir"):
        head = base64url(text({"alg": kind, "enc": "A128GCM", "kid": EDDSA.forge.header["kid"], **header}))
        yield f"{head}..AAAAAAAAAAAAAAAA.{bomb}.AAAAAAAAAAAAAAAAAAAAAA"
        yield f"{head}.{bomb}.AAAA"


def padded_size() -> Iterator[str]:
    yield EDDSA.forge.with_header(b64=False, crit=["b64"])
    head = base64url(text({**EDDSA.forge.header, "b64": False, "crit": ["b64"]}))
    yield f"{head}.{'$' * 8192}.AA"


TOKENS: dict[str, tuple[Place, Callable[[], Iterator[str]]]] = {
    "CVE-2017-11424, CVE-2022-29217 PyJWT: a PEM or SSH public key as the secret": (RSA, by_public_key("pem", "ssh")),
    "CVE-2024-53861 PyJWT: part of an issuer is the issuer": (EDDSA, claims(iss="ki")),
    "CVE-2026-32597 PyJWT: unknown crit": (EDDSA, forms("crit_unknown", "crit_missing_member")),
    "CVE-2026-48526 PyJWT: a JWK as the secret": (RSA, by_public_key("jwk")),
    "CVE-2026-48525 PyJWT, CVE-2026-48990 joserfc: b64=false, at any size": (EDDSA, padded_size),
    "CVE-2026-102268 PyJWT: a PEM with other white space as the secret": (RSA, by_public_key("pem_stripped", "pem_with_spaces")),
    "CVE-2026-102271 PyJWT: DER as the secret": (RSA, by_public_key("der", "b64der", "hexder", "pkcs1")),
    "CVE-2026-102272 PyJWT: a JWKS or an array as the secret": (RSA, by_public_key("jwks", "jwk_array")),
    "CVE-2026-102273 PyJWT: a nested JWK as the secret": (RSA, by_public_key("nested_jwk")),
    "CVE-2026-102269 PyJWT: base64 that is not canonical": (EDDSA, forms("unused_bits_flipped", "unused_bits_flipped_signed", "std_b64_alphabet", "whitespace_in_segment_signed")),
    "GHSA-8wjv PyJWT: recursion": (EDDSA, forms("nested_header", "nested_3k", "nested_33", "nested_60k")),
    "CVE-2024-33663, CVE-2026-85394 python-jose: PEM, then DER as the secret": (RSA, by_public_key("pem", "der")),
    "CVE-2024-33664 python-jose, CVE-2024-28102 jwcrypto: a bomb in a JWE": (EDDSA, lambda: encrypted(zip="DEF")),
    "CVE-2026-120459 python-jose, CVE-2026-114616 authlib: an empty secret": (RSA, by_public_key("empty")),
    "CVE-2025-61152 python-jose: alg none": (EDDSA, forms("alg_none", "alg_None", "alg_nOnE", "alg_NONE")),
    "CVE-2024-37568 authlib: algorithms are confused where no list is given": (RSA, by_public_key("pem", "modulus", "kid")),
    "CVE-2025-59420 authlib: crit": (EDDSA, forms("crit_unknown", "crit_empty", "crit_string", "crit_dup", "crit_names_alg")),
    "CVE-2025-61920 authlib: segments of any size": (EDDSA, forms("size_1mb_header", "size_1mb_payload", "size_8k_and_1")),
    "CVE-2026-27962 authlib: the key in the header": (EDDSA, embedded),
    "CVE-2026-28802 authlib: alg none with a blank signature": (EDDSA, forms("alg_none", "alg_none_blank_signature", "empty_signature")),
    "CVE-2026-96760 authlib, CVE-2026-102946 joserfc: JSON without signatures": (EDDSA, without_signatures),
    "CVE-2026-62995 joserfc: == at the end": (EDDSA, forms("pad_equals", "pad_equals_signature", "pad_equals_signed", "pad_equals_twice_signed")),
    "CVE-2026-75509 joserfc: iss is a list": (EDDSA, claims(iss=["kit"])),
    "joserfc 1.3.1 to 1.8.0: unprotected members override protected ones": (EDDSA, unprotected),
    "joserfc 1.3.1 to 1.8.0: dates that are no numbers": (EDDSA, lambda: iter([EDDSA.forge.with_claims(exp=bad) for bad in (True, "1", None, float("nan"))])),
    "CVE-2016-6298 jwcrypto: an oracle of RSA1_5": (RSA, encrypted),
    "CVE-2023-6681 jwcrypto: p2c": (EDDSA, lambda: encrypted(p2c=2**31 - 1, p2s="AAAA")),
    "CVE-2022-39227 python-jwt: compact and JSON at once": (EDDSA, forms("polyglot_json_compact", "json_serialization")),
    "CVE-2026-107723 fast-jwt: an array as payload": (EDDSA, forms("payload_array", "payload_string", "payload_null")),
    "CVE-2026-34986 go-jose: a JWE that panics": (EDDSA, lambda: iter(["....", "e30....", f"{EDDSA.forge.good}..", *encrypted(epk=None, apu=1)])),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_that_a_library_took(name: str) -> None:
    place, tokens = TOKENS[name]
    assert place.with_token(place.forge.good)[0] == 200
    count = 0
    for token in tokens():
        refused(place, token)
        count += 1
    assert count


def test_CVE_2025_45768_short_keys() -> None:
    short = [{"kty": "oct", "k": base64url(os.urandom(size))} for size in (0, 1, 16, 31)]
    weak = {"kty": "RSA", "e": "AQAB", "n": base64url(b"\xc1" + bytes(126) + b"\x01")}
    for jwk in (*short, weak):
        with pytest.raises(Misuse):
            key_set({"keys": [jwk]}, {"HS256", "RS256"})


def test_CVE_2026_48523_the_list_is_held_against_the_keys_own_algorithm() -> None:
    """A token's algorithm is on the list, the key's is not; and the other way round."""
    key = RSA.forge.key
    jwks = {"keys": [dict(key.verification.public or {})]}
    names: dict[str, Any] = {"issuer": "kit", "audience": "kit-api", "environment": "test"}
    assert TokenVerifier(jwks, **names, algorithms=["RS256"]).verify(RSA.forge.good, now=RSA.forge.now).subject
    with pytest.raises(Misuse):
        TokenVerifier(jwks, **names, algorithms=["PS256"])
    for alg in ("PS256", "HS256", "EdDSA", "RS512"):
        refused(RSA, RSA.forge.with_header(alg=alg))
        assert RSA.reason == "wrong_algorithm"


def test_CVE_2026_102266_and_GHSA_pxh4_an_empty_or_public_key_as_a_jwk() -> None:
    for secret in (b"", *confusions(RSA.forge).values()):
        jwk = {"kty": "oct", "alg": "HS256", "k": base64url(secret)}
        assert len(published_key_set({"keys": [jwk]}, CHOICES)) == 0
        with pytest.raises(Misuse):  # a secret in one set with public keys, or too short a one
            key_set({"keys": [jwk, dict(RSA.forge.key.verification.public or {})]}, CHOICES)
    for name in ("pem", "ssh", "jwk", "pkcs1", "empty"):  # alone, and long enough
        with pytest.raises(Misuse):
            key_set({"keys": [{"kty": "oct", "k": base64url(confusions(RSA.forge)[name])}]}, CHOICES)


def test_CVE_2026_102275_the_halves_of_an_ed25519_key_do_not_match() -> None:
    a, b = new_signing_key("EdDSA", os.urandom).private_jwk(), new_signing_key("EdDSA", os.urandom).private_jwk()
    with pytest.raises(UnusableKey):
        verification_key({**a, "d": b["d"]}, ALGORITHMS)


def test_CVE_2026_114618_an_empty_audience_is_nobody() -> None:
    with pytest.raises(Misuse):
        TokenVerifier({"keys": [PUBLIC]}, issuer="kit", audience=[], environment="test")
    for audience in ([], "", [""]):
        refused(EDDSA, EDDSA.forge.with_claims(aud=audience))


def test_CVE_2026_84185_a_key_of_the_set_is_taken_for_its_own_algorithm_alone() -> None:
    """jwcrypto: a signature by any key of a set, under whatever algorithm."""
    a, b = (new_signing_key(algorithm, os.urandom) for algorithm in ("EdDSA", "ES256"))
    check = TokenVerifier(
        {"keys": [dict(key.verification.public or {}) for key in (a, b)]},
        issuer="kit", audience="kit-api", environment="test", algorithms=["EdDSA", "ES256"],
    )  # fmt: skip
    said, now = EDDSA.forge.claims, EDDSA.forge.now
    assert check.verify(signed(a, said), now=now).subject == check.verify(signed(b, said), now=now).subject
    forge = Forge(EDDSA.kit)
    for token in (
        forge.by_another(a, kid=b.verification.kid),
        forge.by_another(a, kid=b.verification.kid, alg="ES256"),
        forge.by_another(b, alg="EdDSA"),
        forge.by_another(a, kid=None),
    ):
        with pytest.raises(InvalidToken):
            check.verify(token, now=now)


def test_CVE_2016_7036_signatures_of_hmac_are_compared_in_constant_time() -> None:
    forge = HMAC.forge
    with patch("bartizan.credentials.jws.compare_digest", return_value=False) as compared:
        refused(HMAC, forge.with_claims(jti="not remembered"))
    assert compared.call_count == 1
    assert len(compared.call_args.args[0]) == 32


def test_CVE_2026_35039_and_107719_what_is_remembered_is_of_one_policy_and_ends() -> None:
    """fast-jwt: a token was good under another key, or had been good before it expired."""
    a, b = Place(issuer="a"), Place(issuer="b")
    assert a.with_token(a.forge.good)[0] == 200
    refused(b, a.forge.good)
    a.kit.clock.advance(306)
    refused(a, a.forge.good)
    assert a.reason == "token_expired"


# --- key sets of others ---


class Source:
    """An issuer whose keys are fetched, and what the fetch answers."""

    def __init__(self) -> None:
        self.clock, self.provider = FakeClock(now=NOW), Provider()
        self.fetched: list[str] = []
        self.answer: Callable[[], bytes] = lambda: self.provider.jwks
        issuer = Issuer(
            self.provider.url, organizations={"org_1"}, audience="dashboard", jwks=self.provider.url + "/keys"
        )
        known = Outside([issuer], environment="live", clock=SteppedClock(self.clock), journal=self, wake=lambda: None)
        self.issuers = known.form(self.fetch, BlockingWaits())

    def note(self, event: Any, /) -> str:
        """Nobody listens."""
        return ""

    def within(self, event: Any, /) -> tuple[()]:
        return ()

    async def fetch(self, url: str, _: EndpointPolicy, /) -> bytes:
        self.fetched.append(url)
        return self.answer()

    def asked(self, **header: Any) -> str:
        try:
            return run(self.issuers.authenticate(self.provider.token(self.clock(), header=header).encode())).subject
        except (InvalidToken, Unavailable) as error:
            return error.reason.value


def test_CVE_2026_48524_a_failed_fetch_keeps_what_is_held() -> None:
    source = Source()
    assert source.asked() == "user_1"

    def down() -> bytes:
        raise Unavailable(Reason.ENDPOINT_FAILED)

    for broken in (down, lambda: b"", lambda: b"{", lambda: b"[]"):
        source.answer = broken
        source.clock.advance(COOLDOWN)
        assert source.asked(kid="nobody") == "unknown_signing_key"
        assert source.asked() == "user_1"
    assert len(source.fetched) == 5


def test_CVE_2026_101917_unknown_kids_cause_one_fetch() -> None:
    source = Source()
    source.asked()
    source.clock.advance(COOLDOWN)
    assert {source.asked(kid=f"nobody-{n}") for n in range(1000)} == {"unknown_signing_key"}
    assert len(source.fetched) == 2


def test_CVE_2026_102274_one_bad_key_does_not_kill_the_set() -> None:
    source = Source()
    good = source.provider.document["keys"]
    bad: Any
    for bad in ({}, None, [], {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, {"kty": "later"}, {"kty": ["RSA"]}):
        keys = json.dumps({"keys": [bad, *good, bad]}).encode()
        assert [key.kid for key in published_key_set(keys, ALGORITHMS)] == [source.provider.kid]


def test_CVE_2026_48522_key_sets_come_by_https_alone() -> None:
    for url in ("file:///etc/passwd", "ftp://login.example/keys", "data:,{}", "http://login.example/keys"):
        with pytest.raises(Misuse):
            Issuer("https://login.example", organizations={"org_1"}, audience="a", jwks=url)
        with pytest.raises(InvalidRequest):
            EndpointPolicy().check(url)
