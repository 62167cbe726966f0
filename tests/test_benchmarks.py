"""The benchmarks stay true: every case still does what its name says. No time is asserted."""

import json
from pathlib import Path

import pytest
from benchmarks import __main__ as bench, instructions
from benchmarks.cases import BARE, EMPTY, HOSTILE, compiled, entries, mixed


def test_every_case_runs_and_every_row_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = bench.measured
    monkeypatch.setattr(bench, "measured", lambda quick: measured(quick=quick, count=1, pieces=1, piece=1))
    assert bench.main(["--quick", "--json", str(tmp_path / "bench.json")]) == 0
    told = json.loads((tmp_path / "bench.json").read_text("utf-8"))["rows"]
    assert [row["case"] for row in told][: len(entries()) - 1] == [name for name in entries() if name != EMPTY]
    assert len(told) == len(entries()) - 1 + 2 + len(HOSTILE)
    printed = capsys.readouterr().out
    assert all(row["case"] in printed for row in told)


def test_every_bound_refers_to_a_row() -> None:
    rows = entries()
    for entry in rows.values():
        assert entry.base in rows
        assert all(bound.of in rows for bound in entry.bounds if bound.of)


@pytest.mark.parametrize("value", [84_999, 85_001])
def test_a_missed_bound_is_printed_and_fails_only_if_asked(
    value: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = {"limit": 85_000, "unit": "instructions", "of": "", "gated": True, "found": value, "met": value <= 85_000}
    row = {"case": "a case", "over": BARE, "us": 1.0, "B": 1.0, "instructions": value, "bounds": [bound]}
    monkeypatch.setattr(bench, "measured", lambda quick: [row])
    assert bench.main([]) == 0
    assert ("MISSED" in capsys.readouterr().out) is (value > 85_000)
    assert bench.main(["--check"]) == int(value > 85_000)


def test_check_without_counts_is_no_check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bound = {"limit": 1, "unit": "instructions", "of": "", "gated": True, "found": None, "met": None}
    row = {"case": "a case", "over": BARE, "us": 1.0, "B": 1.0, "instructions": None, "bounds": [bound]}
    monkeypatch.setattr(bench, "measured", lambda quick: [row])
    assert bench.main(["--check"]) == 1
    assert "NOTHING WAS CHECKED" in capsys.readouterr().err


@pytest.mark.skipif(instructions.valgrind() is None, reason="valgrind is not here")
def test_instructions_are_counted() -> None:
    base, case = instructions.counts([BARE])[BARE]
    assert 0 <= base < 1_000 < case


def test_a_hostile_set_may_be_accepted_or_refused() -> None:
    assert compiled(mixed(4))
    assert not compiled(HOSTILE["one literal on 20 levels of *"]())
