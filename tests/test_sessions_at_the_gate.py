"""Attacks on sessions as requests, through both adapters."""

from collections.abc import Callable
from contextvars import Context
from typing import Any

import pytest
from session_places import DAY, ROOT, Place, processes

from bartizan import Misuse, Rule, SessionPolicy, allow
from bartizan.core.ring import new_root
from bartizan.stores.memory import MemoryBackend

Make = Callable[..., Place]


@pytest.fixture(params=["asgi", "wsgi"])
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(adapter: str) -> Place:
    return Place(adapter)


def changed(text: str, at: int) -> str:
    """The text with another letter there."""
    at %= len(text)
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def rotated(place: Place, pair: Any, *, used: bool = True) -> Any:
    """The next pair after the window, its access token used."""
    place.clock.advance(11)
    reply = place.refresh(pair)
    assert reply.status == 200
    assert reply.refresh != pair.refresh
    if used:
        assert place.me(reply) == 200
    return reply


# --- the usual day ---


def test_a_session_goes_on_by_refreshing(place: Place) -> None:
    pair = place.start()
    for _ in range(20):
        assert place.me(pair) == 200
        pair = rotated(place, pair)
    assert place.row(pair.body["session"]).generation == 20  # type: ignore[union-attr]


def test_refresh_reordered_responses(place: Place) -> None:
    """Six tabs at once, their answers in any order: every one has the same successor, and whichever comes last works."""
    pair = place.start()
    for _ in range(4):
        place.clock.advance(11)
        replies = [place.refresh(pair) for _ in range(6)]
        assert {reply.status for reply in replies} == {200}
        assert len({reply.refresh for reply in replies}) == 1
        assert {place.me(reply) for reply in replies} == {200}
        pair = replies[2]
    assert place.events("session.reused") == 0


@pytest.mark.parametrize(("seconds", "status"), [(1, 200), (10, 200), (600, 200), (3600, 200), (7200, 401)])
def test_refresh_lost_response(place: Place, seconds: int, status: int) -> None:
    """The answer never arrived, so its tokens were never used: the same successor, for an hour."""
    pair = place.start()
    place.clock.advance(11)
    lost = place.refresh(pair)
    place.clock.advance(seconds)
    again = place.refresh(pair)
    assert again.status == status
    if status == 200:
        assert again.refresh == lost.refresh
        assert place.me(again) == 200
        rotated(place, again)
    assert place.events("session.recovered") == (seconds in (600, 3600))


def test_lost_responses_are_recovered_twice_a_day(place: Place) -> None:
    pair = place.start()
    for _ in range(2):
        place.clock.advance(11)
        place.refresh(pair)
        place.clock.advance(60)
        again = place.refresh(pair)
        assert again.status == 200
        assert place.me(again) == 200
        pair = again
    place.clock.advance(11)
    place.refresh(pair)
    place.clock.advance(60)
    assert place.refresh(pair).status == 401
    assert place.events("session.reused") == 1


# --- theft ---


def test_refresh_gen_minus_2(place: Place) -> None:
    first = place.start()
    second = rotated(place, first)
    third = rotated(place, second)
    assert place.refresh(first).status == 401
    assert place.events("session.reused") == 1
    assert place.refresh(third).status == place.me(third) == 401  # both parties are out
    assert place.row(first.body["session"]).revoked_for == "session_reused"  # type: ignore[union-attr]


def test_refresh_prev_after_grace(place: Place) -> None:
    first = place.start()
    second = rotated(place, first)
    assert place.refresh(first).status == 200  # in the window: the same successor
    place.clock.advance(11)
    reply = place.refresh(first)
    assert (reply.status, reply.body["code"]) == (401, "session_reused")
    assert place.refresh(second).status == place.me(second) == 401


def test_grace_cannot_be_extended(place: Place) -> None:
    first = place.start()
    rotated(place, first)
    answered = []
    for _ in range(3):
        place.clock.advance(4)
        answered.append(place.refresh(first).status)
    assert answered == [200, 200, 401]
    assert place.events("session.reused") == 1


def test_grace_second_generation(place: Place) -> None:
    """Of generations older than the one before none is in any window (django-oauth-toolkit 1617)."""
    first = place.start()
    second = rotated(place, first)
    place.clock.advance(10)
    third = place.refresh(second)
    assert third.status == 200
    assert place.refresh(first).status == 401
    assert place.refresh(third).status == 401


