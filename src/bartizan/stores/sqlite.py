"""SQLite: the embedded default. One file, one machine, and nothing acknowledged that a power cut takes back.

WAL with `synchronous=FULL`; one connection that writes, in one thread, so that all who wait share a commit; others that
read, each used by one thread at a time. Opening does no input or output: all of it is made at first use.

No connection is carried over a fork: SQLite forbids it (https://sqlite.org/howtocorrupt.html section 2.6). A child that
merely forgot one would take over the bookkeeping of its locks, and hold none: when the parent closes the file, the log
under the child's commits is deleted. So a fork waits until no transaction runs, and closes what is open; parent and
child open the file again at their next use.
"""

import asyncio
import os
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakSet

from bartizan.core.ports import Clock, SystemClock
from bartizan.core.tables import Table
from bartizan.errors import Misuse, Reason, Unavailable
from bartizan.stores.schema import preparing
from bartizan.stores.sql import Dialect, Plan, Rows, SqlBackend, Statement
from bartizan.stores.waits import Answer, Threads, Turnstile, Writer

if TYPE_CHECKING:
    from sqlite3 import Connection

T = TypeVar("T")

DIALECT = Dialect(
    placeholder="?",
    text="TEXT",
    number="INTEGER",
    data="BLOB",
    now=None,
    share="",  # whoever writes holds the whole file
    columns_of="SELECT name FROM pragma_table_info(?)",
)
OLDEST = (3, 35)  # RETURNING
BUSY_FOR = 10.0  # seconds to wait for another process that writes
ANSWER_FOR = 2.5 * BUSY_FOR  # and for the writer's answer: the group before and one's own may both have to wait
_BUSY = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED
# What the operator did, when it is found before the file was ever used (https://sqlite.org/rescode.html).
_OPERATOR = {
    3: "this process may not open it",  # SQLITE_PERM
    8: "it is read-only for this process",  # SQLITE_READONLY
    11: "it is corrupt",  # SQLITE_CORRUPT
    14: "it is a directory, or it or its directory is not open to this process",  # SQLITE_CANTOPEN
    26: "it is not an SQLite database",  # SQLITE_NOTADB
}


class Job(NamedTuple):
    """A plan that changes rows of these tables."""

    tables: Sequence[Table[Any]]
    plan: Plan[Any]


