import isolation_demo
import pytest


def test_every_row_is_as_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert isolation_demo.main() == 0
    told = capsys.readouterr().out
    assert "WRONG" not in told
    for line in (
        "another organization's order               404",
        "a viewer writing                           403, lacks orders:write",
        "a consumer reading another consumer        404",
    ):
        assert line in told
    assert "a job resumed under a forged context             refused" in told


def test_a_wrong_answer_would_be_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line removed: the look-up that is not narrowed shows another consumer's order."""
    monkeypatch.setattr(isolation_demo, "ORDERS", {**isolation_demo.ORDERS, "2": ("org_1", "anna")})
    assert isolation_demo.main() == 1
    assert "a consumer reading another consumer        200  <-- WRONG" in capsys.readouterr().out
