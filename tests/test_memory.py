import os

import pytest

from bartizan.core.drive import run
from bartizan.core.tables import ANYTHING, Add, Insert, Now, Update
from bartizan.errors import Misuse
from bartizan.stores.memory import MemoryBackend
from bartizan.testing import FakeClock
from bartizan.testing.samples import OTHERS, SAMPLES, Sample


class Restless(FakeClock):
    def seconds(self) -> int:
        self.advance(1)
        return self()


def test_one_now_for_a_change() -> None:
    store = MemoryBackend(Restless())
    first = Insert(SAMPLES, Sample(id="a"), set=(("number", Now()), ("ends", Now())))
    row = run(store.change(first, also=[Insert(OTHERS, Sample(id="b"), set=(("number", Now()),))]))
    other = run(store.get(OTHERS, "b"))
    assert row is not None
    assert other is not None
    assert row.number == row.ends == other.number


def test_second_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryBackend()
    assert run(store.change(Insert(SAMPLES, Sample(id="a", number=1)))) is not None
    monkeypatch.setattr(os, "getpid", lambda: 2)
    for work in (store.get(SAMPLES, "a"), store.change(Update(SAMPLES, "a", ANYTHING, (("number", Add(1)),)))):
        with pytest.raises(Misuse, match="one process"):
            run(work)
