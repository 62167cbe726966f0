"""Keys that are good in some networks only, and for what is no browser: K12, through both adapters."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from servers import Answer, ask, serving, wsgi_serving

from bartizan import KeyFormat, Misuse, Rule, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.client import MOST_NETWORKS, Networks, checked_networks
from bartizan.core.drive import run
from bartizan.core.ring import new_root
from bartizan.core.tables import ANYTHING, Update
from bartizan.credentials.key_rows import KEYS
from bartizan.errors import Conflict, Forbidden, InvalidKey, Reason, Unavailable
from bartizan.testing.kit import Kit, headers_of
from bartizan.types import IssuedKey
from bartizan.wsgi import GateMiddleware as WsgiMiddleware

RULES = [Rule("GET /secret", allow.secret_key()), Rule("GET /page", allow.publishable_key())]
NOW = 1_800_000_000


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "0"), ("Content-Type", "text/plain")])
    return [b""]


class Place(NamedTuple):
    kit: Kit
    port: int

    def ask(self, key: IssuedKey, client: str, target: str = "/secret") -> Answer:
        return ask(self.port, target, *headers_of(key).items(), ("X-Forwarded-For", client))

    def from_there(self, networks: list[str], client: str) -> int:
        return self.ask(self.kit.key(org="org_1", networks=networks), client).status


@pytest.fixture(scope="module", params=["h11", "httptools", "wsgi"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Behind one proxy, for which the test speaks."""
    kit = Kit(proxy_hops=1)
    gate = kit.security.gate(RULES)
    if request.param == "wsgi":
        with wsgi_serving(WsgiMiddleware(wsgi_app, gate)) as port:
            yield Place(kit, port)
    else:
        with serving(GateMiddleware(app, gate), request.param, proxy_headers=False) as port:
            yield Place(kit, port)


K12 = {
    "in a network": (["203.0.113.0/24"], "203.0.113.255", 200),
    "just below it": (["203.0.113.0/24"], "203.0.112.255", 403),
    "just above it": (["203.0.113.0/24"], "203.0.114.0", 403),
    "one address": (["203.0.113.7"], "203.0.113.7", 200),
    "beside one address": (["203.0.113.7"], "203.0.113.8", 403),
    "the second of two": (["198.51.100.0/24", "203.0.113.0/24"], "203.0.113.1", 200),
    "overlapping": (["10.0.0.0/8", "10.1.0.0/16"], "10.2.0.1", 200),
    "ipv6": (["2001:db8:7::/48"], "2001:db8:7:1::9", 200),
    "ipv6 written long": (["2001:db8:7::/48"], "2001:0DB8:0007:0001:0000:0000:0000:0009", 200),
    "another ipv6": (["2001:db8:7::/48"], "2001:db8:8::1", 403),
    "mapped client": (["203.0.113.0/24"], "::ffff:203.0.113.9", 200),
    "mapped client in hexadecimal": (["203.0.113.0/24"], "::ffff:cb00:7109", 200),
    "mapped client from elsewhere": (["203.0.113.0/24"], "::ffff:198.51.100.9", 403),
    "mapped network": (["::ffff:203.0.113.0/120"], "203.0.113.9", 200),
    "nat64 client": (["203.0.113.0/24"], "64:ff9b::203.0.113.9", 200),
    "nat64 network": (["64:ff9b::203.0.113.0/120"], "203.0.113.9", 200),
    "nat64 of a network's own is no ipv4": (["203.0.113.0/24"], "64:ff9b:1::cb00:7109", 403),
    "ipv4-compatible is no ipv4": (["203.0.113.0/24"], "::203.0.113.9", 403),
    "6to4 is no ipv4": (["203.0.113.0/24"], "2002:cb00:7109::1", 403),
    "isatap is no ipv4": (["203.0.113.0/24"], "2001:db8::5efe:203.0.113.9", 403),
    "with a port": (["203.0.113.0/24"], "203.0.113.9:4711", 200),
    "ipv6 with a port": (["2001:db8:7::/48"], "[2001:db8:7::9]:4711", 200),
    "octal": (["10.0.0.0/8"], "012.0.0.1", 403),
    "octal that would be another": (["8.0.0.0/8"], "010.0.0.1", 403),
    "hexadecimal": (["10.0.0.0/8"], "0x0a.0.0.1", 403),
    "one number": (["10.0.0.0/8"], "167772161", 403),
    "three parts": (["10.0.0.0/8"], "10.0.1", 403),
    "full-width digits": (["10.0.0.0/8"], "\xb9\xb0.0.0.1", 403),
    "zone": (["fe80::/10"], "fe80::1%eth0", 403),
    "a name": (["10.0.0.0/8"], "localhost", 403),
    "unknown": (["10.0.0.0/8"], "unknown", 403),
    "nothing": (["10.0.0.0/8"], "", 403),
    "a network": (["10.0.0.0/8"], "10.0.0.0/8", 403),
    "what the client wrote before": (["10.0.0.0/8"], "10.0.0.1, 203.0.113.9", 403),
    "a long text": (["10.0.0.0/8"], "1" * 60_000, 403),
}  # fmt: skip


