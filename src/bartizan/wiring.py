"""`Bartizan`: the only place where services meet."""

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from bartizan.audit.journal import OutboxJournal
from bartizan.blocking import BlockingKeys
from bartizan.core.cache import Cache
from bartizan.core.drive import run
from bartizan.core.passage import Authenticator, Decision, Rule, checked_scopes
from bartizan.core.ports import Clock, SteppedClock, SystemClock, Waits
from bartizan.core.principal import Environment, JobPrincipal, callers, verified
from bartizan.core.ring import MAKE_ONE, SecretRing
from bartizan.core.tables import Backend
from bartizan.credentials.key_format import KeyFormat, checked_environment, checked_org
from bartizan.credentials.key_rows import KEYS, Entry
from bartizan.credentials.key_stage import CHALLENGES, KeyAuthenticator
from bartizan.credentials.key_text import KINDS
from bartizan.credentials.key_uses import USED_EVERY, KeyUses
from bartizan.credentials.keys import Keys
from bartizan.errors import Misuse
from bartizan.gate.gate import Gate
from bartizan.gate.rules import compiled
from bartizan.operations.upkeep import Upkeep
from bartizan.stores.memory import MemoryBackend
from bartizan.stores.sqlite import SqliteFile
from bartizan.stores.waits import AsyncWaits, BlockingWaits, Threads

if TYPE_CHECKING:
    from typing import Self


class Job:
    """Work under a principal of its own, for as long as the block lasts."""

    __slots__ = ("_principal", "_token")

    def __init__(self, environment: Environment, name: str, org: str | None, scopes: Collection[str]) -> None:
        if not 1 <= len(name) <= 100 or not name.isprintable():
            raise Misuse("a job has a name of 1 to 100 printable characters")
        self._principal = verified(
            JobPrincipal,
            org=None if org is None else checked_org(org),
            environment=environment,
            scopes=checked_scopes(scopes),
            expires_at=None,
            actor=f"job:{name}",
            name=name,
            origin=None,
        )

    def __enter__(self) -> JobPrincipal:
        held = callers.get(())
        if held and held[0].org is not None and held[0].org != self._principal.org:
            raise Misuse("a job of another organization, or of none, does not start while a principal is current")
        self._token = callers.set((self._principal,))
        return self._principal

    def __exit__(self, *_: object) -> None:
        callers.reset(self._token)


class Store(Protocol):
    """A store with a backend for each form."""

    @property
    def asynchronous(self) -> Backend:
        """For an event loop."""

    @property
    def blocking(self) -> Backend:
        """For threads."""

    def close(self) -> None:
        """Let go of what is open; the next use opens it again."""


class _Both:
    """A backend that never waits serves both forms."""

    def __init__(self, backend: Backend) -> None:
        self.asynchronous = self.blocking = backend

    def close(self) -> None:
        """Nothing is open."""


def _store(url: str | Backend, clock: Clock) -> Store:
    if not isinstance(url, str):
        return _Both(url)
    if url == "memory://":
        return _Both(MemoryBackend(clock))
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        return SqliteFile(url.removeprefix("sqlite:///"), clock)
    raise Misuse("url is memory://, sqlite:///path (relative) or sqlite:////path (absolute)")