class SqliteFile:
    """A store in one file: `blocking` and `asynchronous` are its two backends, over the same connections."""

    def __init__(self, path: str | os.PathLike[str], clock: Clock | None = None) -> None:
        import sqlite3  # noqa: PLC0415 - a driver is loaded by whoever opens a store of its kind

        if sqlite3.sqlite_version_info < OLDEST:
            raise Misuse("SQLite 3.35 or newer is needed: this Python brings an older one")
        if os.fspath(path) in {"", ":memory:"}:
            raise Misuse("a store in memory is memory://")
        self._sqlite3: Any = sqlite3
        self._path = Path(path).absolute()
        self._unsafe = False  # whether this process inherited a connection, with which it would share locks
        self._used = False  # whether a transaction has ever succeeded: what fails later is no longer a wrong setting
        self._prepared: set[Table[Any]] = set()
        self._threads = Threads()
        clock = clock or SystemClock()
        self.blocking: SqlBackend = SqlBackend(DIALECT, _Blocking(self), clock)
        self.asynchronous: SqlBackend = SqlBackend(DIALECT, _Threaded(self, self._threads), clock)
        self._begin()
        with _FORKING:
            _FILES.add(self)

    def _begin(self) -> None:
        self._transactions = Turnstile()
        self._writing = Lock()
        self._writer: Writer[Job] = Writer(self._carried)
        self._writes: Connection | None = None
        self._idle: dict[float, list[Connection]] = {0: [], BUSY_FOR: []}  # reading connections, by their patience

    def close(self) -> None:
        """Wait for what is under way and let go of the file; the next use opens it again."""
        self._threads.close()
        self._writer.close()
        with self._transactions, self._writing:
            self._let_go()
            self._prepared = set()
            self._used = False

    def _let_go(self) -> None:
        connections = [*self._idle[0], *self._idle[BUSY_FOR], *([self._writes] if self._writes else [])]
        self._idle = {0: [], BUSY_FOR: []}  # a reader that is under way closes its own
        self._writes = None
        for connection in connections:
            connection.close()

    def ready(self, tables: Sequence[Table[Any]]) -> bool:
        """Whether every table was found or made."""
        return self._prepared.issuperset(tables)

    def read(self, tables: Sequence[Table[Any]], plan: Plan[T], patience: float = BUSY_FOR) -> T:
        """The answer of a plan that changes nothing."""
        if not self.ready(tables):
            self.write(tables, _nothing)
        with self._transactions:
            idle = self._idle[patience]
            try:
                try:
                    connection = idle.pop()
                except IndexError:
                    connection = self._reader(patience)
                result = self._alone(connection, plan)
            except self._sqlite3.Error as error:
                raise self._failure(error) from None
            if self._idle[patience] is idle:
                idle.append(connection)
            else:
                connection.close()  # the file was closed meanwhile
            return result

    def _alone(self, connection: "Connection", plan: Plan[T]) -> T:
        try:
            connection.execute("BEGIN")
            result = _answer(connection, plan())
            connection.execute("COMMIT")
            return result
        except BaseException:
            connection.close()  # which rolls back, in whatever state the connection is
            raise

    def submit(self, tables: Sequence[Table[Any]], plan: Plan[Any]) -> Future[Any]:
        """The answer that a plan will have, committed unless it is None."""
        return self._writer.submit(Job(tables, plan))

    def write(self, tables: Sequence[Table[Any]], plan: Plan[T]) -> T:
        """The answer of a plan, committed unless it is None."""
        future = self.submit(tables, plan)
        try:
            answer: T = future.result(ANSWER_FOR)
            return answer
        except TimeoutError:
            raise Unavailable(Reason.STORE_BUSY) from None
        finally:
            future.cancel()  # who no longer waits, interrupted or out of patience, wants it no more

    def _carried(self, jobs: Sequence[Job]) -> list[Answer]:
        """Each job's answer, after one commit for all."""
        with self._transactions, self._writing:
            try:
                return self._committed(jobs)
            except BaseException as error:  # noqa: BLE001 - it is everybody's answer, and the writer goes on
                self._drop_writes()
                return [(None, self._failure(error)) for _ in jobs]

    def _committed(self, jobs: Sequence[Job]) -> list[Answer]:
        connection = self._writes = self._writes or self._opened()
        connection.execute("BEGIN IMMEDIATE")
        answers: list[Answer] = []
        made: set[Table[Any]] = set()
        failed = False
        for job in jobs:
            try:
                for table in job.tables:
                    if table not in self._prepared and table not in made:
                        _saved(connection, partial(preparing, DIALECT, table))
                        made.add(table)
                answers.append((_saved(connection, job.plan), None))
            except BaseException as error:
                if not connection.in_transaction:
                    raise  # SQLite has rolled back all of it
                connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
                ours = isinstance(error, self._sqlite3.Error)
                failed = failed or ours
                answers.append((None, self._failure(error) if ours else error))
        connection.execute("COMMIT")
        self._used = True
        self._prepared |= made
        if failed:
            self._drop_writes()  # a connection that cannot write any more may have said so
        return answers

    def _drop_writes(self) -> None:
        connection, self._writes = self._writes, None
        if connection is not None:
            connection.close()

    def before_fork(self) -> None:
        """Nothing runs, and nothing is open."""
        if self._transactions.shut(ANSWER_FOR):
            self._let_go()

    def after_fork(self) -> None:
        """Go on where we are the parent."""
        self._transactions.reopen()

    def inherited(self) -> None:
        """Begin anew where we are the child."""
        left = [*self._idle[0], *self._idle[BUSY_FOR], *([self._writes] if self._writes else [])]
        if left:  # forked in the middle of a transaction: what is open here must be neither used nor closed
            _INHERITED.extend(left)
            self._unsafe = True
        self._begin()

    def _connected(self, patience: float) -> "Connection":
        if self._unsafe:
            raise Misuse("this process was forked in the middle of a transaction: fork between them")
        # mode=rw: a file that somebody removed is not made again, empty and with other permissions.
        connection: Connection = self._sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw", uri=True, timeout=patience, isolation_level=None, check_same_thread=False
        )
        return connection

    def _reader(self, patience: float) -> "Connection":
        connection = self._connected(patience)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _opened(self) -> "Connection":
        if not self._used:  # or one that somebody removed would be made again, empty
            self._made()
        connection = self._connected(BUSY_FOR)
        try:
            mode = self._write_ahead(connection)
            connection.execute("PRAGMA synchronous = FULL")
            (encoding,) = connection.execute("PRAGMA encoding").fetchone()
            if mode != "wal":
                raise Misuse(f"{self._path}: write-ahead logging does not work there: use a local file system")
            if encoding != "UTF-8":
                raise Misuse(f"{self._path}: the database is not in UTF-8, so that text would have another order")
            # SQLite opens a file that it may not write all the same, and says so at the first change only.
            connection.executescript("BEGIN IMMEDIATE; CREATE TABLE bartizan_written (a); ROLLBACK")
        except BaseException:
            connection.close()
            raise
        return connection

    def _made(self) -> None:
        try:
            # O_EXCL: to open and close a file that SQLite has open drops its locks (sqlite.org/howtocorrupt.html 2.2).
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            pass
        except (OSError, ValueError):
            raise Misuse(f"{self._path}: the file cannot be made: its directory must exist and be writable") from None

    def _write_ahead(self, connection: "Connection") -> Any:
        deadline = time.monotonic() + BUSY_FOR
        while True:
            try:
                return connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except self._sqlite3.OperationalError as error:
                # Two that make a new file at the same time are told so at once: SQLite does not wait in this case.
                if _code(error) not in _BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _failure(self, error: BaseException) -> Misuse | Unavailable:
        if isinstance(error, Misuse):
            return error
        code = _code(error)
        if code in _BUSY:
            return Unavailable(Reason.STORE_BUSY)
        if code in _OPERATOR and not self._used:
            return Misuse(f"{self._path}: {_OPERATOR[code]}")
        return Unavailable(Reason.STORE_FAILED)


