"""Access tokens of our own as a service: issue one for a consumer, and say whose one is."""

import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from re import ASCII, compile as pattern
from types import MappingProxyType
from typing import Any, Literal, cast

from bartizan.core.cache import Cache
from bartizan.core.encoding import base64url
from bartizan.core.events import Journal
from bartizan.core.ports import Clock, Entropy, Waits, fresh
from bartizan.core.principal import ConsumerPrincipal, Environment, checked_org, verified
from bartizan.core.requirement import checked_scopes
from bartizan.core.ring import SecretRing
from bartizan.core.roots import Roots
from bartizan.core.tables import Backend
from bartizan.credentials.jws import SigningKey
from bartizan.credentials.key_format import checked_seconds
from bartizan.credentials.signing import Keyring, SigningKeys, checked_issuer
from bartizan.credentials.tokens import ACCESS, CHOICES, CLAIMS, LEEWAY, LONGEST_LIFE, Remembering, access_policy
from bartizan.errors import InvalidToken, Misuse, Reason

LONGEST_SESSION = 400 * 86_400
JITTER = 20  # a token lives up to one part in so many shorter, so that not all are renewed at once


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPolicy:
    """How consumers stay signed in. All times are seconds: `access` is the life of an access token.

    A session ends when it was not refreshed for `idle`, and `absolute` after its beginning in any case; a guest's has
    ends of its own. A refresh token rotates at most once in `grace`, within which the one before is answered with the
    same successor. `recovery` is how long after a rotation whose successor was never used the one before is answered
    too, twice a day at most: 0 where another service verifies tokens without state, since nothing tells what was used.
    A subject has at most `per_subject` sessions: the one that was used longest ago ends when another begins. Guests are
    not counted. `member_of(subject, org)` says whether a subject may have tokens for an organization: it is asked
    whenever one is made, and while tokens are used, every staleness bound. `algorithm` is that of new signing keys,
    each of which signs for `signing_key_days`.

    `binding` is what a session is bound to at least, so that its tokens alone are worth nothing: `"dpop"`, a key of the
    client's (RFC 9449), or `"cookie"`, a cookie beside tokens that travel in bodies; it adds nothing where the tokens
    are cookies too. A client that brings a proof when its session begins is bound to its key whatever this says.
    `dpop_nonces` is whether a proof must name a nonce of ours, so that none can be made long before it is used.
    """

    access: int = 300
    idle: int = 14 * 86_400
    absolute: int = 90 * 86_400
    guest_idle: int = 3600
    guest_absolute: int = 86_400
    grace: int = 10
    recovery: int = 3600
    per_subject: int | None = None
    member_of: Callable[[str, str], bool | Awaitable[bool]] | None = None
    algorithm: Literal["EdDSA", "ES256", "ES384", "RS256", "PS256", "HS256"] = "EdDSA"
    signing_key_days: int = 30
    binding: Literal["none", "cookie", "dpop"] = "none"
    dpop_nonces: bool = True

    def __post_init__(self) -> None:
        for name, least, most in (
            ("access", 1, LONGEST_LIFE), ("signing_key_days", 1, 3650), ("grace", 1, 300), ("recovery", 0, 86_400),
            ("absolute", 1, LONGEST_SESSION), ("idle", 1, self.absolute),
            ("guest_absolute", 1, LONGEST_SESSION), ("guest_idle", 1, self.guest_absolute),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise Misuse(f"{name} is a whole number from {least} to {most}")
        limit: object = self.per_subject
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1000):
            raise Misuse("per_subject is a whole number from 1 to 1000")
        ask: object = self.member_of
        if ask is not None and not callable(ask):
            raise Misuse("member_of is a function of subject and organization")
        if self.algorithm not in CHOICES:
            raise Misuse(f"algorithm is one of: {', '.join(CHOICES)}")
        if self.binding not in {"none", "cookie", "dpop"}:
            raise Misuse('binding is "none", "cookie" or "dpop"')


SESSIONS = SessionPolicy()
BY_COOKIE = "cookie"  # what a session is bound to, as its row and its tokens' principals say it
BY_KEY = "key "  # and behind it the key's RFC 7638 thumbprint
_THUMBPRINT = pattern(r"[A-Za-z0-9_-]{43}", ASCII)


def key_of(binding: str | None) -> str | None:
    """The thumbprint of the key that this binds to, or None where it is nothing or a cookie."""
    return binding[len(BY_KEY) :] if binding is not None and binding.startswith(BY_KEY) else None


