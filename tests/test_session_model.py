"""Whatever clients, thieves, crashes and cancellations do, a family moves as the decision says: a model beside it.

After each step the row in the store is held against the row before. Invariants: I1 one rotation a window, I2 one
successor, I3 nothing ends a family but reuse or who may, I4 two generations behind ends it, I5 its end is final,
I6 an answer in the window writes nothing.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from cancelling import ended
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from session_places import ROOT

from bartizan import SessionPolicy, TokenPair
from bartizan.core.drive import run
from bartizan.core.events import OUTBOX
from bartizan.core.ports import SteppedClock
from bartizan.errors import InvalidSession, SessionReused, Unauthenticated, Unavailable
from bartizan.operations.upkeep import Upkeep
from bartizan.sessions.families import FAMILIES, FamilyRow
from bartizan.sessions.refresh import DAY, LATE_A_DAY, lates
from bartizan.stores.memory import MemoryBackend
from bartizan.stores.sqlite import SqliteFile
from bartizan.testing import FakeClock, Kit

GRACE, RECOVERY = 10, 3600


class Frail:
    """A store that lets others run around each thing it does, and fails at the `fail`-th: before it, or after it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.fail = 0
        self.lost = False  # whether what fails had been done
        self.calls = 0

    async def _done(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        self.calls += 1
        fails = self.calls == self.fail
        await asyncio.sleep(0)
        if fails and not self.lost:
            raise Unavailable
        answer = await work()
        await asyncio.sleep(0)
        if fails:
            raise Unavailable
        return answer

    async def get(self, *args: Any) -> Any:
        return await self._done(lambda: self.inner.get(*args))

    async def read(self, *refs: Any) -> Any:
        return await self._done(lambda: self.inner.read(*refs))

    async def find(self, *args: Any, **more: Any) -> Any:
        return await self._done(lambda: self.inner.find(*args, **more))

    async def change(self, *args: Any, **more: Any) -> Any:
        return await self._done(lambda: self.inner.change(*args, **more))

    async def purge(self, *args: Any, **more: Any) -> int:
        return int(await self._done(lambda: self.inner.purge(*args, **more)))


class Families(RuleBasedStateMachine):
    store: ClassVar[str] = "memory"
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.place = Path(tempfile.mkdtemp())
        self.file: SqliteFile | None = None
        if self.store == "sqlite":
            self.file = SqliteFile(self.place / "store.db", SteppedClock(self.clock))
        inner = MemoryBackend(SteppedClock(self.clock)) if self.file is None else self.file.blocking
        self.backend = Frail(inner)
        policy = SessionPolicy(grace=GRACE, recovery=RECOVERY)
        self.kits = [
            Kit(url=self.backend, clock=self.clock, secrets=[ROOT], sessions=policy, staleness=staleness)
            for staleness in (0, 5, 300)
        ]
        self.texts: dict[int, str] = {}
        self.family = ""

    def teardown(self) -> None:
        for kit in self.kits:
            kit.security._shared.close()
        if self.file is not None:
            self.file.close()
        shutil.rmtree(self.place)

    @property
    def row(self) -> FamilyRow:
        found = run(self.backend.inner.get(FAMILIES, self.family))
        assert found is not None
        return found  # type: ignore[no-any-return]

    def done(self, work: Coroutine[Any, Any, Any], how: tuple[str, int] = ("whole", 0)) -> Any:
        """What comes of it: a value, an error, or None where its caller was gone."""
        kind, number = how
        self.backend.calls, self.backend.fail, self.backend.lost = 0, 0, kind == "lost"
        if kind in {"fails", "lost"}:
            self.backend.fail = number
        try:
            if kind == "cancelled":
                answer: list[Any] = []

                async def kept() -> None:
                    answer.append(await work)

                asyncio.run(ended(number, kept()))
                return answer[0] if answer else None
            return asyncio.run(work)
        except (Unauthenticated, Unavailable) as error:
            return error
        finally:
            self.backend.fail = 0

    @initialize(target=tokens)
    def begin(self) -> tuple[str, int, str]:
        pair: TokenPair = self.done(self.kits[0].security.sessions.start(org="o", subject="s"))
        self.family = pair.session.id
        self.texts = {0: pair.refresh_token}
        self.access = {0: pair.access_token}
        return self.family, 0, pair.refresh_token

    @precondition(lambda self: self.row.revoked_at is not None)
    @rule(target=tokens)
    def begin_again(self) -> tuple[str, int, str]:
        return cast("tuple[str, int, str]", self.begin())

    @rule(seconds=st.sampled_from([1, 4, 9, 10, 11, 30, 600, 3600, 3700, DAY]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    hows = st.tuples(st.sampled_from(["whole", "whole", "fails", "lost", "cancelled"]), st.integers(1, 14))

    @rule(target=tokens, token=tokens, process=st.integers(0, 2), how=hows)
    def refreshed(self, token: tuple[str, int, str], process: int, how: tuple[str, int]) -> tuple[str, int, str]:
        family, generation, text = token
        if family != self.family:
            return token
        before, now = self.row, self.clock()
        answer = self.done(self.kits[process].security.sessions.refresh(text), how)
        after = self.row
        behind = before.generation - generation
        age = now - before.rotated_at
        dead = before.revoked_at is not None or now >= min(before.idle_ends, before.absolute_ends)
        may_be_late = before.confirmed == 2 or (not before.confirmed and lates(before, now) < LATE_A_DAY)
        reuse = not dead and (behind > 1 or (behind == 1 and age > (RECOVERY if may_be_late else GRACE)))
        gone = answer is None or type(answer) is Unavailable
        if dead:
            assert after == before  # I5
            assert gone or isinstance(answer, InvalidSession)
        elif after == before:  # I6, or whoever asked was gone before anything was done
            assert not reuse or gone  # I4
            assert gone or not isinstance(answer, InvalidSession)
            assert gone or (age < GRACE if behind == 0 else age <= (RECOVERY if before.confirmed == 2 else GRACE))
        elif after.revoked_at is not None:
            assert reuse  # I3
            assert after == replace(before, revoked_at=now, revoked_for="session_reused")
            assert gone or isinstance(answer, SessionReused)
        elif after.generation != before.generation:
            assert behind == 0
            assert age >= GRACE  # I1
            assert (after.generation, after.previous_salt) == (before.generation + 1, before.salt)
            assert after.salt != before.salt
            assert (after.rotated_at, after.confirmed) == (now, 0)
        else:
            assert behind == 1
            assert may_be_late
            assert GRACE < age <= RECOVERY
            assert not before.confirmed
            assert after == replace(before, confirmed=2, late=now // DAY * 1000 + lates(before, now) + 1)
        if isinstance(answer, TokenPair):
            assert not dead
            assert not reuse
            number = after.generation
            assert self.texts.setdefault(number, answer.refresh_token) == answer.refresh_token  # I2
            self.access[number] = answer.access_token
            return family, number, answer.refresh_token
        return token

    @rule(target=tokens, seconds=st.integers(9, 12), process=st.integers(0, 2), use=st.booleans())
    def went_on(self, seconds: int, process: int, use: bool) -> tuple[str, int, str]:
        """What clients do all day: the newest token, a while later, and its access token is used or not."""
        self.clock.advance(seconds)
        newest = max(self.texts)
        token = self.refreshed((self.family, newest, self.texts[newest]), process, ("whole", 0))
        if use:
            self.used(process, 0, ("whole", 0))
        return cast("tuple[str, int, str]", token)

    @rule(token=tokens, moment=st.integers(1, 6), process=st.integers(0, 2))
    def hang_up_after_reuse(self, token: tuple[str, int, str], moment: int, process: int) -> None:
        """Who presents what is used up, and hangs up at whatever moment, has been found all the same."""
        before, now = self.row, self.clock()
        dead = before.revoked_at is not None or now >= min(before.idle_ends, before.absolute_ends)
        if token[0] != self.family or dead or before.generation - token[1] < 2:
            return
        self.done(self.kits[process].security.sessions.refresh(token[2]), ("cancelled", moment))
        assert self.row.revoked_for == "session_reused"

    @rule(process=st.integers(0, 2), behind=st.integers(0, 3), how=hows)
    def used(self, process: int, behind: int, how: tuple[str, int]) -> None:
        before = self.row
        number = before.generation - behind
        if number not in self.access:
            return
        answer = self.done(self.kits[process].security.sessions.authenticate(self.access[number]), how)
        after = self.row
        assert after in {before, replace(before, confirmed=1)}
        if after != before:
            assert number == before.generation
            assert before.revoked_at is None
        if process == 0 and not isinstance(answer, Exception) and answer is not None:  # it keeps nothing
            assert before.revoked_at is None
            assert behind <= 1
            assert behind == 1 or after.confirmed == 1 or how[0] != "whole"  # it is not what lets anybody in

    @rule(process=st.integers(0, 2), how=hows)
    def logged_out(self, process: int, how: tuple[str, int]) -> None:
        if process != 2 or how[0] == "whole":
            return  # seldom
        before = self.row
        answer = self.done(self.kits[process].security.sessions.revoke(self.family, org="o"), how)
        after = self.row
        if before.revoked_at is not None:
            assert after == before
        elif after != before:
            assert after == replace(before, revoked_at=self.clock())
        else:
            assert type(answer) is Unavailable or how[0] == "cancelled"

    def told(self, name: str) -> int:
        events = run(self.backend.inner.find(OUTBOX, (), limit=1000))
        return sum(event.name == name and event.target == self.family for event in events)

    @invariant()
    def an_end_has_one_event(self) -> None:
        if self.family:
            ends = self.told("session.reused") + self.told("session.revoked")
            assert ends == (self.row.revoked_at is not None)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_families_move_as_decided(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = type("Machine", (Families,), {"store": store})
    monkeypatch.setattr(Upkeep, "need", lambda _: None)  # its thread would be at the store too
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=120 if store == "memory" else 40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
