"""The one transport, against servers and resolvers that mean it badly. Each test carries its attack's name."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from authorities import Authority
from tls_servers import Behave, Peer, answer, answering, tls_serving

from bartizan.core.address import EndpointPolicy
from bartizan.core.drive import run
from bartizan.core.ports import Answered
from bartizan.errors import Misuse, Reason, Unavailable
from bartizan.outbound import BlockingFetch, BlockingPost, Outbound, ThreadedFetch, ThreadedPost, both_posts
from bartizan.stores.waits import Threads

NAME = "login.example"
LOOPBACK = ("127.0.0.1",)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def certificate(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority.certificate(tmp_path_factory.mktemp("certificates"), NAME)


Get = Callable[..., bytes]


BODY = b'{"type":"order.created"}'
SIGNED = {"content-type": "application/json", "webhook-id": "msg_1"}


@pytest.fixture
def to(authority: Authority, certificate: Path) -> Iterator[Callable[[Behave], tuple[Peer, Get]]]:
    """A server that behaves like this, and a way to ask it."""
    open_servers: list[Any] = []

    def serve(behave: Behave) -> tuple[Peer, Get]:
        server = tls_serving(certificate, behave)
        peer = server.__enter__()
        open_servers.append(server)

        def get(path: str = "/", *, host: str = NAME, resolve: Any = lambda *_: LOOPBACK, **fields: Any) -> bytes:
            given = {"ports": {peer.port}, "unsafe_networks": ["127.0.0.1"], "authorities": authority.pem, **fields}
            return Outbound(resolve=resolve).get(f"https://{host}:{peer.port}{path}", EndpointPolicy(**given))

        return peer, get

    yield serve
    for server in open_servers:
        server.__exit__(None, None, None)


def refused(get: Get, **arguments: Any) -> Reason:
    with pytest.raises(Unavailable) as caught:
        get(**arguments)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.reason


Serve = Callable[[Behave], tuple[Peer, Get]]


def test_a_good_answer(to: Serve) -> None:
    peer, get = to(answering(answer(b'{"keys":[]}')))
    assert get("/jwks?a=1") == b'{"keys":[]}'
    head = peer.requests[0].decode()
    assert head.startswith("GET /jwks?a=1 HTTP/1.1\r\n")
    assert f"\r\nHost: {NAME}:{peer.port}\r\n" in head
    assert "\r\nAccept-Encoding: identity\r\n" in head
    assert "cookie" not in head.lower()
    assert "authorization" not in head.lower()


def test_ssrf_sni_is_name(to: Serve) -> None:
    """The connection goes to the address that was checked, SNI and the certificate stay those of the name."""
    peer, get = to(answering(answer(b"ok")))
    assert get() == b"ok"
    assert peer.names == [NAME]
    assert refused(get, host="other.example") == Reason.ENDPOINT_FAILED
    assert peer.names == [NAME, "other.example"]
    assert len(peer.requests) == 1  # the request was not sent to a server with another certificate


def test_a_certificate_of_nobody(to: Serve) -> None:
    peer, get = to(answering(answer(b"ok")))
    assert refused(get, authorities=Authority().pem) == Reason.ENDPOINT_FAILED
    assert refused(get, authorities=None) == Reason.ENDPOINT_FAILED  # the system's, which do not know this one
    assert peer.requests == []


def test_a_server_without_tls(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def speak() -> None:
            with listening.accept()[0] as connection:
                connection.sendall(answer(b"in the clear"))
                connection.recv(65536)

        speaking = threading.Thread(target=speak)
        speaking.start()
        policy = EndpointPolicy(ports={port}, unsafe_networks=["127.0.0.1"], authorities=authority.pem)
        with pytest.raises(Unavailable):
            Outbound(resolve=lambda *_: LOOPBACK).get(f"https://{NAME}:{port}/", policy)
        speaking.join(30)


@pytest.mark.parametrize("names", [("HTTPS_PROXY", "ALL_PROXY"), ("https_proxy", "all_proxy")])
def test_ssrf_env_proxy(to: Serve, monkeypatch: pytest.MonkeyPatch, names: Sequence[str]) -> None:
    """A proxy would resolve the name itself, and the address that was checked would be void."""
    peer, get = to(answering(answer(b"direct")))
    proxy, _ = to(answering(answer(b"proxied")))
    for name in names:
        monkeypatch.setenv(name, f"https://127.0.0.1:{proxy.port}")
    assert get() == b"direct"
    assert (peer.connections, proxy.connections) == (1, 0)


def test_ssrf_happy_eyeballs_second_address(to: Serve) -> None:
    """One private address among public ones closes the whole name, before the first connection."""
    peer, get = to(answering(answer(b"ok")))
    for addresses in (
        ["127.0.0.1", "10.0.0.1"],
        ["10.0.0.1", "127.0.0.1"],
        ["127.0.0.1", "::1"],
        ["127.0.0.1", "fe80::1%lo"],
    ):
        assert refused(get, resolve=lambda *_, a=addresses: a) == Reason.ENDPOINT_NOT_ALLOWED
    assert peer.connections == 0


def test_the_next_address_of_a_name_is_tried(to: Serve) -> None:
    peer, get = to(answering(answer(b"ok")))
    assert get(resolve=lambda *_: ["127.0.0.9", "127.0.0.1"], unsafe_networks=["127.0.0.0/8"]) == b"ok"
    many = [f"127.0.1.{n}" for n in range(200)]
    assert (
        refused(get, resolve=lambda *_: [*many, "127.0.0.1"], unsafe_networks=["127.0.0.0/8"]) == Reason.ENDPOINT_FAILED
    )
    assert peer.connections == 1


def test_ssrf_rebinding_one_look_up(to: Serve) -> None:
    """A name that is asked twice could answer twice: public for the check, private for the connection."""
    peer, get = to(answering(answer(b"ok")))
    asked: list[tuple[str, int]] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return LOOPBACK if len(asked) == 1 else ["10.0.0.1"]

    assert get(resolve=resolve) == b"ok"
    assert asked == [(NAME, peer.port)]


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "10.0.0.1"])
def test_ssrf_name_of_a_private_address(to: Serve, address: str) -> None:
    peer, get = to(answering(answer(b"ok")))
    assert refused(get, resolve=lambda *_: [address], unsafe_networks=()) == Reason.ENDPOINT_NOT_ALLOWED
    assert peer.connections == 0


def test_ssrf_literal_of_a_private_address(to: Serve) -> None:
    peer, get = to(answering(answer(b"ok")))
    assert refused(get, host="127.0.0.1", unsafe_networks=()) == Reason.ENDPOINT_NOT_ALLOWED
    assert peer.connections == 0


def test_an_address_in_the_url_needs_its_own_certificate(authority: Authority, tmp_path: Path) -> None:
    with tls_serving(authority.certificate(tmp_path, "127.0.0.1"), answering(answer(b"ok"))) as peer:
        policy = EndpointPolicy(ports={peer.port}, unsafe_networks=["127.0.0.1"], authorities=authority.pem)
        assert Outbound().get(f"https://127.0.0.1:{peer.port}/", policy) == b"ok"


class Elsewhere:
    """A connection whose ends are said to be others."""

    def __init__(self, peer: str, local: str) -> None:
        self.ends = {"server_addr": (peer, 443), "client_addr": (local, 50000)}
        self.closed = False

    def get_extra_info(self, info: str) -> Any:
        return self.ends[info]

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("10.0.0.1", "10.0.0.2"),  # the way to the address was bent, by whatever there is between
        ("8.8.4.4", "10.0.0.2"),
        ("8.8.8.8", "8.8.8.8"),  # hairpin
    ],
)
def test_ssrf_hairpin_own_address(monkeypatch: pytest.MonkeyPatch, peer: str, local: str) -> None:
    """What is connected is compared with what was checked: another peer, or this very machine, gets nothing."""
    import httpcore

    made = Elsewhere(peer, local)
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", lambda *_, **__: made)
    with pytest.raises(Unavailable) as caught:
        Outbound(resolve=lambda *_: ["8.8.8.8"]).get(f"https://{NAME}/", EndpointPolicy())
    assert caught.value.reason == Reason.ENDPOINT_NOT_ALLOWED
    assert made.closed


def test_ssrf_declared_own_address(to: Serve) -> None:
    peer, get = to(answering(answer(b"ok")))
    assert refused(get, denied=["127.0.0.0/8"]) == Reason.ENDPOINT_NOT_ALLOWED
    assert peer.connections == 0


@pytest.mark.parametrize(
    "status",
    [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
        "300 Multiple Choices",
    ],
)
def test_ssrf_redirect(to: Serve, status: str) -> None:
    """A redirect is a failure, wherever it leads."""
    other, _ = to(answering(answer(b"secret")))
    peer, get = to(answering(answer(b"", f"Location: https://{NAME}:{other.port}/", status=status)))
    assert refused(get) == Reason.ENDPOINT_FAILED
    assert (peer.connections, other.connections) == (1, 0)


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial Content", "404 Not Found", "500 Error"])
def test_any_other_status_is_a_failure(to: Serve, status: str) -> None:
    _, get = to(answering(answer(b"" if status.startswith("204") else b"{}", status=status)))
    assert refused(get) == Reason.ENDPOINT_FAILED


def flood(connection: Any, head: bytes) -> None:
    connection.sendall(head)
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n" if b"chunked" in head else b"a" * 65536
    for _ in range(1_000_000_000 // 65536):
        connection.sendall(chunk)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"",
    ],
    ids=["length", "chunked", "until_close", "header", "status_line"],
)
def test_jwks_1gb(to: Serve, head: bytes) -> None:
    """A gigabyte is refused after `max_bytes` of it."""
    sent_all: list[bool] = []

    def behave(connection: Any, _: bytes, __: Peer) -> None:
        flood(connection, head)
        sent_all.append(True)

    _, get = to(behave)
    assert refused(get) == Reason.ENDPOINT_FAILED
    assert sent_all == []


def test_exactly_so_many_bytes(to: Serve) -> None:
    _, get = to(answering(answer(b"a" * 1000)))
    assert len(get(max_bytes=1000)) == 1000
    assert refused(get, max_bytes=999) == Reason.ENDPOINT_FAILED


def test_a_compressed_bomb_stays_compressed(to: Serve) -> None:
    import gzip

    bomb = gzip.compress(bytes(50_000_000))
    _, get = to(answering(answer(bomb, "Content-Encoding: gzip")))
    assert get() == bomb


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ],
    ids=["nothing", "body", "chunk", "head"],
)
def test_jwks_truncated(to: Serve, data: bytes) -> None:
    _, get = to(answering(data))
    assert refused(get) == Reason.ENDPOINT_FAILED


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\naa",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"\x00" * 100,
    ],
)
def test_what_is_not_http(to: Serve, data: bytes) -> None:
    _, get = to(answering(data))
    assert refused(get) == Reason.ENDPOINT_FAILED


def dripping(head: bytes, drop: bytes) -> Behave:
    def behave(connection: Any, _: bytes, peer: Peer) -> None:
        connection.sendall(head)
        while not peer.over.wait(0.02):
            connection.sendall(drop)

    return behave


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    ],
    ids=["headers", "header", "body", "chunks", "early_hints"],
)
def test_jwks_slow_loris(to: Serve, head: bytes, drop: bytes) -> None:
    """Each drop comes in time, and all of them together too late: there is one deadline, on our clock."""
    _, get = to(dripping(head, drop))
    assert refused(get, seconds=0.3) == Reason.ENDPOINT_FAILED


def test_a_server_that_says_nothing(to: Serve) -> None:
    def silence(_: Any, __: bytes, peer: Peer) -> None:
        peer.over.wait(30)

    _, get = to(silence)
    assert refused(get, seconds=0.2) == Reason.ENDPOINT_FAILED


def test_a_handshake_that_never_ends(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        policy = EndpointPolicy(ports={port}, unsafe_networks=["127.0.0.1"], authorities=authority.pem, seconds=0.2)
        with pytest.raises(Unavailable):
            Outbound(resolve=lambda *_: LOOPBACK).get(f"https://{NAME}:{port}/", policy)


def test_a_resolver_that_never_answers(to: Serve) -> None:
    peer, get = to(answering(answer(b"ok")))
    answered = threading.Event()

    def resolve(*_: Any) -> Sequence[str]:
        answered.wait(30)
        return LOOPBACK

    assert refused(get, resolve=resolve, seconds=0.2) == Reason.ENDPOINT_FAILED
    answered.set()
    assert peer.connections == 0


def test_a_name_that_is_nobodys(to: Serve) -> None:
    def resolve(*_: Any) -> Sequence[str]:
        raise socket.gaierror

    peer, get = to(answering(answer(b"ok")))
    assert refused(get, resolve=resolve) == Reason.ENDPOINT_FAILED
    assert refused(get, resolve=lambda *_: ()) == Reason.ENDPOINT_FAILED
    assert peer.connections == 0


def test_the_deadline_is_on_the_given_clock(to: Serve) -> None:
    """No step begins when it is over: the look-up took all the time there was."""
    peer, _ = to(answering(answer(b"ok")))
    times = iter([0.0, 1.0, 11.0])
    outbound = Outbound(resolve=lambda *_: LOOPBACK, tick=lambda: next(times))
    policy = EndpointPolicy(ports={peer.port}, unsafe_networks=["127.0.0.1"])
    with pytest.raises(Unavailable):
        outbound.get(f"https://{NAME}:{peer.port}/", policy)
    assert peer.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example/",
        "file:///etc/passwd",
        "ftp://login.example/",
        "data:,{}",
        "https://login.example:22/",
        "https://u:p@login.example/",
    ],
)
def test_jwks_file_ftp_data_scheme(url: str) -> None:
    asked: list[str] = []

    def resolve(host: str, _: int) -> Sequence[str]:
        asked.append(host)
        return LOOPBACK

    with pytest.raises(Unavailable) as caught:
        Outbound(resolve=resolve).get(url, EndpointPolicy())
    assert caught.value.reason == Reason.ENDPOINT_NOT_ALLOWED
    assert asked == []


def test_the_system_is_asked_for_addresses() -> None:
    from bartizan.outbound import looked_up

    assert set(looked_up("localhost", 443)) & {"127.0.0.1", "::1"}


def test_authorities_that_are_none(to: Serve) -> None:
    _, get = to(answering(answer(b"ok")))
    with pytest.raises(Misuse):
        get(authorities="-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpcore", None)
    with pytest.raises(Misuse, match=r"bartizan\[send\]"):
        Outbound()


def test_both_forms_give_the_same(to: Serve, authority: Authority) -> None:
    import asyncio

    peer, _ = to(answering(answer(b"ok")))
    outbound = Outbound(resolve=lambda *_: LOOPBACK)
    url, closed = f"https://{NAME}:{peer.port}/", EndpointPolicy(ports={peer.port})
    with pytest.raises(Unavailable) as blocking:
        run(BlockingFetch(outbound)(url, closed))
    with pytest.raises(Unavailable) as threads:
        asyncio.run(threaded(outbound, url, closed))
    assert blocking.value.reason == threads.value.reason == Reason.ENDPOINT_NOT_ALLOWED
    assert peer.connections == 0
    opened = EndpointPolicy(ports={peer.port}, unsafe_networks=["127.0.0.1"], authorities=authority.pem)
    assert run(BlockingFetch(outbound)(url, opened)) == asyncio.run(threaded(outbound, url, opened)) == b"ok"


async def threaded(outbound: Outbound, url: str, policy: EndpointPolicy) -> bytes:
    threads = Threads()
    try:
        return await ThreadedFetch(outbound, threads.run)(url, policy)
    finally:
        threads.close()


# --- POST: the same rules, and an answer that is only a status ---

Post = Callable[..., Answered]
Send = Callable[[Behave], tuple[Peer, Post]]


@pytest.fixture
def sending(authority: Authority, certificate: Path) -> Iterator[Callable[[Behave], tuple[Peer, Post]]]:
    """A server that behaves like this, and a way to send it something."""
    open_servers: list[Any] = []

    def serve(behave: Behave) -> tuple[Peer, Post]:
        server = tls_serving(certificate, behave)
        peer = server.__enter__()
        open_servers.append(server)

        def post(*, host: str = NAME, resolve: Any = lambda *_: LOOPBACK, **fields: Any) -> Answered:
            given = {"ports": {peer.port}, "unsafe_networks": ["127.0.0.1"], "authorities": authority.pem, **fields}
            where = f"https://{host}:{peer.port}/hooks?a=1"
            return Outbound(resolve=resolve).post(where, BODY, SIGNED, EndpointPolicy(**given))

        return peer, post

    yield serve
    for server in open_servers:
        server.__exit__(None, None, None)


def unsent(post: Post, **arguments: Any) -> Reason:
    with pytest.raises(Unavailable) as caught:
        post(**arguments)
    return caught.value.reason


def test_a_message_arrives_whole(sending: Send) -> None:
    peer, post = sending(answering(answer(b"thanks", status="202 Accepted")))
    assert post() == Answered(202, None)
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert body == BODY
    assert head.decode().split("\r\n") == [
        "POST /hooks?a=1 HTTP/1.1",
        f"Host: {NAME}:{peer.port}",
        "Content-Type: application/json",
        "Webhook-Id: msg_1",
        f"Content-Length: {len(BODY)}",
        "Accept-Encoding: identity",
        "Connection: close",
    ]


@pytest.mark.parametrize("status", [200, 204, 301, 302, 307, 308, 400, 404, 410, 429, 500, 503])
def test_every_status_is_an_answer(sending: Send, status: int) -> None:
    _, post = sending(answering(answer(b"", "Retry-After: 120", status=f"{status} Said")))
    assert post() == Answered(status, "120")


def test_ssrf_redirect_of_a_post(sending: Send) -> None:
    """An endless chain of redirects is one request; what a redirect points to, inside or outside, is never asked."""
    inside, _ = sending(answering(answer(b"secret")))

    def again(connection: Any, _: bytes, peer: Peer) -> None:
        where = f"https://{NAME}:{peer.port}/hooks?a=1" if inside.connections else f"https://{NAME}:{inside.port}/"
        connection.sendall(answer(b"", f"Location: {where}", status="307 Temporary Redirect"))

    peer, post = sending(again)
    assert post() == Answered(307, None)
    assert (peer.connections, inside.connections) == (1, 0)


def test_ssrf_rebinding_of_a_post(sending: Send) -> None:
    """The name is asked once; a private address, alone or beside others, gets no connection."""
    peer, post = sending(answering(answer(b"ok")))
    asked: list[str] = []

    def resolve(host: str, _: int) -> Sequence[str]:
        asked.append(host)
        return LOOPBACK if len(asked) == 1 else ["10.0.0.1"]

    assert post(resolve=resolve).status == 200
    assert asked == [NAME]
    assert unsent(post, resolve=resolve) == Reason.ENDPOINT_NOT_ALLOWED
    assert unsent(post, resolve=lambda *_: ["127.0.0.1", "10.0.0.1"]) == Reason.ENDPOINT_NOT_ALLOWED
    assert unsent(post, unsafe_networks=()) == Reason.ENDPOINT_NOT_ALLOWED
    assert unsent(post, host="127.0.0.1", unsafe_networks=()) == Reason.ENDPOINT_NOT_ALLOWED
    assert unsent(post, ports={443}) == Reason.ENDPOINT_NOT_ALLOWED
    assert peer.connections == 1


def test_a_message_goes_to_nobody_with_another_certificate(sending: Send) -> None:
    peer, post = sending(answering(answer(b"ok")))
    assert unsent(post, authorities=Authority().pem) == Reason.ENDPOINT_FAILED
    assert unsent(post, host="other.example") == Reason.ENDPOINT_FAILED
    assert peer.requests == []


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["length", "chunked", "until_close"],
)
def test_answer_of_1gb(sending: Send, head: bytes) -> None:
    """The head was the answer; of the gigabyte behind it `max_bytes` are let come, and none is kept."""
    sent_all: list[bool] = []

    def behave(connection: Any, _: bytes, __: Peer) -> None:
        flood(connection, head)
        sent_all.append(True)

    _, post = sending(behave)
    assert post(max_bytes=65536) == Answered(200, None)
    assert sent_all == []


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b""], ids=["header", "status_line"])
def test_head_of_1gb(sending: Send, head: bytes) -> None:
    _, post = sending(lambda connection, _, __: flood(connection, head))
    assert unsent(post) == Reason.ENDPOINT_FAILED


def test_a_slow_loris_holds_a_sender_no_longer_than_the_deadline(sending: Send) -> None:
    _, slow_head = sending(dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"))
    assert unsent(slow_head, seconds=0.3) == Reason.ENDPOINT_FAILED
    _, early = sending(dripping(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"))
    assert unsent(early, seconds=0.3) == Reason.ENDPOINT_FAILED
    _, slow_body = sending(dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"a"))
    assert slow_body(seconds=0.3) == Answered(200, None)


def test_a_slow_reader_holds_a_sender_no_longer_than_the_deadline(authority: Authority, certificate: Path) -> None:
    """Each piece of the message is taken in time, and all of it too late: it is never sent to its end."""
    taken: list[int] = []

    def sip(connection: Any, _: bytes, peer: Peer) -> None:
        while not peer.over.wait(0.01) and (piece := connection.recv(16384)):
            taken.append(len(piece))

    with tls_serving(certificate, sip, whole=False) as peer:
        policy = EndpointPolicy(
            ports={peer.port}, unsafe_networks=["127.0.0.1"], authorities=authority.pem, seconds=0.5
        )
        with pytest.raises(Unavailable):
            Outbound(resolve=lambda *_: LOOPBACK).post(f"https://{NAME}:{peer.port}/", bytes(1 << 23), SIGNED, policy)
    assert 0 < sum(taken) < 1 << 23


@pytest.mark.parametrize(
    "data",
    [b"", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le",
     b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_answer(sending: Send, data: bytes) -> None:
    _, post = sending(answering(data))
    assert unsent(post) == Reason.ENDPOINT_FAILED


@pytest.mark.parametrize("lines", [["Retry-After: 1", "Retry-After: 999"], ["Retry-After: "], ["X: 1"]])
def test_an_odd_retry_after_is_none_that_counts(sending: Send, lines: list[str]) -> None:
    _, post = sending(answering(answer(b"", *lines, status="429 Wait")))
    assert post().retry_after in {None, ""}


@pytest.mark.parametrize(
    "headers", [{"x-a": "b\r\nX-Injected: c"}, {"x-a\r\nx-b": "c"}, {"x a": "b"}, {"x-a": "b\x00"}]
)
def test_header_injection_is_sent_to_nobody(authority: Authority, certificate: Path, headers: dict[str, str]) -> None:
    """The second lock: `delivery.checked_headers` has refused such a header before."""
    with tls_serving(certificate, answering(answer(b"ok"))) as peer:
        policy = EndpointPolicy(ports={peer.port}, unsafe_networks=["127.0.0.1"], authorities=authority.pem)
        with pytest.raises(Unavailable):
            Outbound(resolve=lambda *_: LOOPBACK).post(f"https://{NAME}:{peer.port}/", BODY, headers, policy)
        assert peer.requests == []


def test_both_forms_of_post(authority: Authority, tmp_path: Path) -> None:
    import asyncio

    threads = Threads()
    with tls_serving(authority.certificate(tmp_path, "127.0.0.1"), answering(answer(b"ok"))) as peer:
        policy = EndpointPolicy(ports={peer.port}, unsafe_networks=["127.0.0.1"], authorities=authority.pem)
        url = f"https://127.0.0.1:{peer.port}/"
        pooled, blocking = both_posts(threads.run)
        assert (type(pooled), type(blocking)) == (ThreadedPost, BlockingPost)

        async def post() -> Answered:
            return await pooled(url, BODY, SIGNED, policy)

        assert asyncio.run(post()) == run(blocking(url, BODY, SIGNED, policy)) == Answered(200, None)
    threads.close()
