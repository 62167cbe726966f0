"""A store in memory: the reference, in which every rule of the storage language is written first."""

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import lru_cache
from threading import Lock
from types import MemberDescriptorType
from typing import Any, TypeVar, overload

from bartizan.core.ports import Clock, SystemClock
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
from bartizan.errors import Misuse

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


class NoMatchError(Exception):
    """A step that does not match: nothing of its change is written. It never leaves this module."""


def met(row: Any, where: Conditions, now: int) -> bool:
    """Whether a row meets every condition."""
    if isinstance(where, Anything):
        return True
    for condition in where:  # noqa: SIM110 - a generator costs more than what it asks
        if not _is_met(getattr(row, condition.column), condition, now):
            return False
    return True


def _is_met(have: Any, condition: Is, now: int) -> bool:
    want = now + condition.value.plus if isinstance(condition.value, Now) else condition.value
    if condition.op == "=":
        return bool(have == want)
    return have is not None and bool(have <= want if condition.op == "<=" else have > want)


def assigned(row: R, assignments: Assignments, now: int) -> R:
    """The row with columns set."""
    if not assignments:
        return row
    values = {name: _value(getattr(row, name), value, now) for name, value in assignments}
    kind: Any = type(row)
    columns = _columns(kind)
    if columns is None:
        return replace(row, **values)  # type: ignore[type-var]
    # As `replace`, whose price is most of what a change of a wide row costs: the values were checked with the step.
    new = object.__new__(type(row))
    for name, given, give in columns:
        give(new, values[name] if name in values else given(row))
    return new


@lru_cache(256)
def _columns(record: type[Any]) -> tuple[tuple[str, Any, Any], ...] | None:
    """The fields of a record with slots: name, and what reads and writes one; None for any other kind."""
    members: list[tuple[str, Any]] = [(field.name, getattr(record, field.name, None)) for field in fields(record)]
    if hasattr(record, "__post_init__") or not all(isinstance(member, MemberDescriptorType) for _, member in members):
        return None
    return tuple([(name, member.__get__, member.__set__) for name, member in members])


def _value(have: Any, value: Any, now: int) -> Any:
    if isinstance(value, Now):
        return now + value.plus
    if isinstance(value, Add):
        if have is None:
            return None
        if not -LARGEST - 1 <= have + value.number <= LARGEST:
            raise NoMatchError
        return have + value.number
    return value


def after(step: AnyStep, row: Any, now: int) -> Any:
    """What stands at the step's key when it is done: a row, or None; `NoMatchError` where it does not match `row`."""
    if isinstance(step, Insert):
        if row is not None and (step.over is None or not met(row, step.over, now)):
            raise NoMatchError
        return assigned(step.row, step.set, now)
    if row is None and isinstance(step, Expect) and step.missing:
        return None
    if row is None or not met(row, step.where, now):
        raise NoMatchError
    if isinstance(step, Update):
        return assigned(row, step.set, now)
    return None if isinstance(step, Delete) else row


class MemoryBackend:
    """Rows in dicts under one lock. It never suspends, so that one object serves the async and the blocking form."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._tables: dict[str, dict[str, Any]] = {}
        self._lock = Lock()
        self._pid = os.getpid()

    def _rows(self, table: Table[R]) -> dict[str, R]:
        if self._pid != os.getpid():
            # Each process would have its own rows from here on: what one revoked would live in the other.
            raise Misuse("a store in memory serves the one process that opened it: use sqlite:///path for several")
        return self._tables.setdefault(table.name, {})

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
        with self._lock:
            return tuple([self._rows(ref.table).get(ref.key) for ref in refs])

    async def find(self, table: Table[R], where: Sequence[Is], /, *, after: str = "", limit: int = 100) -> Sequence[R]:
        """Rows that meet every condition with keys above `after`, in key order."""
        where = checked_find(table, where, after, limit)
        now = self._clock.seconds()
        with self._lock:
            rows = sorted(self._rows(table).items())
        return [row for key, row in rows if key > after and met(row, where, now)][:limit]

    async def change(self, step: Insert[R] | Update[R] | Delete[R], /, *, also: Sequence[AnyStep] = ()) -> R | None:
        """All steps or none: the first one's row as it now is (a `Delete`'s as it was); None if any did not match."""
        steps: tuple[AnyStep, ...] = (step, *also)
        checked_change(steps)
        with self._lock:
            now = self._clock.seconds()
            self._rows(step.table)  # this is the process that opened it
            tables = self._tables
            places = [(tables.get(each.table.name) or self._rows(each.table), each.key) for each in steps]
            present = [table.get(key) for table, key in places]
            before: R | None = present[0]
            try:
                rows = [after(each, row, now) for each, row in zip(steps, present, strict=True)]
            except NoMatchError:
                return None
            for (table, key), row, old in zip(places, rows, present, strict=True):
                if row is None:
                    table.pop(key, None)
                elif row is not old:
                    table[key] = row
            changed: R | None = rows[0]
            return before if isinstance(step, Delete) else changed

    async def purge(self, table: Table[Any], /, *, limit: int = 1000) -> int:
        """Remove rows that expired over an hour ago; how many. Rows of a table without expiry stay."""
        checked_limit(limit)
        if table.expires is None:
            return 0
        with self._lock:
            rows = self._rows(table)
            over = (Is(table.expires, "<=", self._clock.seconds() - OVER_FOR),)
            gone = sorted([(getattr(row, table.expires), key) for key, row in rows.items() if met(row, over, 0)])[
                :limit
            ]
            for _, key in gone:
                del rows[key]
            return len(gone[:limit])
