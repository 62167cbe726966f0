import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from bartizan.core.drive import run
from bartizan.core.principal import NOBODY, NOWHERE, Presence, current_unit
from bartizan.errors import Unavailable
from bartizan.stores.waits import THREADS, AsyncWaits, BlockingWaits, Threads

VAR: ContextVar[str] = ContextVar("VAR")


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


async def principal() -> object:
    return current_unit.get()


def test_single_flight_has_no_principal(threads: Threads) -> None:
    async def all_of_them() -> list[object]:
        return [
            await AsyncWaits().shared("k", principal),
            await BlockingWaits().shared("k", principal),
            await threads.run(lambda: current_unit.get()),
        ]

    token = current_unit.set(Presence(NOBODY))
    assert asyncio.run(all_of_them()) == [NOWHERE] * 3
    current_unit.reset(token)


def test_a_finishing_reaction_keeps_the_callers_context() -> None:
    async def name() -> str:
        return VAR.get()

    async def both() -> list[str]:
        return [await AsyncWaits().finish(name()), await BlockingWaits().finish(name())]

    token = VAR.set("caller")
    assert asyncio.run(both()) == ["caller", "caller"]
    VAR.reset(token)


# on an event loop


class Flight:
    """Work that says when it runs, and ends when it is told."""

    def __init__(self) -> None:
        self.runs = 0
        self.gate = asyncio.Event()
        self.began = asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self) -> int:
        self.runs += 1
        self.began.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.runs


def test_async_single_flight() -> None:
    async def scenario() -> None:
        waits, flight = AsyncWaits(), Flight()
        tasks = [asyncio.create_task(waits.shared("k", flight)) for _ in range(50)]
        other = asyncio.create_task(waits.shared("other", flight))
        await flight.began.wait()
        flight.gate.set()
        assert await asyncio.gather(*tasks) == [2] * 50  # two keys, two runs
        assert await other == 2
        assert flight.runs == 2
        assert await waits.shared("k", flight) == 3  # what ended is forgotten
        assert [*waits._flights.values()] == [{}]

    asyncio.run(scenario())


def test_async_flight_outlives_its_first_waiter() -> None:
    async def scenario() -> None:
        waits, flight = AsyncWaits(), Flight()
        tasks = [asyncio.create_task(waits.shared("k", flight)) for _ in range(3)]
        await flight.began.wait()
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.wait([tasks[0], tasks[2]])
        flight.gate.set()
        assert await tasks[1] == 1
        assert tasks[0].cancelled()
        assert tasks[2].cancelled()

    asyncio.run(scenario())


def test_async_error_reaches_all() -> None:
    async def scenario() -> list[Any]:
        waits, flight = AsyncWaits(), Flight()
        flight.error = Unavailable()
        flight.gate.set()
        results = await asyncio.gather(*[waits.shared("k", flight) for _ in range(3)], return_exceptions=True)
        flight.error = None
        assert await waits.shared("k", flight) == 2
        return results

    assert [type(result) for result in asyncio.run(scenario())] == [Unavailable] * 3


def test_async_flight_that_nobody_waits_for_fails_silently(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        waits, flight = AsyncWaits(), Flight()
        flight.error = Unavailable()
        task = asyncio.create_task(waits.shared("k", flight))
        await flight.began.wait()
        task.cancel()
        await asyncio.wait([task])
        (left,) = waits._flights[asyncio.get_running_loop()].values()
        flight.gate.set()
        await asyncio.wait([left])

    asyncio.run(scenario())
    assert not caplog.records


def test_each_loop_has_its_flights() -> None:
    waits = AsyncWaits()

    async def scenario() -> int:
        flight = Flight()
        flight.gate.set()
        return await waits.shared("k", flight)

    assert [asyncio.run(scenario()), asyncio.run(scenario())] == [1, 1]


@pytest.mark.parametrize("error", [None, Unavailable()])
def test_finish_ends_before_its_caller(error: Exception | None) -> None:
    async def scenario() -> None:
        flight = Flight()
        flight.error = error
        task = asyncio.create_task(AsyncWaits().finish(flight()))
        await flight.began.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        flight.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_finish_answers() -> None:
    async def answer() -> int:
        return 7

    async def failure() -> int:
        raise Unavailable

    for waits in (AsyncWaits(), BlockingWaits()):
        assert asyncio.run(waits.finish(answer())) == 7
        with pytest.raises(Unavailable):
            asyncio.run(waits.finish(failure()))


# in threads


class Seen(dict[str, "Future[Any]"]):
    """Flights that count who looked for one: they have found it when they are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = threading.Semaphore(0)

    def get(self, key: str, default: Any = None) -> Any:
        self.looks.release()
        return super().get(key, default)


def race(work: Callable[[threading.Event], int], waiters: int) -> list[Any]:
    """What each of the threads got that asked for one key while `work` was told to wait."""
    waits, gate = BlockingWaits(), threading.Event()
    seen = waits._flights = Seen()

    async def held() -> int:
        return work(gate)

    def ask(_: int) -> Any:
        try:
            return run(waits.shared("k", held))
        except BaseException as error:
            return type(error)

    with ThreadPoolExecutor(waiters) as pool:
        futures = [pool.submit(ask, i) for i in range(waiters)]
        for _ in range(waiters):
            seen.looks.acquire()
        gate.set()
        results = [future.result() for future in futures]
    assert not seen
    return results


def test_blocking_single_flight() -> None:
    runs = []

    def work(gate: threading.Event) -> int:
        gate.wait()
        runs.append(1)
        return 7

    assert race(work, 32) == [7] * 32
    assert runs == [1]


@pytest.mark.parametrize(("raised", "others"), [(KeyError, KeyError), (SystemExit, Unavailable)])
def test_blocking_error_reaches_all(raised: type[BaseException], others: type[Exception]) -> None:
    def work(gate: threading.Event) -> int:
        gate.wait()
        raise raised

    assert sorted(race(work, 8), key=lambda kind: kind is not raised) == [raised, *[others] * 7]


def test_blocking_flights_of_the_parent_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = BlockingWaits()
    waits._flights["k"] = Future()  # the thread that would end it stayed in the parent
    waits._lock.acquire()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert run(waits.shared("k", principal)) is NOWHERE


# the threads of a store


def test_threads_are_made_at_first_use_and_again(threads: Threads) -> None:
    assert threads._pool is None
    for _ in range(2):
        assert asyncio.run(threads.run(lambda: threading.current_thread().name)).startswith("bartizan-store")
        threads.close()
        assert threads._pool is None


def test_threads_of_a_child_are_its_own(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(threads.run(int))
    parents = threads._pool
    assert parents is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        threads.close()  # not ours to close
        assert threads._pool is parents
        asyncio.run(threads.run(int))
        assert threads._pool is not parents
        threads.close()
    parents.shutdown()


def test_cancelled_before_it_began_never_runs(threads: Threads) -> None:
    gate, ran = threading.Event(), []

    async def scenario() -> None:
        busy = [asyncio.create_task(threads.run(gate.wait)) for _ in range(THREADS)]
        late = asyncio.create_task(threads.run(lambda: ran.append(1)))
        await asyncio.sleep(0)
        late.cancel()
        await asyncio.wait([late])
        gate.set()
        await asyncio.gather(*busy)
        threads.close()

    asyncio.run(scenario())
    assert ran == []
