"""Consumers' sessions as a service: start, refresh, authenticate, upgrade, and end them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from bartizan.core.cache import Cache
from bartizan.core.events import Journal, entered
from bartizan.core.once import Markers
from bartizan.core.ports import Clock, Entropy, Waits, fresh
from bartizan.core.principal import (
    ConsumerPrincipal,
    Environment,
    checked_org,
    current_principal,
)
from bartizan.core.request import Request, viewed
from bartizan.core.ring import SecretRing
from bartizan.core.tables import Backend
from bartizan.credentials.access_tokens import AccessTokens, Said, SessionPolicy, key_of
from bartizan.errors import Forbidden, InvalidToken, Misuse, Reason
from bartizan.sessions.changes import Changes, told
from bartizan.sessions.devices import Devices
from bartizan.sessions.ends import Ends
from bartizan.sessions.exchanges import Identity
from bartizan.sessions.families import Bound, Epochs, Guest, ends
from bartizan.sessions.minting import Minting, checked_factors
from bartizan.sessions.pairs import TokenPair
from bartizan.sessions.possession import Possession
from bartizan.sessions.refresh import Presented
from bartizan.sessions.rotation import Rotation
from bartizan.sessions.state import Kept, State, checked_subject
from bartizan.sessions.tickets import Tickets

T = TypeVar("T")

NO_FACTORS: Mapping[str, int] = MappingProxyType({})


class Sessions(Ends):
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
        origins: Sequence[str],
        cache: Cache[Any],
        journal: Journal,
        wake: Callable[[], None],
        claimed: Callable[[], None],
        entropy: Entropy = fresh,
    ) -> None:
        state = State(
            backend=backend, waits=waits, cache=cache, policy=policy, environment=environment, clock=clock,
            journal=journal,
        )  # fmt: skip
        super().__init__(
            state=state,
            changes=Changes(
                backend=backend, state=state, environment=environment, journal=journal, keep=policy.guest_absolute
            ),
            waits=waits, environment=environment, journal=journal, wake=wake,
        )  # fmt: skip
        self._tokens = tokens
        self._policy = policy
        self._devices = Devices(ring, environment)
        markers = Markers(backend)
        self._possession = Possession(
            markers=markers, ring=ring, environment=environment, policy=policy, origins=tuple(origins), clock=clock,
            journal=journal, wake=claimed,
        )  # fmt: skip
        self._minting = Minting(
            ring=ring, tokens=tokens, possession=self._possession, issuer=issuer, environment=environment, clock=clock,
            entropy=entropy,
        )  # fmt: skip
        self._tickets = Tickets(
            markers=markers, ring=ring, tokens=tokens, environment=environment, issuer=issuer, clock=clock,
            entropy=entropy, wake=claimed,
        )  # fmt: skip
        self._rotation = Rotation(
            backend=backend, state=state, changes=self._changes, policy=policy, environment=environment,
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
        proof: object | None = None,
        device: str | None = None,
    ) -> TokenPair:
        """A new session of a guest, or of a subject who has just proved who they are, by `factors` (name: UTC seconds).

        With an `identity` that came by an exchange code it is the one session of that code, however often it is begun.

        `audience` is one of the instance's own, if the tokens are not for all of them. A guest's session is written
        down when it is refreshed first. Anonymous visitors make guests: limit how often.

        `proof` is the request, of ours or of your framework: the session is bound to the key whose proof it carries
        (RFC 9449), or `InvalidProof`. `SessionPolicy.binding` says what is the least. `device` is what you know of the
        device, such as its `User-Agent`: a MAC of it is kept, and a refresh from another one is an event.
        """
        entered(org, self._journal)
        checked_org(org)
        granted = self._minting.granted(audience, scopes, factors)
        id_ = self._of_code(identity, org)
        to = self._bound(proof, device)
        return await self._finish(
            self._start(org, checked_subject(subject), granted, guest=bool(guest), to=to, id_=id_)
        )

    def check_proof(self, proof: object) -> None:
        """Return if a session may begin with this request, else `InvalidProof`: to be asked before a code is used."""
        self._possession.begins(viewed(proof))

    async def refresh(
        self, refresh_token: str, *, org: str | None = None, proof: object | None = None, device: str | None = None
    ) -> TokenPair:
        """New tokens for a refresh token, which is used up by this; `InvalidSession` for whatever is wrong with it.

        Within the grace window, and where the answer was lost, the token before is answered with the same successor.
        `SessionReused`: it was used up long ago, so two parties have the session, and it has been ended.

        `org` is the organization that the new access token is for, if not the session's own: `Forbidden`, and nothing
        written, where `member_of` says no. Another tab may have another one. `proof` and `device` are as for `start`:
        of a session that is bound, nothing is answered and nothing changes without what it is bound to.
        """
        if org is not None and self._policy.member_of is None:
            raise Misuse("refresh(org=…) needs SessionPolicy(member_of=…), which says whose organizations they are")
        presented, guest = self._minting.presented(refresh_token)
        request = None if proof is None else viewed(proof)
        return await self._finish(self._refresh(presented, guest, org, request, device))

    async def upgrade(
        self,
        principal: ConsumerPrincipal,
        *,
        subject: str,
        factors: Mapping[str, int] = NO_FACTORS,
        identity: Identity | None = None,
        proof: object | None = None,
        device: str | None = None,
    ) -> TokenPair:
        """A new session in place of the caller's, who has proved more: a guest who signs in, or a further factor.

        The old session ends in the same change, so that whoever else has its tokens has nothing (ASVS 7.2.4). A guest
        becomes `subject`; for anybody else another subject than their own is a `Conflict`. The rest is
        as for `start`.
        """
        entered(principal.org, self._journal)
        named = checked_factors({**principal.factors, **factors})
        id_ = self._of_code(identity, principal.org)
        to, was = self._bound(proof, device), principal._said.binding  # noqa: SLF001 - made for us
        if was is not None and key_of(to.binding) is None:
            to = to._replace(binding=was)  # never looser than the session that it replaces
        return await self._finish(self._upgrade(principal, checked_subject(subject), named, to, id_))

    async def look(self, refresh_token: str, proof: object | None = None) -> ConsumerPrincipal:
        """Whom a refresh token would get an access token for, without using it up; raises as `refresh` would.

        What it finds of theft it reacts to, as `refresh` does.
        """
        presented, guest = self._minting.presented(refresh_token)
        return await self._finish(self._look(presented, guest, None if proof is None else viewed(proof)))

    async def authenticate(
        self, access_token: str, *, audience: str | None = None, proof: object | None = None
    ) -> ConsumerPrincipal:
        """The consumer whose token it is, if the session lives; `InvalidToken` or `InvalidSession` if not.

        What others have ended is seen within the staleness bound, what this process has ended at once. `proof` is the
        request that it came with: without what its session is bound to, a token is worth nothing (`InvalidProof`).
        """
        principal = await self._tokens.verify(access_token)
        if audience is not None and audience not in principal._said.audience:  # noqa: SLF001 - made for us
            raise InvalidToken(Reason.WRONG_AUDIENCE)
        found, request = None, None if proof is None else viewed(proof)
        if principal._said.binding is not None or (request is not None and request.proof is not None):  # noqa: SLF001
            found = self._possession.accompanies(principal, access_token, request)
        if not self._state.good(principal):
            await self._state.check(principal)
        if found is not None:  # last, so that what is refused anyway writes nothing
            await self._possession.claim(found)
        return principal

    def ticket(self, *, path: str) -> str:
        """A text with which the current consumer opens one websocket at `path` within 30 seconds, and once.

        For a page, which can set no header there: `new WebSocket(url, ["bartizan", ticket])`.
        """
        me = current_principal(ConsumerPrincipal)
        said: Said = me._said  # noqa: SLF001 - made for us
        if not said.by_token and key_of(said.binding) is not None:
            raise self._possession.refused(Reason.TOKEN_BOUND)  # a ticket makes no tickets: nothing was proved here
        return self._tickets.make(me, path)

    async def admit(self, ticket: str, path: str) -> ConsumerPrincipal:
        """The consumer whose ticket for the websocket at `path` this is; it is used up."""
        principal, stamped = self._tickets.read(ticket, path)
        await self._state.check(principal)
        await self._tickets.use(stamped)
        return principal

    async def recheck(self, principal: ConsumerPrincipal) -> None:
        """Return while the session lives, if not the token that opened a stream; else `InvalidSession`."""
        await self._state.check(principal, stream=True)

    # --- what they do ---

    async def _start(
        self, org: str, subject: str, granted: str, *, guest: bool, to: Bound, id_: str | None = None
    ) -> TokenPair:
        await self._tokens.signing.signing()  # what cannot be signed is not begun
        self._wake()
        if not guest and self._policy.member_of is not None:
            await self._state.member(subject, org)
        row = await self._rotation.begin(org, subject, granted, guest=guest, to=to, id_=id_)
        return await self._minting.pair(Kept(row), row, stored=not guest)

    async def _refresh(
        self, presented: Presented, guest: Guest | None, org: str | None, request: Request | None, device: str | None
    ) -> TokenPair:
        key = await self._tokens.signing.signing()
        self._wake()
        kept, family, stored = await self._rotation.of(presented, guest)
        binding, proof = self._possession.refreshes(family, request)
        self._rotation.bound(family, binding)
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
        if proof is not None:
            await self._possession.claim(proof)
        row = await self._rotation.refreshed(presented, kept, family, binding, stored=stored)
        if self._devices.changed(row.device, device):
            event = told("session.device_changed", row.org, row.id, subject=row.subject)
            self._journal.note(event)
        return await self._minting.pair(kept, row, org=target, epochs=epochs, key=key)

    async def _look(self, presented: Presented, guest: Guest | None, request: Request | None) -> ConsumerPrincipal:
        kept, row, epochs = await self._rotation.looked(
            presented, guest, lambda family: self._possession.in_cookies(family, request)
        )
        principal = self._tokens.consumer(
            org=row.org, subject=row.subject, session=row.id, generation=row.generation, scopes=kept.scopes,
            guest=bool(row.guest), factors=kept.factors, until=ends(row), epochs=epochs, binding=row.binding,
            audience=None if kept.audience is None else {kept.audience},
        )  # fmt: skip
        await self._state.still_member(principal)
        return principal

    async def _upgrade(
        self, principal: ConsumerPrincipal, subject: str, factors: Mapping[str, int], to: Bound, id_: str | None
    ) -> TokenPair:
        await self._tokens.signing.signing()
        self._wake()
        kept = await self._state.check(principal, anew=True)
        await self._state.member(subject, principal.org)
        audience = None if kept.row is None else kept.audience
        granted = self._minting.granted(audience, principal.scopes, factors)
        row = await self._rotation.replaced(principal, kept, subject, granted, to, id_)
        return await self._minting.pair(Kept(row), row)

    @staticmethod
    def _of_code(identity: Identity | None, org: str) -> str | None:
        if identity is not None and identity.org != org:
            raise Misuse("an identity is of one organization, and begins no session of another")
        return None if identity is None else identity.session_id

    def _bound(self, proof: object | None, device: str | None) -> Bound:
        """What a session is bound to that begins here."""
        request = None if proof is None else viewed(proof)
        return Bound(self._possession.begins(request), self._devices.hashed(device))
