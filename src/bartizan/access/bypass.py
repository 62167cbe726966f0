"""What every wall has: one way past it, which is named, noted and ends by itself, and a sample of who reads what."""

from contextvars import ContextVar
from types import TracebackType

from bartizan.core.context import living_unit
from bartizan.core.principal import Principal, Unit, current_principal
from bartizan.errors import Misuse

LONGEST = 3600
SAMPLED_EVERY = 60  # seconds between two events of one rule and table
MOST_SAMPLES = 10_000


class Bypass:
    """A block in which a wall lets every organization through: by whom, why and how often is in two events."""

    __slots__ = ("_held", "_principal", "_reason", "_seconds", "_token", "_unit", "ends", "statements")

    def __init__(self, held: "ContextVar[Bypass | None]", reason: str, seconds: int) -> None:
        if not 8 <= len(reason) <= 200 or not reason.isprintable():
            raise Misuse("reason says in 8 to 200 printable characters why every organization's rows are touched")
        if isinstance(seconds, bool) or not 1 <= seconds <= LONGEST:
            raise Misuse(f"seconds is 1 to {LONGEST}: how long the wall is down at most")
        self._held = held
        self._reason = reason
        self._seconds = seconds
        self._unit: Unit | None = None
        self.ends: int = 0
        self.statements: int = 0

    def __enter__(self) -> None:
        if self._unit is not None:
            raise Misuse("a bypass is entered once")
        self._unit = unit = living_unit()
        self._principal: Principal = current_principal()
        self.ends = unit.home.seconds() + self._seconds
        self._note("isolation.bypassed", unit, seconds=self._seconds)
        self._token = self._held.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ends = 0  # first: a copy of this context, in a task or a thread, has it still
        if self._unit is not None:
            self._note("isolation.resumed", self._unit, statements=self.statements)
        self._held.reset(self._token)

    def _note(self, name: str, unit: Unit, **data: int) -> None:
        principal = self._principal
        unit.home.note(name, org=principal.org, actor=principal.actor, data={"reason": self._reason, **data})

    def holds(self) -> bool:
        """Whether the wall is down for the code that runs now; `Misuse` where its time is up."""
        unit = living_unit()
        if unit is not self._unit or not self.ends:
            return False
        if unit.home.seconds() >= self.ends:
            raise Misuse("the time of unsafe_every_org is up")
        return True


class Accesses:
    """One event of `data.accessed` for each organization, rule, table and kind of access in `SAMPLED_EVERY` seconds."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told: dict[tuple[str, str, str, str], int] = {}

    def note(self, org: str, table: str, access: str) -> None:
        """`access` is `read` or `write`."""
        unit = living_unit()
        key = (org, unit.label, table, access)
        now = unit.home.seconds()
        before = self._told.get(key)
        if before is not None and 0 <= now - before < SAMPLED_EVERY:
            return
        if len(self._told) >= MOST_SAMPLES:
            self._told.clear()
        self._told[key] = now
        actor = current_principal().actor
        unit.home.note("data.accessed", org=org, actor=actor, target=table, data={"rule": unit.label, "access": access})
