"""`Bartizan`: the only place where services meet."""

import os
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bartizan.access.carry import Carrier, Job, behind, job
from bartizan.audit.journal import OutboxJournal
from bartizan.blocking import BlockingBartizan
from bartizan.core.cache import Cache
from bartizan.core.drive import run
from bartizan.core.once import ONCE, Once
from bartizan.core.passage import Authenticator, Decision, Rule
from bartizan.core.ports import Clock, Fetch, SteppedClock, SystemClock, Waits
from bartizan.core.principal import Environment, Principal
from bartizan.core.ring import MAKE_ONE, SecretRing
from bartizan.core.roots import Roots, SecretUse
from bartizan.core.tables import Backend
from bartizan.credentials.access_tokens import SESSIONS, AccessTokens, Issuing, SessionPolicy, planned
from bartizan.credentials.issuer_keys import Issuers, Outside
from bartizan.credentials.issuer_stage import CHALLENGES as OF_MEMBERS, MemberAuthenticator
from bartizan.credentials.issuers import Issuer
from bartizan.credentials.key_format import KeyFormat, checked_environment, checked_org
from bartizan.credentials.key_rows import KEYS, PEPPERED, Entry
from bartizan.credentials.key_stage import CHALLENGES as OF_KEYS, KeyAuthenticator
from bartizan.credentials.key_text import KINDS
from bartizan.credentials.key_uses import USED_EVERY, KeyUses
from bartizan.credentials.keys import Keys
from bartizan.credentials.links import Links
from bartizan.credentials.signing import WRAPPED, SigningKeys
from bartizan.credentials.token_stage import CHALLENGES as OF_TOKENS, ConsumerAuthenticator
from bartizan.errors import Misuse
from bartizan.gate.gate import Gate
from bartizan.gate.rules import compiled
from bartizan.operations.settings import settings
from bartizan.operations.upkeep import Upkeep
from bartizan.outbound import both_fetches
from bartizan.stores.urls import Store, opened
from bartizan.stores.waits import AsyncWaits, BlockingWaits, Threads

if TYPE_CHECKING:
    from typing import Self


PURGED_EVERY = 60  # seconds between two looks for markers that are over
PURGED_AT_ONCE = 1000
_CHALLENGES = {**OF_KEYS, **OF_TOKENS, **OF_MEMBERS}


class _Side:
    """The services of one form, async or blocking."""

    def __init__(self, shared: "_Shared", waits: Waits, backend: Backend | None, fetch: Fetch | None) -> None:
        self.backend = backend
        self._clock = shared.clock
        self._used_roots: Roots | None = None
        self._keys: Keys | None = None
        self._links: Links | None = None
        self._tokens: AccessTokens | None = None
        self._once: Once | None = None
        self.members: Issuers = shared.outside.form(fetch, waits)
        if backend is not None:
            self._once = Once(
                backend=backend, waits=waits, environment=shared.environment, clock=shared.clock,
                journal=shared.journal, wake=shared.once_used,
            )  # fmt: skip
        if backend is not None and shared.ring is not None and shared.form is not None:
            self._used_roots = Roots(
                backend=backend, waits=waits, ring=shared.ring, environment=shared.environment, clock=shared.clock,
                dependants=[PEPPERED, WRAPPED],
            )  # fmt: skip
            if shared.issuing is not None:
                self._tokens = shared.issuing.side(backend, waits, self._used_roots)
            self._keys = Keys(
                backend=backend, waits=waits, ring=shared.ring, form=shared.form, environment=shared.environment,
                clock=shared.clock, cache=shared.cache, journal=shared.journal, uses=shared.uses,
                roots=self._used_roots, browser_leak=shared.browser_leak,
            )  # fmt: skip
            self._links = Links(
                backend=backend, ring=shared.ring, environment=shared.environment, clock=shared.clock,
                journal=shared.journal, wake=shared.once_used,
            )  # fmt: skip

    @property
    def keys(self) -> Keys:
        """The keys, where there is all that they need."""
        if self._keys is None:
            raise Misuse(f"keys need url= and secrets=; {MAKE_ONE}")
        return self._keys

    @property
    def links(self) -> Links:
        """The links, where there is all that they need."""
        if self._links is None:
            raise Misuse(f"links need url= and secrets=; {MAKE_ONE}")
        return self._links

    @property
    def tokens(self) -> AccessTokens:
        """The access tokens and their signing keys, where there is all that they need."""
        if self._tokens is None:
            raise Misuse(f"tokens and signing_keys need url=, secrets=, issuer= and audience=; {MAKE_ONE}")
        return self._tokens

    @property
    def once(self) -> Once:
        """The claims, where there is a store."""
        if self._once is None:
            raise Misuse("once needs url=")
        return self._once

    async def recheck(self, principal: Principal) -> None:
        """Return while what the principal stands on lives."""
        key = behind(principal, self._clock.seconds())
        if key is not None:
            await self.keys.recheck(key)

    def authenticators(self, environments: Collection[Environment]) -> list[Authenticator]:
        """What can be verified here."""
        found: list[Authenticator] = []
        if self.members.known:  # before the consumers', who take every token that names no issuer of these
            found.append(MemberAuthenticator(self.members, environments, rest=self._tokens is None))
        if self._keys is not None:
            found += [KeyAuthenticator(self._keys, kind, environments) for kind in KINDS]
        if self._tokens is not None:
            found.append(ConsumerAuthenticator(self._tokens, environments))
        return found

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


