"""The two ways to wait, in both forms, and the threads of stores whose driver only blocks.

Whatever runs on its own here (flights, threads) runs in an empty context: it serves many callers, so it is nobody's.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from bartizan.core.drive import run
from bartizan.errors import Unavailable

T = TypeVar("T")

THREADS = 4


class AsyncWaits:
    """`Waits` on an event loop: a flight is a task of its own, for each loop."""

    __slots__ = ("_flights",)

    def __init__(self) -> None:
        self._flights: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Task[Any]]] = WeakKeyDictionary()

    async def shared(self, key: str, work: Callable[[], Coroutine[Any, Any, T]], /) -> T:
        """The answer of `work`, run once for all who ask for `key` meanwhile; cancelling one leaves the others."""
        loop = asyncio.get_running_loop()
        flights = self._flights.setdefault(loop, {})
        flight = flights.get(key)
        if flight is None or flight.done():

            def forget(ended: asyncio.Task[Any]) -> None:
                if flights.get(key) is ended:
                    del flights[key]
                if not ended.cancelled():
                    ended.exception()  # looked at, or a flight whose waiters all left would be reported

            alone = Context()
            flight = flights[key] = loop.create_task(alone.run(work), context=alone)
            flight.add_done_callback(forget)
        result: T = await asyncio.shield(flight)
        return result

    async def finish(self, work: Coroutine[Any, Any, T], /) -> T:
        """The answer of `work`, which nothing interrupts: a cancellation reaches the caller when it has ended."""
        task = asyncio.get_running_loop().create_task(work)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is None:
            return task.result()
        if not task.cancelled():
            task.exception()  # taken, or the loop would report it as never looked at
        raise cancelled


class BlockingWaits:
    """`Waits` for threads: who asks first does the work, the others wait for its answer."""

    __slots__ = ("_flights", "_lock", "_pid")

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = Lock()
        self._flights: dict[str, Future[Any]] = {}

    async def shared(self, key: str, work: Callable[[], Coroutine[Any, Any, T]], /) -> T:
        """The answer of `work`, run once for all threads that ask for `key` meanwhile."""
        if self._pid != os.getpid():
            self._begin()  # the flights of the process we were forked from never land here
        with self._lock:
            flight = self._flights.get(key)
            leading = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not leading:
            result: T = flight.result()
            return result
        try:
            answer = Context().run(lambda: run(work()))
        except BaseException as error:
            del self._flights[key]
            # What interrupts this thread (Ctrl-C, SystemExit) is not for the others.
            flight.set_exception(error if isinstance(error, Exception) else Unavailable())
            raise
        del self._flights[key]
        flight.set_result(answer)
        return answer

    async def finish(self, work: Coroutine[Any, Any, T], /) -> T:
        """The answer of `work`: nothing cancels a thread."""
        return await work


class Threads:
    """A few threads for a store whose driver blocks, made at first use in each process."""

    __slots__ = ("_lock", "_pid", "_pool")

    def __init__(self) -> None:
        self._lock = Lock()
        self._pid = os.getpid()
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """The answer of `work`. Cancelled, it is never begun, or runs to its end all the same."""
        if self._pid != os.getpid():
            self._pid, self._lock, self._pool = os.getpid(), Lock(), None
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, "bartizan-store")
            future = self._pool.submit(Context().run, work)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Return when what was begun has ended; the next use makes threads anew."""
        if self._pid != os.getpid():
            return
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
