"""Many at once: one rotation, one successor, and no session that outlives its end."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cancelling import ended
from session_places import ROOT, stores

from bartizan import ConsumerPrincipal, TokenPair
from bartizan.core.drive import run
from bartizan.core.events import OUTBOX
from bartizan.core.tables import Backend
from bartizan.errors import Conflict, Forbidden, InvalidSession, Rejected
from bartizan.sessions.families import FAMILIES, FamilyRow
from bartizan.sessions.sessions import Sessions
from bartizan.testing import FakeClock, Kit


class Shop:
    """Two processes over one store of a kind, in both forms."""

    def __init__(self, kind: str, path: Path, **arguments: Any) -> None:
        self.clock = FakeClock()
        url = stores(path)[kind](self.clock)
        self.kits = [Kit(url=url, clock=self.clock, secrets=[ROOT], **arguments) for _ in range(2)]

    def __enter__(self) -> "Shop":  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        for kit in self.kits:
            kit.security._shared.close()

    def start(self, **fields: Any) -> TokenPair:
        return self.kits[0].security.blocking.sessions.start(**{"org": "o", "subject": "s", **fields})

    @property
    def backend(self) -> Backend:
        backend = self.kits[0].security._shared.blocking_side.backend
        assert backend is not None
        return backend

    def rows(self) -> list[FamilyRow]:
        return list(run(self.backend.find(FAMILIES, (), limit=1000)))

    def told(self, name: str) -> int:
        return sum(event.name == name for event in run(self.backend.find(OUTBOX, (), limit=10_000)))

    def together(self, form: str, works: list[Callable[[Any], Any]]) -> list[Any]:
        """What comes of works that all begin at the same time, half of them in each process; errors too."""
        if form == "threads":
            gate = threading.Barrier(len(works))

            def one(number: int) -> Any:
                gate.wait(30)
                try:
                    return works[number](self.kits[number % 2].security.blocking.sessions)
                except Rejected as error:
                    return error

            with ThreadPoolExecutor(len(works)) as pool:
                return list(pool.map(one, range(len(works))))

        async def all_() -> list[Any]:
            begun = [work(self.kits[number % 2].security.sessions) for number, work in enumerate(works)]
            return await asyncio.gather(*begun, return_exceptions=True)

        return asyncio.run(all_())


def _refreshing(token: str) -> Callable[[Any], Any]:
    return lambda sessions: sessions.refresh(token)


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["threads", "tasks"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("callers", [16, 64])
def test_refresh_x16_same_token(kind: str, form: str, callers: int, tmp_path: Path) -> None:
    """Burst after burst there is one rotation, and all callers have the same successor."""
    with Shop(kind, tmp_path) as shop:
        token = shop.start().refresh_token
        for burst in range(1, 11):
            shop.clock.advance(11)
            pairs = shop.together(form, [_refreshing(token)] * callers)
            assert {type(pair) for pair in pairs} == {TokenPair}
            assert len({pair.refresh_token for pair in pairs}) == 1
            (row,) = shop.rows()
            assert row.generation == burst
            token = pairs[0].refresh_token
        assert shop.told("session.reused") == 0


@pytest.mark.parametrize("callers", [16, 64])
def test_a_guests_first_refresh_writes_one_row(kind: str, form: str, callers: int, tmp_path: Path) -> None:
    with Shop(kind, tmp_path) as shop:
        token = shop.start(guest=True).refresh_token
        pairs = shop.together(form, [lambda sessions: sessions.refresh(token)] * callers)
        assert len({pair.refresh_token for pair in pairs}) == 1
        (row,) = shop.rows()
        assert row.generation == 1


def test_reuse_is_told_once(kind: str, form: str, tmp_path: Path) -> None:
    with Shop(kind, tmp_path) as shop:
        first = shop.start().refresh_token
        token = first
        for _ in range(2):
            shop.clock.advance(11)
            token = shop.kits[1].security.blocking.sessions.refresh(token).refresh_token
        answers = shop.together(form, [lambda sessions: sessions.refresh(first)] * 16)
        assert all(isinstance(answer, InvalidSession) for answer in answers)
        assert shop.told("session.reused") == 1


def test_logout_races_refresh(kind: str, form: str, tmp_path: Path) -> None:
    """CWE-362: whoever is first, nothing that came of it lives when the session has been ended."""
    raced("revoke", kind, form, tmp_path)


@pytest.mark.parametrize("end", ["revoke_subject", "revoke_org", "unsafe_revoke_everyone", "disable_subject"])
def test_revoke_all_races_refresh(kind: str, form: str, end: str, tmp_path: Path) -> None:
    """As above, where all of somebody's sessions are ended at once."""
    raced(end, kind, form, tmp_path)


