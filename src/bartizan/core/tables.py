"""The storage language: tables, steps, conditions, and the protocol that every backend speaks.

A transaction is a value. A service builds steps and makes one `Backend.change`: every step matches, or nothing is
written. Nothing else is in the language; an operation that does not fit is a design question.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, get_args, get_type_hints, overload

from bartizan.errors import Misuse

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)  # a record in a table or step: they only give it
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")

NEVER = 2**62  # "no expiry" where it is to be compared
LARGEST = 2**63 - 1
OVER_FOR = 3600  # seconds after its expiry that `purge` leaves a row

Operator = Literal["=", "<=", ">"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, the type of its values, and whether None may stand there."""

    name: str
    type: type[str] | type[int] | type[bytes]
    optional: bool

    def checked(self, value: Any) -> Any:
        """`value`, or `Misuse` where no backend could keep exactly it."""
        kind = type(value)
        if kind is self.type and (  # what nearly all values are
            kind is bytes
            or (kind is int and -LARGEST <= value <= LARGEST)
            or (kind is str and value.isascii() and "\0" not in value)
        ):
            return value
        if value is None and self.optional:
            return None
        if not isinstance(value, self.type) or isinstance(value, bool):
            raise Misuse(f"{self.name}: {'None or ' if self.optional else ''}{self.type.__name__} expected")
        if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
            raise Misuse(f"{self.name}: a number of more than 63 bits")
        if isinstance(value, str) and ("\0" in value or not (value.isascii() or _encodes(value))):
            raise Misuse(f"{self.name}: text with NUL or a lone surrogate")
        return value


