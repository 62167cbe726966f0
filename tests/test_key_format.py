import pickle
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, astuple, fields, replace
from hmac import compare_digest
from typing import Any

import pytest

from bartizan.core.encoding import checksum
from bartizan.core.ring import Begun, SecretRing, new_root
from bartizan.credentials import key_rows
from bartizan.credentials.key_format import KeyFormat, origin_allowed
from bartizan.credentials.key_rows import KeyRow, intact
from bartizan.credentials.key_text import Kind
from bartizan.errors import InvalidKey, Misuse, Reason, Unavailable

NOW = 1_800_000_000
ROOT = new_root()
form = KeyFormat([ROOT], environment="live")
ring = SecretRing([ROOT])


def refused(text: str, row: KeyRow | None, now: int = NOW, by: KeyFormat = form) -> Reason:
    with pytest.raises(InvalidKey) as caught:
        by.verify(text, row, now=now)
    assert str(caught.value) == "The API key is not valid."
    assert caught.value.__cause__ is None
    return caught.value.reason


def test_issue_and_verify() -> None:
    issued, row = form.issue(org="org_1", kind="secret", scopes={"orders:read"}, name="shop", now=NOW)

    principal = form.verify(issued.key, row, now=NOW)

    assert principal.kind == "secret"
    assert (principal.org, principal.environment, principal.key_id) == ("org_1", "live", row.id)
    assert principal.may("orders:read")
    assert not principal.may("orders")
    assert issued.record.status == "active"
    assert issued.key not in repr(issued)
    assert issued.key[25:] not in repr(row)
    with pytest.raises(Misuse):
        pickle.dumps(issued)


def test_publishable_keys_have_no_secret() -> None:
    issued, row = form.issue(org="org_1", kind="publishable", now=NOW)
    assert row.mac is None
    assert form.verify(issued.key, row, now=NOW).kind == "publishable"


def test_rows_rest_in_a_table_of_the_services_own() -> None:
    issued, row = form.issue(org="org_1", kind="secret", expires_at=NOW + 60, now=NOW)
    names = [f.name for f in fields(KeyRow)]
    with sqlite3.connect(":memory:") as db:
        db.execute(f"CREATE TABLE api_keys ({', '.join(names)})")
        db.execute(f"INSERT INTO api_keys VALUES ({', '.join('?' * len(names))})", astuple(row))
        found = db.execute("SELECT * FROM api_keys WHERE id = ?", (form.parse(issued.key).id,)).fetchone()
    db.close()
    assert form.verify(issued.key, KeyRow(**dict(zip(names, found, strict=True))), now=NOW).key_id == row.id


def test_k3_row_edited_in_any_column() -> None:
    issued, row = form.issue(org="org_1", kind="secret", scopes={"a:b"}, expires_at=NOW + 60, now=NOW)
    for name, value in asdict(row).items():
        other = {str: "org_2", int: NOW + 600, type(None): NOW, bytes: bytes(32)}[type(value)]
        if name == "pepper":
            continue
        for edit in (other, b"bytes", 1.5, "text"):
            change: dict[str, Any] = {name: edit}
            edited = replace(row, **change)
            assert refused(issued.key, edited) is Reason.KEY_ROW_EDITED, name
            assert not intact(ring, edited)


@pytest.mark.parametrize(
    ("name", "value"),
    [("row_scopes_edited", {"scopes": '["admin:all"]'}), ("row_expiry_edited", {"expires_at": None}),
     ("pk_origins_edited", {"origins": None})],
)  # fmt: skip
def test_row_edits_by_name(name: str, value: dict[str, Any]) -> None:
    kind: Kind = "publishable" if name == "pk_origins_edited" else "secret"
    origins = ["https://shop.example"] if kind == "publishable" else None
    issued, row = form.issue(org="o", kind=kind, scopes={"a:b"}, expires_at=NOW + 9, origins=origins, now=NOW)
    assert refused(issued.key, replace(row, **value)) is Reason.KEY_ROW_EDITED


