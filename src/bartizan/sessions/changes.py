"""What ends sessions, one or many at once: each change with its event, whole or not at all."""

from collections.abc import Sequence

from bartizan.core.encoding import Json
from bartizan.core.events import AuditEvent, Journal, current_actor
from bartizan.core.principal import ConsumerPrincipal, Environment, current_unit
from bartizan.core.tables import AnyStep, Backend, Expect, Insert, Is, Now, Update
from bartizan.errors import NotFound, Reason, Unavailable
from bartizan.sessions.families import (
    EPOCHS,
    FAMILIES,
    UNTOUCHED,
    EpochRow,
    FamilyRow,
    began,
    over,
    passed,
    subject_key,
)
from bartizan.sessions.refresh import ending
from bartizan.sessions.state import State, Three

TRIES = 100  # a change that lost against others this often in a row is a store that does not work
PAGE = 500


class Changes:
    """The changes of `Sessions`, which runs them to their end though its caller hangs up."""

    def __init__(
        self,
        *,
        backend: Backend,
        state: State,
        environment: Environment,
        journal: Journal,
        keep: int,
    ) -> None:
        self._backend = backend
        self._state = state
        self._environment = environment
        self._journal = journal
        self._keep = keep

    async def in_use(self, org: str, subject: str) -> Sequence[FamilyRow]:
        """The stored sessions of a subject that live, the one that was used longest ago first."""
        epochs = await self._state.epochs(org, subject)
        rows = await self.living(org, subject)
        lives = [row for row in rows if passed(row.id, *epochs, began(row)) is None]
        return sorted(lives, key=lambda row: (max(row.created_at, row.rotated_at), row.created_at, row.id))

    async def revoke(self, session: str, org: str, reason: Reason | None = None) -> None:
        """End one session. One that is not stored may be a guest's: then it is written down as ended."""
        for _ in range(TRIES):
            row = await self._backend.get(FAMILIES, session)
            if row is not None and (row.environment != self._environment or (row.org != org and not _own(session))):
                raise NotFound(Reason.NO_RECORD)
            if row is not None and row.revoked_at is not None:
                return
            if row is None and _another(session):
                return  # or consumers could fill the store with ids that they make up
            whose = org if row is None else row.org
            event = AuditEvent(name="session.revoked", org=whose, actor=current_actor(), target=session)
            step = (
                self.tombstone(session, org) if row is None else ending(session, (Is("revoked_at", "=", None),), reason)
            )
            try:
                if await self._backend.change(step, also=self._journal.within(event)) is not None:
                    return
            finally:
                self._state.drop(session)
        raise Unavailable(Reason.STORE_BUSY)

    def tombstone(self, session: str, org: str) -> Insert[FamilyRow]:
        """The row of a session that was never stored and has ended. It stays as long as its tokens could live."""
        row = FamilyRow(
            id=session, environment=self._environment, org=org, subject="", guest=1, granted="[null,[],{}]",
            generation=0, salt=b"", previous_salt=b"", rotated_at=0, confirmed=0, late=0, binding=None,
            subject_epoch=0, org_epoch=0, everyone_epoch=0, created_at=0, idle_ends=0, absolute_ends=0,
            revoked_at=0, revoked_for=None, device=None,
        )  # fmt: skip
        times = [(name, Now()) for name in ("created_at", "revoked_at")]
        return Insert(FAMILIES, row, set=(*times, ("idle_ends", Now(self._keep)), ("absolute_ends", Now(self._keep))))

    async def pass_subject(self, org: str, subject: str, *, spare: str | None) -> tuple[EpochRow, str | None]:
        """All sessions of a subject in an organization are over, but `spare` if it is one of them and lives.

        Gives the epoch as it was, and which session was spared.
        """
        key = subject_key(self._environment, org, subject)
        event = AuditEvent(name="subject.revoked", org=org, actor=current_actor(), target=subject)
        for _ in range(TRIES):
            row, epochs = await self._state.together(spare or "-", org, subject)
            also: list[AnyStep] = []
            spared = None
            # By what was read together: a session that others ended meanwhile must not come back by being spared.
            if row is not None and self._lives(row, org, subject, epochs):
                spared = row.id
                also.append(Expect(FAMILIES, spared, (Is("revoked_at", "=", None),)))
            if await self._next(key, epochs[0], event, spared=spared, also=also):
                return epochs[0], spared
        raise Unavailable(Reason.STORE_BUSY)

    async def pass_epoch(self, key: str, event: AuditEvent, *, disabled: bool | None = None) -> EpochRow | None:
        """All sessions under an epoch are over, and with `disabled` none can begin either; the epoch as it was.

        `disabled=False` lets them begin again, and ends none. None where it was so already.
        """
        for _ in range(TRIES):
            seen = await self._backend.get(EPOCHS, key) or UNTOUCHED
            if disabled is not None and seen.disabled == int(disabled):
                return None
            if await self._next(key, seen, event, disabled=disabled):
                return seen
        raise Unavailable(Reason.STORE_BUSY)

    async def _next(
        self,
        key: str,
        seen: EpochRow,
        event: AuditEvent,
        *,
        disabled: bool | None = None,
        spared: str | None = None,
        also: Sequence[AnyStep] = (),
    ) -> bool:
        new = EpochRow(
            id=key,
            epoch=seen.epoch + (disabled is not False),
            disabled=seen.disabled if disabled is None else int(disabled),
            spared=seen.spared if disabled is False else spared,
            started=seen.started,
        )
        step: Insert[EpochRow] | Update[EpochRow] = Insert(EPOCHS, new)
        if seen is not UNTOUCHED:
            same = [Is(name, "=", getattr(seen, name)) for name in ("epoch", "disabled", "spared")]
            step = Update(EPOCHS, key, same, (("epoch", new.epoch), ("disabled", new.disabled), ("spared", new.spared)))
        try:
            return await self._backend.change(step, also=(*also, *self._journal.within(event))) is not None
        finally:
            self._state.drop(key)

    def _lives(self, row: FamilyRow, org: str, subject: str, epochs: Three) -> bool:
        own = (row.org, row.subject, row.environment) == (org, subject, self._environment)
        return own and over(row, self._state.now()) is None and passed(row.id, *epochs, began(row)) is None

    async def living(self, org: str | None, subject: str | None = None) -> Sequence[FamilyRow]:
        """The stored sessions of an organization, of one of its subjects, or of everyone, as far as their rows tell."""
        named = [Is(name, "=", value) for name, value in (("org", org), ("subject", subject)) if value is not None]
        return await self._all((
            *named, Is("environment", "=", self._environment), Is("revoked_at", "=", None),
            Is("idle_ends", ">", Now()), Is("absolute_ends", ">", Now()),
        ))  # fmt: skip

    async def _all(self, where: Sequence[Is]) -> Sequence[FamilyRow]:
        rows: list[FamilyRow] = []
        while len(page := await self._backend.find(FAMILIES, where, after=rows[-1].id if rows else "", limit=PAGE)):
            rows += page
            if len(page) < PAGE:
                break
        return rows


def _another(session: str) -> bool:
    """Whether a consumer is current, and this is not their session."""
    return not _own(session) and any(isinstance(caller, ConsumerPrincipal) for caller in current_unit.get().callers)


def _own(session: str) -> bool:
    """Whether the caller's own session is meant, whose token may be of another of their organizations."""
    held = current_unit.get().callers
    return any(isinstance(caller, ConsumerPrincipal) and caller.session_id == session for caller in held)


def told(name: str, org: str | None, target: str | None, **data: Json) -> AuditEvent:
    """What is told, by whoever acts now."""
    return AuditEvent(name=name, org=org, actor=current_actor(), target=target, data=data)