def raced(end: str, kind: str, form: str, tmp_path: Path) -> None:
    with Shop(kind, tmp_path, staleness=0) as shop:
        for _ in range(5):
            pair = shop.start()
            shop.clock.advance(11)
            ends: dict[str, Callable[[Any], Any]] = {
                "revoke": lambda s, pair=pair: s.revoke(pair.session.id, org="o"),  # type: ignore[misc]
                "revoke_subject": lambda s: s.revoke_subject(org="o", subject="s"),
                "revoke_org": lambda s: s.revoke_org("o"),
                "unsafe_revoke_everyone": lambda s: s.unsafe_revoke_everyone(),
                "disable_subject": lambda s: s.disable_subject(org="o", subject="s"),
            }
            works: list[Callable[[Any], Any]] = [
                *[lambda s, pair=pair: s.refresh(pair.refresh_token)] * 4,
                ends[end],
                *[lambda s, pair=pair: s.refresh(pair.refresh_token)] * 4,
            ]
            got = [answer for answer in shop.together(form, works) if isinstance(answer, TokenPair)]
            for each in [pair, *got]:
                for kit in shop.kits:
                    with pytest.raises(InvalidSession):
                        kit.security.blocking.sessions.authenticate(each.access_token)
                    with pytest.raises(InvalidSession):
                        kit.security.blocking.sessions.refresh(each.refresh_token)
            if end == "disable_subject":
                shop.kits[0].security.blocking.sessions.enable_subject(org="o", subject="s")


def test_a_start_that_races_the_end_of_all_lives_only_if_it_came_after(kind: str, form: str, tmp_path: Path) -> None:
    """A session in whose epoch everything was ended is not begun: it is begun anew, or ended with the others."""
    with Shop(kind, tmp_path, staleness=0) as shop:
        for _ in range(5):
            works: list[Callable[[Any], Any]] = [
                *[lambda s: s.start(org="o", subject="s")] * 4,
                lambda s: s.disable_subject(org="o", subject="s"),
                *[lambda s: s.start(org="o", subject="s")] * 4,
            ]
            answers = shop.together(form, works)
            for each in answers:
                if isinstance(each, TokenPair):
                    with pytest.raises(InvalidSession):
                        shop.kits[0].security.blocking.sessions.authenticate(each.access_token)
                else:
                    assert each is None or isinstance(each, Forbidden)
            shop.kits[0].security.blocking.sessions.enable_subject(org="o", subject="s")


def test_at_most_so_many_sessions_however_many_begin_at_once(kind: str, form: str, tmp_path: Path) -> None:
    from bartizan import SessionPolicy

    with Shop(kind, tmp_path, sessions=SessionPolicy(per_subject=3)) as shop:
        pairs = shop.together(form, [lambda s: s.start(org="o", subject="s")] * 16)
        assert {type(pair) for pair in pairs} == {TokenPair}
        assert len([row for row in shop.rows() if row.revoked_at is None]) == 3
        assert len(shop.kits[0].security.blocking.sessions.list(org="o", subject="s")) == 3


