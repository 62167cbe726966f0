"""The gate: one decision for each request. It knows requirements and authenticators, and no feature."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from time import perf_counter_ns
from typing import Final

from bartizan.core.drive import Blocking, blocking
from bartizan.core.events import AuditEvent, Journal
from bartizan.core.passage import Admit, Ambient, Authenticator, Decision, Edits, Head, HeaderPairs, Login, Refuse, Rule
from bartizan.core.ports import Clock, Waits
from bartizan.core.principal import NOBODY, PERSONAL, Noted, Presence, Principal, current_unit
from bartizan.core.request import Request
from bartizan.core.requirement import Condition
from bartizan.errors import (
    BartizanError,
    Forbidden,
    MethodNotAllowed,
    Misuse,
    NotFound,
    Reason,
    Rejected,
    TooLarge,
    Unavailable,
)
from bartizan.gate.cookies import by_cookie, navigates
from bartizan.gate.doors import Door
from bartizan.gate.explanation import Explains, Explanation, request_for
from bartizan.gate.patterns import METHODS, Pattern, Table, params_of, segments_of
from bartizan.gate.presented import LENGTH, Reader, check_length, is_preflight, scan
from bartizan.gate.problems import Problems, asked as _asked, refusal
from bartizan.gate.rules import Plan
from bartizan.gate.settled import denial, ways_met
from bartizan.gate.targets import MALFORMED, judged

ANONYMOUS = "anonymous"
SOCKETS = ("ws", "wss")
_NOBODY = {method: Presence(NOBODY, method) for method in (*METHODS, "")}  # before the verdict, and where nobody asks


class Gate:
    """A compiled rule set that answers every request with `Admit` or `Refuse`.

    `every` is how many seconds an open stream may go on before it is asked again whether it may.
    """

    def __init__(
        self,
        table: Table,
        authenticators: Sequence[Authenticator],
        doors: Sequence[Door] = (),
        *,
        clock: Clock,
        journal: Journal,
        waits: Waits,
        home: Noted,
        on_decision: Callable[[Decision], None] | None = None,
        problems: Problems | None = None,
        twin: "Callable[[], Gate] | None" = None,
        rehearse: Callable[[bool], Explains] | None = None,
        every: float = 5,
        ambient: Ambient | None = None,
        login: Login | None = None,
    ) -> None:
        self._ambient = ambient
        self._login = login
        self._table = table
        self._match = table.match
        self._reader = Reader(authenticators, doors)
        self._by_kind: dict[str, Authenticator | Door] = {kind: a for a in authenticators for kind in a.kinds}
        self._by_kind.update({door.name: door for door in doors})
        self._personal = (*PERSONAL[:3], *(door.name for door in doors), *PERSONAL[3:])
        self._companions = frozenset().union(*(a.kinds for a in authenticators if a.accompanies))
        self._clock = clock
        self._journal = journal
        self._waits = waits
        self._home = home
        self._on_decision = on_decision
        self._problems = problems
        self._reported: frozenset[str] = frozenset()
        self._unobserved = 0
        self._twin = twin
        self._rehearse = rehearse
        self.every: float = max(every, 1)
        self._blocking: BlockingGate | None = None

    @property
    def blocking(self) -> "BlockingGate":
        """The same gate without `await`, for WSGI."""
        if self._blocking is None:
            if self._twin is None:
                raise Misuse("this gate has no blocking form")
            self._blocking = BlockingGate(self._twin())
        return self._blocking

    async def check(self, request: Request) -> Admit | Refuse:
        """The verdict; `current_principal()` answers for this request from here on, whatever the verdict is."""
        current_unit.set(_NOBODY.get(request.method, _NOBODY[""]))
        started = perf_counter_ns() if self._on_decision is not None else 0
        held: dict[str, Principal] = {}
        plan: Plan | None = None
        verdict: Admit | Refuse
        failure: BartizanError | None = None
        try:
            segments = segments_of(request.path)
            plan = self._plan(request, segments)
            if plan.look == "away":
                verdict = plan.away
            else:
                slots = request.slots = scan(request.headers)
                if (length := slots[LENGTH]) is not None:
                    check_length(length, plan.rule.body_limit)
                if request.method == "OPTIONS" and is_preflight(request, slots):
                    raise Forbidden(Reason.PREFLIGHT)
                present: tuple[Principal, ...] = NOBODY
                head = None
                if plan.look == "caller":
                    principal: Principal | None = None
                    kind = ""
                    for authenticator, value, kind in self._reader.credentials(request, slots):
                        principal = await authenticator.authenticate(value, request)
                        held[kind] = principal
                    if self._ambient is not None and plan.cookies:
                        head = await by_cookie(self._ambient, plan, held, request, slots)
                    lone = plan.lone.get(kind) if principal is not None and len(held) == 1 else None
                    # What most requests are: one credential that is enough. `_settled` would say the same.
                    if principal is not None and lone is not None and lone <= principal.scopes:
                        present = (principal,)
                        if plan.conditions and (plan.org is None or principal.org == segments[plan.org]):
                            denied = await self._denied(plan.conditions, principal, request)
                            if denied is not None:
                                raise denied
                    else:
                        present = await self._settled(plan, held, request, segments)
                    if plan.org is not None and present[0].org != segments[plan.org]:
                        raise NotFound(Reason.WRONG_ORGANIZATION)
                pattern = plan.pattern
                params = params_of(pattern, segments) if pattern.names or pattern.rest_name else {}
                verdict = Admit(plan.rule, held, present, params, request.method, self._home, head)
                current_unit.set(verdict)
        except (Rejected, Unavailable) as error:
            failure = error
            if plan is not None and plan.pattern.text in self._reported and not isinstance(error, TooLarge):
                verdict = self._would_refuse(error, plan, held, request)
            else:
                verdict = self._refused(error, plan, held, request)
        if self._on_decision is not None:
            self._observe(plan, failure, isinstance(verdict, Refuse), held, perf_counter_ns() - started)
        return verdict

    async def end(self, admit: Admit, status: int) -> None:
        """The application has answered with `status`: what was held back until then is settled."""
        ends, admit.ends = admit.ends, None
        for hook in ends or ():
            await hook(status)

    async def begin(self, head: Head, headers: HeaderPairs) -> Edits:
        """What becomes of the head of an admitted request's answer, now that it leaves."""
        return await head.begin(headers)

    async def recheck(self, admit: Admit) -> None:
        """Return while every credential that let this request in still lives; raise once one has ended."""
        for kind, principal in admit.held.items():
            if principal not in admit.callers:
                continue  # it came too, and was not needed
            try:
                await self._by_kind[kind].recheck(principal)
            except Rejected as error:
                self._journal.note(
                    AuditEvent(
                        name="stream.ended",
                        org=principal.org,
                        actor=principal.actor,
                        target=admit.rule.patterns[0],
                        outcome="refused",
                        reason=error.reason,
                    )
                )
                raise

    def refusal(self, error: BartizanError, request: Request) -> Refuse:
        """The answer to an error that the application raised before its response started: an event like any refusal."""
        plan: Plan | None = None
        try:
            plan = self._plan(request, segments_of(request.path))
        except Rejected:
            plan = None
        unit = current_unit.get()
        if isinstance(unit, Admit):
            unit.head = None  # nothing is renewed by it
        return self._refused(error, plan, {p.kind: p for p in current_unit.get().callers}, request)

    async def explain(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        *,
        callbacks: bool = False,
        client: str | None = None,
    ) -> Explanation:
        """Why this gate would admit or refuse such a request; for developers, and never for whoever sent it.

        `target` is what stands on the wire, `/orders?limit=1`; `client` is the peer's address. The real stages run,
        but nothing is written, fetched, charged or told; the application's own functions are asked with `callbacks`
        only. What a cache holds does not count: a gate may be `staleness` seconds behind.
        """
        request = request_for(method, target, headers, client)
        if self._rehearse is None:
            raise Misuse("this gate explains nothing: take the one that security.gate() made")
        return await self._rehearse(callbacks).explained(request)

    def unsafe_report_only(self, *patterns: str) -> "Gate":
        """The same gate, but the rules of these patterns refuse nothing: what they would have refused is an event.

        It then reaches the application with nobody: `current_principal` raises. Malformed targets, paths and methods
        that no rule names, and bodies over the limit are refused all the same. Each is a pattern as its rule says it.
        """
        if not patterns or not {pattern.text for pattern in self.patterns}.issuperset(patterns):
            raise Misuse("unsafe_report_only takes patterns of this gate's own rules, at least one")
        gate, twin = copy(self), self._twin
        vars(gate).update(
            _reported=self._reported | frozenset(patterns),
            _blocking=None,
            _twin=None if twin is None else lambda: twin().unsafe_report_only(*patterns),
        )
        return gate

    def rule_for(self, method: str, path: str) -> Rule | None:
        """The rule that decides over this method and decoded path, or None where it is refused."""
        request = Request(method, path, [], None, "wss" if method == "WEBSOCKET" else "https")
        try:
            return self._plan(request, segments_of(path)).rule
        except Rejected:
            return None

    @property
    def patterns(self) -> Sequence[Pattern]:
        """Every pattern of its rules, for tables of them."""
        return [pattern for leaf in self._table.leaves.values() for pattern in leaf.patterns()]

    def slot_of(self, kind: str) -> str:
        """The header in which a kind of credential travels."""
        return self._by_kind[kind].slot

    def _plan(self, request: Request, segments: Sequence[str]) -> Plan:
        target = judged(request.path, request.raw_path, request.mount)
        if target == MALFORMED:
            raise NotFound(Reason.MALFORMED_TARGET)
        leaf = self._match(segments)
        if leaf is None:
            raise NotFound(Reason.MALFORMED_TARGET if target else Reason.NO_RULE)
        method = request.method
        pattern = leaf.by_method.get(method) or leaf.other
        # Some frameworks read `post` as POST, some do not; and only a handshake is a WEBSOCKET.
        if pattern is None or not method.isupper() or (method == "WEBSOCKET" and request.scheme not in SOCKETS):
            if request.method == "OPTIONS" and is_preflight(request, scan(request.headers)):
                raise Forbidden(Reason.PREFLIGHT)
            raise MethodNotAllowed(headers=(("Allow", leaf.allow),))
        if target and not pattern.rule.unsafe_encoded_slash:
            raise NotFound(Reason.MALFORMED_TARGET)
        plan: Plan = pattern.plan
        return plan

    async def _settled(
        self, plan: Plan, held: dict[str, Principal], request: Request, segments: Sequence[str]
    ) -> tuple[Principal, ...]:
        """Whom the requirement lets in: the callers of the first way that holds, most personal first."""
        ways = ways_met(plan, held, self._companions, self._clock)
        failed: BartizanError = Forbidden(Reason.CONDITION)
        for way in ways:
            present = tuple([held[kind] for kind in self._personal if kind in way.kinds])
            if way.conditions and plan.org is not None and present[0].org != segments[plan.org]:
                raise NotFound(Reason.WRONG_ORGANIZATION)  # nobody of another organization is asked about
            denied = await self._denied(way.conditions, present[0], request) if way.conditions else None
            if denied is None:
                return present
            if failed.status != Unavailable.status:  # another way may hold without it
                failed = denied
        raise failed

    async def _denied(
        self, conditions: Sequence[Condition], caller: Principal, request: Request
    ) -> BartizanError | None:
        return await denial(conditions, caller, request, self._waits)

    def _refused(self, error: BartizanError, plan: Plan | None, held: dict[str, Principal], request: Request) -> Refuse:
        event = self._told("request.refused", error, plan, held)
        if plan is not None and plan.rule.login is not None and self._login is not None and navigates(error, request):
            return Refuse(error, 303, self._login.redirect(plan.rule.login, request), b"")
        extra = [] if plan is None or error.headers else plan.challenged(error)
        if plan is not None and plan.cookies and self._ambient is not None:
            extra = [*extra, (b"vary", b"Cookie")]
        return refusal(error, event, extra, None if self._problems is None else _asked(self._problems, error, request))

    def _would_refuse(self, error: BartizanError, plan: Plan, held: dict[str, Principal], request: Request) -> Admit:
        self._told("gate.would_refuse", error, plan, held)
        admit = Admit(plan.rule, {}, NOBODY, {}, request.method, self._home)
        current_unit.set(admit)
        return admit

    def _told(self, name: str, error: BartizanError, plan: Plan | None, held: dict[str, Principal]) -> str:
        caller = self._foremost(held)
        org, actor = (None, ANONYMOUS) if caller is None else (caller.org, caller.actor)
        target = None if plan is None else plan.pattern.text
        data = None
        if error.about is not None:
            data = {"condition" if error.reason is Reason.CONDITION else "credential": error.about}
        return self._journal.note(AuditEvent(name, org, actor, target, "refused", error.reason, data))

    def _foremost(self, held: dict[str, Principal]) -> Principal | None:
        """The most personal of those who were verified."""
        if len(held) < 2:
            for caller in held.values():
                return caller
            return None
        return next(held[kind] for kind in self._personal if kind in held)

    def _observe(
        self, plan: Plan | None, failure: BartizanError | None, refused: bool, held: dict[str, Principal], took: int
    ) -> None:
        rule = None if plan is None else plan.pattern.text
        decision = Decision(rule, failure, failure is None or refused, self._foremost(held), took)
        try:
            if self._on_decision is not None:
                self._on_decision(decision)
        except Exception:  # noqa: BLE001 - an observer decides nothing, whatever it raises
            self._unobserved += 1
            if self._unobserved == 1:
                self._journal.note(AuditEvent(name="observer.failed", org=None, actor="system"))


class BlockingGate(Blocking):
    """`Gate` for programs without an event loop."""

    _service: Gate
    check: Final = blocking(Gate.check)
    end: Final = blocking(Gate.end)
    begin: Final = blocking(Gate.begin)
    recheck: Final = blocking(Gate.recheck)

    def refusal(self, error: BartizanError, request: Request) -> Refuse:
        """As `Gate.refusal`."""
        return self._service.refusal(error, request)

    @property
    def every(self) -> float:
        """As `Gate.every`."""
        return self._service.every
