"""Leaked keys: a secret key that a web page sends, and a report that somebody found one."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from servers import Answer, ask, serving

from bartizan import Rule, allow
from bartizan.asgi import GateMiddleware
from bartizan.core import request as core_request
from bartizan.core.drive import run
from bartizan.core.encoding import checksum
from bartizan.core.request import Request
from bartizan.core.ring import Begun
from bartizan.core.tables import ANYTHING, Update
from bartizan.credentials.key_rows import KEYS
from bartizan.errors import Misuse
from bartizan.gate import presented
from bartizan.testing.kit import Kit, acting_as, headers_of
from bartizan.types import IssuedKey

RULES = [
    Rule("GET /secret", allow.secret_key()),
    Rule("GET /page", allow.publishable_key()),
    Rule("GET /both", allow.publishable_key() & allow.secret_key()),
    Rule("GET /open", allow.public()),
]
PAGE = [
    [("Origin", "https://shop.example")], [("Origin", "null")], [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-origin")], [("Sec-Fetch-Site", "none")],
    [("Origin", "https://shop.example"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "cors")],
]  # fmt: skip


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


class Place(NamedTuple):
    kit: Kit
    port: int

    def ask(self, target: str, *headers: tuple[str, str], key: IssuedKey | None = None) -> Answer:
        presented = [] if key is None else headers_of(key).items()
        return ask(self.port, target, *presented, *headers)


@pytest.fixture(params=["h11", "httptools"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    kit = Kit()
    with serving(GateMiddleware(app, kit.security.gate(RULES)), request.param) as port:
        yield Place(kit, port)


def told(kit: Kit, before: int = 0) -> list[tuple[str, str | None, str | None, str | None]]:
    return [(e.name, e.org, e.target, e.reason) for e in kit.events[before:]]


@pytest.mark.parametrize("headers", PAGE)
def test_k10_secret_key_in_a_browser(place: Place, headers: list[tuple[str, str]]) -> None:
    key = place.kit.key(org="org_1")
    name = f"sk_test_{key.record.id}"
    before = len(place.kit.events)
    for target in ("/secret", "/page"):
        answer = place.ask(target, *headers, key=key)
        assert (answer.status, json.loads(answer.body)["code"]) == (403, "wrong_credential")
    assert told(place.kit, before) == [
        ("key.in_browser", "org_1", name, "key_in_browser"),
        ("request.refused", None, "GET /secret", "key_in_browser"),
        ("key.in_browser", "org_1", name, "key_in_browser"),
        ("request.refused", None, "GET /page", "key_in_browser"),
    ]
    assert place.ask("/secret", key=key).status == 200  # reported, not revoked


def test_k10_secret_key_in_the_other_slot(place: Place) -> None:
    key = place.kit.key(org="org_1")
    assert place.ask("/page", ("X-Publishable-Key", key.key), ("Origin", "https://shop.example")).status == 403
    assert [e.name for e in place.kit.events][-2:] == ["key.in_browser", "request.refused"]


def test_k10_publishable_key_on_a_secret_route(place: Place) -> None:
    key = place.kit.key(org="org_1", kind="publishable")
    answer = place.ask("/secret", ("Origin", "https://shop.example"), key=key)
    assert (answer.status, json.loads(answer.body)["code"]) == (403, "wrong_credential")
    assert (
        place.ask("/page", ("Origin", "https://shop.example"), ("Sec-Fetch-Site", "cross-site"), key=key).status == 200
    )
    assert "key.in_browser" not in [e.name for e in place.kit.events]


def test_browser_guard_after_mac(place: Place) -> None:
    """Ids are public: nobody but a holder of the secret can have a leak reported."""
    key = place.kit.key(org="org_1")
    ended = place.kit.key(org="org_1")
    place.kit.security.blocking.keys.revoke(ended.record.id, org="org_1")
    forged = key.key[:25] + "0" * 43
    forged += checksum(forged)
    before = len(place.kit.events)
    for text in (forged, key.key[:-1], ended.key):
        answer = place.ask("/secret", ("Authorization", f"Bearer {text}"), ("Origin", "https://shop.example"))
        assert answer.status == 401
    assert {name for name, *_ in told(place.kit, before)} == {"request.refused"}
    assert place.ask("/open", ("Origin", "https://shop.example"), key=key).status == 200  # nothing is parsed there
    assert place.ask("/secret", key=key).status == 200


def test_node_fetch_is_not_a_browser(place: Place) -> None:
    """Node's own `fetch` sends what undici puts there, on servers (nodejs/undici#1305)."""
    key = place.kit.key(org="org_1")
    node = [("Accept", "*/*"), ("Accept-Language", "*"), ("Sec-Fetch-Mode", "cors"), ("User-Agent", "node")]
    assert place.ask("/secret", *node, key=key).status == 200


def test_browser_leak_revoke() -> None:
    kit = Kit(browser_leak="revoke")
    key = kit.key(org="org_1")
    with serving(GateMiddleware(app, kit.security.gate(RULES))) as port:
        place = Place(kit, port)
        assert place.ask("/secret", key=key).status == 200
        assert [place.ask("/secret", ("Origin", "null"), key=key).status for _ in range(2)] == [403, 401]
        assert place.ask("/secret", key=key).status == 401
    assert kit.security.blocking.keys.get(key.record.id, org="org_1").status == "revoked"
    revoked = [e for e in kit.events if e.name == "key.revoked"]
    assert [(e.org, e.reason) for e in revoked] == [("org_1", "key_in_browser")]


