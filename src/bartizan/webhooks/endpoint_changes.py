"""What reads and changes the row of an endpoint: each change with its event, again where others were first."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from bartizan.core.box import Box
from bartizan.core.events import AuditEvent, Journal, current_actor
from bartizan.core.ports import Clock
from bartizan.core.principal import Environment
from bartizan.core.ring import SecretRing
from bartizan.core.roots import Roots
from bartizan.core.tables import AnyStep, Backend, Delete, Insert, Is, Update
from bartizan.errors import NotFound, Reason, Unavailable
from bartizan.webhooks.delivery import Outcome, Patience
from bartizan.webhooks.endpoint_rows import (
    SEALED,
    WEBHOOK_ENDPOINTS,
    Contents,
    EndpointRow,
    faring,
    health,
    opened,
    sealed,
)

TRIES = 100  # a change that lost against others this often in a row is a store that does not work
PAGE = 100


class EndpointChanges:
    """The rows of `WebhookEndpoints`, which runs their changes to the end though its caller hangs up."""

    def __init__(
        self,
        *,
        backend: Backend,
        box: Box,
        ring: SecretRing,
        roots: Roots,
        environment: Environment,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._backend = backend
        self._box = box
        self._ring = ring
        self._used_roots = roots
        self._environment = environment
        self._clock = clock
        self._journal = journal

    async def own(self, endpoint_id: str, org: str, *, serving: bool = False) -> EndpointRow:
        """The organization's row; `NotFound` for any other. `serving`: who asks can mend no ring."""
        await (self._used_roots.serving() if serving else self._used_roots.ready())
        row = await self._backend.get(WEBHOOK_ENDPOINTS, endpoint_id)
        if row is None or row.org != org or row.environment != self._environment:
            raise NotFound(Reason.NO_RECORD)
        return row

    async def page(self, org: str, after: str, limit: int) -> Sequence[EndpointRow]:
        """The organization's rows behind `after`."""
        await self._used_roots.ready()
        where = (Is("org", "=", org), Is("environment", "=", self._environment))
        return await self._backend.find(WEBHOOK_ENDPOINTS, where, after=after, limit=limit)

    def opened(self, row: EndpointRow) -> Contents:
        """What is in the row's box; `NotFound`, and an event, where it was made for another row or URL."""
        try:
            return opened(self._box, row)
        except Unavailable as error:
            if error.reason is not Reason.SEAL_BROKEN:
                raise
            event = self.event("webhook_endpoint.row_edited", row)
            event.outcome, event.reason = "refused", error.reason
            self._journal.note(event)
        raise NotFound(Reason.SEAL_BROKEN)

    def sealed(self, row: EndpointRow, contents: Contents) -> EndpointRow:
        """The row with a new box of these contents."""
        return sealed(self._box, self._ring.newest, row, contents)

    async def create(self, row: EndpointRow, *, host: str) -> None:
        """A new row; `host` is for its event."""
        await self._used_roots.ready()
        events = self._journal.within(self.event("webhook_endpoint.created", row, host=host))
        for _ in range(2):  # the second where somebody else was the first to use this root
            step = Insert(WEBHOOK_ENDPOINTS, row)
            if await self._used_roots.change(SEALED.purpose, row.environment, step, also=events) is not None:
                return
        raise Unavailable  # an id of 95 random bits that is there already: chance has failed

    async def edit(
        self,
        endpoint_id: str,
        org: str,
        event: str,
        changed: Callable[[EndpointRow], EndpointRow | None],
        data: Mapping[str, Any],
    ) -> EndpointRow:
        """The row as `changed` makes it, which gives None where it is so already."""
        for _ in range(TRIES):
            row = await self.own(endpoint_id, org)
            new = changed(row)
            if new is None:
                return row
            if await self._put(row, new, *self._journal.within(self.event(event, row, **data))):
                return new
        raise Unavailable(Reason.STORE_BUSY)

    async def delete(self, endpoint_id: str, org: str) -> None:
        """The row is no more."""
        for _ in range(TRIES):
            row = await self.own(endpoint_id, org)
            step = Delete(WEBHOOK_ENDPOINTS, row.id, where=(Is("version", "=", row.version),))
            events = self._journal.within(self.event("webhook_endpoint.deleted", row))
            if await self._backend.change(step, also=events) is not None:
                return
        raise Unavailable(Reason.STORE_BUSY)

    async def judge(self, tried: EndpointRow, outcome: Outcome, patience: Patience) -> bool:
        """Write down how the endpoint is doing after an attempt; whether it is off now.

        The attempt is a fact, and no failure of the store takes it back: then only its count is lost.
        """
        with suppress(Unavailable):
            for _ in range(TRIES):
                row = await self._backend.get(WEBHOOK_ENDPOINTS, tried.id)
                if row is None or row.disabled_at is not None:
                    return True
                if row.url != tried.url:
                    return False  # it has moved meanwhile: what the old place said does not count
                before = health(row)
                after = patience.after(before, outcome, now=self._clock.seconds())
                events: Sequence[AnyStep] = ()
                if after.disabled_at is not None:
                    told = self.event("webhook_endpoint.disabled", row, why=after.why, failures=after.failures)
                    events = self._journal.within(told)
                if after == before or await self._put(row, faring(row, after), *events):
                    return after.disabled_at is not None
        return False

    async def renew(self) -> None:
        """Seal again what is under an older root, so that the root may leave."""
        for root in self._ring:
            if root == self._ring.newest or not await self._used_roots.renews(SEALED.purpose, self._environment, root):
                continue
            where, after = (Is("environment", "=", self._environment), Is("root", "=", root)), ""
            while rows := await self._backend.find(WEBHOOK_ENDPOINTS, where, after=after, limit=PAGE):
                for row in rows:
                    with suppress(NotFound):
                        await self._put(row, self.sealed(row, self.opened(row)))
                after = rows[-1].id

    async def _put(self, row: EndpointRow, new: EndpointRow, *also: AnyStep) -> bool:
        """Put `new` in the place of `row`, unless somebody else was first."""
        new = replace(new, version=row.version + 1)
        names = [name for name in WEBHOOK_ENDPOINTS.columns if getattr(row, name) != getattr(new, name)]
        step = Update(
            WEBHOOK_ENDPOINTS,
            row.id,
            where=(Is("version", "=", row.version),),
            set=tuple([(name, getattr(new, name)) for name in names]),
        )
        if new.sealed != row.sealed:
            return await self._used_roots.change(SEALED.purpose, row.environment, step, also=also) is not None
        return await self._backend.change(step, also=also) is not None

    @staticmethod
    def event(name: str, row: EndpointRow, /, **data: Any) -> AuditEvent:
        """What is told of a row, by whoever acts now."""
        return AuditEvent(name=name, org=row.org, actor=current_actor(), target=row.id, data=data)