def test_one_of_many_upgrades(kind: str, form: str, tmp_path: Path) -> None:
    with Shop(kind, tmp_path) as shop:
        for stored in (False, True):
            pair = shop.start(guest=True)
            if stored:
                pair = shop.kits[0].security.blocking.sessions.refresh(pair.refresh_token)
            me = shop.kits[0].security.blocking.sessions.authenticate(pair.access_token)
            answers = shop.together(form, [lambda s, me=me: s.upgrade(me, subject="s")] * 8)  # type: ignore[misc]
            assert [type(answer) for answer in answers].count(TokenPair) == 1
            assert all(isinstance(answer, (TokenPair, InvalidSession)) for answer in answers)


# --- whoever hangs up ---


def test_hang_up_after_reuse(kind: str, tmp_path: Path) -> None:
    """Who presents what is used up and hangs up at once has been found all the same, at whatever moment it was."""
    for moment in range(1, 9):
        place = tmp_path / str(moment)
        place.mkdir()
        with Shop(kind, place) as shop:
            first = shop.start().refresh_token
            token = first
            for _ in range(2):
                shop.clock.advance(11)
                token = shop.kits[1].security.blocking.sessions.refresh(token).refresh_token
            asyncio.run(hung_up(shop, moment, first))
            assert shop.told("session.reused") == 1
            (row,) = shop.rows()
            assert row.revoked_for == "session_reused"


async def hung_up(shop: Shop, moment: int, token: str) -> None:
    with suppress(InvalidSession):
        await ended(moment, shop.kits[0].security.sessions.refresh(token))


METHODS: dict[str, Callable[[Sessions, TokenPair, ConsumerPrincipal], Coroutine[Any, Any, Any]]] = {
    "start": lambda s, _, __: s.start(org="o", subject="s"),
    "refresh": lambda s, pair, _: s.refresh(pair.refresh_token),
    "authenticate": lambda s, pair, _: s.authenticate(pair.access_token),
    "upgrade": lambda s, _, me: s.upgrade(me, subject="s", factors={"otp": 1}),
    "revoke": lambda s, pair, _: s.revoke(pair.session.id, org="o"),
    "revoke_subject": lambda s, _, __: s.revoke_subject(org="o", subject="s"),
    "disable_subject": lambda s, _, __: s.disable_subject(org="o", subject="s"),
    "list": lambda s, _, __: s.list(org="o", subject="s"),
}


@pytest.mark.parametrize("method", METHODS)
def test_cancelled_after_every_await(method: str, kind: str, tmp_path: Path) -> None:
    """The change and its event are both there or neither is, and nothing that was ended is remembered as living."""
    for moment in range(1, 60):
        place = tmp_path / str(moment)
        place.mkdir()
        with Shop(kind, place) as shop:
            pair = shop.start()
            shop.clock.advance(11)
            security = shop.kits[0].security
            me = security.blocking.sessions.authenticate(pair.access_token)
            done = asyncio.run(ended(moment, METHODS[method](security.sessions, pair, me)))
            rows = shop.rows()
            assert shop.told("session.started") + shop.told("session.upgraded") == len(rows)
            stopped = [row for row in rows if row.revoked_at is not None]
            assert shop.told("session.revoked") + shop.told("session.upgraded") == len(stopped)
            over = bool(stopped) or shop.told("subject.revoked") or shop.told("subject.disabled")
            try:
                security.blocking.sessions.authenticate(pair.access_token)
                lives = True
            except InvalidSession:
                lives = False
            assert lives is not bool(over)
            if done:
                return
    raise AssertionError("it never ended")


def test_what_was_cancelled_can_be_repeated(kind: str, tmp_path: Path) -> None:
    for moment in range(1, 8):
        for method in ("refresh", "revoke", "revoke_subject", "upgrade"):
            place = tmp_path / f"{method}{moment}"
            place.mkdir()
            with Shop(kind, place) as shop:
                pair = shop.start()
                shop.clock.advance(11)
                security = shop.kits[0].security
                me = security.blocking.sessions.authenticate(pair.access_token)
                asyncio.run(ended(moment, METHODS[method](security.sessions, pair, me)))
                try:
                    asyncio.run(METHODS[method](security.sessions, pair, me))
                except (InvalidSession, Conflict):
                    assert method == "upgrade"  # it had been done
                assert shop.told("session.reused") == 0
