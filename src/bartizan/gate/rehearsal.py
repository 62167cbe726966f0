"""The gate's own stages, run on a request that nobody sent: what would be written or told is only said."""

from collections.abc import Mapping, Sequence
from typing import Any

from bartizan.core.events import Journal
from bartizan.core.passage import Ambient, Authenticator, Refuse
from bartizan.core.ports import Clock, Waits
from bartizan.core.principal import Noted, Principal, current_unit
from bartizan.core.request import Request
from bartizan.core.requirement import Condition
from bartizan.core.tables import Backend
from bartizan.errors import BartizanError, NotAsked, Reason, WouldWrite
from bartizan.gate.doors import Door
from bartizan.gate.explanation import PLACES, Explanation, Outcome, Step
from bartizan.gate.gate import Gate
from bartizan.gate.patterns import Table
from bartizan.gate.presented import Found, Reader, Slots
from bartizan.gate.rules import Plan


class ReadOnly:
    """A backend that reads, and says `WouldWrite` to every change. `wrote` is whether there was one."""

    def __init__(self, backend: Backend) -> None:
        self.get: Any = backend.get
        self.read: Any = backend.read
        self.find: Any = backend.find
        self.wrote: bool = False

    async def change(self, *_: Any, **__: Any) -> Any:
        """`WouldWrite`."""
        self.wrote = True
        raise WouldWrite

    async def purge(self, *_: Any, **__: Any) -> int:
        """`WouldWrite`."""
        raise WouldWrite


class _Watched(Reader):
    """Remembers what was presented."""

    found: Sequence[Found] | None = None

    def credentials(self, request: Request, slots: Slots) -> list[Found]:
        """As the gate's."""
        self.found = found = super().credentials(request, slots)
        return found


class ShutDoor(Door):
    """A door whose authenticator is not asked."""

    def recognises(self, presented: bytes, /) -> bool:
        """Whatever may be for it."""
        return self.slot != "authorization" or presented[:7].lower() != b"bearer "

    async def authenticate(self, _: bytes, request: Request, /) -> Principal:
        """`NotAsked`."""
        self.check(request)
        raise NotAsked


class Rehearsal(Gate):
    """A gate over the same table that says how far a request came. One is made for each question."""

    def __init__(
        self,
        table: Table,
        authenticators: Sequence[Authenticator],
        doors: Sequence[Door],
        *,
        clock: Clock,
        journal: Journal,
        waits: Waits,
        home: Noted,
        callbacks: bool,
        store: ReadOnly | None,
        ambient: Ambient | None = None,
    ) -> None:
        super().__init__(
            table, authenticators, doors, clock=clock, journal=journal, waits=waits, home=home, ambient=ambient
        )
        self._callbacks = callbacks
        self._store = store
        self._reader = self._watched = _Watched(authenticators, doors)
        self._reached: Plan | None = None
        self._asked = False

    def _plan(self, request: Request, segments: Sequence[str]) -> Plan:
        self._reached = super()._plan(request, segments)
        return self._reached

    async def _settled(
        self, plan: Plan, held: dict[str, Principal], request: Request, segments: Sequence[str]
    ) -> tuple[Principal, ...]:
        self._asked = True
        return await super()._settled(plan, held, request, segments)

    async def _denied(
        self, conditions: Sequence[Condition], caller: Principal, request: Request
    ) -> BartizanError | None:
        self._asked = True
        return await super()._denied(conditions, caller, request) if self._callbacks else NotAsked()

    async def explained(self, request: Request) -> Explanation:
        """What the gate would say to this request, place by place."""
        before = current_unit.get()
        try:
            verdict = await self.check(request)
        finally:
            current_unit.set(before)
        error = verdict.error if isinstance(verdict, Refuse) else None
        refused_at = len(PLACES) if error is None else PLACES.index(self._place(error.reason, request))
        outcome: Outcome = "refused"
        if isinstance(error, WouldWrite):
            outcome = "would write"
        elif isinstance(error, NotAsked):
            outcome = "not asked"
        held = {} if isinstance(verdict, Refuse) else verdict.held
        steps = []
        for at, place in enumerate(PLACES):
            note = self._note(place, request, held) if at <= refused_at else ""
            if at == refused_at and error is not None:
                steps.append(Step(place=place, outcome=outcome, reason=error.reason.value, note=error.about or note))
            elif self._reached is not None and self._reached.look == "away" and at > 1:
                steps.append(Step(place=place, outcome="not reached", note="untouched()"))
            elif self._reached is not None and self._reached.look == "nothing" and at > 2:
                steps.append(Step(place=place, outcome="not reached", note="public()"))
            else:
                steps.append(Step(place=place, outcome="passed" if at < refused_at else "not reached", note=note))
        return Explanation(
            rule=None if self._reached is None else self._reached.rule,
            steps=tuple(steps),
            admitted=None if outcome != "refused" else error is None,
            status=0 if error is None or outcome != "refused" else error.status,
            reason=(Reason.ADMITTED if error is None else error.reason).value,
        )

    def _place(self, reason: Reason, request: Request) -> str:
        """How far it came."""
        if reason is Reason.PREFLIGHT:
            return "preflight"
        if self._reached is None:
            return "target" if reason is Reason.MALFORMED_TARGET else "rule"
        if request.slots is None or (self._reached.look == "caller" and self._watched.found is None):
            return "presented"
        return "requirement" if self._asked or reason is Reason.WRONG_ORGANIZATION else "credential"

    def _note(self, place: str, request: Request, held: Mapping[str, Principal]) -> str:
        plan = self._reached
        if place == "target":
            return repr(request.path)
        if place == "rule" and plan is not None:
            asked = " | ".join(sorted(" & ".join(sorted(way)) or "nobody" for way in plan.requirement.ways))
            return f"{plan.pattern.text} asks for {asked}"
        if place == "presented" and self._watched.found is not None:
            return ", ".join(f"{kind} in {a.slot}" for a, _, kind in self._watched.found) or "nothing"
        if place == "credential":
            said = [f"{caller.actor} of {caller.org}" for caller in held.values()]
            if said and self._store is not None and self._store.wrote:
                known = "consumer" in held
                said.append(f"it would be written {'that it was used' if known else 'anew under the newest secret'}")
            return ", ".join(said)
        return ""
