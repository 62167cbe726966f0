"""The keys of outside issuers, over a scripted fetch and over a hostile server on loopback."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from authorities import Authority
from outside import URL, Provider
from tls_servers import Behave, Peer, answer, tls_serving

from bartizan.core.address import EndpointPolicy
from bartizan.core.drive import run
from bartizan.core.encoding import base64url
from bartizan.core.events import AuditEvent
from bartizan.core.ports import Fetch, SteppedClock, Waits
from bartizan.core.principal import MemberPrincipal
from bartizan.credentials.issuer_keys import ABSENT, COOLDOWN, FRESH, STALEST, IssuerKeys, Issuers, Outside
from bartizan.credentials.issuers import DISCOVERY, Issuer
from bartizan.errors import BartizanError, InvalidToken, Reason, Unavailable
from bartizan.outbound import BlockingFetch, Outbound, ThreadedFetch
from bartizan.stores.waits import AsyncWaits, BlockingWaits, Threads
from bartizan.testing import FakeClock

METADATA, KEYS = URL + DISCOVERY, URL + "/keys"


class Noted:
    """A journal that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    def note(self, event: AuditEvent, /) -> str:
        self.events.append(event)
        return ""

    def within(self, event: AuditEvent, /) -> tuple[()]:
        return ()


class World:
    """A provider, a clock, and the services of both forms over one set of keys."""

    def __init__(self, **fields: Any) -> None:
        self.clock = FakeClock()
        self.provider = Provider()
        self.fetched: list[str] = []
        self.woken = 0
        self.journal = Noted()
        self.before: Callable[[], object] = lambda: None
        self.answers: dict[str, Callable[[], bytes]] = {
            METADATA: lambda: self.provider.metadata,
            KEYS: lambda: self.provider.jwks,
        }
        self.issuer = Issuer(URL, **{"organizations": {"org_1"}, "audience": "dashboard", **fields})
        self.trust(self.issuer)

    def trust(self, issuer: Issuer) -> None:
        self.outside = Outside(
            [issuer], environment="live", clock=SteppedClock(self.clock), journal=self.journal, wake=self.wake
        )
        self.blocking = self.form(self.fetch, BlockingWaits())
        self.asynchronous = self.form(self.fetch, AsyncWaits())

    def form(self, fetch: Fetch | None, waits: Waits) -> Issuers:
        return self.outside.form(fetch, waits)

    @property
    def keys(self) -> IssuerKeys:
        return self.outside.known[URL]

    def wake(self) -> None:
        self.woken += 1

    async def fetch(self, url: str, _: EndpointPolicy, /) -> bytes:
        self.fetched.append(url)
        self.before()
        return self.answers[url]()

    def token(self, **fields: Any) -> str:
        return self.provider.token(self.clock(), **fields)

    def member(self, token: str | None = None) -> MemberPrincipal:
        return run(self.blocking.authenticate((token or self.token()).encode()))

    def refused(self, token: str | None = None) -> Reason:
        with pytest.raises((InvalidToken, Unavailable)) as caught:
            self.member(token)
        reason: Reason = caught.value.reason
        return reason

    def outcome(self, token: str) -> Reason | None:
        try:
            self.member(token)
        except BartizanError as error:
            return error.reason
        return None

    def upkeep(self) -> None:
        run(self.blocking.revalidate())


def down() -> bytes:
    raise Unavailable(Reason.ENDPOINT_FAILED)


BROKEN: dict[str, Callable[[], bytes]] = {
    "down": down,
    "empty": lambda: b"",
    "truncated": lambda: b'{"keys": [{"kty"',
    "html": lambda: b"<html>",
    "list": lambda: b"[]",
    "no_list": lambda: b'{"keys": {}}',
    "utf_16": lambda: '{"keys": []}'.encode("utf-16"),
    "duplicate": lambda: b'{"keys": [], "keys": []}',
    "nested": lambda: b'{"keys": ' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    "101_keys": lambda: json.dumps({"keys": [{}] * 101}).encode(),
}
broken = pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)


def test_found_by_discovery_and_kept() -> None:
    world = World()
    for _ in range(100):
        assert world.member().subject == "user_1"
    assert world.fetched == [METADATA, KEYS]
    assert (world.keys.wanted, world.woken) == (False, 0)


def test_found_at_a_url_of_the_program() -> None:
    world = World(jwks=KEYS)
    world.member()
    assert world.fetched == [KEYS]


