"""Root secrets that can be replaced: records go over to the younger one, and none is dropped while it is needed."""

import asyncio
import inspect
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import ask, serving

from bartizan import Bartizan, Rule, allow
from bartizan.asgi import GateMiddleware
from bartizan.core.drive import run
from bartizan.core.encoding import checksum
from bartizan.core.ring import Purpose, SecretRing, new_root
from bartizan.core.roots import ROOTS, SecretUse
from bartizan.core.tables import ANYTHING, Backend, Delete, Update
from bartizan.credentials.key_rows import KEYS, KeyRow
from bartizan.credentials.keys import Keys
from bartizan.errors import BartizanError, InvalidKey, Misuse, NotFound, Reason, Unavailable
from bartizan.stores.memory import MemoryBackend
from bartizan.testing.clock import FakeClock
from bartizan.testing.kit import Kit, headers_of
from bartizan.types import IssuedKey


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def named(root: str) -> str:
    return root.split("_")[1]


class Store:
    """One store, which deployments with different rings use one after the other, or at the same time."""

    def __init__(self, url: str | None = None) -> None:
        self.clock = FakeClock()
        self.backend: Backend = MemoryBackend(self.clock)
        self.url: str | Backend = self.backend if url is None else url

    def kit(self, *secrets: str, **more: Any) -> Kit:
        return Kit(url=self.url, clock=self.clock, secrets=secrets, **more)

    def row(self, issued: IssuedKey) -> KeyRow:
        row = run(self.backend.get(KEYS, issued.record.id))
        assert row is not None
        return row

    def roots(self) -> list[tuple[str, str, str]]:
        rows = sorted(run(self.backend.find(ROOTS, ())), key=lambda row: row.since)
        return [(row.root, row.purpose, row.environment) for row in rows]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture(scope="module")
def old() -> str:
    return new_root()


@pytest.fixture(scope="module")
def new() -> str:
    return new_root()


def counts(kit: Kit) -> dict[str, int]:
    return {use.secret_id: use.records.get("keys", 0) for use in kit.security.blocking.secret_use()}


def names(kit: Kit) -> list[str]:
    return [event.name for event in kit.events]


# K14: a pepper is replaced


@pytest.mark.parametrize("kind", ["secret", "publishable"])
def test_k14_old_pepper_verifies_and_is_renewed_on_use(store: Store, old: str, new: str, kind: Any) -> None:
    key = store.kit(old).key(org="o", kind=kind, scopes={"a:read"})
    before = store.row(key)
    kit = store.kit(new, old)
    assert counts(kit) == {named(new): 0, named(old): 1}
    with serving(
        GateMiddleware(app, kit.security.gate([Rule("GET /", getattr(allow, f"{kind}_key")("a:read"))]))
    ) as port:
        assert [ask(port, "/", *headers_of(key).items()).status for _ in range(3)] == [200] * 3
    after = store.row(key)
    assert (after.pepper, after.version) == (named(new), before.version + 1)
    assert after.row_mac != before.row_mac
    changed = {name for name in KEYS.columns if getattr(after, name) != getattr(before, name)}
    assert changed == {"pepper", "version", "row_mac"} | ({"mac"} if kind == "secret" else set())
    event = kit.events[-1]
    assert (event.name, event.org, event.target) == ("key.resealed", "o", f"{key.key[:24]}")
    assert names(kit).count("key.resealed") == 1
    assert counts(kit) == {named(new): 1, named(old): 0}
    assert store.kit(new).security.blocking.keys.authenticate(key.key).key_id == key.record.id  # the old one has left


def test_k14_async(store: Store, old: str, new: str) -> None:
    key = store.kit(old).key(org="o")
    kit = store.kit(new, old)

    async def uses() -> None:
        await asyncio.gather(*(kit.security.keys.authenticate(key.key) for _ in range(50)))

    asyncio.run(uses())
    assert (store.row(key).pepper, names(kit).count("key.resealed")) == (named(new), 1)


