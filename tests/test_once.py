import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from servers import ask, serving

from bartizan import Bartizan, Misuse, Rule, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.drive import run
from bartizan.core.once import KEEP, LONGEST_LEASE, ONCE, Claimed, Done, Held, Marker, Markers, marker_id
from bartizan.core.principal import Caller, Presence, current_unit, verified
from bartizan.core.tables import AnyStep, Backend, Delete, Insert
from bartizan.errors import BartizanError, Conflict, InFlight, InvalidRequest, Reason, Unavailable
from bartizan.stores.memory import MemoryBackend
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing.clock import FakeClock
from bartizan.testing.kit import Kit, acting_as

KINDS = ["memory", "sqlite"]
LEASE = 300


class Place(NamedTuple):
    """A store in both forms, and the clock that it tells the time by."""

    clock: FakeClock
    blocking: Backend
    asynchronous: Backend

    @property
    def markers(self) -> Markers:
        return Markers(self.blocking)

    def rows(self) -> Sequence[Marker]:
        return run(self.blocking.find(ONCE, ()))


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    clock = FakeClock()
    if request.param == "memory":
        memory = MemoryBackend(clock)
        yield Place(clock, memory, memory)
        return
    file = SqliteFile(tmp_path / "once.db", clock)
    yield Place(clock, file.blocking, file.asynchronous)
    file.close()


class Hooked:
    """A backend that tells `at` of every change, before (`claim<`) and after (`claim>`) it is made."""

    def __init__(self, inner: Backend, at: Callable[[str], None]) -> None:
        self._inner = inner
        self.at = at

    async def change(self, step: AnyStep, /, *, also: Sequence[AnyStep] = ()) -> Any:
        if step.table is not ONCE:
            return await self._inner.change(step, also=also)  # type: ignore[arg-type]
        name = "claim" if isinstance(step, Insert) else "release" if isinstance(step, Delete) else "commit"
        self.at(f"{name}<")
        answer = await self._inner.change(step, also=also)  # type: ignore[arg-type]
        self.at(f"{name}>")
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


# --- claim, commit, release ---


def test_life_of_a_marker(place: Place) -> None:
    markers, clock = place.markers, place.clock
    assert run(markers.claim("id", "a", 10)) == Claimed()
    assert run(markers.claim("id", "b", 10)) == Held(clock() + 10)
    assert run(markers.claim("id", "a", 10)) == Claimed(), "its own: an earlier answer may have been lost"
    run(markers.release("id", "b"))
    assert run(markers.claim("id", "b", 10)) == Held(clock() + 10), "only the owner gives it back"
    run(markers.release("id", "a"))
    assert run(markers.claim("id", "b", 10)) == Claimed()
    assert run(markers.commit("id", "b", "result", 100))
    assert run(markers.commit("id", "b", "result", 100)), "every step may be repeated"
    assert run(markers.claim("id", "b", 10)) == run(markers.claim("id", "c", 10)) == Done("result")
    run(markers.release("id", "b"))
    assert not run(markers.commit("id", "c", "another", 100))
    clock.advance(99)
    assert run(markers.claim("id", "c", 10)) == Done("result")
    clock.advance(1)
    assert run(markers.claim("id", "c", 10)) == Claimed()


def test_a_lapsed_lease_is_taken_over(place: Place) -> None:
    markers = place.markers
    run(markers.claim("id", "a", 10))
    place.clock.advance(9)
    assert run(markers.claim("id", "b", 10)) == Held(place.clock() + 1)
    place.clock.advance(1)
    assert run(markers.claim("id", "b", 10)) == Claimed()
    run(markers.release("id", "a"))
    assert run(markers.claim("id", "c", 10)) == Held(place.clock() + 10)


def test_commit_after_lost_lease_is_false(place: Place) -> None:
    markers = place.markers
    run(markers.claim("id", "slow", 10))
    place.clock.advance(10)
    run(markers.claim("id", "next", 10))
    assert not run(markers.commit("id", "slow", "late", KEEP))
    assert run(markers.commit("id", "next", "first", KEEP))
    assert not run(markers.commit("id", "slow", "late", KEEP))
    assert run(markers.claim("id", "x", 10)) == Done("first")
    assert not run(markers.commit("never", "slow", "", KEEP))


