"""What `bartizan.testing` itself promises."""

import asyncio
from pathlib import Path

import pytest

import bartizan.testing
from bartizan.errors import Misuse
from bartizan.testing import BackendContract, FakeClock
from bartizan.testing.samples import refused, same
from bartizan.testing.vectors import vectors_of


def test_clock_moves_when_told() -> None:
    clock = FakeClock(10)
    assert (clock(), clock.seconds(), clock.nanoseconds()) == (10, 10, 10_000_000_000)
    clock.advance(1.5)
    assert (clock(), clock.nanoseconds()) == (11, 11_500_000_000)
    clock.advance(-2)
    assert clock() == 9


def test_vectors(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.json").write_text('{"x": 1, "y": [2]}')
    (tmp_path / "deep" / "a.json").write_text("[3]")
    assert vectors_of(tmp_path) == [("b[x]", 1), ("b[y]", [2]), ("deep/a[0]", 3)]
    assert vectors_of(tmp_path, "a.json") == [("deep/a[0]", 3)]


@pytest.mark.parametrize("content", ["[]", "{}", "7", '"text"'])
def test_no_vectors_is_a_failure(tmp_path: Path, content: str) -> None:
    with pytest.raises(AssertionError):
        vectors_of(tmp_path)
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(AssertionError):
        vectors_of(tmp_path)


def test_contract_notices() -> None:
    with pytest.raises(AssertionError):
        same(1, 2)

    async def taken() -> None:
        return

    async def misused() -> None:
        raise Misuse("no")

    asyncio.run(refused(misused))
    with pytest.raises(AssertionError):
        asyncio.run(refused(taken))
    with pytest.raises(AssertionError, match="opened"):
        BackendContract().open(FakeClock(), Path())


def test_names() -> None:
    assert set(dir(bartizan.testing)) == set(bartizan.testing.__all__)
    assert all(getattr(bartizan.testing, name) for name in bartizan.testing.__all__)
    with pytest.raises(AttributeError):
        bartizan.testing.nothing
