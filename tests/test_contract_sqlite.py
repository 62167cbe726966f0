import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bartizan.core.tables import Backend
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing import BackendContract, FakeClock

T = TypeVar("T")


class TestBlocking(BackendContract):
    file: SqliteFile

    def open(self, clock: FakeClock, path: Path) -> Backend:
        self.file = SqliteFile(path / "store.db", clock)
        return self.file.blocking

    def close(self, store: Backend) -> None:
        self.file.close()


class TestAsync(TestBlocking):
    racers = 200

    def open(self, clock: FakeClock, path: Path) -> Backend:
        super().open(clock, path)
        return self.file.asynchronous

    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)

    async def together(self, works: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
        return await asyncio.gather(*[work() for work in works])
