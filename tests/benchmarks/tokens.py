"""What a token costs: against the smallest correct Python over the same primitive, and beside its peers.

Every reader has the same at+jwt of ten claims and checks signature, issuer, audience and times. A peer that is not
installed has no rows.
"""

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from functools import cache
from hmac import compare_digest, digest
from importlib import import_module
from importlib.util import find_spec
from secrets import token_bytes
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from bartizan import Bartizan, TokenVerifier
from bartizan.core.ring import new_root
from bartizan.credentials.access_tokens import signed
from bartizan.credentials.jws import SigningKey, new_signing_key
from bartizan.errors import InvalidToken
from bartizan.operations.upkeep import Upkeep
from benchmarks.cases import EMPTY, Bound, Case, Entry

LIMITS = {"HS256": 1.25, "EdDSA": 1.2, "ES256": 1.2, "RS256": 1.2}
ISSUE = 1.15
NOW = 1_800_000_000
FOREVER = 2**33  # for peers that read the machine's clock
CLAIMS: dict[str, Any] = {
    "iss": "https://shop.example", "aud": "shop-api", "sub": "cons_01J9ZK3V6W8Q2M4N5", "iat": NOW, "exp": NOW + 300,
    "jti": "x7dTgH1xS0uYV1m0b2Xz3A", "org": "org_01J9ZK3V6W8Q2M4N", "sid": "ses_01J9ZK3V6W8Q2M4N5P", "gen": 7, "env": "live",
}  # fmt: skip


@cache
def key_of(algorithm: str) -> SigningKey:
    return new_signing_key(algorithm, os.urandom)


def verifier(algorithm: str) -> TokenVerifier:
    key = key_of(algorithm)
    jwks = {"keys": [dict(key.verification.public or key.private_jwk())]}
    return TokenVerifier(
        jwks, issuer=CLAIMS["iss"], audience="shop-api", environment="live", algorithms=[algorithm]
    )  # fmt: skip


def calling(work: Callable[[], object], check: Callable[[], object] = lambda: None) -> Case:
    def calls(n: int) -> None:
        for _ in range(n):
            work()

    def right() -> None:
        check()
        calls(1)

    return Case(calls, right)


def refusing(work: Callable[[], object]) -> Case:
    def calls(n: int) -> None:
        for _ in range(n):
            try:
                work()
            except InvalidToken:
                continue
            raise RuntimeError("it is not refused")

    return Case(calls, lambda: calls(1))


def primitive(algorithm: str) -> Callable[[bytes, bytes], bool]:
    """The bare check of a signature, which raises or says no."""
    key = key_of(algorithm)._key
    if algorithm == "HS256":
        return lambda message, signature: compare_digest(digest(key, message, "sha256"), signature)
    public = key.public_key()
    if algorithm == "EdDSA":
        return lambda message, signature: public.verify(signature, message) is None
    if algorithm == "RS256":
        return lambda message, signature: public.verify(signature, message, PKCS1v15(), SHA256()) is None

    def ecdsa(message: bytes, signature: bytes) -> bool:
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        public.verify(encode_dss_signature(r, s), message, ECDSA(SHA256()))
        return len(signature) == 64

    return ecdsa


def floor(algorithm: str) -> Callable[[], Case]:
    """Split, decode, find the key, check the signature, read the claims, compare them."""

    def make() -> Case:
        token, check = signed(key_of(algorithm), CLAIMS), primitive(algorithm)
        keys = {key_of(algorithm).verification.kid: (algorithm, check)}

        def decoded(part: bytes) -> bytes:
            return urlsafe_b64decode(part + b"=" * (-len(part) % 4))

        def verify() -> None:
            message, _, third = token.encode().rpartition(b".")
            first, _, second = message.partition(b".")
            header = json.loads(decoded(first))
            alg, verifies = keys[header["kid"]]
            if header["alg"] != alg or header["typ"] != "at+jwt" or not verifies(message, decoded(third)):
                raise RuntimeError("refused")
            claims = json.loads(decoded(second))
            if (
                claims["iss"] != "https://shop.example"
                or claims["aud"] != "shop-api"
                or not claims["iat"] <= NOW < claims["exp"]
                or claims["env"] != "live"
            ):
                raise RuntimeError("refused")

        return calling(verify)

    return make


