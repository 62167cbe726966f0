import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bartizan import Bartizan
from bartizan.core.drive import run
from bartizan.core.events import OUTBOX
from bartizan.core.principal import current_unit
from bartizan.core.ring import new_root
from bartizan.core.tables import ANYTHING, AnyStep, Backend, Insert, Update
from bartizan.credentials.key_rows import KEYS
from bartizan.credentials.key_uses import KEY_USES
from bartizan.errors import BartizanError, Conflict, InvalidKey, Misuse, NotFound, Reason, Unavailable
from bartizan.stores.memory import MemoryBackend
from bartizan.testing.clock import FakeClock
from bartizan.testing.kit import Kit, acting_as

WITHOUT_EVENTS = frozenset({KEY_USES.name})  # the tables whose changes tell nobody


class Watched:
    """A backend that counts, and refuses a change that carries no event."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.reads = self.changes = 0
        self.before_read: Callable[[], None] = lambda: None

    async def get(self, *args: Any) -> Any:
        self.reads += 1
        row = await self.inner.get(*args)
        self.before_read()
        return row

    async def read(self, *refs: Any) -> Any:
        self.reads += 1
        return await self.inner.read(*refs)

    async def find(self, *args: Any, **more: Any) -> Any:
        return await self.inner.find(*args, **more)

    async def change(self, step: Any, /, *, also: Sequence[AnyStep] = ()) -> Any:
        self.changes += 1
        if step.table.name not in WITHOUT_EVENTS:
            assert any(isinstance(other, Insert) and other.table is OUTBOX for other in also), step
        return await self.inner.change(step, also=also)

    async def purge(self, *args: Any, **more: Any) -> int:
        return await self.inner.purge(*args, **more)


def watched() -> tuple[Kit, Watched]:
    clock = FakeClock()
    backend = Watched(MemoryBackend(clock))
    return Kit(url=backend, clock=clock), backend


@pytest.fixture(params=["memory", "sqlite"])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = Kit(url="memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/keys.db")
    with made.security.blocking:
        yield made


def reason_of(call: Callable[..., object], *args: Any, **more: Any) -> Reason:
    with pytest.raises(BartizanError) as caught:
        call(*args, **more)
    return caught.value.reason


def names(kit: Kit) -> list[str]:
    return [event.name for event in kit.events]


def test_life_of_a_key(kit: Kit) -> None:
    keys = kit.security.blocking.keys
    issued = keys.create(org="org_1", kind="secret", scopes={"a:b"}, name="shop", expires_at=kit.clock() + 100)
    key_id = issued.record.id

    assert keys.authenticate(issued.key).may("a:b")
    assert keys.get(key_id, org="org_1") == issued.record
    assert keys.disable(key_id, org="org_1").status == "inactive"
    assert keys.disable(key_id, org="org_1").status == "inactive"
    assert reason_of(keys.authenticate, issued.key) is Reason.KEY_DISABLED
    assert keys.enable(key_id, org="org_1").status == "active"
    assert keys.enable(key_id, org="org_1").status == "active"
    assert keys.authenticate(issued.key).key_id == key_id
    assert keys.revoke(key_id, org="org_1").status == "revoked"
    assert keys.revoke(key_id, org="org_1").status == "revoked"
    assert keys.disable(key_id, org="org_1").status == "revoked"
    assert reason_of(keys.authenticate, issued.key) is Reason.KEY_REVOKED
    with pytest.raises(Conflict):
        keys.enable(key_id, org="org_1")
    assert names(kit) == ["key.created", "key.disabled", "key.enabled", "key.revoked"]
    assert {(e.org, e.actor, e.target) for e in kit.events} == {("org_1", "system", f"sk_test_{key_id}")}
    assert issued.key[25:68] not in repr(kit.events)


def test_k7_rotation_never_extends_and_keeps_everything(kit: Kit) -> None:
    keys = kit.security.blocking.keys
    now = kit.clock()
    old = keys.create(org="org_1", kind="secret", scopes={"a:b"}, name="n", expires_at=now + 50, environment="live")
    new = keys.rotate(old.record.id, org="org_1", overlap=10_000)
    before, after = old.record, new.record
    assert (after.org, after.kind, after.environment, after.name, after.scopes) == (
        before.org, before.kind, before.environment, before.name, before.scopes,
    )  # fmt: skip
    assert (after.expires_at, after.lineage) == (now + 50, before.id)
    assert keys.get(before.id, org="org_1").status == "rotating"
    assert keys.get(before.id, org="org_1").successor == after.id
    assert keys.authenticate(old.key, environments={"live"}).expires_at == now + 50
    again = keys.rotate(after.id, org="org_1", overlap=0)
    assert again.record.lineage == before.id
    assert reason_of(keys.authenticate, new.key, environments={"live"}) is Reason.KEY_ROTATED
    kit.clock.advance(50)
    for issued in (old, again):
        assert reason_of(keys.authenticate, issued.key, environments={"live"}) in {
            Reason.KEY_ROTATED,
            Reason.KEY_EXPIRED,
        }
    assert [r.status for r in keys.list(org="org_1")] == ["expired"] * 3


def test_k7_only_active_keys_rotate(kit: Kit) -> None:
    keys = kit.security.blocking.keys
    made = [keys.create(org="o", kind="secret", expires_at=kit.clock() + 9).record.id for _ in range(4)]
    disabled, revoked, rotating, expired = made
    keys.disable(disabled, org="o")
    keys.revoke(revoked, org="o")
    keys.rotate(rotating, org="o")
    for key_id in (disabled, revoked, rotating):
        assert reason_of(keys.rotate, key_id, org="o") is Reason.STATE_CHANGED
    kit.clock.advance(9)
    assert reason_of(keys.rotate, expired, org="o") is Reason.STATE_CHANGED
    assert reason_of(keys.enable, expired, org="o") is Reason.STATE_CHANGED
    with pytest.raises(Misuse):
        keys.rotate(expired, org="o", overlap=-1)


def test_k7_a_rotated_key_can_be_disabled_and_enabled_in_its_overlap(kit: Kit) -> None:
    keys = kit.security.blocking.keys
    old = keys.create(org="o", kind="secret")
    keys.rotate(old.record.id, org="o", overlap=60)
    assert keys.disable(old.record.id, org="o").status == "inactive"
    assert keys.enable(old.record.id, org="o").status == "rotating"


def test_k7_racing_rotations_have_one_successor(kit: Kit) -> None:
    keys = kit.security.blocking.keys
    key_id = keys.create(org="o", kind="secret").record.id
    won: list[str] = []
    lost: list[Reason] = []
    gate = threading.Barrier(16)

    def rotate() -> None:
        gate.wait()
        try:
            won.append(keys.rotate(key_id, org="o").record.id)
        except Conflict as error:
            lost.append(error.reason)

    threads = [threading.Thread(target=rotate) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 15
    assert keys.get(key_id, org="o").successor == won[0]
    assert len(keys.list(org="o")) == 2
    assert names(kit).count("key.rotated") == 1


def test_k7_racing_tasks_have_one_successor(kit: Kit) -> None:
    async def race() -> list[Any]:
        keys = kit.security.keys
        key_id = (await keys.create(org="o", kind="secret")).record.id
        return await asyncio.gather(*(keys.rotate(key_id, org="o") for _ in range(200)), return_exceptions=True)

    answers = asyncio.run(race())
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert sum(isinstance(answer, Conflict) for answer in answers) == 199


def test_revoke_stands_against_other_writers(kit: Kit) -> None:
    keys = kit.security.blocking.keys
    key_id = keys.create(org="o", kind="secret").record.id
    stop = threading.Event()

    def flicker() -> None:
        while not stop.is_set():
            try:
                keys.disable(key_id, org="o")
                keys.enable(key_id, org="o")
            except Conflict:
                return

    threads = [threading.Thread(target=flicker) for _ in range(4)]
    for thread in threads:
        thread.start()
    record = keys.revoke(key_id, org="o")
    stop.set()
    for thread in threads:
        thread.join()
    assert record.status == keys.get(key_id, org="o").status == "revoked"


def test_one_read_and_no_write_cold_and_nothing_warm() -> None:
    kit, backend = watched()
    issued = kit.key(org="o")
    backend.reads = backend.changes = 0
    keys = kit.security.blocking.keys

    keys.authenticate(issued.key)
    assert (backend.reads, backend.changes) == (1, 0)
    for _ in range(10):
        keys.authenticate(issued.key)
    assert (backend.reads, backend.changes) == (1, 0)


def test_a_mangled_key_costs_no_store_access_and_no_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    kit, backend = watched()
    issued = kit.key(org="o")
    backend.reads = 0
    monkeypatch.setattr("bartizan.core.ring.sha256", None)  # whoever begins a hash now fails
    for text in (issued.key[:-1] + "é", issued.key[:30], "x", issued.key.replace("t", "T", 1)):
        assert reason_of(kit.security.blocking.keys.authenticate, text) is Reason.MALFORMED_KEY
    assert backend.reads == 0


def test_key_stampede_one_read() -> None:
    kit, backend = watched()
    issued = kit.key(org="o")
    backend.reads = 0
    original = backend.inner.get

    async def slow(*args: Any) -> Any:
        await asyncio.sleep(0)
        return await original(*args)

    backend.inner.get = slow  # type: ignore[method-assign]

    async def stampede() -> None:
        await asyncio.gather(*(kit.security.keys.authenticate(issued.key) for _ in range(100)))

    asyncio.run(stampede())
    assert backend.reads == 1


def test_k8_staleness_between_processes(tmp_path: Path) -> None:
    clock, root = FakeClock(), new_root()
    here, there = (
        Bartizan(f"sqlite:///{tmp_path}/k.db", environment="test", secrets=[root], clock=clock).blocking
        for _ in range(2)
    )
    with here, there:
        key = here.keys.create(org="o", kind="secret")
        there.keys.authenticate(key.key)
        here.keys.revoke(key.record.id, org="o")
        assert reason_of(here.keys.authenticate, key.key) is Reason.KEY_REVOKED
        clock.advance(4)
        there.keys.authenticate(key.key)  # within the stated bound
        clock.advance(1)
        assert reason_of(there.keys.authenticate, key.key) is Reason.KEY_REVOKED


def test_k8_slow_read_does_not_bring_back_a_revoked_key() -> None:
    kit, backend = watched()
    issued = kit.key(org="o")
    keys = kit.security.blocking.keys

    def revoke_meanwhile() -> None:
        backend.before_read = lambda: None
        keys.revoke(issued.record.id, org="o")

    backend.before_read = revoke_meanwhile
    keys.authenticate(issued.key)  # read before the revocation: that one request was already on its way
    assert reason_of(keys.authenticate, issued.key) is Reason.KEY_REVOKED


def test_k8_whoever_asks_after_a_revocation_joins_no_older_read() -> None:
    kit, backend = watched()
    issued = kit.key(org="o")
    original = backend.inner.get
    loaded, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        row = await original(*args)
        if not loaded.is_set():
            loaded.set()
            await go_on.wait()
        return row

    async def scene() -> None:
        keys = kit.security.keys
        backend.inner.get = slow  # type: ignore[method-assign]
        first = asyncio.create_task(keys.authenticate(issued.key))
        await loaded.wait()
        await keys.revoke(issued.record.id, org="o")
        with pytest.raises(InvalidKey):
            await keys.authenticate(issued.key)
        go_on.set()
        await first
        with pytest.raises(InvalidKey):
            await keys.authenticate(issued.key)

    asyncio.run(scene())


def test_k8_clock_stepped_back(kit: Kit) -> None:
    keys = kit.security.blocking.keys
    issued = kit.key(org="o", expires_at=kit.clock() + 10)
    keys.authenticate(issued.key)
    kit.clock.advance(10)
    assert reason_of(keys.authenticate, issued.key) is Reason.KEY_EXPIRED
    kit.clock.advance(-10)
    assert keys.authenticate(issued.key).org == "o"


def test_staleness_zero_reads_every_time() -> None:
    clock = FakeClock()
    backend = Watched(MemoryBackend(clock))
    kit = Kit(url=backend, clock=clock, staleness=0)
    issued = kit.key(org="o")
    backend.reads = 0
    for _ in range(3):
        kit.security.blocking.keys.authenticate(issued.key)
    assert backend.reads == 3
    for wrong in (-1, 301, float("nan"), True):
        with pytest.raises(Misuse):
            Kit(staleness=wrong)


def test_both_forms_share_their_cache(kit: Kit) -> None:
    issued = kit.key(org="o")

    async def scene() -> None:
        await kit.security.keys.authenticate(issued.key)
        kit.security.blocking.keys.revoke(issued.record.id, org="o")
        with pytest.raises(InvalidKey):
            await kit.security.keys.authenticate(issued.key)

    asyncio.run(scene())


def test_other_organizations_are_not_found(kit: Kit) -> None:
    keys = kit.security.blocking.keys
    mine, theirs = kit.key(org="org_1"), kit.key(org="org_2")
    for call in (keys.get, keys.rotate, keys.revoke, keys.disable, keys.enable):
        assert reason_of(call, theirs.record.id, org="org_1") is Reason.NO_RECORD
        assert reason_of(call, "0" * 16, org="org_1") is Reason.NO_RECORD
    assert [r.id for r in keys.list(org="org_1")] == [mine.record.id]

    with acting_as(keys.authenticate(mine.key)):
        for call in (keys.get, keys.rotate, keys.revoke, keys.disable, keys.enable):
            assert reason_of(call, theirs.record.id, org="org_2") is Reason.WRONG_ORGANIZATION
        assert reason_of(keys.list, org="org_2") is Reason.WRONG_ORGANIZATION
        assert reason_of(keys.list, org="x" * 1000) is Reason.WRONG_ORGANIZATION
        assert reason_of(keys.create, org="org_2", kind="secret") is Reason.WRONG_ORGANIZATION
        assert keys.get(mine.record.id, org="org_1").status == "active"
        keys.authenticate(theirs.key)  # takes no organization
        keys.disable(mine.record.id, org="org_1")
    assert kit.events[-1].actor == f"sk_test_{mine.record.id}"


def test_a_job_is_named_and_held_to_its_organization(kit: Kit) -> None:
    security, keys = kit.security, kit.security.blocking.keys
    issued = kit.key(org="org_1")
    with security.job("nightly", org="org_1") as job:
        assert job.actor == "job:nightly"
        keys.disable(issued.record.id, org="org_1")
        with pytest.raises(NotFound):
            keys.list(org="org_2")
        with pytest.raises(Misuse):
            security.job("other", org="org_2").__enter__()
        with pytest.raises(Misuse):
            security.job("other").__enter__()
        with security.job("part", org="org_1"):
            pass
    assert not current_unit.get().callers
    with security.blocking.job("sweep"):
        keys.list(org="org_2")
    assert [(e.name, e.org, e.actor) for e in kit.events[-2:]] == [
        ("key.disabled", "org_1", "job:nightly"),
        ("organization.named", "org_2", "job:sweep"),
    ]
    for name in ("", "x" * 101, "a\nb"):
        with pytest.raises(Misuse):
            security.job(name)


def edit(kit: Kit, key_id: str, **columns: Any) -> None:
    backend = kit.security._shared.blocking_side.backend
    assert backend is not None
    assert run(backend.change(Update(KEYS, key_id, where=ANYTHING, set=tuple(columns.items())))) is not None


def test_an_edited_row_can_only_be_stopped(kit: Kit) -> None:
    keys = kit.security.blocking.keys
    issued, whole = kit.key(org="o"), kit.key(org="o")
    key_id = issued.record.id
    edit(kit, key_id, scopes='["admin"]', kind="root")
    for call in (keys.get, keys.rotate, keys.enable):
        assert reason_of(call, key_id, org="o") is Reason.KEY_ROW_EDITED
    assert [r.id for r in keys.list(org="o")] == [whole.record.id]
    assert (kit.events[-1].name, kit.events[-1].reason) == ("key.row_edited", "key_row_edited")

    assert keys.disable(key_id, org="o").status == "inactive"
    assert keys.revoke(key_id, org="o").status == "revoked"
    assert keys.revoke(key_id, org="o").status == "revoked"
    assert keys.revoke(key_id, org="o").scopes == frozenset()

    edit(kit, key_id, scopes="[]", kind="secret")  # what was edited is put back: the stop still stands
    assert reason_of(keys.authenticate, issued.key) is Reason.KEY_ROW_EDITED
    assert names(kit)[-2:] == ["key.disabled", "key.revoked"]


def test_last_used_is_written_by_upkeep(kit: Kit) -> None:
    keys, upkeep = kit.security.blocking.keys, kit.security._shared.upkeep
    used, unused = kit.key(org="o"), kit.key(org="o")
    keys.authenticate(used.key)
    assert keys.get(used.record.id, org="o").last_used_at is None
    upkeep.flush()
    assert keys.get(used.record.id, org="o").last_used_at == kit.clock()
    assert {r.id: r.last_used_at for r in keys.list(org="o")} == {used.record.id: kit.clock(), unused.record.id: None}
    first = kit.clock()
    kit.clock.advance(59)
    keys.authenticate(used.key)
    upkeep.flush()
    kit.clock.advance(61)
    keys.authenticate(used.key)
    upkeep.flush()
    assert keys.get(used.record.id, org="o").last_used_at == first + 120


def test_uses_that_cannot_be_written_are_kept() -> None:
    kit, backend = watched()
    issued = kit.key(org="o")
    kit.security.blocking.keys.authenticate(issued.key)
    inner = backend.inner

    class Failing(MemoryBackend):
        async def change(self, *_: Any, **__: Any) -> Any:
            raise Unavailable

    backend.inner = Failing()
    kit.security._shared.upkeep.flush()
    backend.inner = inner
    kit.security._shared.upkeep.flush()
    assert kit.security.blocking.keys.get(issued.record.id, org="o").last_used_at == kit.clock()


def test_list_pages_in_order(kit: Kit) -> None:
    keys = kit.security.blocking.keys
    ids = sorted(kit.key(org="o").record.id for _ in range(7))
    for _ in ids:
        kit.security._shared.uses.note(keys.authenticate(kit.key(org="x").key), kit.clock())
    kit.security._shared.upkeep.flush()
    seen: list[str] = []
    while page := keys.list(org="o", after=seen[-1] if seen else None, limit=3):
        seen += [record.id for record in page]
    assert seen == ids
    for limit in (0, 1001):
        with pytest.raises(Misuse):
            keys.list(org="o", limit=limit)
    for key_id in ids[1:5]:
        edit(kit, key_id, name="edited")
    assert [record.id for record in keys.list(org="o", limit=2)] == [ids[0], ids[5]]  # a short page is the last one
    assert [record.id for record in keys.list(org="o", after=ids[0], limit=3)] == ids[5:]


def test_a_cancelled_caller_never_leaves_half_a_change(tmp_path: Path) -> None:
    async def cancelled_after(awaits: int, call: Callable[[Bartizan, str], Any]) -> tuple[bool, str, int, int]:
        kit = Kit(url=f"sqlite:///{tmp_path}/{call.__name__}{awaits}.db")
        async with kit.security as security:
            key = await security.keys.create(org="o", kind="secret")
            task = asyncio.ensure_future(call(security, key.record.id))
            for _ in range(awaits):
                await asyncio.sleep(0)
                if task.done():
                    break
            task.cancel()
            ended = (await asyncio.gather(task, return_exceptions=True))[0]
            record = await security.keys.get(key.record.id, org="o")
            with_event = sum(e.name != "key.created" for e in kit.events)
            number = len(await security.keys.list(org="o"))
        return not isinstance(ended, asyncio.CancelledError), record.status, with_event, number

    async def rotate(security: Bartizan, key_id: str) -> object:
        return await security.keys.rotate(key_id, org="o")

    async def revoke(security: Bartizan, key_id: str) -> object:
        return await security.keys.revoke(key_id, org="o")

    async def disable(security: Bartizan, key_id: str) -> object:
        return await security.keys.disable(key_id, org="o")

    done = {"rotate": ("rotating", 1, 2), "revoke": ("revoked", 1, 1), "disable": ("inactive", 1, 1)}
    for call in (rotate, revoke, disable):
        outcomes = [asyncio.run(cancelled_after(n, call)) for n in range(12)]
        for _, status, events, number in outcomes:
            assert (status, events, number) in {("active", 0, 1), done[call.__name__]}
        assert any(status != "active" for _, status, _, _ in outcomes)  # begun is finished, though the caller hung up


def test_cancelled_authentications_leave_the_flight_to_the_others() -> None:
    kit, backend = watched()
    issued = kit.key(org="o")
    original, go_on = backend.inner.get, asyncio.Event()

    async def slow(*args: Any) -> Any:
        await go_on.wait()
        return await original(*args)

    backend.inner.get = slow  # type: ignore[method-assign]

    async def scene() -> None:
        first = asyncio.create_task(kit.security.keys.authenticate(issued.key))
        second = asyncio.create_task(kit.security.keys.authenticate(issued.key))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        go_on.set()
        assert (await second).org == "o"
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(scene())


def test_a_store_that_loses_every_race_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    kit, backend = watched()
    key_id = kit.key(org="o").record.id

    async def beaten(*_: Any, **__: Any) -> None:
        return None

    backend.inner.change = beaten  # type: ignore[method-assign]
    keys = kit.security.blocking.keys
    assert reason_of(keys.rotate, key_id, org="o") is Reason.STORE_BUSY
    assert reason_of(keys.revoke, key_id, org="o") is Reason.STORE_BUSY
    assert reason_of(keys.create, org="o", kind="secret") is Reason.STORE_FAILED
    kit.clock.advance(1)


def test_environments_are_given_or_the_own() -> None:
    kit = Kit()
    keys = kit.security.blocking.keys
    live = kit.key(org="o", environment="live")
    assert reason_of(keys.authenticate, live.key) is Reason.WRONG_ENVIRONMENT
    assert keys.authenticate(live.key, environments={"live"}).environment == "live"
    with pytest.raises(Misuse):
        keys.authenticate(live.key, environments=())
    with pytest.raises(Misuse):
        keys.authenticate(live.key, environments={"prod"})  # type: ignore[arg-type]
