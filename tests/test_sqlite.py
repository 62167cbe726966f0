import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cancelling import ended

from bartizan.core.drive import run
from bartizan.core.tables import ANYTHING, Add, Insert, Is, Now, Ref, Table, Update
from bartizan.errors import Misuse, Reason, Unavailable
from bartizan.stores import sqlite
from bartizan.stores.sql import Rows, Statement
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing import FakeClock
from bartizan.testing.samples import OTHERS, SAMPLES, Sample

T = TypeVar("T")
A = Sample(id="a", number=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def file(path: Path) -> Iterator[SqliteFile]:
    file = SqliteFile(path, FakeClock())
    yield file
    file.close()


def put(file: SqliteFile, row: Sample = A) -> Sample | None:
    return run(file.blocking.change(Insert(SAMPLES, row, over=ANYTHING)))


def edit(path: Path, *texts: str) -> None:
    connection = sqlite3.connect(path)
    for text in texts:
        connection.execute(text)
    connection.commit()
    connection.close()


def refusal(work: Callable[[], object]) -> Misuse | Unavailable:
    with pytest.raises((Misuse, Unavailable)) as caught:
        work()
    error = caught.value
    assert isinstance(error, (Misuse, Unavailable))
    assert error.__suppress_context__ or error.__context__ is None
    return error


# the file


def test_sqlite_claims_synchronous_full(file: SqliteFile) -> None:
    put(file)
    assert file._writes is not None
    assert file._writes.execute("PRAGMA synchronous").fetchone() == (2,)
    assert file._writes.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_opening_does_nothing(path: Path) -> None:
    threads = set(threading.enumerate())  # of other tests, which may end meanwhile
    SqliteFile(path).close()
    assert not path.exists()
    assert set(threading.enumerate()) <= threads


def test_file_is_its_owners(file: SqliteFile, path: Path) -> None:
    put(file)
    files = list(path.parent.iterdir())
    assert {item.name for item in files} == {"store.db", "store.db-wal", "store.db-shm"}
    assert {stat.S_IMODE(item.stat().st_mode) for item in files} == {0o600}


def test_close_and_use_again(file: SqliteFile) -> None:
    for number in range(3):
        put(file, replace(A, number=number))
        assert asyncio.run(file.asynchronous.get(SAMPLES, "a")) == replace(A, number=number)
        assert len(asyncio.run(file.asynchronous.find(SAMPLES, ()))) == 1
        file.close()
        file.close()


def test_reader_of_before_the_close_is_not_kept(file: SqliteFile) -> None:
    put(file)

    def plan() -> Generator[Statement, Rows, bool]:
        yield Statement("SELECT 1", ())
        file.close()
        return True

    assert file.read([SAMPLES], plan)
    assert file._idle == {0: [], sqlite.BUSY_FOR: []}


def test_two_files_over_one_path(path: Path) -> None:
    files = [SqliteFile(path), SqliteFile(path)]
    won: list[Sample] = []

    def racer(i: int) -> None:
        row = run(files[i % 2].blocking.change(Insert(SAMPLES, Sample(id="row", number=i))))
        won.extend([row] if row else [])

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(racer, range(16)))
    assert won == [run(file.blocking.get(SAMPLES, "row")) for file in files[:1]]
    for file in files:
        file.close()


# what the operator did wrong


def test_wrong_paths(tmp_path: Path) -> None:
    for name in ("", ":memory:"):
        with pytest.raises(Misuse, match="memory://"):
            SqliteFile(name)
    (tmp_path / "file").write_bytes(b"not a database, but long enough to be one" * 100)
    for path, text in [
        (tmp_path, "directory"),
        (tmp_path / "missing" / "store.db", "directory"),
        (tmp_path / "file" / "store.db", "directory"),
        (tmp_path / "a\0b", "directory"),
        (tmp_path / "file", "not an SQLite database"),
    ]:
        file = SqliteFile(path)
        for _ in range(2):
            error = refusal(lambda file=file: put(file))  # type: ignore[misc]
            assert isinstance(error, Misuse)
            assert text in str(error)
            assert isinstance(refusal(lambda file=file: run(file.blocking.get(SAMPLES, "a"))), Misuse)  # type: ignore[misc]
            assert isinstance(refusal(lambda file=file: asyncio.run(file.asynchronous.get(SAMPLES, "a"))), Misuse)  # type: ignore[misc]
        file.close()


