"""The strict reader of JWS compact serialization (RFC 7515) and of JWK sets (RFC 7517); the only importer of PyJWT.

One key has one algorithm and one use. The algorithm comes from the key and from the program, never from a token, and
nothing that a token says chooses where a key comes from: `jku`, `jwk`, `x5u` and `x5c` are not read.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from hmac import compare_digest
from typing import Any, Literal, NamedTuple, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm, ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm
from jwt.exceptions import PyJWTError

from bartizan.core.encoding import canonical, hashed, is_base64url, loose_base64url, parsed, unbase64url
from bartizan.core.ring import Subkey
from bartizan.credentials.weak_keys import UnusableKey, checked_numbers
from bartizan.errors import InvalidToken, Misuse, Reason

KeyType = Literal["OKP", "EC", "RSA", "oct"]


class Signature(NamedTuple):
    """An algorithm of RFC 7518 or 8037: the only type and curve of key that it takes, and who computes it."""

    type: KeyType
    curve: str | None
    by: Algorithm


ALGORITHMS: Mapping[str, Signature] = {
    "EdDSA": Signature("OKP", "Ed25519", OKPAlgorithm()),
    "ES256": Signature("EC", "P-256", ECAlgorithm(ECAlgorithm.SHA256, ec.SECP256R1)),
    "ES384": Signature("EC", "P-384", ECAlgorithm(ECAlgorithm.SHA384, ec.SECP384R1)),
    "ES512": Signature("EC", "P-521", ECAlgorithm(ECAlgorithm.SHA512, ec.SECP521R1)),
    "RS256": Signature("RSA", None, RSAAlgorithm(RSAAlgorithm.SHA256)),
    "RS384": Signature("RSA", None, RSAAlgorithm(RSAAlgorithm.SHA384)),
    "RS512": Signature("RSA", None, RSAAlgorithm(RSAAlgorithm.SHA512)),
    "PS256": Signature("RSA", None, RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256)),
    "PS384": Signature("RSA", None, RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384)),
    "PS512": Signature("RSA", None, RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512)),
    "HS256": Signature("oct", None, HMACAlgorithm(HMACAlgorithm.SHA256)),
}
_NAMED = {"Ed25519": "EdDSA"}  # RFC 9864 names the curve; both names mean the same signature
_MEMBERS: Mapping[str, tuple[str, ...]] = {  # RFC 7638 section 3.2, in the order that its JSON has them
    "OKP": ("crv", "kty", "x"),
    "EC": ("crv", "kty", "x", "y"),
    "RSA": ("e", "kty", "n"),
    "oct": ("k", "kty"),
}
PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_MAKERS: tuple[tuple[Any, Any], ...] = (
    (ed25519.Ed25519PublicKey, OKPAlgorithm),
    (ec.EllipticCurvePublicKey, ECAlgorithm),
    (rsa.RSAPublicKey, RSAAlgorithm),
)
_OPERATIONS = ("sign", "verify")
LONGEST_KID = 200
MOST_OBJECTS = (
    8  # in a header, which has one, and perhaps one more for a key that is not read; each costs a stranger's time
)


class VerificationKey:
    """A public key, or a secret one of HMAC, made from a JWK that passed every check; `kid` names it.

    `thumbprint` is the whole RFC 7638 SHA-256 thumbprint; a key without a `kid` of its own is named by it. `public` is
    the JWK to publish, None for a secret key.
    """

    __slots__ = ("_key", "_verify", "algorithm", "kid", "named", "public", "spellings", "thumbprint")

    def __init__(self, jwk: Mapping[str, Any], algorithm: str, key: Any) -> None:
        required = {name: jwk[name] for name in _MEMBERS[jwk["kty"]]}
        self.algorithm: str = algorithm
        self.spellings: frozenset[str] = frozenset({algorithm, *(a for a, b in _NAMED.items() if b == algorithm)})
        self.thumbprint: str = hashed(canonical(required))
        self.named: bool = "kid" in jwk
        self.kid: str = jwk.get("kid", self.thumbprint)
        public = {**required, "kid": self.kid, "alg": algorithm, "use": "sig"}
        self.public: Mapping[str, str] | None = public if jwk["kty"] != "oct" else None
        self._verify: Callable[[bytes, Any, bytes], bool] = ALGORITHMS[algorithm].by.verify
        self._key = key
        if jwk["kty"] == "oct" and len(key) <= 64:  # the same code, its pads hashed once
            mac = Subkey("", key).mac
            self._verify = lambda message, _, signature: compare_digest(mac(message), signature)

    def check(self, message: bytes, signature: bytes) -> None:
        """Return if `signature` is this key's over `message`; else `InvalidToken`."""
        try:
            if self._verify(message, self._key, signature):
                return
        except (ValueError, UnsupportedAlgorithm):  # a signature that is none, as some OpenSSL says it
            pass
        raise InvalidToken(Reason.WRONG_SIGNATURE)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.algorithm}>"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a key is not copied or pickled")


