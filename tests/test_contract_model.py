"""Whatever changes are made, SQLite answers and keeps what the reference in memory does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from bartizan.core.drive import run
from bartizan.core.tables import (
    ANYTHING,
    LARGEST,
    NEVER,
    OVER_FOR,
    Add,
    AnyStep,
    Delete,
    Expect,
    Insert,
    Is,
    Now,
    Update,
)
from bartizan.stores.memory import MemoryBackend
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing import FakeClock
from bartizan.testing.samples import OTHERS, SAMPLES, Sample

CLOCK = FakeClock(1_000_000)
KEYS = ["a", "b", "\uffff", "\U00010000"]
EDGES = [0, 1, -1, LARGEST, LARGEST - 1, -LARGEST - 1, -LARGEST, NEVER, CLOCK(), CLOCK() - OVER_FOR]

keys = st.sampled_from(KEYS)
numbers = st.sampled_from(EDGES) | st.integers(-LARGEST - 1, LARGEST)
texts = st.sampled_from(["", "a", "A", "\u00e9", "e\u0301", *KEYS]) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4
)
datas = st.binary(max_size=3)
nows = st.builds(Now, st.sampled_from([0, 1, -1, -OVER_FOR, NEVER, -NEVER]))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": texts,
    "number": numbers,
    "data": datas,
    "maybe_text": st.none() | texts,
    "maybe_number": st.none() | numbers,
    "maybe_data": st.none() | datas,
    "ends": st.none() | numbers,
}
NUMBERS = {"number", "maybe_number", "ends"}


@st.composite
def condition(draw: st.DrawFn) -> Is:
    column = draw(st.sampled_from(sorted(VALUES)))
    value = draw(VALUES[column] | nows if column in NUMBERS else VALUES[column])
    return Is(column, "=" if value is None else draw(st.sampled_from(["=", "<=", ">"])), value)


conditions = st.lists(condition(), min_size=1, max_size=3)
wheres = st.just(ANYTHING) | conditions


@st.composite
def assignments(draw: st.DrawFn, *, adding: bool, at_least: int) -> tuple[tuple[str, Any], ...]:
    columns = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, min_size=at_least, max_size=3))
    symbols = nows | st.builds(Add, numbers) if adding else nows
    return tuple([(c, draw(VALUES[c] | symbols if c in NUMBERS else VALUES[c])) for c in columns])


tables = st.sampled_from([SAMPLES, OTHERS])
inserts = st.builds(
    Insert,
    tables,
    st.builds(Sample, id=keys, **VALUES),
    over=st.none() | wheres,
    set=assignments(adding=False, at_least=0),
)
updates = st.builds(Update, tables, keys, wheres, assignments(adding=True, at_least=1))
deletes = st.builds(Delete, tables, keys, wheres)
expects = st.builds(Expect, tables, keys, wheres, missing=st.booleans())
firsts = inserts | updates | deletes
changes = st.tuples(firsts, st.lists(firsts | expects, max_size=3)).filter(
    lambda change: len({(step.table.name, step.key) for step in (change[0], *change[1])}) == 1 + len(change[1])
)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqliteFile]:
    file = SqliteFile(tmp_path / "model.db", CLOCK)
    yield file
    file.close()


@given(
    st.lists(changes, min_size=1, max_size=8),
    st.lists(condition(), max_size=2),
    st.sampled_from(["", *KEYS]),
    st.integers(1, 4),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_sqlite_is_the_reference(
    file: SqliteFile, made: list[tuple[Any, list[AnyStep]]], where: list[Is], after: str, limit: int
) -> None:
    memory, sqlite = MemoryBackend(CLOCK), file.blocking
    for table in (SAMPLES, OTHERS):
        for row in run(sqlite.find(table, ())):
            run(sqlite.change(Delete(table, row.id, ANYTHING)))
    for first, also in made:
        assert run(sqlite.change(first, also=also)) == run(memory.change(first, also=also))
        for table in (SAMPLES, OTHERS):
            assert run(sqlite.find(table, ())) == run(memory.find(table, ()))
    found = [run(store.find(SAMPLES, where, after=after, limit=limit)) for store in (sqlite, memory)]
    assert found[0] == found[1]
    assert run(sqlite.purge(SAMPLES, limit=limit)) == run(memory.purge(SAMPLES, limit=limit))
    assert run(sqlite.find(SAMPLES, ())) == run(memory.find(SAMPLES, ()))
