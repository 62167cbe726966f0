"""A table that an earlier version made: brought to this one, in one transaction, or refused."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bartizan.core.drive import run
from bartizan.core.tables import Added, Insert, Is, Table
from bartizan.errors import Misuse
from bartizan.stores.schema import preparing
from bartizan.stores.sqlite import DIALECT, SqliteFile


@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    id: str
    more: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Third:
    id: str
    number: int
    more: int | None
    kind: str
    text: str


MORE = {"more": Added(2, None)}
FIRST = Table(name="things", record=First, key="id")
SECOND = Table(name="things", record=Second, key="id", version=2, added=MORE)
THIRD = Table(
    name="things", record=Third, key="id", version=3, indexes=(("kind", "id"),),
    added={**MORE, "number": Added(3, -7), "kind": Added(3, "old")},
)  # fmt: skip
OF_FIRST = Third(id="1", number=-7, more=None, kind="old", text="one")
OF_SECOND = Third(id="2", number=-7, more=22, kind="old", text="two")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[[], SqliteFile]]:
    files: list[SqliteFile] = []

    def opens() -> SqliteFile:
        files.append(SqliteFile(path))
        return files[-1]

    yield opens
    for file in files:
        file.close()


def put(file: SqliteFile, table: Table[Any], row: Any) -> None:
    assert run(file.blocking.change(Insert(table, row))) == row


def schema(path: Path, text: str = "SELECT version FROM bartizan_tables WHERE name = 'things'") -> Any:
    connection = sqlite3.connect(path)
    rows = connection.execute(text).fetchall()
    connection.close()
    return rows


def test_migrated_step_by_step_and_at_once(opened: Callable[[], SqliteFile]) -> None:
    put(opened(), FIRST, First(id="1", text="one"))
    put(opened(), SECOND, Second(id="2", more=22, text="two"))
    assert run(opened().blocking.find(THIRD, ())) == [OF_FIRST, OF_SECOND]
    put(opened(), THIRD, Third(id="3", number=3, more=33, kind="new", text="three"))
    assert [row.id for row in run(opened().blocking.find(THIRD, [Is("kind", "=", "old")]))] == ["1", "2"]


def test_migrated_over_a_version(opened: Callable[[], SqliteFile], path: Path) -> None:
    put(opened(), FIRST, First(id="1", text="one"))
    assert run(opened().blocking.find(THIRD, ())) == [OF_FIRST]
    assert schema(path) == [(3,)]
    assert schema(path, "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL") == [
        ("things_kind_id",)
    ]


def test_program_of_before_still_writes_while_it_runs(opened: Callable[[], SqliteFile]) -> None:
    before = opened()
    put(before, FIRST, First(id="1", text="one"))
    assert run(opened().blocking.find(THIRD, ())) == [OF_FIRST]
    put(before, FIRST, First(id="4", text="four"))
    assert [row.number for row in run(opened().blocking.find(THIRD, ()))] == [-7, -7]


def test_newer_is_misuse(opened: Callable[[], SqliteFile]) -> None:
    put(opened(), THIRD, OF_FIRST)
    for table in (FIRST, SECOND):
        with pytest.raises(Misuse, match="newer Bartizan"):
            run(opened().blocking.find(table, ()))
    assert run(opened().blocking.find(THIRD, ())) == [OF_FIRST]


def test_cut_short_at_any_statement_it_begins_again(opened: Callable[[], SqliteFile], path: Path) -> None:
    file = opened()
    put(file, FIRST, First(id="1", text="one"))
    file.close()
    for statements in range(1, 100):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        plan = preparing(DIALECT, THIRD)
        rows: Any = None
        try:
            for _ in range(statements):
                statement = plan.send(rows)
                rows = connection.execute(statement.text, statement.values).fetchall()
        except StopIteration:
            connection.execute("COMMIT")
            connection.close()
            break
        connection.close()  # as a crash does: before the commit
        assert schema(path) == [(1,)]
        assert schema(path, "SELECT count(*) FROM pragma_table_info('things')") == [(2,)]
    assert schema(path) == [(3,)]
    assert run(opened().blocking.find(THIRD, ())) == [OF_FIRST]


def test_two_that_migrate_at_once(opened: Callable[[], SqliteFile]) -> None:
    put(opened(), FIRST, First(id="1", text="one"))
    files = [opened(), opened()]
    futures = [file.submit([THIRD], nothing) for file in files]
    assert [future.result() for future in futures] == [True, True]


def nothing() -> Any:
    yield from ()
    return True


@pytest.mark.parametrize(
    "edit",
    ["ALTER TABLE things ADD COLUMN extra", "UPDATE bartizan_tables SET columns = '[]'",
     "UPDATE bartizan_tables SET version = 2", "UPDATE bartizan_tables SET version = 0"],
)  # fmt: skip
def test_what_is_not_as_that_version_wrote_it_is_refused(
    opened: Callable[[], SqliteFile], path: Path, edit: str
) -> None:
    file = opened()
    put(file, FIRST, First(id="1", text="one"))
    file.close()
    connection = sqlite3.connect(path)
    connection.execute(edit)
    connection.commit()
    connection.close()
    with pytest.raises(Misuse, match="other columns"):
        run(opened().blocking.find(THIRD, ()))


@pytest.mark.parametrize(
    "added",
    [{"none": Added(2, None)}, {"more": Added(1, None)}, {"more": Added(3, None)}, {"text": Added(2, None)},
     {"text": Added(2, 1)}, {"text": Added(2, "'")}, {"text": Added(2, "é")}, {"more": Added(2, "x")},
     {"more": Added(2, 2**63)}],
)  # fmt: skip
def test_wrong_additions(added: dict[str, Added]) -> None:
    with pytest.raises(Misuse):
        Table(name="things", record=Second, key="id", version=2, added=added).columns
