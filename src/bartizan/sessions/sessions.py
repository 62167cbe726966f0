"""Consumers' sessions as a service: start, refresh, authenticate, upgrade, and end them."""

import json
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from re import compile as pattern
from types import MappingProxyType
from typing import Any, TypeVar

from bartizan.core.cache import Cache
from bartizan.core.cookies import Cookie
from bartizan.core.encoding import canonical
from bartizan.core.events import Journal, entered
from bartizan.core.ports import Clock, Entropy, Waits, fresh
from bartizan.core.principal import ConsumerPrincipal, Environment, JobPrincipal, checked_org, current_unit
from bartizan.core.requirement import checked_scopes
from bartizan.core.ring import Purpose, SecretRing
from bartizan.core.stamp import Stamp, Stamped
from bartizan.core.tables import Backend
from bartizan.credentials.access_tokens import LONGEST_SESSION, AccessTokens, SessionPolicy
from bartizan.credentials.jws import SigningKey
from bartizan.credentials.key_format import checked_seconds
from bartizan.errors import Forbidden, InvalidSession, InvalidToken, Misuse, Reason
from bartizan.sessions.changes import Changes
from bartizan.sessions.exchanges import Identity
from bartizan.sessions.families import SALT, Epochs, FamilyRow, Session, ends, org_key, shown, subject_key
from bartizan.sessions.pairs import TokenPair, cleared_cookies
from bartizan.sessions.refresh import Presented
from bartizan.sessions.rotation import Guest, Rotation
from bartizan.sessions.state import Kept, State, checked_subject

T = TypeVar("T")

GENERATION = 6  # bytes
BODY = GENERATION + SALT
LONGEST_GRANTED = 4000  # characters of audience, scopes and factors, as JSON
LONGEST_BODY = BODY + 8000
NO_FACTORS: Mapping[str, int] = MappingProxyType({})
_SESSION_ID = pattern(r"[0-9a-f]{32}")