def test_fork_in_grace(place: Place) -> None:
    """A thief who refreshes in the window gets no chain of their own: it is everybody's successor."""
    first = place.start()
    mine = rotated(place, first)
    theirs = place.refresh(first)
    assert theirs.refresh == mine.refresh
    rotated(place, theirs)
    place.clock.advance(11)
    assert place.refresh(mine).status == 401
    assert place.events("session.reused") == 1


def test_parasite_poll_5s(place: Place) -> None:
    """A thief who asks with what they have every five seconds walks along until the first window closes on them."""
    mine = theirs = place.start()
    for second in range(0, 600, 5):
        place.clock.advance(5)
        if second % 300 == 0:
            mine = place.refresh(mine)
            if mine.status != 200:
                break
            place.me(mine)
        taken = place.refresh(theirs)
        if taken.status != 200:
            break
        theirs = taken
        place.me(theirs)
    else:
        place.clock.advance(11)
        assert place.refresh(mine).status == 401
    assert place.events("session.reused") == 1


def test_silent_rotator(place: Place) -> None:
    """A thief who rotates and never uses what they get is found when the owner's recoveries are used up."""
    mine = theirs = place.start()
    for _ in range(10):
        place.clock.advance(300)
        theirs = place.refresh(theirs)
        place.clock.advance(30)
        mine = place.refresh(mine)
        if mine.status != 200:
            break
    assert place.events("session.reused") == 1


def test_silent_rotator_is_found_at_once_where_recovery_is_off(adapter: str) -> None:
    place = Place(adapter, recovery=0)
    pair = place.start()
    place.clock.advance(11)
    theirs = place.refresh(pair)
    place.clock.advance(11)
    assert place.refresh(pair).status == place.refresh(theirs).status == 401


def test_the_access_token_of_a_fork_is_refused(place: Place) -> None:
    """Fork rejection costs a client that is behind one refresh, never its session."""
    first = place.start()
    second = rotated(place, first)
    assert place.me(first) == 200
    third = rotated(place, second)
    assert place.me(first) == 401
    assert place.reason == "session_forked"
    assert place.me(second) == place.me(third) == 200


def test_forged_generation_cannot_kill(place: Place) -> None:
    """Without the MAC nobody says a generation: no store is asked, and the session goes on."""
    first = place.start()
    pair = rotated(place, rotated(place, first))
    asked: list[str] = []

    def refuse(*_: Any) -> Any:
        asked.append("store")
        raise AssertionError("a forged token asks no store")

    real = MemoryBackend.read, MemoryBackend.get, MemoryBackend.change
    MemoryBackend.read = MemoryBackend.get = MemoryBackend.change = refuse  # type: ignore[method-assign, assignment]
    try:
        for token in (
            changed(pair.refresh, -3), "rt_" + pair.refresh[4:], changed(pair.refresh, 20),
            first.refresh[:51] + pair.refresh[51:], "", "rt_", pair.access, pair.refresh + "A" * 1_000_000, "é" * 95,
            pair.refresh.swapcase(),
        ):  # fmt: skip
            assert place.refresh(token).status == 401
    finally:
        MemoryBackend.read, MemoryBackend.get, MemoryBackend.change = real  # type: ignore[method-assign]
    assert asked == []
    rotated(place, pair)


