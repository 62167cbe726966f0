"""The sessions of the demo, over real servers; and that a shop which is wired wrongly would be seen."""

import pytest
import session_demo

from bartizan import Rule, allow


def test_every_row_is_as_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert session_demo.main() == 0
    shown = capsys.readouterr().out
    assert "WRONG" not in shown
    for row in ("6 tabs refresh at once", "a stolen token", "everything of it is refused", "session.reused"):
        assert shown.count(row) == 2  # through each adapter


def test_a_gate_that_asks_for_nobody_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = [Rule("GET /me", allow.optional(allow.consumer())), *session_demo.RULES[1:]]
    monkeypatch.setattr(session_demo.Shop, "answered", _open)
    monkeypatch.setattr(session_demo, "RULES", rules)
    assert session_demo.main() > 0
    assert "WRONG" in capsys.readouterr().out


async def _open(self: session_demo.Shop, path: str, sent: dict[str, str]) -> dict[str, str]:
    """Tokens that nobody looks at: the same pair for whoever asks."""
    return session_demo.told(await self.sessions.start(org="org_1", subject="anna"))
