"""The watch over one open stream, for an event loop: it asks while the stream is open whether it may stay so."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from random import uniform
from typing import Any, TypeVar

from bartizan.errors import Unavailable

T = TypeVar("T")

ENDED = "the caller's credential has ended"


class Stream:
    """`ask` is awaited about every `every` seconds once the watch has started; when it raises, the stream is over.

    A store that fails ends a stream only at the second time in a row. Then `close` is awaited, once.
    """

    __slots__ = ("_ask", "_close", "_every", "_over", "_task")

    def __init__(
        self,
        ask: Callable[[], Awaitable[None]],
        every: float,
        close: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._ask = ask
        self._every = every
        self._close = close
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether the stream may go on no longer."""
        return self._over.done()

    def start(self, delay: float) -> None:
        """Begin to ask, the first time in `delay` seconds."""
        if self._task is None:
            # Nobody is current in it: it asks for the stream, not as its caller.
            self._task = asyncio.get_running_loop().create_task(self._watch(delay), context=Context())

    def stop(self) -> None:
        """The stream has ended by itself: nothing is asked any more."""
        if self._task is not None and not self.over:
            self._task.cancel()

    async def end(self) -> None:
        """Stop, or wait until what is over has been closed."""
        self.stop()
        if self._task is not None and self.over:
            await asyncio.wait({self._task})

    async def until_over(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """What `work` gives, or None once the stream is over: then what it might have had is not delivered."""
        if self.over:
            return None
        task = asyncio.ensure_future(work())
        try:
            first: set[asyncio.Future[Any]] = {task, self._over}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not self._over.done():
            return task.result()
        task.add_done_callback(_taken)
        task.cancel()
        return None

    async def _watch(self, delay: float) -> None:
        failures = 0
        while failures < 2:
            await asyncio.sleep(delay)
            delay = self._every * uniform(0.9, 1.1)  # noqa: S311 - spreads load; nothing depends on chance
            try:
                await self._ask()
            except Unavailable:
                failures += 1
            except Exception:  # noqa: BLE001 - whatever keeps us from a yes is a no
                break
            else:
                failures = 0
        self._over.set_result(None)
        if self._close is not None:
            with suppress(Exception):  # the client may be gone already
                await self._close()


def _taken(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()
