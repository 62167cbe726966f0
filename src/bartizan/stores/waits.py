"""The two ways to wait, in both forms, and the threads of stores whose driver only blocks.

Whatever runs on its own here (flights, threads) runs in an empty context: it serves many callers, so it is nobody's.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from queue import SimpleQueue
from threading import Condition, Lock, Thread
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, WeakMethod, finalize

from bartizan.core.drive import run
from bartizan.errors import Misuse, Reason, Unavailable

T = TypeVar("T")
J = TypeVar("J")

THREADS = 4
TOGETHER = 1000  # jobs of a writer that share a commit, at most

Answer = tuple[Any, BaseException | None]  # a job's value, or the error that is its own


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

    async def within(self, seconds: float, work: Awaitable[T], /) -> T:
        """The answer of `work`, or `Unavailable` where it takes longer; what it raises passes."""
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await work
        except TimeoutError:
            if limit.expired():
                raise Unavailable(Reason.CALLBACK_FAILED) from None
            raise


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

    async def within(self, _: float, work: Awaitable[T], /) -> T:
        """`Misuse`: a thread has no event loop for it."""
        if isinstance(work, Coroutine):
            work.close()  # or it would be reported as never awaited
        raise Misuse("an async function of the application cannot be asked from blocking code: give a plain one")


class Threads:
    """A few threads for a store whose driver blocks, made at first use in each process."""

    __slots__ = ("_count", "_lock", "_pid", "_pool")

    def __init__(self, count: int = THREADS) -> None:
        self._count = count
        self._lock = Lock()
        self._pid = os.getpid()
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """The answer of `work`. Cancelled, it is never begun, or runs to its end all the same."""
        if self._pid != os.getpid():
            self._pid, self._lock, self._pool = os.getpid(), Lock(), None
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._count, "bartizan-store")
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


class Afterwards:
    """What nobody waits for: a coroutine function is a task of the loop that runs, any other runs in a thread.

    Each runs in an empty context, and raises nothing. `most` of them may wait at once.
    """

    __slots__ = ("_lock", "_most", "_pid", "_pool", "_tasks", "_waiting")

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = Lock()
        self._waiting = 0
        self._pool: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def later(self, work: Callable[[], Coroutine[Any, Any, None]], *, suspends: bool) -> bool:
        """Begin `work` soon, unless too many wait; `suspends` is whether it may wait for a loop."""
        if self._pid != os.getpid():
            self._begin()
        if self._waiting + len(self._tasks) >= self._most:
            return False
        if suspends:
            alone = Context()
            task = asyncio.get_running_loop().create_task(alone.run(work), context=alone)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return True
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, "bartizan-delivery")
            self._waiting += 1
            self._pool.submit(Context().run, self._done, work)
        return True

    def _done(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            run(work())
        finally:
            with self._lock:
                self._waiting -= 1

    async def ended(self) -> None:
        """Return when what was begun on this loop has ended."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        if tasks:
            await asyncio.wait(tasks)

    def close(self) -> None:
        """Return when what runs in threads has ended."""
        if self._pid != os.getpid():
            return
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()


class Writer(Generic[J]):
    """One thread that carries jobs in groups, so that all who wait share one commit.

    `carry`, a method of the writer's owner, takes a group and gives each job's answer, in order; what it raises is
    everybody's answer, as `Unavailable`. The thread starts with the first job, and ends with `close` or with the owner.
    """

    def __init__(self, carry: Callable[[Sequence[J]], Sequence[Answer]]) -> None:
        self._carry: Any = WeakMethod(carry)  # or a store that nobody closed would live as long as the process
        self._lock = Lock()
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._thread: Thread | None = None

    def submit(self, job: J) -> Future[Any]:
        """The answer that will be. Cancelled in time the job is dropped; once it is begun nothing cancels it."""
        future: Future[Any] = Future()
        with self._lock:
            if self._thread is None:
                self._thread = self._started()
            self._queue.put((job, future))
        return future

    def _started(self) -> Thread:
        arguments = (_groups, self._queue, self._carry)
        thread = Thread(target=Context().run, args=arguments, name="bartizan-writer", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, or the system has no more threads
            raise Unavailable(Reason.STORE_FAILED) from None
        finalize(self, self._queue.put, None).atexit = False  # at exit there may be something left to write
        return thread

    def close(self) -> None:
        """Return when all that was submitted is answered; the next job starts another thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            queue, self._queue = self._queue, SimpleQueue()
        if thread is not None:
            queue.put(None)
            thread.join()


def _groups(queue: "SimpleQueue[Any]", carry: Any) -> None:
    while _group(queue, carry):  # a function of its own: while it waits the thread holds no job, and no owner
        pass


def _group(queue: "SimpleQueue[Any]", carry: Any) -> bool:
    taken = [queue.get()]
    while taken[-1] is not None and len(taken) < TOGETHER and not queue.empty():
        taken.append(queue.get())
    jobs = [each for each in taken if each is not None and each[1].set_running_or_notify_cancel()]
    if jobs:
        owner = carry()
        try:
            answers = owner([job for job, _ in jobs])
        except BaseException:  # noqa: BLE001 - whatever it is, nothing ends this thread, and nobody waits for ever
            answers = [(None, Unavailable(Reason.STORE_FAILED)) for _ in jobs]
        for (_, future), (value, error) in zip(jobs, answers, strict=True):
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
    return taken[-1] is not None


class Turnstile:
    """Lets everybody in and counts them; `shut` waits until nobody is inside, and keeps the others waiting."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._inside = 0
        self._open = True

    def __enter__(self) -> None:
        with self._lock:  # the condition's own, which costs less this way
            while not self._open:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._open:
                self._changed.notify_all()

    def shut(self, seconds: float) -> bool:
        """Whether everybody had left in time. Nobody enters before `reopen`, in either case."""
        with self._changed:
            self._open = False
            return self._changed.wait_for(lambda: not self._inside, seconds)

    def reopen(self) -> None:
        """Let everybody in."""
        with self._changed:
            self._open = True
            self._changed.notify_all()
