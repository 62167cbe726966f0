"""The bound sessions of the demo, over real servers; and that a shop which is wired wrongly would be seen."""

from typing import Any

import binding_demo
import pytest

from bartizan import Rule, SessionPolicy, allow
from bartizan.testing import Kit


def test_every_row_is_as_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert binding_demo.main() == 0
    shown = capsys.readouterr().out
    assert "WRONG" not in shown
    for row in (
        "the stolen token, as Bearer",
        "the same proof again",
        "the stolen refresh token ",
        "the nonce that came",
    ):
        assert shown.count(row) == 2  # through each adapter
    assert shown.count("the ticket again") == 1  # WSGI has no websockets


def test_sessions_that_are_not_bound_are_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(binding_demo, "bound", lambda: Kit(origins=[binding_demo.ORIGIN], sessions=SessionPolicy()))
    assert binding_demo.main() > 0
    assert "WRONG" in capsys.readouterr().out


def test_a_gate_that_asks_for_nobody_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = [Rule("GET /me", allow.public()), *binding_demo.RULES[1:]]
    monkeypatch.setattr(binding_demo, "RULES", rules)
    monkeypatch.setattr(binding_demo.Shop, "answered", _open)
    assert binding_demo.main() > 0
    assert "WRONG" in capsys.readouterr().out


async def _open(self: binding_demo.Shop, path: str, request: Any, sent: dict[str, str]) -> dict[str, str]:
    """A shop that asks for nobody: the same for whoever comes."""
    if path in {"/me", "/ticket"}:
        return {"subject": "anna"}
    return binding_demo.told(await self.sessions.start(org="org_1", subject="anna", proof=request))