def test_keys_of_the_program_are_never_fetched() -> None:
    world = World(jwks=Provider().document)
    assert world.outside.fetches is False
    assert world.refused() is Reason.UNKNOWN_SIGNING_KEY
    assert world.fetched == []


def test_a_form_that_fetches_nothing_has_what_is_held() -> None:
    world = World()
    quiet = world.form(None, BlockingWaits())
    with pytest.raises(Unavailable):
        run(quiet.authenticate(world.token().encode()))
    assert (world.keys.busy, world.fetched) == (False, [])
    world.member()
    assert run(quiet.authenticate(world.token().encode())).subject == "user_1"
    world.clock.advance(FRESH)
    assert run(quiet.authenticate(world.token().encode())).subject == "user_1"
    run(quiet.revalidate())
    assert world.keys.wanted
    assert world.fetched == [METADATA, KEYS]


def test_a_url_with_a_slash_at_its_end() -> None:
    world = World()
    world.provider.url = URL + "/"
    issuer = Issuer(URL + "/", organizations={"org_1"}, audience="dashboard")
    world.trust(issuer)
    world.member()
    assert world.fetched == [METADATA, KEYS]


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example", "jwks_uri": KEYS},
        {"issuer": URL + "/", "jwks_uri": KEYS},
        {"issuer": URL},
        {"issuer": URL, "jwks_uri": [KEYS]},
        {"issuer": [URL], "jwks_uri": KEYS},
        [],
        None,
    ],
)
def test_metadata_of_another_issuer(metadata: Any) -> None:
    """OpenID Connect Discovery 4.3: or a page of one tenant could speak for all."""
    world = World()
    world.answers[METADATA] = lambda: json.dumps(metadata).encode()
    assert world.refused() is Reason.ENDPOINT_FAILED
    assert world.fetched == [METADATA]


def test_kid_unknown_flood() -> None:
    """10^5 tokens with a kid of their own each, over a hundred seconds: one fetch for each cooldown."""
    world = World()
    good = world.token()
    world.member(good)
    forger = Provider()
    token = forger.token(world.clock())
    _, payload, signature = token.split(".")
    refused = 0
    for n in range(100_000):
        header = base64url(b'{"alg":"EdDSA","typ":"at+jwt","kid":"%d"}' % n)
        refused += world.outcome(f"{header}.{payload}.{signature}") is Reason.UNKNOWN_SIGNING_KEY
        if n % 1000 == 999:
            world.clock.advance(1)
            world.member(good)
    assert refused == 100_000
    assert world.fetched.count(KEYS) <= 1 + 100 // COOLDOWN
    assert len(world.keys.absent._kept) <= 1000


def test_one_unknown_kid_again_and_again() -> None:
    """A kid that was looked for and not found causes no further fetch for a minute."""
    world = World()
    world.member()
    unknown = world.token(header={"kid": "nobody"})
    world.clock.advance(COOLDOWN)
    assert world.refused(unknown) is Reason.UNKNOWN_SIGNING_KEY
    assert world.fetched.count(KEYS) == 2
    for _ in range(ABSENT - 1):
        world.clock.advance(1)
        assert world.refused(unknown) is Reason.UNKNOWN_SIGNING_KEY
    assert world.fetched.count(KEYS) == 2
    world.clock.advance(1)
    assert world.refused(unknown) is Reason.UNKNOWN_SIGNING_KEY
    assert world.fetched.count(KEYS) == 3


def test_a_new_key_is_found_at_once() -> None:
    world = World()
    world.member()
    world.clock.advance(COOLDOWN)
    world.provider.rotate()
    world.member()
    assert world.fetched.count(KEYS) == 2


def test_a_withdrawn_key_takes_its_tokens_with_it() -> None:
    """Those too that were verified, and are remembered."""
    world = World()
    old = world.token()
    world.member(old)
    world.provider.rotate()
    del world.provider.keys[1:]
    world.clock.advance(FRESH)
    world.member(old)  # stale, and served while somebody looks again
    world.upkeep()
    assert world.refused(old) is Reason.UNKNOWN_SIGNING_KEY
    world.member()