def _encodes(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


class Added(NamedTuple):
    """A column that came with a later version of its table, and what rows of before hold there."""

    version: int
    value: str | int | None


@dataclass(frozen=True, kw_only=True)
class Table(Generic[R_co]):
    """Where records of one dataclass rest: its fields are the columns, `key` the only unique one, always text.

    `expires` names the column (UTC seconds) after which `purge` may take a row. `version` is raised by every change of
    the columns or indexes; `added` names the columns that the first version had not, and is the whole migration: a
    table only grows, so that a program of the version before still writes to it.
    """

    name: str
    record: type[R_co]
    key: str
    version: int = 1
    expires: str | None = None
    indexes: tuple[tuple[str, ...], ...] = ()
    added: Mapping[str, Added] = field(default_factory=dict)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """By name, in the order of the record."""
        hints = get_type_hints(self.record)
        found = {item.name: _column(item.name, hints[item.name]) for item in fields(self.record)}  # type: ignore[arg-type]
        if found.get(self.key) != Column(self.key, str, optional=False):
            raise Misuse(f"{self.name}: the key is a column of text, never None")
        if self.expires is not None and (self.expires not in found or found[self.expires].type is not int):
            raise Misuse(f"{self.name}: expiry is a column of numbers")
        if not {column for index in self.indexes for column in index} <= found.keys():
            raise Misuse(f"{self.name}: an index names columns")
        for name, (version, value) in self.added.items():
            if name not in found or not 1 < version <= self.version:
                raise Misuse(f"{self.name}: a column is added by a version from 2 to the table's own")
            found[name].checked(value)
            if isinstance(value, str) and not (value.isascii() and value.isalnum()) and value:
                raise Misuse(f"{self.name}: what rows of before hold is plain text")  # it becomes a literal of SQL
        return found

    def since(self, column: str) -> int:
        """The version that brought a column."""
        return self.added[column].version if column in self.added else 1

    def values(self, row: object) -> tuple[Any, ...]:
        """The row's values in column order."""
        return tuple([getattr(row, name) for name in self.columns])

    def row(self, values: Iterable[Any]) -> R_co:
        """The record of values in column order."""
        return self.record(**dict(zip(self.columns, values, strict=True)))

    def __hash__(self) -> int:
        return hash(self.name)


def _column(name: str, hint: Any) -> Column:
    kinds = set(get_args(hint)) if isinstance(hint, UnionType) else {hint}
    optional = NoneType in kinds
    kinds.discard(NoneType)
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind not in {str, int, bytes}:
        raise Misuse(f"{name}: a record's field is str, int, bytes, or one of these or None")
    return Column(name, kind, optional)


_SECONDS = Column("Now()", int, optional=False)


@dataclass(frozen=True, slots=True)
class Now:
    """The backend's clock in UTC seconds, plus a constant of at most 62 bits, so that the sum is a number we keep."""

    plus: int = 0

    def __post_init__(self) -> None:
        _SECONDS.checked(self.plus)
        if not -NEVER <= self.plus <= NEVER:
            raise Misuse("Now() takes a number of at most 62 bits")


@dataclass(frozen=True, slots=True)
class Add:
    """The column's value plus a constant. None stays None; a sum of more than 63 bits does not match."""

    number: int


@dataclass(frozen=True, slots=True)
class Is:
    """A condition on one column; `<=` and `>` are false where the column is None, text compares by code point."""

    column: str
    op: Operator
    value: Any

    def __post_init__(self) -> None:
        if self.op not in ("=", "<=", ">"):
            raise Misuse("a condition is =, <= or >")


class Anything:
    """No condition, said aloud."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ANYTHING"


ANYTHING = Anything()
Conditions = Sequence[Is] | Anything
Assignments = tuple[tuple[str, Any], ...]


class _Step(Generic[R_co]):
    table: Table[R_co]
    key: str


@dataclass(frozen=True, slots=True)
class Insert(_Step[R_co]):
    """Write a row that is not there; with `over`, also over one that meets these conditions (a lapsed lease).

    `set` gives columns whose value is the backend's, such as `Now()`.
    """

    table: Table[R_co]
    row: R_co
    over: Conditions | None = None
    set: Assignments = ()

    @property
    def key(self) -> str:  # type: ignore[override]
        """The row's key."""
        return str(getattr(self.row, self.table.key))

    def __post_init__(self) -> None:
        if type(self.row) is not self.table.record:
            raise Misuse(f"{self.table.name} keeps {self.table.record.__name__}")
        for column in self.table.columns.values():
            column.checked(getattr(self.row, column.name))
        if not self.key:
            raise Misuse(f"{self.table.name}: an empty key, which no `find` would reach")
        if self.over is not None:
            object.__setattr__(self, "over", _conditions(self.table, self.over))
        object.__setattr__(self, "set", _assignments(self.table, self.set, adding=False))


@dataclass(frozen=True, slots=True)
class Update(_Step[R_co]):
    """Set columns of the row with this key, if it meets every condition."""

    table: Table[R_co]
    key: str
    where: Conditions
    set: Assignments

    def __post_init__(self) -> None:
        _key(self.table, self.key)
        object.__setattr__(self, "where", _conditions(self.table, self.where))
        object.__setattr__(self, "set", _assignments(self.table, self.set, adding=True))
        if not self.set:
            raise Misuse("an update sets something")


@dataclass(frozen=True, slots=True)
class Delete(_Step[R_co]):
    """Remove the row with this key, if it meets every condition."""

    table: Table[R_co]
    key: str
    where: Conditions

    def __post_init__(self) -> None:
        _key(self.table, self.key)
        object.__setattr__(self, "where", _conditions(self.table, self.where))


@dataclass(frozen=True, slots=True)
class Expect(_Step[R_co]):
    """Change nothing: the row meets the conditions, or is missing where that is allowed, until the commit."""

    table: Table[R_co]
    key: str
    where: Conditions
    missing: bool = False

    def __post_init__(self) -> None:
        _key(self.table, self.key)
        object.__setattr__(self, "where", _conditions(self.table, self.where))


AnyStep = Insert[Any] | Update[Any] | Delete[Any] | Expect[Any]


@dataclass(frozen=True, slots=True)
class Ref(Generic[R_co]):
    """One row to read."""

    table: Table[R_co]
    key: str

    def __post_init__(self) -> None:
        _key(self.table, self.key)


def _key(table: Table[Any], key: Any) -> None:
    table.columns[table.key].checked(key)


def checked_find(table: Table[Any], where: Sequence[Is], after: str, limit: int) -> tuple[Is, ...]:
    """The conditions of a `find`, which may have none."""
    _key(table, after)
    checked_limit(limit)
    return checked_conditions(table, where)


def checked_limit(limit: int) -> None:
    """`Misuse` where a limit limits nothing: a negative one would be none on some backends."""
    if Column("limit", int, optional=False).checked(limit) < 1:
        raise Misuse("a limit is a number from 1")


def checked_conditions(table: Table[Any], where: Sequence[Is]) -> tuple[Is, ...]:
    """`where`, every value of its column's type."""
    columns = table.columns
    for condition in where:
        column = columns.get(condition.column) or _named(table, condition.column)
        value, kind = condition.value, column.type
        of: object = type(value)
        if of is kind and (kind is bytes or (kind is int and -NEVER <= value <= NEVER)):
            continue  # what nearly all are, in as few words as it can be said
        if isinstance(condition.value, Now):
            if column.type is not int:
                raise Misuse(f"{column.name}: only numbers compare with Now()")
        elif condition.value is None and condition.op == "=":
            pass
        elif condition.value is None:
            Column(column.name, column.type, optional=False).checked(None)
        else:
            column.checked(condition.value)
    return tuple(where)


def _conditions(table: Table[Any], where: Conditions) -> Conditions:
    if isinstance(where, Anything):
        return where
    if not where:
        raise Misuse("no conditions: write ANYTHING where none are meant")
    return checked_conditions(table, where)


def _assignments(table: Table[Any], assigned: Assignments, *, adding: bool) -> Assignments:
    if len({name for name, _ in assigned}) != len(assigned):
        raise Misuse("a column is set once")
    out = []
    columns = table.columns
    for name, value in assigned:
        column = columns.get(name) or _named(table, name)
        if name == table.key:
            raise Misuse("the key is not set")
        of = type(value)
        if of is bytes and column.type is bytes:
            out.append((name, value))
        elif isinstance(value, (Now, Add)):
            if column.type is not int or (isinstance(value, Add) and not adding):
                raise Misuse(f"{name}: Now() and Add() set numbers, Add() only ones that are there")
            if isinstance(value, Add):
                Column(name, int, optional=False).checked(value.number)
            out.append((name, value))
        else:
            out.append((name, column.checked(value)))
    return tuple(out)


def _named(table: Table[Any], name: str) -> Column:
    column = table.columns.get(name)
    if column is None:
        raise Misuse(f"{table.name} has no column {name}")
    return column


def checked_change(steps: Sequence[AnyStep]) -> None:
    """`Misuse` where two steps meet one row: what one sees of the other would differ between backends."""
    if len({(step.table.name, step.key) for step in steps}) != len(steps):
        raise Misuse("a change has one step for each row")


class Backend(Protocol):
    """A store. Every method raises `Unavailable` where the store fails; not a public promise before 1.0."""

    async def get(self, table: Table[R], key: str, /) -> R | None:
        """The row with this key."""

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
        """One to four rows as they are together, in one round trip."""

    async def find(self, table: Table[R], where: Sequence[Is], /, *, after: str = "", limit: int = 100) -> Sequence[R]:
        """Rows that meet every condition with keys above `after`, in key order."""

    async def change(self, step: Insert[R] | Update[R] | Delete[R], /, *, also: Sequence[AnyStep] = ()) -> R | None:
        """All steps or none: the first one's row as it now is (a `Delete`'s as it was); None if any did not match."""

    async def purge(self, table: Table[Any], /, *, limit: int = 1000) -> int:
        """Remove rows that expired over an hour ago by the backend's clock; how many."""
