"""Where a request came from: threats 18 and R10, through real servers, and the reading of forwarding headers."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from servers import ask, serving, wsgi_serving

from bartizan import Bartizan, Misuse, Rule, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.client import UNKNOWN, Clients, client_of, network_of
from bartizan.core.request import EnvironHeaders, Request
from bartizan.core.ring import new_root
from bartizan.testing.kit import Kit, headers_of
from bartizan.types import IssuedKey
from bartizan.wsgi import GateMiddleware as WsgiMiddleware

RULES = [Rule("GET /secret", allow.secret_key())]
OURS = ["203.0.113.0/24"]
Lines = tuple[tuple[str, str], ...]


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "0"), ("Content-Type", "text/plain")])
    return [b""]


class Place:
    """A service behind proxies, for which the test speaks."""

    def __init__(self, kit: Kit, port: int) -> None:
        self.kit = kit
        self.port = port
        self.key: IssuedKey = kit.key(org="org_1", networks=OURS)

    def ask(self, *lines: tuple[str, str]) -> int:
        return ask(self.port, "/secret", *headers_of(self.key).items(), *lines).status


@pytest.fixture(params=["h11", "httptools", "wsgi"])
def server(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def placed(server: str, **arguments: Any) -> Iterator[Place]:
    kit = Kit(**arguments)
    gate = kit.security.gate(RULES)
    if server == "wsgi":
        with wsgi_serving(WsgiMiddleware(wsgi_app, gate)) as port:
            yield Place(kit, port)
    else:
        with serving(GateMiddleware(app, gate), server, proxy_headers=False) as port:
            yield Place(kit, port)


HERE, THERE = "203.0.113.7", "198.51.100.7"


@pytest.mark.parametrize("declared", ["x-forwarded-for", "forwarded"])
def test_forwarded_and_xff_disagree(server: str, declared: str) -> None:
    """The proxy writes one of the two; the client writes the other."""
    for place in placed(server, proxy_hops=1, proxy_header=declared):
        for proxy, client, status in ((HERE, THERE, 200), (THERE, HERE, 403)):
            addresses = (proxy, client) if declared == "x-forwarded-for" else (client, proxy)
            lines = (("X-Forwarded-For", addresses[0]), ("Forwarded", f"for={addresses[1]}"))
            assert place.ask(*lines) == status
            assert place.ask(*reversed(lines)) == status
        other = ("Forwarded", f"for={HERE}") if declared == "x-forwarded-for" else ("X-Forwarded-For", HERE)
        assert place.ask(other) == 403  # without the declared one nothing is known
        assert place.kit.events[-1].reason == "address_unknown"


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_too_few_hops(server: str, hops: int) -> None:
    for place in placed(server, proxy_hops=hops):
        proxies = [HERE, *(f"10.0.0.{i}" for i in range(hops - 1))]
        for written, status in (
            (proxies, 200),
            (proxies[1:], 403),
            ([THERE, *proxies], 200),  # what the client wrote before
            ([HERE, THERE, *proxies[1:]], 403),
        ):
            assert place.ask(*([("X-Forwarded-For", ", ".join(written))] if written else [])) == status
        assert place.ask(*[("X-Forwarded-For", one) for one in [THERE, *proxies]]) == 200  # a line for each
        assert place.ask() == 403
        assert place.kit.events[-1].reason == "address_unknown"


def test_r10_leftmost_spoof_and_a_thousand_hops(server: str) -> None:
    for place in placed(server, proxy_hops=1):
        assert place.ask(("X-Forwarded-For", f"{HERE}, {THERE}")) == 403
        assert place.ask(("X-Forwarded-For", f"{HERE}, " * 1000 + THERE)) == 403
        assert place.ask(("X-Forwarded-For", f"{THERE}, " * 1000 + HERE)) == 200


def test_hop_by_hop_removal_leaves_the_address_unknown(server: str) -> None:
    """`Connection: X-Forwarded-For` has a proxy drop the header that the proxy before it wrote (RFC 9110 7.6.1)."""
    for place in placed(server, proxy_hops=1):
        assert place.ask(("Connection", "close, X-Forwarded-For")) == 403
    for place in placed(server, proxy_hops=2):
        assert place.ask(("Connection", "close, X-Forwarded-For"), ("X-Forwarded-For", "10.0.0.1")) == 403


def test_without_declared_proxies_no_header_counts(server: str) -> None:
    for place in placed(server):
        for line in (("X-Forwarded-For", HERE), ("Forwarded", f"for={HERE}"), ("X-Real-IP", HERE), ("Client-IP", HERE)):
            assert place.ask(line) == 403
            assert place.kit.events[-1].reason == "network_not_allowed"
        place.key = place.kit.key(org="org_1", networks=["127.0.0.1"])
        assert place.ask(("X-Forwarded-For", THERE)) == 200


@pytest.mark.parametrize("trusted", ["*", "127.0.0.1"])
def test_uvicorn_rewrote_client(trusted: str) -> None:
    """It believes the header of any loopback peer by default, of every peer with `*`, and then the leftmost entry."""
    kit = Kit()
    gate = kit.security.gate(RULES)
    with serving(GateMiddleware(app, gate), proxy_headers=True, forwarded_allow_ips=trusted) as port:
        place = Place(kit, port)
        assert place.ask(("X-Forwarded-For", f"{HERE}, {HERE}")) == 403
        assert place.ask(("X-Forwarded-For", HERE)) == 403
    assert [e.name for e in kit.events if e.name == "client.rewritten"] == ["client.rewritten"]  # once
    assert {e.reason for e in kit.events if e.name == "request.refused"} == {"address_unknown"}


def test_uvicorn_rewrote_client_behind_a_declared_proxy() -> None:
    kit = Kit(proxy_hops=1)
    gate = kit.security.gate(RULES)
    with serving(GateMiddleware(app, gate), proxy_headers=True, forwarded_allow_ips="*") as port:
        place = Place(kit, port)
        assert place.ask(("X-Forwarded-For", f"{HERE}, {THERE}")) == 403
        assert place.ask(("X-Forwarded-For", f"{THERE}, {HERE}")) == 200
    assert "client.rewritten" not in [e.name for e in kit.events]


APP = """
import os
from bartizan import Bartizan, Rule, allow
from bartizan.wsgi import GateMiddleware

