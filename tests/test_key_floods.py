"""Many at once: keys that are guessed (K13) and leaks that are reported (K16), where no throttle or webhook is needed."""

from typing import Any

import pytest
from servers import ask, serving

from bartizan import Rule, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.encoding import base62, checksum
from bartizan.core.tables import Backend
from bartizan.errors import InvalidKey
from bartizan.testing.kit import Kit, headers_of

GUESSES = 2_000


class Watched:
    """A backend that counts what it is asked."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.reads = self.changes = 0

    async def get(self, *args: Any) -> Any:
        self.reads += 1
        return await self.inner.get(*args)

    async def read(self, *args: Any) -> Any:
        self.reads += 1
        return await self.inner.read(*args)

    async def find(self, *args: Any, **more: Any) -> Any:
        self.reads += 1
        return await self.inner.find(*args, **more)

    async def change(self, *args: Any, **more: Any) -> Any:
        self.changes += 1
        return await self.inner.change(*args, **more)

    async def purge(self, *args: Any, **more: Any) -> Any:
        return await self.inner.purge(*args, **more)


def watched(**arguments: Any) -> tuple[Kit, Watched]:
    kit = Kit(**arguments)
    side = kit.security._shared.blocking_side
    backend = Watched(side.keys._backend)
    side.keys._backend = side.keys._changes._backend = backend
    return kit, backend


def guess(head: str, number: int) -> str:
    """A key with a valid checksum, and one of 62^43 secrets."""
    body = head + base62(number.to_bytes(32, "big"), 43)
    return body + checksum(body)


def test_k13_brute_force_on_one_id_asks_no_store() -> None:
    kit, backend = watched(staleness=300)
    key = kit.key(org="org_1")
    assert kit.security.blocking.keys.authenticate(key.key).org == "org_1"
    backend.reads = backend.changes = 0
    for number in range(GUESSES):
        with pytest.raises(InvalidKey):
            kit.security.blocking.keys.authenticate(guess(key.key[:25], number))
    assert (backend.reads, backend.changes) == (0, 0)
    assert kit.security.blocking.keys.authenticate(key.key).org == "org_1"  # its owner is not locked out
    assert kit.security.blocking.keys.get(key.record.id, org="org_1").status == "active"


def test_k13_brute_force_on_many_ids_reads_once_each_and_keeps_nothing() -> None:
    """One read for each: what stops them is the budget of the network, before any store."""
    kit, backend = watched(staleness=300)
    key = kit.key(org="org_1")
    kit.security.blocking.keys.authenticate(key.key)
    kept = len(kit.security._shared.cache._kept)
    noted = len(kit.security._shared.uses._noted)
    backend.reads = backend.changes = 0
    for number in range(GUESSES):
        with pytest.raises(InvalidKey):
            kit.security.blocking.keys.authenticate(guess(f"sk_test_{number:016}_", number))
    assert (backend.reads, backend.changes) == (GUESSES, 0)
    assert len(kit.security._shared.cache._kept) == kept
    assert len(kit.security._shared.uses._noted) <= noted  # upkeep may have written it


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def test_k13_without_a_valid_checksum_nothing_is_asked() -> None:
    kit = Kit()
    key = kit.key(org="org_1")
    gate = kit.security.gate([Rule("GET /secret", allow.secret_key())])
    backend = Watched(kit.security._shared.side.keys._backend)
    kit.security._shared.side.keys._backend = backend
    with serving(GateMiddleware(app, gate)) as port:
        for number in range(50):
            text = f"{key.key[:-6]}{number:06}"
            assert ask(port, "/secret", ("Authorization", f"Bearer {text}")).status == 401
        assert backend.reads == 0
        assert ask(port, "/secret", *headers_of(key).items()).status == 200


def told(kit: Kit) -> list[str]:
    return [event.name for event in kit.events]


def test_k16_ten_thousand_reported_at_once() -> None:
    """What a scanner found, in whatever order and however often: each leaked key ends once."""
    kit = Kit(staleness=300)
    keys = kit.security.blocking.keys
    leaked = [kit.key(org=f"org_{i % 3}") for i in range(20)]
    safe, page = kit.key(org="org_1"), kit.key(org="org_1", kind="publishable")
    already = kit.key(org="org_1")
    keys.revoke(already.record.id, org="org_1")
    for key in leaked:
        keys.authenticate(key.key)  # into the cache
    reported = [key.key for key in leaked] * 10 + [guess(f"sk_test_{number:016}_", number) for number in range(9_790)]
    reported += [page.key, already.key, guess(safe.key[:25], 1)] * 3
    before = told(kit).count("key.revoked")
    answers = [keys.report_leak(text) for text in reported]
    assert len(answers) == 9_999
    for i, key in enumerate(leaked):
        for turn in range(10):
            record = answers[turn * 20 + i]
            assert record is not None
            assert (record.id, record.org, record.status) == (key.record.id, f"org_{i % 3}", "revoked")
        with pytest.raises(InvalidKey):
            keys.authenticate(key.key)
    found = [record.id for record in answers[200:] if record is not None]
    assert found == [already.record.id] * 3  # known to be dead: its owner is told all the same
    assert told(kit).count("key.revoked") - before == len(leaked)
    assert keys.authenticate(page.key).key_id == page.record.id  # anybody may know it
    assert keys.authenticate(safe.key).key_id == safe.record.id


def test_k16_a_report_is_no_write_unless_the_secret_is_right() -> None:
    kit, backend = watched()
    key = kit.key(org="org_1")
    backend.reads = backend.changes = 0
    for number in range(100):
        assert kit.security.blocking.keys.report_leak(guess(key.key[:25], number)) is None
    assert (backend.reads, backend.changes) == (100, 0)
    assert kit.security.blocking.keys.report_leak(key.key) is not None
    assert backend.changes == 1
    assert kit.security.blocking.keys.report_leak(key.key) is not None
    assert backend.changes == 1