def test_a_lapsed_lease_that_nobody_took_is_not_lost(place: Place) -> None:
    run(place.markers.claim("id", "slow", 10))
    place.clock.advance(1000)
    assert run(place.markers.commit("id", "slow", "", KEEP))
    assert run(place.markers.claim("id", "x", 10)) == Done("")


def test_spend_is_claim_and_commit_in_one(place: Place) -> None:
    until = place.clock() + 10
    assert run(place.markers.spend("id", "a", until))
    assert not run(place.markers.spend("id", "b", until))
    place.clock.advance(3600)
    assert not run(place.markers.spend("id", "b", until)), "clocks may disagree by an hour"


IDS = 1000
RACERS = 64


def check_race(won: Sequence[Sequence[int]]) -> None:
    assert sorted(number for of_one in won for number in of_one) == list(range(IDS))
    racers = sum(map(bool, won))
    print(f"{IDS:,} ids, one winner each; {racers} of {RACERS} racers won any")
    assert racers > 1, "somebody ran alone"


def test_64_racing_threads_have_one_winner_for_each_of_1000_ids() -> None:
    markers = Markers(MemoryBackend())
    won: list[list[int]] = [[] for _ in range(RACERS)]
    start = threading.Barrier(RACERS)

    def race(racer: int) -> None:
        for number in range(IDS):
            if number % 10 == 0:
                start.wait()  # or the one that is ahead would win them all
            if run(markers.claim(f"id {number}", f"racer {racer}", LEASE)) == Claimed():
                won[racer].append(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=race, args=(racer,)) for racer in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    check_race(won)


def test_64_racing_tasks_have_one_winner_for_each_of_1000_ids(place: Place) -> None:
    markers = Markers(place.asynchronous)
    won: list[list[int]] = [[] for _ in range(RACERS)]
    random = Random(5)

    async def race(racer: int, number: int) -> None:
        if await markers.claim(f"id {number}", f"racer {racer}", LEASE) == Claimed():
            won[racer].append(number)

    async def scene() -> None:
        for first in range(0, IDS, 20):
            races = [(racer, number) for number in range(first, first + 20) for racer in range(RACERS)]
            random.shuffle(races)
            await asyncio.gather(*(race(*both) for both in races))

    asyncio.run(scene())
    check_race(won)