def test_k3_row_transplanted_to_another_organization() -> None:
    mine, my_row = form.issue(org="org_1", kind="secret", now=NOW)
    _, victim = form.issue(org="org_2", kind="secret", now=NOW)
    transplanted = replace(victim, mac=my_row.mac, pepper=my_row.pepper)
    assert refused(mine.key, transplanted) is Reason.KEY_ROW_EDITED
    assert refused(mine.key, replace(my_row, org="org_2")) is Reason.KEY_ROW_EDITED
    assert refused(mine.key, victim) is Reason.WRONG_SECRET


def test_k2_swapped_kind_environment_and_id_with_a_right_checksum() -> None:
    issued, row = form.issue(org="org_1", kind="secret", now=NOW)
    other, other_row = form.issue(org="org_1", kind="secret", now=NOW)

    def remade(body: str) -> str:
        return body + checksum(body)

    test_mode = remade(issued.key[:-6].replace("_live_", "_test_"))
    other_id = remade(issued.key[:8] + other_row.id + issued.key[24:-6])
    as_publishable = remade("pk" + issued.key[2:25])
    assert refused(test_mode, row) is Reason.WRONG_SECRET
    assert refused(other_id, other_row) is Reason.WRONG_SECRET
    assert refused(as_publishable, row) is Reason.WRONG_SECRET
    assert refused(other.key, row) is Reason.WRONG_SECRET
    published, published_row = form.issue(org="org_1", kind="publishable", now=NOW)
    sibling, _ = form.issue(org="org_1", kind="publishable", now=NOW)
    assert refused(sibling.key, published_row) is Reason.WRONG_SECRET
    secret_of_it = remade("sk" + published.key[2:25] + issued.key[25:68])
    assert refused(secret_of_it, published_row) is Reason.WRONG_SECRET


def test_k4_one_shape_for_every_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, int] = {}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return function(*args)

        return call

    issued, row = form.issue(org="org_1", kind="secret", now=NOW)
    wrong, _ = form.issue(org="org_1", kind="secret", now=NOW)
    key = checksum_fixed(wrong.key[:8] + row.id + wrong.key[24:-6])
    cases = {
        "unknown": (issued.key, None),
        "wrong": (key, row),
        "revoked": (issued.key, key_rows.sealed(ring, row, revoked_at=NOW)),
        "disabled": (issued.key, key_rows.sealed(ring, row, disabled_at=NOW)),
        "expired": (issued.key, key_rows.sealed(ring, row, expires_at=NOW)),
        "edited": (issued.key, replace(row, scopes='["x"]')),
    }
    monkeypatch.setattr(Begun, "finish", counted("mac", Begun.finish))
    monkeypatch.setattr(key_rows, "compare_digest", counted("compare", compare_digest))
    seen = {}
    for name, (text, found) in cases.items():
        counts.clear()
        refused(text, found)
        seen[name] = dict(counts)
    assert len({tuple(sorted(c.items())) for c in seen.values()}) == 1, seen
    assert seen["unknown"] == {"mac": 2, "compare": 2}


def checksum_fixed(body: str) -> str:
    return body + checksum(body)


def test_k6_keys_equal_in_72_bytes_differ() -> None:
    issued, row = form.issue(org="org_1", kind="secret", now=NOW)
    for last in "0A":
        body = issued.key[:67] + last
        if body != issued.key[:-6]:
            assert refused(body + checksum(body), row) is Reason.WRONG_SECRET


def test_expiry_is_exactly_at_its_second() -> None:
    issued, row = form.issue(org="org_1", kind="secret", expires_at=NOW + 10, now=NOW)
    assert form.verify(issued.key, row, now=NOW + 9).expires_at == NOW + 10
    assert refused(issued.key, row, NOW + 10) is Reason.KEY_EXPIRED


def test_old_sealed_row_restored_is_only_told_by_its_version() -> None:
    # A whole older row is one that we wrote: the row alone cannot tell. Its version is what an audit compares.
    issued, row = form.issue(org="org_1", kind="secret", now=NOW)
    revoked = key_rows.sealed(ring, row, revoked_at=NOW)
    assert refused(issued.key, revoked) is Reason.KEY_REVOKED
    assert intact(ring, row)
    assert revoked.version == row.version + 1
    assert refused(issued.key, replace(revoked, revoked_at=None, version=row.version)) is Reason.KEY_ROW_EDITED


