"""The passwordless story, over real servers with a client that keeps cookies; and that a site wired wrongly is seen."""

from typing import Any

import pytest
import signin_demo
import site_starlette

from bartizan import Rule, allow
from bartizan.browser.csrf import OriginCheck


def test_every_row_is_as_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert signin_demo.main() == 0
    shown = capsys.readouterr().out
    assert "<-- not" not in shown
    for row in ("a guest", "three tabs at once", "signs nobody out", "back to where it was", "everything is over"):
        assert shown.count(row) >= 2  # at each shop
    assert shown.count("another site posts") == 10


def test_an_account_that_anybody_may_see_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = [
        Rule("GET /account", allow.optional(allow.consumer())) if rule.login else rule for rule in site_starlette.RULES
    ]
    monkeypatch.setattr(site_starlette, "RULES", rules)
    monkeypatch.setattr(signin_demo, "SHOPS", {"starlette": signin_demo.SHOPS["starlette"]})
    assert signin_demo.main() > 0
    assert "<-- not 200 /login" in capsys.readouterr().out


def test_a_site_that_takes_every_origin_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def anything(*_: Any, **__: Any) -> None:
        """Whoever it is."""

    monkeypatch.setattr(OriginCheck, "judge", anything)
    monkeypatch.setattr(signin_demo, "SHOPS", {"starlette": signin_demo.SHOPS["starlette"]})
    assert signin_demo.main() > 0
    assert "<-- not {403}" in capsys.readouterr().out