def test_64_racing_threads_on_a_file(tmp_path: Path) -> None:
    """The same between threads, whose every change is a transaction of SQLite; fewer ids, as it is slow."""
    file = SqliteFile(tmp_path / "race.db")
    markers = Markers(file.blocking)
    answers: list[object] = []
    start = threading.Barrier(RACERS)

    def race(racer: int) -> None:
        for number in range(20):
            start.wait()
            answers.append(run(markers.claim(f"id {number}", f"racer {racer}", LEASE)))

    threads = [threading.Thread(target=race, args=(racer,)) for racer in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    assert answers.count(Claimed()) == 20
    assert sum(isinstance(answer, Held) for answer in answers) == 20 * (RACERS - 1)


def test_a_marker_that_comes_and_goes_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flickering(MemoryBackend):
        async def change(self, *_: Any, **__: Any) -> None:
            return None

    with pytest.raises(Unavailable) as caught:
        run(Markers(Flickering()).claim("id", "a", 1))
    assert caught.value.reason is Reason.STORE_BUSY


# --- security.once ---


@pytest.fixture(params=KINDS)
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    made = Kit(url="memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/kit.db")
    with made.security.blocking:
        yield made


def rows(kit: Kit) -> Sequence[Marker]:
    backend = kit.security._shared.blocking_side.backend
    assert backend is not None
    return run(backend.find(ONCE, ()))


def test_a_text_is_claimed_once(kit: Kit) -> None:
    once = kit.security.blocking.once
    with once.claim("evt_1", namespace="shop") as claim:
        assert claim.first
        assert [row.owner for row in rows(kit)] == [claim.owner]
    for _ in range(2):
        with once.claim("evt_1", namespace="shop") as claim:
            assert not claim.first
    kit.clock.advance(KEEP - 1)
    with once.claim("evt_1", namespace="shop") as claim:
        assert not claim.first
    kit.clock.advance(1)
    with once.claim("evt_1", namespace="shop", keep=10) as claim:
        assert claim.first
    kit.clock.advance(10)
    with once.claim("evt_1", namespace="shop") as claim:
        assert claim.first


def test_the_same_with_await(kit: Kit) -> None:
    async def scene() -> None:
        once = kit.security.once
        async with once.claim("evt_1", namespace="shop") as claim:
            assert claim.first
            with pytest.raises(InFlight) as caught:
                await once.claim("evt_1", namespace="shop").__aenter__()
            assert caught.value.headers == (("Retry-After", "300"),)
        async with once.claim("evt_1", namespace="shop") as claim:
            assert not claim.first
        with kit.security.blocking.once.claim("evt_1", namespace="shop") as same:
            assert not same.first

    asyncio.run(scene())


def test_a_claim_that_somebody_else_holds_says_when_to_come_back(kit: Kit) -> None:
    once = kit.security.blocking.once
    with once.claim("evt_1", namespace="shop", lease=60):
        kit.clock.advance(50)
        with pytest.raises(InFlight) as caught, once.claim("evt_1", namespace="shop"):
            raise AssertionError("nobody comes here")
    assert caught.value.headers == (("Retry-After", "10"),)
    assert (caught.value.status, caught.value.code) == (409, "in_flight")


@pytest.mark.parametrize("error", [ValueError("x"), Conflict(), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_an_exception_in_the_block_releases_the_claim_and_passes_unchanged(kit: Kit, error: BaseException) -> None:
    once = kit.security.blocking.once
    with pytest.raises(type(error)) as caught, once.claim("evt_1", namespace="shop"):
        raise error
    assert caught.value is error
    with pytest.raises(type(error)), once.claim("evt_1", namespace="shop") as claim:
        assert claim.first
        raise error
    with once.claim("evt_1", namespace="shop") as claim:
        assert claim.first
    with pytest.raises(type(error)) as caught, once.claim("evt_1", namespace="shop") as claim:
        raise error
    assert caught.value is error, "a repeat has nothing to release"
    assert [row.done for row in rows(kit)] == [1]


def test_an_exception_passes_though_the_store_fails(place: Place) -> None:
    def failing(point: str) -> None:
        if point == "release<":
            raise Unavailable

    once = Bartizan(Hooked(place.blocking, failing), environment="live", clock=place.clock).blocking.once
    error = ValueError()
    with pytest.raises(ValueError) as caught, once.claim("evt_1", namespace="shop"):
        raise error
    assert caught.value is error
    with pytest.raises(InFlight), once.claim("evt_1", namespace="shop"):
        pass
    place.clock.advance(LEASE)  # the lease lapses by itself
    with once.claim("evt_1", namespace="shop") as claim:
        assert claim.first


def test_slow_handler_outlives_lease(kit: Kit) -> None:
    """Two did the work; one is believed, the other is told, and it is written down."""
    once = kit.security.blocking.once
    key = kit.key(org="org_1")
    with acting_as(kit.security.blocking.keys.authenticate(key.key)):
        slow = once.claim("evt_1", namespace="shop")
        assert slow.__enter__().first
        kit.clock.advance(LEASE)
        with once.claim("evt_1", namespace="shop") as claim:
            assert claim.first, "the lease has lapsed: nobody knows what became of the first"
            with pytest.raises(Conflict) as caught:
                slow.__exit__(None, None, None)
        assert caught.value.reason is Reason.LEASE_LOST
        with once.claim("evt_1", namespace="shop") as claim:
            assert not claim.first
    last = kit.events[-1]
    assert (last.name, last.org, last.outcome, last.reason) == ("once.lease_lost", "org_1", "refused", "lease_lost")
    assert last.actor == f"sk_test_{key.record.id}"
    assert "evt_1" not in repr(kit.events)


def test_slow_handler_that_fails_takes_nothing_from_the_next(kit: Kit) -> None:
    once = kit.security.blocking.once
    slow = once.claim("evt_1", namespace="shop")
    slow.__enter__()
    kit.clock.advance(LEASE)
    with once.claim("evt_1", namespace="shop"):
        slow.__exit__(ValueError, ValueError(), None)
        with pytest.raises(InFlight), once.claim("evt_1", namespace="shop"):
            pass
    assert [event.name for event in kit.events] == []


# --- whose texts ---


def firsts(once: Any, *texts: tuple[str, str]) -> list[bool]:
    found = []
    for namespace, key in texts:
        with once.claim(key, namespace=namespace) as claim:
            found.append(claim.first)
    return found


def test_one_tenant_cannot_burn_another_tenants_text(kit: Kit) -> None:
    once, keys = kit.security.blocking.once, kit.security.blocking.keys
    principals = [keys.authenticate(kit.key(org=org).key) for org in ("org_1", "org_2", "org_1")]
    found = []
    for principal in principals:
        with acting_as(principal):
            found += firsts(once, ("shop", "evt_1"))
    found += firsts(once, ("shop", "evt_1"))
    with kit.security.job("nightly", org="org_2"):
        found += firsts(once, ("shop", "evt_1"))
    assert found == [True, True, False, True, False]  # nobody's is nobody's


class Consumer(Caller):
    """As the sessions will bring it."""

    __slots__ = ("subject",)
    kind = "consumer"
    subject: str


class Member(Consumer):
    __slots__ = ()
    kind = "member"


def test_one_consumer_cannot_burn_another_ones_text(kit: Kit) -> None:
    once = kit.security.blocking.once
    found = []
    for kind, subject in ((Consumer, "a"), (Consumer, "b"), (Consumer, "a"), (Member, "a"), (Member, "b")):
        who: Any = verified(kind, org="org_1", environment="test", subject=subject, actor=subject)
        with acting_as(who):
            found += firsts(once, ("shop", "evt_1"))
    assert found == [True, True, False, True, False]  # members act for their organization


def test_namespaces_and_texts_do_not_run_together(kit: Kit) -> None:
    once = kit.security.blocking.once
    texts = [
        ("shop", "evt_1"),
        ("shop2", "evt_1"),
        ("shop", "2evt_1"),
        ("s", "hopevt_1"),
        ("shop", "evt_1\0"),
        ("shop", "\ud800"),
    ]
    assert firsts(once, *texts) == [True] * len(texts)
    assert firsts(once, *texts) == [False] * len(texts)


def test_a_claim_is_entered_once(kit: Kit) -> None:
    """A second block under the first one's name would have the work to do as well."""
    claiming = kit.security.blocking.once.claim("evt_1", namespace="shop")
    with claiming, pytest.raises(Misuse), claiming:
        raise AssertionError("nobody comes here")


def test_environments_do_not_share() -> None:
    backend = MemoryBackend()
    live, test = (Bartizan(backend, environment=e).blocking.once for e in ("live", "test"))
    assert firsts(live, ("shop", "evt_1")) == firsts(test, ("shop", "evt_1")) == [True]


def test_no_parts_make_anothers_marker() -> None:
    assert len({marker_id(b"a", b"bc"), marker_id(b"ab", b"c"), marker_id(b"abc"), marker_id(b"abc", b"")}) == 4


def test_misuse_and_hostile_texts(kit: Kit) -> None:
    once: Any = kit.security.blocking.once
    for wrong in (
        {"lease": 0},
        {"lease": LONGEST_LEASE + 1},
        {"lease": True},
        {"lease": 1.5},
        {"keep": 0},
        {"keep": -1},
    ):
        with pytest.raises(Misuse):
            once.claim("evt_1", namespace="shop", **wrong)
    for namespace in ("", "x" * 101, "a\nb", None):
        with pytest.raises(Misuse):
            once.claim("evt_1", namespace=namespace)
    with pytest.raises(Misuse):
        once.claim(b"evt_1", namespace="shop")
    for hostile in ("", "x" * 1001, "x" * 1_000_000):
        with pytest.raises(InvalidRequest):
            once.claim(hostile, namespace="shop")
    with pytest.raises(Misuse, match="url="):
        _ = Bartizan(environment="test").once


# --- crashes ---

CRASHES = {  # where the process ends -> how often the work was done by then, and whether the next one has it to do
    "claim<": (0, "at once"),
    "claim>": (0, "after the lease"),
    "work": (0, "after the lease"),
    "worked": (1, "after the lease"),  # done twice: at least once is what a claim alone can promise
    "commit<": (1, "after the lease"),
    "commit>": (1, "never"),
}


class Crash(BaseException):
    """The process is gone: nothing that it would still do is done."""


def worked_once(backend: Backend, clock: FakeClock, at: Callable[[str], None], effect: Callable[[], None]) -> None:
    security = Bartizan(Hooked(backend, at), environment="live", clock=clock).blocking
    with security.once.claim("evt_1", namespace="shop") as claim:
        assert claim.first
        at("work")
        effect()
        at("worked")


def check_after_crash(backend: Backend, clock: FakeClock, then: str) -> None:
    once = Bartizan(backend, environment="live", clock=clock).blocking.once
    if then == "after the lease":
        with pytest.raises(InFlight), once.claim("evt_1", namespace="shop"):
            pass
        clock.advance(LEASE)
    with once.claim("evt_1", namespace="shop") as claim:
        assert claim.first is (then != "never")


@pytest.mark.parametrize("point", CRASHES)
def test_crash_at_each_step(place: Place, point: str) -> None:
    gone = False
    effects: list[None] = []

    def at(here: str) -> None:
        nonlocal gone
        gone |= here == point
        if gone:
            raise Crash

    with pytest.raises(Crash):
        worked_once(place.blocking, place.clock, at, lambda: effects.append(None))
    times, then = CRASHES[point]
    assert len(effects) == times
    check_after_crash(place.blocking, place.clock, then)


CRASHING = """
import os, sys
from test_once import *
file, point = sys.argv[1:]
def at(here):
    if here == point:
        os._exit(9)
clock = FakeClock()
worked_once(SqliteFile(file, clock).blocking, clock, at, lambda: os.write(1, b"."))
"""


@pytest.mark.parametrize("point", CRASHES)
def test_crash_of_a_process_at_each_step(tmp_path: Path, point: str) -> None:
    path = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", CRASHING, str(tmp_path / "once.db"), point],
        capture_output=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )  # fmt: skip
    times, then = CRASHES[point]
    assert (done.returncode, done.stdout) == (9, b"." * times), done.stderr
    clock = FakeClock()
    file = SqliteFile(tmp_path / "once.db", clock)
    check_after_crash(file.blocking, clock, then)
    file.close()


# --- cancellation ---

POINTS = ["claim<", "claim>", "work", "worked", "commit<", "commit>", "release<", "release>"]


@pytest.mark.parametrize("points", [*combinations(POINTS, 1), *combinations(POINTS, 2)], ids="-".join)
def test_cancellation_at_each_step(place: Place, points: tuple[str, ...]) -> None:
    """Whoever is cancelled leaves the id free, or done if the work was: never held, which nobody would give back."""
    effects: list[None] = []
    reached: list[str] = []

    async def scene() -> None:
        task: asyncio.Task[None]

        def at(here: str) -> None:
            reached.append(here)
            if here in points:
                task.cancel()

        once = Bartizan(Hooked(place.asynchronous, at), environment="live", clock=place.clock).once

        async def work() -> None:
            async with once.claim("evt_1", namespace="shop") as claim:
                assert claim.first
                at("work")
                await asyncio.sleep(0)
                effects.append(None)
                at("worked")

        task = asyncio.create_task(work())
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        if any(point in reached for point in points):
            assert isinstance(ended, asyncio.CancelledError)
        else:
            assert ended is None

    asyncio.run(scene())
    assert [row.done for row in place.rows()] == [1] * len(effects)
    once = Bartizan(place.blocking, environment="live", clock=place.clock).blocking.once
    with once.claim("evt_1", namespace="shop") as claim:
        assert claim.first is not bool(effects)


class Suspended:
    """Awaited, it waits for whoever drives the coroutine."""

    def __await__(self) -> Generator[None, None, None]:
        yield


def test_a_coroutine_that_is_closed_leaves_its_lease() -> None:
    """It may await nothing more, so the claim is held until the lease lapses."""
    kit = Kit()

    async def work() -> None:
        async with kit.security._shared.blocking_side.once.claim("evt_1", namespace="shop"):
            await Suspended()

    coroutine = work()
    coroutine.send(None)
    coroutine.close()
    with pytest.raises(InFlight), kit.security.blocking.once.claim("evt_1", namespace="shop"):
        pass


def test_a_coroutine_that_is_closed_while_it_claims_awaits_nothing_more() -> None:
    class Suspending(MemoryBackend):
        async def change(self, *args: Any, **more: Any) -> Any:
            await Suspended()
            return await super().change(*args, **more)

    async def work() -> None:
        async with Bartizan(Suspending(), environment="live")._shared.blocking_side.once.claim("x", namespace="shop"):
            pass

    coroutine = work()
    coroutine.send(None)
    coroutine.close()  # a coroutine that awaited here would be a RuntimeError


def test_an_answer_that_was_lost_leaves_nothing_held(place: Place) -> None:
    """The store wrote, and failed to say so: who is refused will not work, so nothing stays held."""

    def failing(point: str) -> None:
        if point == "claim>":
            raise Unavailable

    security = Bartizan(Hooked(place.blocking, failing), environment="live", clock=place.clock)
    with pytest.raises(Unavailable), security.blocking.once.claim("evt_1", namespace="shop"):
        pass
    assert place.rows() == []


def test_a_commit_that_fails_is_told(place: Place) -> None:
    def failing(point: str) -> None:
        if point == "commit<":
            raise Unavailable

    once = Bartizan(Hooked(place.blocking, failing), environment="live", clock=place.clock).blocking.once
    with pytest.raises(Unavailable), once.claim("evt_1", namespace="shop"):
        pass
    assert [row.done for row in place.rows()] == [0]


# --- upkeep, and over a socket ---


def test_markers_that_are_over_are_removed_by_upkeep(kit: Kit) -> None:
    once, upkeep = kit.security.blocking.once, kit.security._shared.upkeep
    for number in range(3):
        with once.claim(f"evt_{number}", namespace="shop", keep=10 if number else 20_000):
            pass
    kit.clock.advance(10 + 3600)
    upkeep.flush()
    assert len(rows(kit)) == 1


def test_upkeep_leaves_a_store_alone_in_which_nothing_was_claimed(place: Place) -> None:
    purged = []

    class Purged(Hooked):
        async def purge(self, *args: Any, **more: Any) -> int:
            purged.append(args)
            return 0

    security = Bartizan(Purged(place.blocking, lambda _: None), environment="live", clock=place.clock)
    security._shared.upkeep.flush()
    assert purged == []
    with security.blocking.once.claim("evt_1", namespace="shop"):
        pass
    security._shared.upkeep.flush()
    assert purged == [(ONCE,)]


def test_in_flight_is_409_done_is_200() -> None:
    kit = Kit()
    entered, go_on = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with kit.security.once.claim("evt_1", namespace="shop") as claim:
            if claim.first:
                entered.set()
                await asyncio.to_thread(go_on.wait, 30)
        body = b"did it" if claim.first else b"done"
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    first: list[Any] = []
    with serving(GateMiddleware(app, kit.security.gate([Rule("POST /hook", allow.public())]))) as port:
        thread = threading.Thread(target=lambda: first.append(ask(port, "/hook", method="POST")))
        thread.start()
        assert entered.wait(30)
        meanwhile = ask(port, "/hook", method="POST")
        go_on.set()
        thread.join(30)
        later = ask(port, "/hook", method="POST")
    assert (meanwhile.status, meanwhile.headers["retry-after"]) == (409, "300")
    assert b'"in_flight"' in meanwhile.body
    assert (first[0].status, first[0].body) == (200, b"did it")
    assert (later.status, later.body) == (200, b"done")
    assert [event.reason for event in kit.events] == ["in_flight"]


def test_the_principal_counts_when_the_claim_is_made() -> None:
    """Not when the block is entered: both are one line."""
    kit = Kit()
    token = current_unit.set(Presence())
    claiming = kit.security.blocking.once.claim("evt_1", namespace="shop")
    current_unit.reset(token)
    with kit.security.job("other", org="org_1"), claiming as claim:
        assert claim.first
    assert firsts(kit.security.blocking.once, ("shop", "evt_1")) == [False]


def test_errors_are_of_one_family() -> None:
    assert issubclass(InFlight, Conflict)
    assert issubclass(Conflict, BartizanError)