READ_ONLY = """
import os, sys, tempfile
from pathlib import Path
from bartizan.core.drive import run
from bartizan.errors import Misuse
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing.samples import SAMPLES
folder = Path(tempfile.mkdtemp())
path = folder / "store.db"
file = SqliteFile(path)
run(file.blocking.get(SAMPLES, "a"))
file.close()
path.chmod(0o444)
folder.chmod(int(sys.argv[1], 8))
euid = os.geteuid()
if euid == 0:
    os.seteuid(65534)
try:
    run(file.blocking.get(SAMPLES, "a"))
except Misuse as error:
    print(error)
file.close()
os.seteuid(euid)
folder.chmod(0o700)
for item in [*folder.iterdir()]:
    item.unlink()
folder.rmdir()
"""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="file modes are POSIX")
@pytest.mark.parametrize("mode", ["555", "777"])
def test_read_only_file(mode: str) -> None:
    done = subprocess.run([sys.executable, "-c", READ_ONLY, mode], capture_output=True, text=True, check=True)
    assert "read-only" in done.stdout or "not open to this process" in done.stdout, done


def test_corrupt_schema_at_first_use(file: SqliteFile, path: Path) -> None:
    put(file)
    file.close()
    content = bytearray(path.read_bytes())
    content[100:200] = b"\xff" * 100
    path.write_bytes(content)
    assert "corrupt" in str(refusal(lambda: put(file)))


def test_utf_16(file: SqliteFile, path: Path) -> None:
    edit(path, "PRAGMA encoding = 'UTF-16'", "CREATE TABLE t (a)")
    assert "UTF-8" in str(refusal(lambda: put(file)))


def test_old_library(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(Misuse, match=r"3\.35"):
        SqliteFile(path)


def test_no_write_ahead_log(file: SqliteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(sqlite3.Connection):
        def execute(self, text: str, *values: Any) -> sqlite3.Cursor:
            return super().execute("SELECT 'delete'" if "journal_mode" in text else text, *values)

    connect = partial(sqlite3.connect, factory=Plain)
    monkeypatch.setattr(file, "_sqlite3", types.SimpleNamespace(connect=connect, Error=sqlite3.Error))
    assert "local file system" in str(refusal(lambda: put(file)))


# tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Longer:
    id: str
    text: str
    more: int | None


@pytest.mark.parametrize(
    ("texts", "refused"),
    [
        (["UPDATE bartizan_tables SET version = 2"], "newer"),
        (["UPDATE bartizan_tables SET version = 0"], "other columns"),
        (["UPDATE bartizan_tables SET columns = '[]'"], "other columns"),
        (["ALTER TABLE samples ADD COLUMN more INTEGER"], "other columns"),
        (["ALTER TABLE samples DROP COLUMN data"], "other columns"),
        (["DROP TABLE samples"], "other columns"),
        (["DELETE FROM bartizan_tables"], "not made by Bartizan"),
    ],
)
def test_other_tables(file: SqliteFile, path: Path, texts: list[str], refused: str) -> None:
    put(file)
    file.close()
    edit(path, *texts)
    for _ in range(2):
        error = refusal(lambda: put(file))
        assert isinstance(error, Misuse)
        assert refused in str(error)
    assert run(file.blocking.get(OTHERS, "a")) is None  # the others work


def test_two_records_of_one_table(file: SqliteFile) -> None:
    put(file)
    longer = Table(name="samples", record=Longer, key="id")
    assert "other columns" in str(refusal(lambda: run(file.blocking.get(longer, "a"))))
    newer = Table(name="samples", record=Longer, key="id", version=2)
    assert "other columns" in str(refusal(lambda: run(file.blocking.get(newer, "a"))))
    assert run(file.blocking.get(SAMPLES, "a")) == A


def test_tables_are_made_once_and_lazily(file: SqliteFile, path: Path) -> None:
    put(file)
    names = "SELECT name FROM sqlite_master WHERE type = ? ORDER BY name"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: run(file.blocking.get(SAMPLES, "a")), range(8)))
    connection = sqlite3.connect(path)
    assert connection.execute(names, ("table",)).fetchall() == [("bartizan_tables",), ("samples",)]
    indexes = [name for (name,) in connection.execute(names, ("index",)) if not name.startswith("sqlite_")]
    assert indexes == ["samples_ends", "samples_text_number"]
    assert [row[:2] for row in connection.execute("SELECT * FROM bartizan_tables")] == [("samples", 1)]
    connection.close()