@pytest.mark.parametrize("case", K12)
def test_k12_networks(place: Place, case: str) -> None:
    networks, client, status = K12[case]
    assert place.from_there(networks, client) == status


def test_k12_refusals_say_why_to_us_alone(place: Place) -> None:
    key = place.kit.key(org="org_1", networks=["203.0.113.0/24"])
    for client, reason in (("198.51.100.1", "network_not_allowed"), ("nobody", "address_unknown")):
        answer = place.ask(key, client)
        assert (answer.status, json.loads(answer.body)["code"]) == (403, "forbidden")
        assert reason.encode() not in answer.body
        assert "203.0.113" not in answer.body.decode()
        event = place.kit.events[-1]
        assert (event.name, event.reason, json.loads(event.data)) == (
            "request.refused", reason, {"credential": f"sk_test_{key.record.id}"},
        )  # fmt: skip
    assert place.ask(key, "203.0.113.1").status == 200


def test_k12_a_wrong_key_hears_nothing_of_networks(place: Place) -> None:
    key = place.kit.key(org="org_1", networks=["203.0.113.0/24"])
    place.kit.security.blocking.keys.revoke(key.record.id, org="org_1")
    assert place.ask(key, "198.51.100.1").status == 401
    assert place.kit.events[-1].reason == "key_revoked"


def test_k12_both_kinds(place: Place) -> None:
    key = place.kit.key(org="org_1", kind="publishable", networks=["203.0.113.0/24"])
    assert place.ask(key, "203.0.113.1", "/page").status == 200
    assert place.ask(key, "198.51.100.1", "/page").status == 403


def test_k12_a_successor_keeps_its_networks(place: Place) -> None:
    key = place.kit.key(org="org_1", networks=["203.0.113.0/24"])
    new = place.kit.security.blocking.keys.rotate(key.record.id, org="org_1")
    assert new.record.networks == frozenset({"203.0.113.0/24"})
    assert place.ask(new, "198.51.100.1").status == 403
    assert place.ask(new, "203.0.113.1").status == 200


@pytest.mark.parametrize("peer", [("::ffff:127.0.0.1", 5), ("fe80::1%eth0", 5), ("127.0.0.1", 5)])
def test_k12_without_a_proxy_the_peer_counts(peer: tuple[str, int]) -> None:
    kit = Kit()
    gated = GateMiddleware(app, kit.security.gate(RULES))

    async def dual_stack(scope: Any, receive: Any, send: Any) -> None:
        await gated({**scope, "client": peer}, receive, send)

    inside = kit.key(org="org_1", networks=["127.0.0.0/8", "fe80::/10"])
    outside = kit.key(org="org_1", networks=["203.0.113.0/24"])
    with serving(dual_stack, proxy_headers=False) as port:
        assert Place(kit, port).ask(inside, "203.0.113.1").status == 200
        assert Place(kit, port).ask(outside, "203.0.113.1").status == 403