class _Shared:
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
        staleness: float,
        workers: int,
        browser_leak: Literal["report", "revoke"],
        on_decision: Callable[[Decision], None] | None,
        clock: Callable[[], int] | None,
        journal: type[OutboxJournal],
    ) -> None:
        self.environment = environment
        self.staleness = staleness
        self.clock: Clock = SystemClock() if clock is None else SteppedClock(clock)
        self.ring = ring
        self.browser_leak = browser_leak
        self.form: KeyFormat | None = (
            None if ring is None else KeyFormat.over(ring, environment=environment, key_prefix=key_prefix)
        )
        self.cache: Cache[Entry] = Cache(clock=self.clock, staleness=staleness)
        self.upkeep: Upkeep = Upkeep()
        self.journal: OutboxJournal = journal(self.clock, wake=self.upkeep.need)
        self.uses: KeyUses = KeyUses(self.upkeep.need)
        self.issuing: Issuing | None = None
        if issuing is not None and ring is not None:
            self.issuing = issuing(
                environment=environment, ring=ring, staleness=staleness,
                clock=self.clock, journal=self.journal, wake=self.upkeep.need,
            )  # fmt: skip
        self.on_decision = on_decision
        self._carrier: Carrier | None = None
        if ring is not None:
            self._carrier = Carrier(ring=ring, environment=environment, clock=self.clock, journal=self.journal)
        self._purges = False
        self.store: Store | None = None if url is None else opened(url, self.clock, workers)
        backend, blocking = (None, None) if self.store is None else (self.store.asynchronous, self.store.blocking)
        self.threads: Threads = Threads()
        self.outside: Outside = Outside(
            issuers, environment=environment, clock=self.clock, journal=self.journal, wake=self.upkeep.need
        )
        fetch, blocking_fetch = both_fetches(self.threads.run) if self.outside.fetches else (None, None)
        self.side: _Side = _Side(self, AsyncWaits(), backend, fetch)
        self.blocking_side: _Side = _Side(self, BlockingWaits(), blocking, blocking_fetch)
        self.upkeep.add(self.journal.drain, every=1)
        if self.outside.fetches:
            self.upkeep.add(lambda: run(self.blocking_side.members.revalidate()), every=1)
        if blocking is not None:
            self.upkeep.add(lambda: run(self.uses.write(blocking)), every=USED_EVERY)
            self.upkeep.add(lambda: self._purge(blocking), every=PURGED_EVERY)
            if self.issuing is not None:
                self.upkeep.add(lambda: run(self.blocking_side.tokens.signing.upkeep()), every=PURGED_EVERY)

    def gate(self, rules: Sequence[Rule], environments: Collection[Environment] | None) -> Gate:
        """A gate and, at its first use, its blocking twin over the same table."""
        served = frozenset({self.environment} if environments is None else map(checked_environment, environments))
        if not served:
            raise Misuse("environments is not empty")
        ours = self.side.authenticators(served)
        table = compiled(rules, {kind: _CHALLENGES[kind] for a in ours for kind in a.kinds})

        def made(side: _Side, twin: Callable[[], Gate] | None) -> Gate:
            return Gate(
                table, side.authenticators(served), clock=self.clock, journal=self.journal,
                on_decision=self.on_decision, twin=twin, every=self.staleness,
            )  # fmt: skip

        return made(self.side, lambda: made(self.blocking_side, None))

    @property
    def carrier(self) -> Carrier:
        """What carries principals, where there are secrets."""
        if self._carrier is None:
            raise Misuse(f"carry and resume need secrets=; {MAKE_ONE}")
        return self._carrier

    def job(self, name: str, org: str | None, scopes: Collection[str]) -> Job:
        """A job in this environment."""
        return job(self.environment, name, None if org is None else checked_org(org), scopes)

    def once_used(self) -> None:
        """There are markers, which upkeep removes when they are over."""
        self._purges = True
        self.upkeep.need()

    def _purge(self, backend: Backend) -> None:
        while self._purges and run(backend.purge(ONCE, limit=PURGED_AT_ONCE)) == PURGED_AT_ONCE:
            pass

    def close(self) -> None:
        """Write what waits to be written, and close the store; both begin anew at their next use."""
        self.upkeep.close()
        if self.store is not None:
            self.store.close()


