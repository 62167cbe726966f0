"""How families begin, rotate and are replaced: each time one change, which the epochs hold until the commit."""

from collections.abc import Callable
from dataclasses import replace

from bartizan.core.events import AuditEvent, Journal
from bartizan.core.ports import Clock, Entropy
from bartizan.core.principal import ConsumerPrincipal, Environment
from bartizan.core.tables import AnyStep, Backend, Expect, Insert, Is, Update
from bartizan.credentials.access_tokens import SessionPolicy
from bartizan.errors import Conflict, Forbidden, InvalidSession, Reason, SessionReused, Unavailable
from bartizan.sessions.changes import TRIES, Changes, told
from bartizan.sessions.families import (
    EPOCHS,
    SALT,
    UNTOUCHED,
    Bound,
    EpochRow,
    Epochs,
    FamilyRow,
    Guest,
    began,
    over,
    passed,
    subject_key,
    unpassed,
)
from bartizan.sessions.refresh import (
    ANSWERED,
    REASONS,
    UNUSED,
    Outcome,
    Presented,
    begun,
    decide_refresh,
    ending,
    kill,
    recovered,
    rotation,
    turns,
)
from bartizan.sessions.state import Kept, State, Three


class Rotation:
    """Where a presented token meets the store. What it finds is decided by `decide_refresh`."""

    def __init__(
        self,
        *,
        backend: Backend,
        state: State,
        changes: Changes,
        policy: SessionPolicy,
        environment: Environment,
        clock: Clock,
        journal: Journal,
        entropy: Entropy,
    ) -> None:
        self._backend = backend
        self._state = state
        self._changes = changes
        self._policy = policy
        self._environment = environment
        self._clock = clock
        self._journal = journal
        self._entropy = entropy

    # --- a beginning ---

    async def begin(
        self, org: str, subject: str, granted: str, *, guest: bool, to: Bound, id_: str | None = None
    ) -> FamilyRow:
        """A new family, stored unless it is a guest's; with `id_` the one of that id, if the subject has begun it."""
        for _ in range(TRIES):
            epochs = await self._state.epochs(org, subject)
            _check_enabled(epochs)
            row = self._new(org, subject, granted, epochs, guest=guest, to=to, id_=id_)
            if guest:
                self._journal.note(told("session.started", org, row.id, subject=subject, guest=True))
                return row
            done = await self._begun(row, epochs, told("session.started", org, row.id, subject=subject))
            if done is not None or (done := await self._there(row, id_)) is not None:
                return done
        raise Unavailable(Reason.STORE_BUSY)

    async def _there(self, new: FamilyRow, id_: str | None) -> FamilyRow | None:
        """The family of this id, which somebody has begun already: one that lives, and of the same subject."""
        found = None if id_ is None else await self._state.family(id_)
        if found is None or found.row is None:
            return None
        reason = over(found.row, self._state.now())
        if reason is not None or (found.row.org, found.row.subject) != (new.org, new.subject):
            raise InvalidSession(reason)
        self.bound(found.row, new.binding)
        return found.row

    async def replaced(  # noqa: PLR0917 - as it comes
        self, principal: ConsumerPrincipal, kept: Kept, subject: str, granted: str, to: Bound, id_: str | None = None
    ) -> FamilyRow:
        """A new family in the place of the caller's, which lives until then and ends in the same change."""
        old, org, other = principal.session_id, principal.org, subject != principal.subject
        if other and not principal.guest:
            raise Conflict
        try:
            for _ in range(TRIES):
                epochs = await self._state.epochs(org, subject)
                was = await self._state.epochs(org, principal.subject) if other else epochs
                _check_enabled(epochs)
                row = kept.row
                since = principal._said.epochs if row is None or row.org != org else began(row)  # noqa: SLF001
                if since is None or passed(old, *was, since) is not None:
                    raise InvalidSession(Reason.SESSION_REVOKED)
                steps: list[AnyStep] = [self._changes.tombstone(old, org)]
                if row is not None:
                    steps = [ending(old, (Is("revoked_at", "=", None),), Reason.SESSION_UPGRADED)]
                if other:  # its other epochs are the new one's too
                    key = subject_key(self._environment, org, principal.subject)
                    where = (Is("epoch", "<=", was[0].epoch), Is("disabled", "=", 0))
                    steps.append(Expect(EPOCHS, key, where, missing=True))
                new = self._new(org, subject, granted, epochs, guest=False, to=to, id_=id_)
                event = told("session.upgraded", org, new.id, subject=subject, replaces=old)
                done = await self._begun(new, epochs, event, *steps, instead=old)
                if done is not None or (done := await self._there(new, id_)) is not None:
                    return done
                self._state.drop(old)
                found = await self._state.family(old)
                if found is not None and found.row is not None:
                    kept = found
                    reason = over(found.row, self._state.now())
                    if reason is not None:
                        raise InvalidSession(reason)
            raise Unavailable(Reason.STORE_BUSY)
        finally:
            self._state.drop(old)

    async def epochs(self, org: str, subject: str) -> Epochs:
        """The epochs in which a token for another organization of the subject's begins."""
        epochs = await self._state.epochs(org, subject)
        _check_enabled(epochs)
        return epochs[0].epoch, epochs[1].epoch, epochs[2].epoch

    async def _begun(
        self, row: FamilyRow, epochs: Three, event: AuditEvent, *ended: AnyStep, instead: str = ""
    ) -> FamilyRow | None:
        holds: tuple[AnyStep, ...] = unpassed(row)
        if self._policy.per_subject is not None:
            others = [other for other in await self._changes.in_use(row.org, row.subject) if other.id != instead]
            too_many = others[: max(0, len(others) + 1 - self._policy.per_subject)]
            displaced = [
                ending(other.id, (Is("revoked_at", "=", None),), Reason.SESSION_DISPLACED) for other in too_many
            ]
            holds = (_counted(row, epochs[0]), *holds[1:], *displaced)
        mark = self._state.begin()
        step = begun(row, idle=self._policy.idle, absolute=self._policy.absolute)
        done = await self._backend.change(step, also=(*holds, *ended, *self._journal.within(event)))
        if done is not None:
            self._state.keep(done, mark)
            for gone in holds[3:]:
                self._state.drop(gone.key)
        return done

    def _new(
        self, org: str, subject: str, granted: str, epochs: Three, *, guest: bool, to: Bound, id_: str | None
    ) -> FamilyRow:
        now, policy = self._clock.seconds(), self._policy
        salt = self._entropy(SALT)
        return FamilyRow(
            id=id_ or self._entropy(16).hex(), environment=self._environment, org=org, subject=subject,
            guest=int(guest), granted=granted, generation=0, salt=salt, previous_salt=b"", rotated_at=0, confirmed=0,
            late=0, binding=to.binding, subject_epoch=epochs[0].epoch, org_epoch=epochs[1].epoch,
            everyone_epoch=epochs[2].epoch, created_at=now,
            idle_ends=now + (policy.guest_idle if guest else policy.idle),
            absolute_ends=now + (policy.guest_absolute if guest else policy.absolute),
            revoked_at=None, revoked_for=None, device=to.device,
        )  # fmt: skip

    # --- a refresh ---

    async def of(self, presented: Presented, guest: Guest | None) -> tuple[Kept, FamilyRow, bool]:
        """The family, what never changes of it, and whether it is stored; a guest's may not be there yet."""
        kept = self._state.kept(presented.family)
        if kept is None or kept.row is None or over(kept.row, self._state.now()) is not None:
            kept = await self._state.family(presented.family)
        if kept is not None and kept.row is not None:
            reason = over(kept.row, self._state.now())
            if reason is not None or kept.row.environment != self._environment:
                error = InvalidSession(reason)
                error.about = f"session:{kept.row.id}"
                error.superseded = kept.row.revoked_for == Reason.SESSION_UPGRADED.value
                raise error
            return kept, kept.row, True
        if guest is None:
            raise InvalidSession(Reason.SESSION_UNKNOWN)
        row = FamilyRow(
            id=presented.family, environment=self._environment, org=guest.org, subject=guest.subject, guest=1,
            granted=guest.granted, generation=presented.generation, salt=presented.salt, previous_salt=b"",
            rotated_at=0, confirmed=0, late=0, binding=guest.binding, subject_epoch=guest.began[0],
            org_epoch=guest.began[1], everyone_epoch=guest.began[2], created_at=guest.created_at,
            idle_ends=guest.absolute_ends, absolute_ends=guest.absolute_ends, revoked_at=None, revoked_for=None,
            device=guest.device,
        )  # fmt: skip
        return Kept(row), row, False

    async def looked(
        self, presented: Presented, guest: Guest | None, shown: Callable[[FamilyRow], str | None]
    ) -> tuple[Kept, FamilyRow, Epochs]:
        """The row whose newest generation would answer the token, as it is now; raises for every other outcome."""
        policy = self._policy
        kept, family, _ = await self.of(presented, guest)
        binding = shown(family)
        self.bound(family, binding)
        found, epochs = await self._state.together(family.id, family.org, family.subject)
        row = family if found is None and not family.generation and family.guest else found
        now = self._clock.seconds()
        outcome = decide_refresh(
            row, presented, epochs=epochs, binding=binding, environment=self._environment, now=now, grace=policy.grace,
            recovery=policy.recovery,
        )  # fmt: skip
        if row is None or outcome not in ANSWERED | {Outcome.REUSE}:
            raise self._refused(outcome, family, row, epochs)
        if outcome is Outcome.REUSE:
            await self._kill(row, presented, now)  # by the store's clock it may be none
        return kept, row, began(row)

    def bound(self, family: FamilyRow, binding: str | None) -> None:
        """Return where what was shown is what the family is bound to; for another device nothing is written."""
        if family.binding != binding:
            raise self._refused(Outcome.MISBOUND, family, family, None)

    async def refreshed(
        self, presented: Presented, kept: Kept, family: FamilyRow, binding: str | None, *, stored: bool
    ) -> FamilyRow:
        """The row whose newest generation answers the token; raises for every other outcome."""
        policy, environment = self._policy, self._environment
        self.bound(family, binding)
        spared = self._state.spared(kept, family)
        before: FamilyRow | None = None
        turn = 0
        for _ in range(TRIES):
            mark = self._state.begin()
            changed = await self._rotated(presented, kept, family, stored=stored, spared=spared)
            if changed is not None:
                self._state.keep(changed, mark, kept)
                return changed
            found, epochs = await self._state.together(family.id, family.org, family.subject)
            stored = found is not None
            row = family if found is None and not family.generation and family.guest else found
            now = self._clock.seconds()
            outcome = decide_refresh(
                row, presented, epochs=epochs, binding=binding, environment=environment, now=now, grace=policy.grace,
                recovery=policy.recovery,
            )  # fmt: skip
            if row is None or outcome not in ANSWERED | {Outcome.REUSE}:
                raise self._refused(outcome, family, row, epochs)
            turn = turn + 1 if row == before else 0
            before = row
            options = turns(outcome, row, presented, now)
            outcome = options[min(turn, len(options) - 1)]
            spared = epochs[0].epoch > row.subject_epoch
            if outcome is Outcome.LATE_RECOVERY and row.confirmed == UNUSED:
                event = told("session.recovered", row.org, row.id, subject=row.subject)
                step = recovered(row, now=now, recovery=policy.recovery)
                holds = unpassed(row, spared=spared)
                changed = await self._backend.change(step, also=[*holds, *self._journal.within(event)])
                if changed is not None:
                    return changed
            elif outcome is Outcome.REUSE:
                await self._kill(row, presented, now)
            elif outcome is not Outcome.ROTATED:
                return row
        raise Unavailable(Reason.STORE_BUSY)

    async def _rotated(
        self, presented: Presented, kept: Kept, family: FamilyRow, *, stored: bool, spared: bool
    ) -> FamilyRow | None:
        policy, salt = self._policy, self._entropy(SALT)
        holds: tuple[AnyStep, ...] = unpassed(family, spared=True) if spared else kept.expects
        idle = policy.guest_idle if family.guest else policy.idle
        if stored:
            step = rotation(
                presented, binding=family.binding, environment=self._environment, salt=salt, grace=policy.grace,
                idle=idle,
            )  # fmt: skip
            return await self._backend.change(step, also=holds)
        return await self._backend.change(_first(family, salt, idle), also=holds)

    async def _kill(self, row: FamilyRow, presented: Presented, now: int) -> None:
        """End the family, and tell it in the same change; return where it was not so any more."""
        policy = self._policy
        event = told("session.reused", row.org, row.id, subject=row.subject)
        event.outcome, event.reason = "refused", Reason.SESSION_REUSED
        event.actor = f"consumer:{row.subject}"
        step = kill(row, presented, now=now, grace=policy.grace, recovery=policy.recovery)
        try:
            if await self._backend.change(step, also=self._journal.within(event)) is not None:
                error = SessionReused()
                error.about = f"session:{row.id}"
                raise error
        finally:
            self._state.drop(row.id)

    def _refused(
        self, outcome: Outcome, family: FamilyRow, row: FamilyRow | None, epochs: Three | None
    ) -> InvalidSession:
        actor, reason = f"consumer:{family.subject}", REASONS[outcome]
        if outcome is Outcome.AHEAD:
            self._state.rolled_back(family.org, family.id, actor)
        elif outcome is Outcome.MISBOUND:
            self._journal.note(AuditEvent("session.misbound", family.org, actor, family.id, "refused", reason))
        elif outcome is Outcome.DEAD and row is not None and epochs is not None:
            reason = over(row, self._state.now()) or passed(row.id, *epochs, began(row)) or reason
        error = InvalidSession(reason)
        error.about = f"session:{family.id}"
        error.superseded = row is not None and row.revoked_for == Reason.SESSION_UPGRADED.value
        return error


def _first(family: FamilyRow, salt: bytes, idle: int) -> Insert[FamilyRow]:
    """A guest's row, written by its first refresh."""
    row = replace(family, generation=family.generation + 1, salt=salt, previous_salt=family.salt)
    return begun(row, idle=idle)


def _counted(row: FamilyRow, seen: EpochRow) -> AnyStep:
    """One session more, unless somebody else has begun one since: then both see the other's the next time."""
    key = subject_key(row.environment, row.org, row.subject)
    if seen is UNTOUCHED:
        return Insert(EPOCHS, EpochRow(id=key, epoch=0, disabled=0, spared=None, started=1))
    same = [Is(name, "=", getattr(seen, name)) for name in ("epoch", "disabled", "started")]
    return Update(EPOCHS, key, same, (("started", seen.started + 1),))


def _check_enabled(epochs: Three) -> None:
    if any(epoch.disabled for epoch in epochs):
        raise Forbidden(Reason.SUBJECT_DISABLED)
