"""`Kit`: a whole Bartizan for the tests of an application, with a clock to turn and real credentials to send."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from difflib import unified_diff
from os import PathLike
from pathlib import Path
from typing import Any

from bartizan.access.carry import Home
from bartizan.audit.journal import OutboxJournal
from bartizan.core.drive import run
from bartizan.core.events import OUTBOX, AuditEvent, OutboxRow, outbox_row
from bartizan.core.passage import Decision
from bartizan.core.ports import Clock, SystemClock
from bartizan.core.principal import Principal, SecretPrincipal, Unit, current_unit
from bartizan.core.ring import new_root
from bartizan.core.tables import Insert
from bartizan.credentials.key_rows import IssuedKey
from bartizan.credentials.key_text import Kind
from bartizan.integrations.application import table_of
from bartizan.stores.memory import MemoryBackend
from bartizan.testing.clock import FakeClock
from bartizan.wiring import Bartizan


class _Journal(OutboxJournal):
    """A journal that remembers its notes."""

    def __init__(self, clock: Clock, wake: Callable[[], object] = lambda: None) -> None:
        super().__init__(clock, wake=wake)
        self._now = clock
        self.seen: list[OutboxRow] = []
        self.order: dict[str, int] = {}  # a clock that stands still cannot tell which came first

    def note(self, event: AuditEvent, /) -> str:
        """As `OutboxJournal.note`, and kept."""
        row_id = super().note(event)
        self.seen.append(outbox_row(event, row_id, nanoseconds=self._now.nanoseconds()))
        self.order[row_id] = len(self.order)
        return row_id

    def within(self, event: AuditEvent, /) -> tuple[Insert[OutboxRow], ...]:
        """As `OutboxJournal.within`."""
        steps = super().within(event)
        self.order |= {step.key: len(self.order) for step in steps}
        return steps


class _Recorded(Bartizan):
    _journal = _Journal


class Kit:
    """A fresh `Bartizan` in memory, in the test environment; keyword arguments replace any of its own.

    It issues *real* credentials: production code holds no bypass for tests.
    """

    def __init__(self, **arguments: Any) -> None:
        self.clock: FakeClock = FakeClock()
        self.decisions: list[Decision] = []
        # A backend and not `memory://`, which is refused where the environment says that several processes serve.
        url = arguments.pop("url", None) or MemoryBackend(self.clock)
        defaults: dict[str, Any] = {
            "environment": "test",
            "secrets": [new_root()],
            "issuer": "kit",
            "audience": "kit-api",
            "clock": self.clock,
            "on_decision": self.decisions.append,
        }
        self.security: Bartizan = _Recorded(url, **{**defaults, **arguments})

    @property
    def events(self) -> list[OutboxRow]:
        """What happened so far, oldest first."""
        backend = self.security._shared.blocking_side.backend  # noqa: SLF001
        written = [] if backend is None else run(backend.find(OUTBOX, (), limit=10_000))
        journal = self.security._shared.journal  # noqa: SLF001
        if not isinstance(journal, _Journal):
            return list(written)
        order = journal.order
        return sorted([*written, *journal.seen], key=lambda row: (row.at, order.get(row.id, -1)))

    def key(self, *, org: str, kind: Kind = "secret", scopes: Collection[str] = (), **fields: Any) -> IssuedKey:
        """A new API key."""
        return self.security.blocking.keys.create(org=org, kind=kind, scopes=scopes, **fields)

    def as_key(self, *, org: str, kind: Kind = "secret", scopes: Collection[str] = (), **fields: Any) -> dict[str, str]:
        """The headers of a request by a new API key."""
        return headers_of(self.key(org=org, kind=kind, scopes=scopes, **fields))

    def token(self, *, org: str, subject: str, **fields: Any) -> str:
        """The access token of a new session of a consumer; `fields` as for `sessions.start`."""
        return self.security.blocking.sessions.start(org=org, subject=subject, **fields).access_token

    def as_consumer(self, *, org: str, subject: str, **fields: Any) -> dict[str, str]:
        """The headers of a request by a consumer in a new session; `fields` as for `sessions.start`."""
        return {"Authorization": f"Bearer {self.token(org=org, subject=subject, **fields)}"}

    @staticmethod
    def assert_routes(app: Any, file: str | PathLike[str]) -> None:
        """Fail where the table of this application, each route with its rule, is not what the file says.

        A file that is not there is written, and the test fails once: look at it, and commit it with the change.
        """
        table, path = str(table_of(app)), Path(file)
        if not path.exists():
            path.write_text(table, "utf-8")
            raise AssertionError(f"{path} was not there and has been written: look at it, and commit it")
        lines = unified_diff(path.read_text("utf-8").splitlines(), table.splitlines(), str(path), "now", lineterm="")
        difference = "\n".join(lines)
        if difference:
            raise AssertionError(
                f"who may come by which route has changed; if that is meant, delete {path}, run this test once, and "
                f"commit what it writes\n{difference}"
            )


def headers_of(issued: IssuedKey) -> dict[str, str]:
    """The headers in which this key travels."""
    if issued.record.kind == "publishable":
        return {"X-Publishable-Key": issued.key}
    return {"Authorization": f"Bearer {issued.key}"}


def a_secret_key(*, org: str = "org_1", scopes: Collection[str] = ()) -> SecretPrincipal:
    """A principal for a test of a plain function: of a real key that a real verifier has seen."""
    kit = Kit()
    principal = kit.security.blocking.keys.authenticate(kit.key(org=org, scopes=scopes).key)
    if not isinstance(principal, SecretPrincipal):
        raise TypeError("a secret key makes a secret principal")
    return principal


class _Acting(Unit):
    """A unit of work of a test."""

    label = "acting_as"


@contextmanager
def acting_as(principal: Principal, *, of: Kit | None = None) -> Iterator[None]:
    """Within the block `current_principal()` is this one, in a unit of work of its own.

    `of` is the kit in whose instance it works; without it, in one of the principal's environment that notes nothing.
    """
    clock = SystemClock()
    home = Home(principal.environment, clock, OutboxJournal(clock)) if of is None else of.security._shared.home  # noqa: SLF001
    unit = _Acting((principal,), None, home)
    before = current_unit.set(unit)
    try:
        yield
    finally:
        unit.over = True
        current_unit.reset(before)
