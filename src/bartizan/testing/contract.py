"""The contract that every backend keeps, as pytest tests: subclass, say how a store is opened, and run.

    class TestMine(BackendContract):
        def open(self, clock, path):
            return MyBackend(path / "store", clock)

A backend that needs an event loop overrides `drive` with `asyncio.run`, and `together` with a gathering of tasks.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bartizan.core.drive import run
from bartizan.core.tables import (
    ANYTHING,
    LARGEST,
    NEVER,
    OVER_FOR,
    Add,
    AnyStep,
    Backend,
    Conditions,
    Delete,
    Expect,
    Insert,
    Is,
    Now,
    Ref,
    Table,
    Update,
)
from bartizan.errors import Misuse
from bartizan.testing.clock import FakeClock

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A record with a column of every kind."""

    id: str
    text: str = ""
    number: int = 0
    data: bytes = b""
    maybe_text: str | None = None
    maybe_number: int | None = None
    maybe_data: bytes | None = None
    ends: int | None = None


SAMPLES = Table(name="samples", record=Sample, key="id", expires="ends", indexes=(("text", "number"),))
OTHERS = Table(name="others", record=Sample, key="id")


def _is(got: object, want: object) -> None:
    if got != want:
        raise AssertionError(f"{got!r} is not {want!r}")


async def _refused(work: Callable[[], Awaitable[object]]) -> None:
    try:
        await work()
    except Misuse:
        return
    raise AssertionError("this is Misuse, and was taken")


def _played(
    scenario: Callable[[Any, Backend, FakeClock], Coroutine[Any, Any, None]],
) -> Callable[["BackendContract", Path], None]:
    def test(self: "BackendContract", tmp_path: Path) -> None:
        clock = FakeClock()
        store = self.open(clock, tmp_path)
        try:
            self.drive(scenario(self, store, clock))
        finally:
            self.close(store)

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


