import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bartizan.stores.memory import MemoryBackend
from bartizan.testing import BackendContract, FakeClock

T = TypeVar("T")


class TestBlocking(BackendContract):
    def open(self, clock: FakeClock, path: Path) -> MemoryBackend:
        return MemoryBackend(clock)


class TestAsync(TestBlocking):
    racers = 200

    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)

    async def together(self, works: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
        return await asyncio.gather(*[work() for work in works])
