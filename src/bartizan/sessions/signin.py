"""Signing in without a password: one-time codes, and exchange codes of the application's own server."""

from collections.abc import Awaitable, Callable, Coroutine
from hmac import compare_digest
from typing import Any, NoReturn, TypeVar

from bartizan.core.encoding import joined
from bartizan.core.events import AuditEvent, Journal, current_actor, entered
from bartizan.core.ports import Clock, Entropy, Waits, fresh
from bartizan.core.principal import Environment, checked_org
from bartizan.core.ring import Purpose, SecretRing
from bartizan.core.stamp import Stamp, Stamped
from bartizan.core.tables import ANYTHING, Add, AnyStep, Backend, Insert, Is, Now, Update
from bartizan.errors import InvalidCode, InvalidRequest, Misuse, Reason, Unavailable
from bartizan.sessions.codes import (
    BUDGETS,
    CODE_LIFE,
    CODES,
    DAY,
    TRIES,
    BudgetRow,
    CodeRow,
    SigninPolicy,
    decide_digits,
    decide_guess,
    kind_of,
    normal,
    with_code,
    with_guess,
)
from bartizan.sessions.exchanges import (
    EXCHANGE_LIFE,
    EXCHANGES,
    OURS,
    Exchanged,
    ExchangeRow,
    Identity,
    checked_challenge,
    decide_exchange,
)

T = TypeVar("T")

ROUNDS = 100  # a change that lost against others this often in a row is a store that does not work
DEVICE_LIFE = 400 * 86_400
LONGEST_SECRET = 200  # characters of what a browser keeps


class PendingCode:
    """A code that was asked for: `id` is for the browser, `code` goes to `address` and nowhere else.

    `code` is None where nothing is to be sent: one was sent a moment ago, or too many were. The browser is told the
    same. `expires_at` is UTC seconds.
    """

    __slots__ = ("address", "code", "expires_at", "id")

    def __init__(self, id_: str, address: str, code: str | None, expires_at: int) -> None:
        self.id: str = id_
        self.address: str = address
        self.code: str | None = code
        self.expires_at: int = expires_at

    def __repr__(self) -> str:
        return "<PendingCode>"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("a code is not copied or pickled: put its address and code into the message")


