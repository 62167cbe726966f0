"""What the services of one `Bartizan` share, and the services of its two forms; `wiring` gives them to a service."""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from typing import Any, Literal, TypeVar

from bartizan.access.carry import Carrier, Home, Job, behind, job
from bartizan.access.role_stage import RoledMembers
from bartizan.access.roles import Roles, RoleSet, checked_roles
from bartizan.audit.journal import MutedJournal, OutboxJournal
from bartizan.browser.csrf import OriginCheck
from bartizan.browser.return_paths import ReturnPaths
from bartizan.core.cache import Cache
from bartizan.core.client import Clients, ForwardingHeader
from bartizan.core.drive import run
from bartizan.core.events import SYSTEM, AuditEvent
from bartizan.core.once import ONCE, Once
from bartizan.core.passage import Authenticator, Decision
from bartizan.core.ports import Clock, Fetch, Post, SteppedClock, SystemClock, Waits
from bartizan.core.principal import ConsumerPrincipal, Environment, Principal, checked_org
from bartizan.core.ring import MAKE_ONE, SecretRing
from bartizan.core.roots import Roots, SecretUse
from bartizan.core.tables import Backend, Table
from bartizan.credentials.access_tokens import AccessTokens, Issuing
from bartizan.credentials.issuer_keys import Issuers, Outside
from bartizan.credentials.issuer_stage import MemberAuthenticator
from bartizan.credentials.issuers import Issuer
from bartizan.credentials.key_format import KeyFormat
from bartizan.credentials.key_rows import KEYS, PEPPERED, Entry
from bartizan.credentials.key_stage import KeyAuthenticator
from bartizan.credentials.key_text import KINDS
from bartizan.credentials.key_uses import USED_EVERY, KeyUses
from bartizan.credentials.keys import Keys
from bartizan.credentials.links import Links
from bartizan.credentials.signing import WRAPPED
from bartizan.errors import Misuse
from bartizan.gate.doors import Authenticator as OwnAuthenticator, Door
from bartizan.gate.rehearsal import ReadOnly
from bartizan.operations.upkeep import Upkeep
from bartizan.outbound import both_fetches, both_posts
from bartizan.sessions.codes import BUDGETS, CODES, SigninPolicy
from bartizan.sessions.cookie_stage import CookieConsumers
from bartizan.sessions.exchanges import EXCHANGES
from bartizan.sessions.families import FAMILIES
from bartizan.sessions.sessions import Sessions
from bartizan.sessions.signin import Signin
from bartizan.sessions.stage import ConsumerAuthenticator
from bartizan.sessions.state import SIZE
from bartizan.stores.urls import Store, opened
from bartizan.stores.waits import Afterwards, AsyncWaits, BlockingWaits, Threads
from bartizan.webhooks.delivery import WebhookPolicy
from bartizan.webhooks.endpoint_rows import SEALED
from bartizan.webhooks.endpoints import WebhookEndpoints

T = TypeVar("T")

PURGED_EVERY = 60  # seconds between two looks for markers that are over
PURGED_AT_ONCE = 1000
SENDERS = 16  # threads that send webhooks: they wait for strangers, so nothing else waits for them


def _needed(service: T | None, what: str) -> T:
    if service is None:
        raise Misuse(f"{what}; {MAKE_ONE}")
    return service


