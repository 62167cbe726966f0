"""A passage through a framework that goes on after its handler has answered: who is calling, and may they still."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from bartizan.core.passage import Admit
from bartizan.core.principal import current_unit
from bartizan.errors import BartizanError, Rejected, Unavailable
from bartizan.gate.gate import BlockingGate, Gate
from bartizan.stores.streams import AGE, ENDED


@contextmanager
def restored() -> Iterator[None]:
    """After the block the context is as it was: a server's thread is not left with its last caller."""
    before = current_unit.get()
    try:
        yield
    finally:
        current_unit.set(before)


@contextmanager
def within(admit: Admit) -> Iterator[None]:
    """Within the block the passage goes on."""
    with restored():
        current_unit.set(admit)
        yield


def steps(gate: BlockingGate, admit: Admit, chunks: Iterator[Any]) -> Iterator[Any]:
    """The chunks of a body, each made within the passage; one that is older than 30 s is asked for between them."""
    watch = _Watch(admit, gate.every)
    while True:
        with within(admit):
            try:
                chunk = next(chunks)
            except StopIteration:
                return
            if watch.due():
                try:
                    gate.recheck(admit)
                except (Rejected, Unavailable) as error:
                    watch.failed(error)
                else:
                    watch.may_fail = True
        yield chunk


async def async_steps(
    gate: Gate, admit: Admit, chunks: AsyncIterator[Any], left: Callable[[], object]
) -> AsyncIterator[Any]:
    """As `steps`; `left` is called at the end, however it comes."""
    watch = _Watch(admit, gate.every)
    try:
        while True:
            with within(admit):
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
                if watch.due():
                    try:
                        await gate.recheck(admit)
                    except (Rejected, Unavailable) as error:
                        watch.failed(error)
                    else:
                        watch.may_fail = True
            yield chunk
    finally:
        admit.over = True
        left()


class _Watch:
    """When to ask for a caller again, and what an answer means: a store may fail once."""

    __slots__ = ("_admit", "_asked", "_every", "may_fail")

    def __init__(self, admit: Admit, every: float) -> None:
        self._admit = admit
        self._every = every
        self._asked = monotonic() + AGE - every
        self.may_fail: bool = True

    def due(self) -> bool:
        if not self._admit.callers or monotonic() - self._asked < self._every:
            return False
        self._asked = monotonic()
        return True

    def failed(self, error: BartizanError) -> None:
        if isinstance(error, Rejected) or not self.may_fail:
            raise OSError(ENDED) from None  # the server closes the connection, and the client sees no end
        self.may_fail = False