class Signin:
    """How consumers prove who they are. It begins no session: `sessions.start(identity=…)` does.

    It knows no accounts: whether an address has one makes no difference here, nor may it for whoever sends the code.
    While a principal is current, another organization's is `NotFound`.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        waits: Waits,
        ring: SecretRing,
        environment: Environment,
        issuer: str,
        policy: SigninPolicy,
        clock: Clock,
        journal: Journal,
        wake: Callable[[], None],
        end: Callable[[str, str], Awaitable[None]],
        entropy: Entropy = fresh,
    ) -> None:
        self._backend = backend
        self._waits = waits
        self._environment = environment
        self.policy: SigninPolicy = policy
        self._clock = clock
        self._journal = journal
        self._wake = wake
        self._end = end
        self._entropy = entropy
        found = [ring.subkey(root, Purpose.OTP, environment) for root in ring]
        self._subkeys = [subkey for subkey in found if subkey is not None]
        given: dict[str, Any] = {"longest": 0, "error": InvalidCode, "entropy": entropy}
        self._pending = Stamp(ring, Purpose.PENDING, environment, prefix="otp", life=CODE_LIFE, **given)
        self._device = Stamp(ring, Purpose.COOKIE_BIND, environment, prefix="dev", life=DEVICE_LIFE, **given)
        self._exchange = Stamp(
            ring, Purpose.EXCHANGE, environment, prefix="exc", life=EXCHANGE_LIFE, issuer=issuer, **given
        )

    # --- one-time codes ---

    async def request_code(
        self, *, org: str, address: str, browser: str = "", pending_id: str | None = None, device: str | None = None
    ) -> PendingCode:
        """A code for a mail address or a phone number, good for ten minutes and five tries.

        `browser` is a secret of the browser that asks, which it has to show again; `pending_id` what it was answered
        before, which goes on where no new code is sent; `device` is what `remember` gave it: it is not kept waiting by
        what strangers ask for. `InvalidRequest` for what is no address, and for countries that nothing is sent to.
        """
        entered(org, self._journal)
        address, bind = self._named(org, address, browser)
        known = self._stamped(self._device, device, _joined(org, address))
        before = self._stamped(self._pending, pending_id, bind)
        self._wake()
        return await self._finish(self._requested(org, address, bind, pending_id if before else None, known))

    async def verify_code(self, pending_id: str, code: str, *, org: str, address: str, browser: str = "") -> Identity:
        """Whose address it is, by the code that was sent to it; `InvalidCode` for whatever is wrong, always alike.

        A try is taken before anything is compared, and counts for the address too, whatever code it is for.
        """
        entered(org, self._journal)
        address, bind = self._named(org, address, browser)
        stamped = self._pending.read(pending_id, now=self._clock.seconds(), bind=bind)
        given: object = code
        if not isinstance(given, str) or not code.isascii() or not code.isdigit() or len(code) > 16:
            raise InvalidCode(Reason.MALFORMED)
        self._wake()
        await self._finish(self._verified(stamped.id, code, org))
        return Identity(org=org, provider=OURS, issuer=kind_of(address), subject=address)

    def remember(self, identity: Identity) -> str:
        """A text for the device on which somebody has just entered a code: its requests for codes are its own."""
        if identity.provider != OURS:
            raise Misuse("a device is remembered for an address that a code was sent to")
        bind = _joined(identity.org, identity.subject)
        return self._device.make(b"", now=self._clock.seconds(), seconds=DEVICE_LIFE, bind=bind)

    async def _requested(
        self, org: str, address: str, bind: bytes, before: str | None, known: Stamped | None
    ) -> PendingCode:
        budget = self._budget(b"address", org, address, known)
        for _ in range(ROUNDS):
            now = self._clock.seconds()
            row = await self._backend.get(BUDGETS, budget)
            id_ = self._entropy(16)
            pending = PendingCode(
                self._pending.make(b"", now=now, seconds=CODE_LIFE, bind=bind, id_=id_), address, None, now + CODE_LIFE
            )
            digits = decide_digits(row, self.policy, now)
            ceiling = self._ceiling(org, now) if kind_of(address) == "phone" else None
            counted = await self._backend.get(BUDGETS, ceiling.id) if ceiling is not None else None
            most = self.policy.daily_ceiling or 0
            if not digits or (counted is not None and counted.day == now // DAY and counted.sent >= most):
                self._note("code.withheld", org, outcome=Reason.CODE_SPENT)
                pending.id = before or pending.id
                return pending
            code = str(int.from_bytes(self._entropy(16)) % 10**digits).zfill(digits)
            new = CodeRow(
                id=id_.hex(), environment=self._environment, org=org, budget=budget, mac=self._macs(id_, code)[0],
                digits=digits, tries=TRIES, used=0, expires_at=now + CODE_LIFE,
            )  # fmt: skip
            steps: list[AnyStep] = [self._spent(budget, org, row, codes=with_code(row, now))]
            if ceiling is not None:
                steps.append(self._sent(ceiling, counted))
            event = self._event("code.requested", org, new.id, kind=kind_of(address), known=known is not None)
            done = await self._backend.change(
                Insert(CODES, new, set=(("expires_at", Now(CODE_LIFE)),)), also=[*steps, *self._journal.within(event)]
            )
            if done is not None:
                pending.code = code
                return pending
        raise Unavailable(Reason.STORE_BUSY)

    async def _verified(self, id_: bytes, code: str, org: str) -> None:
        row = await self._claimed(id_.hex(), org)
        if True not in [compare_digest(mac, row.mac) for mac in self._macs(id_, code)]:
            self._note("code.refused", org, row.id, Reason.CODE_WRONG)
            raise InvalidCode(Reason.CODE_WRONG)
        event = self._event("code.verified", org, row.id)
        forgiven = Update(BUDGETS, row.budget, ANYTHING, (("guesses", "[]"),))
        done = await self._backend.change(
            Update(CODES, row.id, (Is("used", "=", 0),), (("used", 1),)), also=[forgiven, *self._journal.within(event)]
        )
        if done is None:
            raise InvalidCode(Reason.ALREADY_USED)

    async def _claimed(self, id_: str, org: str) -> CodeRow:
        """The code, one of whose tries is taken, and one of its address's."""
        for _ in range(ROUNDS):
            row = await self._backend.get(CODES, id_)
            budget = None if row is None else await self._backend.get(BUDGETS, row.budget)
            now = self._clock.seconds()
            reason = decide_guess(row, budget, self.policy, now)
            if row is None or reason is not None:
                self._note("code.refused", org, id_, reason)
                raise InvalidCode(reason)
            taken = await self._backend.change(
                Update(
                    CODES, id_, (Is("tries", ">", 0), Is("used", "=", 0), Is("expires_at", ">", Now())),
                    (("tries", Add(-1)),),
                ),
                also=[self._spent(row.budget, org, budget, guesses=with_guess(budget, row.digits, now))],
            )  # fmt: skip
            if taken is not None:
                return taken
        raise Unavailable(Reason.STORE_BUSY)

    def _spent(self, id_: str, org: str, seen: BudgetRow | None, **column: str) -> AnyStep:
        """A budget with one code or guess more, if nobody has changed what it was decided by."""
        if seen is None:
            row = {"codes": "[]", "guesses": "[]", **column}
            new = BudgetRow(id=id_, environment=self._environment, org=org, day=0, sent=0, expires_at=0, **row)
            return Insert(BUDGETS, new, set=(("expires_at", Now(DAY)),))
        same = (Is("codes", "=", seen.codes), Is("guesses", "=", seen.guesses))
        return Update(BUDGETS, id_, same, (*column.items(), ("expires_at", Now(DAY))))

    def _ceiling(self, org: str, now: int) -> BudgetRow:
        return BudgetRow(
            id=self._budget(b"phones", org, "", None), environment=self._environment, org=org, codes="[]", guesses="[]",
            day=now // DAY, sent=1, expires_at=0,
        )  # fmt: skip

    def _sent(self, new: BudgetRow, seen: BudgetRow | None) -> AnyStep:
        if seen is None:
            return Insert(BUDGETS, new, set=(("expires_at", Now(DAY)),))
        times = (("expires_at", Now(DAY)),)
        if seen.day == new.day:
            room = Is("sent", "<=", (self.policy.daily_ceiling or 0) - 1)
            return Update(BUDGETS, new.id, (Is("day", "=", new.day), room), (("sent", Add(1)), *times))
        return Update(BUDGETS, new.id, (Is("day", "=", seen.day),), (("day", new.day), ("sent", 1), *times))

    def undelivered(self, org: str) -> None:
        """Tell that the application could not send a code."""
        self._note("code.undelivered", org, outcome=Reason.CALLBACK_FAILED)

    # --- exchange codes ---

    async def authorize(self, identity: Identity, *, code_challenge: str | None = None) -> str:
        """An exchange code, `exc_…`, for whoever the caller has authenticated; it is good once, for a minute.

        `code_challenge` is the S256 challenge of the browser that is to exchange it (RFC 7636): without one, whoever
        has the code can.
        """
        entered(identity.org, self._journal)
        checked_challenge(code_challenge)
        id_, now = self._entropy(16), self._clock.seconds()
        row = ExchangeRow(
            id=id_.hex(), environment=self._environment, org=identity.org, provider=identity.provider,
            issuer=identity.issuer, subject=identity.subject, challenge=code_challenge, used_at=None, expires_at=0,
        )  # fmt: skip
        event = self._event("exchange.authorized", identity.org, row.id, provider=identity.provider)
        self._wake()
        step = Insert(EXCHANGES, row, set=(("expires_at", Now(EXCHANGE_LIFE)),))
        if await self._backend.change(step, also=self._journal.within(event)) is None:
            raise Unavailable(Reason.STORE_BUSY)
        return self._exchange.make(b"", now=now, seconds=EXCHANGE_LIFE, id_=id_)

    async def exchange(self, code: str, *, org: str, code_verifier: str | None = None) -> Identity:
        """Who the code was given out for; `InvalidCode` for whatever is wrong with it, always alike.

        The same browser may ask again within ten seconds: `identity` is then of the same session. Who comes later with
        the proof ends that session, since two have the code; who comes without it changes nothing.
        """
        entered(org, self._journal)
        checked_org(org)
        stamped = self._exchange.read(code, now=self._clock.seconds())
        return await self._finish(self._exchanged(stamped.id.hex(), org, code_verifier))

    async def _exchanged(self, id_: str, org: str, verifier: str | None) -> Identity:
        for _ in range(ROUNDS):
            row = await self._backend.get(EXCHANGES, id_)
            outcome = decide_exchange(
                row, org=org, environment=self._environment, verifier=verifier, now=self._clock.seconds()
            )
            if row is None or isinstance(outcome, Reason):
                refused = outcome if isinstance(outcome, Reason) else Reason.CODE_UNKNOWN
                self._note("exchange.refused", org, id_, refused)
                raise InvalidCode(refused)
            who = Identity(org=org, provider=row.provider, issuer=row.issuer, subject=row.subject, exchange=id_)
            if outcome is Exchanged.AGAIN:
                return who
            if outcome is Exchanged.THEFT:
                await self._end(str(who.session_id), org)
                self._note("exchange.reused", org, id_, Reason.ALREADY_USED)
                raise InvalidCode(Reason.ALREADY_USED)
            step = Update(
                EXCHANGES, id_, (Is("used_at", "=", None), Is("expires_at", ">", Now())), (("used_at", Now()),)
            )
            event = self._event("exchange.redeemed", org, id_, provider=row.provider)
            if await self._backend.change(step, also=self._journal.within(event)) is not None:
                return who
        raise Unavailable(Reason.STORE_BUSY)

    # --- what they have in common ---

    def _named(self, org: str, address: str, browser: str) -> tuple[str, bytes]:
        checked_org(org)
        given: object = browser
        if not isinstance(given, str) or len(browser) > LONGEST_SECRET or not browser.isascii():
            raise InvalidRequest
        address = normal(address, self.policy)
        return address, _joined(org, address, browser)

    def _stamped(self, stamp: Stamp, text: str | None, bind: bytes) -> Stamped | None:
        """What a text says that may be there; one that is not good is none."""
        if text is None:
            return None
        try:
            return stamp.read(text, now=self._clock.seconds(), bind=bind)
        except InvalidCode:
            return None

    def _budget(self, what: bytes, org: str, address: str, device: Stamped | None) -> str:
        device_id = b"" if device is None else device.id
        return self._subkeys[0].mac(joined(b"budget", what, org.encode(), address.encode(), device_id)).hex()

    def _macs(self, id_: bytes, code: str) -> list[bytes]:
        """The MAC of a code under each root, the newest first."""
        return [subkey.mac(joined(b"code", id_, code.encode())) for subkey in self._subkeys]

    def _note(self, name: str, org: str, target: str | None = None, outcome: Reason | None = None) -> None:
        self._journal.note(AuditEvent(name, org, current_actor(), target, "refused", outcome))

    @staticmethod
    def _event(name: str, org: str, target: str, **data: Any) -> AuditEvent:
        return AuditEvent(name=name, org=org, actor=current_actor(), target=target, data=data)

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """A reaction that can be cancelled is none."""
        return await self._waits.finish(work)


def _joined(*parts: str) -> bytes:
    return joined(*(part.encode() for part in parts))
