"""`Guard`: what a function of the application asks for before it looks anything up."""

from typing import Any

from bartizan.core.context import NAMELESS, OrgAccess, living_unit
from bartizan.core.principal import (
    ConsumerPrincipal,
    JobPrincipal,
    Principal,
    Unit,
    checked_org,
    current_principal,
    current_unit,
    verified,
)
from bartizan.core.requirement import checked_scopes
from bartizan.core.scopes import beyond_publishable, exact, lacking
from bartizan.errors import MissingScope, Misuse, NotFound, Reason


class Guard:
    """All of these scopes, in the caller's own organization: `read_orders = Guard("orders:read")`.

    `require()` gives the proof that a repository asks for; with FastAPI, `Depends(guard)` gives the same. A consumer
    reaches what is their own only. What belongs to another organization, subject or environment is `NotFound`.
    """

    __slots__ = ("scopes",)

    def __init__(self, *scopes: str) -> None:
        if not scopes:
            raise Misuse('a guard names what it guards: Guard("orders:read")')
        self.scopes: frozenset[str] = exact(checked_scopes(scopes))

    def require(
        self, principal: Principal | None = None, *, org: str | None = None, subject: str | None = None
    ) -> OrgAccess:
        """The proof, or `NotFound` or `MissingScope`. Nothing has been looked up by then.

        `org` and `subject` are the caller's own by default; a member's or a key's is every subject of its organization.
        `principal` is one of the callers of this very request.
        """
        unit = living_unit()
        caller = _caller(principal)
        if caller.environment != unit.home.environment:
            raise NotFound(Reason.WRONG_ENVIRONMENT)
        own, reached = _org(caller, org, unit), _subject(caller, subject)
        missing = frozenset[str]() if self.scopes <= caller.scopes else lacking(self.scopes, caller.scopes)
        if caller.kind == "publishable":
            missing |= beyond_publishable(self.scopes, unit.home.writes)
        if missing:
            # RFC 6750 section 3.1: the words are the program's own.
            scope = " ".join(sorted(missing))
            raise MissingScope(headers=(("WWW-Authenticate", f'Bearer error="insufficient_scope", scope="{scope}"'),))
        return verified(OrgAccess, _org=own, _scopes=self.scopes, _subject=reached, _unit=unit)

    async def __call__(self) -> OrgAccess:
        """As `require()`: what `Depends(guard)` calls."""
        return self.require()

    def filter(self, org_column: Any, subject_column: Any = None) -> Any:
        """The condition of a query that finds what `require().confirm(...)` would let through, and nothing else.

        Columns are SQLAlchemy's, or anything with `==` and `&`. A consumer's list needs `subject_column`.
        """
        access = self.require()
        condition = org_column == access.org
        if access.subject is None:
            return condition
        if subject_column is None:
            raise Misuse("a consumer sees what is their own: give the filter the column of the subject")
        return condition & (subject_column == access.subject)

    def __repr__(self) -> str:
        return f"Guard({', '.join(map(repr, sorted(self.scopes)))})"


def _caller(principal: Principal | None) -> Principal:
    current = current_principal()
    if principal is None:
        return current
    if not any(principal is caller for caller in current_unit.get().callers):
        raise Misuse("a guard is asked for a caller of this very request or job, not for one from elsewhere")
    return principal


def _org(caller: Principal, org: str | None, unit: Unit) -> str:
    if caller.org is not None:
        if org is not None and org != caller.org:
            raise NotFound(Reason.WRONG_ORGANIZATION)
        return caller.org
    if org is None or not isinstance(caller, JobPrincipal):
        raise Misuse(NAMELESS)
    unit.home.note("organization.named", org=checked_org(org), actor=caller.actor)
    return org


def _subject(caller: Principal, subject: str | None) -> str | None:
    if not isinstance(caller, ConsumerPrincipal):
        return subject
    if subject is not None and subject != caller.subject:
        raise NotFound(Reason.WRONG_SUBJECT)
    return caller.subject
