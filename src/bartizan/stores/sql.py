"""SQL made from steps, and the backend over it: a dialect is a value, an executor carries plans.

A plan is a generator: it yields statements, is sent their rows, and returns the answer. What it decides is decided
here, once, for every database and for both forms; an executor opens a transaction, carries the plan, and commits, or
rolls back where the answer is None.
"""

# ruff: noqa: S608 - names come from our own tables and are quoted; every value is bound
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar, overload

from bartizan.core.ports import Clock
from bartizan.core.tables import (
    LARGEST,
    OVER_FOR,
    Add,
    AnyStep,
    Anything,
    Assignments,
    Conditions,
    Delete,
    Expect,
    Insert,
    Is,
    Now,
    Ref,
    Table,
    Update,
    checked_change,
    checked_find,
    checked_limit,
)
from bartizan.errors import Reason, Unavailable

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
T = TypeVar("T")

Rows = Sequence[Sequence[Any]]
Shape = tuple[tuple[str, str, str], ...]  # column, operator, and what kind of value stands on the right


class Statement(NamedTuple):
    """One statement and the values of its placeholders."""

    text: str
    values: Sequence[Any]


Plan = Callable[[], Generator[Statement, Rows, T]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What differs between databases, as data. Text columns must order by code point."""

    placeholder: str
    text: str  # column types
    number: str
    data: str
    now: str | None  # the database's clock in UTC seconds; None: the clock is ours, and bound
    share: str  # what makes a SELECT hold its row until the commit
    columns_of: str  # a query for the names of the columns of one table


class Executor(Protocol):
    """How plans reach a database: each in one transaction; `tables` are made where missing before it begins."""

    async def point(self, tables: Sequence[Table[Any]], plan: Plan[T], /) -> T:
        """Read a few rows by key, as they are together."""

    async def scan(self, tables: Sequence[Table[Any]], plan: Plan[T], /) -> T:
        """Read many rows."""

    async def write(self, tables: Sequence[Table[Any]], plan: Plan[T], /) -> T:
        """Change rows; an answer of None rolls back."""


class SqlBackend:
    """The storage language over an executor."""

    def __init__(self, dialect: Dialect, executor: Executor, clock: Clock) -> None:
        self._dialect = dialect
        self._executor = executor
        self._clock = clock

    def _now(self) -> int:
        return 0 if self._dialect.now else self._clock.seconds()

    async def get(self, table: Table[R], key: str, /) -> R | None:
        """The row with this key."""
        (row,) = await self.read(Ref(table, key))
        return row

    @overload
    async def read(self, a: Ref[A], /) -> tuple[A | None]: ...
    @overload
    async def read(self, a: Ref[A], b: Ref[B], /) -> tuple[A | None, B | None]: ...
    @overload
    async def read(self, a: Ref[A], b: Ref[B], c: Ref[C], /) -> tuple[A | None, B | None, C | None]: ...
    @overload
    async def read(
        self, a: Ref[A], b: Ref[B], c: Ref[C], d: Ref[D], /
    ) -> tuple[A | None, B | None, C | None, D | None]: ...
    async def read(self, *refs: Ref[Any]) -> tuple[Any, ...]:
        """One to four rows as they are together."""

        def plan() -> Generator[Statement, Rows, tuple[Any, ...]]:
            found = []
            for ref in refs:
                rows = yield Statement(select_text(self._dialect, ref.table), (ref.key,))
                found.append(record(ref.table, rows[0]) if rows else None)
            return tuple(found)

        return await self._executor.point([ref.table for ref in refs], plan)

    async def find(self, table: Table[R], where: Sequence[Is], /, *, after: str = "", limit: int = 100) -> Sequence[R]:
        """Rows that meet every condition with keys above `after`, in key order."""
        where = checked_find(table, where, after, limit)

        def plan() -> Generator[Statement, Rows, Sequence[R]]:
            values = [after, *_values(where, self._now()), limit]
            rows = yield Statement(_find_text(self._dialect, table, _shape(where)), values)
            return [record(table, row) for row in rows]

        return await self._executor.scan([table], plan)

    async def change(self, step: Insert[R] | Update[R] | Delete[R], /, *, also: Sequence[AnyStep] = ()) -> R | None:
        """All steps or none: the first one's row as it now is (a `Delete`'s as it was); None if any did not match."""
        steps: tuple[AnyStep, ...] = (step, *also)
        checked_change(steps)
        # One order for everybody: two changes that lock the same rows do not wait for each other.
        ordered = sorted(steps, key=lambda each: (each.table.name, each.key))

        def plan() -> Generator[Statement, Rows, R | None]:
            answer: R | None = None
            now = self._now()  # the transaction has begun: later changes never have an earlier time
            for each in ordered:
                rows = yield statement(self._dialect, each, now)
                if isinstance(each, Expect):
                    if not (rows[0][0] if rows else each.missing):
                        return None
                elif not rows:
                    return None
                elif each is step:
                    answer = record(step.table, rows[0])
            return answer

        return await self._executor.write([each.table for each in steps], plan)

    async def purge(self, table: Table[Any], /, *, limit: int = 1000) -> int:
        """Remove rows that expired over an hour ago; how many. Rows of a table without expiry stay."""
        checked_limit(limit)
        if table.expires is None:
            return 0
        over = (Is(table.expires, "<=", Now(-OVER_FOR)),)

        def plan() -> Generator[Statement, Rows, int]:
            values = [*_values(over, self._now()), limit]
            return len((yield Statement(_purge_text(self._dialect, table, _shape(over)), values)))

        return await self._executor.write([table], plan)


def record(table: Table[R], values: Sequence[Any]) -> R:
    """The record of a row as the database gave it; one that no step of ours wrote is `Unavailable`, never trusted."""
    for column, value in zip(table.columns.values(), values, strict=True):
        if type(value) is not column.type and not (value is None and column.optional):
            raise Unavailable(Reason.STORE_FAILED)
    return table.row(values)


def quoted(name: str) -> str:
    """A name as SQL text."""
    return '"' + name.replace('"', '""') + '"'


def _named(table: Table[Any], column: str) -> str:
    return f"{quoted(table.name)}.{quoted(column)}"


def _columns(table: Table[Any]) -> str:
    return ", ".join(map(quoted, table.columns))


def statement(dialect: Dialect, step: AnyStep, now: int) -> Statement:
    """One step as SQL, at this time where the clock is ours."""
    if isinstance(step, Insert):
        over = None if step.over is None else _shape(step.over)
        given = {**dict(zip(step.table.columns, step.table.values(step.row), strict=True)), **dict(step.set)}
        kinds = tuple([(name, "=", "now" if isinstance(value, Now) else "value") for name, value in given.items()])
        values = [_bound(value, now) for value in given.values()]
        return Statement(_insert_text(dialect, step.table, kinds, over), [*values, *_values(step.over or (), now)])
    shape = _shape(step.where)
    values = [step.key, *_values(step.where, now)]
    if isinstance(step, Update):
        room = [_room(value.number) for _, value in step.set if isinstance(value, Add)]
        text = _update_text(dialect, step.table, shape, _set_shape(step.set))
        return Statement(text, [*[_bound(value, now) for _, value in step.set], *values, *room])
    if isinstance(step, Delete):
        return Statement(_delete_text(dialect, step.table, shape), values)
    return Statement(_expect_text(dialect, step.table, shape), [*values[1:], step.key])


def _shape(where: Conditions) -> Shape:
    if isinstance(where, Anything):
        return ()
    return tuple([(c.column, c.op, _kind(c.value)) for c in where])


def _set_shape(assignments: Assignments) -> Shape:
    return tuple([(name, "=", "value" if value is None else _kind(value)) for name, value in assignments])


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Add):
        return "less" if value.number < 0 else "more"
    return "now" if isinstance(value, Now) else "value"


def _values(where: Conditions, now: int) -> list[Any]:
    return [] if isinstance(where, Anything) else [_bound(c.value, now) for c in where if c.value is not None]


def _bound(value: Any, now: int) -> Any:
    if isinstance(value, Now):
        return now + value.plus
    return value.number if isinstance(value, Add) else value


def _room(number: int) -> int:
    return -LARGEST - 1 - number if number < 0 else LARGEST - number


def _operand(dialect: Dialect, kind: str) -> str:
    return f"({dialect.now} + {dialect.placeholder})" if kind == "now" and dialect.now else dialect.placeholder


def _conditions(dialect: Dialect, table: Table[Any], shape: Shape) -> str:
    terms = []
    for column, op, kind in shape:
        right = "IS NULL" if kind == "null" else f"{op} {_operand(dialect, kind)}"
        terms.append(f"{_named(table, column)} {right}")
    return " AND ".join(terms)


def _where(dialect: Dialect, table: Table[Any], shape: Shape, op: str = "=") -> str:
    key = f"WHERE {_named(table, table.key)} {op} {dialect.placeholder}"
    return f"{key} AND {_conditions(dialect, table, shape)}" if shape else key


@lru_cache(1024)
def select_text(dialect: Dialect, table: Table[Any]) -> str:
    """The SQL that reads the row of one key."""
    return f"SELECT {_columns(table)} FROM {quoted(table.name)} {_where(dialect, table, ())}"


@lru_cache(1024)
def _find_text(dialect: Dialect, table: Table[Any], shape: Shape) -> str:
    return (
        f"SELECT {_columns(table)} FROM {quoted(table.name)} {_where(dialect, table, shape, '>')} "
        f"ORDER BY {_named(table, table.key)} LIMIT {dialect.placeholder}"
    )


@lru_cache(1024)
def _insert_text(dialect: Dialect, table: Table[Any], kinds: Shape, over: Shape | None) -> str:
    name = quoted(table.name)
    values = ", ".join([_operand(dialect, kind) for _, _, kind in kinds])
    clash = "DO NOTHING"
    if over is not None:
        columns = [f"{quoted(column)} = excluded.{quoted(column)}" for column in table.columns]
        clash = f"DO UPDATE SET {', '.join(columns)}" + (f" WHERE {_conditions(dialect, table, over)}" if over else "")
    return (
        f"INSERT INTO {name} ({_columns(table)}) VALUES ({values}) "
        f"ON CONFLICT ({quoted(table.key)}) {clash} RETURNING {_columns(table)}"
    )


@lru_cache(1024)
def _update_text(dialect: Dialect, table: Table[Any], shape: Shape, assignments: Shape) -> str:
    sets, room = [], ""
    for column, _, kind in assignments:
        operand, name = _operand(dialect, kind), _named(table, column)
        if kind in {"less", "more"}:
            # Checked before adding: SQLite would go over to floating point, PostgreSQL would fail.
            room += f" AND ({name} IS NULL OR {name} {'>=' if kind == 'less' else '<='} {operand})"
            operand = f"{name} + {operand}"
        sets.append(f"{quoted(column)} = {operand}")
    where = _where(dialect, table, shape)
    return f"UPDATE {quoted(table.name)} SET {', '.join(sets)} {where}{room} RETURNING {_columns(table)}"


@lru_cache(1024)
def _delete_text(dialect: Dialect, table: Table[Any], shape: Shape) -> str:
    return f"DELETE FROM {quoted(table.name)} {_where(dialect, table, shape)} RETURNING {_columns(table)}"


@lru_cache(1024)
def _expect_text(dialect: Dialect, table: Table[Any], shape: Shape) -> str:
    met = f"CASE WHEN {_conditions(dialect, table, shape)} THEN 1 ELSE 0 END" if shape else "1"
    return f"SELECT {met} FROM {quoted(table.name)} {_where(dialect, table, ())}{dialect.share}"


@lru_cache(1024)
def _purge_text(dialect: Dialect, table: Table[Any], over: Shape) -> str:
    name, key = quoted(table.name), quoted(table.key)
    chosen = (
        f"SELECT {key} FROM {name} WHERE {_conditions(dialect, table, over)} "
        f"ORDER BY {quoted(str(table.expires))}, {key} LIMIT {dialect.placeholder}"
    )
    return f"DELETE FROM {name} WHERE {key} IN ({chosen}) RETURNING {key}"