def test_refresh_token_at_api(place: Place) -> None:
    pair = place.start()
    reply = place.ask("GET", "/me", pair.refresh)
    assert (reply.status, reply.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    assert place.reason == "wrong_token_type"


def test_access_token_at_refresh(place: Place) -> None:
    pair = place.start()
    assert place.refresh(pair.access).status == 401
    assert place.me(pair) == 200


def test_cache_key_confusion(place: Place) -> None:
    """What is remembered of one session or token is never another's (CVE-2026-35039)."""
    pairs = [place.start(f"org_{i}", f"cons_{j}") for i in (1, 11) for j in (1, 11)]
    pairs.append(place.start("org_1 1", "cons_1"))
    for _ in range(2):
        seen = [place.ask("GET", "/me", pair.access).body for pair in pairs]
        assert len({(each["who"], each["org"]) for each in seen}) == 5
    place.blocking.revoke_subject(org="org_1", subject="cons_1")
    assert [place.me(pair) for pair in pairs] == [401, 200, 200, 200, 200]


def test_cache_expired_without_iat(place: Place) -> None:
    """A token that is remembered ends when it ends, whatever is kept of its session (CVE-2026-107719)."""
    pair = place.start()
    assert place.me(pair) == 200
    place.clock.advance(306)
    assert place.me(pair) == 401
    assert place.reason == "token_expired"


# --- ends ---


def test_cache_hit_after_revoke(place: Place) -> None:
    """What this process ends is over here at once."""
    pair = place.start()
    assert place.me(pair) == 200
    assert place.ask("POST", "/logout", pair.access).status == 200
    assert place.me(pair) == place.refresh(pair).status == 401
    assert place.ask("POST", "/logout", pair.access).status == 401
    assert place.events("session.revoked") == 1


@pytest.mark.parametrize("bound", [0, 1, 5, 300])
def test_stacked_caches_one_bound(bound: float, adapter: str) -> None:
    """Token, session, epochs and signing keys are all remembered: another process's end is seen within one bound."""
    here, there = processes(adapter=adapter, staleness=bound, access=3600)
    ends: list[Callable[[Any], object]] = [
        lambda pair: there.blocking.revoke(pair.body["session"], org="org_1"),
        lambda _: there.blocking.revoke_subject(org="org_1", subject="cons_1"),
        lambda _: there.blocking.revoke_org("org_1"),
        lambda _: there.blocking.unsafe_revoke_everyone(),
        lambda _: there.blocking.disable_subject(org="org_1", subject="cons_1"),
    ]
    for end in ends:
        pair = here.start()
        assert here.me(pair) == there.me(pair) == 200
        here.clock.advance(int(bound) - 1 if bound > 1 else 0)
        assert here.me(pair) == 200  # read again, or still fresh
        end(pair)
        assert there.me(pair) == 401
        if bound > 1:
            assert here.me(pair) == 200  # that is what the bound means
        here.clock.advance(int(bound))
        assert here.me(pair) == 401


def test_the_bound_counts_from_the_first_read(adapter: str) -> None:
    """Using a session does not keep an old answer alive."""
    here, there = processes(adapter=adapter, staleness=5)
    pair = here.start()
    assert here.me(pair) == 200
    there.blocking.revoke(pair.body["session"], org="org_1")
    statuses = []
    for _ in range(6):
        here.clock.advance(1)
        statuses.append(here.me(pair))
    assert statuses[-1] == 401


def test_clock_step_back_empties_cache(adapter: str) -> None:
    here, there = processes(adapter=adapter, staleness=300)
    pair = here.start()
    here.clock.advance(60)
    assert here.me(pair) == 200
    there.blocking.revoke(pair.body["session"], org="org_1")
    here.clock.advance(-2)
    assert here.me(pair) == 401


def test_signing_key_revoke_within_bound(adapter: str) -> None:
    here, there = processes(adapter=adapter, staleness=5)
    here.clock.advance(700)
    pair = here.start()
    assert here.me(pair) == 200
    signing = there.kit.security.blocking.signing_keys
    kid = signing.jwks()["keys"][0]["kid"]
    for key in signing.jwks()["keys"]:
        signing.revoke(key["kid"])
    assert kid
    here.clock.advance(5)
    assert here.me(pair) == 401
    assert here.reason == "unknown_signing_key"


def test_password_change_kills_others(place: Place) -> None:
    phone, laptop, stolen = (place.start() for _ in range(3))
    other = place.start(subject="cons_2")
    guest = place.start(subject="cons_1", guest=True)
    assert place.ask("POST", "/password", laptop.access).body == {"ended": 2}
    assert [place.me(pair) for pair in (phone, stolen, guest)] == [401] * 3
    assert [place.refresh(pair).status for pair in (phone, stolen, guest)] == [401] * 3
    assert place.me(laptop) == place.me(other) == 200
    laptop = rotated(place, laptop)
    # Only the last one spared is: the next change ends it like any other.
    fresh = place.start()
    assert place.ask("POST", "/password", fresh.access).body == {"ended": 1}
    assert place.me(laptop) == place.refresh(laptop).status == 401
    assert place.me(fresh) == 200


def test_a_dead_session_is_not_spared_back_to_life(place: Place) -> None:
    dead, mine = place.start(), place.start()
    place.blocking.revoke_subject(org="org_1", subject="cons_1", except_session=mine.body["session"])
    assert place.me(dead) == 401
    for session in (dead.body["session"], "0" * 32, "x", mine.body["session"] + "0"):
        place.blocking.revoke_subject(org="org_1", subject="cons_1", except_session=session)
        assert place.me(dead) == place.refresh(dead).status == place.me(mine) == 401
    theirs = place.start(subject="cons_2")
    place.blocking.revoke_subject(org="org_1", subject="cons_1", except_session=theirs.body["session"])
    assert place.me(theirs) == 200


def test_user_disabled_at_refresh(place: Place) -> None:
    """CVE-2024-22513: refresh_disabled_subject."""
    pair = place.start()
    place.blocking.disable_subject(org="org_1", subject="cons_1")
    assert place.me(pair) == place.refresh(pair).status == 401
    with pytest.raises(Exception, match="may not do this"):
        place.start()
    place.blocking.enable_subject(org="org_1", subject="cons_1")
    assert place.me(pair) == place.refresh(pair).status == 401  # what was ended stays so
    assert place.me(place.start()) == 200
    place.blocking.disable_org("org_1")
    with pytest.raises(Exception, match="may not do this"):
        place.start(guest=True)
    place.blocking.enable_org("org_1")
    assert place.me(place.start()) == 200
    assert place.events("subject.disabled") == place.events("subject.enabled") == 1


test_refresh_disabled_subject = test_user_disabled_at_refresh


def test_disabling_twice_is_one_change_and_enabling_ends_nobody(place: Place) -> None:
    pair = place.start()
    place.blocking.enable_subject(org="org_1", subject="cons_1")
    assert place.me(pair) == 200
    place.blocking.disable_subject(org="org_1", subject="cons_1")
    place.blocking.disable_subject(org="org_1", subject="cons_1")
    assert place.events("subject.disabled") == 1
    assert place.events("subject.enabled") == 0


def test_refresh_after_subject_epoch(place: Place) -> None:
    pair, theirs = place.start(), place.start(subject="cons_2")
    in_grace = rotated(place, pair)
    assert place.blocking.revoke_subject(org="org_1", subject="cons_1") == 1
    for token in (pair, in_grace):  # in the window too
        assert place.refresh(token).status == 401
    assert place.refresh(theirs).status == 200
    assert place.events("session.reused") == 0
    assert place.blocking.revoke_org("org_1") == 2
    assert place.refresh(theirs).status == place.me(theirs) == 401


def test_everyone(place: Place) -> None:
    pairs = [place.start(f"org_{i}") for i in range(3)] + [place.start("org_9", guest=True)]
    assert place.blocking.unsafe_revoke_everyone() == 3
    assert {place.me(pair) for pair in pairs} == {place.refresh(pair).status for pair in pairs} == {401}
    assert place.me(place.start()) == 200


def test_abs_expiry_beats_sliding(adapter: str) -> None:
    place = Place(adapter, idle=DAY, absolute=3 * DAY)
    pair = place.start()
    for _ in range(5):
        place.clock.advance(DAY // 2)
        pair = place.refresh(pair)
        assert pair.status == 200
    place.clock.advance(DAY // 2 - 60)
    pair = place.refresh(pair)
    assert place.me(pair) == 200
    place.clock.advance(60)
    assert place.refresh(pair).status == 401
    assert place.me(pair) == 401  # the access token lives no longer, though minutes of its own would be left


def test_idle_sessions_end(adapter: str) -> None:
    place = Place(adapter, idle=DAY)
    pair = place.start()
    place.clock.advance(DAY)
    assert place.refresh(pair).status == 401


# --- guests, sign-in, step-up ---


def test_guest_flood_rows_bounded(place: Place) -> None:
    guests = [place.start(subject=f"guest_{i}", guest=True) for i in range(50)]
    assert {place.me(guest) for guest in guests} == {200}
    assert place.rows() == []
    place.clock.advance(11)
    assert place.refresh(guests[0]).status == 200
    assert len(place.rows()) == 1


def test_guests_live_shorter(place: Place) -> None:
    guest, other = place.start(guest=True), place.start(guest=True)
    for _ in range(30):
        place.clock.advance(3500)
        guest = place.refresh(guest)
        if guest.status != 200:
            break
    assert place.clock() - 1_800_000_000 < DAY + 3600
    assert place.refresh(other).status == 401


def test_a_guest_is_refreshed_like_anybody(place: Place) -> None:
    first = place.start(guest=True)
    place.clock.advance(11)
    replies = [place.refresh(first) for _ in range(4)]
    assert len({reply.refresh for reply in replies}) == 1
    second = rotated(place, replies[0])
    rotated(place, second)
    assert place.refresh(first).status == 401
    assert place.events("session.reused") == 1


def test_a_guest_that_is_not_stored_ends_all_the_same(place: Place) -> None:
    pairs = [place.start(subject=f"guest_{i}", guest=True) for i in range(4)]
    assert [place.me(pair) for pair in pairs] == [200] * 4
    assert place.ask("POST", "/logout", pairs[0].access).status == 200
    place.blocking.revoke_subject(org="org_1", subject="guest_1")
    place.blocking.revoke(pairs[2].body["session"], org="org_1")
    assert [place.me(pair) for pair in pairs] == [401, 401, 401, 200]
    assert [place.refresh(pair).status for pair in pairs] == [401, 401, 401, 200]


def test_session_fixation_on_login(place: Place) -> None:
    """Whoever planted a guest's session in a browser has nothing once its user signs in."""
    for stored in (False, True):
        planted = place.start(guest=True)
        victim = rotated(place, planted) if stored else planted
        signed_in = place.ask("POST", "/upgrade", victim.access, subject="cons_7", factors={"otp": place.clock()})
        assert signed_in.status == 200
        assert signed_in.body["session"] != planted.body["session"]
        assert place.me(planted) == place.me(victim) == 401
        assert place.refresh(planted).status == place.refresh(victim).status == 401
        assert place.ask("GET", "/me", signed_in.access).body["who"] == "consumer:cons_7"
        assert place.me(signed_in, "/card") == 200
        assert place.events("session.reused") == 0


def test_step_up_new_family(place: Place) -> None:
    pair = place.start(factors={"pwd": place.clock()})
    refused = place.ask("GET", "/card", pair.access)
    assert refused.status == 401
    assert "insufficient_user_authentication" in refused.headers["www-authenticate"]
    up = place.ask("POST", "/upgrade", pair.access, subject="cons_1", factors={"otp": place.clock()})
    assert place.me(up, "/card") == 200
    assert place.me(pair) == place.refresh(pair).status == 401
    again = rotated(place, up)
    assert place.me(again, "/card") == 200
    place.clock.advance(301)
    again = place.refresh(again)
    assert place.me(again) == 200
    assert place.me(again, "/card") == 401  # refreshing proves nothing anew
    assert place.ask("POST", "/upgrade", again.access, subject="cons_2").status == 409


def test_upgraded_once(place: Place) -> None:
    guest = place.start(guest=True)
    assert place.ask("POST", "/upgrade", guest.access, subject="cons_1").status == 200
    assert place.ask("POST", "/upgrade", guest.access, subject="cons_1").status == 401
    assert len([row for row in place.rows() if row.revoked_at is None]) == 1


def test_at_most_so_many_sessions(adapter: str) -> None:
    """The policy: the one that was used longest ago ends."""
    place = Place(adapter, per_subject=3)
    first = place.start()
    place.clock.advance(60)
    second, third = place.start(), place.start()
    place.clock.advance(60)
    first = place.refresh(first)
    place.clock.advance(60)
    fourth = place.start()
    assert place.me(second) + place.me(third) == 601  # one of the two that began together
    assert place.me(first) == place.me(fourth) == 200
    assert len(place.blocking.list(org="org_1", subject="cons_1")) == 3
    assert place.me(place.start(subject="cons_2")) == 200
    kept = third if place.me(third) == 200 else second
    up = place.ask("POST", "/upgrade", first.access, subject="cons_1")
    assert [place.me(pair) for pair in (kept, fourth, up)] == [200] * 3  # in its own place it displaces nobody
    revoked = [row.revoked_for for row in place.rows() if row.revoked_at is not None]
    assert sorted(map(str, revoked)) == ["session_displaced", "session_upgraded"]


# --- organizations ---

MEMBERS = {("cons_1", "org_1"), ("cons_1", "org_2")}


@pytest.fixture
def members() -> set[tuple[str, str]]:
    return set(MEMBERS)


@pytest.fixture
def club(adapter: str, members: set[tuple[str, str]]) -> Place:
    return Place(adapter, member_of=lambda subject, org: (subject, org) in members)


def test_org_switch_non_member(club: Place) -> None:
    """refresh_org_denied_does_not_rotate: nothing is written, whichever way it is asked."""
    pair = club.start()
    club.clock.advance(11)
    before = club.row(pair.body["session"])
    for org in ("org_3", "", "x" * 129, "a\0", "org_1 ", "\ud800"):
        assert club.refresh(pair, org=org).status == 403
    assert club.row(pair.body["session"]) == before
    assert club.refresh(pair).status == 200
    with pytest.raises(Exception, match="may not do this"):
        club.start("org_3")


test_refresh_org_denied_does_not_rotate = test_org_switch_non_member


def test_org_two_tabs(club: Place) -> None:
    """Two tabs hold two organizations at once, and neither turns the other around."""
    pair = one = two = club.start()
    for _ in range(4):
        club.clock.advance(11)
        one, two = club.refresh(pair), club.refresh(pair, org="org_2")
        assert one.refresh == two.refresh
        for _ in range(2):
            assert club.ask("GET", "/me", one.access).body["org"] == "org_1"
            assert club.ask("GET", "/me", two.access).body["org"] == "org_2"
        assert club.me(two, "/orgs/org_2/me") == 200
        assert club.me(two, "/orgs/org_1/me") == club.me(one, "/orgs/org_2/me") == 404
        pair = two
    assert club.ask("POST", "/logout", two.access).status == 200  # of a session that began in the other one
    assert club.me(one) == club.me(two) == 401


def test_org_removed_midlife(club: Place, members: set[tuple[str, str]]) -> None:
    pair = club.start()
    other = club.refresh(pair, org="org_2")
    assert club.me(pair) == club.me(other) == 200
    members.discard(("cons_1", "org_2"))
    club.clock.advance(5)
    assert club.me(other) == 401
    assert club.reason == "not_a_member"
    assert club.me(pair) == 200
    assert club.refresh(other, org="org_2").status == 403
    assert club.refresh(other).status == 200


def test_org_ended_by_its_epoch(club: Place) -> None:
    pair = club.start()
    other = club.refresh(pair, org="org_2")
    assert club.me(other) == 200
    club.blocking.revoke_subject(org="org_2", subject="cons_1")
    assert club.me(other) == 401
    assert club.me(pair) == 200
    other = club.refresh(pair, org="org_2")
    assert club.me(other) == 200
    club.blocking.revoke_subject(org="org_1", subject="cons_1")  # where the session is at home: it ends everywhere
    assert club.me(other) == club.me(pair) == 401
    pair = club.start()
    other = club.refresh(pair, org="org_2")
    club.blocking.disable_org("org_2")
    assert club.me(other) == 401
    assert club.refresh(pair, org="org_2").status == 403
    assert club.me(pair) == 200


def test_guests_have_one_organization(club: Place) -> None:
    guest = club.start(subject="guest_1", guest=True)
    assert club.me(guest) == 200
    assert club.refresh(guest, org="org_2").status == 403
    assert club.refresh(guest).status == 200


@pytest.mark.parametrize("failure", ["raises", "none", "text"])
def test_port_failure_refuses_and_writes_nothing(adapter: str, failure: str) -> None:
    answers: dict[str, Any] = {"works": True}

    def member_of(*_: str) -> Any:
        if failure == "raises" and not answers["works"]:
            raise RuntimeError("the database is down, and this is its password")
        return True if answers["works"] else {"none": None, "text": "yes"}[failure]

    place = Place(adapter, member_of=member_of)
    pair = place.start()
    place.clock.advance(11)
    before, events = place.rows(), len(place.kit.events)
    answers["works"] = False
    reply = place.refresh(pair)
    assert reply.status == 503
    assert "password" not in str(reply)
    with pytest.raises(Exception, match="not available"):
        place.start()
    assert place.me(pair) == 503
    assert place.rows() == before
    assert {event.name for event in place.kit.events[events:]} == {"request.refused"}
    answers["works"] = True
    assert place.refresh(pair).status == place.me(pair) == 200


def test_org_without_a_rule_of_membership_is_misuse() -> None:
    place = Place()
    pair = place.start()
    for org in ("org_1", "org_2"):
        with pytest.raises(Misuse, match="member_of"):
            place.blocking.refresh(pair.refresh, org=org)
    assert place.refresh(pair).status == 200


# --- several stores, environments and roots ---


def test_refresh_test_token_on_live(adapter: str) -> None:
    """One root, one issuer, one store: the environment alone keeps them apart."""
    test = Place(adapter, environment="test", issuer="shop", audience="api")
    backend = test.backend
    live = Place(adapter, url=backend, environment="live", issuer="shop", audience="api")
    pair = test.start()
    assert live.refresh(pair).status == live.me(pair) == 401
    guest = test.start(guest=True)
    assert live.refresh(guest).status == 401
    assert test.refresh(pair).status == test.refresh(guest).status == 200
    other = Place(adapter, url=backend, environment="test", issuer="another", audience="api")
    assert other.refresh(pair).status == other.me(pair) == 401


def test_mac_key_rotation_midlife(adapter: str) -> None:
    """A new root first, the old one behind it: sessions go on, and go over to it as they are used."""
    old, new = new_root(), new_root()
    before = Place(adapter, secrets=[old])
    backend = before.backend
    pair = before.start()
    both = Place(adapter, url=backend, secrets=[new, old], at=before.clock)
    assert both.me(pair) == 200
    both.clock.advance(11)
    next_ = both.refresh(pair)
    assert next_.status == 200
    assert before.refresh(next_).status == 401  # a text under a root that this process has not: nothing is said of it
    after = Place(adapter, url=backend, secrets=[new, old], at=before.clock)
    assert after.refresh(next_).status == 200
    assert after.refresh(pair).status == 200  # in the window, under the old root
    assert before.events("session.reused") == after.events("session.reused") == 0


def test_ahead_of_state_after_restore(adapter: str) -> None:
    """restored_backup_mints_no_known_token: a backup forgets, and says nothing that was ever said before."""
    place = Place(adapter)
    pair = place.start()
    second = rotated(place, pair)
    backup = {name: dict(rows) for name, rows in place.backend._tables.items()}
    third = rotated(place, second)
    fourth = rotated(place, third)
    place.backend._tables.clear()
    place.backend._tables.update(backup)
    place.clock.advance(10)
    before = place.rows()
    for token in (third, fourth):
        assert place.refresh(token).status == 401
        assert place.me(token) == 401
    assert place.events("store.rolled_back") >= 2
    assert place.rows() == before  # nothing is written, and nobody is killed
    again = place.refresh(second)
    assert again.status == 200
    assert again.refresh != third.refresh
    place.me(again)
    place.clock.advance(11)
    assert place.refresh(third).status == 401  # of the other history, though its number fits
    assert place.events("session.reused") == 0
    assert place.refresh(again).status == 200


test_restored_backup_mints_no_known_token = test_ahead_of_state_after_restore


def test_failover_does_not_resurrect_revoked_family(adapter: str) -> None:
    """The primary found reuse and died; the standby lacks its last writes. The thief's token is ahead: refused."""
    place = Place(adapter)
    pair = place.start()
    mine = rotated(place, pair)
    standby = {name: dict(rows) for name, rows in place.backend._tables.items()}
    theirs = rotated(place, mine)
    place.clock.advance(11)
    assert place.refresh(mine).status == 401  # reuse
    place.backend._tables.clear()
    place.backend._tables.update(standby)
    place.clock.advance(10)
    assert place.refresh(theirs).status == place.me(theirs) == 401
    assert place.events("store.rolled_back") == 2


def test_ahead_on_lagging_replica_never_lowers_gen(adapter: str) -> None:
    """Whatever a stale cache says of a generation, nothing is written from it."""
    here, there = processes(adapter=adapter, staleness=300)
    pair = here.start()
    assert there.me(pair) == 200
    for _ in range(3):
        pair = rotated(here, pair)
    assert there.me(pair) == 200  # confirm_reads_through_cache: above what it kept, so it asked
    assert here.row(pair.body["session"]).generation == 3  # type: ignore[union-attr]
    pair = rotated(there, pair)
    assert here.row(pair.body["session"]).generation == 4  # type: ignore[union-attr]


def test_confirm_reads_through_cache(adapter: str) -> None:
    """A process that kept an older row confirms the newest generation, so that the one before is not given late."""
    here, there = processes(adapter=adapter, staleness=300)
    pair = here.start()
    assert there.me(pair) == 200
    here.clock.advance(11)
    second = here.refresh(pair)
    assert there.me(second) == 200
    assert here.row(pair.body["session"]).confirmed == 1  # type: ignore[union-attr]
    here.clock.advance(11)
    assert here.refresh(pair).status == 401
    assert here.events("session.reused") == 1


def test_clock_skew_between_workers(adapter: str) -> None:
    """A process whose clock is a minute ahead of the store's takes nobody's window for over."""
    here = Place(adapter)
    pair = here.start()
    here.clock.advance(11)
    second = here.refresh(pair)
    from bartizan.testing import FakeClock

    for skew in (-60, 60):
        skewed = Place(adapter, url=here.backend, at=FakeClock(here.clock() + skew))
        assert skewed.refresh(pair).status == 200
        assert skewed.refresh(second).status == 200
    assert here.events("session.reused") == 0
    assert here.row(pair.body["session"]).revoked_at is None  # type: ignore[union-attr]


def test_a_session_of_another_organization_is_not_found(place: Place) -> None:
    pair = place.start("org_2")
    from bartizan import NotFound

    with pytest.raises(NotFound):
        place.blocking.revoke(pair.body["session"], org="org_1")
    assert place.me(pair) == 200
    assert place.blocking.list(org="org_1", subject="cons_1") == []
    assert [session.id for session in place.blocking.list(org="org_2", subject="cons_1")] == [pair.body["session"]]


def test_policies() -> None:
    for wrong in (
        {"idle": 0}, {"idle": True}, {"absolute": DAY, "idle": 2 * DAY}, {"guest_idle": 2 * DAY}, {"grace": 0},
        {"grace": 301}, {"recovery": -1}, {"per_subject": 0}, {"per_subject": 1001}, {"member_of": "x"},
        {"absolute": 401 * DAY}, {"idle": 1.5},
    ):  # fmt: skip
        with pytest.raises(Misuse):
            SessionPolicy(**wrong)
    assert ROOT


# --- found by attacking it ---


def test_refresh_stolen_without_binding(place: Place) -> None:
    """A family that is bound to a device, and a process that proves none: nothing is written, in the window either."""
    from dataclasses import replace

    pair = place.start()
    second = rotated(place, pair)
    session = pair.body["session"]
    bound = replace(place.row(session), binding="a device")  # type: ignore[type-var]
    place.backend._tables["bartizan_sessions"][session] = bound
    for seconds in (0, 11, 60):
        place.clock.advance(seconds)
        for token in (pair, second):
            assert place.refresh(token).status == 401
    assert place.row(session) == bound
    assert place.events("session.misbound") == 6
    assert place.events("session.reused") == 0


def test_a_consumer_cannot_fill_the_store_with_ended_sessions(place: Place) -> None:
    from bartizan.testing.kit import acting_as

    pair, other = place.start(), place.start(subject="guest_2", guest=True)
    me = place.blocking.authenticate(pair.access)
    with acting_as(me):
        for i in range(20):
            place.blocking.revoke(f"{i:032x}", org="org_1")
        place.blocking.revoke(other.body["session"], org="org_1")
    assert len(place.rows()) == 1
    assert place.me(other) == 200


def test_a_session_of_the_other_environment_is_not_found(adapter: str) -> None:
    from bartizan import NotFound

    test = Place(adapter, environment="test")
    live = Place(adapter, url=test.backend, environment="live", at=test.clock)
    pair = test.start()
    with pytest.raises(NotFound):
        live.blocking.revoke(pair.body["session"], org="org_1")
    assert live.blocking.revoke_subject(org="org_1", subject="cons_1") == 0
    assert live.blocking.unsafe_revoke_everyone() == 0
    assert live.blocking.list(org="org_1", subject="cons_1") == []
    assert test.me(pair) == 200


def test_the_stream_of_a_guest_whom_nothing_renews_ends(place: Place) -> None:
    from bartizan.errors import InvalidSession

    guest = place.start(guest=True)
    me = place.blocking.authenticate(guest.access)
    place.kit.security.blocking.recheck(me)
    place.clock.advance(400)
    with pytest.raises(InvalidSession):
        place.kit.security.blocking.recheck(me)


def test_a_query_may_begin_like_a_refresh_token(place: Place) -> None:
    from bartizan.types import Admit, Refuse, Request

    pair = place.start()
    gate = place.kit.security.gate([Rule("GET /me", allow.consumer())])
    bearer = [(b"authorization", f"Bearer {pair.access}".encode())]
    for query, verdict in ((b"sort=rt_asc", Admit), (b"x=" + pair.refresh.encode(), Refuse)):
        request = Request("GET", "/me", bearer, None, "https", query=query)
        assert type(Context().run(gate.blocking.check, request)) is verdict


def test_a_spared_session_is_refreshed_in_one_round_trip(place: Place) -> None:
    pair = place.start()
    place.ask("POST", "/password", pair.access)
    for _ in range(3):
        pair = rotated(place, pair)
    assert place.row(pair.body["session"]).generation == 3  # type: ignore[union-attr]


def test_deaf_ends(place: Place) -> None:
    """A guest whose session was ended before it was stored cannot write it down afterwards."""
    guest = place.start(guest=True)
    place.blocking.revoke(guest.body["session"], org="org_1")
    for _ in range(3):
        place.clock.advance(11)
        assert place.refresh(guest).status == 401
    place.blocking.revoke_org("org_1")
    other = place.start(subject="guest_3", guest=True)
    place.blocking.revoke_org("org_1")
    assert place.refresh(other).status == place.me(other) == 401
    assert all(row.revoked_at is not None for row in place.rows())
