"""API keys as a service: create, rotate, revoke, and say who presents one."""

from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from bartizan.core.cache import Cache
from bartizan.core.client import client_of
from bartizan.core.events import AuditEvent, Journal, current_actor, entered
from bartizan.core.ports import Clock, Waits
from bartizan.core.principal import Environment, checked_org
from bartizan.core.requirement import checked_scopes
from bartizan.core.ring import SecretRing
from bartizan.core.roots import Roots
from bartizan.core.scopes import beyond_publishable
from bartizan.core.tables import Backend, Is, Ref
from bartizan.credentials.key_changes import KeyChanges
from bartizan.credentials.key_format import KeyFormat, checked_environment
from bartizan.credentials.key_rows import (
    KEYS,
    Entry,
    IssuedKey,
    KeyPrincipal,
    KeyRecord,
    KeyRow,
    believed,
    record,
)
from bartizan.credentials.key_text import Kind
from bartizan.credentials.key_uses import KEY_USES, USED_EVERY, KeyUse, KeyUses
from bartizan.errors import InvalidKey, InvalidRequest, Misuse, NotFound, Reason

T = TypeVar("T")


class Keys:
    """The API keys of all organizations.

    Every method that touches a record takes `org=`: while a principal is current, another organization's is `NotFound`.
    Any method raises `Unavailable` where the store fails.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        waits: Waits,
        ring: SecretRing,
        form: KeyFormat,
        environment: Environment,
        clock: Clock,
        cache: Cache[Entry],
        journal: Journal,
        uses: KeyUses,
        roots: Roots,
        browser_leak: Literal["report", "revoke"] = "report",
        publishable_writes: frozenset[str] = frozenset(),
    ) -> None:
        if browser_leak not in ("report", "revoke"):
            raise Misuse('browser_leak is "report" or "revoke"')
        self._backend = backend
        self._waits = waits
        self._ring = ring
        self._form = form
        self._parse = form.text.parsed
        self.looks_like: Callable[[bytes], object] = form.text.looks_like
        self._own = frozenset({environment})
        self._environment = environment
        self._clock = clock
        self._cache = cache
        self._journal = journal
        self._uses = uses
        self._used_roots = roots
        self._changes = KeyChanges(
            backend=backend, ring=ring, form=form, clock=clock, cache=cache, journal=journal, roots=roots
        )
        self._browser_leak = browser_leak
        self._publishable_writes = publishable_writes

    # --- verification ---

    async def authenticate(
        self, key: str, *, environments: Collection[Environment] | None = None, address: str | None = None
    ) -> KeyPrincipal:
        """The caller whose key this is; `InvalidKey` for whatever is wrong with it, always the same to see.

        `environments` are those that are served here; by default the instance's own. `address` is the client's; a key
        with `networks` is `Forbidden` from any other, and without one.
        """
        served = self._own if environments is None else frozenset(map(checked_environment, environments))
        if not served:
            raise Misuse("environments is not empty")
        entry, principal = await self.verified(key.encode("ascii", "replace"))
        if principal.environment not in served:
            raise InvalidKey(Reason.WRONG_ENVIRONMENT)
        if entry.networks is not None:
            entry.located(None if address is None else client_of(address))
        self.used(entry)
        return principal

    async def verified(self, key: bytes) -> tuple[Entry, KeyPrincipal]:
        """The key's entry and caller, whatever its environment: for the gate, which decides what it serves."""
        parsed = self._parse(key)
        now = self._clock.nanoseconds()
        entry = self._cache.get(parsed.id, now)
        if entry is None:
            entry = await self._entry(parsed.id)
        seconds = now // 1_000_000_000
        try:
            principal = entry.verify(parsed, seconds)
        except InvalidKey as error:
            if error.reason not in {Reason.UNKNOWN_KEY, Reason.WRONG_SECRET}:
                error.about = self._form.text.named(parsed.kind, parsed.environment, parsed.id)
            raise
        entry.seen = seconds
        if entry.older is not None:
            row, entry.older = entry.older, None  # one caller tries it for this entry
            await self._finish(self._changes.renew(row, parsed))
        return entry, principal

    def used(self, entry: Entry) -> None:
        """The entry's key let somebody in; noted once a minute."""
        if entry.seen - entry.used >= USED_EVERY:
            entry.used = entry.seen
            self._uses.note(entry.principal, entry.seen)

    async def recheck(self, principal: KeyPrincipal) -> None:
        """Return while the key lives; raise `InvalidKey` once it was revoked, disabled, rotated out or has expired."""
        entry = self._cache.get(principal.key_id) or await self._entry(principal.key_id)
        entry.living(self._clock.seconds())

    async def _entry(self, key_id: str) -> Entry:
        mark = self._cache.begin()
        # A flight is joined only by those who began after the same drops: whoever asks after a revocation reads anew.
        entry, at = await self._waits.shared(f"{mark.drops} {key_id}", partial(self._load, key_id))
        if at < mark.at and mark.at - at >= self._cache.bound:  # begun too long ago for what others may have changed
            entry, _ = await self._load(key_id)
        return entry

    async def _load(self, key_id: str) -> tuple[Entry, int]:
        await self._used_roots.serving()
        mark = self._cache.begin()
        row = await self._backend.get(KEYS, key_id)
        entry = self._form.entry(row)
        if row is not None:
            self._cache.put(key_id, entry, mark)
        return entry, mark.at

    # --- leaks ---

    async def in_browser(self, principal: KeyPrincipal) -> None:
        """A secret key that was verified came from a web page: an event, and the key's end where that was asked for."""
        org, actor = principal.org, principal.actor
        reason = Reason.KEY_IN_BROWSER
        self._journal.note(
            AuditEvent(name="key.in_browser", org=org, actor=actor, target=actor, outcome="refused", reason=reason)
        )
        if self._browser_leak == "revoke":
            await self._finish(self._changes.stop(principal.key_id, org, "key.revoked", "revoked_at", reason))

    async def report_leak(self, text: str) -> KeyRecord | None:
        """The secret key whose whole text was found somewhere, revoked: its `org` is whom to tell. None for any other.

        An id without its secret, which anybody may know, changes nothing and is answered as an unknown one is; an event
        counts it. This is for whatever scans: no organization is asked for, and no current principal matters.
        """
        try:
            parsed = self._form.parse(text)
        except InvalidKey:
            return None
        await self._used_roots.serving()
        try:
            self._form.entry(await self._backend.get(KEYS, parsed.id)).proven(parsed)
        except InvalidKey as error:
            target, reason = self._form.text.named(parsed.kind, parsed.environment, parsed.id), error.reason
            actor = current_actor()
            self._journal.note(
                AuditEvent(
                    name="key.leak_unmatched", org=None, actor=actor, target=target, outcome="refused", reason=reason
                )
            )
            return None
        if parsed.kind != "secret":
            return None
        return await self._finish(self._changes.stop(parsed.id, None, "key.revoked", "revoked_at", Reason.KEY_LEAKED))

    # --- management ---

    async def create(
        self,
        *,
        org: str,
        kind: Kind,
        scopes: Collection[str] = (),
        name: str = "",
        environment: Environment | None = None,
        expires_at: int | None = None,
        origins: Collection[str] | None = None,
        networks: Collection[str] | None = None,
        native: bool = False,
    ) -> IssuedKey:
        """A new key; its text is shown this once. `expires_at` is UTC seconds; None is no restriction.

        `origins` restrict a publishable key to web pages, and with `native` to what is no browser too; `networks`
        restrict a key of either kind to addresses.
        """
        self._enter(org)
        if kind == "publishable" and beyond_publishable(checked_scopes(scopes), self._publishable_writes):
            raise Misuse("a publishable key reads (resource:read); what else it may do is in publishable_writes=")
        issued, row = self._form.issue(
            org=org,
            kind=kind,
            scopes=scopes,
            name=name,
            expires_at=expires_at,
            origins=origins,
            networks=networks,
            native=native,
            environment=environment,
            now=self._clock.seconds(),
        )
        await self._finish(self._changes.create(row))
        return issued

    async def get(self, key_id: str, *, org: str) -> KeyRecord:
        """One key of this organization."""
        self._enter(org, key_id)
        await self._used_roots.ready()
        key, last = Ref(KEYS, key_id), Ref(KEY_USES, key_id)
        row, use = await self._backend.read(key, last)
        return self._shown(self._changes.whole(row, org), use)

    async def list(self, *, org: str, after: str | None = None, limit: int = 100) -> Sequence[KeyRecord]:
        """The organization's keys in the order of their ids, from the one behind `after`.

        A row that was edited in the store is left out, and an event tells of it.
        """
        self._enter(org)
        if not 1 <= limit <= 1000:
            raise Misuse("limit is 1 to 1000")
        if after is not None and not _is_id(after):
            raise InvalidRequest
        await self._used_roots.ready()
        own = (Is("org", "=", org),)
        whole: list[KeyRow] = []
        start, seen = after or "", 0
        while wanted := limit - len(whole):  # a page is short only where there are no more
            rows = await self._backend.find(KEYS, own, after=start, limit=wanted)
            whole += [row for row in map(self._noticed, rows) if row is not None]
            seen += len(rows)
            if len(rows) < wanted:
                break
            start = rows[-1].id
        uses = await self._backend.find(KEY_USES, own, after=after or "", limit=max(seen, 1))
        used = {use.id: use for use in uses}
        return [self._shown(row, used.get(row.id)) for row in whole]

    async def rotate(self, key_id: str, *, org: str, overlap: int = 86_400) -> IssuedKey:
        """A successor, shown this once; the old key lives for `overlap` more seconds, 0 ends it now.

        Nothing lives longer by it: the successor expires when the old key would have. `Conflict` for a key that is
        not active.
        """
        self._enter(org, key_id)
        if isinstance(overlap, bool) or overlap < 0:
            raise Misuse("overlap is a number of seconds, 0 or more")
        return await self._finish(self._changes.rotate(key_id, org, overlap))

    async def revoke(self, key_id: str, *, org: str) -> KeyRecord:
        """End the key for good, now. It stands when this returns; again is no change."""
        return await self._set(key_id, org, "key.revoked", "revoked_at")

    async def disable(self, key_id: str, *, org: str) -> KeyRecord:
        """Stop the key until it is enabled. It stands when this returns; again is no change."""
        return await self._set(key_id, org, "key.disabled", "disabled_at")

    async def enable(self, key_id: str, *, org: str) -> KeyRecord:
        """Let a disabled key work again; `Conflict` for one that was revoked or has expired."""
        self._enter(org, key_id)
        return await self._finish(self._changes.enable(key_id, org))

    async def _set(self, key_id: str, org: str, event: str, column: str) -> KeyRecord:
        self._enter(org, key_id)
        return await self._finish(self._changes.stop(key_id, org, event, column))

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """A change that goes on to its end, its caches dropped, though its caller hangs up."""
        return await self._waits.finish(work)

    def _enter(self, org: str, key_id: str | None = None) -> None:
        entered(org, self._journal)  # first: whatever a caller says another organization is, it is not found
        checked_org(org)
        if key_id is not None and not _is_id(key_id):
            raise NotFound(Reason.NO_RECORD)

    def _noticed(self, row: KeyRow) -> KeyRow | None:
        whole = believed(self._ring, row)
        if whole is None:
            event = self._changes.event("key.row_edited", row)
            event.outcome, event.reason = "refused", Reason.KEY_ROW_EDITED
            self._journal.note(event)
        return whole

    def _shown(self, row: KeyRow, use: KeyUse | None) -> KeyRecord:
        return record(row, self._clock.seconds(), None if use is None else use.used_at)


def _is_id(text: object) -> bool:
    """Whether it could be a key's id: it comes out of paths and bodies, and a store takes no text but a clean one."""
    return isinstance(text, str) and len(text) == 16 and text.isascii() and text.isalnum()
