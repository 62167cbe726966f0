"""Proofs of possession (RFC 9449), attacked one by one; those of the RFC and of a client library are taken."""

import json
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey

from bartizan.core.encoding import hashed
from bartizan.errors import Reason
from bartizan.sessions.binding import Proof, ProofReader

NOW = 1_562_262_616
READER = ProofReader(["https://server.example.com"])
RFC_PROOF = (  # RFC 9449 section 4.1
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJo"
    "RjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJq"
    "dGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0Ijox"
    "NTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
)
RFC_HEADER = RFC_PROOF.partition(".")[0]
RFC_REFRESH = (  # section 5
    f"{RFC_HEADER}.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29t"
    "L3Rva2VuIiwiaWF0IjoxNTYyMjY1Mjk2fQ.pAqut2IRDm_De6PR93SYmGBPXpwrAk90e8cP2hjiaG5QsGSuKDYW7_X620BxqhvYC8ynrrvZLTk41"
    "mSRroapUA"
)
RFC_RESOURCE = (  # section 7.1
    f"{RFC_HEADER}.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9y"
    "Zy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtz"
    "bVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)
RFC_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
RFC_THUMBPRINT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"  # RFC 9449 section 6.1
KEY = ECKey.generate_key("P-256")
OTHER = OKPKey.generate_key("Ed25519")


def public(key: Any) -> dict[str, Any]:
    jwk: dict[str, Any] = {} if key.key_type == "oct" else key.as_dict(private=False)
    return {name: value for name, value in jwk.items() if name not in {"kid", "use", "key_ops"}}


def made(key: Any = KEY, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A proof by a client library, good unless told otherwise; a claim that is None is left out."""
    alg = "ES256" if key.key_type == "EC" else "Ed25519"
    head = {"typ": "dpop+jwt", "alg": alg, "jwk": public(key), **(header or {})}
    base = {"jti": "a-jti", "htm": "POST", "htu": "https://server.example.com/token", "iat": NOW}
    payload = {name: value for name, value in {**base, **claims}.items() if value is not None}
    registry = jws.JWSRegistry(algorithms=["ES256", "Ed25519", "HS256"], strict_check_header=False)
    return jws.serialize_compact(head, json.dumps(payload), key, registry=registry)


def read(text: str, **more: Any) -> Proof | Reason:
    return READER.read(text, **{"method": "POST", "path": "/token", "now": NOW, **more})


def once_of(text: str) -> str:
    proof = read(text)
    assert isinstance(proof, Proof)
    return proof.once


def test_the_proof_of_the_rfc_is_taken_and_its_key_has_the_thumbprint_of_the_rfc() -> None:
    proof = read(RFC_PROOF, thumbprint=RFC_THUMBPRINT)
    assert isinstance(proof, Proof)
    assert proof.thumbprint == RFC_THUMBPRINT


def test_the_proof_of_a_refresh_in_the_rfc_is_taken_at_its_time() -> None:
    assert read(RFC_REFRESH) is Reason.PROOF_OUT_OF_TIME
    proof = read(RFC_REFRESH, now=1_562_265_296, thumbprint=RFC_THUMBPRINT)
    assert isinstance(proof, Proof)


def test_the_proof_and_the_token_of_a_request_in_the_rfc() -> None:
    reader = ProofReader(["https://resource.example.org"])
    asked = {"method": "GET", "path": "/protectedresource", "now": 1_562_262_618, "thumbprint": RFC_THUMBPRINT}
    assert hashed(RFC_TOKEN) == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"
    assert isinstance(reader.read(RFC_RESOURCE, token=RFC_TOKEN, **asked), Proof)  # type: ignore[arg-type]
    assert reader.read(RFC_RESOURCE, token=f"{RFC_TOKEN}x", **asked) is Reason.PROOF_OTHER_TOKEN  # type: ignore[arg-type]
    assert READER.read(RFC_RESOURCE, token=RFC_TOKEN, **asked) is Reason.PROOF_OTHER_REQUEST  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [KEY, OTHER], ids=["ES256", "Ed25519"])
def test_a_proof_of_a_client_library_is_taken(key: Any) -> None:
    proof = read(made(key))
    assert isinstance(proof, Proof)
    assert proof.thumbprint == key.thumbprint()
    assert proof.until == NOW + 61, "no shorter than the proof is good for"


@pytest.mark.parametrize(
    ("proof", "fault"),
    [
        (made(header={"typ": "jwt"}), Reason.PROOF_MALFORMED),
        (made(header={"jwk": KEY.as_dict(private=True)}), Reason.PROOF_MALFORMED),
        (made(header={"jwk": OTHER.as_dict(private=False)}), Reason.PROOF_MALFORMED),
        (made(header={"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43}}), Reason.PROOF_MALFORMED),
        (made(header={"jwk": ECKey.generate_key("P-256").as_dict(private=False)}), Reason.PROOF_FORGED),
        (made(htm="GET"), Reason.PROOF_OTHER_REQUEST),
        (made(htm="post"), Reason.PROOF_OTHER_REQUEST),
        (made(htu="https://evil.example/token"), Reason.PROOF_OTHER_REQUEST),
        (made(htu="http://server.example.com/token"), Reason.PROOF_OTHER_REQUEST),
        (made(htu="https://server.example.com/a/../token"), Reason.PROOF_OTHER_REQUEST),
        (made(htu="https://me@server.example.com/token"), Reason.PROOF_OTHER_REQUEST),
        (made(htu="https://server.example.com/%2token"), Reason.PROOF_OTHER_REQUEST),
        (made(htu=None), Reason.PROOF_OTHER_REQUEST),
        (made(iat=NOW - 61), Reason.PROOF_OUT_OF_TIME),
        (made(iat=NOW + 6), Reason.PROOF_OUT_OF_TIME),
        (made(iat=True), Reason.PROOF_MALFORMED),
        (made(iat=NOW + 0.5), Reason.PROOF_MALFORMED),
        (made(jti=""), Reason.PROOF_MALFORMED),
        (made(jti="j" * 129), Reason.PROOF_MALFORMED),
        (made(jti=None), Reason.PROOF_MALFORMED),
        (made() + "=", Reason.PROOF_MALFORMED),
        (made() + ".x", Reason.PROOF_MALFORMED),
        ("x" * 5000, Reason.PROOF_MALFORMED),
    ],
    ids=lambda value: value.value if isinstance(value, Reason) else "proof",
)
def test_a_proof_that_is_not_for_this_request_is_refused(proof: str, fault: Reason) -> None:
    assert read(proof) is fault


def test_a_shared_secret_is_no_proof() -> None:
    secret = OctKey.generate_key(256)
    for jwk, fault in ((secret.as_dict(private=True), Reason.PROOF_MALFORMED), (public(KEY), Reason.PROOF_MALFORMED)):
        assert read(made(secret, header={"alg": "HS256", "jwk": jwk})) is fault


@pytest.mark.parametrize("iat", [NOW - 60, NOW + 5])
def test_the_window_has_its_ends_within(iat: int) -> None:
    assert isinstance(read(made(iat=iat)), Proof)


def test_dpop_other_key() -> None:
    assert read(made(OTHER), thumbprint=KEY.thumbprint()) is Reason.SESSION_MISBOUND


@pytest.mark.parametrize("ath", [None, hashed("another")])
def test_dpop_other_token(ath: str | None) -> None:
    assert read(made(ath=ath), token="one") is Reason.PROOF_OTHER_TOKEN


def test_dpop_same_jti_other_key() -> None:
    assert once_of(made()) == once_of(made(iat=NOW - 1)), "the same id again, whatever else was changed"
    assert once_of(made()) != once_of(made(OTHER)), "a stranger cannot use up another's id"


@pytest.mark.parametrize("htu", ["HTTPS://SERVER.example.com:443/%74oken", "https://server.example.com/token?a=1#b"])
def test_one_url_in_another_spelling_is_the_same(htu: str) -> None:
    assert isinstance(read(made(htu=htu)), Proof)


@pytest.mark.parametrize("given", [None, "old", 7])
def test_a_nonce_that_is_asked_for_must_be_ours(given: object) -> None:
    assert read(made(nonce=given), nonce=lambda text: text == "ours") is Reason.PROOF_WITHOUT_NONCE
    assert isinstance(read(made(nonce="ours"), nonce=lambda text: text == "ours"), Proof)
