"""The command line: what it prints, and what it exits with."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bartizan import Bartizan
from bartizan.cli.main import COMMANDS, WRONG, main
from bartizan.cli.would_refuse import summed
from bartizan.core.ring import new_root

SHOP = """
from bartizan import Bartizan, Rule, allow

security = Bartizan("sqlite:///security.db", environment="test", secrets=["{root}"])
asked = []
class holder:
    gate = security.gate([
        Rule("GET /orders/{{id}}", allow.secret_key("orders:read")),
        Rule("/mine", allow.secret_key() & allow.when("mine", lambda principal, request: not asked.append(1))),
    ])
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"shop_{abs(hash(request.node.name))}"
    root = new_root()
    (tmp_path / f"{name}.py").write_text(SHOP.format(root=root), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    security = Bartizan("sqlite:///security.db", environment="test", secrets=[root])
    key = security.blocking.keys.create(org="org_1", kind="secret", scopes={"orders:read"}).key
    security._shared.close()
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"Authorization: Bearer {key}\n\nAccept: text/plain\n"))
    return f"{name}:holder.gate"


def test_explain(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET /orders/7?limit=1", "--app", shop, "--headers", "-"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("GET /orders/7\ntarget ")
    assert told.endswith("admitted (admitted)\n")
    assert "_live_" not in told.replace("sk_test_", "")


def test_explain_asks_the_application_only_where_that_is_said(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET /mine", "--app", shop, "--headers", "-"]) == 0
    assert "undecided (not_asked)" in capsys.readouterr().out


def test_explain_with_headers_in_a_file(shop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    headers = tmp_path / "headers.txt"
    headers.write_text(sys.stdin.read(), "utf-8")
    assert main(["explain", "GET /mine", "--app", shop, "--headers", str(headers), "--callbacks"]) == 0
    assert "admitted (admitted)" in capsys.readouterr().out
    headers.write_text("no header\n", "utf-8")
    assert main(["explain", "GET /mine", "--app", shop, "--headers", str(headers)]) == WRONG


@pytest.mark.parametrize("app", ["shop", ":gate", "nowhere_at_all:gate", "json:nothing", "json:dumps"])
def test_an_app_that_is_not_there(app: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET /", "--app", app]) == WRONG
    assert "--app" in capsys.readouterr().err


def test_a_request_without_a_target(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET", "--app", shop]) == WRONG
    assert "'GET /orders/7'" in capsys.readouterr().err


def test_would_refuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def event(name: str, target: str | None, reason: str) -> str:
        return json.dumps({"name": name, "target": target, "reason": reason})

    lines = [
        *["2026-11-28 INFO bartizan.audit " + event("gate.would_refuse", "GET /a", "no_credential") + " \n"] * 3,
        event("gate.would_refuse", "GET /b", "scope_missing"),
        event("request.refused", "GET /a", "gate.would_refuse"),
        "gate.would_refuse {broken}",
        "gate.would_refuse",
        "} gate.would_refuse {",
        "[gate.would_refuse]",
    ]
    assert summed(lines) == {("GET /a", "no_credential"): 3, ("GET /b", "scope_missing"): 1}
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert main(["would-refuse"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["3", "no_credential", "GET", "/a"]
    assert second.split() == ["1", "scope_missing", "GET", "/b"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["would-refuse"]) == 0


def test_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["secret"]) == 0
    Bartizan("memory://", environment="test", secrets=[capsys.readouterr().out.strip()]).blocking.keys.create(
        org="org_1", kind="secret"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_how_it_is_used(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"python -m bartizan {command}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main([command, "--nonsense"])
    assert caught.value.code == WRONG


@pytest.mark.parametrize("arguments", [[], ["nonsense"]])
def test_as_a_module(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "bartizan", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == WRONG
    assert "usage: python -m bartizan" in done.stderr


def test_nobody_makes_a_principal_without_its_secret(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no option that stands for a caller: only headers do, and they are verified."""
    for option in ("--as", "--org", "--principal", "--scope"):
        with pytest.raises(SystemExit):
            main(["explain", "GET /orders/7", "--app", shop, option, "org_1"])
    capsys.readouterr()
    assert main(["explain", "GET /orders/7", "--app", shop]) == 0
    assert "refused with 401 (no_credential)" in capsys.readouterr().out