def test_names_are_quoted(file: SqliteFile) -> None:
    table = Table(name='order"; --', record=Sample, key="id")
    row = run(file.blocking.change(Insert(table, A)))
    assert run(file.blocking.find(table, [Is("number", "=", 1)])) == [row]


# failures while it runs


@pytest.mark.parametrize(
    "text",
    ["UPDATE samples SET number = 'x'", "UPDATE samples SET text = x'ff'", "UPDATE samples SET data = 'text'",
     "UPDATE samples SET number = 1.5", "UPDATE samples SET text = CAST(x'ff' AS TEXT)"],
)  # fmt: skip
def test_row_that_no_step_wrote(file: SqliteFile, path: Path, text: str) -> None:
    put(file)
    edit(path, text)
    for work in (
        file.blocking.get(SAMPLES, "a"),
        file.blocking.find(SAMPLES, ()),
        file.blocking.change(Update(SAMPLES, "a", ANYTHING, (("ends", 1),))),
    ):
        error = refusal(partial(run, work))
        assert isinstance(error, Unavailable)
        assert error.reason is Reason.STORE_FAILED
    edit(path, "DELETE FROM samples")
    assert put(file) == A


def test_table_lost_while_it_runs(file: SqliteFile, path: Path) -> None:
    put(file)
    edit(path, "DROP TABLE samples")
    for work in (file.blocking.get(SAMPLES, "a"), file.blocking.change(Insert(SAMPLES, A))):
        error = refusal(partial(run, work))
        assert isinstance(error, Unavailable)
        assert error.reason is Reason.STORE_FAILED


def test_file_lost_is_not_made_again(file: SqliteFile, path: Path) -> None:
    put(file)
    for item in path.parent.iterdir():
        item.unlink()
    error = refusal(lambda: run(file.blocking.get(SAMPLES, "a")))
    assert isinstance(error, Unavailable)
    assert not path.exists()


def test_disk_full_leaves_nothing_half_done(file: SqliteFile) -> None:
    put(file)
    run(file.blocking.get(OTHERS, "b"))
    assert file._writes is not None
    file._writes.execute("PRAGMA max_page_count = 12")
    large = Insert(OTHERS, Sample(id="b", data=bytes(100_000)))
    step = Update(SAMPLES, "a", ANYTHING, (("number", Add(1)),))
    error = refusal(lambda: run(file.blocking.change(large, also=[step])))
    assert isinstance(error, Unavailable)
    assert error.reason is Reason.STORE_FAILED
    assert run(file.blocking.get(SAMPLES, "a")) == A
    assert run(file.blocking.change(large, also=[step])) is not None  # on a new connection, which may grow


def test_busy_writer(file: SqliteFile, path: Path) -> None:
    put(file)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert file._writes is not None
    file._writes.execute("PRAGMA busy_timeout = 0")
    error = refusal(lambda: put(file))
    assert isinstance(error, Unavailable)
    assert error.reason is Reason.STORE_BUSY
    assert run(file.blocking.get(SAMPLES, "a")) == A  # readers do not wait for writers
    other.execute("COMMIT")
    other.close()
    assert put(file) == A


def test_write_that_waits_too_long_is_dropped(file: SqliteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    put(file)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> Generator[Statement, Rows, bool]:
        begun.set()
        go_on.wait()
        yield from ()
        return True

    running = file.submit([SAMPLES], slow)
    begun.wait()
    async_put = file.asynchronous.change(Insert(SAMPLES, Sample(id="c")))
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "ANSWER_FOR", 0)
        for work in (lambda: put(file, Sample(id="b")), lambda: asyncio.run(async_put)):
            error = refusal(work)
            assert isinstance(error, Unavailable)
            assert error.reason is Reason.STORE_BUSY
    go_on.set()
    assert running.result() is True
    file.close()
    assert run(file.blocking.find(SAMPLES, ())) == [A]


def test_interrupted_change_is_rolled_back(file: SqliteFile) -> None:
    put(file)

    def plan() -> Generator[Statement, Rows, bool]:
        yield Statement("UPDATE samples SET number = 9", ())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file.write([SAMPLES], plan)
    assert run(file.blocking.get(SAMPLES, "a")) == A
    assert put(file, replace(A, number=2)) == replace(A, number=2)


