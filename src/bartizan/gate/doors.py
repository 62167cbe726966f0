"""Doors of the application's own: whoever one of its authenticators says, of what came in one header, is let in by it.

The gate makes the principal, so nobody else ever does.
"""

from collections.abc import Awaitable, Collection, Mapping
from dataclasses import dataclass, field
from re import ASCII, compile as pattern
from types import MappingProxyType
from typing import Final, Protocol

from bartizan.core.client import Clients, Networks, checked_networks
from bartizan.core.drive import settle
from bartizan.core.passage import Origins
from bartizan.core.ports import Clock, Waits
from bartizan.core.principal import PERSONAL, Environment, MemberPrincipal, Principal, checked_org, verified
from bartizan.core.request import SAFE_METHODS, Request
from bartizan.core.requirement import Kinds, checked_name, checked_scopes
from bartizan.errors import CrossOrigin, Forbidden, Misuse, Reason, Rejected, Unauthenticated, Unavailable

LIFE = 3600  # seconds after which a stream of such a caller ends, whatever it says
_SAID = ("name", "slot", "ambient", "peers", "recognises", "authenticate")
_HEADER = pattern(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}", ASCII)  # RFC 9110 section 5.1, in lower case
_TAKEN = frozenset({
    "access-control-request-method", "content-length", "host", "idempotency-key", "origin", "sec-fetch-site",
    "x-http-method", "x-http-method-override", "x-method-override", "x-publishable-key",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """Who came, as an authenticator of the application's says: a plain value, of which the gate makes the principal.

    `org` and `subject` are 1 to 128 printable characters, `factors` says how they proved who they are, each with when
    (UTC seconds), `expires_at` is when a stream of theirs ends (UTC seconds), an hour from now at most.
    """

    org: str
    subject: str
    scopes: Collection[str] = ()
    roles: Collection[str] = ()
    factors: Mapping[str, int] = field(default_factory=dict)
    expires_at: int | None = None

    def __post_init__(self) -> None:
        checked_org(self.org)
        checked_org(self.subject)
        checked_scopes(self.scopes)
        checked_scopes(self.roles, "roles")
        checked_scopes(self.factors, "factors")
        times = [*self.factors.values(), *([] if self.expires_at is None else [self.expires_at])]
        if not all(type(time) is int and 0 <= time < 2**53 for time in times):
            raise Misuse("factors and expires_at are times: UTC in whole seconds")


class Authenticator(Protocol):
    """An authenticator of the application's own, for `gate(authenticators=…)` and `allow.credential(name)`.

    `slot` is the one header that it reads, in lower case. `ambient` says that browsers send it by themselves (Basic,
    Negotiate, cookies, client certificates): a page of another origin may then only read. `peers` are the networks of
    those who may send the header, such as the proxy that sets it; None is everybody. `challenge`, where there is one,
    is what a 401 asks for (RFC 9110 section 11.6.1), such as `Basic realm="reports"`.
    """

    @property
    def name(self) -> str:
        """What `allow.credential(name)` calls it."""

    @property
    def slot(self) -> str:
        """The one header that it reads."""

    @property
    def ambient(self) -> bool:
        """Whether browsers send it by themselves."""

    @property
    def peers(self) -> Collection[str] | None:
        """Who may send it."""

    def recognises(self, presented: bytes, /) -> object:
        """Truthy where this value is for you, judged by its form alone. What has a form of ours never comes."""

    def authenticate(self, presented: bytes, request: Request, /) -> Identified | Awaitable[Identified]:
        """Who presented this; raise `bartizan.errors.InvalidToken` where nobody believable did. Plain or async."""


class Door:
    """The authenticator that the gate asks in place of the application's own."""

    accompanies: Final = False

    def __init__(
        self,
        own: Authenticator,
        environment: Environment,
        clock: Clock,
        waits: Waits,
        origins: Origins | None = None,
    ) -> None:
        self._origins = origins
        missing = [each for each in _SAID if not hasattr(own, each)]
        if missing:
            raise Misuse(f"{type(own).__name__}: an authenticator says its {', '.join(missing)}; nothing is assumed")
        self.name: str = checked_name(own.name)
        if self.name in PERSONAL:
            raise Misuse("an authenticator is not named as a kind of ours: allow.secret_key() would not mean it")
        self.slot: str = own.slot
        if _HEADER.fullmatch(own.slot) is None or own.slot in _TAKEN:
            raise Misuse(f"{self.name}: slot is the lower-case name of one header that the gate does not use itself")
        if own.slot == "cookie" and not own.ambient:
            raise Misuse(f"{self.name}: ambient says whether browsers send it by themselves, as they do cookies")
        self.ambient: bool = own.ambient
        self.kinds: Kinds = frozenset({self.name})
        self.challenge: bytes = str(getattr(own, "challenge", f'Key header="{self.slot}"')).encode("latin-1")
        self._own = own
        self._peers = None if own.peers is None else Networks(checked_networks(own.peers))
        self._environment = environment
        self._clock = clock
        self._waits = waits
        self._socket = Clients()

    def recognises(self, presented: bytes, /) -> bool:
        """Whether the application's own authenticator takes this value."""
        try:
            return bool(self._own.recognises(presented))
        except Exception:  # noqa: BLE001 - it is foreign code, and nobody is let in by what it did not say
            raise Unavailable(Reason.CALLBACK_FAILED) from None

    def check(self, request: Request) -> None:
        """Refuse the header from where it may not come from, whoever it names."""
        if self._peers is not None:
            peer = self._socket.address(request)
            if peer is None or peer not in self._peers:
                raise Forbidden(Reason.NETWORK_NOT_ALLOWED)
        if self.ambient and request.method not in SAFE_METHODS:
            if self._origins is not None:
                origin, site = request.header("origin"), request.header("sec-fetch-site")
                self._origins.judge(
                    None if origin is None else origin.encode("latin-1"),
                    None if site is None else site.encode("latin-1"),
                    websocket=request.method == "WEBSOCKET",
                )
            elif _of_another_origin(request):
                raise CrossOrigin

    async def authenticate(self, presented: bytes, request: Request, /) -> Principal:
        """The caller whom the application's own authenticator names."""
        self.check(request)

        def asked() -> Awaitable[Identified | Rejected] | Identified | Rejected:
            try:
                answer = self._own.authenticate(presented, request)
            except Rejected as error:
                return error
            except Misuse:
                raise Unavailable(Reason.CALLBACK_FAILED) from None
            if isinstance(answer, Identified):
                return answer
            if isinstance(answer, Awaitable):
                return _awaited(answer)
            raise Unavailable(Reason.CALLBACK_FAILED)

        found: Identified | Rejected = await settle(asked, self._waits)
        if isinstance(found, Rejected):
            raise found
        now = self._clock.seconds()
        expires_at = now + LIFE if found.expires_at is None else min(found.expires_at, now + LIFE)
        if expires_at <= now:
            raise Unauthenticated(Reason.EXPIRED)
        return verified(
            MemberPrincipal,
            org=found.org,
            environment=self._environment,
            scopes=frozenset(found.scopes),
            expires_at=expires_at,
            actor=f"member:credential:{self.name} {found.subject}",
            issuer=f"credential:{self.name}",
            subject=found.subject,
            roles=frozenset(found.roles),
            factors=MappingProxyType(dict(found.factors)),
        )

    async def recheck(self, principal: Principal, /) -> None:
        """Return until the caller's time is over: nobody else can be asked."""
        if principal.expires_at is None or self._clock.seconds() >= principal.expires_at:
            raise Unauthenticated(Reason.EXPIRED)


async def _awaited(answer: Awaitable[object]) -> Identified | Rejected:
    try:
        found = await answer
    except Rejected as error:
        return error
    except Misuse:
        raise Unavailable(Reason.CALLBACK_FAILED) from None
    if not isinstance(found, Identified):
        raise Unavailable(Reason.CALLBACK_FAILED)
    return found


def _of_another_origin(request: Request) -> bool:
    """Whether a page of another origin sent it, as its browser says (Fetch Metadata, or else `Origin` and `Host`).

    It is for instances that name no `origins` of their own.
    """
    site = request.header("sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = request.header("origin")
    return origin is not None and origin.partition("://")[2] != request.header("host")
