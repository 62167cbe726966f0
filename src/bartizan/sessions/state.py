"""Whether a session lives: its row and its epochs, read together and kept as long as the staleness bound allows."""

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from bartizan.core.cache import Cache, Mark
from bartizan.core.drive import settle
from bartizan.core.events import AuditEvent, Journal
from bartizan.core.ports import Clock, Waits
from bartizan.core.principal import ConsumerPrincipal, Environment, checked_org
from bartizan.core.requirement import Kinds
from bartizan.core.tables import Backend, Expect, Ref
from bartizan.credentials.access_tokens import Said, SessionPolicy
from bartizan.credentials.tokens import LEEWAY
from bartizan.errors import Forbidden, InvalidSession, Misuse, Reason, Unavailable
from bartizan.sessions.families import (
    EPOCHS,
    FAMILIES,
    UNTOUCHED,
    EpochRow,
    FamilyRow,
    began,
    ends,
    everyone_key,
    org_key,
    over,
    passed,
    subject_key,
    unpassed,
)
from bartizan.sessions.refresh import USED, confirmation

SIZE = 30_000  # entries; a session has one, its subject and its organization another each


class Kept:
    """A family as it is kept: its row, and what is made of it once. Without a row, it is not stored: a guest's."""

    __slots__ = ("audience", "ends", "expects", "factors", "row", "scopes")

    def __init__(self, row: FamilyRow | None, before: "Kept | None" = None) -> None:
        self.row: FamilyRow | None = row
        self.ends: int = 0 if row is None or row.revoked_at is not None else ends(row) * 1_000_000_000
        if row is None:
            return
        if before is not None:  # what never changes
            self.audience: str | None = before.audience
            self.scopes: Kinds = before.scopes
            self.factors: Mapping[str, int] = before.factors
            self.expects: tuple[Expect[EpochRow], ...] = before.expects
            return
        audience, scopes, factors = json.loads(row.granted)
        self.audience = audience
        self.scopes = frozenset(scopes)
        self.factors = MappingProxyType(factors)
        self.expects = unpassed(row)


NOT_STORED = Kept(None)
CLEAR = (UNTOUCHED, UNTOUCHED)
Three = tuple[EpochRow, EpochRow, EpochRow]  # of a subject, of its organization, and everyone's
OfOrg = tuple[EpochRow, EpochRow]  # of an organization, and everyone's


class Found(NamedTuple):
    """What was found of a session: its row, and the epochs of the organization that its token names."""

    kept: Kept
    subject: EpochRow
    org: OfOrg
    at: int


