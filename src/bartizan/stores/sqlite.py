"""SQLite: the embedded default. One file, one machine, and nothing acknowledged that a power cut takes back.

WAL with `synchronous=FULL`; one connection that writes, behind one lock; connections that read, each used by one thread
at a time. Opening does no input or output: all of it is made at first use.
"""

import os
import time
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from bartizan.core.ports import Clock, SystemClock
from bartizan.core.tables import Table
from bartizan.errors import Misuse, Reason, Unavailable
from bartizan.stores.sql import Dialect, Plan, Rows, SqlBackend, Statement, preparing
from bartizan.stores.waits import Threads

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
BUSY_FOR = 10.0  # seconds to wait for another writer
_BUSY = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED
# What the operator did, when it is found before the file was ever used (https://sqlite.org/rescode.html).
_OPERATOR = {
    3: "this process may not open it",  # SQLITE_PERM
    8: "it is read-only for this process",  # SQLITE_READONLY
    11: "it is corrupt",  # SQLITE_CORRUPT
    14: "it is a directory, or it or its directory is not open to this process",  # SQLITE_CANTOPEN
    26: "it is not an SQLite database",  # SQLITE_NOTADB
}


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
        self._pid: int | None = None
        self._used = False  # whether a transaction has ever succeeded: what fails later is no longer a wrong setting
        self._writing = Lock()
        self._writer: Connection | None = None
        self._prepared: set[Table[Any]] = set()
        self._idle: dict[float, list[Connection]] = {0: [], BUSY_FOR: []}  # reading connections, by their patience
        self._threads = Threads()
        clock = clock or SystemClock()
        self.blocking: SqlBackend = SqlBackend(DIALECT, _Blocking(self), clock)
        self.asynchronous: SqlBackend = SqlBackend(DIALECT, _Threaded(self, self._threads), clock)

    def close(self) -> None:
        """Wait for what is under way and let go of the file; the next use opens it again."""
        if self._pid != os.getpid():
            return  # nothing was opened here; what another process opened is its own
        self._threads.close()
        with self._writing:
            connections = [*self._idle[0], *self._idle[BUSY_FOR], *([self._writer] if self._writer else [])]
            self._idle = {0: [], BUSY_FOR: []}
            self._writer = None
            self._prepared = set()
            self._used = False
            for connection in connections:
                connection.close()
        self._pid = None

    def ready(self, tables: Sequence[Table[Any]]) -> bool:
        """Whether every table was found or made."""
        return self._prepared.issuperset(tables)

    def read(self, tables: Sequence[Table[Any]], plan: Plan[T], patience: float = BUSY_FOR) -> T:
        """The answer of a plan that changes nothing."""
        self._check_process()
        if not self.ready(tables):
            self.write(tables, _nothing)
        idle = self._idle[patience]
        try:
            try:
                connection = idle.pop()
            except IndexError:
                connection = self._reader(patience)
            result = self._carried(connection, "BEGIN", plan)
        except self._sqlite3.Error as error:
            raise self._failure(error) from None
        if self._idle[patience] is idle:
            idle.append(connection)
        else:
            connection.close()  # the file was closed meanwhile
        return result

    def write(self, tables: Sequence[Table[Any]], plan: Plan[T]) -> T:
        """The answer of a plan, committed unless it is None."""
        self._check_process()
        if not self._writing.acquire(timeout=BUSY_FOR):
            raise Unavailable(Reason.STORE_BUSY)
        try:
            if self._writer is None:
                self._writer = self._opened()
            for table in tables:
                if table not in self._prepared:
                    self._carried(self._writer, "BEGIN IMMEDIATE", partial(preparing, DIALECT, table))
                    self._prepared.add(table)
            result = self._carried(self._writer, "BEGIN IMMEDIATE", plan)
            self._used = True
            return result
        except BaseException as error:
            self._writer = None
            if isinstance(error, self._sqlite3.Error):
                raise self._failure(error) from None
            raise
        finally:
            self._writing.release()

    def _check_process(self) -> None:
        pid = os.getpid()
        if self._pid is None:
            self._pid = pid
        elif self._pid != pid:
            raise Misuse("the store was used before this process was forked: use it first in the child")

    def _carried(self, connection: "Connection", begin: str, plan: Plan[T]) -> T:
        try:
            connection.execute(begin)
            result = _answer(connection, plan())
            connection.execute("ROLLBACK" if result is None else "COMMIT")
            return result
        except BaseException:
            connection.close()  # which rolls back, in whatever state the connection is
            raise

    def _connected(self, patience: float) -> "Connection":
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
        try:
            # O_EXCL: to open and close a file that SQLite has open drops its locks (sqlite.org/howtocorrupt.html 2.2).
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            pass
        except (OSError, ValueError):
            raise Misuse(f"{self._path}: the file cannot be made: its directory must exist and be writable") from None
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

    def _failure(self, error: Any) -> Misuse | Unavailable:
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
        return await self._threads.run(partial(self._file.write, tables, plan))
