"""Tables in a database: made where they are missing, brought to this version where they are older, refused if newer."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from bartizan.core.encoding import canonical
from bartizan.core.tables import Column, Insert, Is, Table, Update
from bartizan.errors import Misuse
from bartizan.stores.sql import Dialect, Rows, Statement, quoted, record, select_text, statement


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """A table that we made: its version, and its columns as canonical JSON."""

    name: str
    version: int
    columns: str


TABLES = Table(name="bartizan_tables", record=TableRow, key="name")


def preparing(dialect: Dialect, table: Table[Any]) -> Generator[Statement, Rows, bool]:
    """The plan that makes a table, or migrates it; carried in one transaction, so that one cut short begins again."""
    yield Statement(f"CREATE TABLE IF NOT EXISTS {_definition(dialect, TABLES)}", ())
    rows = yield Statement(select_text(dialect, TABLES), (table.name,))
    there = sorted([name for (name,) in (yield Statement(dialect.columns_of, (table.name,)))])
    current = TableRow(name=table.name, version=table.version, columns=_listed(_columns_at(table, table.version)))
    if not rows:
        if there:
            raise Misuse(f"the table {table.name} was not made by Bartizan: rename it, or use another database")
        yield Statement(f"CREATE TABLE {_definition(dialect, table)}", ())
        for text in _indexes(table):
            yield Statement(text, ())
        yield statement(dialect, Insert(TABLES, current), 0)
        return True
    known = record(TABLES, rows[0])
    if known.version > table.version:
        raise Misuse(f"the table {table.name} was written by a newer Bartizan: upgrade this program")
    columns = _columns_at(table, known.version)
    if known.columns != _listed(columns) or there != sorted([column.name for column in columns]):
        raise Misuse(f"the table {table.name} has other columns than this version of Bartizan gives it")
    if known.version < table.version:
        for name, (version, value) in table.added.items():
            if version > known.version:
                default = "" if value is None else f" DEFAULT {_literal(value)}"
                column = _column(dialect, table.columns[name]) + default
                yield Statement(f"ALTER TABLE {quoted(table.name)} ADD COLUMN {column}", ())
        for text in _indexes(table):
            yield Statement(text, ())
        changed = (("version", current.version), ("columns", current.columns))
        yield statement(dialect, Update(TABLES, table.name, (Is("version", "=", known.version),), changed), 0)
    return True


def _columns_at(table: Table[Any], version: int) -> list[Column]:
    return [column for column in table.columns.values() if table.since(column.name) <= version]


def _listed(columns: list[Column]) -> str:
    return canonical([[column.name, column.type.__name__, column.optional] for column in columns])


def _column(dialect: Dialect, column: Column) -> str:
    kinds = {str: dialect.text, int: dialect.number, bytes: dialect.data}
    return f"{quoted(column.name)} {kinds[column.type]}{'' if column.optional else ' NOT NULL'}"


def _literal(value: str | int) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)  # plain text: `Table` takes no other


def _definition(dialect: Dialect, table: Table[Any]) -> str:
    columns = [_column(dialect, column) for column in table.columns.values()]
    return f"{quoted(table.name)} ({', '.join(columns)}, PRIMARY KEY ({quoted(table.key)}))"


def _indexes(table: Table[Any]) -> Iterator[str]:
    for index in (*table.indexes, *([(table.expires,)] if table.expires else [])):
        name = quoted("_".join((table.name, *index)))
        yield f"CREATE INDEX IF NOT EXISTS {name} ON {quoted(table.name)} ({', '.join(map(quoted, index))})"
