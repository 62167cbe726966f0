"""The root secrets on which a store's records stand: the ring must have them, and of two the younger is known.

Only what rests in the store counts (peppers and data keys). A root of the passing class is in no table, so that to drop
it never stops a start: it is the emergency brake.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bartizan.core.ports import Clock, Waits
from bartizan.core.principal import Environment
from bartizan.core.ring import Purpose, SecretRing
from bartizan.core.tables import AnyStep, Backend, Delete, Insert, Is, Table, Update
from bartizan.errors import Misuse, Reason, Unavailable

R = TypeVar("R")

PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RootRow:
    """A root in use, written in the change that first used it; `since` is when, in UTC seconds, and later for each."""

    id: str
    root: str
    purpose: str
    environment: str
    since: int


ROOTS = Table(name="bartizan_roots", record=RootRow, key="id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependants:
    """Records that stand on a root: their `table`, whose `column` names it, and which has `environment` and `made_at`.

    A table that is younger than the table of roots has no `made_at`: none of its records is older than what that tells.
    `living` are the conditions under which a record still needs its root; `name` is what `secret_use` calls them.
    """

    name: str
    purpose: Purpose
    table: Table[Any]
    column: str
    made_at: str | None
    living: tuple[Is, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretUse:
    """How many records still need a root secret, by their kind; none where it may leave."""

    secret_id: str
    records: Mapping[str, int] = field(default_factory=dict)


class Roots:
    """The table of the roots in use, compared with the ring at the first use of the store."""

    def __init__(
        self,
        *,
        backend: Backend,
        waits: Waits,
        ring: SecretRing,
        environment: Environment,
        clock: Clock,
        dependants: Sequence[Dependants],
    ) -> None:
        self._backend = backend
        self._waits = waits
        self._ring = ring
        self._environment = environment
        self._clock = clock
        self._dependants = tuple(dependants)
        self._since: dict[tuple[str, str, str], int] = {}  # by purpose, environment and root
        self._checked = False

    async def ready(self) -> None:
        """Return if the ring has every root that a record of this environment needs; else `Misuse`, which names it."""
        missing = await self._missing()
        if missing:
            raise Misuse(
                f"secrets lacks the root {', '.join(missing)}, on which records of this store stand: "
                "keep it there, behind the newer ones, until secret_use() counts none"
            )

    async def serving(self) -> None:
        """As `ready`, but `Unavailable`: for requests, whose senders are not those who can mend it."""
        if await self._missing():
            raise Unavailable(Reason.SECRET_MISSING)

    async def change(
        self,
        purpose: Purpose,
        environment: str,
        step: Insert[R] | Update[R] | Delete[R],
        /,
        *,
        also: Sequence[AnyStep] = (),
    ) -> R | None:
        """`Backend.change` of records under the newest root, which is written down with the first of them.

        None also where somebody else wrote it down meanwhile: whoever repeats the change then finds it there.
        """
        first = self._first(purpose, environment)
        changed = await self._backend.change(step, also=(*also, *first))
        if first and changed is not None:
            self._keep([each.row for each in first])
        elif first:
            await self._load()
        return changed

    async def renews(self, purpose: Purpose, environment: str, root: str) -> bool:
        """Whether a record under `root` goes over to the newest: only if that is younger in this store, never back.

        Two processes whose rings have the same roots in different orders would else undo each other's work for ever.
        """
        if (purpose, environment, root) not in self._since:
            await self._load()
        old = self._since.get((purpose, environment, root))
        new = self._since.get((purpose, environment, self._ring.newest))
        return old is not None and (new is None or (new, self._ring.newest) > (old, root))

    async def use(self) -> Sequence[SecretUse]:
        """What still needs each root: those of the ring, newest first, and then those that it lacks."""
        counts: dict[str, dict[str, int]] = {root: {} for root in self._ring}
        for kind in self._dependants:
            after = ""
            while rows := await self._backend.find(kind.table, kind.living, after=after, limit=PAGE):
                for row in rows:
                    of_root = counts.setdefault(getattr(row, kind.column), {})
                    of_root[kind.name] = of_root.get(kind.name, 0) + 1
                after = getattr(rows[-1], kind.table.key)
        return [SecretUse(secret_id=root, records=records) for root, records in counts.items()]

    async def _missing(self) -> Sequence[str]:
        return () if self._checked else await self._waits.shared("roots", self._check)

    async def _check(self) -> Sequence[str]:
        await self._load()
        missing = set()
        for kind in self._dependants:
            if kind.made_at is not None and not any(purpose == kind.purpose for purpose, _, _ in self._since):
                await self._count_in(kind, kind.made_at)
            for purpose, environment, root in [*self._since]:
                if purpose != kind.purpose or environment != self._environment or root in self._ring:
                    continue
                there = (Is(kind.column, "=", root), Is("environment", "=", environment), *kind.living)
                if await self._backend.find(kind.table, there, limit=1):
                    missing.add(root)
        self._checked = not missing
        return sorted(missing)

    async def _load(self) -> None:
        self._keep(await self._backend.find(ROOTS, (), limit=PAGE))

    def _keep(self, rows: Sequence[RootRow]) -> None:
        self._since |= {(row.purpose, row.environment, row.root): row.since for row in rows}

    def _first(self, purpose: Purpose, environment: str) -> tuple[Insert[RootRow], ...]:
        root = self._ring.newest
        if (purpose, environment, root) in self._since:
            return ()
        # Later than every other, whatever the clocks of two processes say: it is an order first, and then a time.
        others = [since for (what, where, _), since in self._since.items() if (what, where) == (purpose, environment)]
        since = max([self._clock.seconds(), *[other + 1 for other in others]])
        return (Insert(ROOTS, _row(purpose, environment, root, since)),)

    async def _count_in(self, kind: Dependants, column: str) -> None:
        """Write down the roots of records that were there before this table was."""
        first: dict[tuple[str, str], int] = {}
        after = ""
        while rows := await self._backend.find(kind.table, (), after=after, limit=PAGE):
            for row in rows:
                where = (row.environment, getattr(row, kind.column))
                made_at = getattr(row, column)
                first[where] = min(first.get(where, made_at), made_at)
            after = getattr(rows[-1], kind.table.key)
        steps = [Insert(ROOTS, _row(kind.purpose, *where, since)) for where, since in first.items()]
        if steps:
            await self._backend.change(steps[0], also=steps[1:])
            await self._load()


def _row(purpose: Purpose, environment: str, root: str, since: int) -> RootRow:
    return RootRow(
        id=f"{purpose.value} {environment} {root}",
        root=root,
        purpose=purpose.value,
        environment=environment,
        since=since,
    )
