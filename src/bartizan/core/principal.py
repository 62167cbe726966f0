"""Who is calling: the principals, and the proof that somebody checked.

A principal exists only because a verifier made it: every other way to come by one (construction, `copy`, `pickle`,
`dataclasses.replace`, a request body through pydantic) raises.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Protocol, TypeVar, overload

from bartizan.core.scopes import covers
from bartizan.errors import Misuse, Reason, Unauthenticated, WrongCredential

if TYPE_CHECKING:  # what an event of a webhook loads is counted
    from bartizan.core.encoding import Json

Environment = Literal["live", "test"]
ENVIRONMENTS: tuple[Environment, ...] = ("live", "test")

_MADE_ELSEWHERE = "principals are made by their verifier only: take the caller from current_principal()"


class Verified:
    """A value whose existence is the proof that it was verified; `verified` is the only maker."""

    __slots__ = ()

    def __init__(self, _: "Verified", /) -> None:  # the annotation makes FastAPI refuse the class as a dependency
        raise Misuse(_MADE_ELSEWHERE)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise Misuse("verified values do not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise Misuse("verified values do not change")

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse(_MADE_ELSEWHERE)

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> NoReturn:
        # FastAPI asks for this when a route is declared with a principal as a parameter: a request would fill it.
        raise Misuse(f"a {cls.__name__} never comes from a request: take it from current_principal()")


class Caller(Verified):
    """What all principals have: organization, environment, scopes, the end of their life, and a name for the log."""

    __slots__ = ("actor", "environment", "expires_at", "org", "scopes")

    kind: ClassVar[str]

    org: str | None
    environment: Environment
    scopes: frozenset[str]
    expires_at: int | None
    actor: str

    def may(self, scope: str) -> bool:
        """Whether this scope was granted, by itself or by a wildcard in the place of a whole segment."""
        return scope in self.scopes or covers(self.scopes, scope)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.actor} of {self.org}>"


class SecretPrincipal(Caller):
    """An organization's server, by its secret API key."""

    __slots__ = ("key_id",)
    kind: ClassVar[Literal["secret"]] = "secret"
    org: str
    key_id: str


class PublishablePrincipal(Caller):
    """An organization's web page or app, by its publishable API key."""

    __slots__ = ("key_id",)
    kind: ClassVar[Literal["publishable"]] = "publishable"
    org: str
    key_id: str


class ConsumerPrincipal(Caller):
    """An organization's customer, by an access token of ours; `guest` for one who has not signed in.

    `factors` says how they proved who they are, each with when (UTC seconds).
    """

    __slots__ = ("_said", "factors", "guest", "session_id", "subject")
    kind: ClassVar[Literal["consumer"]] = "consumer"
    org: str
    expires_at: int
    subject: str
    session_id: str
    guest: bool
    factors: Mapping[str, int]
    _said: Any  # what else the token said, for its verifier


class MemberPrincipal(Caller):
    """A person of an organization, by a token of an outside issuer: `issuer` and `subject` together say who."""

    __slots__ = ("factors", "issuer", "roles", "subject")
    kind: ClassVar[Literal["member"]] = "member"
    org: str
    expires_at: int
    issuer: str
    subject: str
    roles: frozenset[str]
    factors: Mapping[str, int]


class JobPrincipal(Caller):
    """Work that no request asked for, named by the program that runs it; without `org` it may name any organization.

    `origin` is the actor for whom it works, where its authority was carried here by `carry` and `resume`; else None.
    """

    __slots__ = ("_source", "name", "origin")
    kind: ClassVar[Literal["job"]] = "job"
    name: str
    origin: str | None
    _source: SecretPrincipal | PublishablePrincipal | None  # whose end is this one's end too; for `recheck`


Principal = SecretPrincipal | PublishablePrincipal | ConsumerPrincipal | MemberPrincipal | JobPrincipal
P = TypeVar("P", bound=Principal)
V = TypeVar("V", bound=Verified)

PERSONAL: tuple[str, ...] = (
    "job",
    "consumer",
    "member",
    "secret",
    "publishable",
)  # of several credentials, who is the caller: the first of these


def verified(kind: type[V], /, **fields: Any) -> V:
    """A verified value with exactly these fields. For verifiers: a test lists the modules that call it."""
    made = object.__new__(kind)
    put = object.__setattr__
    for name, value in fields.items():
        put(made, name, value)
    return made


NOBODY: tuple[Principal, ...] = ()


class Noted(Protocol):
    """What a unit of work asks of the instance that it runs in."""

    environment: Environment
    writes: frozenset[str]  # what publishable keys may do besides reading

    def note(
        self,
        name: str,
        *,
        org: str | None,
        actor: str,
        target: str | None = None,
        data: "Mapping[str, Json] | None" = None,
    ) -> None:
        """An event of the instance's."""

    def seconds(self) -> int:
        """The instance's clock."""


class Presence:
    """Who is served by the code that runs now: `callers` are most personal first, () is nobody.

    `method` is the request's, also for a job that it began; None where no gate ran.
    """

    __slots__ = ("callers", "method")

    def __init__(self, callers: tuple[Principal, ...] = NOBODY, method: str | None = None) -> None:
        self.callers: tuple[Principal, ...] = callers
        self.method: str | None = method


class Unit(Presence):
    """A unit of work, of an instance that let it in: a request or a job, until it is `over`."""

    __slots__ = ("home", "over")

    def __init__(self, callers: tuple[Principal, ...], method: str | None, home: Noted) -> None:
        self.callers: tuple[Principal, ...] = callers
        self.method: str | None = method
        self.home: Noted = home
        self.over: bool = False

    @property
    def label(self) -> str:
        """The rule that let it in, or the job's name."""
        return ""


NOWHERE = Presence()  # no gate ran, and no job
current_unit: ContextVar[Presence] = ContextVar("bartizan_unit", default=NOWHERE)


def checked_org(org: object) -> str:
    """An organization's id: 1 to 128 printable characters."""
    if not isinstance(org, str) or not 1 <= len(org) <= 128 or not org.isprintable():
        raise Misuse("org is an organization's id: 1 to 128 printable characters")
    return org


@overload
def current_principal() -> Principal: ...
@overload
def current_principal(kind: type[P], /) -> P: ...
@overload
def current_principal(kind: type[P], /, *, optional: Literal[True]) -> P | None: ...
def current_principal(kind: type[Any] = Caller, /, *, optional: bool = False) -> Any:
    """The verified caller of the request that is being served; with `kind`, of that kind.

    With several credentials it is the most personal one. Raises `Unauthenticated` for nobody and `WrongCredential` for
    another kind (with `optional=True` both are None), and `Misuse` where no gate and no job ran.
    """
    unit = current_unit.get()
    if unit is NOWHERE:
        raise Misuse("no gate ran for this code: put the gate before the application, or use security.job(...)")
    for caller in unit.callers:
        if isinstance(caller, kind):
            return caller
    if optional:
        return None
    if unit.callers:
        raise WrongCredential(Reason.WRONG_KIND)
    raise Unauthenticated(Reason.NO_CREDENTIAL)