def test_k14_unknown_pepper_fails_closed(store: Store, old: str, new: str) -> None:
    """A request is answered 503, for a reason of its own; the operator is told which root it is."""
    key = store.kit(old).key(org="o")
    kit = store.kit(new)
    with serving(GateMiddleware(app, kit.security.gate([Rule("GET /", allow.secret_key())]))) as port:
        assert ask(port, "/", *headers_of(key).items()).status == 503
    assert kit.events[-1].reason == "secret_missing"
    with pytest.raises(Misuse, match=named(old)):
        kit.security.blocking.ready()


def test_wrong_key_renews_nothing(store: Store, old: str, new: str) -> None:
    keys = [store.kit(old).key(org="o") for _ in range(3)]
    kit = store.kit(new, old)
    blocking = kit.security.blocking.keys
    blocking.revoke(keys[1].record.id, org="o")
    wrong = keys[0].key[:25] + "0" * 43
    for text in (wrong + checksum(wrong), keys[1].key):
        with pytest.raises(InvalidKey):
            blocking.authenticate(text)
    assert [store.row(key).pepper for key in keys] == [named(old)] * 3
    assert "key.resealed" not in names(kit)


def test_a_store_that_cannot_write_still_verifies(store: Store, old: str, new: str, monkeypatch: Any) -> None:
    key = store.kit(old).key(org="o")
    kit = store.kit(new, old)

    async def change(*_: Any, **__: Any) -> Any:
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(store.backend, "change", change)
        assert kit.security.blocking.keys.authenticate(key.key).key_id == key.record.id
    assert store.row(key).pepper == named(old)
    kit.security.blocking.keys.authenticate(key.key)
    assert store.row(key).pepper == named(new)


def test_one_read_and_no_write_where_nothing_is_older(store: Store, new: str, monkeypatch: Any) -> None:
    key = store.kit(new).key(org="o")
    kit = store.kit(new)
    calls: list[str] = []
    for name in ("get", "find", "change", "purge"):
        method = getattr(store.backend, name)

        async def counted(*args: Any, name: str = name, method: Any = method, **more: Any) -> Any:
            calls.append(name)
            return await method(*args, **more)

        monkeypatch.setattr(store.backend, name, counted)
    for _ in range(3):
        kit.security.blocking.keys.authenticate(key.key)
        store.clock.advance(6)
    assert [name for name in calls if name != "find"] == ["get", "get", "get"]  # each time the row, and nothing written
    assert calls[: calls.index("get")] == ["find"] * (len(calls) - 3)  # the roots, at the first use alone


# one order for everybody


def test_never_back(store: Store, old: str, new: str) -> None:
    """Rings in the two orders: the row goes to the root that was first used later, and stays there."""
    forth, back = store.kit(new, old, staleness=0), store.kit(old, new, staleness=0)
    keys = [back.key(org="o"), back.key(org="o")]
    for turn in range(4):
        for kit in (forth, back):
            for key in keys:
                kit.security.blocking.keys.authenticate(key.key)
        assert [(store.row(key).pepper, store.row(key).version) for key in keys] == [(named(new), 2)] * 2, turn
    late = back.key(org="o")  # by the root that writes there
    assert store.row(late).pepper == named(old)
    forth.security.blocking.keys.authenticate(late.key)
    back.security.blocking.keys.authenticate(late.key)
    assert store.row(late).pepper == named(new)
    assert store.roots() == [(named(old), "apikey-pepper", "test"), (named(new), "apikey-pepper", "test")]


def test_order_holds_within_a_second_and_for_a_slow_clock(store: Store, old: str, new: str) -> None:
    key = store.kit(old).key(org="o")
    store.clock.advance(-1000)
    store.kit(new, old).security.blocking.keys.authenticate(key.key)
    store.kit(old, new).security.blocking.keys.authenticate(key.key)
    assert store.row(key).pepper == named(new)
    assert store.roots()[-1][0] == named(new)


