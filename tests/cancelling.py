"""A caller that hangs up at a chosen moment."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def ended(number: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Whether `work` came to its end, though its task was cancelled when it waited for the `number`-th time."""
    try:
        await cancelled_at(number, work)
    except asyncio.CancelledError:
        return False
    return True


@types.coroutine
def cancelled_at(number: int, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """`work`, whose task is cancelled when it waits for the `number`-th time."""
    step: Callable[[Any], Any] = work.send
    given, waits = None, 0
    while True:
        try:
            waited = step(given)
        except StopIteration as end:
            result: T = end.value
            return result
        waits += 1
        task = asyncio.current_task()
        if waits == number and task is not None:
            task.cancel()
        try:
            given = yield waited
            step = work.send
        except BaseException as error:
            step, given = work.throw, error