class BackendContract:
    """One test for each sentence of the storage language. Subclasses give `open`, and the others where they differ."""

    racers = 32

    def open(self, clock: FakeClock, path: Path) -> Backend:
        """A new, empty store that goes by `clock`; it may keep files below `path`."""
        raise AssertionError(f"{type(self).__name__} says how a store is opened")

    def close(self, store: Backend) -> None:
        """Whatever the end of `store` needs."""

    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine over the store."""
        return run(work)

    async def together(self, works: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
        """The results of works that all run at the same time."""
        with ThreadPoolExecutor(len(works)) as threads:
            return list(threads.map(lambda work: self.drive(work()), works))

    async def holds(self, store: Backend, row: Sample, where: Conditions) -> bool:
        """Whether the store finds that `row` meets `where`."""
        await store.change(Insert(SAMPLES, row, over=ANYTHING))
        return await store.change(Update(SAMPLES, row.id, where, (("text", "met"),))) is not None

    # reading and inserting

    @_played
    async def test_missing_is_none(self, store: Backend, _clock: FakeClock) -> None:
        """A row that is not there is None."""
        _is(await store.get(SAMPLES, "a"), None)
        _is(await store.read(Ref(SAMPLES, "a"), Ref(OTHERS, "a"), Ref(SAMPLES, "b")), (None, None, None))

    @_played
    async def test_insert_gives_the_row(self, store: Backend, _clock: FakeClock) -> None:
        """What was inserted is read back, every value exactly; tables are apart."""
        row = Sample(
            id="a\U0001f5dd\u00df ", text="\n'\"; --", number=-LARGEST - 1, data=b"\0\xff", maybe_number=LARGEST
        )
        full = Sample(id="b", maybe_text="", maybe_data=b"", ends=NEVER)
        _is(await store.change(Insert(SAMPLES, row), also=[Insert(OTHERS, full)]), row)
        _is(await store.get(SAMPLES, row.id), row)
        _is(await store.read(Ref(OTHERS, "b"), Ref(SAMPLES, "b")), (full, None))

    @_played
    async def test_insert_refuses_what_is_there(self, store: Backend, _clock: FakeClock) -> None:
        """Without `over` the row that is there stays."""
        await store.change(Insert(SAMPLES, Sample(id="a", number=1)))
        _is(await store.change(Insert(SAMPLES, Sample(id="a", number=2))), None)
        _is(await store.get(SAMPLES, "a"), Sample(id="a", number=1))

    @_played
    async def test_insert_over(self, store: Backend, clock: FakeClock) -> None:
        """With conditions, an insert replaces the whole of a row that meets them: a lapsed lease."""
        held = Sample(id="a", text="first", maybe_number=clock() + 10)
        lapsed = (Is("maybe_number", "<=", Now()),)
        _is(await store.change(Insert(SAMPLES, held, over=lapsed)), held)
        taken = Sample(id="a", number=2)
        _is(await store.change(Insert(SAMPLES, taken, over=lapsed)), None)
        _is(await store.get(SAMPLES, "a"), held)
        clock.advance(10)
        _is(await store.change(Insert(SAMPLES, taken, over=lapsed)), taken)
        _is(await store.get(SAMPLES, "a"), taken)
        _is(await store.change(Insert(SAMPLES, held, over=ANYTHING)), held)

    @_played
    async def test_insert_sets_the_stores_time(self, store: Backend, clock: FakeClock) -> None:
        """`set` gives columns the time of the store, also over a row."""
        step = Insert(SAMPLES, Sample(id="a"), over=ANYTHING, set=(("number", Now()), ("ends", Now(60)), ("text", "x")))
        for _ in range(2):
            _is(await store.change(step), Sample(id="a", text="x", number=clock(), ends=clock() + 60))
            clock.advance(5)

    # conditions

    @_played
    async def test_equality(self, store: Backend, clock: FakeClock) -> None:
        """`=` compares with None too."""
        row = Sample(id="a", text="t", number=clock(), data=b"d", maybe_text="m")
        for column, value, outcome in [
            ("text", "t", True), ("text", "T", False), ("number", clock(), True), ("number", Now(), True),
            ("number", Now(1), False), ("data", b"d", True), ("data", b"", False), ("maybe_text", "m", True),
            ("maybe_text", None, False), ("maybe_number", None, True), ("maybe_number", 0, False), ("id", "a", True),
        ]:  # fmt: skip
            _is((column, value, await self.holds(store, row, [Is(column, "=", value)])), (column, value, outcome))

    @_played
    async def test_order(self, store: Backend, clock: FakeClock) -> None:
        """`<=` and `>` compare numbers, text by code point, bytes; both are false on None."""
        row = Sample(id="a", text="\uffff", number=-1, data=b"\x80", maybe_number=clock())
        for column, value, below in [
            ("number", -1, True), ("number", -2, False), ("text", "\uffff", True), ("text", "\U00010000", True),
            ("text", "\ufffe", False), ("text", "\uffff\x01", True), ("data", b"\x7f\xff", False),
            ("data", b"\x80", True), ("data", b"\x80\0", True), ("maybe_number", Now(), True),
            ("maybe_number", Now(-1), False),
        ]:  # fmt: skip
            got = [await self.holds(store, row, [Is(column, op, value)]) for op in ("<=", ">")]  # type: ignore[arg-type]
            _is((column, value, got), (column, value, [below, not below]))
        for op in ("<=", ">"):
            _is(await self.holds(store, row, [Is("maybe_text", op, "")]), False)  # type: ignore[arg-type]
            _is(await self.holds(store, row, [Is("ends", op, 0)]), False)  # type: ignore[arg-type]

    @_played
    async def test_every_condition(self, store: Backend, _clock: FakeClock) -> None:
        """All conditions are met, or the step does not match."""
        row = Sample(id="a", number=5)
        _is(await self.holds(store, row, [Is("number", ">", 4), Is("number", "<=", 5)]), True)
        _is(await self.holds(store, row, [Is("number", ">", 4), Is("number", "<=", 4)]), False)

    # changing

    @_played
    async def test_update(self, store: Backend, clock: FakeClock) -> None:
        """An update gives the row as it now is, and matches no row that is missing."""
        update = Update(SAMPLES, "a", ANYTHING, (("text", "x"), ("ends", Now(9)), ("number", Add(-3)), ("data", b"")))
        _is(await store.change(update), None)
        await store.change(Insert(SAMPLES, Sample(id="a", number=1, data=b"d", maybe_text="m")))
        changed = Sample(id="a", text="x", number=-2, maybe_text="m", ends=clock() + 9)
        _is(await store.change(update), changed)
        _is(await store.get(SAMPLES, "a"), changed)
        nothing = Update(SAMPLES, "a", [Is("text", "=", "x")], (("maybe_text", None), ("ends", None)))
        _is(await store.change(nothing), Sample(id="a", text="x", number=-2))

    @_played
    async def test_conditions_see_the_row_before(self, store: Backend, _clock: FakeClock) -> None:
        """Conditions and sums go by the row as it was."""
        await store.change(Insert(SAMPLES, Sample(id="a", number=1)))
        swap = Update(SAMPLES, "a", [Is("number", "=", 1)], (("number", Add(1)), ("maybe_number", 7)))
        _is(await store.change(swap), Sample(id="a", number=2, maybe_number=7))
        _is(await store.change(swap), None)

    @_played
    async def test_sums(self, store: Backend, _clock: FakeClock) -> None:
        """`Add` on None is None; a sum that leaves 63 bits does not match."""
        for have, number, outcome in [
            (None, 1, None), (None, -1, None), (LARGEST - 1, 1, LARGEST), (LARGEST, 1, "no"), (1, LARGEST, "no"),
            (-LARGEST, -1, -LARGEST - 1), (-LARGEST - 1, -1, "no"), (LARGEST, -LARGEST - 1, -1), (5, 0, 5),
            (-1, -LARGEST - 1, "no"), (0, -LARGEST - 1, -LARGEST - 1),
        ]:  # fmt: skip
            await store.change(Insert(SAMPLES, Sample(id="a", maybe_number=have), over=ANYTHING))
            row = await store.change(Update(SAMPLES, "a", ANYTHING, (("maybe_number", Add(number)),)))
            _is((have, number, "no" if row is None else row.maybe_number), (have, number, outcome))
            kept = await store.get(SAMPLES, "a")
            _is(kept, row or Sample(id="a", maybe_number=have))

    @_played
    async def test_delete(self, store: Backend, _clock: FakeClock) -> None:
        """A delete gives the row as it was."""
        row = Sample(id="a", number=1)
        await store.change(Insert(SAMPLES, row))
        _is(await store.change(Delete(SAMPLES, "a", [Is("number", "=", 2)])), None)
        _is(await store.change(Delete(SAMPLES, "a", [Is("number", "=", 1)])), row)
        _is(await store.get(SAMPLES, "a"), None)
        _is(await store.change(Delete(SAMPLES, "a", ANYTHING)), None)

    @_played
    async def test_expect(self, store: Backend, _clock: FakeClock) -> None:
        """An expectation changes nothing and lets the rest happen, or not."""
        await store.change(Insert(SAMPLES, Sample(id="there", number=1)))
        one, two, none = [Is("number", "=", 1)], [Is("number", "=", 2)], [Is("maybe_number", "<=", 1)]
        for i, (expect, outcome) in enumerate([
            (Expect(SAMPLES, "there", one), True), (Expect(SAMPLES, "there", two), False),
            (Expect(SAMPLES, "there", none), False), (Expect(SAMPLES, "there", none, missing=True), False),
            (Expect(SAMPLES, "there", two, missing=True), False), (Expect(SAMPLES, "there", one, missing=True), True),
            (Expect(SAMPLES, "there", ANYTHING), True), (Expect(SAMPLES, "away", ANYTHING), False),
            (Expect(SAMPLES, "away", one), False), (Expect(SAMPLES, "away", one, missing=True), True),
        ]):  # fmt: skip
            row = Sample(id=f"new{i}")
            _is((i, await store.change(Insert(OTHERS, row), also=[expect])), (i, row if outcome else None))
            _is(await store.get(OTHERS, row.id), row if outcome else None)
        _is(await store.get(SAMPLES, "there"), Sample(id="there", number=1))

    @_played
    async def test_all_or_nothing(self, store: Backend, _clock: FakeClock) -> None:
        """Whichever step does not match, nothing is written."""
        for table in (SAMPLES, OTHERS):
            for key in ("m", "n"):
                await store.change(Insert(table, Sample(id=key, number=1)))
        matching: list[AnyStep] = [
            Update(SAMPLES, "m", ANYTHING, (("number", Add(1)),)), Insert(OTHERS, Sample(id="z")),
            Delete(OTHERS, "m", ANYTHING), Expect(SAMPLES, "n", ANYTHING), Insert(SAMPLES, Sample(id="a")),
        ]  # fmt: skip
        failing: list[AnyStep] = [
            Update(OTHERS, "n", [Is("number", "=", 2)], (("number", 3),)), Insert(OTHERS, Sample(id="n")),
            Delete(OTHERS, "n", [Is("number", ">", 1)]), Expect(OTHERS, "b", ANYTHING),
        ]  # fmt: skip
        before = [await store.find(table, ()) for table in (SAMPLES, OTHERS)]
        for fail in failing:
            for place in range(1, len(matching) + 1):
                steps: list[Any] = [*matching[:place], fail, *matching[place:]]
                _is(await store.change(steps[0], also=steps[1:]), None)
                _is([await store.find(table, ()) for table in (SAMPLES, OTHERS)], before)
        first: Any = matching[0]
        _is(await store.change(first, also=matching[1:]), Sample(id="m", number=2))
        _is([row.id for row in await store.find(SAMPLES, ())], ["a", "m", "n"])
        _is([row.id for row in await store.find(OTHERS, ())], ["n", "z"])

    @_played
    async def test_the_first_step_answers(self, store: Backend, _clock: FakeClock) -> None:
        """The answer is the first step's row, wherever its key sorts."""
        z = Sample(id="z", text="first")
        _is(
            await store.change(
                Insert(SAMPLES, z), also=[Insert(OTHERS, Sample(id="a")), Insert(SAMPLES, Sample(id="a"))]
            ),
            z,
        )
        _is(await store.change(Delete(SAMPLES, "z", ANYTHING), also=[Delete(SAMPLES, "a", ANYTHING)]), z)

    @_played
    async def test_one_step_for_each_row(self, store: Backend, _clock: FakeClock) -> None:
        """Two steps for one row are `Misuse`: what one sees of the other would be a question."""
        expect = Expect(SAMPLES, "a", ANYTHING, missing=True)
        await _refused(lambda: store.change(Insert(SAMPLES, Sample(id="a")), also=[expect]))
        _is(await store.get(SAMPLES, "a"), None)

    @_played
    async def test_text_no_store_can_keep(self, store: Backend, _clock: FakeClock) -> None:
        """A key with a lone surrogate or NUL is `Misuse` before it reaches the store, and so is a limit of nothing."""
        for key in ("\ud800", "a\0"):
            await _refused(lambda key=key: store.get(SAMPLES, key))  # type: ignore[misc]
            await _refused(lambda key=key: store.find(SAMPLES, (), after=key))  # type: ignore[misc]
        for limit in (0, -1):
            await _refused(lambda limit=limit: store.find(SAMPLES, (), limit=limit))  # type: ignore[misc]
            await _refused(lambda limit=limit: store.purge(SAMPLES, limit=limit))  # type: ignore[misc]

    # finding and purging

    @_played
    async def test_find_by_code_point(self, store: Backend, _clock: FakeClock) -> None:
        """Rows come in the order of code points, not of UTF-16 or a language, above `after`, at most `limit`."""
        keys = ["A", "Z", "a", "b", "\u00e9", "\uff21", "\uffee", "\U00010000", "\U0001f5dd"]
        for key in (*keys[5:], *keys[:5]):
            await store.change(Insert(SAMPLES, Sample(id=key)))
        _is([row.id for row in await store.find(SAMPLES, ())], keys)
        for i, key in enumerate(keys):
            _is([row.id for row in await store.find(SAMPLES, (), after=key, limit=2)], keys[i + 1 : i + 3])

    @_played
    async def test_find_conditions(self, store: Backend, clock: FakeClock) -> None:
        """Only rows that meet every condition are found, and the limit counts those."""
        for i in range(9):
            row = Sample(id=str(i), text="ab"[i % 2], number=i, maybe_number=None if i < 3 else clock() + i)
            await store.change(Insert(SAMPLES, row))
        for where, want in [
            ([Is("text", "=", "a")], "02468"), ([Is("text", "=", "a"), Is("number", ">", 3)], "468"),
            ([Is("maybe_number", "=", None)], "012"), ([Is("maybe_number", "<=", Now(5))], "345"),
            ([Is("id", ">", "6"), Is("id", "<=", "7")], "7"),
        ]:  # fmt: skip
            _is("".join([row.id for row in await store.find(SAMPLES, where)]), want)
            _is("".join([row.id for row in await store.find(SAMPLES, where, limit=1)]), want[0])
        _is(await store.find(OTHERS, ()), [])

    @_played
    async def test_purge(self, store: Backend, clock: FakeClock) -> None:
        """Rows go an hour after their expiry, at most `limit` of them; None never expires."""
        for i, ends in enumerate([clock() - OVER_FOR - 1, clock() - OVER_FOR, clock() - OVER_FOR + 1, NEVER, None]):
            await store.change(Insert(SAMPLES, Sample(id=str(i), ends=ends)))
            await store.change(Insert(OTHERS, Sample(id=str(i), ends=ends)))
        _is(await store.purge(SAMPLES, limit=1), 1)
        _is([row.id for row in await store.find(SAMPLES, ())], ["1", "2", "3", "4"])
        _is(await store.purge(SAMPLES), 1)
        clock.advance(1)
        _is(await store.purge(SAMPLES), 1)
        _is(await store.purge(SAMPLES), 0)
        _is([row.id for row in await store.find(SAMPLES, ())], ["3", "4"])
        _is(await store.purge(OTHERS), 0)  # a table without expiry
        _is(len(await store.find(OTHERS, ())), 5)

    # races

    @_played
    async def test_one_winner(self, store: Backend, _clock: FakeClock) -> None:
        """Of many that change one row under one condition, exactly one does, and only its other steps happen."""
        await store.change(Insert(SAMPLES, Sample(id="row")))
        claim = [Is("maybe_text", "=", None)]

        def racer(i: int) -> Callable[[], Coroutine[Any, Any, Sample | None]]:
            update = Update(SAMPLES, "row", claim, (("maybe_text", str(i)),))
            return lambda: store.change(update, also=[Insert(OTHERS, Sample(id=str(i)))])

        won = [row for row in await self.together([racer(i) for i in range(self.racers)]) if row is not None]
        _is(len(won), 1)
        _is(await store.get(SAMPLES, "row"), won[0])
        _is([row.id for row in await store.find(OTHERS, ())], [won[0].maybe_text])

    @_played
    async def test_one_insert_wins(self, store: Backend, _clock: FakeClock) -> None:
        """Of many that insert one key, exactly one does: also the first use of the store and of the table."""

        def racer(i: int) -> Callable[[], Coroutine[Any, Any, Sample | None]]:
            return lambda: store.change(Insert(SAMPLES, Sample(id="row", number=i)))

        won = [row for row in await self.together([racer(i) for i in range(self.racers)]) if row is not None]
        _is(won, [await store.get(SAMPLES, "row")])

    @_played
    async def test_no_addition_is_lost(self, store: Backend, _clock: FakeClock) -> None:
        """Sums of many at once are all there."""
        await store.change(Insert(SAMPLES, Sample(id="row")))
        add = Update(SAMPLES, "row", ANYTHING, (("number", Add(1)),))
        rows = await self.together([lambda: store.change(add)] * self.racers)
        _is(sorted([row.number for row in rows if row]), list(range(1, self.racers + 1)))

    @_played
    async def test_expectations_hold_until_the_commit(self, store: Backend, _clock: FakeClock) -> None:
        """Two changes that each need the other's row to be missing: one of them is done (no write skew)."""

        def racer(own: str, other: str) -> Callable[[], Coroutine[Any, Any, Sample | None]]:
            expect = Expect(SAMPLES, other, [Is("number", ">", 0)], missing=True)
            return lambda: store.change(Insert(SAMPLES, Sample(id=own)), also=[expect])

        rows = await self.together([racer("a", "b"), racer("b", "a")] * (self.racers // 2))
        _is(len([row for row in rows if row is not None]), 1)
        _is(len(await store.find(SAMPLES, ())), 1)
