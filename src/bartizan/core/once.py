"""Claim, run, commit: the one way to use an id once.

Whoever claims an id holds it for a lease; who has done the work commits, and the id is done for as long as is asked
for; who fails releases. A lease that lapsed may be taken over, and then the former holder's commit is refused, so that
of two who worked only one is believed. All times are the store's.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from types import TracebackType
from typing import Protocol

from bartizan.core.encoding import joined
from bartizan.core.events import AuditEvent, Journal, current_actor
from bartizan.core.ports import Clock, Entropy, Waits, fresh
from bartizan.core.principal import Caller, Environment, current_unit
from bartizan.core.tables import AnyStep, Backend, Delete, Insert, Is, Now, Table, Update
from bartizan.errors import Conflict, InFlight, InvalidRequest, Misuse, Reason, Unavailable

KEEP = 48 * 3600  # seconds for which a text stays done
LONGEST_LEASE = 86_400
LONGEST_KEEP = 400 * 86_400
LONGEST_TEXT = 1000  # characters
TRIES = 100  # a marker that came and went this often in a row is a store that does not work


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """An id that is held (`done` is 0) until its lease ends, or was used (1) and is kept as that, until `expires_at`.

    A marker changes without an event: it is bookkeeping of somebody's work, and that work has an event of its own,
    which can go into the same change. What a marker alone can tell, a lost lease, is one.
    """

    id: str
    owner: str
    done: int
    result: str
    expires_at: int


ONCE = Table(name="bartizan_once", record=Marker, key="id", expires="expires_at")


@dataclass(frozen=True, slots=True)
class Claimed:
    """The id is the owner's for the lease."""


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else has it, at the latest until then (UTC seconds of the store's clock)."""

    until: int


@dataclass(frozen=True, slots=True)
class Done:
    """It was used, with this result."""

    result: str


def marker_id(*parts: bytes) -> str:
    """The key of a marker: 64 hexadecimal digits for these parts, each behind its length."""
    return sha256(joined(b"once/v1", *parts)).hexdigest()


class Markers:
    """The steps of using an id once, each one change. An owner is fresh and random, so every step may be repeated."""

    __slots__ = ("_backend",)

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def claim(self, marker: str, owner: str, lease: int, /) -> Claimed | Held | Done:
        """Hold the id for `lease` seconds, unless it is held or done."""
        row = Marker(id=marker, owner=owner, done=0, result="", expires_at=0)
        step = Insert(ONCE, row, over=(Is("expires_at", "<=", Now()),), set=(("expires_at", Now(lease)),))
        for _ in range(TRIES):
            if await self._backend.change(step) is not None:
                return Claimed()
            found = await self._backend.get(ONCE, marker)
            if found is None:
                continue  # released in between
            if found.done:
                return Done(found.result)
            # The owner's own: an earlier try was reported as not done, and had been.
            return Claimed() if found.owner == owner else Held(found.expires_at)
        raise Unavailable(Reason.STORE_BUSY)

    async def commit(self, marker: str, owner: str, result: str, keep: int, /, *, also: Sequence[AnyStep] = ()) -> bool:
        """The work is done, and stays done for `keep` seconds; false where the lease was lost to somebody else.

        A lease that lapsed and was not taken over is not lost: what was done once is not done again.
        """
        step = Update(
            ONCE,
            marker,
            where=(Is("owner", "=", owner),),
            set=(("done", 1), ("result", result), ("expires_at", Now(keep))),
        )
        return await self._backend.change(step, also=also) is not None

    async def release(self, marker: str, owner: str, /) -> None:
        """Give the id back, if the owner holds it and has not committed."""
        await self._backend.change(Delete(ONCE, marker, where=(Is("owner", "=", owner), Is("done", "=", 0))))

    async def spend(self, marker: str, owner: str, until: int, /, *, also: Sequence[AnyStep] = ()) -> bool:
        """Claim and commit in one: for an id that nobody gives out a second time. False where it was used before.

        Kept for an hour beyond `until` at least, so that clocks may disagree by that much.
        """
        row = Marker(id=marker, owner=owner, done=1, result="", expires_at=until)
        return await self._backend.change(Insert(ONCE, row), also=also) is not None


class Claim:
    """`first` is whether the block has the work to do; `owner` is this claim's own name, for the work's transaction."""

    __slots__ = ("first", "owner")

    def __init__(self, owner: str, *, first: bool) -> None:
        self.first: bool = first
        self.owner: str = owner


class Claiming:
    """`async with` of one claim: a thin one over claim, commit and release."""

    __slots__ = ("_claim", "_entered", "_keep", "_lease", "_lost", "_marker", "_markers", "_now", "_waits")

    def __init__(
        self,
        markers: Markers,
        waits: Waits,
        *,
        marker: str,
        owner: str,
        lease: int,
        keep: int,
        now: Callable[[], int],
        lost: Callable[[str], None],
    ) -> None:
        self._markers = markers
        self._waits = waits
        self._marker = marker
        self._lease = lease
        self._keep = keep
        self._now = now
        self._lost = lost
        self._claim = Claim(owner, first=False)
        self._entered = False

    async def enter(self) -> Claim:
        """Hold the id; `InFlight` where somebody else does."""
        if self._entered:
            raise Misuse("a block is entered once: claim(...) anew")
        self._entered = True
        claim = self._claim
        try:
            outcome = await self._waits.finish(self._markers.claim(self._marker, claim.owner, self._lease))
        except GeneratorExit:
            raise  # nothing can be awaited any more
        except BaseException:
            # Whoever is cancelled, or hears nothing from the store, may hold the id all the same, and will do nothing.
            await self._release()
            raise
        if isinstance(outcome, Held):
            left = min(max(1, outcome.until - self._now()), LONGEST_LEASE)
            raise InFlight(headers=(("Retry-After", str(left)),))
        claim.first = isinstance(outcome, Claimed)
        return claim

    async def leave(self, *, failed: bool) -> None:
        """Commit, or release where the block failed; `Conflict` where the lease was lost meanwhile."""
        if not self._claim.first:
            return
        if failed:
            await self._release()
            return
        if not await self._waits.finish(self._markers.commit(self._marker, self._claim.owner, "", self._keep)):
            self._lost(self._marker)
            raise Conflict(Reason.LEASE_LOST)

    async def _release(self) -> None:
        with suppress(Unavailable):  # then the lease lapses by itself; what failed first is what is told
            await self._waits.finish(self._markers.release(self._marker, self._claim.owner))

    async def __aenter__(self) -> Claim:
        return await self.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not GeneratorExit:  # a coroutine that is being closed awaits nothing: the lease lapses
            await self.leave(failed=kind is not None)


class Signed(Protocol):
    """What somebody signed: it is claimed by that, and says for how long it may come again."""

    @property
    def once_key(self) -> tuple[bytes, ...]:
        """The signed parts that tell it from every other."""

    @property
    def once_keep(self) -> int:
        """Seconds."""


class Once:
    """Each text once: `async with security.once.claim(text, namespace="…") as claim: if claim.first: …`."""

    def __init__(
        self,
        *,
        backend: Backend,
        waits: Waits,
        environment: Environment,
        clock: Clock,
        journal: Journal,
        wake: Callable[[], None],
        entropy: Entropy = fresh,
    ) -> None:
        self._markers = Markers(backend)
        self._waits = waits
        self._clock = clock
        self._wake = wake
        self._entropy = entropy
        self._environment = environment
        self._journal = journal

    def claim(self, key: str | Signed, *, namespace: str, lease: int = 300, keep: int | None = None) -> Claiming:
        """A block whose work is done once for each `key` of a namespace and of the current principal's organization.

        Within it `claim.first` says whether there is anything to do. An exception in the block releases the claim and
        passes unchanged; leaving the block commits, for `keep` seconds (48 hours). The work takes less than `lease`
        seconds: later somebody else may take over, and leaving the block raises `Conflict`. Entering it raises
        `InFlight` while somebody else is at it. Done once means: at least once, and once where nothing crashes.

        A `WebhookEvent` is claimed by what its sender signed, whoever is current, for its sender's retry schedule.
        """
        lease = _checked(lease, LONGEST_LEASE, "lease")
        signed = None if isinstance(key, str) else getattr(key, "once_key", None)
        default = KEEP if isinstance(key, str) or signed is None else key.once_keep
        keep = _checked(default if keep is None else keep, LONGEST_KEEP, "keep")
        space: object = namespace
        if not isinstance(space, str) or not (isinstance(key, str) or signed is not None):
            raise Misuse("a claim is of a text or a WebhookEvent, in a namespace")
        if not 1 <= len(namespace) <= 100 or not namespace.isprintable():
            raise Misuse("a namespace is 1 to 100 printable characters")
        if isinstance(key, str):
            if not 1 <= len(key) <= LONGEST_TEXT:
                raise InvalidRequest  # the text may be the peer's
            org, subject = _whose()
            parts = (self._environment, org, subject, namespace, key)
            marker = marker_id(b"claim", *(part.encode("utf-8", "surrogatepass") for part in parts))
        else:
            marker = marker_id(b"signed", self._environment.encode(), namespace.encode(), *(signed or ()))
        self._wake()
        return Claiming(
            self._markers, self._waits, marker=marker, owner=new_owner(self._entropy), lease=lease, keep=keep,
            now=self._clock.seconds, lost=self._lost,
        )  # fmt: skip

    def note(self, event: AuditEvent) -> None:
        """Tell of what was refused before there was anything to claim."""
        self._journal.note(event)

    def _lost(self, marker: str) -> None:
        """Tell that a lease was lost while its block ran."""
        held = current_unit.get().callers
        org = held[0].org if held else None
        self._journal.note(
            AuditEvent(
                name="once.lease_lost", org=org, actor=current_actor(), target=marker,
                outcome="refused", reason=Reason.LEASE_LOST,
            )
        )  # fmt: skip


def new_owner(entropy: Entropy) -> str:
    """A fresh name for who claims: 128 random bits in hexadecimal."""
    return entropy(16).hex()


def _whose() -> tuple[str, str]:
    """The organization whose texts these are, and for a consumer its subject: nobody burns another's text."""
    held = current_unit.get().callers
    if not held:
        return "", ""
    caller: Caller = held[0]
    return caller.org or "", str(getattr(caller, "subject", "")) if caller.kind == "consumer" else ""


def _checked(seconds: object, longest: int, what: str) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= longest:
        raise Misuse(f"{what} is a whole number of seconds from 1 to {longest}")
    return seconds
