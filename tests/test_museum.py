"""What earlier versions wrote is read by this one: every exhibit below `museum/`, with the secrets it was made with.

The secrets and keys there are for these tests alone, and were never anybody's.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bartizan import Bartizan
from bartizan.core.drive import run
from bartizan.core.events import OUTBOX
from bartizan.credentials.key_uses import KEY_USES
from bartizan.errors import InvalidKey

MUSEUM = Path(__file__).parent / "museum"
EXHIBITS = sorted(MUSEUM.glob("*/*.json"))


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
    return Bartizan(f"sqlite:///{store}", environment="live", secrets=known["secrets"], clock=lambda: now), known


def test_there_are_exhibits() -> None:
    assert [f"{path.parent.name}/{path.stem}" for path in EXHIBITS] == ["0.1.0/house"]


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