def test_rows_are_read_as_they_are_together(file: SqliteFile) -> None:
    put(file)
    put(file, Sample(id="b", number=1))
    select = "SELECT number FROM samples WHERE id = ?"

    def plan() -> Generator[Statement, Rows, list[Any]]:
        a = yield Statement(select, ("a",))
        put(file, Sample(id="b", number=2))
        b = yield Statement(select, ("b",))
        return [a[0][0], b[0][0]]

    assert file.read([SAMPLES], plan) == [1, 1]


class Restless(FakeClock):
    def seconds(self) -> int:
        self.advance(1)
        return self()


def test_one_now_for_a_change(path: Path) -> None:
    file = SqliteFile(path, Restless())
    first = Insert(SAMPLES, A, set=(("number", Now()), ("ends", Now())))
    row = run(file.blocking.change(first, also=[Insert(OTHERS, Sample(id="b"), set=(("number", Now()),))]))
    other = run(file.blocking.get(OTHERS, "b"))
    file.close()
    assert row is not None
    assert other is not None
    assert row.number == row.ends == other.number


# the event loop


def test_point_reads_do_not_suspend(file: SqliteFile) -> None:
    put(file)
    assert run(file.asynchronous.get(SAMPLES, "a")) == A
    assert run(file.asynchronous.read(Ref(SAMPLES, "a"), Ref(SAMPLES, "b"))) == (A, None)
    assert file._threads._pool is None


def test_busy_point_read_goes_to_a_thread(file: SqliteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    put(file)
    read, asked = file.read, []

    def busy(tables: Any, plan: Any, patience: float = sqlite.BUSY_FOR) -> Any:
        asked.append((patience, threading.current_thread() is threading.main_thread()))
        if not patience:
            raise Unavailable(Reason.STORE_BUSY)
        return read(tables, plan, patience)

    monkeypatch.setattr(file, "read", busy)
    assert asyncio.run(file.asynchronous.get(SAMPLES, "a")) == A
    assert asked == [(0, True), (sqlite.BUSY_FOR, False)]

    def failed(*_: Any) -> Any:
        raise Unavailable(Reason.STORE_FAILED)

    monkeypatch.setattr(file, "read", failed)
    with pytest.raises(Unavailable):
        asyncio.run(file.asynchronous.get(SAMPLES, "a"))


@pytest.mark.parametrize("prepared", [False, True])
def test_cancelled_after_every_await(file: SqliteFile, *, prepared: bool) -> None:
    put(file)
    for number in range(1, 100):
        if not prepared:
            file.close()
        row = Sample(id=f"row{number}")
        step = Update(SAMPLES, "a", ANYTHING, (("number", 100 + number),))
        work = file.asynchronous.change(step, also=[Insert(OTHERS, row)])

        done = asyncio.run(ended(number, work))
        file.close()  # what was begun has ended
        kept = run(file.blocking.get(SAMPLES, "a"))
        assert kept is not None
        assert (kept.number == 100 + number) is (run(file.blocking.get(OTHERS, row.id)) == row)
        if done:
            assert number > 1
            return
    raise AssertionError("it never ended")


# processes

FORK = """
import os, sys
from bartizan.core.drive import run
from bartizan.core.tables import Insert
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing.samples import SAMPLES, Sample
file = SqliteFile(sys.argv[1])
if sys.argv[2] == "used":
    run(file.blocking.get(SAMPLES, "a"))
child = os.fork()
put = file.blocking.change(Insert(SAMPLES, Sample(id="parent" if child else "child")))
outcome = 7 if run(put) else 8
file.close()
if not child:
    sys.exit(outcome)
print(outcome, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(run(file.blocking.find(SAMPLES, ()))))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("used", ["used", "unused"])
def test_fork_of_an_opened_store(path: Path, used: str) -> None:
    command = [sys.executable, "-c", FORK, str(path), used]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "7 7 2"


MANY = """
import os, sys
from bartizan.core.drive import run
from bartizan.core.tables import Insert
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing.samples import SAMPLES, Sample
for turn in range(8):
    gate, opener = os.pipe()
    children = []
    for number in range(6):
        child = os.fork()
        if not child:
            os.close(opener)
            os.read(gate, 1)
            store = SqliteFile(f"{sys.argv[1]}{turn}").blocking
            os._exit(0 if run(store.change(Insert(SAMPLES, Sample(id="row", number=number)))) is None else 7)
        children.append(child)
    os.close(opener)
    print(*sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_processes_that_make_one_file(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MANY, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0 0 0 0 0 7"] * 8, done.stderr
