"""The one bounded cache, with a limit on how stale an answer may be."""

from typing import Generic, NamedTuple, TypeVar

from bartizan.core.ports import Clock
from bartizan.errors import Misuse

V = TypeVar("V")

LONGEST = 300  # seconds: a bound above this is no bound
SLACK = 50_000_000  # nanoseconds by which two threads may disagree about now before the clock counts as stepped back


class Mark(NamedTuple):
    """When a read began: how many drops there had been, and the clock in nanoseconds."""

    drops: int
    at: int


def checked_staleness(seconds: float) -> float:
    """`seconds` as a staleness bound: from 0 (never serve from a cache) to 300; anything else is `Misuse`."""
    if isinstance(seconds, bool) or not 0 <= seconds <= LONGEST:  # NaN fails every comparison
        raise Misuse(f"staleness is a number of seconds from 0 to {LONGEST}")
    return seconds


class Cache(Generic[V]):
    """At most `size` answers, none served later than `staleness` seconds after the read that brought it began.

    A reader takes `mark = cache.begin()` before it reads and gives it back with `put`: freshness counts from then, and
    a `drop` in between makes the mark void for that key, so that a slow read cannot bring back what was revoked. A
    clock that steps back empties the cache. Every step is one
    operation on a dict.
    """

    __slots__ = ("_bound", "_clock", "_dropped", "_drops", "_floor", "_kept", "_latest", "_size")

    def __init__(self, *, clock: Clock, staleness: float = 5, size: int = 10_000) -> None:
        self._bound = int(checked_staleness(staleness) * 1_000_000_000)
        self._clock = clock
        self._size = size
        self._kept: dict[str, tuple[int, V]] = {}
        self._dropped: dict[str, int] = {}
        self._drops = 0
        self._floor = 0  # marks older than this many drops are void for every key
        self._latest = 0

    def begin(self) -> Mark:
        """The mark of a read that begins now."""
        return Mark(self._drops, self._clock.nanoseconds())

    def get(self, key: str, now: int | None = None) -> V | None:
        """The answer kept for `key`, if it is fresh at `now` (nanoseconds; by default, this moment)."""
        if now is None:
            now = self._clock.nanoseconds()
        if now > self._latest:
            self._latest = now
        elif self._latest - now > SLACK:
            self.clear()
            self._latest = now
        entry = self._kept.get(key)
        if entry is None or now - entry[0] >= self._bound:
            return None
        return entry[1]

    def put(self, key: str, value: V, mark: Mark) -> None:
        """Keep `value`, read since `mark`, unless `key` was dropped or a newer answer came meanwhile."""
        if mark.drops < self._floor or self._dropped.get(key, 0) > mark.drops or mark.at < self._latest - self._bound:
            return
        present = self._kept.pop(key, None)
        if present is not None and present[0] > mark.at:
            self._kept[key] = present
            return
        while len(self._kept) >= self._size:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[key] = (mark.at, value)

    def drop(self, key: str) -> None:
        """Forget `key`, and refuse every answer whose read began before now."""
        self._drops += 1
        if len(self._dropped) >= self._size:
            self._dropped.clear()
            self._floor = self._drops
        self._dropped[key] = self._drops
        self._kept.pop(key, None)

    def clear(self) -> None:
        """Forget everything; reads under way are void."""
        self._drops += 1
        self._dropped.clear()
        self._floor = self._drops
        self._kept.clear()
