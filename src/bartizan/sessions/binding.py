"""Proofs of possession (DPoP, RFC 9449): whether one was made for this very request by the key that it must be.

Pure. What is cheap comes before the signature, and nothing is written here: who takes a proof claims `Proof.once`, in
one write, after all of this has held, so that a stranger neither fills a store nor uses up another's `jti`.
"""

from collections.abc import Callable
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple

from bartizan.core.encoding import base64url, is_base64url, loose_base64url, parsed, unbase64url
from bartizan.core.once import marker_id
from bartizan.credentials.jws import MOST_OBJECTS, PRIVATE, VerificationKey, checked_algorithms, verification_key
from bartizan.credentials.weak_keys import UnusableKey
from bartizan.errors import InvalidToken

PROOF_ALGORITHMS = ("ES256", "EdDSA")
OLDEST, AHEAD = 60, 5  # seconds that `iat` may lie back, and ahead
MOST_BYTES = 4096
LONGEST_JTI = 128
_DEFAULT_PORTS = {"https": ":443", "http": ":80"}
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Fault(StrEnum):
    """What is wrong with a proof, a closed list."""

    MALFORMED = "malformed"
    WRONG_TYPE = "wrong_type"
    WRONG_ALGORITHM = "wrong_algorithm"
    UNUSABLE_KEY = "unusable_key"
    OTHER_KEY = "other_key"  # not the one that the token is bound to
    WRONG_SIGNATURE = "wrong_signature"
    OTHER_METHOD = "other_method"
    OTHER_URL = "other_url"
    TOO_OLD = "too_old"
    NOT_YET = "not_yet"
    OTHER_TOKEN = "other_token"  # noqa: S105 - a finding, not a password
    WRONG_NONCE = "wrong_nonce"


class Proof(NamedTuple):
    """A proof that holds. `thumbprint` is its key's (RFC 7638), `once` what to claim until `until`."""

    thumbprint: str
    once: str
    until: int


class ProofReader:
    """Reads the proofs that requests to `origin` carry. `origin` is configured: a `Host` header is a client's word."""

    __slots__ = ("_algorithms", "_origin")

    def __init__(self, origin: str, algorithms: tuple[str, ...] = PROOF_ALGORITHMS) -> None:
        self._origin = origin.rstrip("/")
        self._algorithms = checked_algorithms(algorithms, PROOF_ALGORITHMS)

    def read(
        self,
        text: str,
        *,
        method: str,
        path: str,
        now: int,
        token: str | None = None,
        thumbprint: str | None = None,
        nonce: Callable[[str], bool] | None = None,
    ) -> Proof | Fault:
        """The proof that `text` is, for a request with `method` to `path` (as it was sent, without its query).

        `token` is the access token beside it, `thumbprint` the key that a token is bound to, and `nonce` says whether a
        nonce is one of ours; without it none is asked for.
        """
        if not text.isascii() or len(text) > MOST_BYTES or text.count(".") != 2:
            return Fault.MALFORMED
        first, second, third = text.split(".")
        key = self._key(first)
        if isinstance(key, Fault):
            return key
        if thumbprint is not None and key.thumbprint != thumbprint:
            return Fault.OTHER_KEY
        signature = unbase64url(third)
        if not signature or not is_base64url(second):
            return Fault.MALFORMED
        try:
            key.check(f"{first}.{second}".encode(), signature)
        except InvalidToken:
            return Fault.WRONG_SIGNATURE
        claims = _object(loose_base64url(second.encode()))
        if claims is None:
            return Fault.MALFORMED
        jti, iat = claims.get("jti"), claims.get("iat")
        if not isinstance(jti, str) or not 1 <= len(jti) <= LONGEST_JTI or type(iat) is not int:
            return Fault.MALFORMED
        fault = self._other_request(claims, method, path) or _other_time(iat, now)
        if fault is None and token is not None and claims.get("ath") != token_hash(token):
            fault = Fault.OTHER_TOKEN
        if fault is None and nonce is not None:
            given = claims.get("nonce")
            fault = None if isinstance(given, str) and nonce(given) else Fault.WRONG_NONCE
        if fault is not None:
            return fault
        once = marker_id(b"dpop", key.thumbprint.encode(), jti.encode())
        return Proof(key.thumbprint, once, iat + OLDEST + 1)

    def _key(self, segment: str) -> VerificationKey | Fault:
        data = unbase64url(segment)
        header = _object(data) if data and data.count(b"{") <= MOST_OBJECTS else None
        if header is None or not header.keys().isdisjoint({"crit", "b64", "zip", "enc", "cty"}):
            return Fault.MALFORMED
        if header.get("typ") != "dpop+jwt":
            return Fault.WRONG_TYPE
        jwk = header.get("jwk")
        if not isinstance(jwk, dict) or not jwk.keys().isdisjoint({*PRIVATE, "k"}):
            return Fault.UNUSABLE_KEY
        try:
            key = verification_key(jwk, self._algorithms)
        except UnusableKey:
            return Fault.UNUSABLE_KEY
        return key if header.get("alg") in [*key.spellings] else Fault.WRONG_ALGORITHM

    def _other_request(self, claims: dict[str, Any], method: str, path: str) -> Fault | None:
        if claims.get("htm") != method:
            return Fault.OTHER_METHOD
        url = claims.get("htu")
        if not isinstance(url, str) or normal_url(url) != normal_url(self._origin + path):
            return Fault.OTHER_URL
        return None


def token_hash(token: str) -> str:
    """The `ath` of an access token."""
    return base64url(sha256(token.encode()).digest())


def normal_url(url: str) -> str | None:
    """`url` without query and fragment, normalized as RFC 3986 6.2.2 and 6.2.3 say; None where it is none of http.

    Dot segments stay as they are: the gate takes none, and two readers could differ over one.
    """
    scheme, mark, rest = url.partition("#")[0].partition("?")[0].partition("://")
    host, _, path = rest.partition("/")
    scheme, host = scheme.lower(), host.lower()
    if not mark or not host or scheme not in _DEFAULT_PORTS or "@" in host or "\\" in url:
        return None
    parts = path.split("%")
    out = [parts[0]]
    for part in parts[1:]:
        code = part[:2]
        if len(code) != 2 or not all(c in "0123456789abcdefABCDEF" for c in code):
            return None
        char = chr(int(code, 16))
        out.append((char if char in _UNRESERVED else f"%{code.upper()}") + part[2:])
    return f"{scheme}://{host.removesuffix(_DEFAULT_PORTS[scheme])}/{''.join(out)}"


def _other_time(iat: int, now: int) -> Fault | None:
    if iat < now - OLDEST:
        return Fault.TOO_OLD
    return Fault.NOT_YET if iat > now + AHEAD else None


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = parsed(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