class Side:
    """The services of one form, async or blocking."""

    def __init__(
        self, shared: "Shared", waits: Waits, backend: Backend | None, fetch: Fetch | None, post: Post
    ) -> None:
        self.backend = backend
        self.waits = waits
        self._environment = shared.environment
        self._clock = shared.clock
        self._clients = shared.clients
        self._origins = shared.origins
        self._used_roots: Roots | None = None
        self._keys: Keys | None = None
        self._links: Links | None = None
        self._tokens: AccessTokens | None = None
        self._sessions: Sessions | None = None
        self._signin: Signin | None = None
        self._once: Once | None = None
        self._endpoints: WebhookEndpoints | None = None
        self.members: Issuers = shared.outside.form(fetch, waits)
        self.roles: Roles = Roles(
            builtin=shared.roles, backend=backend, waits=waits, environment=shared.environment, clock=shared.clock,
            cache=shared.roles_cache, journal=shared.journal,
        )  # fmt: skip
        if backend is not None:
            self._once = Once(
                backend=backend, waits=waits, environment=shared.environment, clock=shared.clock,
                journal=shared.journal, wake=shared.once_used,
            )  # fmt: skip
        if backend is not None and shared.ring is not None and shared.form is not None:
            self._used_roots = Roots(
                backend=backend, waits=waits, ring=shared.ring, environment=shared.environment, clock=shared.clock,
                dependants=[PEPPERED, WRAPPED, SEALED],
            )  # fmt: skip
            if shared.issuing is not None:
                self._tokens = shared.issuing.side(backend, waits, self._used_roots)
                self._sessions = Sessions(
                    backend=backend, waits=waits, ring=shared.ring, tokens=self._tokens, policy=shared.issuing.policy,
                    issuer=shared.issuing.issuer, environment=shared.environment, clock=shared.clock,
                    cache=shared.sessions_cache, journal=shared.journal, wake=shared.sessions_used,
                    claimed=shared.once_used, origins=shared.urls,
                )  # fmt: skip
                self._signin = Signin(
                    backend=backend, waits=waits, ring=shared.ring, environment=shared.environment,
                    issuer=shared.issuing.issuer, policy=shared.signin, clock=shared.clock, journal=shared.journal,
                    wake=shared.signin_used, end=self._sessions.end,
                )  # fmt: skip
            self._keys = Keys(
                backend=backend, waits=waits, ring=shared.ring, form=shared.form, environment=shared.environment,
                clock=shared.clock, cache=shared.cache, journal=shared.journal, uses=shared.uses,
                roots=self._used_roots, browser_leak=shared.browser_leak,
                publishable_writes=shared.home.writes,
            )  # fmt: skip
            self._links = Links(
                backend=backend, ring=shared.ring, environment=shared.environment, clock=shared.clock,
                journal=shared.journal, wake=shared.once_used,
            )  # fmt: skip
            self._endpoints = WebhookEndpoints(
                backend=backend, waits=waits, ring=shared.ring, roots=self._used_roots, environment=shared.environment,
                clock=shared.clock, journal=shared.journal, post=post, policy=shared.webhooks,
                wake=shared.endpoints_used,
            )  # fmt: skip

    @property
    def keys(self) -> Keys:
        """The keys, where there is all that they need."""
        return _needed(self._keys, "keys need url= and secrets=")

    @property
    def links(self) -> Links:
        """The links, where there is all that they need."""
        return _needed(self._links, "links need url= and secrets=")

    @property
    def endpoints(self) -> WebhookEndpoints:
        """The endpoints of webhooks, where there is all that they need."""
        return _needed(self._endpoints, "webhook_endpoints need url= and secrets=")

    @property
    def tokens(self) -> AccessTokens:
        """The access tokens and their signing keys, where there is all that they need."""
        return _needed(self._tokens, "tokens and signing_keys need url=, secrets=, issuer= and audience=")

    @property
    def sessions(self) -> Sessions:
        """The consumers' sessions, where there is all that they need."""
        return _needed(self._sessions, "sessions need url=, secrets=, issuer= and audience=")

    @property
    def signin(self) -> Signin:
        """The ways to sign in, where there is all that they need."""
        return _needed(self._signin, "signin needs url=, secrets=, issuer= and audience=")

    @property
    def once(self) -> Once:
        """The claims, where there is a store."""
        if self._once is None:
            raise Misuse("once needs url=")
        return self._once

    async def recheck(self, principal: Principal) -> None:
        """Return while what the principal stands on lives."""
        if isinstance(principal, ConsumerPrincipal):
            await self.sessions.recheck(principal)
            return
        key = behind(principal, self._clock.seconds())
        if key is not None:
            await self.keys.recheck(key)

    def authenticators(self, environments: Collection[Environment]) -> list[Authenticator]:
        """What can be verified here."""
        found: list[Authenticator] = []
        if self.members.known:  # before the consumers', who take every token that names no issuer of these
            members = MemberAuthenticator(self.members, environments, rest=self._tokens is None)
            found.append(RoledMembers(members, self.roles))
        if self._keys is not None:
            found += [KeyAuthenticator(self._keys, kind, environments, self._clients) for kind in KINDS]
        if self._sessions is not None:
            found.append(ConsumerAuthenticator(self._sessions, environments))
        return found

    def ambient(self, environments: Collection[Environment]) -> CookieConsumers | None:
        """Our cookies as a credential, where there are origins whose pages may send them."""
        if self._sessions is None or self._origins is None or self._environment not in environments:
            return None
        return CookieConsumers(self._sessions, self._origins)

    def doors(self, own: Sequence[OwnAuthenticator], kind: type[Door] = Door) -> list[Door]:
        """The gate's side of the application's own authenticators."""
        doors = [kind(each, self._environment, self._clock, self.waits, self._origins) for each in own]
        if len({door.name for door in doors}) < len(doors):
            raise Misuse("two authenticators of one name")
        return doors

    async def ready(self) -> None:
        """One read of the store, and, at its first use, the roots in use held against the ring."""
        if self.backend is not None:
            await self.backend.get(KEYS, "-")
        if self._used_roots is not None:
            await self._used_roots.ready()

    async def secret_use(self) -> Sequence[SecretUse]:
        """What still needs each root secret."""
        if self._used_roots is None:
            raise Misuse("secret_use needs url= and secrets=")
        return await self._used_roots.use()


