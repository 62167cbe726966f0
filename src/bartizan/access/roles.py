"""Roles: names for bundles of scopes, in code for everybody, and in a table for one organization.

What a member's roles grant is worked out once for each version of the organization's roles: the version is the epoch,
and a change is seen everywhere within the staleness bound.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bartizan.core.cache import Cache
from bartizan.core.encoding import canonical
from bartizan.core.events import AuditEvent, Journal, current_actor, entered
from bartizan.core.ports import Clock, Waits
from bartizan.core.principal import Environment, MemberPrincipal, checked_org, current_unit, verified
from bartizan.core.requirement import checked_scopes
from bartizan.core.scopes import lacking
from bartizan.core.tables import AnyStep, Backend, Insert, Is, Table, Update
from bartizan.errors import Conflict, MissingScope, Misuse, NotFound, Reason, Unavailable

MOST_ROLES = 100  # of one organization
MOST_SCOPES = 200  # of one role
MOST_KEPT = 10_000
TRIES = 100

Defined = dict[str, list[str]]  # names and sorted scopes, as they rest

_VIEWER = ("dashboard:read", "experiences:read", "consumers:read")
_EDITOR = (*_VIEWER, "experiences:write", "consumers:write", "settings:read")
_ADMIN = (*_EDITOR, "experiences:delete", "settings:write", "team:manage", "billing:manage")
# Fanfare's matrix of dashboard users (public documentation, "Team members").
ROLES: Mapping[str, Collection[str]] = {
    "owner": (*_ADMIN, "organization:delete"),
    "admin": _ADMIN,
    "editor": _EDITOR,
    "viewer": _VIEWER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RolesRow:
    """The roles that one organization has defined; `roles` is a JSON object of name and scopes."""

    id: str
    org: str
    environment: str
    version: int
    roles: str


ORG_ROLES = Table(name="bartizan_roles", record=RolesRow, key="id", indexes=(("org",),))


class Role(NamedTuple):
    """A role as its organization sees it; `builtin` for those of the program, which no organization changes."""

    name: str
    scopes: frozenset[str]
    builtin: bool


class Granted(NamedTuple):
    """What a set of roles comes to: the roles that it satisfies, and the scopes."""

    roles: frozenset[str]
    scopes: frozenset[str]


class RoleSet:
    """The roles of one organization at one version, and what every set of them that was asked for comes to."""

    __slots__ = ("_granted", "_satisfied", "scopes", "version")

    def __init__(self, scopes: Mapping[str, frozenset[str]], version: int = 0) -> None:
        self.scopes: Mapping[str, frozenset[str]] = scopes
        self.version: int = version
        self._granted: dict[frozenset[str], Granted] = {}
        self._satisfied: dict[str, frozenset[str]] = {}

    def granted(self, roles: frozenset[str]) -> Granted:
        """What these roles come to. One that is not defined is none; several never add up to a further role."""
        found = self._granted.get(roles)
        if found is None:
            known = [role for role in roles if role in self.scopes]
            found = Granted(
                frozenset().union(*map(self._of, known)), frozenset().union(*(self.scopes[role] for role in known))
            )
            if len(self._granted) >= MOST_KEPT:
                self._granted.clear()
            self._granted[roles] = found
        return found

    def _of(self, role: str) -> frozenset[str]:
        """The roles whose scopes this one includes, itself among them."""
        found = self._satisfied.get(role)
        if found is None:
            own = self.scopes[role]
            found = frozenset([name for name, scopes in self.scopes.items() if not lacking(scopes, own)])
            self._satisfied[role] = found
        return found


def checked_roles(roles: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """Roles as they are used; `Misuse` for one that grants nothing, or whose name is a scope's."""
    return {_name(name): _scopes(scopes) for name, scopes in roles.items()}


def _name(name: object) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= 100 or not name.isascii() or not name.isprintable():
        raise Misuse("a role's name is 1 to 100 printable ASCII characters")
    if {" ", ":", "*", '"', "\\"} & set(name):
        raise Misuse("a role's name has no space, colon, star, quote or backslash: a word with a colon is a scope")
    return name


def _scopes(scopes: Collection[str]) -> frozenset[str]:
    found = checked_scopes(scopes)
    if not 1 <= len(found) <= MOST_SCOPES:
        raise Misuse(f"a role has 1 to {MOST_SCOPES} scopes")
    return found


