"""The thread that writes: who shares a commit, what is dropped, and that nothing ends it."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest

from bartizan.core.drive import run
from bartizan.core.principal import NOBODY, NOWHERE, Presence, current_unit
from bartizan.core.tables import Insert
from bartizan.errors import Reason, Unavailable
from bartizan.stores.sql import Plan, Rows, Statement
from bartizan.stores.sqlite import SqliteFile
from bartizan.stores.waits import TOGETHER, Answer, Writer
from bartizan.testing import FakeClock
from bartizan.testing.samples import SAMPLES, Sample

INSERT = "INSERT INTO samples (id, text, number, data) VALUES (?, ?, ?, x'')"


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqliteFile]:
    file = SqliteFile(tmp_path / "store.db", FakeClock())
    assert run(file.blocking.get(SAMPLES, "a")) is None
    yield file
    file.close()


def writes(key: str, *values: Any) -> Plan[Any]:
    """A plan past the checks of the storage language."""

    def plan() -> Generator[Statement, Rows, bool]:
        yield Statement(INSERT, (key, *values))
        return True

    return plan


class Held:
    """A writer that is kept busy, so that what is submitted meanwhile is one group."""

    def __init__(self, file: SqliteFile) -> None:
        self._go_on, begun = threading.Event(), threading.Event()

        def slow() -> Generator[Statement, Rows, bool]:
            begun.set()
            self._go_on.wait()
            yield from ()
            return True

        self._held = file.submit([SAMPLES], slow)
        begun.wait()

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        assert self._held.result() is True


def ids(file: SqliteFile) -> list[str]:
    return [row.id for row in run(file.blocking.find(SAMPLES, (), limit=1000))]


def test_many_share_one_commit(file: SqliteFile) -> None:
    texts: list[str] = []
    assert file._writes is not None
    with Held(file):
        file._writes.set_trace_callback(texts.append)
        futures = [file.submit([SAMPLES], writes(f"{i:03}", "", i)) for i in range(200)]
    assert [future.result() for future in futures] == [True] * 200
    assert texts.count("COMMIT") == 2  # the one that was held, and one for all the others
    assert len(ids(file)) == 200


def test_a_group_has_an_end(file: SqliteFile) -> None:
    texts: list[str] = []
    assert file._writes is not None
    with Held(file):
        file._writes.set_trace_callback(texts.append)
        futures = [file.submit([SAMPLES], writes(f"{i:05}", "", i)) for i in range(TOGETHER + 1)]
    assert [future.result() for future in futures] == [True] * (TOGETHER + 1)
    assert texts.count("COMMIT") == 3


@pytest.mark.parametrize(
    ("values", "error"), [(("", 2**63), OverflowError), (("\ud800", 1), UnicodeEncodeError), ((None, 1), Unavailable)]
)
def test_one_that_fails_is_alone(file: SqliteFile, values: tuple[Any, ...], error: type[Exception]) -> None:
    for turn in ("a", "b"):
        with Held(file):
            before = file.submit([SAMPLES], writes(f"{turn}1", "", 1))
            broken = file.submit([SAMPLES], writes(f"{turn}2", *values))
            after = file.submit([SAMPLES], writes(f"{turn}3", "", 3))
        assert (before.result(), after.result()) == (True, True)
        with pytest.raises(error):
            broken.result()
    assert ids(file) == ["a1", "a3", "b1", "b3"]


def test_cancelled_jobs_are_dropped(file: SqliteFile) -> None:
    with Held(file):
        futures = [file.submit([SAMPLES], writes(str(i), "", i)) for i in range(4)]
        assert [futures[i].cancel() for i in (0, 2)] == [True, True]
    assert [futures[i].result() for i in (1, 3)] == [True, True]
    with pytest.raises(CancelledError):
        futures[0].result()
    assert ids(file) == ["1", "3"]


def test_what_is_begun_is_not_cancelled(file: SqliteFile) -> None:
    seen: list[bool] = []
    holder: list[Future[Any]] = []

    def plan() -> Generator[Statement, Rows, bool]:
        seen.append(holder[0].cancel())
        yield Statement(INSERT, ("a", "", 1))
        return True

    with Held(file):
        holder.append(file.submit([SAMPLES], plan))
    assert holder[0].result() is True
    assert seen == [False]
    assert ids(file) == ["a"]


@pytest.mark.parametrize("plan", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_nothing_ends_the_writer(file: SqliteFile, plan: type[BaseException]) -> None:
    thread = file._writer._thread

    def raising() -> Any:
        raise plan

    with pytest.raises(plan):
        file.write([SAMPLES], raising)
    assert file.write([SAMPLES], writes("a", "", 1)) is True
    assert file._writer._thread is thread


def test_disk_full(file: SqliteFile) -> None:
    thread = file._writer._thread
    assert file._writes is not None
    file._writes.execute("PRAGMA max_page_count = 12")
    with Held(file):
        futures = [file.submit([SAMPLES], writes("a", "x" * 200_000, 1)), file.submit([SAMPLES], writes("b", "", 1))]
    with pytest.raises(Unavailable) as caught:
        futures[0].result()
    assert caught.value.reason is Reason.STORE_FAILED
    acknowledged = ["b"] if futures[1].exception() is None else []
    assert ids(file) == acknowledged
    assert file.write([SAMPLES], writes("c", "x" * 200_000, 1)) is True  # by a new connection, which has room
    assert file._writer._thread is thread


def test_read_only_for_a_while(file: SqliteFile) -> None:
    assert file._writes is not None
    file._writes.execute("PRAGMA query_only = ON")
    with pytest.raises(Unavailable) as caught:
        file.write([SAMPLES], writes("a", "", 1))
    assert caught.value.reason is Reason.STORE_FAILED
    assert file.write([SAMPLES], writes("a", "", 1)) is True


FULL = """
import resource, signal, sys
from bartizan.core.drive import run
from bartizan.core.tables import ANYTHING, Insert
from bartizan.errors import Unavailable
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing.samples import SAMPLES, Sample
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = SqliteFile(sys.argv[1])
put = lambda i, size: run(file.blocking.change(Insert(SAMPLES, Sample(id=str(i), data=bytes(size)))))
put("first", 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
done, refused = [], 0
for i in range(40):
    try:
        put(i, 20_000)
        done.append(str(i))
    except Unavailable as error:
        refused += 1
        assert error.reason == "store_failed", error.reason
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
put("last", 20_000)
file.close()
there = {row.id for row in run(file.blocking.find(SAMPLES, (), limit=1000))}
file.close()
print(there == {"first", "last", *done}, 0 < len(done) < 40, refused > 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_real_limit_of_the_file_system(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "store.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True"] * 3, done


def test_the_writer_is_nobody(file: SqliteFile) -> None:
    def plan() -> Generator[Statement, Rows, object]:
        yield from ()
        return current_unit.get()

    file.close()
    token = current_unit.set(Presence(NOBODY))
    assert file.write([SAMPLES], plan) is NOWHERE
    current_unit.reset(token)


def test_close_answers_what_was_submitted(file: SqliteFile) -> None:
    futures = [file.submit([SAMPLES], writes(f"{i:03}", "", i)) for i in range(100)]
    file.close()
    assert [future.result(0) for future in futures] == [True] * 100
    assert file._writer._thread is None


def test_a_forgotten_store_ends_its_thread(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "forgotten.db")
    run(file.blocking.change(Insert(SAMPLES, Sample(id="a"))))
    file.before_fork()  # closes the connections, so that the interpreter has nothing to warn of
    thread = file._writer._thread
    assert thread is not None
    del file
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_async_writers_share_commits(file: SqliteFile) -> None:
    texts: list[str] = []
    assert file._writes is not None
    file._writes.set_trace_callback(texts.append)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for i in range(300):
                group.create_task(file.asynchronous.change(Insert(SAMPLES, Sample(id=f"{i:03}"))))

    asyncio.run(all_of_them())
    assert len(ids(file)) == 300
    assert texts.count("COMMIT") < 150


class Owner:
    def __init__(self, carried: Callable[[Sequence[int]], list[Answer]]) -> None:
        self.carried = carried
        self.writer: Writer[int] = Writer(self.carry)

    def carry(self, jobs: Sequence[int]) -> list[Answer]:
        return self.carried(jobs)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_carrying_raises_is_everybodys_answer(error: type[BaseException]) -> None:
    def carried(_: Sequence[int]) -> list[Answer]:
        raise error

    owner = Owner(carried)
    for _ in range(3):
        with pytest.raises(Unavailable):
            owner.writer.submit(1).result(30)
    owner.carried = lambda jobs: [(job, None) for job in jobs]
    assert owner.writer.submit(1).result(30) == 1
    owner.writer.close()


def test_no_thread_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner(lambda jobs: [(job, None) for job in jobs])

    def start(_: threading.Thread) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(Unavailable):
            owner.writer.submit(1)
    assert owner.writer.submit(2).result(30) == 2
    owner.writer.close()
