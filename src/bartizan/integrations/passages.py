"""A passage through a framework that goes on after its handler has answered: who is calling, and may they still."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bartizan.core.passage import Admit
from bartizan.core.principal import current_unit
from bartizan.errors import Rejected, Unavailable
from bartizan.gate.gate import BlockingGate, Gate
from bartizan.stores.watches import Watch


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
    watch = Watch(gate.every) if admit.callers else None
    while True:
        with within(admit):
            try:
                chunk = next(chunks)
            except StopIteration:
                return
            if watch is not None and watch.due():
                watch.asking()
                try:
                    gate.recheck(admit)
                except (Rejected, Unavailable) as error:
                    watch.failed(error)
                else:
                    watch.lives()
        yield chunk


async def async_steps(
    gate: Gate, admit: Admit, chunks: AsyncIterator[Any], left: Callable[[], object]
) -> AsyncIterator[Any]:
    """As `steps`; `left` is called at the end, however it comes."""
    watch = Watch(gate.every) if admit.callers else None
    try:
        while True:
            with within(admit):
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
                if watch is not None and watch.due():
                    watch.asking()
                    try:
                        await gate.recheck(admit)
                    except (Rejected, Unavailable) as error:
                        watch.failed(error)
                    else:
                        watch.lives()
            yield chunk
    finally:
        admit.over = True
        left()
