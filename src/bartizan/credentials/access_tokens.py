"""Access tokens of our own as a service: issue one for a consumer, and say whose one is."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Literal, cast

from bartizan.core.cache import Cache
from bartizan.core.encoding import base64url
from bartizan.core.events import Journal
from bartizan.core.passage import checked_scopes
from bartizan.core.ports import Clock, Entropy, Waits, fresh
from bartizan.core.principal import ConsumerPrincipal, Environment, checked_org, verified
from bartizan.core.ring import SecretRing
from bartizan.core.roots import Roots
from bartizan.core.tables import Backend
from bartizan.credentials.jws import SigningKey
from bartizan.credentials.key_format import checked_seconds
from bartizan.credentials.signing import Keyring, SigningKeys, checked_issuer
from bartizan.credentials.tokens import ACCESS, CHOICES, CLAIMS, LEEWAY, LONGEST_LIFE, Remembering, access_policy
from bartizan.errors import InvalidToken, Misuse, Reason

JITTER = 20  # a token lives up to one part in so many shorter, so that not all are renewed at once


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPolicy:
    """How consumers' tokens are made: `access` is the life of one in seconds.

    `algorithm` is that of new signing keys, each of which signs for `signing_key_days`.
    """

    access: int = 300
    algorithm: Literal["EdDSA", "ES256", "ES384", "RS256", "PS256", "HS256"] = "EdDSA"
    signing_key_days: int = 30

    def __post_init__(self) -> None:
        for name, most in (("access", LONGEST_LIFE), ("signing_key_days", 3650)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise Misuse(f"{name} is a whole number from 1 to {most}")
        if self.algorithm not in CHOICES:
            raise Misuse(f"algorithm is one of: {', '.join(CHOICES)}")


SESSIONS = SessionPolicy()


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
        self._fixed = {"iss": issuer, "aud": audience[0] if len(audience) == 1 else list(audience)}
        self._environment = environment
        self._life = life
        self._clock = clock
        self._entropy = entropy

    async def issue(
        self,
        *,
        org: str,
        subject: str,
        session: str,
        generation: int = 0,
        scopes: Collection[str] = (),
        guest: bool = False,
        factors: Mapping[str, int] = MappingProxyType({}),
    ) -> str:
        """A new access token for a consumer of `org`, good for the policy's life or a little less."""
        now = self._clock.seconds()
        chance = self._entropy(20)
        expires_at = now + self._life - int.from_bytes(chance[:4]) % (self._life // JITTER + 1)
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
        return signed(await self.signing.signing(), claims)

    async def verify(self, token: str) -> ConsumerPrincipal:
        """The consumer whose token this is; `InvalidToken` for whatever is wrong with it, always the same to see."""
        keys = (await self.signing.current()).verify
        return self._reader.verify(token, keys, self._clock.seconds())

    async def recheck(self, principal: ConsumerPrincipal) -> None:
        """Return until the token ends."""
        if self._clock.seconds() >= principal.expires_at + LEEWAY:
            raise InvalidToken(Reason.TOKEN_EXPIRED)


def signed(key: SigningKey, claims: Mapping[str, Any]) -> str:
    """The compact JWS of these claims (RFC 7515 section 3.1), of type `at+jwt`."""
    head = _header(key.verification.algorithm, key.verification.kid)
    message = f"{head}.{base64url(_COMPACT.encode(claims).encode())}"
    return f"{message}.{base64url(key.sign(message.encode()))}"


_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=64)
def _header(algorithm: str, kid: str) -> str:
    return base64url(_COMPACT.encode({"alg": algorithm, "kid": kid, "typ": ACCESS}).encode())


def _consumer(subject: str, expires_at: int, claims: Mapping[str, Any]) -> ConsumerPrincipal:
    scope, factors = claims.get(CLAIMS.scope, ""), claims.get(CLAIMS.factors, {})
    guest = claims.get(CLAIMS.guest, False)
    if (
        type(scope) is not str
        or type(guest) is not bool
        or type(factors) is not dict
        or not all(type(at) is int for at in factors.values())
    ):
        raise InvalidToken(Reason.CLAIM_INVALID)
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
    )


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
        self._issuer = checked_issuer(issuer)
        self._audience = (audience,) if isinstance(audience, str) else tuple(audience)
        self._policy = policy
        self._environment = environment
        self._ring = ring
        self._staleness = staleness
        self._clock = clock
        self._journal = journal
        self._wake = wake
        self._cache: Cache[Keyring] = Cache(clock=clock, staleness=staleness, size=1)
        self._reader: Remembering[ConsumerPrincipal] = Remembering(
            access_policy(issuer=issuer, audience=audience, environment=environment), _consumer
        )

    def side(self, backend: Backend, waits: Waits, roots: Roots) -> AccessTokens:
        """The service of one form."""
        signing = SigningKeys(
            backend=backend,
            waits=waits,
            ring=self._ring,
            roots=roots,
            environment=self._environment,
            issuer=self._issuer,
            algorithm=self._policy.algorithm,
            days=self._policy.signing_key_days,
            longest=self._policy.access + LEEWAY,
            staleness=self._staleness,
            clock=self._clock,
            cache=self._cache,
            journal=self._journal,
            wake=self._wake,
        )
        return AccessTokens(
            signing=signing,
            reader=self._reader,
            issuer=self._issuer,
            audience=self._audience,
            environment=self._environment,
            life=self._policy.access,
            clock=self._clock,
        )


def planned(
    issuer: str | None, audience: str | Sequence[str] | None, policy: SessionPolicy
) -> Callable[..., Issuing] | None:
    """What makes the service once the rest of its arguments is there, or None where issuer or audience is not given."""
    if issuer is None or audience is None:
        return None
    return partial(Issuing, issuer=issuer, audience=audience, policy=policy)
