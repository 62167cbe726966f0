"""Proofs of possession (DPoP, RFC 9449): whether one was made for this very request by the key that it must be.

Pure. What is cheap comes before the signature, and nothing is written here: who takes a proof claims `Proof.once`, in
one write, after all of this has held, so that a stranger neither fills a store nor uses up another's `jti`.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from bartizan.core.encoding import canonical, hashed, is_base64url, loose_base64url, parsed, unbase64url
from bartizan.core.once import marker_id
from bartizan.credentials.jws import MOST_OBJECTS, PRIVATE, VerificationKey, checked_algorithms, verification_key
from bartizan.credentials.weak_keys import UnusableKey
from bartizan.errors import InvalidToken, Reason

PROOF_ALGORITHMS = ("ES256", "EdDSA")
SPELLINGS = "ES256 EdDSA Ed25519"  # what a proof may say: RFC 9864 has another name for the second
OLDEST, AHEAD = 60, 5  # seconds that `iat` may lie back, and ahead
MOST_BYTES = 4096
LONGEST_JTI = 128
KNOWN = 10_000  # keys
_DEFAULT_PORTS = {"https": ":443", "http": ":80"}
_HEX = frozenset("0123456789abcdefABCDEF")


class Proof(NamedTuple):
    """A proof that holds. `thumbprint` is its key's (RFC 7638), `once` what to claim until `until`."""

    thumbprint: str
    once: str
    until: int


class ProofReader:
    """Reads the proofs that requests to `origins` carry. They are configured: a `Host` header is a client's word.

    Keys to which tokens are bound are remembered by the header that has them, once a proof of theirs has held: it is
    the same one in all proofs of a client.
    """

    __slots__ = ("_algorithms", "_known", "_origins")

    def __init__(self, origins: Collection[str], algorithms: tuple[str, ...] = PROOF_ALGORITHMS) -> None:
        self._origins = frozenset(origins)
        self._algorithms = checked_algorithms(algorithms, PROOF_ALGORITHMS)
        self._known: dict[str, VerificationKey] = {}

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
    ) -> Proof | Reason:
        """The proof that `text` is, for a request with `method` to the decoded `path`; else what is wrong with it.

        `token` is the access token beside it, `thumbprint` the key that a token is bound to, and `nonce` says whether a
        nonce is one of ours; without it none is asked for.
        """
        if not text.isascii() or len(text) > MOST_BYTES or text.count(".") != 2:
            return Reason.PROOF_MALFORMED
        first, second, third = text.split(".")
        key = self._known.get(first) or self._key(first, thumbprint)
        if isinstance(key, Reason):
            return key
        if thumbprint is not None and key.thumbprint != thumbprint:
            return Reason.SESSION_MISBOUND
        signature = unbase64url(third)
        if not signature or not is_base64url(second):
            return Reason.PROOF_MALFORMED
        try:
            key.check(f"{first}.{second}".encode(), signature)
        except InvalidToken:
            return Reason.PROOF_FORGED
        claims = _object(loose_base64url(second.encode()))
        if claims is None:
            return Reason.PROOF_MALFORMED
        jti, iat = claims.get("jti"), claims.get("iat")
        if not isinstance(jti, str) or not 1 <= len(jti) <= LONGEST_JTI or type(iat) is not int:
            return Reason.PROOF_MALFORMED
        url = claims.get("htu")
        target = target_of(url) if isinstance(url, str) else None
        if claims.get("htm") != method or target is None or target[0] not in self._origins or target[1] != path:
            return Reason.PROOF_OTHER_REQUEST
        if not now - OLDEST <= iat <= now + AHEAD:
            return Reason.PROOF_OUT_OF_TIME
        if token is not None and claims.get("ath") != hashed(token):
            return Reason.PROOF_OTHER_TOKEN
        given = claims.get("nonce")
        if nonce is not None and not (isinstance(given, str) and nonce(given)):
            return Reason.PROOF_WITHOUT_NONCE
        if thumbprint is not None:
            if len(self._known) >= KNOWN:
                self._known = {}
            self._known[first] = key
        once = marker_id(b"dpop", key.thumbprint.encode(), jti.encode())
        return Proof(key.thumbprint, once, iat + OLDEST + 1)

    def _key(self, segment: str, thumbprint: str | None) -> VerificationKey | Reason:
        data = unbase64url(segment)
        header = _object(data) if data and data.count(b"{") <= MOST_OBJECTS else None
        if header is None or not header.keys().isdisjoint({"crit", "b64", "zip", "enc", "cty"}):
            return Reason.PROOF_MALFORMED
        jwk = header.get("jwk")
        if header.get("typ") != "dpop+jwt" or not isinstance(jwk, dict) or not jwk.keys().isdisjoint({*PRIVATE, "k"}):
            return Reason.PROOF_MALFORMED
        if thumbprint is not None and _thumbprint(jwk) != thumbprint:
            return Reason.SESSION_MISBOUND  # a key costs more to make than to tell from another
        try:
            key = verification_key(jwk, self._algorithms)
        except UnusableKey:
            return Reason.PROOF_MALFORMED
        return key if header.get("alg") in [*key.spellings] else Reason.PROOF_MALFORMED


def _thumbprint(jwk: dict[str, Any]) -> str:
    """What RFC 7638 section 3 makes of a key of ours; whatever else it is, of one that is none."""
    members = {name: text for name in ("crv", "kty", "x", "y") if isinstance(text := jwk.get(name), str)}
    return hashed(canonical(members))


def target_of(url: str) -> tuple[str, str] | None:
    """Origin and decoded path of an `htu`, its query and fragment left out; None where it is no URL of http.

    It is compared as applications route: on the decoded path, which is all that a WSGI server tells. Dot segments stay
    as they are: the gate takes none, and two readers could differ over one (RFC 3986 section 6.2.2).
    """
    scheme, mark, rest = url.partition("#")[0].partition("?")[0].partition("://")
    host, _, path = rest.partition("/")
    scheme, host = scheme.lower(), host.lower()
    if not mark or not host or scheme not in _DEFAULT_PORTS or "@" in host or "\\" in url:
        return None
    if "%" in path:
        if not all(len(part) > 1 and part[0] in _HEX and part[1] in _HEX for part in path.split("%")[1:]):
            return None
        try:
            path = unquote_to_bytes(path).decode()
        except UnicodeDecodeError:
            return None
    return f"{scheme}://{host.removesuffix(_DEFAULT_PORTS[scheme])}", f"/{path}"


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = parsed(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
