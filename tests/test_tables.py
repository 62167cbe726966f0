from dataclasses import dataclass, replace
from typing import Any

import pytest

from bartizan.core.tables import (
    ANYTHING,
    LARGEST,
    NEVER,
    Add,
    Delete,
    Expect,
    Insert,
    Is,
    Now,
    Ref,
    Table,
    Update,
    checked_change,
    checked_conditions,
    checked_find,
)
from bartizan.errors import Misuse
from bartizan.testing.samples import SAMPLES, Sample

A = Sample(id="a")


def test_columns() -> None:
    assert [(c.name, c.type, c.optional) for c in SAMPLES.columns.values()][:5] == [
        ("id", str, False), ("text", str, False), ("number", int, False), ("data", bytes, False),
        ("maybe_text", str, True),
    ]  # fmt: skip
    assert SAMPLES.row(SAMPLES.values(A)) == A
    with pytest.raises(ValueError, match="zip"):
        SAMPLES.row(["a"])


@dataclass(frozen=True)
class Wrong:
    id: str
    flag: bool = False
    many: list[str] | None = None
    either: str | int = 0
    nothing: None = None
    maybe: str | None = None
    text: str = ""


@pytest.mark.parametrize("field", ["flag", "many", "either", "nothing"])
def test_types_that_no_column_has(field: str) -> None:
    annotations = {"id": str, field: Wrong.__annotations__[field]}
    record: type[Any] = dataclass(frozen=True)(type("Record", (), {"__annotations__": annotations}))
    with pytest.raises(Misuse, match=field):
        Table(name="t", record=record, key="id").columns


@pytest.mark.parametrize(
    "options", [{"key": "number"}, {"key": "maybe_text"}, {"key": "no"}, {"expires": "text"}, {"expires": "no"},
                {"indexes": (("no",),)}],
)  # fmt: skip
def test_tables_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        Table(**{"name": "t", "record": Sample, "key": "id", **options}).columns


NO_VALUES = [
    ("number", 2**63), ("number", -(2**63) - 1), ("number", True), ("number", 1.0), ("number", "1"), ("number", None),
    ("text", "\ud800"), ("text", "a\udfff"), ("text", "\0"), ("text", b""), ("text", None), ("data", ""),
    ("data", bytearray()), ("data", None), ("maybe_number", 2**64), ("maybe_text", "\ud800"),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), NO_VALUES)
def test_values_are_refused_when_the_step_is_made(column: str, value: Any) -> None:
    for make in (
        lambda: Insert(SAMPLES, replace(A, **{column: value})),
        lambda: Insert(SAMPLES, A, set=((column, value),)),
        lambda: Update(SAMPLES, "a", ANYTHING, ((column, value),)),
    ):
        with pytest.raises(Misuse, match=column):
            make()
    if value is not None:
        for make_where in (
            lambda where: Insert(SAMPLES, A, over=where),
            lambda where: Update(SAMPLES, "a", where, (("number", 1),)),
            lambda where: Delete(SAMPLES, "a", where),
            lambda where: Expect(SAMPLES, "a", where),
            lambda where: checked_find(SAMPLES, where, "", 1),
        ):
            with pytest.raises(Misuse, match=column):
                make_where([Is(column, "=", value)])


@pytest.mark.parametrize("key", ["\ud800", "a\0", None, 1, b"a"])
def test_keys_are_refused_when_the_step_is_made(key: Any) -> None:
    for make in (
        lambda: Insert(SAMPLES, replace(A, id=key)),
        lambda: Update(SAMPLES, key, ANYTHING, (("number", 1),)),
        lambda: Delete(SAMPLES, key, ANYTHING),
        lambda: Expect(SAMPLES, key, ANYTHING),
        lambda: Ref(SAMPLES, key),
        lambda: checked_find(SAMPLES, (), key, 1),
    ):
        with pytest.raises(Misuse):
            make()


def test_values_that_are_kept() -> None:
    for number in (LARGEST, -LARGEST - 1, NEVER):
        Insert(SAMPLES, replace(A, number=number, text="\U0010ffff\ud7ff\ue000"))
    assert Insert(SAMPLES, A).key == "a"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Insert(SAMPLES, replace(A, id="")),  # `find` would never reach it
        lambda: Insert(SAMPLES, Wrong(id="a")),
        lambda: Insert(SAMPLES, A, over=()),
        lambda: Update(SAMPLES, "a", (), (("number", 1),)),
        lambda: Delete(SAMPLES, "a", []),
        lambda: Expect(SAMPLES, "a", []),
        lambda: Update(SAMPLES, "a", ANYTHING, ()),
        lambda: Update(SAMPLES, "a", ANYTHING, (("number", 1), ("number", 2))),
        lambda: Update(SAMPLES, "a", ANYTHING, (("id", "b"),)),
        lambda: Update(SAMPLES, "a", ANYTHING, (("no", "b"),)),
        lambda: Update(SAMPLES, "a", ANYTHING, (("text", Now()),)),
        lambda: Update(SAMPLES, "a", ANYTHING, (("data", Add(1)),)),
        lambda: Update(SAMPLES, "a", ANYTHING, (("number", Add(2**63)),)),
        lambda: Update(SAMPLES, "a", ANYTHING, (("number", Add(True)),)),
        lambda: Insert(SAMPLES, A, set=(("number", Add(1)),)),
        lambda: Insert(SAMPLES, A, set=(("id", "b"),)),
        lambda: Is("number", "<", 1),  # type: ignore[arg-type]
        lambda: Now(2**62 + 1),
        lambda: Now(True),
        lambda: Now(1.5),  # type: ignore[arg-type]
        lambda: checked_conditions(SAMPLES, [Is("no", "=", 1)]),
        lambda: checked_conditions(SAMPLES, [Is("text", "=", Now())]),
        lambda: checked_conditions(SAMPLES, [Is("maybe_number", "<=", None)]),
        lambda: checked_conditions(SAMPLES, [Is("maybe_number", "=", Add(1))]),
        lambda: checked_find(SAMPLES, (), "", 0),
        lambda: checked_find(SAMPLES, (), "", True),
        lambda: checked_change([Insert(SAMPLES, A), Delete(SAMPLES, "a", ANYTHING)]),
    ],
)
def test_steps_that_are_none(make: Any) -> None:
    with pytest.raises(Misuse):
        make()


def test_anything_says_so() -> None:
    assert repr(ANYTHING) == "ANYTHING"
    assert len({SAMPLES, Table(name="samples", record=Sample, key="id", expires="ends")}) == 2
