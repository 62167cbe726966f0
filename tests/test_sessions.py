"""Sessions as a service: what is asked of the store, what is given and refused, and who may name whom."""

import asyncio
import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from session_places import ROOT, Place, processes

from bartizan import Bartizan, ConsumerPrincipal, Misuse, NotFound, SessionPolicy, TokenVerifier, Unavailable
from bartizan.core.drive import run, settle
from bartizan.core.encoding import unbase64url
from bartizan.core.ports import SteppedClock
from bartizan.errors import Forbidden, InvalidSession, InvalidToken, Reason, Unauthenticated
from bartizan.operations.upkeep import Upkeep
from bartizan.sessions.families import FAMILIES
from bartizan.stores.memory import MemoryBackend
from bartizan.stores.waits import AsyncWaits, BlockingWaits
from bartizan.testing import FakeClock
from bartizan.testing.kit import acting_as


class Counted:
    """A store that counts its round trips."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        work = getattr(self.inner, name)

        def call(*args: Any, **more: Any) -> Any:
            self.calls.append(name)
            return work(*args, **more)

        return call


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[Place, list[str]]:
    monkeypatch.setattr(Upkeep, "need", lambda _: None)
    clock = FakeClock()
    backend = Counted(MemoryBackend(SteppedClock(clock)))
    place = Place(url=backend, at=clock, staleness=300)
    place.start()  # the signing keys are there
    return place, backend.calls


def test_round_trips(counted: tuple[Place, list[str]]) -> None:
    """One where the family is kept, two where it is not, none for a forgery; the window costs one more."""
    place, calls = counted

    def spent(work: Any) -> list[str]:
        calls.clear()
        work()
        return list(calls)

    assert spent(lambda: place.blocking.start(org="o", subject="s", guest=True)) == ["read"]
    pair: Any = None

    def start() -> None:
        nonlocal pair
        pair = place.blocking.start(org="o", subject="s")

    def refresh() -> None:
        nonlocal pair
        pair = place.blocking.refresh(pair.refresh_token)

    assert spent(start) == ["read", "change"]
    place.clock.advance(11)
    assert spent(refresh) == ["change"]  # it was kept when it began
    place.clock.advance(11)
    assert spent(refresh) == ["change"]
    before = pair
    assert spent(lambda: place.blocking.refresh(before.refresh_token)) == ["change", "read"]  # FRESH
    place.sessions._state.clear()
    place.clock.advance(11)
    assert spent(refresh) == ["get", "change"]
    assert spent(lambda: place.blocking.authenticate(pair.access_token)) == ["read", "change"]  # and it is confirmed
    assert spent(lambda: place.blocking.authenticate(pair.access_token)) == []
    with pytest.raises(InvalidSession):
        spent(lambda: place.blocking.refresh(pair.refresh_token[:-4] + "AAAA"))
    assert calls == []


def test_state_is_asked_in_one_round_trip(counted: tuple[Place, list[str]]) -> None:
    place, calls = counted
    pair = place.blocking.start(org="o", subject="s")
    place.blocking.authenticate(pair.access_token)
    place.sessions._state.clear()
    calls.clear()
    place.blocking.authenticate(pair.access_token)
    assert calls == ["read"]


def test_timing_of_unknown_vs_revoked(counted: tuple[Place, list[str]]) -> None:
    """Both cost the same round trips, and look the same."""
    place, calls = counted
    gone, ended = place.blocking.start(org="o", subject="s"), place.blocking.start(org="o", subject="s")
    place.blocking.revoke(ended.session.id, org="o")
    place.backend.inner._tables[FAMILIES.name].pop(gone.session.id)
    place.sessions._state.clear()
    costs, errors = [], []
    for pair in (gone, ended):
        calls.clear()
        with pytest.raises(InvalidSession) as caught:
            place.blocking.refresh(pair.refresh_token)
        costs.append(list(calls))
        errors.append((caught.value.problem, str(caught.value)))
    assert costs[0] == costs[1] == ["get"]
    assert errors[0] == errors[1]


def test_slow_request_two_rotations_behind() -> None:
    """A request that was read long ago finds the family two generations on only if a whole window has passed."""
    place = Place()
    pair = place.start()
    place.clock.advance(11)
    first = place.refresh(pair)
    for second in range(10):
        assert place.refresh(first).refresh == first.refresh, second  # nobody rotates a second time
        assert place.refresh(pair).refresh == first.refresh  # the slow one gets what the others got
        place.clock.advance(1)
    assert place.refresh(first).refresh != first.refresh
    assert place.events("session.reused") == 0


def test_slow_read_does_not_refill_revoked() -> None:
    """A read that began before the revocation and ends after it brings nothing back."""
    clock = FakeClock()
    inner = MemoryBackend(SteppedClock(clock))

    class Slow(Counted):
        held: asyncio.Event | None = None

        def __getattr__(self, name: str) -> Any:
            work = getattr(self.inner, name)

            async def call(*args: Any, **more: Any) -> Any:
                answer = await work(*args, **more)
                if name == "read" and self.held is not None:
                    held, self.held = self.held, None
                    await held.wait()
                return answer

            return call

    backend = Slow(inner)
    place = Place(url=backend, at=clock, staleness=300)

    async def play() -> None:
        pair = await place.sessions.start(org="o", subject="s")
        place.sessions._state.clear()
        held = backend.held = asyncio.Event()
        reading = asyncio.create_task(place.sessions.authenticate(pair.access_token))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await place.sessions.revoke(pair.session.id, org="o")
        held.set()
        await reading  # it was asked before
        with pytest.raises(InvalidSession):
            await place.sessions.authenticate(pair.access_token)

    asyncio.run(play())


def test_session_stampede_one_read() -> None:
    clock = FakeClock()
    backend = Counted(MemoryBackend(SteppedClock(clock)))

    class Yielding(Counted):
        def __getattr__(self, name: str) -> Any:
            work = super().__getattr__(name)

            async def call(*args: Any, **more: Any) -> Any:
                await asyncio.sleep(0)
                return await work(*args, **more)

            return call

    place = Place(url=Yielding(backend), at=clock, staleness=300)

    async def play() -> None:
        pair = await place.sessions.start(org="o", subject="s")
        await place.sessions.authenticate(pair.access_token)
        place.sessions._state.clear()
        backend.calls.clear()
        await asyncio.gather(*[place.sessions.authenticate(pair.access_token) for _ in range(50)])

    asyncio.run(play())
    assert backend.calls == ["read"]


def test_a_stampede_confirms_once() -> None:
    clock = FakeClock()
    backend = Counted(MemoryBackend(SteppedClock(clock)))
    place = Place(url=backend, at=clock, staleness=300)
    pair = place.start()
    backend.calls.clear()
    for _ in range(5):
        assert place.me(pair) == 200
    assert backend.calls.count("change") == 1


# --- what is given ---


def test_a_pair_says_when_it_ends_and_hides_what_it_is() -> None:
    place = Place(access=300, idle=1000)
    pair = place.blocking.start(org="org_1", subject="cons_1", scopes={"b:c", "a:b"}, factors={"otp": 5})
    now = place.clock()
    assert len(pair.refresh_token) == 95
    assert pair.refresh_token.startswith("rt_")
    assert now + 285 <= pair.access_expires_at <= now + 300
    assert pair.refresh_expires_at == now + 1000 == pair.session.expires_at
    assert (pair.session.org, pair.session.subject, pair.session.guest) == ("org_1", "cons_1", False)
    assert pair.access_token not in repr(pair)
    assert pair.refresh_token not in repr(pair)
    for steal in (pickle.dumps, copy.copy):
        with pytest.raises(Misuse):
            steal(pair)
    me = place.blocking.authenticate(pair.access_token)
    assert me.scopes == {"a:b", "b:c"}
    assert me.factors == {"otp": 5}
    following = place.blocking.refresh(pair.refresh_token)
    again = place.blocking.authenticate(following.access_token)
    assert (again.scopes, again.factors, again.session_id) == (me.scopes, me.factors, me.session_id)
    place.clock.advance(60)
    place.blocking.refresh(following.refresh_token)
    (session,) = place.blocking.list(org="org_1", subject="cons_1")
    assert session.last_seen_at >= session.created_at == now


def test_nothing_at_rest_is_a_token() -> None:
    """Whoever reads the store can make no token of it: a row has the salt, and not the key."""
    place = Place()
    pair = place.start()
    row = place.row(pair.body["session"])
    text = repr(row)
    for token in (pair.access, pair.refresh):
        for part in token.removeprefix("rt_").split("."):
            assert part not in text


def test_audience() -> None:
    place = Place(audience=["api", "admin"])
    everywhere = place.blocking.start(org="o", subject="s")
    only = place.blocking.start(org="o", subject="s", audience="admin")
    again = place.blocking.refresh(only.refresh_token)
    for pair, audience in ((everywhere, "api"), (everywhere, "admin"), (only, "admin"), (again, "admin")):
        assert place.blocking.authenticate(pair.access_token, audience=audience).subject == "s"
    for pair in (only, again):
        with pytest.raises(InvalidToken) as caught:
            place.blocking.authenticate(pair.access_token, audience="api")
        assert caught.value.reason is Reason.WRONG_AUDIENCE
    with pytest.raises(Misuse, match="audience"):
        place.blocking.start(org="o", subject="s", audience="elsewhere")


def test_verifiers_without_state_read_the_same_tokens() -> None:
    place = Place(issuer="shop", audience="api")
    pair = place.start()
    check = TokenVerifier(
        place.kit.security.blocking.signing_keys.jwks(), issuer="shop", audience="api", environment="test"
    )
    claims = check.verify(pair.access, now=place.clock()).claims
    assert (claims["sid"], claims["gen"], list(claims["epo"])) == (pair.body["session"], 0, [0, 0, 0])


@pytest.mark.parametrize(
    "fields",
    [
        {"org": ""}, {"org": "a\0"}, {"org": "x" * 129}, {"subject": ""}, {"subject": "a\n"}, {"subject": 5},
        {"scopes": "a:b"}, {"scopes": {"a b"}}, {"factors": {"otp": -1}}, {"factors": {"otp": True}},
        {"factors": {"o p": 1}}, {"scopes": {f"scope:{i}" for i in range(1000)}}, {"audience": "x"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("guest", [True, False])
def test_what_no_session_begins_with(fields: dict[str, Any], guest: bool) -> None:
    place = Place()
    with pytest.raises(Misuse):
        place.blocking.start(**{"org": "o", "subject": "s", "guest": guest, **fields})
    assert place.rows() == []


def test_the_longest_guest(tmp_path: Path) -> None:
    place = Place(url=f"sqlite:///{tmp_path}/a.db")
    with place.kit.security.blocking:
        org, subject = "\U0001f5dd" * 128, "é" * 128
        pair = place.blocking.start(
            org=org, subject=subject, guest=True, scopes={f"orders:{i:03}" for i in range(250)}, factors={"a": 1}
        )
        place.clock.advance(11)
        again = place.blocking.refresh(pair.refresh_token)
        me = place.blocking.authenticate(again.access_token)
        assert (me.org, me.subject, len(me.scopes)) == (org, subject, 250)


def test_services_name_what_they_lack() -> None:
    for arguments in ({}, {"issuer": "a"}, {"secrets": [ROOT]}, {"secrets": [ROOT], "audience": "a"}):
        security = Bartizan("memory://", environment="test", **arguments)
        with pytest.raises(Misuse, match="sessions need"):
            _ = security.sessions
        with pytest.raises(Misuse, match="sessions need"):
            _ = security.blocking.sessions


# --- whom one may name ---


def test_while_somebody_is_current_no_other_organization_is_found() -> None:
    place = Place()
    mine, theirs = place.start("org_1"), place.start("org_2")
    me = place.blocking.authenticate(mine.access)
    sessions = place.blocking
    with acting_as(me):
        for work in (
            lambda: sessions.start(org="org_2", subject="s"),
            lambda: sessions.revoke(theirs.body["session"], org="org_2"),
            lambda: sessions.revoke(theirs.body["session"], org="org_1"),
            lambda: sessions.revoke_subject(org="org_2", subject="cons_1"),
            lambda: sessions.revoke_org("org_2"),
            lambda: sessions.disable_subject(org="org_2", subject="cons_1"),
            lambda: sessions.enable_org("org_2"),
            lambda: sessions.disable_org("org_2"),
            lambda: sessions.list(org="org_2", subject="cons_1"),
            lambda: sessions.upgrade(sessions.authenticate(theirs.access), subject="cons_1"),
        ):
            with pytest.raises(NotFound):
                work()
        with pytest.raises(Forbidden):
            sessions.unsafe_revoke_everyone()
    assert place.me(mine) == place.me(theirs) == 200
    with place.kit.security.job("nightly"):
        assert sessions.unsafe_revoke_everyone() == 2
    assert place.events("organization.named") == 0


def test_ids_that_no_session_has_are_no_error() -> None:
    place = Place()
    for text in ("", "x", "f" * 31, "F" * 32, "f" * 33, "\ud800" * 32, "é" * 32):
        place.blocking.revoke(text, org="org_1")
    assert place.rows() == []


# --- asking the application ---


def test_settle_takes_plain_and_async_functions() -> None:
    async def slowly() -> str:
        await asyncio.sleep(0)
        return "async"

    async def badly() -> str:
        raise KeyError("secret")

    def worse() -> str:
        raise KeyError("secret")

    assert run(settle(lambda: "plain", BlockingWaits())) == "plain"
    assert asyncio.run(settle(slowly, AsyncWaits())) == "async"
    with pytest.raises(Misuse, match="plain one"):
        run(settle(slowly, BlockingWaits()))
    for asked in (badly, worse):
        with pytest.raises(Unavailable) as caught:
            asyncio.run(settle(asked, AsyncWaits()))
        assert caught.value.reason is Reason.CALLBACK_FAILED
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_settle_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bartizan.core.drive.SETTLED_WITHIN", 0.0)

    async def forever() -> None:
        await asyncio.Event().wait()

    async def own() -> None:
        raise TimeoutError

    for work in (forever, own):
        with pytest.raises(Unavailable) as caught:
            asyncio.run(settle(work, AsyncWaits()))
        assert caught.value.reason is Reason.CALLBACK_FAILED


def test_membership_may_be_asked_with_await() -> None:
    asked = []

    async def member_of(subject: str, org: str) -> bool:
        await asyncio.sleep(0)
        asked.append((subject, org))
        return org != "org_3"

    place = Place(member_of=member_of)

    async def play() -> None:
        pair = await place.sessions.start(org="org_1", subject="cons_1")
        other = await place.sessions.refresh(pair.refresh_token, org="org_2")
        assert (await place.sessions.authenticate(other.access_token)).org == "org_2"
        with pytest.raises(Forbidden):
            await place.sessions.refresh(pair.refresh_token, org="org_3")

    asyncio.run(play())
    assert asked == [("cons_1", "org_1"), ("cons_1", "org_2"), ("cons_1", "org_3")]
    with pytest.raises(Misuse):
        place.blocking.start(org="org_1", subject="cons_1")


def test_membership_is_asked_once_a_bound() -> None:
    asked: list[str] = []

    def member_of(_: str, org: str) -> bool:
        asked.append(org)
        return True

    place = Place(member_of=member_of, staleness=5)
    pair = place.start()
    for _ in range(10):
        assert place.me(pair) == 200
    assert asked == ["org_1"]
    place.clock.advance(5)
    place.me(pair)
    assert asked == ["org_1"] * 2


# --- streams, purging, edited tokens ---


def test_a_stream_outlives_its_token_and_two_rotations() -> None:
    place = Place()
    pair = place.start()
    me = place.blocking.authenticate(pair.access)
    token: Any = pair
    for _ in range(3):
        place.clock.advance(400)
        token = place.refresh(token)
        place.kit.security.blocking.recheck(me)
    place.blocking.revoke_subject(org="org_1", subject="cons_1")
    with pytest.raises(Unauthenticated):
        place.kit.security.blocking.recheck(me)


def test_what_is_over_is_removed() -> None:
    place = Place(idle=1000)
    place.start()
    place.clock.advance(1000 + 3600)
    run(place.backend.purge(FAMILIES))
    assert place.rows() == []


def test_upkeep_removes_sessions() -> None:
    place = Place(idle=1000)
    place.start()
    place.clock.advance(1000 + 3600)
    place.kit.security._shared._purge(place.backend)
    assert place.rows() == []


def test_claims_that_do_not_fit_their_session() -> None:
    """sid_mismatch, gen_stale: signed by us, and still no word about somebody else's session."""
    from token_forge import Forge

    place = Place()
    forge = Forge(place.kit)
    theirs = place.start(subject="cons_2")
    kit = place.kit
    for claims in (
        {"sid": theirs.body["session"]}, {"sid": "0" * 32}, {"sid": "x"}, {"sub": "cons_9"}, {"org": "org_9", "epo": ...}, {"gen": 1}, {"gen": 10**15}, {"guest": True, "sid": "0" * 32, "epo": ...},
        {"epo": [0, 0]}, {"epo": [0, 0, "0"]}, {"epo": [0, 0, True]}, {"epo": {"a": 1}}, {"epo": "000"},
    ):  # fmt: skip
        with pytest.raises(Unauthenticated):
            kit.security.blocking.sessions.authenticate(forge.with_claims(**claims))
    assert kit.security.blocking.sessions.authenticate(forge.with_claims(epo=...)).subject == "cons_1"


def test_a_guests_refresh_token_says_its_row_and_no_more() -> None:
    place = Place()
    pair = place.start(guest=True, subject="guest_1")
    body = (unbase64url(pair.refresh.removeprefix("rt_").split(".")[0]) or b"")[22 + 14 :]
    org, subject, granted, epochs, *_ = json.loads(body)
    assert (org, subject, granted, epochs) == ("org_1", "guest_1", [None, [], {}], [0, 0, 0])


def test_processes_share_what_the_store_has() -> None:
    here, there = processes(staleness=300)
    guest = here.start(guest=True)
    assert there.me(guest) == 200
    here.clock.advance(11)
    stored = here.refresh(guest)
    assert there.me(stored) == 200  # above what it kept: nothing
    there.blocking.revoke(guest.body["session"], org="org_1")
    assert there.me(stored) == 401


def test_a_store_that_fails_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(staleness=0)
    pair = place.start()

    async def failing(*_: Any, **__: Any) -> Any:
        raise Unavailable

    for name in ("get", "read", "change"):
        monkeypatch.setattr(place.backend, name, failing)
    assert place.me(pair) == place.refresh(pair).status == 503
    assert SessionPolicy().grace == 10
    assert issubclass(ConsumerPrincipal, object)
