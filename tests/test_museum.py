"""What earlier versions wrote is read by this one: every exhibit below `museum/`, with the secrets it was made with.

The secrets and keys there are for these tests alone, and were never anybody's.
"""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bartizan import Bartizan, KeyFormat
from bartizan.core.drive import run
from bartizan.core.events import OUTBOX
from bartizan.credentials.key_uses import KEY_USES
from bartizan.errors import Forbidden, InvalidKey
from bartizan.types import KeyRecord, KeyRow

MUSEUM = Path(__file__).parent / "museum"
EXHIBITS = sorted(MUSEUM.glob("*/house.json"))  # begun before rows had networks, and roots a table
KEYS = sorted(MUSEUM.glob("*/keys.json"))  # with all that a row can say, under a brand; and rows of `KeyFormat`


@pytest.fixture(params=EXHIBITS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def exhibit(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def opened(exhibit: Path, tmp_path: Path) -> tuple[Bartizan, dict[str, Any]]:
    known = json.loads(exhibit.read_text(encoding="utf-8"))
    store = tmp_path / "store.db"
    if not store.exists():
        shutil.copyfile(exhibit.with_suffix(".sqlite"), store)
    now = known["now"]
    brand = "acme" if exhibit in KEYS else None
    security = Bartizan(
        f"sqlite:///{store}", environment="live", secrets=known["secrets"], key_prefix=brand, clock=lambda: now
    )
    return security, known


def test_there_are_exhibits() -> None:
    assert [f"{path.parent.name}/{path.stem}" for path in [*EXHIBITS, *KEYS]] == ["0.1.0/house", "0.1.0/keys"]
    assert {path.stem for path in MUSEUM.glob("*/*")} == {"house", "keys", "sessions"}


def test_every_record_is_read(exhibit: Path, tmp_path: Path) -> None:
    security, known = opened(exhibit, tmp_path)
    with security.blocking as blocking:
        for item in known["keys"]:
            want = item["record"]
            got = blocking.keys.get(item["id"], org=want["org"])
            assert {
                "org": got.org, "kind": got.kind, "environment": got.environment, "name": got.name,
                "scopes": sorted(got.scopes), "origins": None if got.origins is None else sorted(got.origins),
                "status": got.status, "created_at": got.created_at, "expires_at": got.expires_at,
                "lineage": got.lineage, "successor": got.successor,
            } == want  # fmt: skip
        backend = security._shared.blocking_side.backend
        assert backend is not None
        assert len(run(backend.find(KEY_USES, ()))) == 2
        names = [event.name for event in run(backend.find(OUTBOX, ()))]
        assert sorted(set(names)) == ["key.created", "key.disabled", "key.revoked", "key.rotated"]


def test_every_key_is_what_it_was(exhibit: Path, tmp_path: Path) -> None:
    for turn in range(2):  # the second with the rows under the newer root
        security, known = opened(exhibit, tmp_path)
        with security.blocking as blocking:
            for item in known["keys"]:
                served = {"live", "test"}
                if item["lives"]:
                    principal = blocking.keys.authenticate(item["key"], environments=served)  # type: ignore[arg-type]
                    assert (principal.key_id, principal.org) == (item["id"], item["record"]["org"])
                else:
                    with pytest.raises(InvalidKey):
                        blocking.keys.authenticate(item["key"], environments=served)  # type: ignore[arg-type]
            new, old = blocking.secret_use()
            assert [new.secret_id, old.secret_id] == [text.split("_")[1] for text in known["secrets"]]
            assert (new.records, old.records) == ({"keys": 7}, {"keys": 2}), turn


def test_every_change_goes_on(exhibit: Path, tmp_path: Path) -> None:
    security, known = opened(exhibit, tmp_path)
    with security.blocking as blocking:
        for item in known["keys"]:
            org = item["record"]["org"]
            if item["record"]["status"] == "active":
                successor = blocking.keys.rotate(item["id"], org=org)
                assert blocking.keys.get(successor.record.id, org=org).lineage == item["record"]["lineage"]
            assert blocking.keys.revoke(item["id"], org=org).status == "revoked"
        assert [use.records.get("keys", 0) for use in blocking.secret_use()] == [6, 0]


def test_a_root_from_before_the_table_of_roots_is_missed(exhibit: Path, tmp_path: Path) -> None:
    _, known = opened(exhibit, tmp_path)
    new, old = known["secrets"]
    alone = Bartizan(f"sqlite:///{tmp_path}/store.db", environment="live", secrets=[new])
    with pytest.raises(ValueError, match=old.split("_")[1]):
        alone.blocking.ready()
    alone._shared.close()


# --- the keys ---


def shown(record: KeyRecord) -> dict[str, Any]:
    return {
        "org": record.org, "kind": record.kind, "environment": record.environment, "name": record.name,
        "scopes": sorted(record.scopes), "origins": None if record.origins is None else sorted(record.origins),
        "networks": None if record.networks is None else sorted(record.networks), "native": record.native,
        "status": record.status, "created_at": record.created_at, "expires_at": record.expires_at,
        "lineage": record.lineage, "successor": record.successor,
    }  # fmt: skip


@pytest.mark.parametrize("exhibit", KEYS, ids=lambda path: f"{path.parent.name}")
def test_every_key_says_what_it_said(exhibit: Path, tmp_path: Path) -> None:
    security, known = opened(exhibit, tmp_path)
    assert {item["record"]["status"] for item in known["keys"]} == {"active", "rotating", "revoked", "inactive"}
    with security.blocking as blocking:
        for item in known["keys"]:
            assert shown(blocking.keys.get(item["id"], org=item["record"]["org"])) == item["record"]
            ask = partial(blocking.keys.authenticate, item["key"], environments={"live", "test"})
            if item["lives"]:
                principal = ask(address=item["address"])
                assert (principal.key_id, principal.org) == (item["id"], item["record"]["org"])
                assert sorted(principal.scopes) == item["record"]["scopes"]
            else:
                with pytest.raises(InvalidKey):
                    ask(address=item["address"])
            if item["lives"] and item["record"]["networks"]:
                with pytest.raises(Forbidden):
                    ask(address="192.0.2.1")
        assert {use.secret_id: use.records.get("keys", 0) for use in blocking.secret_use()} == {
            root.split("_")[1]: count for root, count in zip(known["secrets"], (7, 0), strict=True)
        }  # each that is used goes over, and what is revoked needs no root


@pytest.mark.parametrize("exhibit", KEYS, ids=lambda path: f"{path.parent.name}")
def test_every_key_goes_on(exhibit: Path, tmp_path: Path) -> None:
    security, known = opened(exhibit, tmp_path)
    with security.blocking as blocking:
        for item in known["keys"]:
            record = item["record"]
            if record["status"] == "active":
                successor = blocking.keys.rotate(item["id"], org=record["org"]).record
                said = shown(successor)
                same = ("origins", "networks", "native", "scopes", "name", "environment", "lineage")
                assert {name: said[name] for name in same} == {name: record[name] for name in same}
            assert blocking.keys.revoke(item["id"], org=record["org"]).status == "revoked"


@pytest.mark.parametrize("exhibit", KEYS, ids=lambda path: f"{path.parent.name}")
def test_an_edited_row_of_before_is_no_key(exhibit: Path, tmp_path: Path) -> None:
    _, known = opened(exhibit, tmp_path)
    with closing(sqlite3.connect(tmp_path / "store.db")) as table, table:
        table.execute("UPDATE bartizan_keys SET networks = NULL, scopes = '[\"admin\"]'")
    security, _ = opened(exhibit, tmp_path)
    with security.blocking as blocking:
        for item in known["keys"]:
            with pytest.raises(InvalidKey):
                blocking.keys.authenticate(item["key"], environments={"live", "test"}, address=item["address"])


@pytest.mark.parametrize("exhibit", KEYS, ids=lambda path: f"{path.parent.name}")
def test_every_row_of_a_table_of_ones_own_is_what_it_was(exhibit: Path) -> None:
    known = json.loads(exhibit.read_text(encoding="utf-8"))
    form = KeyFormat(known["secrets"], environment="live", key_prefix="acme")
    assert {item["lives"] for item in known["rows"]} == {True, False}
    for item in known["rows"]:
        told = {name: value for name, value in item["row"].items() if name not in {"mac", "row_mac"}}
        macs: dict[str, Any] = {
            name: item["row"][name] and bytes.fromhex(item["row"][name]) for name in ("mac", "row_mac")
        }
        row = KeyRow(**told, **macs)
        assert form.parse(item["key"]).id == row.id
        if item["lives"]:
            assert form.verify(item["key"], row, now=known["now"]).org == row.org
            assert form.record(form.succeed(row, now=known["now"])[1], now=known["now"]).lineage == row.lineage
        else:
            with pytest.raises(InvalidKey):
                form.verify(item["key"], row, now=known["now"])
        with pytest.raises(InvalidKey):
            form.verify(item["key"], replace(row, org="org_9"), now=known["now"])


def test_sessions_of_before_go_on(tmp_path: Path) -> None:
    """Begun before sessions were bound to anything: one that is stored, and a guest's that only its token tells of."""
    exhibit = MUSEUM / "0.1.0" / "sessions.json"
    known = json.loads(exhibit.read_text(encoding="utf-8"))
    shutil.copyfile(exhibit.with_suffix(".sqlite"), tmp_path / "store.db")
    security = Bartizan(
        f"sqlite:///{tmp_path}/store.db", environment="live", secrets=known["secrets"], issuer="shop",
        audience="shop-api", clock=lambda: known["now"] + 20,
    )  # fmt: skip
    with security.blocking as blocking:
        assert [item["guest"] for item in known["sessions"]] == [False, True]
        for item in known["sessions"]:
            before = blocking.sessions.authenticate(item["access"])
            pair = blocking.sessions.refresh(item["refresh"], device="a browser")
            assert (pair.session.id, pair.session.guest, pair.token_type) == (item["id"], item["guest"], "Bearer")
            after = blocking.sessions.authenticate(pair.access_token)
            assert (after.subject, after.scopes, after.factors) == (before.subject, before.scopes, before.factors)
            assert blocking.sessions.list(org="org_1", subject=item["subject"])[0].id == item["id"]
