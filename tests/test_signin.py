"""One-time codes and exchange codes as services, over every store: the attacks on them, and their arithmetic."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cancelling import ended
from hypothesis import given, strategies as st
from session_places import ROOT, Place, stores

from bartizan import Bartizan, Misuse, NotFound, SigninPolicy
from bartizan.core.drive import run
from bartizan.core.encoding import base64url
from bartizan.errors import InvalidCode, InvalidRequest, InvalidSession
from bartizan.sessions.codes import (
    BUDGETS,
    CODES,
    COST,
    SIGNIN,
    BudgetRow,
    decide_digits,
    normal,
    with_code,
    with_guess,
)
from bartizan.sessions.exchanges import EXCHANGES
from bartizan.testing import FakeClock, Kit
from bartizan.types import Identity, PendingCode

ORG, ANNA = "org_1", "anna@shop.example"
VERIFIER = "v" * 43
CHALLENGE = base64url(sha256(VERIFIER.encode()).digest())
WHO = Identity(org=ORG, provider="oidc", issuer="https://login.example", subject="248289761001")


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    clock = FakeClock()
    made = Place(at=clock, url=stores(tmp_path)[request.param](clock))
    with made.kit.security.blocking:
        yield made


def signin(place: Place) -> Any:
    return place.kit.security.blocking.signin


def code(place: Place, **more: Any) -> PendingCode:
    found: PendingCode = signin(place).request_code(org=ORG, address=ANNA, **more)
    return found


def wrong(pending: PendingCode) -> str:
    assert pending.code is not None
    return pending.code[:-1] + str((int(pending.code[-1]) + 1) % 10)


def guess(place: Place, pending: PendingCode, text: str | None = None) -> str:
    """The reason, or nothing where the code was right."""
    try:
        signin(place).verify_code(pending.id, wrong(pending) if text is None else text, org=ORG, address=ANNA)
    except InvalidCode as error:
        return error.reason.value if error.problem == InvalidCode().problem else "it tells why"
    return ""


# --- one-time codes ---


def test_a_code_says_whose_address_it_is(place: Place) -> None:
    pending = code(place)
    assert pending.code is not None
    assert len(pending.code) == 6
    who = signin(place).verify_code(pending.id, pending.code, org=ORG, address="ANNA@Shop.Example")
    assert who == Identity(org=ORG, provider="otp", issuer="email", subject=ANNA)
    assert guess(place, pending, pending.code) == "already_used"
    assert [event.name for event in place.kit.events][-3:] == ["code.requested", "code.verified", "code.refused"]
    assert ANNA not in str(place.kit.events)


def test_otp_tries_survive_new_code(place: Place) -> None:
    first = code(place)
    assert [guess(place, first) for _ in range(6)] == ["code_wrong"] * 5 + ["code_spent"]
    assert guess(place, first, first.code) == "code_spent"
    place.clock.advance(61)
    second = code(place)
    assert [guess(place, second) for _ in range(5)] == ["code_wrong"] * 4 + ["code_spent"]  # nine of six digits a day
    place.clock.advance(61)
    third = code(place)
    assert third.code is not None
    assert len(third.code) == 8
    assert [guess(place, third) for _ in range(4)] == ["code_wrong"] * 4
    assert guess(place, third, third.code) == ""  # and the owner of the address is not locked out
    place.clock.advance(61)
    assert len(code(place).code or "") == 6  # success alone forgives


def test_otp_64_parallel_guesses_count_64(place: Place) -> None:
    """Tries are taken before anything is compared: five of 64 are, however they race."""
    pending = code(place)
    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(lambda _: guess(place, pending), range(64)))
    assert sorted(set(said)) == ["code_spent", "code_wrong"]
    assert said.count("code_wrong") == 5
    row = run(place.backend.find(CODES, ()))[0]
    assert row.tries == 0
    assert guess(place, pending, pending.code) == "code_spent"


def test_one_of_64_who_enter_the_right_code_signs_in(place: Place) -> None:
    pending = code(place)
    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(lambda _: guess(place, pending, pending.code), range(64)))
    assert said.count("") == 1


def test_guesses_in_several_processes_are_counted_together(tmp_path: Path) -> None:
    clock = FakeClock()
    kits = [Kit(url=f"sqlite:///{tmp_path}/store.db", clock=clock, secrets=[ROOT]) for _ in range(3)]
    services = [kit.security.blocking.signin for kit in kits]
    pending = services[0].request_code(org=ORG, address=ANNA)
    text = services[0].authorize(WHO, code_challenge=CHALLENGE)

    def guessed(n: int) -> str:
        try:
            services[n % 3].verify_code(pending.id, wrong(pending), org=ORG, address=ANNA)
        except InvalidCode as error:
            return error.reason.value
        return ""

    def begun(n: int) -> str:
        who = services[n % 3].exchange(text, org=ORG, code_verifier=VERIFIER)
        return kits[n % 3].security.blocking.sessions.start(org=ORG, subject="cons_1", identity=who).refresh_token

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(guessed, range(60))).count("code_wrong") == 5
        assert len(set(pool.map(begun, range(30)))) == 1
    for kit in kits:
        kit.security.blocking.__exit__()


def test_otp_mail_bomb(place: Place) -> None:
    """However often strangers ask, an address is sent one a minute, five an hour, ten a day; all are told alike."""
    sent: list[int] = []
    for second in range(0, 86_400, 30):
        pending = code(place)
        assert pending.id.startswith("otp_")
        if pending.code is not None:
            sent.append(second)
        elif second < 120:
            assert guess(place, pending, "000000") == "code_unknown"
        place.clock.advance(30)
    assert len(sent) == 10
    assert max(sum(at <= other < at + 3600 for other in sent) for at in sent) == 5
    assert min(b - a for a, b in pairwise(sent)) >= 60
    assert place.events("code.withheld") == 2880 - 10


def test_whoever_asks_twice_keeps_the_first_code(place: Place) -> None:
    pending = code(place)
    again = code(place, pending_id=pending.id)
    assert (again.code, again.id) == (None, pending.id)
    stranger = code(place, pending_id="otp_forged")
    assert stranger.code is None
    assert stranger.id != pending.id
    assert guess(place, stranger, pending.code) == "code_unknown"
    assert guess(place, pending, pending.code) == ""


def test_otp_sms_country(tmp_path: Path) -> None:
    policy = SigninPolicy(countries={"+49", "+43"}, daily_ceiling=3)
    place = Place(signin=policy)
    sent = []
    for number in ("+49 151 2345-6780", "+4366412345678", "+4915123456781", "+4915123456782"):
        sent.append(signin(place).request_code(org=ORG, address=number))
    assert [pending.code is not None for pending in sent] == [True, True, True, False]  # what it may cost in a day
    assert sent[0].address == "+4915123456780"
    assert signin(place).request_code(org="org_2", address="+4915123456782").code is not None
    for number in ("+18765550100", "+4", "+4915123456789012", "+49abc", "0049151234567"):
        with pytest.raises(InvalidRequest) as refused:
            signin(place).request_code(org=ORG, address=number)
        assert refused.value.reason == "address_not_allowed"
    place.clock.advance(86_400)
    assert signin(place).request_code(org=ORG, address="+4915123456782").code is not None
    with pytest.raises(InvalidRequest):
        signin(Place()).request_code(org=ORG, address="+4915123456780")  # no countries: no phones
    for half in ({"countries": {"+49"}}, {"daily_ceiling": 3}):
        with pytest.raises(Misuse):
            SigninPolicy(**half)


def test_phones_do_not_exceed_their_ceiling_in_a_race(place: Place) -> None:
    kit = Kit(
        url=place.backend, clock=place.clock, secrets=[ROOT], signin=SigninPolicy(countries={"+49"}, daily_ceiling=5)
    )
    with ThreadPoolExecutor(16) as pool:
        asked = [f"+4915123456{n:03}" for n in range(64)]
        sent = list(pool.map(lambda a: kit.security.blocking.signin.request_code(org=ORG, address=a).code, asked))
    assert sum(found is not None for found in sent) == 5


def test_otp_stranger_cannot_lock_owner_device(place: Place) -> None:
    """Who has signed in on a device before has a budget of their own there: strangers may ask and guess all day."""
    pending = code(place)
    who = signin(place).verify_code(pending.id, pending.code, org=ORG, address=ANNA)
    device = signin(place).remember(who)
    for _ in range(200):
        place.clock.advance(61)
        stranger = code(place)
        while stranger.code is not None and guess(place, stranger) == "code_wrong":
            pass
    assert code(place).code is None
    own = code(place, device=device)
    assert len(own.code or "") == 6
    assert guess(place, own, own.code) == ""
    for text in (
        "dev_forged",
        signin(place).remember(Identity(org=ORG, provider="otp", issuer="email", subject="b@b.b")),
    ):
        assert code(place, device=text).code is None  # another's device is a stranger


def test_otp_timing_known_unknown(place: Place) -> None:
    """There is no account to know here: the same steps in the same order, whoever asks and whatever is guessed."""
    backend = place.kit.security._shared.blocking_side.backend
    steps: list[str] = []

    class Counted:
        def __getattr__(self, name: str) -> Any:
            method = getattr(backend, name)

            async def counted(*args: Any, **more: Any) -> Any:
                steps.append(f"{name} {getattr(args[0], 'name', type(args[0]).__name__)}")
                return await method(*args, **more)

            return counted

    service = place.kit.security._shared.blocking_side.signin
    service._backend = Counted()
    place.blocking.start(org=ORG, subject=ANNA)  # one has an account, the other has none
    seen = []
    for address in (ANNA, "nobody@shop.example"):
        steps.clear()
        pending = run(service.request_code(org=ORG, address=address))
        with pytest.raises(InvalidCode):
            run(service.verify_code(pending.id, wrong(pending), org=ORG, address=address))
        seen.append(tuple(steps))
    assert seen[0] == seen[1]
    assert len(seen[0]) == 5


def test_hang_up_after_wrong_code(place: Place) -> None:
    """Who hangs up, at whatever moment, has used up a try all the same."""

    async def guesses() -> int:
        pending = code(place)
        for moment in range(1, 6):
            place_signin = place.kit.security.signin
            work = place_signin.verify_code(pending.id, wrong(pending), org=ORG, address=ANNA)
            with suppress(InvalidCode):
                await ended(moment, work)
        return 5 - int(run(place.backend.find(CODES, ()))[0].tries)

    assert asyncio.run(guesses()) == place.events("code.refused") == 5


def test_a_code_is_of_one_organization_address_and_browser(place: Place) -> None:
    pending = signin(place).request_code(org=ORG, address=ANNA, browser="secret of this one")
    for said in (
        {"org": "org_2", "address": ANNA, "browser": "secret of this one"},
        {"org": ORG, "address": "b@shop.example", "browser": "secret of this one"},
        {"org": ORG, "address": ANNA},
        {"org": ORG, "address": ANNA, "browser": "another's"},
    ):
        with pytest.raises(InvalidCode) as refused:
            signin(place).verify_code(pending.id, pending.code, **said)
        assert refused.value.reason == "forged"
    assert run(place.backend.find(CODES, ()))[0].tries == 5  # and it cost no try, nor a look at the store


def test_a_code_ends_after_ten_minutes(place: Place) -> None:
    pending = code(place)
    place.clock.advance(600)
    assert guess(place, pending, pending.code) == "expired"


@pytest.mark.parametrize(
    "address",
    ["", "anna", "anna@", "@shop.example", "anna@shop", "a b@shop.example", "anna@shop.example\r\nBcc: x@y.example",
     "anna@shop.example,x@y.example", "<anna@shop.example>", "mıke@shop.example", "mi\u212ae@shop.example",
     "anna@xn--\u00e4.example", "a" * 65 + "@shop.example", "a@" + "b" * 250 + ".example", None, 7, ["a@b.example"]],
)  # fmt: skip
def test_what_is_no_address_is_sent_nothing(address: Any) -> None:
    place = Place()
    with pytest.raises(InvalidRequest):
        signin(place).request_code(org=ORG, address=address)
    assert run(place.backend.find(BUDGETS, ())) == []


def test_nothing_of_a_code_rests_in_the_store(place: Place) -> None:
    pending = code(place)
    text = str(run(place.backend.find(CODES, ())) + run(place.backend.find(BUDGETS, ())))
    assert pending.code is not None
    assert pending.code not in text
    assert "anna" not in text
    assert pending.code not in repr(pending)


def test_codes_survive_a_new_root(tmp_path: Path) -> None:
    from bartizan.core.ring import new_root

    old, new = new_root(), new_root()
    place = Place(secrets=[old])
    pending = code(place)
    turned = Kit(url=place.backend, secrets=[new, old], clock=place.clock)
    who = turned.security.blocking.signin.verify_code(pending.id, str(pending.code), org=ORG, address=ANNA)
    assert who.subject == ANNA


def test_another_organization_is_not_found() -> None:
    kit = Kit()
    with kit.security.job("nightly", org="org_2"):
        for call in (
            lambda: kit.security.blocking.signin.request_code(org=ORG, address=ANNA),
            lambda: kit.security.blocking.signin.authorize(WHO),
        ):
            with pytest.raises(NotFound):
                call()


def test_the_guessing_arithmetic() -> None:
    """Ten requests a minute for days, as Fanfare allows, against the service itself: at most 10**-5 in any one day."""
    place = Place()
    tries: list[tuple[int, float]] = []
    began = place.clock()
    pending = None
    for _ in range(3 * 1440):
        for _ in range(10):  # this minute's requests: for a new code where that may help, else guesses
            if pending is None:
                asked = code(place)
                pending = asked if asked.code is not None else None
                continue
            if guess(place, pending) == "code_wrong":
                tries.append((place.clock(), 10.0 ** -len(pending.code or "")))
            else:
                pending = None
        place.clock.advance(60)
    for at, _ in tries:
        assert sum(chance for when, chance in tries if at <= when < at + 86_400) <= 1e-5
    assert len(tries) > 100
    print(f"{sum(chance for _, chance in tries) / 3:.2e} a day")
    assert place.clock() - began == 3 * 86_400


@given(st.lists(st.tuples(st.integers(0, 7200), st.booleans()), max_size=60))
def test_whatever_the_order_a_day_costs_no_more_than_its_budget(asked: list[tuple[int, bool]]) -> None:
    now, row, costs = 1_800_000_000, None, list[tuple[int, int]]()
    for wait, coded in asked:
        now += wait
        digits = decide_digits(row, SIGNIN, now)
        if coded and digits:
            codes, guesses = with_code(row, now), "[]" if row is None else row.guesses
        else:
            digits = next(
                (
                    d
                    for d in (6, 8)
                    if sum(c for t, c in costs if t > now - 86_400) + COST[d] <= (900 if d == 6 else 1000)
                ),
                0,
            )
            if not digits:
                continue
            codes, guesses = "[]" if row is None else row.codes, with_guess(row, digits, now)
            costs.append((now, COST[digits]))
        row = BudgetRow(id="b", environment="test", org=ORG, codes=codes, guesses=guesses, day=0, sent=0, expires_at=0)
    for at, _ in costs:
        assert sum(cost for when, cost in costs if at <= when < at + 86_400) <= 1000


@given(st.text(max_size=80))
def test_an_address_has_one_spelling(text: str) -> None:
    try:
        once = normal(text, SIGNIN)
    except InvalidRequest:
        return
    assert normal(once, SIGNIN) == once
    assert once == once.lower()


# --- exchange codes ---


def exchange(place: Place, text: str, verifier: str | None = VERIFIER, org: str = ORG) -> Any:
    try:
        found: Identity = signin(place).exchange(text, org=org, code_verifier=verifier)
    except InvalidCode as error:
        return error.reason.value
    return found


def test_exchange_double_submit(place: Place) -> None:
    """A button pressed twice is one session; who comes later with the proof ends it, for two have the code."""
    text = signin(place).authorize(WHO, code_challenge=CHALLENGE)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: exchange(place, text), range(8)))
    assert found == [WHO] * 8
    pairs = [
        place.blocking.start(org=ORG, subject="cons_1", identity=who) for who in found if isinstance(who, Identity)
    ]
    assert len({pair.refresh_token for pair in pairs}) == 1
    assert len(place.rows()) == 1
    place.clock.advance(11)
    assert exchange(place, text, "w" * 43) == "challenge_wrong"  # a stranger cannot cancel it
    assert exchange(place, text, None) == "challenge_wrong"
    place.blocking.authenticate(pairs[0].access_token)
    assert exchange(place, text) == "already_used"
    with pytest.raises(InvalidSession):
        place.blocking.refresh(pairs[0].refresh_token)
    assert place.events("exchange.reused") == 1


def test_exchange_second_use_after_its_minute_revokes_nothing(place: Place) -> None:
    text = signin(place).authorize(WHO, code_challenge=CHALLENGE)
    pair = place.blocking.start(org=ORG, subject="cons_1", identity=exchange(place, text))
    place.clock.advance(61)
    assert exchange(place, text) == "expired"
    place.blocking.authenticate(pair.access_token)


def test_exchange_without_a_challenge_is_used_once(place: Place) -> None:
    text = signin(place).authorize(WHO)
    assert exchange(place, text) == "challenge_wrong"  # a verifier where none was asked for is another flow
    assert exchange(place, text, None) == WHO
    assert exchange(place, text, None) == "already_used"  # whoever it is: nothing proves that it is the same browser


def test_exchange_login_csrf(place: Place) -> None:
    """An attacker's code in a victim's browser: its verifier is not of that challenge, and the code is not burned."""
    text = signin(place).authorize(WHO, code_challenge=CHALLENGE)
    assert exchange(place, text, "x" * 43) == "challenge_wrong"
    assert exchange(place, text, "short") == "challenge_wrong"
    assert exchange(place, text) == WHO


def test_exchange_payload_opaque(place: Place) -> None:
    text = signin(place).authorize(WHO)
    assert len(text) < 100
    for part in ("248289761001", "login.example", base64url(b"2482897")):
        assert part not in text
    assert exchange(place, text, None, org="org_2") == "wrong_organization"
    assert exchange(place, text[:-4] + "AAAA", None) in {"forged", "malformed"}
    assert exchange(place, text, None) == WHO  # and none of that burned it


def test_exchange_code_of_a_lost_store(place: Place) -> None:
    text = signin(place).authorize(WHO)
    from bartizan.core.tables import ANYTHING, Delete

    row = run(place.backend.find(EXCHANGES, ()))[0]
    run(place.backend.change(Delete(EXCHANGES, row.id, ANYTHING)))
    assert exchange(place, text, None) == "code_unknown"


def test_an_identity_begins_no_session_of_another_organization_or_subject(place: Place) -> None:
    who = exchange(place, signin(place).authorize(WHO, code_challenge=CHALLENGE))
    with pytest.raises(Misuse):
        place.blocking.start(org="org_2", subject="cons_1", identity=who)
    place.blocking.start(org=ORG, subject="cons_1", identity=who)
    with pytest.raises(InvalidSession):
        place.blocking.start(org=ORG, subject="cons_2", identity=who)


@pytest.mark.parametrize("challenge", ["", "short", "=" * 43, "a" * 44, 7])
def test_a_challenge_that_is_none(challenge: Any) -> None:
    with pytest.raises(Misuse):
        Kit().security.blocking.signin.authorize(WHO, code_challenge=challenge)


def test_what_signin_needs() -> None:
    with pytest.raises(Misuse, match="signin needs"):
        _ = Bartizan("memory://", environment="test", secrets=[ROOT]).signin


def test_the_same_without_await() -> None:
    kit = Kit()

    async def story() -> Identity:
        pending = await kit.security.signin.request_code(org=ORG, address=ANNA)
        return await kit.security.signin.verify_code(pending.id, str(pending.code), org=ORG, address=ANNA)

    assert asyncio.run(story()).subject == ANNA
