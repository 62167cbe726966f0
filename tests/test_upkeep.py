import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextvars import copy_context

import pytest

from bartizan.core.principal import NOBODY, NOWHERE, Presence, current_unit
from bartizan.operations.upkeep import Upkeep


class Failure(Exception):
    pass


def fail() -> None:
    raise Failure


@pytest.fixture
def upkeep() -> Iterator[Upkeep]:
    upkeep = Upkeep(interval=0.001)
    yield upkeep
    upkeep.close()


def test_jobs_run_when_they_are_due() -> None:
    upkeep, ran = Upkeep(), []
    upkeep.add(lambda: ran.append("notes"), every=1)
    upkeep.add(lambda: ran.append("uses"), every=60)
    for now, want in [
        (100, ["notes", "uses"]),
        (100.5, []),
        (101, ["notes"]),
        (159, ["notes"]),
        (160, ["notes", "uses"]),
    ]:
        ran.clear()
        upkeep.run_due(now)
        assert ran == want


def test_flush_runs_all_in_this_thread() -> None:
    upkeep, ran = Upkeep(tick=lambda: 7), []
    upkeep.add(lambda: ran.append(threading.current_thread()), every=60)
    upkeep.flush()
    upkeep.flush()
    assert ran == [threading.current_thread()] * 2
    upkeep.run_due(60)
    assert len(ran) == 2
    upkeep.run_due(67)
    assert len(ran) == 3


def test_nothing_starts_before_it_is_needed(upkeep: Upkeep) -> None:
    ran = threading.Event()
    upkeep.add(ran.set, every=0)
    before = set(threading.enumerate())  # some of them, of other tests, may end meanwhile
    assert not ran.is_set()
    upkeep.need()
    thread = upkeep._thread
    upkeep.need()
    assert set(threading.enumerate()) - before == {thread}
    assert upkeep._thread is thread
    assert thread is not None
    assert thread.daemon
    assert ran.wait(10)


def test_thread_has_no_principal(upkeep: Upkeep) -> None:
    seen: list[object] = []
    done = threading.Event()

    def look() -> None:
        seen.append(current_unit.get())
        done.set()

    upkeep.add(look, every=0)

    def need() -> None:
        current_unit.set(Presence(NOBODY))
        upkeep.need()

    copy_context().run(need)
    assert done.wait(10)
    assert seen[0] is NOWHERE


def test_job_that_raises_is_counted_and_the_others_go_on(upkeep: Upkeep, caplog: pytest.LogCaptureFixture) -> None:
    turns = threading.Semaphore(0)
    upkeep.add(fail, every=0)
    upkeep.add(turns.release, every=0)
    with caplog.at_level(logging.WARNING, "bartizan.upkeep"):
        upkeep.need()
        for _ in range(3):
            assert turns.acquire(timeout=10)
        upkeep.close()
    assert upkeep.failures >= 3
    assert set(caplog.messages) == {"a job of the upkeep thread failed; it is tried again at its next turn"}
    assert not any(record.exc_info for record in caplog.records)


def test_close_flushes_and_it_starts_again(upkeep: Upkeep) -> None:
    ran: list[str] = []
    upkeep.add(lambda: ran.append(threading.current_thread().name), every=1_000_000)
    upkeep.run_due(0)
    for _ in range(2):
        upkeep.need()
        thread = upkeep._thread
        assert thread is not None
        upkeep.close()
        assert not thread.is_alive()
        assert ran[-1] == threading.current_thread().name
        assert upkeep._thread is None
    assert ran.count(threading.current_thread().name) >= 3


def test_thread_of_a_forgotten_one_ends() -> None:
    upkeep = Upkeep(interval=0.001)
    upkeep.need()
    thread = upkeep._thread
    assert thread is not None
    del upkeep
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_need_never_raises(upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
    def ending(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", ending)
        upkeep.need()
        assert upkeep._thread is None
    upkeep.need()
    assert upkeep._thread is not None


EXIT = """
from bartizan.operations.upkeep import Upkeep
upkeep = Upkeep(interval=1000)
upkeep.add(lambda: print("flushed"), every=1)
upkeep.need()
"""


def test_flushed_at_exit() -> None:
    done = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, check=True)
    assert done.stdout == "flushed\n"


FORK = """
import os, threading
from bartizan.operations.upkeep import Upkeep
upkeep = Upkeep(interval=0.001)
ran = threading.Event()
upkeep.add(ran.set, every=0)
upkeep.need()
ran.wait(10)
upkeep._running.acquire()
upkeep._starting.acquire()
child = os.fork()
if not child:
    ran.clear()
    upkeep.need()
    outcome = 7 if ran.wait(10) else 1
    upkeep.close()
    os._exit(outcome)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
upkeep._running.release()
upkeep._starting.release()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_child_starts_its_own_thread() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "7"
