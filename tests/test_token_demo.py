"""The tokens of the demo, over real servers, with the reason of each refusal."""

import pytest
import token_demo


def test_every_row_is_as_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert token_demo.main() == 0
    shown = capsys.readouterr().out
    assert "WRONG" not in shown
    for row in (
        "consumer's token", "expired token", "token for another audience", "test token on live", "forged token", "alg: none",
        "member's token, of an OpenID provider",
    ):  # fmt: skip
        assert f"\n{row}" in f"\n{shown}"


def test_the_provider_is_asked_for_its_keys_once() -> None:
    with token_demo.served() as (ports, table, _):
        (member,) = [row for row in table if row.what.startswith("member's token")]
        for port in ports.values():
            assert token_demo.asked(port, member) == 200
    with token_demo.provided() as provider:
        assert provider.asked == 0
