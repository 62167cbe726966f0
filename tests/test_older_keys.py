"""The example with the keys of the system before: as written, by strangers, and after its day."""

import importlib
import sqlite3
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from servers import ask, serving

from bartizan.core.ring import new_root

OLD, ENDED = "key-" + "a1" * 16, "key-" + "b2" * 16


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    table = sqlite3.connect(tmp_path / "old.db")
    table.execute("CREATE TABLE api_keys (id, org, hash, made, ended)")
    rows = [(1, "org_1", OLD, None), (2, "org_1", ENDED, 1_700_000_000)]
    for number, org, key, ended in rows:
        hashed = sha256(key.encode()).hexdigest()
        table.execute("INSERT INTO api_keys VALUES (?, ?, ?, 1600000000, ?)", (number, org, hashed, ended))
    table.commit()
    table.close()
    monkeypatch.setenv("OLDER_KEYS", str(tmp_path / "old.db"))
    monkeypatch.setenv("BARTIZAN_URL", "memory://")
    monkeypatch.setenv("BARTIZAN_ENVIRONMENT", "live")
    monkeypatch.setenv("BARTIZAN_SECRETS", new_root())
    sys.modules.pop("older_keys", None)
    yield importlib.import_module("older_keys")
    sys.modules.pop("older_keys", None)


def test_older_keys_beside_new_ones(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    new = example.security.blocking.keys.create(org="org_2", kind="secret", scopes={"orders:read", "orders:write"})
    bearer = ("Authorization", f"Bearer {new.key}")
    with serving(example.app) as port:
        old = ask(port, "/orders", ("X-API-Key", OLD))
        assert (old.status, old.body) == (200, b"org_1")
        assert (ask(port, "/orders", bearer).status, ask(port, "/orders", bearer, method="POST").status) == (200, 200)
        strangers = ["key-" + "c3" * 16, ENDED, OLD[:-1], OLD.upper(), "", sha256(OLD.encode()).hexdigest()]
        assert {ask(port, "/orders", ("X-API-Key", text)).status for text in strangers} == {401}
        assert ask(port, "/orders").status == 401
        assert ask(port, "/orders", ("X-API-Key", OLD), method="POST").status == 403  # what is new is for new keys
        assert ask(port, f"/orders?x={OLD}").status == 401
        monkeypatch.setattr(example.time, "time", lambda: example.ENDS)
        assert ask(port, "/orders", ("X-API-Key", OLD)).status == 401  # its day is over
        assert ask(port, "/orders", bearer).status == 200