def inner(environ, start_response):
    start_response("200 OK", [("Content-Length", "0"), ("X-Seen", environ.get("HTTP_X_FORWARDED_FOR", ""))])
    return [b""]

security = Bartizan("sqlite:///" + os.environ["TEST_STORE"], environment="test", secrets=[os.environ["TEST_ROOT"]], proxy_hops=1)
app = GateMiddleware(inner, security.gate([Rule("GET /secret", allow.secret_key())]))
"""
FOLDED: list[Lines] = [
    (("X-Forwarded-For", THERE), ("X_Forwarded_For", HERE)),
    (("X_Forwarded_For", HERE), ("X-Forwarded-For", THERE)),
    (("X-Forwarded_For", HERE), ("X-Forwarded-For", THERE)),
    (("X_Forwarded_For", HERE),),
]


def test_wsgi_underscore_header(tmp_path: Path) -> None:
    """CGI writes both names as one (RFC 3875 section 4.1.18): the server has to drop the one with an underscore."""
    (tmp_path / "served.py").write_text(APP, encoding="utf-8")
    store, root = tmp_path / "store.db", new_root()
    with Bartizan(f"sqlite:///{store}", environment="test", secrets=[root]).blocking as security:
        key = security.keys.create(org="org_1", kind="secret", networks=OURS)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = [
            sys.executable, "-m", "gunicorn", "--bind", f"fd://{listening.fileno()}", "--chdir", str(tmp_path),
            "--no-control-socket", "--log-level", "error", "served:app",
        ]  # fmt: skip
        environ = {**os.environ, "TEST_STORE": str(store), "TEST_ROOT": root, "PYTHONWARNINGS": "ignore"}
        server = subprocess.Popen(command, env=environ, pass_fds=[listening.fileno()])
    try:
        good = ask(port, "/secret", *headers_of(key).items(), ("X-Forwarded-For", HERE))
        forged = [ask(port, "/secret", *headers_of(key).items(), *lines).status for lines in FOLDED]
    finally:
        server.terminate()
        assert server.wait(30) == 0
    assert (good.status, good.headers["x-seen"]) == (200, HERE)
    assert forged == [403] * len(FOLDED)


def test_asgi_underscore_header_is_another_header() -> None:
    for server in ("h11", "httptools"):
        for place in placed(server, proxy_hops=1):
            assert [place.ask(*lines) for lines in FOLDED] == [403] * len(FOLDED)


# --- the reading, without a server ---


def address(value: str, hops: int = 1, header: Any = "forwarded") -> str | None:
    request = Request("GET", "/", [(header.encode(), value.encode("latin-1"))], None, "https")
    environ = {f"HTTP_{header.upper().replace('-', '_')}": value}
    folded = Request("GET", "/", EnvironHeaders(environ), None, "https")
    found = Clients(hops, header).address(request)
    assert Clients(hops, header).address(folded) == found
    return found


FORWARDED = {
    "for=192.0.2.60": "192.0.2.60",
    "For=192.0.2.60;proto=http;by=203.0.113.43": "192.0.2.60",
    'for="[2001:db8:cafe::17]:4711"': "2001:db8:cafe::17",
    'for="[2001:db8:cafe::17]"': "2001:db8:cafe::17",
    'for="192.0.2.60:47011"': "192.0.2.60",
    "by=203.0.113.43 ; for=192.0.2.60": "192.0.2.60",
    'for=192.0.2.60;host="a,b"': "192.0.2.60",
    'for=192.0.2.60;host="a\\"b"': "192.0.2.60",
    'for="_gazonk"': None,
    "for=unknown": None,
    "for=_hidden": None,
    "proto=http": None,
    "": None,
    "for=": None,
    "for=192.0.2.60, ": None,
    "for=192.0.2.60;for=192.0.2.61": None,
    "for=[2001:db8::1]": None,  # it has to be quoted (section 6.1)
    "for=2001:db8::1": None,
    'for="192.0.2.60': None,
    'for=192.0.2.60"': None,
    "xfor=192.0.2.60": None,
    'for="[fe80::1%eth0]"': None,
    'for="\\1.2.3.4"': None,
    "for 192.0.2.60": None,
}


@pytest.mark.parametrize("value", FORWARDED)
def test_rfc_7239_forwarded(value: str) -> None:
    assert address(value) == FORWARDED[value]


@given(st.text(st.characters(max_codepoint=255), max_size=300), st.sampled_from(["x-forwarded-for", "forwarded"]))
@example('for="', "forwarded")
@example('x="a\\', "forwarded")
@example('for="a, for="', "forwarded")
@example(",,,;=", "forwarded")
def test_what_the_client_wrote_never_changes_what_the_proxy_says(prefix: str, header: str) -> None:
    """A quote that is left open, a comma, a backslash: whatever stands to the left."""
    node = "192.0.2.60" if header == "x-forwarded-for" else 'for=192.0.2.60;host="shop, example"'
    for separator in (",", ", "):
        assert address(prefix + separator + node, 1, header) == "192.0.2.60"
    more = "10.0.0.1" if header == "x-forwarded-for" else "for=10.0.0.1"
    assert address(f"{prefix}, {node}, {more}", 2, header) == "192.0.2.60"


@given(st.text(st.characters(max_codepoint=255)), st.integers(1, 10), st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_any_header_is_an_address_or_unknown(value: str, hops: int, header: str) -> None:
    found = address(value, hops, header)
    assert found is None or client_of(found) == found


@given(st.ip_addresses())
def test_an_address_has_one_form(given_address: Any) -> None:
    one = client_of(str(given_address))
    assert one is not None
    assert client_of(one) == one
    long = client_of(given_address.exploded.upper())
    assert long == one


@pytest.mark.parametrize(
    ("client", "network"),
    [("203.0.113.7", "203.0.113.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("::1", "::/64"), (None, UNKNOWN)],
)
def test_r10_ipv6_is_counted_by_its_64(client: str | None, network: str) -> None:
    assert network_of(client) == network


def test_r10_mapped_clients_do_not_share_a_budget() -> None:
    """CVE-2026-30827: every IPv4 client of a dual-stack socket in the one /64 of `::ffff:0:0/96`."""
    mapped = [f"::ffff:203.0.113.{i}" for i in range(256)] + [f"64:ff9b::198.51.100.{i}" for i in range(256)]
    assert len({network_of(client_of(one)) for one in mapped}) == 512


def test_an_ipv6_customer_has_one_budget() -> None:
    assert len({network_of(str(ip_address((0x20010DB8 << 96) + i))) for i in range(0, 2**64, 2**58)}) == 1


@pytest.mark.parametrize("hops", [-1, 11, True, "1", 1.0])
def test_wrong_hops(hops: Any) -> None:
    with pytest.raises(Misuse, match="proxy_hops"):
        Kit(proxy_hops=hops)


def test_wrong_header() -> None:
    with pytest.raises(Misuse, match="proxy_header"):
        Kit(proxy_hops=1, proxy_header="X-Real-IP")


def test_proxies_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARTIZAN_ENVIRONMENT", "live")
    monkeypatch.setenv("BARTIZAN_PROXY_HOPS", "2")
    monkeypatch.setenv("BARTIZAN_PROXY_HEADER", "forwarded")
    request = Request("GET", "/", [(b"forwarded", b"for=192.0.2.60, for=10.0.0.1")], None, "https")
    assert Bartizan.from_env()._shared.clients.address(request) == "192.0.2.60"
    monkeypatch.setenv("BARTIZAN_PROXY_HOPS", "-2")
    with pytest.raises(Misuse, match="PROXY_HOPS"):
        Bartizan.from_env()