def test_stale_while_revalidate() -> None:
    """No request waits for keys that are only stale: the upkeep thread fetches them."""
    world = World()
    world.member()
    world.clock.advance(FRESH)
    world.member()
    assert world.fetched.count(KEYS) == 1
    assert (world.keys.wanted, world.woken) == (True, 1)
    world.upkeep()
    assert world.fetched.count(KEYS) == 2
    world.member()
    assert (world.keys.wanted, world.woken) == (False, 1)
    world.upkeep()
    assert world.fetched.count(KEYS) == 2


@broken
def test_jwks_error_keeps_cache(broken: Callable[[], bytes]) -> None:
    world = World()
    world.member()
    for place in (KEYS, METADATA):
        world.answers[place] = broken
        for _ in range(20):
            world.clock.advance(FRESH)
            world.member()
            world.upkeep()
    world.clock.advance(COOLDOWN)
    assert world.refused(world.token(header={"kid": "nobody"})) is Reason.UNKNOWN_SIGNING_KEY
    assert {event.name for event in world.journal.events} == {"issuer.unreadable"}
    assert {event.target for event in world.journal.events} == {URL}


@broken
def test_without_keys_it_is_unavailable(broken: Callable[[], bytes]) -> None:
    """503 and not 401, and one fetch for each cooldown, however many ask."""
    world = World()
    world.answers[KEYS] = broken
    for _ in range(3 * COOLDOWN):
        assert world.refused() is Reason.ENDPOINT_FAILED
        world.clock.advance(1)
    assert world.fetched.count(KEYS) == 3
    world.answers[KEYS] = lambda: world.provider.jwks
    world.member()


def test_keys_that_nobody_could_fetch_for_a_day_are_none() -> None:
    """Whoever can keep us from the issuer could else keep a stolen key alive for ever."""
    world = World()
    world.member()
    world.answers[KEYS] = down
    world.clock.advance(STALEST - 1)
    world.member()
    world.clock.advance(1)
    assert world.refused() is Reason.ENDPOINT_FAILED


def test_clock_step_back_empties_cache() -> None:
    world = World()
    world.member()
    world.answers[KEYS] = down
    world.clock.advance(-3600)
    assert world.refused() is Reason.ENDPOINT_FAILED
    world.answers[KEYS] = lambda: world.provider.jwks
    world.clock.advance(COOLDOWN)
    world.member()


def test_an_empty_set_is_the_issuers_word() -> None:
    """Withdrawing all keys is how an issuer that was broken into stops every token."""
    world = World()
    world.member()
    world.answers[KEYS] = lambda: b'{"keys": []}'
    world.clock.advance(FRESH)
    world.member()
    world.upkeep()
    assert world.refused() is Reason.UNKNOWN_SIGNING_KEY


@pytest.mark.parametrize(
    "bad",
    [
        {},
        None,
        7,
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "weak"},
        {"kty": "oct", "k": "AAAA", "kid": "secret"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "off"},
        {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": "low_order"},
        {"kty": "LATER", "kid": "unknown"},
        {"kty": "EC", "crv": "P-521", "x": "x", "y": "y", "kid": ["list"]},
    ],
)
def test_jwks_one_bad_key(bad: Any) -> None:
    world = World()
    world.answers[KEYS] = lambda: json.dumps({"keys": [bad, *world.provider.document["keys"]]}).encode()
    world.member()


def test_jwks_flapping() -> None:
    """An hour of an issuer that fails two times of three: no good token is refused."""
    world = World()
    world.member()
    turns = iter(range(10**6))
    cases: list[Callable[[], bytes]] = [down, lambda: b"{", lambda: world.provider.jwks]
    world.answers[KEYS] = lambda: cases[next(turns) % 3]()
    for second in range(3600):
        world.clock.advance(1)
        world.member()
        if second % 7 == 0:
            world.refused(world.token(header={"kid": f"nobody-{second}"}))
        world.upkeep()
    assert world.fetched.count(KEYS) <= 1 + 3600 // COOLDOWN


# Several at once


def test_jwks_thundering_herd() -> None:
    world = World()
    waiting = threading.Barrier(17, timeout=30)
    found: list[object] = []

    def ask() -> None:
        waiting.wait()
        found.append(world.member().subject)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    waiting.wait()
    for thread in threads:
        thread.join(30)
    assert found == ["user_1"] * 16
    assert world.fetched == [METADATA, KEYS]


def test_jwks_thundering_herd_on_a_loop() -> None:
    world = World()

    async def herd() -> Sequence[MemberPrincipal]:
        token = world.token().encode()
        return await asyncio.gather(*(world.asynchronous.authenticate(token) for _ in range(200)))

    assert len(asyncio.run(herd())) == 200
    assert world.fetched == [METADATA, KEYS]