def test_somebody_else_wrote_the_root_down_first(store: Store, old: str, new: str) -> None:
    one, two, three = store.kit(new, old), store.kit(new, old), store.kit(new, old)
    for kit in (one, two, three):
        kit.security.blocking.ready()
    made = one.key(org="o")
    again = two.key(org="o")  # its table of roots was read before
    assert three.security.blocking.keys.rotate(made.record.id, org="o").record.lineage == made.record.id
    assert {store.row(key).pepper for key in (made, again)} == {named(new)}
    assert len(store.roots()) == 1
    assert sorted(names(one)) == ["key.created", "key.created", "key.rotated"]


def test_environments_have_orders_of_their_own(store: Store, old: str, new: str) -> None:
    kit = store.kit(old)
    kit.key(org="o", environment="live")
    assert store.roots() == [(named(old), "apikey-pepper", "live")]
    store.kit(new).security.blocking.ready()  # a deployment of the other environment has secrets of its own
    live = Kit(url=store.url, clock=store.clock, secrets=[new], environment="live")
    with pytest.raises(Misuse, match=named(old)):
        live.security.blocking.ready()


# a root is dropped


@pytest.mark.parametrize("form", ["ready", "with", "async with", "create", "list", "revoke"])
def test_drop_old_secret_refused_while_records_need_it(store: Store, old: str, new: str, form: str) -> None:
    key = store.kit(old).key(org="o")
    security = store.kit(new).security

    async def entering() -> None:
        async with security:
            pass

    uses: dict[str, Callable[[], object]] = {
        "ready": security.blocking.ready,
        "with": security.blocking.__enter__,
        "async with": lambda: asyncio.run(entering()),
        "create": lambda: security.blocking.keys.create(org="o", kind="secret"),
        "list": lambda: security.blocking.keys.list(org="o"),
        "revoke": lambda: security.blocking.keys.revoke(key.record.id, org="o"),
    }
    for _ in range(2):
        with pytest.raises(Misuse, match=f"secrets lacks the root {named(old)}"):
            uses[form]()
    kit = store.kit(new, old)
    kit.security.blocking.keys.authenticate(key.key)
    uses[form]()  # now that nothing needs it


def test_the_rest_is_issued_anew_and_revoked(store: Store, old: str, new: str) -> None:
    unused, used = store.kit(old).key(org="o"), store.kit(old).key(org="o")
    kit = store.kit(new, old)
    kit.security.blocking.keys.authenticate(used.key)
    assert counts(kit) == {named(new): 1, named(old): 1}
    kit.security.blocking.keys.revoke(unused.record.id, org="o")
    assert counts(kit) == {named(new): 1, named(old): 0}
    blocking = store.kit(new).security.blocking
    blocking.ready()
    assert {record.id: record.status for record in blocking.keys.list(org="o")} == {
        used.record.id: "active",
        unused.record.id: "revoked",
    }
    assert blocking.keys.get(unused.record.id, org="o").status == "revoked"
    with pytest.raises(InvalidKey) as caught:
        blocking.keys.authenticate(unused.key)
    assert caught.value.reason is Reason.KEY_REVOKED
    assert blocking.keys.report_leak(unused.key) is None
    assert blocking.keys.revoke(unused.record.id, org="o").status == "revoked"
    with pytest.raises(NotFound):
        blocking.keys.get(unused.record.id, org="another")


def test_a_passing_root_may_be_dropped_at_once(store: Store, old: str, new: str) -> None:
    """Dropping it is the emergency brake: what it made is refused, and nothing stops the start."""
    kit = store.kit(old)
    text = run(kit.security._shared.blocking_side.links.issue("invite", org="o", subject="s", seconds=60))
    blocking = store.kit(new).security.blocking
    with blocking:
        with pytest.raises(BartizanError) as caught:
            blocking.links.redeem(text, purpose="invite", org="o")
        assert caught.value.status == 401
    assert store.roots() == []
    assert {row.purpose for row in run(store.backend.find(ROOTS, ()))} <= {Purpose.APIKEY_PEPPER}


