"""The whole sync and async story: services are coroutines; here one is driven without an event loop."""

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from bartizan.errors import Misuse

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine over blocking leaves, which never suspend; one that does is `Misuse`."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise Misuse("a blocking call reached something that waits for an event loop: use the async service there")


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
