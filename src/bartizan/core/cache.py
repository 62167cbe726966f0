"""The one bounded cache, with a limit on how stale an answer may be."""

import os
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakSet

from bartizan.core.ports import Clock
from bartizan.errors import Misuse

V = TypeVar("V")

LONGEST = 300  # seconds: a bound above this is no bound
SLACK = 50_000_000  # nanoseconds by which a clock may be corrected before that counts as a step back
_caches: "WeakSet[Cache[Any]]" = WeakSet()


class Mark(NamedTuple):
    """When a read began: how many drops there had been, and the clock in nanoseconds."""

    drops: int
    at: int

    def since(self, at: int) -> "Mark":
        """The mark of an answer out of another cache, whose own read began at `at`: the older time counts."""
        return Mark(self.drops, min(self.at, at))


def checked_staleness(seconds: object) -> float:
    """`seconds` as a staleness bound: from 0 (never serve from a cache) to 300; anything else is `Misuse`."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST:  # NaN too
        raise Misuse(f"staleness is a number of seconds from 0 to {LONGEST}")
    return seconds


class Cache(Generic[V]):
    """At most `size` answers, none served later than `staleness` seconds after the read that brought it began.

    A reader takes `mark = cache.begin()` before it reads and gives it back with `put`: freshness counts from then, and
    a `drop` in between makes the mark void for that key, so that a slow read cannot bring back what was revoked. A
    clock that steps back empties the cache. A cache over a cache takes `entry` from the one below and puts it under
    `mark.since(at)`. Reading takes no lock.
    """

    __slots__ = ("__weakref__", "_clock", "_dropped", "_drops", "_floor", "_kept", "_latest", "_lock", "_size", "bound")

    def __init__(self, *, clock: Clock, staleness: float = 5, size: int = 10_000) -> None:
        if size < 1:
            raise Misuse("a cache has room for something: staleness=0 is the way to have none")
        self.bound: int = int(checked_staleness(staleness) * 1_000_000_000)
        self._clock = clock
        self._size = size
        self._lock = Lock()
        self._kept: dict[str, tuple[int, V]] = {}
        self._dropped: dict[str, int] = {}
        self._drops = 0
        self._floor = 0  # marks older than this many drops are void for every key
        self._latest = 0
        _caches.add(self)

    def begin(self) -> Mark:
        """The mark of a read that begins now."""
        at = self._told(self._clock.nanoseconds())
        return Mark(self._drops, at)

    def get(self, key: str, now: int | None = None) -> V | None:
        """The answer kept for `key`, if it is fresh at `now` (nanoseconds; by default, this moment)."""
        now = self._clock.nanoseconds() if now is None else now
        if now >= self._latest:
            self._latest = now
        else:
            now = self._told(now)
        entry = self._kept.get(key)
        # As `entry`, which also tells the time: this is asked for each request.
        return entry[1] if entry is not None and 0 <= now - entry[0] < self.bound else None

    def entry(self, key: str, now: int | None = None) -> tuple[int, V] | None:
        """What `get` gives, behind the nanosecond in which its read began."""
        now = self._told(self._clock.nanoseconds() if now is None else now)
        entry = self._kept.get(key)
        # An answer from the future is none: with a staleness of 0 it would be served.
        if entry is None or not 0 <= now - entry[0] < self.bound:
            return None
        return entry

    def _told(self, now: int) -> int:
        latest = self._latest
        if now >= latest:
            self._latest = now
        elif latest - now > SLACK:
            # `now` may be of a thread that waited long. Read after `latest`, the clock is behind only if set back.
            now = self._clock.nanoseconds()
            if latest - now > SLACK:
                self.clear()
                self._latest = now
        return now

    def put(self, key: str, value: V, mark: Mark) -> None:
        """Keep `value`, read since `mark`, unless `key` was dropped or a newer answer came meanwhile."""
        with self._lock:
            if mark.drops < self._floor or self._dropped.get(key, 0) > mark.drops:
                return
            present = self._kept.pop(key, None)
            if present is not None and present[0] > mark.at:
                self._kept[key] = present
                return
            if len(self._kept) >= self._size:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = (mark.at, value)

    def drop(self, key: str) -> None:
        """Forget `key`, and refuse every answer whose read began before now."""
        with self._lock:
            self._drops += 1
            if len(self._dropped) >= self._size:
                self._dropped.clear()
                self._floor = self._drops
            self._dropped[key] = self._drops
            self._kept.pop(key, None)

    def clear(self) -> None:
        """Forget everything; reads under way are void."""
        with self._lock:
            self._drops += 1
            self._dropped.clear()
            self._floor = self._drops
            self._kept.clear()


def _forked() -> None:
    for cache in _caches:
        cache._lock = Lock()  # noqa: SLF001 - another thread of the parent may have held it, and is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
