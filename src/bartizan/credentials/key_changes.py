"""What changes the row of a key: each change with its event, whole or not at all, and again where others were first."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

from bartizan.core.cache import Cache
from bartizan.core.events import AuditEvent, Journal, current_actor
from bartizan.core.ports import Clock
from bartizan.core.ring import SecretRing
from bartizan.core.roots import Roots
from bartizan.core.tables import AnyStep, Backend, Insert, Is, Update
from bartizan.credentials.key_format import KeyFormat
from bartizan.credentials.key_rows import (
    KEYS,
    PEPPERED,
    Entry,
    IssuedKey,
    KeyRecord,
    KeyRow,
    believed,
    intact,
    minted,
    record,
    sealed,
    status,
    unbelieved,
)
from bartizan.credentials.key_text import ParsedKey
from bartizan.errors import Conflict, NotFound, Reason, Unavailable

TRIES = 100  # a change that lost against others this often in a row is a store that does not work


class KeyChanges:
    """The changes of `Keys`, which runs them to their end though its caller hangs up."""

    def __init__(
        self,
        *,
        backend: Backend,
        ring: SecretRing,
        form: KeyFormat,
        clock: Clock,
        cache: Cache[Entry],
        journal: Journal,
        roots: Roots,
    ) -> None:
        self._backend = backend
        self._ring = ring
        self._form = form
        self._clock = clock
        self._cache = cache
        self._journal = journal
        self._used_roots = roots

    async def create(self, row: KeyRow) -> None:
        """A new row."""
        await self._used_roots.ready()
        events = self._journal.within(self.event("key.created", row))
        for _ in range(2):  # the second where somebody else was the first to use this root
            step = Insert(KEYS, row)
            if await self._used_roots.change(PEPPERED.purpose, row.environment, step, also=events) is not None:
                return
        raise Unavailable  # an id of 95 random bits that is there already: chance has failed

    async def rotate(self, key_id: str, org: str, overlap: int) -> IssuedKey:
        """A successor, and the end of the old key."""
        await self._used_roots.ready()
        for _ in range(TRIES):
            now = self._clock.seconds()
            found = await self._backend.get(KEYS, key_id)
            row = self.whole(found, org)
            if status(row, now) != "active":
                raise Conflict
            issued, new = self._form.succeed(row, now=now)
            retires = now + overlap if row.expires_at is None else min(now + overlap, row.expires_at)
            old = sealed(self._ring, row, successor=new.id, retires_at=retires)
            event = self.event("key.rotated", row, successor=new.id, retires_at=retires)
            if await self._changed(row, old, Insert(KEYS, new), *self._journal.within(event), rooted=True):
                return issued
        raise Unavailable(Reason.STORE_BUSY)

    async def enable(self, key_id: str, org: str) -> KeyRecord:
        """A disabled key works again."""
        await self._used_roots.ready()
        for _ in range(TRIES):
            now = self._clock.seconds()
            found = await self._backend.get(KEYS, key_id)
            row = self.whole(found, org)
            if row.disabled_at is None and status(row, now) in {"active", "rotating"}:
                return record(row, now)
            if status(row, now) != "inactive":
                raise Conflict
            new = sealed(self._ring, row, disabled_at=None)
            if await self._changed(row, new, *self._journal.within(self.event("key.enabled", row))):
                return record(new, now)
        raise Unavailable(Reason.STORE_BUSY)

    async def stop(
        self, key_id: str, org: str | None, event: str, column: str, reason: Reason | None = None
    ) -> KeyRecord:
        """A time in `column`: the key has stopped. Without `org`, whosever it is."""
        await self._used_roots.ready()
        for _ in range(TRIES):
            now = self._clock.seconds()
            row = await self._backend.get(KEYS, key_id)
            if row is None or org not in (row.org, None):
                raise NotFound(Reason.NO_RECORD)
            if row.revoked_at is not None or getattr(row, column) is not None:
                return self._of_any(row, now)
            # An edited row is stopped like any other, but never made whole: its broken MAC stays.
            new = sealed(self._ring, row, **{column: now}) if intact(self._ring, row) else None
            told = self.event(event, row)
            told.reason = reason
            events = self._journal.within(told)
            if new is not None:
                if await self._changed(row, new, *events):
                    return record(new, now)
            else:
                step = Update(
                    KEYS, key_id, where=(Is(column, "=", None), Is("org", "=", row.org)), set=((column, now),)
                )
                changed = await self._backend.change(step, also=events)
                self._cache.drop(key_id)
                if changed is not None:
                    return self._of_any(changed, now)
        raise Unavailable(Reason.STORE_BUSY)

    async def renew(self, row: KeyRow, parsed: ParsedKey) -> None:
        """Make the row's MACs anew under the newest root, if that is the younger: the only write of a verification."""
        with suppress(Unavailable):  # verified is verified: another use does it
            if await self._used_roots.renews(PEPPERED.purpose, row.environment, row.pepper):
                new = minted(self._ring, replace(row, version=row.version + 1), parsed)
                events = self._journal.within(self.event("key.resealed", row, root=new.pepper))
                await self._changed(row, new, *events, rooted=True)

    async def _changed(self, row: KeyRow, new: KeyRow, *also: AnyStep, rooted: bool = False) -> bool:
        """Put `new` in the place of `row`, unless somebody else was first; `rooted`: it uses the newest root."""
        names = [name for name in KEYS.columns if getattr(row, name) != getattr(new, name)]
        step = Update(
            KEYS,
            row.id,
            where=(Is("version", "=", row.version), Is("row_mac", "=", row.row_mac)),
            set=tuple([(name, getattr(new, name)) for name in names]),
        )
        try:
            if rooted:
                return await self._used_roots.change(PEPPERED.purpose, row.environment, step, also=also) is not None
            return await self._backend.change(step, also=also) is not None
        finally:
            self._cache.drop(row.id)

    def whole(self, row: KeyRow | None, org: str) -> KeyRow:
        """The organization's row, if it is as we wrote it; else `NotFound`."""
        if row is None or row.org != org:
            raise NotFound(Reason.NO_RECORD)
        whole = believed(self._ring, row)
        if whole is None:
            raise NotFound(Reason.KEY_ROW_EDITED)
        return whole

    def _of_any(self, row: KeyRow, now: int) -> KeyRecord:
        return record(believed(self._ring, row) or unbelieved(self._ring, row), now)

    def event(self, name: str, row: KeyRow, **data: Any) -> AuditEvent:
        """What is told of a row, by whoever acts now."""
        return AuditEvent(
            name=name,
            org=row.org,
            actor=current_actor(),
            target=self._form.text.named(row.kind, row.environment, row.id),
            data=data,
        )