def test_no_lock_is_held_while_a_fetch_hangs() -> None:
    """Whoever has a known key passes at once, in both forms; who asks for an unknown one waits for the same fetch."""
    world = World()
    world.member()
    world.clock.advance(COOLDOWN)
    hanging, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        go_on.wait(30)

    world.before = hang
    unknown = world.token(header={"kid": "nobody"})
    asking = threading.Thread(target=world.refused, args=(unknown,))
    asking.start()
    assert hanging.wait(30)
    world.member()
    asyncio.run(world.asynchronous.authenticate(world.token().encode()))
    assert world.keys.begin(world.clock()) is False
    # The other form cannot wait for this fetch, and does not say no before it knows.
    with pytest.raises(Unavailable):
        asyncio.run(world.asynchronous.authenticate(unknown.encode()))
    go_on.set()
    asking.join(30)
    assert world.fetched.count(METADATA) == 2


def test_cancelled_waiters_leave_the_fetch_to_the_others() -> None:
    world = World()

    async def scene() -> object:
        begun, go_on = asyncio.Event(), asyncio.Event()
        inner = world.fetch

        async def slow(url: str, policy: EndpointPolicy, /) -> bytes:
            begun.set()
            await go_on.wait()
            return await inner(url, policy)

        form = world.form(slow, AsyncWaits())
        token = world.token().encode()
        first, second = (asyncio.ensure_future(form.authenticate(token)) for _ in range(2))
        await begun.wait()
        first.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        return (await second).subject

    assert asyncio.run(scene()) == "user_1"
    assert world.fetched == [METADATA, KEYS]
    assert world.keys.busy is False


def test_a_fetch_that_was_forked_away_is_given_up() -> None:
    world = World()
    assert world.keys.begin(world.clock())
    assert world.refused() is Reason.ENDPOINT_FAILED
    world.clock.advance(179)
    assert world.refused() is Reason.ENDPOINT_FAILED
    world.clock.advance(1)
    world.member()