def test_nothing_is_asked_of_a_deployment_without_secrets(store: Store, old: str) -> None:
    store.kit(old).key(org="o")
    bare = Bartizan(store.url, environment="test")
    bare.blocking.ready()
    with pytest.raises(Misuse, match="secrets"):
        bare.blocking.secret_use()


def test_secret_use(store: Store, old: str, new: str) -> None:
    third = new_root()
    kit = store.kit(old)
    for environment in ("test", "live"):
        kit.key(org="o", environment=environment)
    kit.key(org="p")
    use = store.kit(new, third, old).security.blocking.secret_use()
    assert use == [
        SecretUse(secret_id=named(new)),
        SecretUse(secret_id=named(third)),
        SecretUse(secret_id=named(old), records={"keys": 3}),
    ]
    assert asyncio.run(store.kit(new, old).security.secret_use())[1].records == {"keys": 3}
    assert [u.secret_id for u in store.kit(new).security.blocking.secret_use()] == [named(new), named(old)]


def test_secret_use_over_pages(store: Store, old: str, new: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("bartizan.core.roots.PAGE", 2)
    kit = store.kit(old)
    for _ in range(5):
        kit.key(org="o")
    assert counts(store.kit(new, old)) == {named(new): 0, named(old): 5}


def test_store_of_before_the_table_of_roots(store: Store, old: str, new: str) -> None:
    first = store.kit(old).key(org="o")
    store.clock.advance(10)
    second = store.kit(new, old).key(org="o")
    for row in run(store.backend.find(ROOTS, ())):
        run(store.backend.change(Delete(ROOTS, row.id, where=ANYTHING)))
    with pytest.raises(Misuse, match=named(old)):
        store.kit(new).security.blocking.ready()
    assert [root for root, *_ in store.roots()] == [named(old), named(new)]  # as old as their first records
    kit = store.kit(old, new)
    for key in (first, second):
        kit.security.blocking.keys.authenticate(key.key)
    assert [store.row(key).pepper for key in (first, second)] == [named(old), named(new)]


def test_edited_row_needs_no_root(store: Store, new: str) -> None:
    """Whoever writes to the store stops its keys anyway; a root that never was does not stop the start."""
    kit = store.kit(new)
    key = kit.key(org="o")
    run(store.backend.change(Update(KEYS, key.record.id, where=ANYTHING, set=(("pepper", "00000000"),))))
    store.kit(new).security.blocking.ready()
    with pytest.raises(Unavailable):
        store.kit(new).security.blocking.keys.authenticate(key.key)


# K15 and the form of a root


@pytest.mark.parametrize(
    "secrets",
    [[], [""], ["changeme" * 4], ["bartizan"], ["x" * 64], ["bzs_" + "0" * 57], [new_root().replace("bzs", "bzt")],
     [new_root()[:-1] + "!"], [new_root().upper()], [new_root() + "\n"]],
)  # fmt: skip
def test_k15_default_or_guessable_pepper_refused(secrets: list[str]) -> None:
    with pytest.raises(Misuse, match="secret"):
        Bartizan("memory://", environment="test", secrets=secrets)


def test_passphrase_secret_refused() -> None:
    for text in ("correct horse battery staple correct horse", "bzs_" + "a" * 57):
        with pytest.raises(Misuse, match="python -m bartizan secret"):
            SecretRing([text])


def test_k15_nobody_brings_a_key_of_their_own() -> None:
    """There is no argument for the secret part, the id, or the row: 32 bytes of the system's randomness, or no key."""
    for method in (Keys.create, Keys.rotate):
        assert not {"key", "secret", "id", "text", "value", "lineage", "pepper"} & set(
            inspect.signature(method).parameters
        )
    kit = Kit()
    with pytest.raises(TypeError):
        kit.security.blocking.keys.create(org="o", kind="secret", key="sk_test_weak")  # type: ignore[call-arg]
    secrets = {kit.key(org="o").key[25:68] for _ in range(200)}
    assert len(secrets) == 200


def test_purposes_pairwise_distinct() -> None:
    ring = SecretRing([new_root(), new_root()])
    data = b"the same bytes under every key"
    macs = []
    for root in ring:
        for purpose in Purpose:
            for environment in ("live", "test"):
                for issuer in ("", "shop"):
                    subkey = ring.subkey(root, purpose, environment, issuer)
                    assert subkey is not None
                    macs.append(subkey.mac(data))
    assert len(set(macs)) == len(macs) == 2 * len(Purpose) * 4


# two processes

PROCESS = """
import json, os, sys, time
from bartizan import Bartizan
from bartizan.errors import InvalidKey
path, secrets, keys, turns, ready, go = sys.argv[1], *[json.loads(text) for text in sys.argv[2:]]
with Bartizan(f"sqlite:///{path}", environment="test", secrets=secrets, staleness=0).blocking as blocking:
    os.write(ready, b"1")
    os.read(go, 1)
    accepted = refused = last = turn = 0
    while turn < turns or not refused:
        began = time.monotonic_ns()
        try:
            blocking.keys.authenticate(keys[turn % len(keys)])
            accepted += 1
            if turn % len(keys) == 0:
                last = began
        except InvalidKey:
            refused += 1
        turn += 1
print(json.dumps([accepted, refused, last]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file descriptors are passed on")
def test_two_processes_with_rings_in_both_orders(tmp_path: Path, old: str, new: str) -> None:
    """10,000 authentications: each row is renewed once and never back; a revoke stands at once."""
    path = tmp_path / "store.db"
    clock = FakeClock()
    with Bartizan(f"sqlite:///{path}", environment="test", secrets=[old], clock=clock).blocking as blocking:
        keys = [blocking.keys.create(org="o", kind="secret") for _ in range(20)]
    texts = json.dumps([key.key for key in keys])
    ready, readied = os.pipe()
    go, going = os.pipe()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(path), json.dumps(order), texts, "5000", str(readied), str(go)],
            stdout=subprocess.PIPE, pass_fds=[readied, go],
        )
        for order in ([new, old], [old, new])
    ]  # fmt: skip
    for _ in processes:
        os.read(ready, 1)
    os.write(going, b"11")
    with Bartizan(f"sqlite:///{path}", environment="test", secrets=[new, old]).blocking as blocking:
        connection = sqlite3.connect(path)
        while connection.execute("SELECT count(*) FROM bartizan_keys WHERE version = 1").fetchone()[0] > 10:
            pass  # until they are in the middle of it
        connection.close()
        blocking.keys.revoke(keys[0].record.id, org="o")
        stands = time.monotonic_ns()
        outputs = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
        assert blocking.keys.get(keys[0].record.id, org="o").status == "revoked"
    for end in (ready, readied, go, going):
        os.close(end)
    assert all(last < stands for _, _, last in outputs)  # nothing that began later was let in
    assert sum(accepted + refused for accepted, refused, _ in outputs) >= 10_000
    assert all(refused for _, refused, _ in outputs)
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT id, pepper, version, revoked_at FROM bartizan_keys").fetchall()
    resealed = connection.execute("SELECT count(*) FROM bartizan_outbox WHERE name = 'key.resealed'").fetchone()[0]
    connection.close()
    living = [row for row in rows if row[0] != keys[0].record.id]
    assert {(pepper, version) for _, pepper, version, _ in living} == {(named(new), 2)}
    ended = next(row for row in rows if row[0] == keys[0].record.id)
    assert ended[3] is not None
    assert resealed == 19 + (ended[2] == 3)
