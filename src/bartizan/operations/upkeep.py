"""The upkeep thread: slow and outward work at intervals, one thread in each process, started at first need."""

import atexit
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from threading import Event, Lock, RLock, Thread
from weakref import ref

_log = logging.getLogger("bartizan.upkeep")


class _Job:
    __slots__ = ("due", "every", "work")

    def __init__(self, work: Callable[[], object], every: float) -> None:
        self.work = work
        self.every = every
        self.due = 0.0


class Upkeep:
    """Jobs run about every `interval` seconds, those that are due. It starts nothing before `need()`.

    A job that raises is counted in `failures`, and its next turn comes as usual.
    """

    def __init__(self, *, interval: float = 1.0, tick: Callable[[], float] = time.monotonic) -> None:
        self.failures: int = 0
        self._interval = interval
        self._tick = tick
        self._jobs: list[_Job] = []
        self._at_exit = partial(_flush_at_exit, ref(self))
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._starting = Lock()  # not the one that jobs run under: `need` waits for no job
        self._running = RLock()
        self._thread: Thread | None = None
        self._stop = Event()

    def _here(self) -> None:
        if self._pid != os.getpid():
            self._begin()  # after a fork: the thread stayed in the parent, and its locks may be held for ever

    def add(self, work: Callable[[], object], *, every: float) -> None:
        """Run `work` at the first turn, and then every so many seconds."""
        self._jobs.append(_Job(work, every))

    def need(self) -> None:
        """The thread runs, in this process. Cheap where it does; never raises."""
        if self._thread is not None and self._pid == os.getpid():
            return
        self._here()
        with self._starting:
            if self._thread is not None:
                return
            thread = Thread(
                target=Context().run,
                args=(_turns, ref(self), self._stop, self._interval),
                name="bartizan-upkeep",
                daemon=True,
            )
            with suppress(RuntimeError):  # the interpreter is ending: the flush at exit does it
                thread.start()
                self._thread = thread
                atexit.register(self._at_exit)

    def run_due(self, now: float) -> None:
        """One turn: the jobs that are due at `now` (seconds of any clock that only goes forward)."""
        with self._running:
            for job in self._jobs:
                if job.due <= now:
                    job.due = now + job.every
                    self._run(job)

    def flush(self) -> None:
        """All jobs have run, now and in this thread."""
        self._here()
        with self._running:
            for job in self._jobs:
                job.due = self._tick() + job.every
                self._run(job)

    def close(self) -> None:
        """The thread has ended, and everything is flushed; `need()` starts it again."""
        self._here()
        with self._starting:
            thread, self._thread = self._thread, None
            self._stop.set()
            self._stop = Event()
        if thread is not None:
            atexit.unregister(self._at_exit)
            thread.join()
        self.flush()

    def _run(self, job: _Job) -> None:
        try:
            job.work()
        except Exception:  # noqa: BLE001 - whatever a job meets, the others and the next turn go on
            self.failures += 1
            with suppress(Exception):  # a log handler is foreign code
                _log.warning("a job of the upkeep thread failed; it is tried again at its next turn")


def _turns(upkeep: "ref[Upkeep]", stop: Event, interval: float) -> None:
    """The thread's work. It holds its owner only for a turn, so that one that is forgotten lets it end."""
    while not stop.wait(interval):
        owner = upkeep()
        if owner is None:
            return
        owner.run_due(owner._tick())  # noqa: SLF001 - this is the owner's own thread
        del owner


def _flush_at_exit(upkeep: "ref[Upkeep]") -> None:
    owner = upkeep()
    if owner is not None:
        owner.flush()