class _Side:
    """The services of one form, async or blocking."""

    def __init__(self, shared: "_Shared", waits: Waits, backend: Backend | None) -> None:
        self.backend = backend
        self._keys: Keys | None = None
        if backend is not None and shared.ring is not None and shared.form is not None:
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
            )

    @property
    def keys(self) -> Keys:
        """The keys, where there is all that they need."""
        if self._keys is None:
            raise Misuse(f"keys need url= and secrets=; {MAKE_ONE}")
        return self._keys

    def authenticators(self, environments: Collection[Environment]) -> list[Authenticator]:
        """What can be verified here."""
        if self._keys is None:
            return []
        return [KeyAuthenticator(self._keys, kind, environments) for kind in KINDS]

    async def ready(self) -> None:
        """One read of the store."""
        if self.backend is not None:
            await self.backend.get(KEYS, "-")


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
        on_decision: Callable[[Decision], None] | None,
        clock: Callable[[], int] | None,
        journal: type[OutboxJournal],
    ) -> None:
        self.environment = environment
        self.staleness = staleness
        self.clock: Clock = SystemClock() if clock is None else SteppedClock(clock)
        self.ring = ring
        self.form: KeyFormat | None = (
            None if ring is None else KeyFormat.over(ring, environment=environment, key_prefix=key_prefix)
        )
        self.cache: Cache[Entry] = Cache(clock=self.clock, staleness=staleness)
        self.upkeep: Upkeep = Upkeep()
        self.journal: OutboxJournal = journal(self.clock, wake=self.upkeep.need)
        self.uses: KeyUses = KeyUses(self.upkeep.need)
        self.on_decision = on_decision
        self.store: Store | None = None if url is None else _store(url, self.clock)
        backend, blocking = (None, None) if self.store is None else (self.store.asynchronous, self.store.blocking)
        self.threads: Threads = Threads()
        self.side: _Side = _Side(self, AsyncWaits(), backend)
        self.blocking_side: _Side = _Side(self, BlockingWaits(), blocking)
        self.upkeep.add(self.journal.drain, every=1)
        if blocking is not None:
            self.upkeep.add(lambda: run(self.uses.write(blocking)), every=USED_EVERY)

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

    def close(self) -> None:
        """Write what waits to be written, and close the store; both begin anew at their next use."""
        self.upkeep.close()
        if self.store is not None:
            self.store.close()


class Bartizan:
    """The security of one service in one environment. Opening does no I/O and starts nothing.

    `url` is `memory://`, `sqlite:///path` (relative) or `sqlite:////path` (absolute); `secrets` are roots, newest
    first; `staleness` is how many seconds a cached answer may be old (0 to 300); `on_decision` sees every verdict.
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
        on_decision: Callable[[Decision], None] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._shared = _Shared(
            url,
            environment=checked_environment(environment),
            ring=None if secrets is None else SecretRing(secrets),
            key_prefix=key_prefix,
            staleness=staleness,
            on_decision=on_decision,
            clock=clock,
            journal=self._journal,
        )
        self._blocking = BlockingBartizan(self._shared)

    @classmethod
    def from_env(cls, prefix: str = "BARTIZAN", **program: Any) -> "Self":
        """What differs between deployments from the environment, what is program from arguments, which win.

        Reads `_URL`, `_ENVIRONMENT`, `_KEY_PREFIX`, and `_SECRETS` (separated by white space) or `_SECRETS_FILE` (one a
        line), newest first. Any other name with the prefix is a warning, `_TEST_…` and `_REQUIRE_…` aside.
        """
        return cls(**{**_from_env(os.environ, prefix), **program})

    @property
    def keys(self) -> Keys:
        """API keys: create, rotate, revoke, authenticate."""
        return self._shared.side.keys

    @property
    def blocking(self) -> "BlockingBartizan":
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
        return Job(self._shared.environment, name, org, scopes)

    async def ready(self) -> None:
        """Return if the store answers, raise `Unavailable` if not: for readiness probes."""
        await self._shared.side.ready()

    async def __aenter__(self) -> "Self":
        await self._shared.side.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._shared.threads.run(self._shared.close)


class BlockingBartizan:
    """`Bartizan` for WSGI, scripts and the command line; a context manager as well."""

    def __init__(self, shared: "_Shared") -> None:
        self._shared = shared

    @property
    def keys(self) -> BlockingKeys:
        """API keys: create, rotate, revoke, authenticate."""
        return BlockingKeys(self._shared.blocking_side.keys)

    def job(self, name: str, *, org: str | None = None, scopes: Collection[str] = ()) -> Job:
        """As `Bartizan.job`."""
        return Job(self._shared.environment, name, org, scopes)

    def ready(self) -> None:
        """As `Bartizan.ready`."""
        run(self._shared.blocking_side.ready())

    def __enter__(self) -> "Self":
        self.ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._shared.close()


_NAMES = {"URL": "url", "ENVIRONMENT": "environment", "KEY_PREFIX": "key_prefix"}


def _from_env(environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    given = {name.removeprefix(f"{prefix}_"): value for name, value in environ.items() if name.startswith(f"{prefix}_")}
    out: dict[str, Any] = {_NAMES[name]: value for name, value in given.items() if name in _NAMES}
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
    if "environment" not in out:
        raise Misuse(f'{prefix}_ENVIRONMENT is "live" or "test"')
    return out
