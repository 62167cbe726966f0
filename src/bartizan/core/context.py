"""In which organization this code runs: the piece of work, its context, and the proof that a guard looked at it.

A unit of work is a request behind a gate, or a job. It is carried by a ContextVar; what it hands out (an `OrgContext`,
an `OrgAccess`) remembers it, and refuses once it is over, or where another one is current.
"""

from typing import NoReturn

from bartizan.core.encoding import joined
from bartizan.core.principal import Environment, Principal, Unit, Verified, current_principal, current_unit, verified
from bartizan.errors import Misuse, NotFound, Reason

NAMELESS = "a job without an organization has no data of one: name it, security.job(..., org=...)"


def living_unit() -> Unit:
    """The piece of work that runs now; `Misuse` where there is none, or where it has ended."""
    unit = current_unit.get()
    if not isinstance(unit, Unit):
        raise Misuse("no gate ran for this code: put the gate before the application, or use security.job(...)")
    if unit.over:
        raise Misuse("this piece of work is over: what goes on after it takes its authority along, by security.carry")
    return unit


class OrgContext(Verified):
    """The organization for which a unit of work runs, as a verified credential said."""

    __slots__ = ("actor", "environment", "org", "unit")

    org: str
    environment: Environment
    actor: str
    unit: Unit

    def same(self, other: "OrgContext") -> bool:
        """Whether both are of one organization in one environment."""
        return self.org == other.org and self.environment == other.environment

    def key(self, *parts: str) -> str:
        """A key for a cache, which no other organization or environment can have, whatever the parts are."""
        return joined(*[part.encode() for part in (self.environment, self.org, *parts)]).hex()

    def __repr__(self) -> str:
        return f"<OrgContext {self.org} {self.environment}>"


def current_context() -> OrgContext:
    """The context of the code that runs now. Raises for nobody, for no gate, and for a principal of elsewhere."""
    unit = living_unit()
    principal = current_principal()
    return verified(
        OrgContext, org=at_home(principal, unit), environment=principal.environment, actor=principal.actor, unit=unit
    )


def current_org() -> str:
    """The organization of `current_context()`, and as strict, for walls: asked for with every statement."""
    unit = living_unit()
    return at_home(current_principal(), unit)


def at_home(principal: Principal, unit: Unit) -> str:
    """The principal's organization; `NotFound` for one of another environment, though a gate let it in."""
    if principal.environment != unit.home.environment:
        raise NotFound(Reason.WRONG_ENVIRONMENT)
    org = principal.org
    if org is None:
        raise Misuse(NAMELESS)
    return org


class OrgAccess(Verified):
    """The proof that a guard was asked: `org`, `scopes`, and of whom (`subject`; None: of everybody in it).

    Only a `Guard` makes one. It is good for the unit of work in which it was made, and raises `Misuse` elsewhere.
    """

    __slots__ = ("_org", "_scopes", "_subject", "_unit")

    _org: str
    _scopes: frozenset[str]
    _subject: str | None
    _unit: Unit

    @property
    def org(self) -> str:
        """The organization whose data may be touched."""
        self._live()
        return self._org

    @property
    def scopes(self) -> frozenset[str]:
        """What the guard asked for."""
        self._live()
        return self._scopes

    @property
    def subject(self) -> str | None:
        """The only subject whose data may be touched; None for all of the organization's."""
        self._live()
        return self._subject

    def confirm(self, *, org: object, subject: object = None) -> None:
        """Return where a row of this organization and subject may be touched, else `NotFound`: the check of one row.

        `Guard.filter` is the same rule as a condition of a query. A row without a subject is no consumer's.
        """
        self._live()
        if type(org) is not str or org != self._org:
            raise NotFound(Reason.WRONG_ORGANIZATION)
        if self._subject is not None and (type(subject) is not str or subject != self._subject):
            raise NotFound(Reason.WRONG_SUBJECT)

    def _live(self) -> None:
        if self._unit.over or current_unit.get() is not self._unit:
            raise Misuse("an OrgAccess is good for the unit of work in which its guard was asked, and for no other")

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __bool__(self) -> NoReturn:
        raise Misuse("an OrgAccess is no answer of yes or no: a guard that says no raises")

    def __repr__(self) -> str:
        return "<OrgAccess>"
