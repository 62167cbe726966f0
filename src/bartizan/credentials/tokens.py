"""What a JSON Web Token must say (RFC 7519, RFC 8725): one frozen policy for each kind, and its verification. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from bartizan.core.encoding import parsed
from bartizan.core.ports import SystemClock
from bartizan.core.principal import Environment, Verified, verified
from bartizan.credentials.jwks import key_set
from bartizan.credentials.jws import KeySet, Reader, VerificationKey, checked_algorithms
from bartizan.credentials.key_format import checked_environment
from bartizan.errors import InvalidToken, Misuse, Reason

V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNames:
    """What the claims of an access token are called on the wire, those of RFC 7519 aside."""

    org: str = "org"
    session: str = "sid"
    generation: str = "gen"
    environment: str = "env"
    scope: str = "scope"  # RFC 8693 section 4.2
    guest: str = "guest"
    factors: str = "factors"
    epochs: str = "epo"  # in which the session began: of the subject, the organization, and everyone
    confirmation: str = "cnf"  # RFC 7800 section 3.1: what must be shown beside the token


CLAIMS = ClaimNames()
CHOICES = ("EdDSA", "ES256", "ES384", "RS256", "PS256", "HS256")  # for tokens of our own
ACCESS = "at+jwt"  # RFC 9068 section 2.1
LEEWAY = 5  # seconds by which two clocks may differ
LONGEST_LIFE = 3600  # seconds, of an access token
LONGEST_OF_ALL = 30 * 86400  # seconds that any policy may accept
MOST_BYTES = 8 * 1024
MOST_HEADER = 256  # characters; what we write has 116
LONGEST_TEXT = 255  # characters of a claim that names somebody
CACHED = 10_000


class VerifiedToken(Verified):
    """A token that a verifier has found good: whose it is, until when, and all that it says, read-only."""

    __slots__ = ("claims", "expires_at", "subject")

    subject: str
    expires_at: int
    claims: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<VerifiedToken until {self.expires_at}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPolicy:
    """What one kind of token must be and say; every other kind fails it.

    `exact` are claims with the one value that each may have, such as `iss`; `audience` those of which `aud` names at
    least one (None: somebody else checks for whom the token is); `typ` the accepted types, "" for a token without one;
    `texts` and `numbers` the claims that must be there, `forbidden` those that must not. `sub` and `exp` always must.
    `bound` is whether whoever asks looks after `cnf`; else a token that has it is refused. Times are whole UTC seconds.
    `max_header` is in characters of base64url.
    """

    algorithms: frozenset[str]
    exact: Mapping[str, str]
    audience: frozenset[str] | None
    typ: frozenset[str]
    texts: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()
    leeway: int = LEEWAY
    max_lifetime: int = LONGEST_LIFE
    max_bytes: int = MOST_BYTES
    max_header: int = MOST_HEADER
    bound: bool = False

    def __post_init__(self) -> None:
        checked_algorithms(self.algorithms)
        if not self.exact.get("iss"):
            raise Misuse("a token policy names the issuer")
        if not all(self.exact.values()):
            raise Misuse("an exact claim is not empty")
        if self.audience is not None and not (self.audience and all(self.audience)):
            raise Misuse("audience is at least one text that is not empty")
        if not self.typ or any(name != name.lower() or name.startswith("application/") for name in self.typ):
            raise Misuse("typ is at least one type, in lower case and without application/")
        _number("leeway", self.leeway, 0, 600)
        _number("max_lifetime", self.max_lifetime, 1, LONGEST_OF_ALL)
        _number("max_bytes", self.max_bytes, 64, 64 * 1024)
        _number("max_header", self.max_header, 16, 4 * 1024)


class Remembering(Generic[V]):
    """Verifies tokens under one policy, makes of each a value, and remembers those that were good until they end.

    What is remembered is keyed by the SHA-256 of the whole token, holds successes only, and on every use is held
    against the clock and the keys again, so that a key that is no longer in the set takes with it all that it signed.
    """

    __slots__ = ("_kept", "_latest", "_made", "_reader", "policy")

    def __init__(self, policy: TokenPolicy, made: Callable[[str, int, Mapping[str, Any]], V]) -> None:
        self.policy: TokenPolicy = policy
        self._made = made
        self._reader = Reader(
            algorithms=policy.algorithms, typ=policy.typ, max_bytes=policy.max_bytes, max_header=policy.max_header
        )
        self._kept: dict[bytes, tuple[VerificationKey, int, int, V]] = {}
        self._latest = 0

    def verify(self, token: str, keys: KeySet, now: int) -> V:
        """The value of `token`, if one of `keys` signed it and it meets the policy at `now`; else `InvalidToken`."""
        given: object = token
        if not isinstance(given, str) or len(token) > self.policy.max_bytes or not token.isascii():
            raise InvalidToken(Reason.MALFORMED_TOKEN)
        if now < self._latest - 1:  # a clock that steps back (two threads may pass by one second)
            self.forget()
        self._latest = now
        digest = sha256(token.encode()).digest()
        entry = self._kept.get(digest)
        if entry is not None:
            key, begins, ends, known = entry
            if begins <= now < ends and keys.holds(key):
                return known
        key, payload = self._reader.read(token, keys)
        begins, ends, found = self._checked(payload, now)
        if len(self._kept) >= CACHED:
            self.forget()
        self._kept[digest] = key, begins, ends, found
        return found

    def forget(self) -> None:
        """Remember nothing."""
        self._kept = {}

    def _checked(self, payload: bytes, now: int) -> tuple[int, int, V]:
        """The first and one past the last second in which the claims hold, and their value; now is one of them."""
        policy = self.policy
        try:
            claims = parsed(payload)
        except ValueError:
            claims = None
        if type(claims) is not dict:
            raise InvalidToken(Reason.MALFORMED_TOKEN)
        get = claims.get
        for name, value in policy.exact.items():
            if get(name) != value:
                raise InvalidToken(_WRONG.get(name, Reason.CLAIM_INVALID))
        if policy.audience is not None and not _names_one(get("aud"), policy.audience):
            raise InvalidToken(Reason.WRONG_AUDIENCE)
        subject: Any = get("sub")
        ends = get("exp")
        begins, issued = get("nbf", 0), get("iat", now)
        if (
            not _is_name(subject)
            # RFC 7519 allows fractions of seconds; nobody needs them, and they are one more way to be read twice.
            or type(ends) is not int
            or type(begins) is not int
            or type(issued) is not int
            or not 0 <= issued < ends < _END_OF_TIME
            or not 0 <= begins < ends
            or not policy.forbidden.isdisjoint(claims)
        ):
            raise InvalidToken(Reason.CLAIM_INVALID)
        for name in policy.texts:
            text = get(name)
            if type(text) is not str or not 0 < len(text) <= LONGEST_TEXT or not text.isprintable():
                raise InvalidToken(Reason.CLAIM_INVALID)
        for name in policy.numbers:
            number = get(name)
            if type(number) is not int or number < 0:
                raise InvalidToken(Reason.CLAIM_INVALID)
        if CLAIMS.confirmation in claims and not policy.bound:
            raise InvalidToken(Reason.TOKEN_BOUND)  # as Bearer it would be worth no more than its text (RFC 9449 7.1)
        if ends - issued > policy.max_lifetime:
            raise InvalidToken(Reason.TOKEN_LIVES_TOO_LONG)
        leeway = policy.leeway
        begins = max(begins, issued) - leeway
        if now < begins:
            raise InvalidToken(Reason.TOKEN_NOT_YET)
        if now >= ends + leeway:
            raise InvalidToken(Reason.TOKEN_EXPIRED)
        return begins, ends + leeway, self._made(subject, ends, claims)


class TokenReader(Remembering[VerifiedToken]):
    """Verifies tokens under one policy, and remembers those that were good."""

    __slots__ = ()

    def __init__(self, policy: TokenPolicy) -> None:
        super().__init__(policy, read_only)


def read_only(subject: str, expires_at: int, claims: Mapping[str, Any]) -> VerifiedToken:
    """The token that says these claims, which nobody changes any more."""
    nested = {name: _frozen(value) for name, value in claims.items() if type(value) in (dict, list)}
    shown = MappingProxyType({**claims, **nested} if nested else claims)
    return verified(VerifiedToken, subject=subject, expires_at=expires_at, claims=shown)


_WRONG = {"iss": Reason.WRONG_ISSUER, CLAIMS.environment: Reason.WRONG_ENVIRONMENT}
_END_OF_TIME = 2**53  # what every JSON reader keeps exactly (RFC 8259 section 6)


def _is_name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= LONGEST_TEXT and value.isprintable()


def _names_one(value: Any, audience: frozenset[str]) -> bool:
    if type(value) is str:
        return value in audience
    if type(value) is not list or not all(type(item) is str for item in value):
        return False
    return not audience.isdisjoint(value)


def _frozen(value: Any) -> Any:
    if type(value) is list:
        return tuple([_frozen(item) for item in value])
    if type(value) is dict:
        return MappingProxyType({name: _frozen(item) for name, item in value.items()})
    return value


def _number(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Misuse(f"{name} is a whole number from {low} to {high}")


def access_policy(
    *,
    issuer: str,
    audience: str | Collection[str],
    environment: Environment,
    algorithms: Collection[str] = CHOICES,
    typ: str = ACCESS,
    leeway: int = LEEWAY,
    max_lifetime: int = LONGEST_LIFE,
    max_bytes: int = MOST_BYTES,
    bound: bool = False,
) -> TokenPolicy:
    """The policy of an access token of ours (RFC 9068, with organization, session, generation and environment)."""
    _number("max_lifetime", max_lifetime, 1, LONGEST_LIFE)
    if not typ:
        raise Misuse("typ is the type of the tokens: without one, every other kind of token would do")
    return TokenPolicy(
        algorithms=checked_algorithms(algorithms, CHOICES),
        exact={"iss": issuer, CLAIMS.environment: checked_environment(environment)},
        audience=frozenset({audience} if isinstance(audience, str) else audience),
        typ=frozenset({typ.lower().removeprefix("application/")}),
        texts=frozenset({"jti", CLAIMS.org, CLAIMS.session}),
        numbers=frozenset({"iat", CLAIMS.generation}),
        leeway=leeway,
        max_lifetime=max_lifetime,
        max_bytes=max_bytes,
        bound=bound,
    )


class TokenVerifier:
    """Verifies access tokens with nothing but their issuer's keys: no store, no network.

    `keys` is a JWKS, or PEM or JWK texts; the algorithm of each is fixed when it is loaded, by itself and by
    `algorithms`. Issuer, audience and environment are compared as whole texts.
    """

    def __init__(
        self,
        keys: Mapping[str, Any] | Sequence[str],
        *,
        issuer: str,
        audience: str | Collection[str],
        environment: Environment,
        algorithms: Collection[str] = ("EdDSA",),
        typ: str = ACCESS,
        leeway: int = LEEWAY,
        max_lifetime: int = LONGEST_LIFE,
        max_bytes: int = MOST_BYTES,
    ) -> None:
        self._reader = TokenReader(
            access_policy(
                issuer=issuer,
                audience=audience,
                environment=environment,
                algorithms=algorithms,
                typ=typ,
                leeway=leeway,
                max_lifetime=max_lifetime,
                max_bytes=max_bytes,
            )
        )
        self._keys = key_set(keys, self._reader.policy.algorithms)

    def verify(self, token: str, *, now: int | None = None) -> VerifiedToken:
        """What the token says, verified at `now` (UTC seconds; by default, this moment); else `InvalidToken`."""
        return self._reader.verify(token, self._keys, SystemClock.seconds() if now is None else now)