class Bartizan:
    """The security of one service in one environment. Opening does no I/O and starts nothing.

    `url` is `memory://`, `sqlite:///path` (relative) or `sqlite:////path` (absolute); `secrets` are roots, newest
    first; `issuer` and `audience` stand in consumers' tokens, which `sessions` shapes; `issuers` are those whose tokens
    let members in; `staleness` is how many seconds a cached answer may be old (0 to 300); `workers` is how many
    processes serve; `browser_leak` is what becomes of a secret key that a web page sent, besides its refusal;
    `on_decision` sees every verdict.
    Only what is used is asked for: `keys` needs `url` and `secrets`, a gate of open rules neither.
    """

    _journal: ClassVar[type[OutboxJournal]] = OutboxJournal

    def __init__(
        self,
        url: str | Backend | None = None,
        *,
        environment: Environment,
        secrets: Sequence[str] | None = None,
        issuer: str | None = None,
        audience: str | Sequence[str] | None = None,
        key_prefix: str | None = None,
        issuers: Sequence[Issuer] = (),
        sessions: SessionPolicy = SESSIONS,
        staleness: float = 5,
        workers: int = 1,
        browser_leak: Literal["report", "revoke"] = "report",
        on_decision: Callable[[Decision], None] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._shared = _Shared(
            url,
            environment=checked_environment(environment),
            ring=None if secrets is None else SecretRing(secrets),
            key_prefix=key_prefix,
            issuing=planned(issuer, audience, sessions),
            issuers=issuers,
            staleness=staleness,
            workers=workers,
            browser_leak=browser_leak,
            on_decision=on_decision,
            clock=clock,
            journal=self._journal,
        )
        self._blocking = BlockingBartizan(self._shared)

    @classmethod
    def from_env(cls, prefix: str = "BARTIZAN", **program: Any) -> "Self":
        """What differs between deployments from the environment, what is program from arguments, which win.

        Reads `_URL`, `_ENVIRONMENT`, `_ISSUER`, `_AUDIENCE`, `_KEY_PREFIX`, `_WORKERS`, and `_SECRETS` (separated by
        white space) or `_SECRETS_FILE` (one a line), newest first. Any other name with the prefix is a warning,
        `_TEST_…` and `_REQUIRE_…` aside.
        """
        given = {**settings(os.environ, prefix), **program}
        if "environment" not in given:
            raise Misuse(f'{prefix}_ENVIRONMENT is "live" or "test"')
        return cls(**given)

    @property
    def keys(self) -> Keys:
        """API keys: create, rotate, revoke, authenticate."""
        return self._shared.side.keys

    @property
    def links(self) -> Links:
        """Texts that let whoever holds them do one thing: issue, redeem."""
        return self._shared.side.links

    @property
    def signing_keys(self) -> SigningKeys:
        """The keys that sign consumers' tokens: rotate, revoke, jwks."""
        return self._shared.side.tokens.signing

    @property
    def once(self) -> Once:
        """Each text once: `async with security.once.claim(…) as claim`."""
        return self._shared.side.once

    @property
    def blocking(self) -> BlockingBartizan:
        """The same without `await`, over the same caches, journal and store."""
        return self._blocking

    def gate(self, rules: Sequence[Rule], *, environments: Collection[Environment] | None = None) -> Gate:
        """A gate of these rules. What no rule names is refused.

        `environments` are those whose keys are served; by default the instance's own.
        """
        return self._shared.gate(rules, environments)

    def job(self, name: str, *, org: str | None = None, scopes: Collection[str] = ()) -> Job:
        """Work that no request asked for: within the block `current_principal()` is a `JobPrincipal`.

        Without `org` it may name any organization, and an event tells of each.
        """
        return self._shared.job(name, org, scopes)

    def carry(self, *, name: str, seconds: int = 3600) -> str:
        """The current principal's authority as a text for a queue, for the job `name` alone.

        It is good for `seconds`, a day at most, and never beyond the principal's own end.
        """
        return self._shared.carrier.carry(name=name, seconds=seconds)

    def resume(self, carried: str, *, name: str) -> Job:
        """In the worker: `with security.resume(carried, name=…) as job` works with what was carried, at most.

        `InvalidCode` for a text that is not ours, for another job, or over. Whether the credential still lives is for
        `recheck(job)` to ask.
        """
        return self._shared.carrier.resume(carried, name=name)

    async def recheck(self, principal: Principal) -> None:
        """Return while the key of this principal, or the one a resumed job carries, lives; raise once it has ended."""
        await self._shared.side.recheck(principal)

    async def ready(self) -> None:
        """Return if the store answers, raise `Unavailable` if not: for readiness probes.

        A root secret that keys in the store need and `secrets` lacks is `Misuse`, which names its id.
        """
        await self._shared.side.ready()

    async def secret_use(self) -> Sequence[SecretUse]:
        """What still needs each root secret: those of the ring, newest first, then those that it lacks.

        Records go over to the newest root as they are used; what has not been used must be issued anew and revoked.
        """
        return await self._shared.side.secret_use()

    async def __aenter__(self) -> "Self":
        await self._shared.side.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._shared.threads.run(self._shared.close)