class Roles:
    """The roles of all organizations: those of the program, and those that each has defined.

    Every method takes `org=`: while a principal is current, another organization's is `NotFound`; and nobody defines a
    role with a scope that they lack.
    """

    def __init__(
        self,
        *,
        builtin: RoleSet,
        backend: Backend | None,
        waits: Waits,
        environment: Environment,
        clock: Clock,
        cache: Cache[RoleSet],
        journal: Journal,
    ) -> None:
        self._builtin = builtin
        self._backend = backend
        self._waits = waits
        self._environment = environment
        self._clock = clock
        self._cache = cache
        self._journal = journal
        self._latest: dict[str, RoleSet] = {}

    async def define(self, name: str, *, org: str, scopes: Collection[str]) -> Role:
        """The role as it is from now on; `Conflict` for a name of the program's own roles."""
        self._enter(org)
        role = Role(_name(name), _scopes(scopes), builtin=False)
        caller = next(iter(current_unit.get().callers), None)
        if caller is not None and lacking(role.scopes, caller.scopes):
            raise MissingScope
        if name in self._builtin.scopes:
            raise Conflict

        def put(roles: Defined) -> None:
            roles[role.name] = sorted(role.scopes)
            if len(roles) > MOST_ROLES:
                raise Conflict

        await self._waits.finish(self._change(org, put, "role.defined", role.name, scopes=sorted(role.scopes)))
        return role

    async def remove(self, name: str, *, org: str) -> None:
        """The organization has this role no longer; whoever had it loses what it granted."""
        self._enter(org)

        def put(roles: Defined) -> None:
            if roles.pop(name, None) is None:
                raise NotFound(Reason.NO_RECORD)

        await self._waits.finish(self._change(org, put, "role.removed", name))

    async def list(self, *, org: str) -> Sequence[Role]:
        """The roles of this organization by name, the program's own among them."""
        self._enter(org)
        held = await self._of(org)
        return [Role(name, scopes, name in self._builtin.scopes) for name, scopes in sorted(held.scopes.items())]

    def known(self, org: str, roles: frozenset[str]) -> Granted | None:
        """What these roles come to, where the organization's are fresh in memory."""
        held = self._builtin if self._backend is None else self._cache.get(org)
        return None if held is None else held.granted(roles)

    async def granted(self, org: str, roles: frozenset[str]) -> Granted:
        """What these roles come to in this organization."""
        return self.known(org, roles) or (await self._of(org)).granted(roles)

    async def given(self, member: MemberPrincipal) -> MemberPrincipal:
        """The member with the scopes of their roles, and with every role that these include."""
        granted = self.known(member.org, member.roles) or await self.granted(member.org, member.roles)
        return verified(
            MemberPrincipal,
            org=member.org,
            environment=member.environment,
            scopes=granted.scopes,
            expires_at=member.expires_at,
            actor=member.actor,
            issuer=member.issuer,
            subject=member.subject,
            roles=granted.roles,
            factors=member.factors,
        )

    async def _of(self, org: str) -> RoleSet:
        if self._backend is None:
            return self._builtin
        mark = self._cache.begin()
        row = await self._backend.get(ORG_ROLES, self._key(org))
        held = self._latest.get(org)
        if row is None:
            held = self._builtin
        elif held is None or held.version != row.version:
            defined = {name: frozenset(scopes) for name, scopes in json.loads(row.roles).items()}
            held = RoleSet({**defined, **self._builtin.scopes}, row.version)
            if len(self._latest) >= MOST_KEPT:
                self._latest.clear()
            self._latest[org] = held
        self._cache.put(org, held, mark)
        return held

    async def _change(
        self, org: str, put: Callable[[Defined], None], event: str, name: str, **data: Sequence[str]
    ) -> None:
        if self._backend is None:
            raise Misuse("roles of an organization need url=")
        told = AuditEvent(
            name=event,
            org=org,
            actor=current_actor(),
            target=f"role:{name}",
            data={name: [*items] for name, items in data.items()},
        )
        for _ in range(TRIES):
            row = await self._backend.get(ORG_ROLES, self._key(org))
            roles: Defined = {} if row is None else json.loads(row.roles)
            put(roles)
            text = canonical(roles)
            step: Insert[RolesRow] | Update[RolesRow]
            if row is None:
                step = Insert(
                    ORG_ROLES,
                    RolesRow(id=self._key(org), org=org, environment=self._environment, version=1, roles=text),
                )
            else:
                changed = (("version", row.version + 1), ("roles", text))
                step = Update(ORG_ROLES, row.id, where=(Is("version", "=", row.version),), set=changed)
            also: tuple[AnyStep, ...] = self._journal.within(told)
            try:
                if await self._backend.change(step, also=also) is not None:
                    return
            finally:
                self._cache.drop(org)
        raise Unavailable(Reason.STORE_BUSY)

    def _enter(self, org: str) -> None:
        entered(org, self._journal)
        checked_org(org)

    def _key(self, org: str) -> str:
        return f"{self._environment} {org}"