class Shared:
    """What the async and the blocking form have in common: clock, secrets, caches, journal, upkeep and store."""

    def __init__(
        self,
        url: str | Backend | None,
        *,
        environment: Environment,
        ring: SecretRing | None,
        key_prefix: str | None,
        issuing: Callable[..., Issuing] | None,
        issuers: Sequence[Issuer],
        webhooks: WebhookPolicy,
        signin: SigninPolicy,
        origins: Sequence[str],
        staleness: float,
        workers: int,
        proxy_hops: int,
        proxy_header: ForwardingHeader,
        browser_leak: Literal["report", "revoke"],
        publishable_writes: Collection[str],
        roles: Mapping[str, Collection[str]],
        on_decision: Callable[[Decision], None] | None,
        clock: Callable[[], int] | None,
        journal: type[OutboxJournal],
    ) -> None:
        self.environment = environment
        self.staleness = staleness
        self.clock: Clock = SystemClock() if clock is None else SteppedClock(clock)
        self.ring = ring
        self.webhooks = webhooks
        self.signin = signin
        self.urls: tuple[str, ...] = tuple(origins)
        self.origins: OriginCheck | None = OriginCheck(origins) if origins else None
        self.browser_leak = browser_leak
        self.form: KeyFormat | None = (
            None if ring is None else KeyFormat.over(ring, environment=environment, key_prefix=key_prefix)
        )
        self.cache: Cache[Entry] = Cache(clock=self.clock, staleness=staleness)
        self.roles: RoleSet = RoleSet(checked_roles(roles))
        self.roles_cache: Cache[RoleSet] = Cache(clock=self.clock, staleness=staleness)
        self.sessions_cache: Cache[Any] = Cache(clock=self.clock, staleness=staleness, size=SIZE)
        self.upkeep: Upkeep = Upkeep()
        self.journal: OutboxJournal = journal(self.clock, wake=self.upkeep.need)
        self.home: Home = Home(environment, self.clock, self.journal, publishable_writes)
        self.uses: KeyUses = KeyUses(self.upkeep.need)
        self.clients: Clients = Clients(
            proxy_hops,
            proxy_header,
            lambda: self.journal.note(AuditEvent(name="client.rewritten", org=None, actor=SYSTEM)),
        )
        self._planned = issuing
        self.issuing: Issuing | None = self._issued(self.journal)
        self.on_decision = on_decision
        self._carrier: Carrier | None = None
        if ring is not None:
            self._carrier = Carrier(ring=ring, home=self.home, clock=self.clock, journal=self.journal)
        self.return_paths: ReturnPaths | None = None
        if ring is not None:
            self.return_paths = ReturnPaths(ring=ring, environment=environment, clock=self.clock)
        self._purged: set[Table[Any]] = set()
        self.store: Store | None = None if url is None else opened(url, self.clock, workers)
        backend, blocking = (None, None) if self.store is None else (self.store.asynchronous, self.store.blocking)
        self.threads: Threads = Threads()
        self.senders: Threads = Threads(SENDERS)
        self.deliveries: Afterwards = Afterwards()
        self._reseals = False
        self.outside: Outside = Outside(
            issuers, environment=environment, clock=self.clock, journal=self.journal, wake=self.upkeep.need
        )
        fetch, blocking_fetch = both_fetches(self.threads.run) if self.outside.fetches else (None, None)
        self._post, blocking_post = both_posts(self.senders.run)
        self.side: Side = Side(self, AsyncWaits(), backend, fetch, self._post)
        self.blocking_side: Side = Side(self, BlockingWaits(), blocking, blocking_fetch, blocking_post)
        self.upkeep.add(self.journal.drain, every=1)
        if self.outside.fetches:
            self.upkeep.add(lambda: run(self.blocking_side.members.revalidate()), every=1)
        if blocking is not None:
            self.upkeep.add(lambda: run(self.uses.write(blocking)), every=USED_EVERY)
            self.upkeep.add(lambda: self._purge(blocking), every=PURGED_EVERY)
            if ring is not None:
                self.upkeep.add(self._reseal, every=PURGED_EVERY)
            if self.issuing is not None:
                self.upkeep.add(self._look_after_keys, every=PURGED_EVERY)

    def _issued(self, journal: OutboxJournal) -> Issuing | None:
        if self._planned is None or self.ring is None:
            return None
        return self._planned(
            environment=self.environment, ring=self.ring, staleness=self.staleness, clock=self.clock, journal=journal,
            wake=self.upkeep.need,
        )  # fmt: skip

    def looking(self) -> tuple[Side, ReadOnly | None, MutedJournal]:
        """Services that read and do no more: no write, no event, no connection, and caches of their own."""
        look = copy(self)
        look.journal = muted = MutedJournal(self.clock)
        look.cache = Cache(clock=self.clock, staleness=0)
        look.sessions_cache = Cache(clock=self.clock, staleness=0)
        look.uses = KeyUses(lambda: None)
        look.issuing = self._issued(muted)
        store = None if self.store is None else ReadOnly(self.store.asynchronous)
        return Side(look, AsyncWaits(), store, None, self._post), store, muted

    @property
    def carrier(self) -> Carrier:
        """What carries principals, where there are secrets."""
        return _needed(self._carrier, "carry and resume need secrets=")

    def job(self, name: str, org: str | None, scopes: Collection[str]) -> Job:
        """A job in this environment."""
        return job(self.home, name, None if org is None else checked_org(org), scopes)

    def endpoints_used(self) -> None:
        """There are endpoints, which upkeep seals again when a root is to leave."""
        self._reseals = True
        self.upkeep.need()

    def _look_after_keys(self) -> None:
        if self.issuing is not None and self.issuing.used:
            run(self.blocking_side.tokens.signing.upkeep())

    def _reseal(self) -> None:
        if self._reseals:
            run(self.blocking_side.endpoints.upkeep())

    def once_used(self) -> None:
        """There are markers, which upkeep removes when they are over."""
        self._purged.add(ONCE)
        self.upkeep.need()

    def sessions_used(self) -> None:
        """There are sessions, which upkeep removes when they are over."""
        self._purged.add(FAMILIES)
        self.upkeep.need()

    def signin_used(self) -> None:
        """There are codes, which upkeep removes when they are over."""
        self._purged |= {CODES, BUDGETS, EXCHANGES}
        self.upkeep.need()

    def _purge(self, backend: Backend) -> None:
        for table in (*self._purged,):
            while run(backend.purge(table, limit=PURGED_AT_ONCE)) == PURGED_AT_ONCE:
                pass

    def close(self) -> None:
        """Write what waits to be written, and close the store; both begin anew at their next use."""
        self.deliveries.close()
        self.senders.close()
        self.upkeep.close()
        if self.store is not None:
            self.store.close()
