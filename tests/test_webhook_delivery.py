from random import Random
from typing import Any

import pytest

from bartizan import Misuse, WebhookSigner, WebhookVerifier
from bartizan.fanfare import WEBHOOK_SCHEDULE, webhook_signer
from bartizan.webhooks.delivery import (
    Health,
    Patience,
    Retries,
    checked_headers,
    outcome_of,
    request_headers,
    retry_after_of,
)
from bartizan.webhooks.providers import STANDARD_SCHEDULE

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_800_000_000


@pytest.mark.parametrize("schedule", [STANDARD_SCHEDULE, WEBHOOK_SCHEDULE])
def test_the_schedule_is_walked_to_its_end(schedule: tuple[int, ...]) -> None:
    retries, chance = Retries(schedule=schedule), Random(1)
    for attempts in range(1, len(schedule)):
        delay = retries.delay(attempts, chance=chance.random())
        assert delay is not None
        assert schedule[attempts] <= delay <= schedule[attempts] * 1.2
    assert retries.delay(len(schedule), chance=0) is None
    assert retries.delay(0, chance=0) is None


def test_the_two_tables() -> None:
    assert STANDARD_SCHEDULE == (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
    assert WEBHOOK_SCHEDULE == (0, 60, 5 * 60, 30 * 60, 2 * 3600, 6 * 3600, 12 * 3600, 24 * 3600)


@pytest.mark.parametrize(
    ("asked", "given"), [(None, 300), (0, 300), (299, 300), (400, 400), (600, 600), (601, 600), (10**8, 600)]
)
def test_retry_after_is_clamped(asked: int | None, given: int) -> None:
    assert Retries(jitter=0).delay(2, chance=0.9, retry_after=asked) == given


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("9" * 10, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_read_strictly(value: str | None, seconds: int | None) -> None:
    assert retry_after_of(value) == seconds


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "ok"), (204, "ok"), (299, "ok"), (410, "gone"), (429, "throttle"), (502, "throttle"), (504, "throttle"), (301, "retry"),
     (302, "retry"), (308, "retry"), (400, "retry"), (404, "retry"), (500, "retry"), (503, "retry"), (100, "retry"), (None, "retry")],
)  # fmt: skip
def test_outcomes(status: int | None, outcome: str) -> None:
    assert outcome_of(status) == outcome


def test_an_endpoint_is_switched_off_after_failures_in_a_row_over_days() -> None:
    patience, health = Patience(), Health()
    for number in range(150):
        health = patience.after(health, "retry", now=NOW + number)
    assert (health.failures, health.disabled_at) == (150, None), "many, but all within minutes"
    assert patience.after(health, "ok", now=NOW + 200) == Health()
    late = patience.after(health, "throttle", now=NOW + 7 * 86_400)
    assert (late.disabled_at, late.why) == (NOW + 7 * 86_400, "failing")
    assert patience.after(late, "ok", now=NOW + 8 * 86_400) == late, "it is enabled by hand"
    few = Health(failures=98, failing_since=NOW)
    assert patience.after(few, "retry", now=NOW + 30 * 86_400).disabled_at is None
    assert patience.after(Health(), "gone", now=NOW).why == "gone"


@pytest.mark.parametrize(
    "make",
    [lambda: Retries(schedule=()), lambda: Retries(schedule=(-1,)), lambda: Retries(schedule=(True,)), lambda: Retries(jitter=2),
     lambda: Retries(jitter=float("nan")), lambda: Patience(failures=0), lambda: Patience(seconds=-1)],
)  # fmt: skip
def test_what_makes_no_sense_is_a_mistake(make: Any) -> None:
    with pytest.raises(Misuse):
        make()


@pytest.mark.parametrize(
    "name",
    ["webhook-signature", "Webhook-Signature", "WEBHOOK-ID", "webhook-timestamp", "webhook-anything", "svix-id", "Host", "host",
     "Content-Type", "content-length", "Content-Digest", "Transfer-Encoding", "Connection", "Keep-Alive", "TE", "Trailer", "Upgrade",
     "Expect", "Proxy-Authorization", "User-Agent", "X-Forwarded-For", "Forwarded", "Cookie", "Accept-Encoding", "x-fanfare-signature"],
)  # fmt: skip
def test_custom_header_overrides_signature(name: str) -> None:
    """An endpoint's own header, set by whoever may edit the endpoint, never replaces one of ours."""
    signed = WebhookSigner(SECRET).sign(b"{}", id="msg_1", now=NOW)
    with pytest.raises(Misuse):
        request_headers(signed, {name: "theirs"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("X A", "x"), ("", "x"), ("X:", "x"), ("X\n", "x"), ("é", "x"), ("X-A", "a\r\nb: c"), ("X-A", "\x00"), ("X-A", "é"), ("X-A", " x"),
     ("X-A", "x" * 1025)],
)  # fmt: skip
def test_custom_headers_split_nothing(name: str, value: str) -> None:
    with pytest.raises(Misuse):
        checked_headers({name: value})


def test_custom_headers() -> None:
    signed = WebhookSigner(SECRET).sign(b"{}", id="msg_1", now=NOW)
    headers = request_headers(signed, {"X-Tenant": "7", "Authorization": "Bearer theirs"})
    assert headers == {
        "x-tenant": "7", "authorization": "Bearer theirs", "content-type": "application/json", "user-agent": "Bartizan", **signed,
    }  # fmt: skip
    assert WebhookVerifier(SECRET, clock=lambda: NOW).verify(b"{}", headers).id == "msg_1"
    ours = webhook_signer("a text of enough bytes").sign(b"{}", id="msg_1", now=NOW)
    with pytest.raises(Misuse):
        checked_headers({"X-Sig": "x"}, reserved=("x-sig",))
    with pytest.raises(Misuse):
        checked_headers({"X-A": "1", "x-a": "2"})
    with pytest.raises(Misuse):
        checked_headers({f"X-{number}": "1" for number in range(21)})
    assert set(request_headers(ours, {})) == {
        "content-type",
        "user-agent",
        "x-fanfare-signature",
        "x-fanfare-timestamp",
    }


def test_every_attempt_has_a_fresh_time_and_the_same_id() -> None:
    signer, now = WebhookSigner(SECRET), NOW
    for delay in STANDARD_SCHEDULE:
        now += delay
        hooks = WebhookVerifier(SECRET, clock=lambda now=now: now)  # type: ignore[misc]
        event = hooks.verify(b"{}", signer.sign(b"{}", id="msg_1", now=now))
        assert (event.id, event.timestamp) == ("msg_1", now)