@pytest.mark.parametrize("peer", [None, ("", 0), ("/run/app.sock", 0), ("testclient", 50_000), ("127.0.0.1", 0)])
def test_k12_a_peer_without_an_address_is_nowhere(peer: tuple[str, int] | None) -> None:
    kit = Kit()
    gated = GateMiddleware(app, kit.security.gate(RULES))

    async def unix(scope: Any, receive: Any, send: Any) -> None:
        await gated({**scope, "client": peer}, receive, send)

    key = kit.key(org="org_1", networks=["127.0.0.0/8"])
    with serving(unix, proxy_headers=False) as port:
        assert Place(kit, port).ask(key, "127.0.0.1").status == 403
        assert kit.events[-1].reason == "address_unknown"


@pytest.mark.parametrize(
    "networks",
    [[], "10.0.0.0/8", ["0.0.0.0/0"], ["::/0"], ["10.0.0.1/8"], ["010.0.0.0/8"], ["10.0.0.0/33"], ["10.0.0"], [""],
     ["fe80::1%eth0"], ["::ffff:0:0/96"], ["64:ff9b::/95"], ["::/8"], ["localhost"], ["10.0.0.0/8 "], [167772160],
     [b"\x0a\x00\x00\x00"], ["10.0.0.0/8"] * (MOST_NETWORKS + 1)],
)  # fmt: skip
def test_k12_wrong_networks(networks: Any) -> None:
    with pytest.raises(Misuse):
        Kit().key(org="org_1", networks=networks)


def test_networks_are_kept_in_one_form() -> None:
    kit = Kit()
    networks = ["2001:DB8:0::/32", "203.0.113.7", "::ffff:10.0.0.0/104", "10.0.0.0/255.0.0.0"]
    key = kit.key(org="org_1", networks=networks)
    assert key.record.networks == frozenset({"2001:db8::/32", "203.0.113.7/32", "10.0.0.0/8"})
    assert kit.security.blocking.keys.get(key.record.id, org="org_1").networks == key.record.networks
    assert kit.key(org="org_1").record.networks is None


def test_what_a_set_of_networks_keeps_is_bounded() -> None:
    networks = Networks(["10.0.0.0/8"])
    for i in range(10_000):
        assert f"10.0.{i // 256}.{i % 256}" in networks
        assert f"11.0.{i // 256}.{i % 256}" not in networks
    assert len(networks._kept) <= 64


def test_authenticate_asks_for_the_address() -> None:
    kit = Kit()
    keys = kit.security.blocking.keys
    key = kit.key(org="org_1", networks=["203.0.113.0/24"])
    assert keys.authenticate(key.key, address="::ffff:203.0.113.9").key_id == key.record.id
    for address, reason in (
        (None, Reason.ADDRESS_UNKNOWN), ("", Reason.ADDRESS_UNKNOWN), ("x" * 10_000, Reason.ADDRESS_UNKNOWN),
        ("198.51.100.1", Reason.NETWORK_NOT_ALLOWED),
    ):  # fmt: skip
        with pytest.raises(Forbidden) as caught:
            keys.authenticate(key.key, address=address)
        assert caught.value.reason is reason
    assert keys.authenticate(kit.key(org="org_1").key).org == "org_1"
    assert keys.report_leak(key.key) is not None  # wherever it was found


@pytest.mark.parametrize(
    ("column", "value"),
    [("networks", None), ("networks", '["198.51.100.0/24"]'), ("networks", "[]"), ("native", 1), ("native", 2)],
)
def test_k3_networks_edited(column: str, value: str | int | None) -> None:
    kit = Kit()
    key = kit.key(org="org_1", networks=["203.0.113.0/24"])
    backend = kit.security._shared.blocking_side.backend
    assert backend is not None
    run(backend.change(Update(KEYS, key.record.id, where=ANYTHING, set=((column, value),))))
    with pytest.raises(InvalidKey) as caught:
        kit.security.blocking.keys.authenticate(key.key, address="203.0.113.1")
    assert caught.value.reason is Reason.KEY_ROW_EDITED


def test_k3_networks_put_on_a_row_without() -> None:
    form = KeyFormat([new_root()], environment="live")
    issued, row = form.issue(org="o", kind="secret", now=NOW)
    values = {name: getattr(row, name) for name in KEYS.columns}
    assert form.verify(issued.key, type(row)(**values), now=NOW).org == "o"
    for more in ({"networks": '["10.0.0.0/8"]'}, {"networks": ""}, {"native": 1}, {"native": False}, {"native": None}):
        with pytest.raises(InvalidKey):
            form.verify(issued.key, type(row)(**values | more), now=NOW, address="10.0.0.1")
    kept = {name: value for name, value in values.items() if name not in KEYS.added}
    assert form.verify(issued.key, type(row)(**kept), now=NOW).org == "o"  # a row that was kept before they came


