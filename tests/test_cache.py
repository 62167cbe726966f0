from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, strategies as st

from bartizan.core.cache import LONGEST, Cache, checked_staleness
from bartizan.errors import Misuse
from bartizan.testing import FakeClock


def cache(clock: FakeClock, **options: Any) -> Cache[str]:
    return Cache(clock=clock, **options)


def test_fresh_until_the_bound() -> None:
    clock = FakeClock()
    kept = cache(clock)
    mark = kept.begin()
    clock.advance(3)  # the read took three seconds
    kept.put("k", "v", mark)
    clock.advance(1.999)
    assert kept.get("k") == "v"
    assert kept.get("k", clock.nanoseconds()) == "v"
    clock.advance(0.001)
    assert kept.get("k") is None
    assert kept.get("other") is None


def test_no_staleness_no_answer() -> None:
    clock = FakeClock()
    kept = cache(clock, staleness=0)
    now = clock.nanoseconds()
    clock.advance(0.01)
    kept.put("k", "v", kept.begin())
    assert kept.get("k") is None
    assert kept.get("k", now) is None


@pytest.mark.parametrize("value", [-1, -1e-9, LONGEST + 1, float("nan"), float("inf"), True, "5", None])
def test_bounds_that_are_none(value: Any) -> None:
    with pytest.raises(Misuse):
        checked_staleness(value)
    with pytest.raises(Misuse):
        cache(FakeClock(), staleness=value)


def test_a_cache_has_room() -> None:
    with pytest.raises(Misuse):
        cache(FakeClock(), size=0)


def test_stacked_caches_one_bound() -> None:
    clock = FakeClock()
    lower, upper = cache(clock), cache(clock)
    lower.put("k", "v", lower.begin())
    clock.advance(4)
    mark, below = upper.begin(), lower.entry("k")
    assert below is not None
    upper.put("k", below[1], mark.since(below[0]))
    assert upper.get("k") == "v"
    clock.advance(1)
    assert upper.get("k") is None
    assert mark.since(mark.at + 1) == mark  # never younger


def test_slow_read_does_not_refill_revoked() -> None:
    clock = FakeClock()
    kept = cache(clock)
    slow, others = kept.begin(), kept.begin()
    kept.drop("k")
    kept.put("k", "before", slow)
    assert kept.get("k") is None
    kept.put("other", "v", others)
    assert kept.get("other") == "v"
    kept.put("k", "after", kept.begin())
    assert kept.get("k") == "after"


def test_slow_read_does_not_refill_revoked_after_many_drops() -> None:
    kept = cache(FakeClock(), size=4)
    slow = kept.begin()
    for i in range(10):
        kept.drop(f"k{i}")
    for key in ("k0", "k9", "never"):
        kept.put(key, "before", slow)
        assert kept.get(key) is None
    kept.clear()
    slow = kept.begin()
    kept.clear()
    kept.put("k", "before", slow)
    assert kept.get("k") is None


def test_clock_step_back_empties_cache() -> None:
    clock = FakeClock()
    kept = cache(clock)
    kept.put("k", "v", kept.begin())
    assert kept.get("k") == "v"
    clock.advance(-1)
    assert kept.get("k") is None
    clock.advance(1)
    assert kept.get("k") is None  # it is gone, not hidden


def test_clock_step_back_voids_reads_under_way() -> None:
    clock = FakeClock()
    kept = cache(clock)
    mark = kept.begin()
    clock.advance(-60)
    kept.put("k", "v", mark)
    assert kept.get("k") is None
    clock.advance(61)
    assert kept.get("k") is None

    mark = kept.begin()
    clock.advance(-60)
    kept.begin()  # notices
    kept.put("k", "v", mark)
    assert not kept._kept


def test_thread_that_waited_long_empties_nothing() -> None:
    clock = FakeClock()
    kept = cache(clock)
    waited = clock.nanoseconds()
    clock.advance(2)
    kept.put("k", "v", kept.begin())
    assert kept.get("k", waited) == "v"  # by the clock of now, not of then
    assert kept.get("k") == "v"


def test_newer_answer_stays() -> None:
    clock = FakeClock()
    kept = cache(clock)
    older = kept.begin()
    clock.advance(1)
    kept.put("k", "new", kept.begin())
    kept.put("k", "old", older)
    assert kept.get("k") == "new"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=50))
def test_at_most_size(steps: list[tuple[str, bool]]) -> None:
    kept = cache(FakeClock(), size=3)
    for key, dropped in steps:
        if dropped:
            kept.drop(key)
        else:
            kept.put(key, key, kept.begin())
            assert kept.get(key) == key
        assert len(kept._kept) <= 3
        assert len(kept._dropped) <= 3


def test_threads_share_it() -> None:
    clock = FakeClock()
    kept = cache(clock, size=5)

    def work(i: int) -> None:
        for n in range(300):
            key = str((n + i) % 9)
            kept.put(key, key, kept.begin())
            assert kept.get(key) in {None, key}
            kept.drop(key)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert not kept._kept
    assert kept._drops == 8 * 300