class AccessTokens:
    """Issues and verifies the access tokens of one issuer in one environment; `signing` has the keys."""

    def __init__(
        self,
        *,
        signing: SigningKeys,
        reader: Remembering[ConsumerPrincipal],
        issuer: str,
        audience: Sequence[str],
        environment: Environment,
        life: int,
        clock: Clock,
        entropy: Entropy = fresh,
    ) -> None:
        self.signing: SigningKeys = signing
        self._reader = reader
        self.audience: Sequence[str] = audience
        self._fixed = {"iss": issuer, "aud": audience[0] if len(audience) == 1 else list(audience)}
        self._environment = environment
        self._life = life
        self._clock = clock
        self._entropy = entropy

    async def issue(self, *, org: str, subject: str, session: str, **said: Any) -> str:
        """The text of a new access token, as `mint` makes it."""
        return (await self.mint(org=org, subject=subject, session=session, **said))[0]

    async def mint(
        self,
        *,
        org: str,
        subject: str,
        session: str,
        generation: int = 0,
        scopes: Collection[str] = (),
        guest: bool = False,
        factors: Mapping[str, int] = MappingProxyType({}),
        audience: str | None = None,
        epochs: Sequence[int] | None = None,
        until: int | None = None,
        binding: str | None = None,
        key: SigningKey | None = None,
    ) -> tuple[str, int]:
        """A new access token for a consumer of `org`, and when it ends: after the policy's life or a little less.

        It never lives beyond `until`. `epochs` are those in which the session began, `audience` one of the issuer's,
        `binding` what must be shown beside it, `key` the active one, where it is at hand.
        """
        now = self._clock.seconds()
        chance = self._entropy(20)
        expires_at = now + self._life - int.from_bytes(chance[:4]) % (self._life // JITTER + 1)
        if until is not None and until < expires_at:
            expires_at = until
        claims: dict[str, Any] = {
            **self._fixed,
            "sub": checked_org(subject),
            "exp": expires_at,
            "iat": now,
            "jti": base64url(chance[4:]),
            CLAIMS.org: checked_org(org),
            CLAIMS.session: checked_org(session),
            CLAIMS.generation: checked_seconds(generation),
            CLAIMS.environment: self._environment,
        }
        if scopes:
            claims[CLAIMS.scope] = " ".join(sorted(checked_scopes(scopes)))
        if guest:
            claims[CLAIMS.guest] = True
        if factors:
            claims[CLAIMS.factors] = {name: checked_seconds(at) for name, at in factors.items()}
        if audience is not None:
            claims["aud"] = audience
        if epochs is not None:
            claims[CLAIMS.epochs] = list(epochs)
        if binding is not None:
            claims[CLAIMS.confirmation] = {"cookie": True} if binding == BY_COOKIE else {"jkt": key_of(binding)}
        return signed(key or await self.signing.signing(), claims), expires_at

    def consumer(
        self,
        *,
        org: str,
        subject: str,
        session: str,
        generation: int,
        scopes: Collection[str],
        guest: bool,
        factors: Mapping[str, int],
        audience: Collection[str] | None,
        until: int,
        epochs: tuple[int, int, int] | None,
        binding: str | None,
    ) -> ConsumerPrincipal:
        """The consumer of a session that was verified, as a token minted now would name them."""
        said = Said(generation, frozenset(self.audience if audience is None else audience), epochs, binding)
        return verified(
            ConsumerPrincipal, org=org, environment=self._environment, scopes=frozenset(scopes),
            expires_at=min(until, self._clock.seconds() + self._life), actor=f"consumer:{subject}", subject=subject,
            session_id=session, guest=guest, factors=MappingProxyType(dict(factors)), _said=said,
        )  # fmt: skip

    async def verify(self, token: str) -> ConsumerPrincipal:
        """The consumer whose token this is; `InvalidToken` for whatever is wrong with it, always the same to see."""
        keys = (await self.signing.current()).verify
        return self._reader.verify(token, keys, self._clock.seconds())


def signed(key: SigningKey, claims: Mapping[str, Any]) -> str:
    """The compact JWS of these claims (RFC 7515 section 3.1), of type `at+jwt`."""
    head = _header(key.verification.algorithm, key.verification.kid)
    message = f"{head}.{base64url(_COMPACT.encode(claims).encode())}"
    return f"{message}.{base64url(key.sign(message.encode()))}"


_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=64)
def _header(algorithm: str, kid: str) -> str:
    return base64url(_COMPACT.encode({"alg": algorithm, "kid": kid, "typ": ACCESS}).encode())


