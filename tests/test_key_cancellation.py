"""A caller that hangs up at any moment of any key method: the change and its event are both there, or neither is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cancelling import ended

from bartizan.core.drive import run
from bartizan.core.events import OUTBOX
from bartizan.core.ring import new_root
from bartizan.core.tables import AnyStep, Backend
from bartizan.credentials.key_rows import KEYS
from bartizan.credentials.keys import Keys
from bartizan.errors import Conflict, InvalidKey
from bartizan.stores.memory import MemoryBackend
from bartizan.testing.clock import FakeClock
from bartizan.testing.kit import Kit
from bartizan.types import IssuedKey

OLD, NEW = new_root(), new_root()


class Slow:
    """A store that lets everybody else run before and after each thing it does."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        yield
        await asyncio.sleep(0)

    async def get(self, *args: Any) -> Any:
        async with self.aside():
            return await self.inner.get(*args)

    async def read(self, *refs: Any) -> Any:
        async with self.aside():
            return await self.inner.read(*refs)

    async def find(self, *args: Any, **more: Any) -> Any:
        async with self.aside():
            return await self.inner.find(*args, **more)

    async def change(self, step: Any, /, *, also: Sequence[AnyStep] = ()) -> Any:
        async with self.aside():
            return await self.inner.change(step, also=also)

    async def purge(self, *args: Any, **more: Any) -> int:
        async with self.aside():
            return await self.inner.purge(*args, **more)


METHODS: dict[str, Callable[[Keys, IssuedKey], Coroutine[Any, Any, Any]]] = {
    "create": lambda keys, _: keys.create(org="o", kind="secret"),
    "get": lambda keys, key: keys.get(key.record.id, org="o"),
    "list": lambda keys, _: keys.list(org="o"),
    "rotate": lambda keys, key: keys.rotate(key.record.id, org="o"),
    "revoke": lambda keys, key: keys.revoke(key.record.id, org="o"),
    "disable": lambda keys, key: keys.disable(key.record.id, org="o"),
    "enable": lambda keys, key: keys.enable(key.record.id, org="o"),
    "authenticate": lambda keys, key: keys.authenticate(key.key),
    "report_leak": lambda keys, key: keys.report_leak(key.key),
}
EVENTS = {"create": "key.created", "rotate": "key.rotated", "revoke": "key.revoked", "disable": "key.disabled",
          "enable": "key.enabled", "authenticate": "key.resealed", "report_leak": "key.revoked"}  # fmt: skip


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("method", METHODS)
def test_cancelled_after_every_await_of_every_key_method(method: str, store: str, tmp_path: Path) -> None:
    clock = FakeClock()
    for moment in range(1, 200):
        url: Any = f"sqlite:///{tmp_path}/{moment}.db" if store == "sqlite" else Slow(MemoryBackend(clock))
        plain = url if store == "sqlite" else url.inner
        before = Kit(url=plain, clock=clock, secrets=[OLD])
        with before.security.blocking as blocking:
            key = before.key(org="o")
            if method == "enable":
                blocking.keys.disable(key.record.id, org="o")
        kit = Kit(url=url, clock=clock, secrets=[NEW, OLD])
        done = asyncio.run(ended(moment, METHODS[method](kit.security.keys, key)))
        kit.security._shared.close()
        after = Kit(url=plain, clock=clock, secrets=[NEW, OLD])
        with after.security.blocking:
            whole(after, key, method, done=done)
            if done:
                return
    raise AssertionError("it never ended")


def whole(kit: Kit, key: IssuedKey, method: str, *, done: bool) -> None:
    backend = kit.security._shared.blocking_side.backend
    assert backend is not None
    rows = {row.id: row for row in run(backend.find(KEYS, ()))}
    names = [event.name for event in run(backend.find(OUTBOX, ()))]
    row = rows[key.record.id]
    assert names.count("key.created") + names.count("key.rotated") == len(rows)
    assert names.count("key.revoked") == (row.revoked_at is not None)
    assert names.count("key.disabled") - names.count("key.enabled") == (row.disabled_at is not None)
    assert names.count("key.rotated") == (row.successor is not None) == (row.successor in rows)
    assert names.count("key.resealed") == (row.pepper == NEW.split("_")[1])
    assert not done or method not in EVENTS or EVENTS[method] in names
    try:
        kit.security.blocking.keys.authenticate(key.key)
        lives = True
    except InvalidKey:
        lives = False
    assert lives is (row.revoked_at is None and row.disabled_at is None)


@pytest.mark.parametrize("method", ["revoke", "disable", "rotate"])
def test_what_was_cancelled_can_be_repeated(method: str, tmp_path: Path) -> None:
    clock = FakeClock()
    for moment in range(1, 12):
        backend = Slow(MemoryBackend(clock))
        kit = Kit(url=backend, clock=clock, secrets=[NEW])
        key = Kit(url=backend.inner, clock=clock, secrets=[NEW]).key(org="o")
        asyncio.run(ended(moment, METHODS[method](kit.security.keys, key)))
        try:
            asyncio.run(METHODS[method](kit.security.keys, key))
        except Conflict:
            assert method == "rotate"  # it had been done
        names = [event.name for event in run(backend.inner.find(OUTBOX, ()))]
        assert names.count(EVENTS[method]) == 1
