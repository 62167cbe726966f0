"""What ends sessions, and lists those that live: the half of `Sessions` that signs nobody in."""

from collections.abc import Callable, Coroutine, Sequence
from re import compile as pattern
from typing import Any, TypeVar

from bartizan.core.cookies import Cookie
from bartizan.core.events import Journal, entered
from bartizan.core.ports import Waits
from bartizan.core.principal import Environment, JobPrincipal, checked_org, current_unit
from bartizan.errors import Forbidden, Reason
from bartizan.sessions.changes import Changes, told
from bartizan.sessions.families import Session, org_key, shown, subject_key
from bartizan.sessions.pairs import cleared_cookies
from bartizan.sessions.state import State, checked_subject

T = TypeVar("T")

_SESSION_ID = pattern(r"[0-9a-f]{32}")


class Ends:
    """The sessions of all organizations' consumers, to be looked at and ended."""

    def __init__(
        self,
        *,
        state: State,
        changes: Changes,
        waits: Waits,
        environment: Environment,
        journal: Journal,
        wake: Callable[[], None],
    ) -> None:
        self._state = state
        self._changes = changes
        self._waits = waits
        self._environment = environment
        self._journal = journal
        self._wake = wake

    async def list(self, *, org: str, subject: str) -> Sequence[Session]:
        """The subject's sessions that live and are stored, the one used last first."""
        self._enter(org, subject)
        rows = await self._changes.in_use(org, subject)
        return [shown(row) for row in reversed(rows)]

    @staticmethod
    def cleared_cookies() -> tuple[Cookie, ...]:
        """What takes our cookies from a browser that signs out: `response.set_cookie(**cookie.args())` for each."""
        return cleared_cookies()

    async def revoke(self, session_id: str, *, org: str) -> None:
        """End a session now. It stands when this returns; again is no change."""
        entered(org, self._journal)
        checked_org(org)
        given: object = session_id
        if not isinstance(given, str) or not _SESSION_ID.fullmatch(given):
            return  # it comes out of paths and bodies, and no session has it
        self._wake()
        await self._finish(self._changes.revoke(session_id, org))

    async def end(self, session_id: str, org: str) -> None:
        """As `revoke`, of a session that another one took the place of, or that a code began which two have."""
        self._wake()
        await self._finish(self._changes.revoke(session_id, org, Reason.SESSION_UPGRADED))

    async def revoke_subject(self, *, org: str, subject: str, except_session: str | None = None) -> int:
        """End all sessions of a subject, guests' and what is not stored included; how many stored ones that were.

        `except_session` goes on if it is one of them and lives: the one in which the password was changed.
        """
        self._enter(org, subject)
        spare = except_session if _SESSION_ID.fullmatch(except_session or "") else None
        before, spared = await self._finish(self._changes.pass_subject(org, subject, spare=spare))
        rows = await self._changes.living(org, subject)
        ended = [row for row in rows if row.subject_epoch == before.epoch or row.id == before.spared]
        return sum(row.id != spared for row in ended)

    async def revoke_org(self, org: str) -> int:
        """End all sessions of an organization, what is not stored included; how many stored ones that were.

        Those whose subject's were all ended before are still counted, until they expire.
        """
        self._enter(org)
        event = told("organization.revoked", org, org)
        before = await self._finish(self._changes.pass_epoch(org_key(self._environment, org), event))
        rows = await self._changes.living(org)
        return sum(before is not None and row.org_epoch == before.epoch for row in rows)

    async def unsafe_revoke_everyone(self) -> int:
        """End all sessions of all organizations, what is not stored included; how many stored ones that were.

        It is counted as by `revoke_org`.
        """
        held = current_unit.get().callers
        if held and not (isinstance(held[0], JobPrincipal) and held[0].org is None):
            raise Forbidden(Reason.WRONG_ORGANIZATION)
        event = told("everyone.revoked", None, None)
        try:
            before = await self._finish(self._changes.pass_epoch(self._state.everyone, event))
        finally:
            self._state.clear()
        rows = await self._changes.living(None)
        return sum(before is not None and row.everyone_epoch == before.epoch for row in rows)

    async def disable_subject(self, *, org: str, subject: str) -> None:
        """End all sessions of a subject, and let none begin until it is enabled."""
        self._enter(org, subject)
        await self._set(subject_key(self._environment, org, subject), "subject.disabled", org, subject, disabled=True)

    async def enable_subject(self, *, org: str, subject: str) -> None:
        """Let sessions of a disabled subject begin again; those that were ended stay so."""
        self._enter(org, subject)
        await self._set(subject_key(self._environment, org, subject), "subject.enabled", org, subject, disabled=False)

    async def disable_org(self, org: str) -> None:
        """End all sessions of an organization, and let none begin until it is enabled."""
        self._enter(org)
        await self._set(org_key(self._environment, org), "organization.disabled", org, org, disabled=True)

    async def enable_org(self, org: str) -> None:
        """Let sessions of a disabled organization begin again; those that were ended stay so."""
        self._enter(org)
        await self._set(org_key(self._environment, org), "organization.enabled", org, org, disabled=False)

    async def _set(self, key: str, name: str, org: str, target: str, *, disabled: bool) -> None:
        event = told(name, org, target)
        await self._finish(self._changes.pass_epoch(key, event, disabled=disabled))

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """What goes on to its end, whoever hangs up: a reaction that can be cancelled is none."""
        return await self._waits.finish(work)

    def _enter(self, org: str, subject: str | None = None) -> None:
        entered(org, self._journal)
        checked_org(org)
        if subject is not None:
            checked_subject(subject)