def test_browser_leak_is_one_of_two() -> None:
    with pytest.raises(Misuse, match="browser_leak"):
        Kit(browser_leak="ignore")


def test_the_scan_of_the_gate_is_where_the_request_looks() -> None:
    places = core_request.AUTHORIZATION, core_request.ORIGIN, core_request.SEC_FETCH_SITE, core_request.DPOP
    assert [presented._NAMES[at] for at in places] == [b"authorization", b"origin", b"sec-fetch-site", b"dpop"]
    for headers, outcome in (
        ([(b"origin", b"null")], True), ([(b"sec-fetch-site", b"none")], True), ([(b"sec-fetch-mode", b"cors")], False),
    ):  # fmt: skip
        request = Request("GET", "/", headers, None, "https")
        assert request.from_browser() is outcome
        request.slots = presented.scan(headers)
        assert request.from_browser() is outcome


# what somebody found


def test_leak_report_revokes() -> None:
    kit = Kit()
    keys = kit.security.blocking.keys
    key = kit.key(org="org_1")
    record = keys.report_leak(key.key)
    assert record is not None
    assert (record.id, record.org, record.status) == (key.record.id, "org_1", "revoked")
    assert keys.get(key.record.id, org="org_1").status == "revoked"
    before = len(kit.events)
    assert keys.report_leak(key.key) == record  # again: the same answer, and no second event
    assert kit.events[before:] == []
    assert told(kit)[-1] == ("key.revoked", "org_1", f"sk_test_{key.record.id}", "key_leaked")


def test_forged_leak_report_does_not_revoke() -> None:
    """`sk_…_<id>` is public by design, and the checksum has no key: the secret alone speaks."""
    kit = Kit()
    keys = kit.security.blocking.keys
    key = kit.key(org="org_1")
    forged = key.key[:25] + "0" * 43
    stranger = "sk_test_" + "0" * 16 + "_" + "0" * 43
    before = len(kit.events)
    assert keys.report_leak(forged + checksum(forged)) is None
    assert keys.report_leak(stranger + checksum(stranger)) is None
    assert told(kit, before) == [
        ("key.leak_unmatched", None, f"sk_test_{key.record.id}", "wrong_secret"),
        ("key.leak_unmatched", None, "sk_test_" + "0" * 16, "unknown_key"),
    ]
    before = len(kit.events)
    for text in ("", "x", key.key[:-1], key.key + " ", key.key * 1000, "\ud800" * 74, f"sk_test_{key.record.id}"):
        assert keys.report_leak(text) is None
    assert kit.events[before:] == []
    assert keys.authenticate(key.key).key_id == key.record.id


def test_forged_leak_report_costs_what_an_unknown_one_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit()
    key = kit.key(org="org_1")
    forged = key.key[:25] + "0" * 43
    stranger = "sk_test_" + "0" * 16 + "_" + "0" * 43
    counts: list[int] = []
    finish = Begun.finish
    for body in (forged, stranger):
        calls: list[bytes] = []

        def counted(self: Begun, rest: bytes, calls: list[bytes] = calls) -> bytes:
            calls.append(rest)
            return finish(self, rest)

        monkeypatch.setattr(Begun, "finish", counted)
        assert kit.security.blocking.keys.report_leak(body + checksum(body)) is None
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


def test_publishable_keys_do_not_leak() -> None:
    kit = Kit()
    key = kit.key(org="org_1", kind="publishable")
    before = len(kit.events)
    assert kit.security.blocking.keys.report_leak(key.key) is None
    assert kit.events[before:] == []
    assert kit.security.blocking.keys.authenticate(key.key).key_id == key.record.id


def test_leak_report_of_whatever_once_was_a_key() -> None:
    kit = Kit()
    keys = kit.security.blocking.keys
    rotated, disabled, expired = kit.key(org="o"), kit.key(org="o"), kit.key(org="o", expires_at=kit.clock() + 1)
    new = keys.rotate(rotated.record.id, org="o")
    keys.disable(disabled.record.id, org="o")
    kit.clock.advance(1)
    for key in (rotated, disabled, expired):
        record = keys.report_leak(key.key)
        assert record is not None
        assert record.status == "revoked"
    assert keys.authenticate(new.key).key_id == new.record.id  # another secret, which nobody found


def test_leak_report_on_an_edited_row_does_nothing() -> None:
    kit = Kit()
    key = kit.key(org="o")
    backend = kit.security._shared.blocking_side.backend
    assert backend is not None
    run(backend.change(Update(KEYS, key.record.id, where=ANYTHING, set=(("org", "org_2"),))))
    assert kit.security.blocking.keys.report_leak(key.key) is None
    assert told(kit)[-1][3] == "key_row_edited"


def test_leak_report_asks_for_no_organization() -> None:
    kit = Kit()
    keys = kit.security.blocking.keys
    mine, other = kit.key(org="org_1"), kit.key(org="org_2")
    with acting_as(keys.authenticate(mine.key)):
        record = keys.report_leak(other.key)
    assert record is not None
    assert record.org == "org_2"
    revoked = [e for e in kit.events if e.name == "key.revoked"]
    assert [e.actor for e in revoked] == [f"sk_test_{mine.record.id}"]
