"""`Bartizan`: the only place where services meet."""

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bartizan.access.carry import Carrier, Job, behind, job
from bartizan.audit.journal import OutboxJournal
from bartizan.blocking import BlockingBartizan
from bartizan.core.cache import Cache
from bartizan.core.drive import run
from bartizan.core.once import ONCE, Once
from bartizan.core.passage import Authenticator, Decision, Rule
from bartizan.core.ports import Clock, SteppedClock, SystemClock, Waits
from bartizan.core.principal import Environment, Principal
from bartizan.core.ring import MAKE_ONE, SecretRing
from bartizan.core.roots import Roots, SecretUse
from bartizan.core.tables import Backend
from bartizan.credentials.key_format import KeyFormat, checked_environment, checked_org
from bartizan.credentials.key_rows import KEYS, PEPPERED, Entry
from bartizan.credentials.key_stage import CHALLENGES, KeyAuthenticator
from bartizan.credentials.key_text import KINDS
from bartizan.credentials.key_uses import USED_EVERY, KeyUses
from bartizan.credentials.keys import Keys
from bartizan.credentials.links import Links
from bartizan.errors import Misuse
from bartizan.gate.gate import Gate
from bartizan.gate.rules import compiled
from bartizan.operations.upkeep import Upkeep
from bartizan.stores.urls import Store, opened
from bartizan.stores.waits import AsyncWaits, BlockingWaits, Threads

if TYPE_CHECKING:
    from typing import Self


PURGED_EVERY = 60  # seconds between two looks for markers that are over
PURGED_AT_ONCE = 1000


class _Side:
    """The services of one form, async or blocking."""

    def __init__(self, shared: "_Shared", waits: Waits, backend: Backend | None) -> None:
        self.backend = backend
        self._clock = shared.clock
        self._used_roots: Roots | None = None
        self._keys: Keys | None = None
        self._links: Links | None = None
        self._once: Once | None = None
        if backend is not None:
            self._once = Once(
                backend=backend,
                waits=waits,
                environment=shared.environment,
                clock=shared.clock,
                journal=shared.journal,
                wake=shared.once_used,
            )
        if backend is not None and shared.ring is not None and shared.form is not None:
            self._used_roots = Roots(
                backend=backend,
                waits=waits,
                ring=shared.ring,
                environment=shared.environment,
                clock=shared.clock,
                dependants=[PEPPERED],
            )
            self._keys = Keys(
                backend=backend,
                waits=waits,
                ring=shared.ring,
                form=shared.form,
                environment=shared.environment,
                clock=shared.clock,
                cache=shared.cache,
                journal=shared.journal,
                uses=shared.uses,
                roots=self._used_roots,
                browser_leak=shared.browser_leak,
            )
            self._links = Links(
                backend=backend,
                ring=shared.ring,
                environment=shared.environment,
                clock=shared.clock,
                journal=shared.journal,
                wake=shared.once_used,
            )

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
        if self._keys is None:
            return []
        return [KeyAuthenticator(self._keys, kind, environments) for kind in KINDS]

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
        self.on_decision = on_decision
        self._carrier: Carrier | None = None
        if ring is not None:
            self._carrier = Carrier(ring=ring, environment=environment, clock=self.clock, journal=self.journal)
        self._purges = False
        self.store: Store | None = None if url is None else opened(url, self.clock, workers)
        backend, blocking = (None, None) if self.store is None else (self.store.asynchronous, self.store.blocking)
        self.threads: Threads = Threads()
        self.side: _Side = _Side(self, AsyncWaits(), backend)
        self.blocking_side: _Side = _Side(self, BlockingWaits(), blocking)
        self.upkeep.add(self.journal.drain, every=1)
        if blocking is not None:
            self.upkeep.add(lambda: run(self.uses.write(blocking)), every=USED_EVERY)
            self.upkeep.add(lambda: self._purge(blocking), every=PURGED_EVERY)

    def gate(self, rules: Sequence[Rule], environments: Collection[Environment] | None) -> Gate:
        """A gate and, at its first use, its blocking twin over the same table."""
        served = frozenset({self.environment} if environments is None else map(checked_environment, environments))
        if not served:
            raise Misuse("environments is not empty")
        ours = self.side.authenticators(served)
        table = compiled(rules, {kind: CHALLENGES[kind] for a in ours for kind in a.kinds})

        def made(side: _Side, twin: Callable[[], Gate] | None) -> Gate:
            authenticators = side.authenticators(served)
            return Gate(
                table,
                authenticators,
                journal=self.journal,
                on_decision=self.on_decision,
                twin=twin,
                every=self.staleness,
            )

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
    first; `staleness` is how many seconds a cached answer may be old (0 to 300); `workers` is how many processes serve;
    `browser_leak` is what becomes of a secret key that a web page sent, besides its refusal; `on_decision` sees every
    verdict.
    Only what is used is asked for: `keys` needs `url` and `secrets`, a gate of open rules neither.
    """

    _journal: ClassVar[type[OutboxJournal]] = OutboxJournal

    def __init__(
        self,
        url: str | Backend | None = None,
        *,
        environment: Environment,
        secrets: Sequence[str] | None = None,
        key_prefix: str | None = None,
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

        Reads `_URL`, `_ENVIRONMENT`, `_KEY_PREFIX`, `_WORKERS`, and `_SECRETS` (separated by white space) or
        `_SECRETS_FILE` (one a line), newest first. Any other name with the prefix is a warning, `_TEST_…` and
        `_REQUIRE_…` aside.
        """
        settings = {**_from_env(os.environ, prefix), **program}
        if "environment" not in settings:
            raise Misuse(f'{prefix}_ENVIRONMENT is "live" or "test"')
        return cls(**settings)

    @property
    def keys(self) -> Keys:
        """API keys: create, rotate, revoke, authenticate."""
        return self._shared.side.keys

    @property
    def links(self) -> Links:
        """Texts that let whoever holds them do one thing: issue, redeem."""
        return self._shared.side.links

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


_NAMES = {"URL": "url", "ENVIRONMENT": "environment", "KEY_PREFIX": "key_prefix", "WORKERS": "workers"}


def _from_env(environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    given = {name.removeprefix(f"{prefix}_"): value for name, value in environ.items() if name.startswith(f"{prefix}_")}
    out: dict[str, Any] = {_NAMES[name]: value for name, value in given.items() if name in _NAMES}
    if "workers" in out:
        if not out["workers"].isdecimal():
            raise Misuse(f"{prefix}_WORKERS: workers is the number of processes that serve")
        out["workers"] = int(out["workers"])
    if "SECRETS" in given and "SECRETS_FILE" in given:
        raise Misuse(f"{prefix}_SECRETS or {prefix}_SECRETS_FILE, not both")
    if "SECRETS" in given:
        out["secrets"] = given["SECRETS"].split()
    if "SECRETS_FILE" in given:
        try:
            out["secrets"] = Path(given["SECRETS_FILE"]).read_text(encoding="ascii").split()
        except (OSError, ValueError):
            raise Misuse(f"{prefix}_SECRETS_FILE cannot be read") from None
    for name in sorted(given.keys() - _NAMES.keys() - {"SECRETS", "SECRETS_FILE"}):
        if not name.startswith(("TEST_", "REQUIRE_")):
            warnings.warn(f"{prefix}_{name} is not a setting of Bartizan", stacklevel=3)
    return out
