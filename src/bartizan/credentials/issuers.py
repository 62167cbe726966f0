"""Tokens that somebody else issues: what an outside issuer may assert, and whom its tokens stand for. Pure."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from inspect import iscoroutinefunction
from types import MappingProxyType
from typing import Any

from bartizan.core.address import EndpointPolicy, endpoint_of
from bartizan.core.principal import Environment, MemberPrincipal, checked_org, verified
from bartizan.credentials.jwks import published_key_set
from bartizan.credentials.jws import KeySet, checked_algorithms
from bartizan.credentials.tokens import ACCESS, LEEWAY, TokenPolicy, VerifiedToken
from bartizan.credentials.weak_keys import UnusableKey
from bartizan.errors import InvalidToken, Misuse, Reason

# One algorithm for each type and curve of key, so that a JWK without `alg` has one. HMAC is for one service alone.
ALGORITHMS = ("RS256", "ES256", "ES384", "EdDSA")
CHOICES = (*ALGORITHMS, "RS384", "RS512", "PS256", "PS384", "PS512", "ES512")
DAY = 86400
MOST_HEADER = 512  # characters; issuers put certificates' thumbprints and long kids there
ENDPOINT = EndpointPolicy(seconds=5, max_bytes=256 * 1024)
DISCOVERY = "/.well-known/openid-configuration"

# What makes an ID token (OpenID Connect Core 3.1.3.6, 3.3.2.11) or a logout token (RFC 8417) of a JWT: it tells its
# client something, and gives access to nothing.
_OTHER_KINDS = frozenset({"nonce", "at_hash", "c_hash", "s_hash", "events"})
# Claims by which well-known issuers tell their kinds of token apart, where they are all of one `typ`.
_SAID = {"token_use": frozenset({"access"}), "typ": frozenset({"Bearer", "bearer", "access"})}

Organizations = Collection[str] | Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True, slots=True)
class Issuer:
    """An identity provider whose access tokens let members in, and all that it may assert.

    `url` is its `iss`, compared as a whole text. `organizations` are those that it may speak for: a set, of which
    `organization_claim` names one (a set of one needs no claim); or a function from the verified claims to an
    organization, which trusts this issuer for every organization that the function can give. `audience` is held against
    `aud`, `authorized_parties` against `azp`; one of them is required. `roles` maps values of `role_claim` to roles
    here, `factors` values of `amr` to factors; what is not mapped is none. `jwks` is the URL of its keys, or the keys
    themselves; without it they are found by OpenID Connect Discovery. `typ` is the type of its access tokens; "JWT"
    also takes tokens without a type. `endpoint` says where its keys may be fetched.
    """

    url: str
    _: KW_ONLY
    organizations: Organizations
    audience: str | Collection[str] | None = None
    authorized_parties: Collection[str] | None = None
    organization_claim: str = "org_id"
    role_claim: str = "roles"
    roles: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, str] = field(default_factory=dict)
    jwks: str | Mapping[str, Any] | None = field(default=None, repr=False)
    algorithms: Collection[str] = ALGORITHMS
    typ: str = ACCESS
    max_lifetime: int = DAY
    endpoint: EndpointPolicy = field(default=ENDPOINT, repr=False)

    def __post_init__(self) -> None:
        _url(self.url, "url")
        if "?" in self.url:
            raise Misuse("the url of an issuer has no query (OpenID Connect Discovery section 3)")
        if isinstance(self.jwks, str):
            _url(self.jwks, "jwks")
        put = object.__setattr__
        put(self, "organizations", _organizations(self.organizations))
        put(self, "audience", _texts(self.audience, "audience"))
        put(self, "authorized_parties", _texts(self.authorized_parties, "authorized_parties"))
        if self.audience is None and self.authorized_parties is None:
            raise Misuse("an Issuer needs audience= or authorized_parties=: for whom its tokens must be")
        if not self.typ:
            raise Misuse('typ is the type of the access tokens, such as "at+jwt" or "JWT"')
        put(self, "roles", _mapping(self.roles, "roles"))
        put(self, "factors", _mapping(self.factors, "factors"))
        put(self, "algorithms", checked_algorithms(self.algorithms, CHOICES))
        _ = self.policy, self.fixed_keys()  # what is wrong with them is Misuse now

    @property
    def policy(self) -> TokenPolicy:
        """What its tokens must be and say, its organizations, roles and parties aside."""
        typ = self.typ.lower().removeprefix("application/")
        return TokenPolicy(
            algorithms=checked_algorithms(self.algorithms),
            exact={"iss": self.url},
            audience=None if self.audience is None else frozenset(self.audience),
            typ=frozenset({"jwt", ""} if typ == "jwt" else {typ}),
            forbidden=_OTHER_KINDS,
            max_lifetime=self.max_lifetime,
            max_header=MOST_HEADER,
        )

    def fixed_keys(self) -> KeySet | None:
        """The keys, where they are given and not fetched."""
        if not isinstance(self.jwks, Mapping):
            return None
        try:
            keys = published_key_set(self.jwks, self.algorithms)
        except UnusableKey as error:
            raise Misuse(f"jwks: {error}") from None
        if not len(keys):
            raise Misuse("jwks has no key that is usable for one of algorithms=")
        return keys

    def member(self, token: VerifiedToken, *, environment: Environment, now: int) -> MemberPrincipal:
        """Whom a token of this issuer stands for; `InvalidToken` where it says what the issuer may not assert."""
        claims = token.claims
        if self.authorized_parties is not None and _text(claims.get("azp")) not in self.authorized_parties:
            raise InvalidToken(Reason.WRONG_AUDIENCE)
        if any(name in claims and _text(claims[name]) not in said for name, said in _SAID.items()):
            raise InvalidToken(Reason.WRONG_TOKEN_TYPE)
        return verified(
            MemberPrincipal,
            org=self._organization(claims),
            environment=environment,
            scopes=frozenset(),
            expires_at=token.expires_at,
            actor=f"member:{self.url} {token.subject}",  # a URL has no space, so no two members share a name
            issuer=self.url,
            subject=token.subject,
            roles=frozenset(self.roles[role] for role in _listed(claims.get(self.role_claim)) if role in self.roles),
            factors=MappingProxyType(self._factors(claims, now)),
        )

    def _organization(self, claims: Mapping[str, Any]) -> str:
        if not isinstance(self.organizations, frozenset):
            mapped: Any = self.organizations
            try:
                return checked_org(mapped(claims))
            except Exception:  # noqa: BLE001 - the application's code, fed with a stranger's claims
                raise InvalidToken(Reason.MAPPING_FAILED) from None
        named = claims.get(self.organization_claim)
        if named is None and len(self.organizations) == 1:
            only: str = next(iter(self.organizations))
            return only
        if _text(named) not in self.organizations:
            raise InvalidToken(Reason.FOREIGN_ORGANIZATION)
        return _text(named)

    def _factors(self, claims: Mapping[str, Any], now: int) -> dict[str, int]:
        """Each mapped factor with when it was shown: `auth_time`, or 1970 where the issuer does not tell."""
        when = claims.get("auth_time", 0)
        if type(when) is not int or not 0 <= when <= now + LEEWAY:
            raise InvalidToken(Reason.CLAIM_INVALID)
        return {self.factors[method]: when for method in _listed(claims.get("amr")) if method in self.factors}


def _text(value: Any) -> str:
    """A claim that is a text; whatever else stands there is an empty one, which nothing allows."""
    return value if isinstance(value, str) else ""


def _listed(value: Any) -> list[str]:
    """The texts of a claim that is a text or a list; whatever else stands there is nothing."""
    values = value if type(value) is tuple else (value,)
    return [item for item in values if type(item) is str]


def _url(url: object, what: str) -> None:
    if not isinstance(url, str) or endpoint_of(url) is None:
        raise Misuse(f"{what} is an https URL without credentials and fragment")


def _texts(given: str | Collection[str] | None, what: str) -> frozenset[str] | None:
    if given is None:
        return None
    texts: frozenset[object] = frozenset({given} if isinstance(given, str) else given)
    found = frozenset(text for text in texts if isinstance(text, str) and text)
    if not texts or len(found) != len(texts):
        raise Misuse(f"{what} is at least one text that is not empty")
    return found


def _mapping(given: object, what: str) -> Mapping[str, str]:
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and isinstance(value, str) and name and value for name, value in given.items()
    ):
        raise Misuse(f"{what} maps a text of the issuer's to one of ours")
    return MappingProxyType(dict(given))


def _organizations(given: object) -> Organizations:
    if callable(given):
        if iscoroutinefunction(given):
            raise Misuse("organizations= as a function is a plain one: it maps claims, and asks nobody")
        made: Any = given
        return made  # type: ignore[no-any-return]
    if isinstance(given, str) or not isinstance(given, Collection) or not given:
        raise Misuse("organizations is a collection of at least one organization's id, or a function")
    return frozenset(checked_org(org) for org in given)