class Said:
    """What a token says beside its principal: for whoever asks the store whether its session lives."""

    __slots__ = ("audience", "binding", "by_token", "epochs", "generation", "keys")

    def __init__(
        self, generation: int, audience: frozenset[str], epochs: tuple[int, int, int] | None, binding: str | None
    ) -> None:
        self.generation: int = generation
        self.audience: frozenset[str] = audience
        self.epochs: tuple[int, int, int] | None = epochs
        self.binding: str | None = binding  # what must be shown beside it
        self.by_token: bool = False  # or it came otherwise, and nothing was shown beside it
        self.keys: tuple[str, ...] = ()  # of the rows on which it stands, once they were asked for


def _consumer(subject: str, expires_at: int, claims: Mapping[str, Any]) -> ConsumerPrincipal:
    scope, factors = claims.get(CLAIMS.scope, ""), claims.get(CLAIMS.factors, {})
    guest, epochs = claims.get(CLAIMS.guest, False), claims.get(CLAIMS.epochs)
    if (
        type(scope) is not str
        or type(guest) is not bool
        or type(factors) is not dict
        or not all(type(at) is int for at in factors.values())
        or (epochs is not None and not (type(epochs) is list and [type(epoch) for epoch in epochs] == [int, int, int]))
    ):
        raise InvalidToken(Reason.CLAIM_INVALID)
    audience = claims["aud"]
    said = Said(
        claims[CLAIMS.generation],
        frozenset({audience} if type(audience) is str else audience),
        None if epochs is None else tuple(epochs),
        _binding(claims[CLAIMS.confirmation]) if CLAIMS.confirmation in claims else None,
    )
    said.by_token = True
    return verified(
        ConsumerPrincipal,
        org=claims[CLAIMS.org],
        environment=cast("Environment", claims[CLAIMS.environment]),
        scopes=frozenset(scope.split()),
        expires_at=expires_at,
        actor=f"consumer:{subject}",
        subject=subject,
        session_id=claims[CLAIMS.session],
        guest=guest,
        factors=MappingProxyType(factors),
        _said=said,
    )


def _binding(confirmation: Any) -> str:
    if confirmation == {"cookie": True}:
        return BY_COOKIE
    if type(confirmation) is not dict or confirmation.keys() != {"jkt"}:
        raise InvalidToken(Reason.CLAIM_INVALID)
    thumbprint = confirmation["jkt"]  # RFC 9449 section 6.1
    if type(thumbprint) is not str or not _THUMBPRINT.fullmatch(thumbprint):
        raise InvalidToken(Reason.CLAIM_INVALID)
    return BY_KEY + thumbprint


class Issuing:
    """What the async and the blocking form of the service share: policy, remembered tokens, cached keys."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str | Sequence[str],
        policy: SessionPolicy,
        environment: Environment,
        ring: SecretRing,
        staleness: float,
        clock: Clock,
        journal: Journal,
        wake: Callable[[], object],
    ) -> None:
        self.issuer: str = checked_issuer(issuer)
        self._audience = (audience,) if isinstance(audience, str) else tuple(audience)
        self.policy = policy
        self._environment = environment
        self._ring = ring
        self._staleness = staleness
        self._clock = clock
        self._journal = journal
        self.used: bool = False  # by whichever form: the keys that it made are looked after
        self._wake = wake
        self._cache: Cache[Keyring] = Cache(clock=clock, staleness=staleness, size=1)
        self._reader: Remembering[ConsumerPrincipal] = Remembering(
            access_policy(issuer=issuer, audience=audience, environment=environment, bound=True), _consumer
        )

    def _needed(self) -> None:
        self.used = True
        self._wake()

    def side(self, backend: Backend, waits: Waits, roots: Roots) -> AccessTokens:
        """The service of one form."""
        signing = SigningKeys(
            backend=backend,
            waits=waits,
            ring=self._ring,
            roots=roots,
            environment=self._environment,
            issuer=self.issuer,
            algorithm=self.policy.algorithm,
            days=self.policy.signing_key_days,
            longest=self.policy.access + LEEWAY,
            staleness=self._staleness,
            clock=self._clock,
            cache=self._cache,
            journal=self._journal,
            wake=self._needed,
        )
        return AccessTokens(
            signing=signing,
            reader=self._reader,
            issuer=self.issuer,
            audience=self._audience,
            environment=self._environment,
            life=self.policy.access,
            clock=self._clock,
        )


def planned(
    issuer: str | None, audience: str | Sequence[str] | None, policy: SessionPolicy
) -> Callable[..., Issuing] | None:
    """What makes the service once the rest of its arguments is there, or None where issuer or audience is not given."""
    if issuer is None or audience is None:
        return None
    return partial(Issuing, issuer=issuer, audience=audience, policy=policy)
