"""The whole sync and async story: services are coroutines; here one is driven without an event loop."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from bartizan.core.ports import Waits
from bartizan.errors import Misuse, Reason, Unavailable

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

SETTLED_WITHIN = 5.0  # seconds that the application's own async function may take


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine over blocking leaves, which never suspend; one that does is `Misuse`."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise Misuse("a blocking call reached something that waits for an event loop: use the async service there")


async def settle(asked: Callable[[], object], waits: Waits) -> Any:
    """The answer of the application's own function, plain or async, asked within `SETTLED_WITHIN` seconds.

    Whatever it raises is `Unavailable`, and no cause goes along: nothing may be decided without it. A plain function
    that blocks is not interrupted.
    """
    try:
        answer = asked()
        if hasattr(answer, "__await__"):  # an ABC would be asked for longer than most answers take
            return await waits.within(SETTLED_WITHIN, cast("Awaitable[Any]", answer))
        return answer
    except (Misuse, Unavailable):
        raise
    except Exception:  # noqa: BLE001 - it is foreign code
        raise Unavailable(Reason.CALLBACK_FAILED) from None


class Blocking:
    """A blocking face of an async service: subclasses name methods with `blocking`, one line each."""

    def __init__(self, service: Any) -> None:
        self._service = service


def blocking(method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """The same method, of the same signature, without `await`."""

    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(method(self._service, *args, **kwargs))

    call.__name__ = method.__name__
    call.__doc__ = method.__doc__
    return call