class Sessions:
    """The sessions of all organizations' consumers.

    Every method that names a record takes `org=`: while a principal is current, another organization's is `NotFound`.
    Any method raises `Unavailable` where the store, or a function of the application's that has to be asked, fails.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        waits: Waits,
        ring: SecretRing,
        tokens: AccessTokens,
        policy: SessionPolicy,
        issuer: str,
        environment: Environment,
        clock: Clock,
        cache: Cache[Any],
        journal: Journal,
        wake: Callable[[], None],
        entropy: Entropy = fresh,
    ) -> None:
        self._waits = waits
        self._tokens = tokens
        self._policy = policy
        self._environment = environment
        self._clock = clock
        self._journal = journal
        self._wake = wake
        self._stamp = Stamp(
            ring,
            Purpose.REFRESH_MAC,
            environment,
            prefix="rt",
            longest=LONGEST_BODY,
            life=LONGEST_SESSION + 86_400,
            error=InvalidSession,
            issuer=issuer,
            entropy=entropy,
        )
        self._state = State(
            backend=backend, waits=waits, cache=cache, policy=policy, environment=environment, clock=clock,
            journal=journal,
        )  # fmt: skip
        self._changes = Changes(
            backend=backend, state=self._state, environment=environment, journal=journal, keep=policy.guest_absolute
        )
        self._rotation = Rotation(
            backend=backend, state=self._state, changes=self._changes, policy=policy, environment=environment,
            clock=clock, journal=journal, entropy=entropy,
        )  # fmt: skip

    # --- in and on ---

    async def start(
        self,
        *,
        org: str,
        subject: str,
        guest: bool = False,
        audience: str | None = None,
        scopes: Collection[str] = (),
        factors: Mapping[str, int] = NO_FACTORS,
        identity: Identity | None = None,
    ) -> TokenPair:
        """A new session of a guest, or of a subject who has just proved who they are, by `factors` (name: UTC seconds).

        With an `identity` that came by an exchange code it is the one session of that code, however often it is begun.

        `audience` is one of the instance's own, if the tokens are not for all of them. A guest's session is written
        down when it is refreshed first. Anonymous visitors make guests: limit how often.
        """
        entered(org, self._journal)
        checked_org(org)
        granted = self._granted(audience, scopes, factors)
        id_ = self._of_code(identity, org)
        return await self._finish(self._start(org, checked_subject(subject), granted, guest=bool(guest), id_=id_))

    async def refresh(self, refresh_token: str, *, org: str | None = None) -> TokenPair:
        """New tokens for a refresh token, which is used up by this; `InvalidSession` for whatever is wrong with it.

        Within the grace window, and where the answer was lost, the token before is answered with the same successor.
        `SessionReused`: it was used up long ago, so two parties have the session, and it has been ended.

        `org` is the organization that the new access token is for, if not the session's own: `Forbidden`, and nothing
        written, where `member_of` says no. Another tab may have another one.
        """
        if org is not None and self._policy.member_of is None:
            raise Misuse("refresh(org=…) needs SessionPolicy(member_of=…), which says whose organizations they are")
        stamped = self._stamp.read(refresh_token, now=self._clock.seconds())
        presented, guest = self._presented(stamped)
        return await self._finish(self._refresh(presented, guest, org))

    async def upgrade(
        self,
        principal: ConsumerPrincipal,
        *,
        subject: str,
        factors: Mapping[str, int] = NO_FACTORS,
        identity: Identity | None = None,
    ) -> TokenPair:
        """A new session in place of the caller's, who has proved more: a guest who signs in, or a further factor.

        The old session ends in the same change, so that whoever else has its tokens has nothing (ASVS 7.2.4). A guest
        becomes `subject`; for anybody else another subject than their own is a `Conflict`. `identity` is as for
        `start`.
        """
        entered(principal.org, self._journal)
        named = self._factors({**principal.factors, **factors})
        id_ = self._of_code(identity, principal.org)
        return await self._finish(self._upgrade(principal, checked_subject(subject), named, id_))

    async def look(self, refresh_token: str) -> ConsumerPrincipal:
        """Whom a refresh token would get an access token for, without using it up; raises as `refresh` would.

        What it finds of theft it reacts to, as `refresh` does.
        """
        stamped = self._stamp.read(refresh_token, now=self._clock.seconds())
        presented, guest = self._presented(stamped)
        return await self._finish(self._look(presented, guest))

    async def authenticate(self, access_token: str, *, audience: str | None = None) -> ConsumerPrincipal:
        """The consumer whose token it is, if the session lives; `InvalidToken` or `InvalidSession` if not.

        What others have ended is seen within the staleness bound, what this process has ended at once.
        """
        principal = await self._tokens.verify(access_token)
        if audience is not None and audience not in principal._said.audience:  # noqa: SLF001 - made for us
            raise InvalidToken(Reason.WRONG_AUDIENCE)
        if not self._state.good(principal):
            await self._state.check(principal)
        return principal

    async def recheck(self, principal: ConsumerPrincipal) -> None:
        """Return while the session lives, if not the token that opened a stream; else `InvalidSession`."""
        await self._state.check(principal, stream=True)

    async def list(self, *, org: str, subject: str) -> Sequence[Session]:
        """The subject's sessions that live and are stored, the one used last first."""
        self._enter(org, subject)
        rows = await self._rotation.living(org, subject)
        return [shown(row) for row in reversed(rows)]

    # --- out ---

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
        event = self._rotation.event("organization.revoked", org, org)
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
        event = self._rotation.event("everyone.revoked", None, None)
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

    # --- what they do ---

    async def _start(self, org: str, subject: str, granted: str, *, guest: bool, id_: str | None = None) -> TokenPair:
        await self._tokens.signing.signing()  # what cannot be signed is not begun
        self._wake()
        if not guest and self._policy.member_of is not None:
            await self._state.member(subject, org)
        row = await self._rotation.begin(org, subject, granted, guest=guest, id_=id_)
        return await self._pair(Kept(row), row, stored=not guest)

    async def _refresh(self, presented: Presented, guest: Guest | None, org: str | None) -> TokenPair:
        key = await self._tokens.signing.signing()
        self._wake()
        kept, family, stored = await self._rotation.of(presented, guest)
        target = family.org if org is None else org
        epochs: Epochs | None = None
        if not family.guest:
            if not 1 <= len(target) <= 128 or not target.isprintable():
                raise Forbidden(Reason.NOT_A_MEMBER)
            if self._policy.member_of is not None:
                await self._state.member(family.subject, target)
            if target != family.org:
                epochs = await self._rotation.epochs(target, family.subject)
        elif target != family.org:
            raise Forbidden(Reason.NOT_A_MEMBER)
        row = await self._rotation.refreshed(presented, kept, family, stored=stored)
        return await self._pair(kept, row, org=target, epochs=epochs, key=key)

    async def _look(self, presented: Presented, guest: Guest | None) -> ConsumerPrincipal:
        kept, row, epochs = await self._rotation.looked(presented, guest)
        principal = self._tokens.consumer(
            org=row.org, subject=row.subject, session=row.id, generation=row.generation, scopes=kept.scopes,
            guest=bool(row.guest), factors=kept.factors, audience=kept.audience, until=ends(row), epochs=epochs,
        )  # fmt: skip
        await self._state.still_member(principal)
        return principal

    async def _upgrade(
        self, principal: ConsumerPrincipal, subject: str, factors: Mapping[str, int], id_: str | None
    ) -> TokenPair:
        await self._tokens.signing.signing()
        self._wake()
        kept = await self._state.check(principal, anew=True)
        await self._state.member(subject, principal.org)
        audience = None if kept.row is None else kept.audience
        granted = self._granted(audience, principal.scopes, factors)
        row = await self._rotation.replaced(principal, kept, subject, granted, id_)
        return await self._pair(Kept(row), row)

    async def _pair(
        self,
        kept: Kept,
        row: FamilyRow,
        *,
        org: str | None = None,
        epochs: Epochs | None = None,
        stored: bool = True,
        key: SigningKey | None = None,
    ) -> TokenPair:
        now, until = self._clock.seconds(), ends(row)
        if until <= now:
            raise InvalidSession(Reason.SESSION_EXPIRED)
        body = row.generation.to_bytes(GENERATION) + row.salt
        if not stored:  # a guest's token says what its row will
            since = [row.subject_epoch, row.org_epoch, row.everyone_epoch]
            granted = json.loads(row.granted)
            body += canonical([row.org, row.subject, granted, since, row.created_at, row.absolute_ends]).encode()
        refresh = self._stamp.make(body, now=now, seconds=until - now, id_=bytes.fromhex(row.id))
        access, access_ends = await self._tokens.mint(
            org=org or row.org, subject=row.subject, session=row.id, generation=row.generation, scopes=kept.scopes,
            guest=bool(row.guest), factors=kept.factors, audience=kept.audience, until=until,
            epochs=epochs or (row.subject_epoch, row.org_epoch, row.everyone_epoch), key=key,
        )  # fmt: skip
        return TokenPair(access, refresh, access_expires_at=access_ends, refresh_expires_at=until, row=row, now=now)

    @staticmethod
    def _presented(stamped: Stamped) -> tuple[Presented, Guest | None]:
        body = stamped.body
        presented = Presented(stamped.id.hex(), int.from_bytes(body[:GENERATION]), body[GENERATION:BODY])
        return presented, None if len(body) == BODY else Guest(*json.loads(body[BODY:]))

    @staticmethod
    def _of_code(identity: Identity | None, org: str) -> str | None:
        if identity is not None and identity.org != org:
            raise Misuse("an identity is of one organization, and begins no session of another")
        return None if identity is None else identity.session_id

    def _granted(self, audience: str | None, scopes: Collection[str], factors: Mapping[str, int]) -> str:
        if audience is not None and audience not in self._tokens.audience:
            raise Misuse("audience is one of those that the instance was made with")
        granted = canonical([audience, sorted(checked_scopes(scopes)), dict(self._factors(factors))])
        if len(granted) > LONGEST_GRANTED:
            raise Misuse("scopes and factors are more than fits into a session")
        return granted

    @staticmethod
    def _factors(factors: Mapping[str, int]) -> Mapping[str, int]:
        checked_scopes(factors, "factors")
        return {name: checked_seconds(at) for name, at in factors.items()}

    async def _set(self, key: str, name: str, org: str, target: str, *, disabled: bool) -> None:
        event = self._rotation.event(name, org, target)
        await self._finish(self._changes.pass_epoch(key, event, disabled=disabled))

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """What goes on to its end, whoever hangs up: a reaction that can be cancelled is none."""
        return await self._waits.finish(work)

    def _enter(self, org: str, subject: str | None = None) -> None:
        entered(org, self._journal)
        checked_org(org)
        if subject is not None:
            checked_subject(subject)