def _code(error: Any) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code; an error of the module itself has none


def _answer(connection: "Connection", steps: Generator[Statement, Any, T]) -> T:
    rows: Any = None
    try:
        while True:
            statement = steps.send(rows)
            rows = connection.execute(statement.text, statement.values).fetchall()
    except StopIteration as end:
        result: T = end.value
        return result


def _saved(connection: "Connection", plan: Plan[T]) -> T:
    """The answer of a plan within the transaction, of which nothing stays where it is None."""
    connection.execute("SAVEPOINT job")
    result = _answer(connection, plan())
    if result is None:
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")
    return result


def _nothing() -> Generator[Statement, Rows, bool]:
    yield from ()
    return True


class _Blocking:
    """Plans carried in the thread that asks."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def point(self, tables: Sequence[Table[Any]], plan: Plan[T], /) -> T:
        return self._file.read(tables, plan)

    scan = point

    async def write(self, tables: Sequence[Table[Any]], plan: Plan[T], /) -> T:
        return self._file.write(tables, plan)


class _Threaded:
    """Plans carried in threads, so that the event loop never waits; reads by key at once, where they can."""

    def __init__(self, file: SqliteFile, threads: Threads) -> None:
        self._file = file
        self._threads = threads

    async def point(self, tables: Sequence[Table[Any]], plan: Plan[T], /) -> T:
        if self._file.ready(tables):
            try:
                return self._file.read(tables, plan, 0)
            except Unavailable as error:
                if error.reason is not Reason.STORE_BUSY:
                    raise
        return await self.scan(tables, plan)

    async def scan(self, tables: Sequence[Table[Any]], plan: Plan[T], /) -> T:
        return await self._threads.run(partial(self._file.read, tables, plan))

    async def write(self, tables: Sequence[Table[Any]], plan: Plan[T], /) -> T:
        try:
            async with asyncio.timeout(ANSWER_FOR):
                answer: T = await asyncio.wrap_future(self._file.submit(tables, plan))
                return answer
        except TimeoutError:
            raise Unavailable(Reason.STORE_BUSY) from None


_FILES: "WeakSet[SqliteFile]" = WeakSet()
_FORKING = Lock()  # held while a process forks: two threads that do it at once would wait for each other's end
_INHERITED: list[Any] = []


def _before() -> None:
    _FORKING.acquire()
    for file in _FILES:
        file.before_fork()


def _in_parent() -> None:
    for file in _FILES:
        file.after_fork()
    _FORKING.release()


def _in_child() -> None:
    for file in _FILES:
        file.inherited()
    _FORKING.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
