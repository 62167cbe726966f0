# ruff: noqa: PT019 - pytest sees the tests that `played` makes, not these parameters
"""The contract that every backend keeps, as pytest tests: subclass, say how a store is opened, and run.

    class TestMine(BackendContract):
        def open(self, clock, path):
            return MyBackend(path / "store", clock)

A backend that needs an event loop overrides `drive` with `asyncio.run`, and `together` with a gathering of tasks.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from bartizan.core.tables import (
    ANYTHING,
    LARGEST,
    NEVER,
    OVER_FOR,
    Add,
    AnyStep,
    Backend,
    Delete,
    Expect,
    Insert,
    Is,
    Now,
    Operator,
    Ref,
    Update,
)
from bartizan.testing.clock import FakeClock
from bartizan.testing.samples import OTHERS, SAMPLES, Opened, Sample, played, refused, same

OPERATORS: tuple[Operator, Operator] = ("<=", ">")


class BackendContract(Opened):
    """One test for each sentence of the storage language."""

    # reading and inserting

    @played
    async def test_missing_is_none(self, store: Backend, _clock: FakeClock) -> None:
        """A row that is not there is None."""
        same(await store.get(SAMPLES, "a"), None)
        same(await store.read(Ref(SAMPLES, "a"), Ref(OTHERS, "a"), Ref(SAMPLES, "b")), (None, None, None))

    @played
    async def test_insert_gives_the_row(self, store: Backend, _clock: FakeClock) -> None:
        """What was inserted is read back, every value exactly; tables are apart."""
        row = Sample(
            id="a\U0001f5dd\u00df ", text="\n'\"; --", number=-LARGEST - 1, data=b"\0\xff", maybe_number=LARGEST
        )
        full = Sample(id="b", maybe_text="", maybe_data=b"", ends=NEVER)
        same(await store.change(Insert(SAMPLES, row), also=[Insert(OTHERS, full)]), row)
        same(await store.get(SAMPLES, row.id), row)
        same(await store.read(Ref(OTHERS, "b"), Ref(SAMPLES, "b")), (full, None))

    @played
    async def test_insert_refuses_what_is_there(self, store: Backend, _clock: FakeClock) -> None:
        """Without `over` the row that is there stays."""
        await store.change(Insert(SAMPLES, Sample(id="a", number=1)))
        same(await store.change(Insert(SAMPLES, Sample(id="a", number=2))), None)
        same(await store.get(SAMPLES, "a"), Sample(id="a", number=1))

    @played
    async def test_insert_over(self, store: Backend, clock: FakeClock) -> None:
        """With conditions, an insert replaces the whole of a row that meets them: a lapsed lease."""
        held = Sample(id="a", text="first", maybe_number=clock() + 10)
        lapsed = (Is("maybe_number", "<=", Now()),)
        same(await store.change(Insert(SAMPLES, held, over=lapsed)), held)
        taken = Sample(id="a", number=2)
        same(await store.change(Insert(SAMPLES, taken, over=lapsed)), None)
        same(await store.get(SAMPLES, "a"), held)
        clock.advance(10)
        same(await store.change(Insert(SAMPLES, taken, over=lapsed)), taken)
        same(await store.get(SAMPLES, "a"), taken)
        same(await store.change(Insert(SAMPLES, held, over=ANYTHING)), held)

    @played
    async def test_insert_sets_the_stores_time(self, store: Backend, clock: FakeClock) -> None:
        """`set` gives columns the time of the store, also over a row."""
        step = Insert(SAMPLES, Sample(id="a"), over=ANYTHING, set=(("number", Now()), ("ends", Now(60)), ("text", "x")))
        for _ in range(2):
            same(await store.change(step), Sample(id="a", text="x", number=clock(), ends=clock() + 60))
            clock.advance(5)

    # conditions

    @played
    async def test_equality(self, store: Backend, clock: FakeClock) -> None:
        """`=` compares with None too."""
        row = Sample(id="a", text="t", number=clock(), data=b"d", maybe_text="m")
        for column, value, outcome in [
            ("text", "t", True), ("text", "T", False), ("number", clock(), True), ("number", Now(), True),
            ("number", Now(1), False), ("data", b"d", True), ("data", b"", False), ("maybe_text", "m", True),
            ("maybe_text", None, False), ("maybe_number", None, True), ("maybe_number", 0, False), ("id", "a", True),
        ]:  # fmt: skip
            same((column, value, await self.holds(store, row, [Is(column, "=", value)])), (column, value, outcome))

    @played
    async def test_order(self, store: Backend, clock: FakeClock) -> None:
        """`<=` and `>` compare numbers, text by code point, bytes; both are false on None."""
        row = Sample(id="a", text="\uffff", number=-1, data=b"\x80", maybe_number=clock())
        for column, value, below in [
            ("number", -1, True), ("number", -2, False), ("text", "\uffff", True), ("text", "\U00010000", True),
            ("text", "\ufffe", False), ("text", "\uffff\x01", True), ("data", b"\x7f\xff", False),
            ("data", b"\x80", True), ("data", b"\x80\0", True), ("maybe_number", Now(), True),
            ("maybe_number", Now(-1), False),
        ]:  # fmt: skip
            got = [await self.holds(store, row, [Is(column, op, value)]) for op in OPERATORS]
            same((column, value, got), (column, value, [below, not below]))
        for op in OPERATORS:
            same(await self.holds(store, row, [Is("maybe_text", op, "")]), False)
            same(await self.holds(store, row, [Is("ends", op, 0)]), False)

    @played
    async def test_every_condition(self, store: Backend, _clock: FakeClock) -> None:
        """All conditions are met, or the step does not match."""
        row = Sample(id="a", number=5)
        same(await self.holds(store, row, [Is("number", ">", 4), Is("number", "<=", 5)]), True)
        same(await self.holds(store, row, [Is("number", ">", 4), Is("number", "<=", 4)]), False)

    # changing

    @played
    async def test_update(self, store: Backend, clock: FakeClock) -> None:
        """An update gives the row as it now is, and matches no row that is missing."""
        update = Update(SAMPLES, "a", ANYTHING, (("text", "x"), ("ends", Now(9)), ("number", Add(-3)), ("data", b"")))
        same(await store.change(update), None)
        await store.change(Insert(SAMPLES, Sample(id="a", number=1, data=b"d", maybe_text="m")))
        changed = Sample(id="a", text="x", number=-2, maybe_text="m", ends=clock() + 9)
        same(await store.change(update), changed)
        same(await store.get(SAMPLES, "a"), changed)
        nothing = Update(SAMPLES, "a", [Is("text", "=", "x")], (("maybe_text", None), ("ends", None)))
        same(await store.change(nothing), Sample(id="a", text="x", number=-2))

    @played
    async def test_conditions_see_the_row_before(self, store: Backend, _clock: FakeClock) -> None:
        """Conditions and sums go by the row as it was."""
        await store.change(Insert(SAMPLES, Sample(id="a", number=1)))
        swap = Update(SAMPLES, "a", [Is("number", "=", 1)], (("number", Add(1)), ("maybe_number", 7)))
        same(await store.change(swap), Sample(id="a", number=2, maybe_number=7))
        same(await store.change(swap), None)

    @played
    async def test_sums(self, store: Backend, _clock: FakeClock) -> None:
        """`Add` on None is None; a sum that leaves 63 bits does not match."""
        for have, number, outcome in [
            (None, 1, None), (None, -1, None), (LARGEST - 1, 1, LARGEST), (LARGEST, 1, "no"), (1, LARGEST, "no"),
            (-LARGEST, -1, -LARGEST - 1), (-LARGEST - 1, -1, "no"), (LARGEST, -LARGEST - 1, -1), (5, 0, 5),
            (-1, -LARGEST - 1, "no"), (0, -LARGEST - 1, -LARGEST - 1),
        ]:  # fmt: skip
            await store.change(Insert(SAMPLES, Sample(id="a", maybe_number=have), over=ANYTHING))
            row = await store.change(Update(SAMPLES, "a", ANYTHING, (("maybe_number", Add(number)),)))
            same((have, number, "no" if row is None else row.maybe_number), (have, number, outcome))
            kept = await store.get(SAMPLES, "a")
            same(kept, row or Sample(id="a", maybe_number=have))

    @played
    async def test_delete(self, store: Backend, _clock: FakeClock) -> None:
        """A delete gives the row as it was."""
        row = Sample(id="a", number=1)
        await store.change(Insert(SAMPLES, row))
        same(await store.change(Delete(SAMPLES, "a", [Is("number", "=", 2)])), None)
        same(await store.change(Delete(SAMPLES, "a", [Is("number", "=", 1)])), row)
        same(await store.get(SAMPLES, "a"), None)
        same(await store.change(Delete(SAMPLES, "a", ANYTHING)), None)

    @played
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
            same((i, await store.change(Insert(OTHERS, row), also=[expect])), (i, row if outcome else None))
            same(await store.get(OTHERS, row.id), row if outcome else None)
        same(await store.get(SAMPLES, "there"), Sample(id="there", number=1))

    @played
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
                same(await store.change(steps[0], also=steps[1:]), None)
                same([await store.find(table, ()) for table in (SAMPLES, OTHERS)], before)
        first: Any = matching[0]
        same(await store.change(first, also=matching[1:]), Sample(id="m", number=2))
        same([row.id for row in await store.find(SAMPLES, ())], ["a", "m", "n"])
        same([row.id for row in await store.find(OTHERS, ())], ["n", "z"])

    @played
    async def test_the_first_step_answers(self, store: Backend, _clock: FakeClock) -> None:
        """The answer is the first step's row, wherever its key sorts."""
        z = Sample(id="z", text="first")
        same(
            await store.change(
                Insert(SAMPLES, z), also=[Insert(OTHERS, Sample(id="a")), Insert(SAMPLES, Sample(id="a"))]
            ),
            z,
        )
        same(await store.change(Delete(SAMPLES, "z", ANYTHING), also=[Delete(SAMPLES, "a", ANYTHING)]), z)

    @played
    async def test_one_step_for_each_row(self, store: Backend, _clock: FakeClock) -> None:
        """Two steps for one row are `Misuse`: what one sees of the other would be a question."""
        expect = Expect(SAMPLES, "a", ANYTHING, missing=True)
        await refused(lambda: store.change(Insert(SAMPLES, Sample(id="a")), also=[expect]))
        same(await store.get(SAMPLES, "a"), None)

    @played
    async def test_text_no_store_can_keep(self, store: Backend, _clock: FakeClock) -> None:
        """A key with a lone surrogate or NUL is `Misuse` before it reaches the store, and so is a limit of nothing."""
        for key in ("\ud800", "a\0"):
            await refused(lambda key=key: store.get(SAMPLES, key))  # type: ignore[misc]
            await refused(lambda key=key: store.find(SAMPLES, (), after=key))  # type: ignore[misc]
        for limit in (0, -1):
            await refused(lambda limit=limit: store.find(SAMPLES, (), limit=limit))  # type: ignore[misc]
            await refused(lambda limit=limit: store.purge(SAMPLES, limit=limit))  # type: ignore[misc]

    # finding and purging

    @played
    async def test_find_by_code_point(self, store: Backend, _clock: FakeClock) -> None:
        """Rows come in the order of code points, not of UTF-16 or a language, above `after`, at most `limit`."""
        keys = ["A", "Z", "a", "b", "\u00e9", "\uff21", "\uffee", "\U00010000", "\U0001f5dd"]
        for key in (*keys[5:], *keys[:5]):
            await store.change(Insert(SAMPLES, Sample(id=key)))
        same([row.id for row in await store.find(SAMPLES, ())], keys)
        for i, key in enumerate(keys):
            same([row.id for row in await store.find(SAMPLES, (), after=key, limit=2)], keys[i + 1 : i + 3])

    @played
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
            same("".join([row.id for row in await store.find(SAMPLES, where)]), want)
            same("".join([row.id for row in await store.find(SAMPLES, where, limit=1)]), want[0])
        same(await store.find(OTHERS, ()), [])

    @played
    async def test_purge(self, store: Backend, clock: FakeClock) -> None:
        """Rows go an hour after their expiry, at most `limit` of them; None never expires."""
        for i, ends in enumerate([clock() - OVER_FOR - 1, clock() - OVER_FOR, clock() - OVER_FOR + 1, NEVER, None]):
            await store.change(Insert(SAMPLES, Sample(id=str(i), ends=ends)))
            await store.change(Insert(OTHERS, Sample(id=str(i), ends=ends)))
        same(await store.purge(SAMPLES, limit=1), 1)
        same([row.id for row in await store.find(SAMPLES, ())], ["1", "2", "3", "4"])
        same(await store.purge(SAMPLES), 1)
        clock.advance(1)
        same(await store.purge(SAMPLES), 1)
        same(await store.purge(SAMPLES), 0)
        same([row.id for row in await store.find(SAMPLES, ())], ["3", "4"])
        same(await store.purge(OTHERS), 0)  # a table without expiry
        same(len(await store.find(OTHERS, ())), 5)

    # races

    @played
    async def test_one_winner(self, store: Backend, _clock: FakeClock) -> None:
        """Of many that change one row under one condition, exactly one does, and only its other steps happen."""
        await store.change(Insert(SAMPLES, Sample(id="row")))
        claim = [Is("maybe_text", "=", None)]

        def racer(i: int) -> Callable[[], Coroutine[Any, Any, Sample | None]]:
            update = Update(SAMPLES, "row", claim, (("maybe_text", str(i)),))
            return lambda: store.change(update, also=[Insert(OTHERS, Sample(id=str(i)))])

        won = [row for row in await self.together([racer(i) for i in range(self.racers)]) if row is not None]
        same(len(won), 1)
        same(await store.get(SAMPLES, "row"), won[0])
        same([row.id for row in await store.find(OTHERS, ())], [won[0].maybe_text])

    @played
    async def test_one_insert_wins(self, store: Backend, _clock: FakeClock) -> None:
        """Of many that insert one key, exactly one does: also the first use of the store and of the table."""

        def racer(i: int) -> Callable[[], Coroutine[Any, Any, Sample | None]]:
            return lambda: store.change(Insert(SAMPLES, Sample(id="row", number=i)))

        won = [row for row in await self.together([racer(i) for i in range(self.racers)]) if row is not None]
        same(won, [await store.get(SAMPLES, "row")])

    @played
    async def test_no_addition_is_lost(self, store: Backend, _clock: FakeClock) -> None:
        """Sums of many at once are all there."""
        await store.change(Insert(SAMPLES, Sample(id="row")))
        add = Update(SAMPLES, "row", ANYTHING, (("number", Add(1)),))
        rows = await self.together([lambda: store.change(add)] * self.racers)
        same(sorted([row.number for row in rows if row]), list(range(1, self.racers + 1)))

    @played
    async def test_expectations_hold_until_the_commit(self, store: Backend, _clock: FakeClock) -> None:
        """Two changes that each need the other's row to be missing: one of them is done (no write skew)."""

        def racer(own: str, other: str) -> Callable[[], Coroutine[Any, Any, Sample | None]]:
            expect = Expect(SAMPLES, other, [Is("number", ">", 0)], missing=True)
            return lambda: store.change(Insert(SAMPLES, Sample(id=own)), also=[expect])

        rows = await self.together([racer("a", "b"), racer("b", "a")] * (self.racers // 2))
        same(len([row for row in rows if row is not None]), 1)
        same(len(await store.find(SAMPLES, ())), 1)
