import asyncio

import pytest

from bartizan.core.drive import Blocking, blocking, run
from bartizan.errors import Misuse, Unavailable


class Service:
    def __init__(self) -> None:
        self.closed = False

    async def double(self, number: int, *, plus: int = 0) -> int:
        """Twice the number."""
        return await self._leaf(number) * 2 + plus

    async def _leaf(self, number: int) -> int:
        return number

    async def waits(self) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            self.closed = True

    async def fails(self) -> None:
        raise Unavailable


class BlockingService(Blocking):
    double = blocking(Service.double)
    waits = blocking(Service.waits)
    fails = blocking(Service.fails)


def test_blocking_face() -> None:
    face = BlockingService(Service())
    assert face.double(3, plus=1) == 7
    assert BlockingService.double.__name__ == "double"
    assert BlockingService.double.__doc__ == "Twice the number."
    with pytest.raises(Unavailable):
        face.fails()


def test_what_waits_is_misuse_and_is_closed() -> None:
    service = Service()
    with pytest.raises(Misuse, match="async service"):
        BlockingService(service).waits()
    assert service.closed


def test_none_is_an_answer() -> None:
    async def nothing() -> None:
        return

    assert run(nothing()) is None