# --- native ---


def test_native_key_from_an_app_and_from_its_pages(place: Place) -> None:
    native = place.kit.key(org="org_1", kind="publishable", origins={"https://shop.example"}, native=True)
    plain = place.kit.key(org="org_1", kind="publishable", origins={"https://shop.example"})
    assert (native.record.native, plain.record.native) == (True, False)

    def asked(key: IssuedKey, *headers: tuple[str, str]) -> int:
        return ask(place.port, "/page", *headers_of(key).items(), *headers).status

    assert (asked(native), asked(plain)) == (200, 403)
    for key in (native, plain):
        assert asked(key, ("Origin", "https://shop.example"), ("Sec-Fetch-Site", "cross-site")) == 200
        assert asked(key, ("Sec-Fetch-Site", "same-origin")) == 200
        assert asked(key, ("Origin", "https://evil.example")) == 403
        assert asked(key, ("Origin", "null")) == 403
        assert asked(key, ("Sec-Fetch-Site", "cross-site")) == 403  # a browser that leaves its origin out
        assert asked(key, ("Sec-Fetch-Site", "none")) == 403


def test_native_goes_with_origins() -> None:
    with pytest.raises(Misuse, match="native"):
        Kit().key(org="org_1", native=True)
    with pytest.raises(Misuse, match="native"):
        Kit().key(org="org_1", kind="publishable", native=True)


# --- rows in a table of one's own ---


def changed(form: KeyFormat, change: Callable[..., Any], row: Any, text: str) -> str:
    new = change(row, now=NOW)
    assert change(new, now=NOW + 1) == new  # again is no change
    with pytest.raises(InvalidKey):
        form.verify(text, new, now=NOW)
    return form.record(new, now=NOW).status


def test_a_row_of_ones_own_tells_its_status_and_changes_it() -> None:
    form = KeyFormat([new_root()], environment="live")
    issued, row = form.issue(org="o", kind="secret", expires_at=NOW + 10, now=NOW)
    assert form.record(row, now=NOW) == issued.record
    assert form.record(row, now=NOW + 10).status == "expired"
    assert changed(form, form.disable, row, issued.key) == "inactive"
    assert changed(form, form.revoke, row, issued.key) == "revoked"
    disabled = form.disable(row, now=NOW)
    assert form.verify(issued.key, form.enable(disabled, now=NOW), now=NOW).org == "o"
    assert form.enable(row, now=NOW) == row
    revoked = form.revoke(disabled, now=NOW)
    assert form.disable(revoked, now=NOW + 1) == revoked
    for dead, at in ((revoked, NOW), (disabled, NOW + 10)):
        with pytest.raises(Conflict):
            form.enable(dead, now=at)


def test_an_edited_row_of_ones_own_is_not_made_whole() -> None:
    root = new_root()
    form = KeyFormat([root], environment="live")
    _, row = form.issue(org="o", kind="secret", now=NOW)
    edited = type(row)(**{name: getattr(row, name) for name in KEYS.columns} | {"scopes": '["admin"]'})
    for call in (form.record, form.revoke, form.disable, form.enable):
        with pytest.raises(InvalidKey) as caught:
            call(edited, now=NOW)
        assert caught.value.reason is Reason.KEY_ROW_EDITED
        with pytest.raises(Unavailable):
            getattr(KeyFormat([new_root()], environment="live"), call.__name__)(row, now=NOW)
    revoked = form.revoke(row, now=NOW)
    assert KeyFormat([new_root()], environment="live").record(revoked, now=NOW).status == "revoked"
    with pytest.raises(Misuse):
        form.revoke(row, now=-1)


def test_checked_networks_of_every_form() -> None:
    assert checked_networks(("10.0.0.0/8", "10.0.0.0/8")) == {"10.0.0.0/8"}