class State:
    """Reads sessions through the one cache, in one round trip; both forms of the service share it.

    What it keeps is never older than the staleness bound, and gone at once where this process changed it.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        waits: Waits,
        cache: Cache[Any],
        policy: SessionPolicy,
        environment: Environment,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._backend = backend
        self._waits = waits
        self._cache = cache
        self._policy = policy
        self._environment = environment
        self._clock = clock
        self._journal = journal
        self.everyone: str = everyone_key(environment)

    # --- for refresh ---

    def kept(self, family: str) -> Kept | None:
        """The family, if it is kept and stored."""
        found: Kept | None = self._cache.get(family)
        return None if found is None or found.row is None else found

    async def family(self, family: str) -> Kept | None:
        """The family as the store has it now."""
        mark = self._cache.begin()
        row = await self._backend.get(FAMILIES, family)
        if row is None:
            return None
        return self.keep(row, mark)

    def keep(self, row: FamilyRow, mark: Mark, before: Kept | None = None) -> Kept:
        """Keep a row that was read or written since `mark`."""
        kept = Kept(row, before)
        self._cache.put(row.id, kept, mark)
        return kept

    def now(self) -> int:
        """UTC seconds."""
        return self._clock.seconds()

    def begin(self) -> Mark:
        """The mark of a read or a change that begins now."""
        return self._cache.begin()

    def drop(self, key: str) -> None:
        """Forget a family or an epoch, which was changed."""
        self._cache.drop(key)

    def clear(self) -> None:
        """Forget everything: everyone's epoch was changed."""
        self._cache.clear()

    def spared(self, kept: Kept, row: FamilyRow) -> bool:
        """Whether it is known that the subject's epoch has passed, and this family was spared."""
        subject: EpochRow | None = self._cache.get(kept.expects[0].key)
        return subject is not None and subject.epoch > row.subject_epoch and subject.spared == row.id

    async def together(
        self, family: str, org: str, subject: str
    ) -> tuple[FamilyRow | None, tuple[EpochRow, EpochRow, EpochRow]]:
        """A family and the epochs of these, as they are together in the store now."""
        row, of_subject, of_org, everyone = await self._backend.read(
            Ref(FAMILIES, family),
            Ref(EPOCHS, subject_key(self._environment, org, subject)),
            Ref(EPOCHS, org_key(self._environment, org)),
            Ref(EPOCHS, self.everyone),
        )
        return row, (of_subject or UNTOUCHED, of_org or UNTOUCHED, everyone or UNTOUCHED)

    async def epochs(self, org: str, subject: str) -> Three:
        """The epochs in which a session of this subject would begin now."""
        subject_row, org_row, everyone = await self._backend.read(
            Ref(EPOCHS, subject_key(self._environment, org, subject)),
            Ref(EPOCHS, org_key(self._environment, org)),
            Ref(EPOCHS, self.everyone),
        )
        return subject_row or UNTOUCHED, org_row or UNTOUCHED, everyone or UNTOUCHED

    async def member(self, subject: str, org: str) -> None:
        """Return where the application says that the subject may have tokens for the organization; it is asked now."""
        ask = self._policy.member_of
        if ask is None:
            return
        mark = self._cache.begin()
        answer = await settle(partial(ask, subject, org), self._waits)
        if answer is not True and answer is not False:
            raise Unavailable(Reason.CALLBACK_FAILED)
        self._cache.put(_member_key(org, subject), answer, mark)
        if not answer:
            raise Forbidden(Reason.NOT_A_MEMBER)

    # --- for access tokens ---

    def good(self, principal: ConsumerPrincipal) -> bool:
        """Whether all that is kept says that the session lives: then nothing has to be asked."""
        said: Said = principal._said  # noqa: SLF001 - made for us
        now = self._clock.nanoseconds()
        get = self._cache.get
        kept: Kept | None = get(principal.session_id, now)
        if kept is None or now >= kept.ends:
            return False
        row = kept.row
        if row is None or row.confirmed != USED or not row.generation - 1 <= said.generation <= row.generation:
            return False
        keys = said.keys or self._keys(principal, said)
        subject, org = get(keys[0], now), get(keys[1], now)
        if subject is None or org is None or row.org != principal.org or row.subject != principal.subject:
            return False
        if (subject is not UNTOUCHED or org is not CLEAR) and passed(
            row.id, subject, org[0], org[1], began(row)
        ) is not None:
            return False
        return self._policy.member_of is None or bool(row.guest) or get(keys[2], now) is True

    async def check(self, principal: ConsumerPrincipal, *, stream: bool = False, anew: bool = False) -> Kept:
        """Return while the session lives; else `InvalidSession`.

        A stream may outlive the token that opened it, so its generation does not matter. `anew`: from the store.
        """
        said: Said = principal._said  # noqa: SLF001 - made for us
        keys = said.keys or self._keys(principal, said)
        found = await self._found(principal, keys, anew=anew)
        row = found.kept.row
        newest = 0 if row is None else row.generation
        if newest < said.generation and not anew:
            # Another process has rotated since this was read.
            found = await self._found(principal, keys, anew=True)
            row = found.kept.row
            newest = 0 if row is None else row.generation
        if newest < said.generation:
            self.rolled_back(principal.org, principal.session_id, principal.actor)
            raise InvalidSession(Reason.STORE_ROLLED_BACK)
        reason = self._ended(principal, said, found)
        if reason is None and row is not None:
            if row.org != principal.org:
                reason = await self._ended_at_home(row)
            if reason is None and not stream and said.generation < newest - 1:
                reason = Reason.SESSION_FORKED
        if reason is not None:
            error = InvalidSession(reason)
            error.about = f"session:{principal.session_id}"
            raise error
        if not principal.guest and self._policy.member_of is not None:
            await self._still_member(principal, keys[2])
        if row is not None and row.confirmed != USED and not stream and said.generation == newest:
            return await self._confirmed(found.kept, row)
        return found.kept

    def rolled_back(self, org: str | None, session: str, actor: str) -> None:
        """Tell that the store has forgotten what it knew of a session."""
        reason = Reason.STORE_ROLLED_BACK
        self._journal.note(AuditEvent("store.rolled_back", org, actor, session, "refused", reason))

    def _keys(self, principal: ConsumerPrincipal, said: Said) -> tuple[str, ...]:
        environment, org, subject = principal.environment, principal.org, principal.subject
        said.keys = (subject_key(environment, org, subject), org_key(environment, org), _member_key(org, subject))
        return said.keys

    async def _found(self, principal: ConsumerPrincipal, keys: tuple[str, ...], *, anew: bool) -> Found:
        get, session = self._cache.get, principal.session_id
        kept, subject, org = get(session), get(keys[0]), get(keys[1])
        if not anew and kept is not None and subject is not None and org is not None:
            return Found(kept, subject, org, 0)
        work = partial(self._load, session, principal.org, principal.subject)
        if anew:
            return await work()
        mark = self._cache.begin()
        # A flight is joined only by those who began after the same drops: whoever asks after a revocation reads anew.
        found = await self._waits.shared(f"{mark.drops} {session} {keys[0]}", work)
        if found.at < mark.at and mark.at - found.at >= self._cache.bound:
            found = await work()
        return found

    async def _load(self, session: str, org: str, subject: str) -> Found:
        mark = self._cache.begin()
        row, (of_subject, of_org, everyone) = await self.together(session, org, subject)
        kept = NOT_STORED if row is None else Kept(row)
        both = CLEAR if of_org is UNTOUCHED and everyone is UNTOUCHED else (of_org, everyone)
        self._cache.put(session, kept, mark)
        self._cache.put(subject_key(self._environment, org, subject), of_subject, mark)
        self._cache.put(org_key(self._environment, org), both, mark)
        return Found(kept, of_subject, both, mark.at)

    def _ended(self, principal: ConsumerPrincipal, said: Said, found: Found) -> Reason | None:
        row, since = found.kept.row, said.epochs
        if row is None:
            if not principal.guest or since is None or said.generation:
                return Reason.SESSION_UNKNOWN
            if self._clock.seconds() >= principal.expires_at + LEEWAY:
                return Reason.SESSION_EXPIRED  # a stream of a guest whom nothing renews
        else:
            if row.environment != self._environment or row.subject != principal.subject:
                return Reason.SESSION_UNKNOWN
            reason = over(row, self._clock.seconds())
            if reason is not None:
                return reason
            if row.org == principal.org:
                since = began(row)
            elif since is None:
                return Reason.SESSION_UNKNOWN
        return passed(principal.session_id, found.subject, *found.org, since)

    async def _ended_at_home(self, row: FamilyRow) -> Reason | None:
        """Why the family has ended in its own organization, whose token this is not."""
        keys = subject_key(self._environment, row.org, row.subject), org_key(self._environment, row.org)
        subject, org = self._cache.get(keys[0]), self._cache.get(keys[1])
        if subject is None or org is None:
            found = await self._load(row.id, row.org, row.subject)
            subject, org = found.subject, found.org
        return passed(row.id, subject, org[0], org[1], began(row))

    async def still_member(self, principal: ConsumerPrincipal) -> None:
        """Return unless it is known, or the application says, that the subject has left the organization."""
        if not principal.guest and self._policy.member_of is not None:
            await self._still_member(principal, _member_key(principal.org, principal.subject))

    async def _still_member(self, principal: ConsumerPrincipal, key: str) -> None:
        known = self._cache.get(key)
        if known is None:
            try:
                await self.member(principal.subject, principal.org)
            except Forbidden:
                known = False
        if known is False:
            raise InvalidSession(Reason.NOT_A_MEMBER)

    async def _confirmed(self, kept: Kept, row: FamilyRow) -> Kept:
        """The newest generation was received: the one before is no longer answered late. One write a rotation."""
        with suppress(Unavailable):  # verified is verified: another use does it
            work = partial(self._confirm, kept, row)
            return await self._waits.shared(f"confirm {row.id} {row.generation}", work)
        return kept

    async def _confirm(self, kept: Kept, row: FamilyRow) -> Kept:
        mark = self._cache.begin()
        changed = await self._backend.change(confirmation(row))
        if changed is None:
            self._cache.drop(row.id)  # others were first: the next request reads what they made of it
            return kept
        return self.keep(changed, mark, kept)


def _member_key(org: str, subject: str) -> str:
    return f"m {len(org)} {org} {subject}"


def checked_subject(subject: object) -> str:
    """A subject's id."""
    try:
        return checked_org(subject)
    except Misuse:
        raise Misuse("subject is an id: 1 to 128 printable characters") from None
