"""What the contract of backends is played on: a record, two tables, and how a store is opened and driven."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bartizan.core.drive import run
from bartizan.core.tables import ANYTHING, Backend, Conditions, Insert, Table, Update
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


def same(got: object, want: object) -> None:
    """An `AssertionError` where they differ."""
    if got != want:
        raise AssertionError(f"{got!r} is not {want!r}")


async def refused(work: Callable[[], Awaitable[object]]) -> None:
    """An `AssertionError` where `work` is not `Misuse`."""
    try:
        await work()
    except Misuse:
        return
    raise AssertionError("this is Misuse, and was taken")


def played(
    scenario: Callable[[Any, Backend, FakeClock], Coroutine[Any, Any, None]],
) -> Callable[["Opened", Path], None]:
    """A plain test of a scenario, on a new store."""

    def test(self: "Opened", tmp_path: Path) -> None:
        clock = FakeClock()
        store = self.open(clock, tmp_path)
        try:
            self.drive(scenario(self, store, clock))
        finally:
            self.close(store)

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


class Opened:
    """How a store is opened, driven and closed: `open` is the subclass's, the others where they differ."""

    racers = 32

    def open(self, clock: FakeClock, path: Path) -> Backend:  # noqa: ARG002 - for those who give it
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