# A hostile server, through the real transport


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def certificate(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority.certificate(tmp_path_factory.mktemp("certificates"), "login.example")


class Hostile:
    """A provider behind TLS on loopback that turns hostile: `behave` says how."""

    def __init__(self, peer: Peer, authority: Authority) -> None:
        self.peer = peer
        self.provider = Provider(f"https://login.example:{peer.port}")
        self.behave: Behave | None = None
        self.world = World()
        endpoint = EndpointPolicy(
            ports={peer.port}, unsafe_networks=["127.0.0.1"], authorities=authority.pem, seconds=0.3, max_bytes=65536
        )
        issuer = Issuer(self.provider.url, organizations={"org_1"}, audience="dashboard", endpoint=endpoint)
        self.world.trust(issuer)
        self.outbound = Outbound(resolve=lambda *_: ["127.0.0.1"])
        self.service = self.world.form(BlockingFetch(self.outbound), BlockingWaits())

    def serve(self, connection: Any, head: bytes, peer: Peer) -> None:
        if self.behave is not None:
            self.behave(connection, head, peer)
        else:
            connection.sendall(answer(self.provider.metadata if b"well-known" in head else self.provider.jwks))

    def token(self, **fields: Any) -> bytes:
        return self.provider.token(self.world.clock(), **fields).encode()

    def outcome(self, token: bytes) -> str:
        try:
            return run(self.service.authenticate(token)).subject
        except BartizanError as error:
            return error.reason.value


@pytest.fixture
def hostile(authority: Authority, certificate: Path) -> Iterator[Hostile]:
    made: list[Hostile] = []
    with tls_serving(certificate, lambda *given: made[0].serve(*given)) as peer:
        made.append(Hostile(peer, authority))
        yield made[0]


def slow(connection: Any, _: bytes, peer: Peer) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
    while not peer.over.wait(0.02):
        connection.sendall(b" ")


def truncated(connection: Any, _: bytes, __: Peer) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n{"keys": [')


def redirecting(connection: Any, head: bytes, peer: Peer) -> None:
    target = f"https://login.example:{peer.port}/elsewhere"
    connection.sendall(answer(b"", f"Location: {target}", status="302 Found"))


def gigabyte(connection: Any, _: bytes, __: Peer) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    for _n in range(1_000_000_000 // 65536):
        connection.sendall(b" " * 65536)


def erring(connection: Any, _: bytes, __: Peer) -> None:
    connection.sendall(answer(b"{}", status="500 Internal Server Error"))


HOSTILE: dict[str, Behave] = {
    "jwks_slow_loris": slow,
    "jwks_truncated": truncated,
    "jwks_redirect": redirecting,  # CVE-2026-102267
    "jwks_1gb": gigabyte,
    "jwks_error_keeps_cache": erring,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_server(hostile: Hostile, name: str) -> None:
    """What is held goes on working, what is not is refused, and it is asked once for each cooldown."""
    behave = HOSTILE[name]
    assert hostile.outcome(hostile.token()) == "user_1"
    assert len(hostile.peer.requests) == 2
    hostile.behave = behave
    clock, unknown = hostile.world.clock, hostile.token(header={"kid": "nobody"})
    for round_ in range(2):
        clock.advance(COOLDOWN)
        for _ in range(100):
            assert hostile.outcome(hostile.token()) == "user_1"
            assert hostile.outcome(unknown) == "unknown_signing_key"
        assert len(hostile.peer.requests) == 3 + round_
    assert not any(b"elsewhere" in head for head in hostile.peer.requests)
    hostile.behave = None
    clock.advance(COOLDOWN)
    hostile.provider.rotate()
    assert hostile.outcome(hostile.token()) == "user_1"


def test_kid_unknown_flood_at_a_server(hostile: Hostile) -> None:
    """10^5 kids that nobody has, while the server flaps: one connection for each cooldown, and no good token refused."""
    good = hostile.token()
    assert hostile.outcome(good) == "user_1"
    clock, (_, payload, signature) = hostile.world.clock, good.split(b".")
    turns = [None, erring, truncated, redirecting]
    outcomes = set()
    for n in range(100_000):
        if n % 1000 == 0:
            clock.advance(1)
            hostile.behave = turns[n // 1000 % len(turns)]
            assert hostile.outcome(good) == "user_1"
        header = base64url(b'{"alg":"EdDSA","typ":"at+jwt","kid":"%d"}' % n).encode()
        outcomes.add(hostile.outcome(header + b"." + payload + b"." + signature))
    assert outcomes == {"unknown_signing_key"}
    assert len(hostile.peer.requests) <= 2 + 2 * (100 // COOLDOWN)
    assert hostile.peer.connections == len(hostile.peer.requests)


def test_hostile_server_from_the_start(hostile: Hostile) -> None:
    for behave in HOSTILE.values():
        hostile.behave = behave
        assert hostile.outcome(hostile.token()) == "endpoint_failed"
        hostile.world.clock.advance(COOLDOWN)
    hostile.behave = None
    assert hostile.outcome(hostile.token()) == "user_1"


@pytest.mark.parametrize(
    "uri",
    [
        "http://login.example/keys",
        "https://169.254.169.254/keys",
        "https://login.example:22/keys",
        "https://u:p@login.example/keys",
        "file:///etc/passwd",
    ],
)
def test_jwks_private_ip(hostile: Hostile, uri: str) -> None:
    """Metadata may not send us where the program would not let us go."""
    document = json.dumps({"issuer": hostile.provider.url, "jwks_uri": uri}).encode()
    hostile.behave = lambda connection, _, __: connection.sendall(answer(document))
    assert hostile.outcome(hostile.token()) == "endpoint_failed"
    assert [event.reason for event in hostile.world.journal.events] == [Reason.ENDPOINT_NOT_ALLOWED]
    assert len(hostile.peer.requests) == 1


def test_the_loop_goes_on_while_a_server_is_slow(hostile: Hostile) -> None:
    assert hostile.outcome(hostile.token()) == "user_1"
    hostile.behave = slow
    hostile.world.clock.advance(COOLDOWN)

    async def scene() -> int:
        threads, turns = Threads(), 0
        form = hostile.world.form(ThreadedFetch(hostile.outbound, threads.run), AsyncWaits())
        unknown = asyncio.ensure_future(form.authenticate(hostile.token(header={"kid": "nobody"})))
        while not unknown.done():
            assert (await form.authenticate(hostile.token())).subject == "user_1"
            turns += 1
            await asyncio.wait([unknown], timeout=0.001)
        with pytest.raises(InvalidToken):
            unknown.result()
        threads.close()
        return turns

    assert asyncio.run(scene()) > 10