def uncached(algorithm: str) -> Callable[[], Case]:
    def make() -> Case:
        check, token = verifier(algorithm), signed(key_of(algorithm), CLAIMS)

        def verify() -> None:
            check._reader._kept.clear()
            check.verify(token, now=NOW)

        return calling(verify)

    return make


def cached() -> Case:
    check, token = verifier("EdDSA"), signed(key_of("EdDSA"), CLAIMS)
    first = check.verify(token, now=NOW)

    def same() -> None:
        if check.verify(token, now=NOW) is not first:
            raise RuntimeError("it is not remembered")

    return calling(lambda: check.verify(token, now=NOW), same)


def junk(text_of: Callable[[str], str]) -> Callable[[], Case]:
    def make() -> Case:
        check, token = verifier("EdDSA"), text_of(signed(key_of("EdDSA"), CLAIMS))
        return refusing(lambda: check.verify(token, now=NOW))

    return make


def encoded(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def bare(algorithm: str) -> Callable[[bytes], bytes]:
    key = key_of(algorithm)._key
    if algorithm == "HS256":
        return lambda message: digest(key, message, "sha256")
    if algorithm == "EdDSA":
        return lambda message: bytes(key.sign(message))
    if algorithm == "RS256":
        return lambda message: bytes(key.sign(message, PKCS1v15(), SHA256()))

    def ecdsa(message: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(message, ECDSA(SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)

    return ecdsa


def floor_issuing(algorithm: str) -> Callable[[], Case]:
    """Draw an id, write the claims, sign."""

    def make() -> Case:
        kid, sign = key_of(algorithm).verification.kid, bare(algorithm)
        head = encoded({"alg": algorithm, "kid": kid, "typ": "at+jwt"}).encode()

        def text(data: bytes) -> bytes:
            return urlsafe_b64encode(data).rstrip(b"=")

        def issue() -> str:
            claims = {**CLAIMS, "jti": text(token_bytes(16)).decode()}
            message = head + b"." + text(json.dumps(claims, separators=(",", ":")).encode())
            return (message + b"." + text(sign(message))).decode()

        check = verifier(algorithm)
        return calling(issue, lambda: str(check.verify(issue(), now=NOW)))

    return make


def issuing(algorithm: str) -> Callable[[], Case]:
    def make() -> Case:
        key = key_of(algorithm)
        with patch.object(Upkeep, "need", lambda _: None):
            security = Bartizan(
                "memory://", environment="live", secrets=[new_root(bytes)], issuer=CLAIMS["iss"], audience="shop-api",
                staleness=300, clock=lambda: NOW,
            )  # fmt: skip
        tokens = security._shared.blocking_side.tokens

        async def signing() -> SigningKey:
            return key

        tokens.signing.signing = signing  # type: ignore[method-assign]

        def issue() -> str:
            work = tokens.mint(org=CLAIMS["org"], subject=CLAIMS["sub"], session=CLAIMS["sid"], generation=7)
            try:
                work.send(None)
            except StopIteration as end:
                return str(end.value[0])
            raise RuntimeError("it waits")

        check = verifier(algorithm)
        return calling(issue, lambda: str(check.verify(issue(), now=NOW)))

    return make


def peers(algorithm: str) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Peers that check the same things, each with its key loaded once."""
    said = {**CLAIMS, "exp": FOREVER, "iat": 1}
    token, key = signed(key_of(algorithm), said), key_of(algorithm)
    jwk = {name: v for name, v in (key.verification.public or key.private_jwk()).items() if name != "use"}

    def pyjwt() -> Case:
        module: Any = import_module("jwt")
        loaded = module.PyJWK(dict(jwk), algorithm)
        return calling(
            lambda: module.decode(token, loaded, algorithms=[algorithm], audience="shop-api", issuer=CLAIMS["iss"])
        )

    def joserfc() -> Case:
        module, keys = import_module("joserfc.jwt"), import_module("joserfc.jwk")
        name = "Ed25519" if algorithm == "EdDSA" else algorithm  # the old name is a warning there
        mine = (
            token
            if name == algorithm
            else module.encode(
                {"alg": name, "typ": "at+jwt"}, said, keys.import_key(key.private_jwk()), algorithms=[name]
            )
        )
        loaded = keys.import_key(dict(jwk) if name == algorithm else {**jwk, "alg": name})
        registry = module.JWTClaimsRegistry(
            iss={"essential": True, "value": CLAIMS["iss"]},
            aud={"essential": True, "value": "shop-api"},
            exp={"essential": True},
        )
        return calling(lambda: registry.validate(module.decode(mine, loaded, algorithms=[name]).claims))

    def authlib() -> Case:
        with patch("warnings.warn"):  # it sends its users to joserfc
            module = import_module("authlib.jose")
        reader, loaded = module.JsonWebToken([algorithm]), module.JsonWebKey.import_key(dict(jwk))
        options = {
            "iss": {"essential": True, "value": CLAIMS["iss"]},
            "aud": {"essential": True, "value": "shop-api"},
            "exp": {"essential": True},
        }
        return calling(lambda: reader.decode(token, loaded, claims_options=options).validate())

    yield f"PyJWT, {algorithm}", pyjwt
    if find_spec("joserfc") is not None:
        yield f"joserfc, {algorithm}", joserfc
    if find_spec("authlib") is not None:
        yield f"authlib, {algorithm}", authlib


def token_entries() -> dict[str, Entry]:
    """The rows, after those of `cases`."""
    rows: dict[str, Entry] = {}
    for algorithm, limit in LIMITS.items():
        base, made = f"token floor, {algorithm}", f"token floor of issuing, {algorithm}"
        rows[base] = Entry(floor(algorithm), EMPTY)
        others = dict(peers(algorithm))
        rows |= {name: Entry(make, EMPTY) for name, make in others.items()}
        faster = tuple(Bound(1, "times", name) for name in others)
        rows[f"token verified, {algorithm}"] = Entry(uncached(algorithm), EMPTY, (Bound(limit, "times", base), *faster))
        rows[made] = Entry(floor_issuing(algorithm), EMPTY)
        rows[f"token issued, {algorithm}"] = Entry(issuing(algorithm), EMPTY, (Bound(ISSUE, "times", made),))
    rows["token verified, remembered"] = Entry(cached, EMPTY, (Bound(1.5),))
    for name, text_of in {
        "unknown kid": lambda t: encoded({"alg": "EdDSA", "kid": "x" * 43, "typ": "at+jwt"}) + t[t.index(".") :],
        "alg none": lambda t: encoded({"alg": "none", "kid": "x" * 43, "typ": "at+jwt"}) + "." + t.split(".")[1] + ".",
        "a header of 255 characters": lambda t: encoded({"a": ["x"] * 36}) + t[t.index(".") :],
        "no base64": lambda t: t[:20] + "?" + t[20:],
        "8 KiB": lambda t: "e" * 8000 + t[:100],
        "two segments": lambda t: t.rpartition(".")[0],
    }.items():
        rows[f"token refused: {name}"] = Entry(junk(text_of), EMPTY, (Bound(8),))
    for name, text_of in {
        "payload": lambda t: t.replace(".", "." + "A" * 1_000_000, 1),
        "header": lambda t: "A" * 1_000_000 + t,
        "dots": lambda _: "." * 1_000_000,
    }.items():
        rows[f"token refused: 1 MB of {name}"] = Entry(junk(text_of), EMPTY, (Bound(1),))
    return rows