def test_lost_pepper_is_unavailable_and_an_older_one_verifies() -> None:
    issued, row = form.issue(org="org_1", kind="secret", now=NOW)
    rotated = KeyFormat([new_root(), ROOT], environment="live")
    assert rotated.verify(issued.key, row, now=NOW).org == "org_1"
    with pytest.raises(Unavailable) as caught:
        KeyFormat([new_root()], environment="live").verify(issued.key, row, now=NOW)
    assert caught.value.reason is Reason.SECRET_MISSING


def test_another_environment_is_told_after_verification() -> None:
    issued, row = KeyFormat([ROOT], environment="test").issue(org="org_1", kind="secret", now=NOW)
    assert refused(issued.key, row) is Reason.WRONG_ENVIRONMENT
    assert refused(issued.key, None) is Reason.UNKNOWN_KEY


def test_what_issue_refuses() -> None:
    good: dict[str, Any] = {"org": "org_1", "kind": "secret", "now": NOW}
    wrongs: tuple[dict[str, Any], ...] = (
        {"org": ""}, {"org": "x" * 129}, {"org": "a\nb"}, {"org": 7}, {"kind": "admin"}, {"scopes": "orders:read"},
        {"scopes": ["a b"]}, {"scopes": [""]}, {"scopes": ['a"']}, {"scopes": ["é"]}, {"scopes": [7]}, {"name": "\n"},
        {"name": "x" * 201}, {"expires_at": NOW}, {"expires_at": 1.5}, {"expires_at": True}, {"now": -1},
        {"origins": ["https://a.example"]}, {"environment": "prod"},
    )  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(Misuse):
            form.issue(**{**good, **wrong})
    with pytest.raises(Misuse):
        KeyFormat([ROOT], environment="prod")  # type: ignore[arg-type]


def test_k11_origins_as_they_are_declared() -> None:
    good: dict[str, Any] = {"org": "org_1", "kind": "publishable", "now": NOW}
    form.issue(**good, origins=["https://shop.example", "https://shop.example:8443", "https://*.shop.example"])
    form.issue(**good, origins=["https://localhost:3000", "https://127.0.0.1"])
    for origin in (
        "http://shop.example", "shop.example", "https://shop.example/", "https://shop.example/x", "https://Shop.example",
        "https://user@shop.example", "https://*", "https://*.com", "https://a.*.example", "https://shop.example:443",
        "https://shop.example:", "https://shop..example", "https://-a.example", "https://bücher.example", "null", "",
        "https://shop.example#", "https://shop.example\n", "https://*.shop.example:8443", "https://.example",
    ):  # fmt: skip
        with pytest.raises(Misuse):
            form.issue(**good, origins=[origin])
    empty: list[str] = []
    for origins in (empty, "https://shop.example"):
        with pytest.raises(Misuse):
            form.issue(**good, origins=origins)


def test_k11_origins_as_they_are_compared() -> None:
    allowed = frozenset({"https://a.com", "https://b.com:8443", "https://*.c.com"})
    for origin in ("https://a.com", "https://b.com:8443", "https://x.c.com", "https://x.y.c.com"):
        assert origin_allowed(allowed, origin)
    for origin in (
        "https://a.com.evil.com", "https://evil-a.com", "https://xa.com", "null", "https://a.com:444", "http://a.com",
        "https://b.com", "https://c.com", "https://evilc.com", "https://x.c.com.evil.com", "https://x.c.com:8443",
        "https://*.c.com", "https://u@x.c.com", "https://evil.com/.c.com", "https://evil.com#.c.com", "https://X.c.com",
        "https://x.с.com", "https://.c.com", "https://x.c.com.", "HTTPS://a.com", "https://a.com/", "", "https://",
    ):  # fmt: skip
        assert not origin_allowed(allowed, origin), origin
