"""What the core asks of the world outside: time, chance, and ways to wait. Protocols; the leaves are elsewhere."""

import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from bartizan.core.address import EndpointPolicy

T = TypeVar("T")

Entropy = Callable[[int], bytes]  # that many fresh random bytes
fresh: Entropy = os.urandom


class Clock(Protocol):
    """UTC, as whole seconds and as nanoseconds since 1970."""

    def seconds(self) -> int:
        """Whole seconds."""

    def nanoseconds(self) -> int:
        """Nanoseconds; their whole seconds are `seconds()`."""


class SystemClock:
    """The machine's wall clock."""

    __slots__ = ()

    @staticmethod
    def seconds() -> int:
        """As `Clock`."""
        return time.time_ns() // 1_000_000_000

    @staticmethod
    def nanoseconds() -> int:
        """As `Clock`."""
        return time.time_ns()


class SteppedClock:
    """A clock made of any function that tells whole seconds, such as `bartizan.testing.FakeClock()`."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: Callable[[], int]) -> None:
        self.seconds: Callable[[], int] = seconds

    def nanoseconds(self) -> int:
        """As `Clock`."""
        return self.seconds() * 1_000_000_000


class Waits(Protocol):
    """The two ways in which a service may wait for somebody else's work."""

    async def shared(self, key: str, work: Callable[[], Coroutine[Any, Any, T]], /) -> T:
        """Single flight: whoever asks for `key` while `work` runs gets that run's answer."""

    async def finish(self, work: Coroutine[Any, Any, T], /) -> T:
        """Uninterrupted: a caller that is cancelled meanwhile is cancelled after `work` has ended."""

    async def within(self, seconds: float, work: Awaitable[T], /) -> T:
        """The application's `work`, if it ends in time, else `Unavailable`; `Misuse` where nothing may suspend."""


class Fetch(Protocol):
    """The one way to read what stands behind a URL that somebody else chose."""

    async def __call__(self, url: str, policy: EndpointPolicy, /) -> bytes:
        """The body of the 200 answer. Anything else, and whatever `policy` does not allow, is `Unavailable`."""


class Answered(NamedTuple):
    """What a server said to a POST: its status, and its `Retry-After` as it stands there."""

    status: int
    retry_after: str | None


class Post(Protocol):
    """The one way to send something to a URL that somebody else chose."""

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str], policy: EndpointPolicy, /) -> Answered:
        """The answer, whatever its status. None in time, and what `policy` does not allow, is `Unavailable`."""