class SigningKey:
    """A private key, or a secret one of HMAC, and its `verification` half."""

    __slots__ = ("_key", "_sign", "verification")

    def __init__(self, verification: VerificationKey, key: Any) -> None:
        self.verification: VerificationKey = verification
        self._sign: Callable[[bytes, Any], bytes] = ALGORITHMS[verification.algorithm].by.sign
        self._key = key
        if verification.public is None and len(key) <= 64:
            mac = Subkey("", key).mac
            self._sign = lambda message, _: mac(message)

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`."""
        return self._sign(message, self._key)

    def private_jwk(self) -> dict[str, Any]:
        """The whole key as a JWK, private members and all: for `core/box`, which seals it."""
        made: dict[str, Any] = ALGORITHMS[self.verification.algorithm].by.to_jwk(self._key, as_dict=True)
        return {name: value for name, value in made.items() if name != "key_ops"}

    def __repr__(self) -> str:
        return f"<SigningKey {self.verification.algorithm}>"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a key is not copied or pickled")


class KeySet:
    """Verification keys by `kid`; two with one `kid` are an `UnusableKey`."""

    __slots__ = ("_by_kid", "_only")

    def __init__(self, keys: Iterable[VerificationKey] = ()) -> None:
        self._by_kid: dict[str, VerificationKey] = {}
        for key in keys:
            if key.kid in self._by_kid:
                raise UnusableKey("two keys have the same kid")
            self._by_kid[key.kid] = key
        self._only = next(iter(self)) if len(self) == 1 else None

    def find(self, kid: str | None) -> VerificationKey | None:
        """The key that a token's `kid` names. Without one, and for a key without a name, a set of one key has it."""
        only = self._only
        if kid is None or (only is not None and not only.named):
            return only
        return self._by_kid.get(kid)

    def holds(self, key: VerificationKey) -> bool:
        """Whether this very key, by its thumbprint, is still here under its name."""
        here = self._by_kid.get(key.kid)
        return here is key or (here is not None and here.thumbprint == key.thumbprint)

    def __iter__(self) -> Iterator[VerificationKey]:
        return iter(self._by_kid.values())

    def __len__(self) -> int:
        return len(self._by_kid)

    def __repr__(self) -> str:
        return f"<KeySet of {len(self)}>"


def checked_algorithms(algorithms: Collection[str], known: Collection[str] = ALGORITHMS) -> frozenset[str]:
    """The allow-list of algorithms; empty, `none` and unknown are `Misuse`."""
    if isinstance(algorithms, str) or not algorithms or not set(algorithms) <= set(known):
        raise Misuse(f"algorithms is a collection of: {', '.join(known)}")
    return frozenset(algorithms)


def verification_key(jwk: Mapping[str, Any], algorithms: Collection[str]) -> VerificationKey:
    """The key of one JWK for one of these algorithms, or `UnusableKey`: a weak or doubtful one is none.

    Without an `alg` of its own a key is for the one listed algorithm that its type and curve fit. The public half of
    a private JWK verifies, once the halves have been found to match.
    """
    algorithm = _fitting(jwk, algorithms, "verify")
    return VerificationKey(jwk, algorithm, _loaded(jwk, algorithm)[0])


def signing_key(jwk: Mapping[str, Any], algorithms: Collection[str]) -> SigningKey:
    """The signing key of one private JWK, or `UnusableKey`."""
    algorithm = _fitting(jwk, algorithms, "sign")
    public, private = _loaded(jwk, algorithm)
    if private is None:
        raise UnusableKey("a public key does not sign")
    return SigningKey(VerificationKey(jwk, algorithm, public), private)


def new_signing_key(algorithm: str, secret: Callable[[int], bytes]) -> SigningKey:
    """A fresh key, named by its thumbprint; `secret` gives the 32 bytes of one for HMAC."""
    kind, curve, by = ALGORITHMS[algorithm]
    made: Any
    if kind == "OKP":
        made = ed25519.Ed25519PrivateKey.generate()
    elif kind == "EC":
        made = ec.generate_private_key({"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}.get(curve or "", ec.SECP521R1)())
    elif kind == "RSA":
        made = rsa.generate_private_key(65537, 2048)
    else:
        made = secret(32)
    jwk = {name: value for name, value in by.to_jwk(made, as_dict=True).items() if name != "key_ops"}
    return signing_key(jwk, {algorithm})


def jwk_of(text: Any) -> Mapping[str, Any]:
    """The JWK that a JWK text, or a PEM text of a public key, says; else `UnusableKey`."""
    if not isinstance(text, str):
        raise UnusableKey("a key is a PEM or JWK text")
    try:
        data = text.encode()
        if not text.lstrip().startswith("-----BEGIN PUBLIC KEY-----"):
            value = parsed(data)
            return value if isinstance(value, Mapping) else {}
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey("a key is a JWK text, or a PEM text of a public key") from None
    for kind, maker in _MAKERS:
        if isinstance(key, kind):
            try:
                made: dict[str, Any] = maker.to_jwk(key, as_dict=True)
            except PyJWTError:
                break
            return made
    raise UnusableKey("this type of key is not one of ours")


def _fitting(jwk: Any, algorithms: Collection[str], use: Literal["sign", "verify"]) -> str:
    """The one algorithm of a key, judged by all that it says of itself."""
    if not isinstance(jwk, Mapping):
        raise UnusableKey("a JWK is a JSON object")
    kid = jwk.get("kid", "-")
    if not isinstance(kid, str) or not 1 <= len(kid) <= LONGEST_KID:
        raise UnusableKey("a kid is a short text")
    if jwk.get("use", "sig") != "sig":
        raise UnusableKey("the key is not for signatures")
    ops = jwk.get("key_ops", [use])
    if not isinstance(ops, (list, tuple)) or not ops or any(ops.count(op) > 1 or op not in _OPERATIONS for op in ops):
        raise UnusableKey("the key's key_ops are not those of a signature")
    if use not in ops and "d" not in jwk:  # a private key that signs has a public half that verifies
        raise UnusableKey("the key's key_ops are not what it is wanted for")
    fits = [
        name
        for name, (kind, curve, _) in ALGORITHMS.items()
        if name in algorithms and jwk.get("kty") == kind and curve in (None, jwk.get("crv"))
    ]
    if "alg" in jwk:
        alg = jwk["alg"]
        fits = [name for name in fits if isinstance(alg, str) and _NAMED.get(alg, alg) == name]
    if len(fits) != 1:
        raise UnusableKey("no algorithm, or more than one, of those allowed is the key's")
    return fits[0]


def _loaded(jwk: Mapping[str, Any], algorithm: str) -> tuple[Any, Any]:
    """The key objects, (public, private or None), once every number has passed."""
    kind = jwk["kty"]
    if not {*_MEMBERS[kind]} <= jwk.keys():
        raise UnusableKey("a member is missing")
    raw = checked_numbers(jwk, {*_MEMBERS[kind], *PRIVATE} - {"crv", "kty"})
    plain = {name: value for name, value in jwk.items() if name in raw or name in {"kty", "crv"}}
    by = ALGORITHMS[algorithm].by
    try:
        key = by.prepare_key(by.from_jwk(plain))
        if kind == "oct":
            return key, key
        if "d" not in plain:
            return key, None
        return key.public_key(), key
    except (PyJWTError, ValueError, TypeError, OverflowError, UnsupportedAlgorithm):
        raise UnusableKey("the numbers make no key, or its halves do not match") from None


class Reader:
    """Takes a compact JWS apart, in a fixed order, and gives its payload once the signature holds.

    Length, three segments, length of the header, canonical base64url, header, key, algorithm, signature. `algorithms`
    is the allow-list, which the key's own algorithm must be on. `typ` are
    the accepted types, in lower case and without `application/` (RFC 7515 section 4.1.9); "" stands for none, and
    None means that the type says nothing here. Headers of tokens that verified are remembered by their text.
    """

    __slots__ = ("_algorithms", "_header_most", "_known", "_most", "_typ")

    def __init__(
        self, *, algorithms: Collection[str], typ: Collection[str] | None, max_bytes: int, max_header: int
    ) -> None:
        self._algorithms = frozenset(algorithms)
        self._typ = None if typ is None else frozenset(typ)
        self._most = max_bytes
        self._header_most = max_header
        self._known: dict[str, tuple[str, str | None]] = {}

    def read(self, token: str, keys: KeySet) -> tuple[VerificationKey, bytes]:
        """The key that signed `token` and the payload's bytes; else `InvalidToken`."""
        given: object = token
        if not isinstance(given, str) or len(token) > self._most:
            raise InvalidToken(Reason.MALFORMED_TOKEN)
        parts = token.split(".", 3)
        if len(parts) != 3 or len(parts[0]) > self._header_most:
            raise InvalidToken(Reason.MALFORMED_TOKEN)
        first, second, third = parts
        header = self._known.get(first)
        algorithm, kid = header or self._header(first)
        key = keys.find(kid)
        if key is None:
            raise InvalidToken(Reason.UNKNOWN_SIGNING_KEY)
        if algorithm not in key.spellings or key.algorithm not in self._algorithms:
            raise InvalidToken(Reason.WRONG_ALGORITHM)
        signature = unbase64url(third)
        if not signature or not is_base64url(second):
            raise InvalidToken(Reason.MALFORMED_TOKEN)
        message = f"{first}.{second}".encode("ascii")
        key.check(message, signature)
        if header is None:
            if len(self._known) >= 64:
                self._known.clear()
            self._known[first] = algorithm, kid
        return key, loose_base64url(message[len(first) + 1 :])  # what is long work on junk comes last

    def _header(self, segment: str) -> tuple[str, str | None]:
        data = unbase64url(segment)
        try:
            header = parsed(data) if data and data.count(b"{") <= MOST_OBJECTS else None
        except ValueError:
            header = None
        if not isinstance(header, dict):
            raise InvalidToken(Reason.MALFORMED_TOKEN)
        algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "")
        # We understand no extension, so whatever is critical is refused (RFC 7515 section 4.1.11); `b64` and `zip`
        # change what the payload is, and `cty` says that another token is inside.
        if (
            not isinstance(algorithm, str)
            or not isinstance(typ, str)
            or ("kid" in header and not isinstance(kid, str))
            or not header.keys().isdisjoint({"crit", "b64", "zip", "enc", "cty"})
        ):
            raise InvalidToken(Reason.MALFORMED_TOKEN)
        if self._typ is not None and typ.lower().removeprefix("application/") not in self._typ:
            raise InvalidToken(Reason.WRONG_TOKEN_TYPE)
        return algorithm, kid
