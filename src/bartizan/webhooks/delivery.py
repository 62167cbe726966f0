"""Sending, decided without sending: what goes out, what an answer means, when to try again, when to give up.

Pure: time, chance and answers come in as arguments. Schedules and outcomes are those of Standard Webhooks 1.0.0 and of
Fanfare's "Retry policy".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from re import compile as pattern
from typing import Final, Literal

from bartizan.core.address import EndpointPolicy
from bartizan.errors import Misuse
from bartizan.webhooks.providers import STANDARD, STANDARD_SCHEDULE, Provider

Outcome = Literal["ok", "retry", "throttle", "gone"]

JITTER: Final = 0.2  # a delay is lengthened by up to a fifth: receivers that failed together are not asked together
LONGEST_VALUE: Final = 1024
MOST_HEADERS: Final = 20

# Names that are ours, the connection's, or what a receiver verifies. Prefixes end with a dash.
_OURS = frozenset({
    "host", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect", "user-agent",
    "forwarded", "cookie", "accept-encoding",
})  # fmt: skip
_OUR_PREFIXES = ("webhook-", "svix-", "content-", "x-forwarded-", "proxy-", "x-fanfare-", "sec-")
_NAME = pattern(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = pattern(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Seconds before each attempt after the one before it; the first is the first attempt's."""

    schedule: tuple[int, ...] = STANDARD_SCHEDULE
    jitter: float = JITTER

    def __post_init__(self) -> None:
        if not self.schedule or any(isinstance(step, bool) or not 0 <= step <= 86_400 * 7 for step in self.schedule):
            raise Misuse("a schedule is delays of 0 seconds to 7 days, at least one")
        if not 0 <= self.jitter <= 1:
            raise Misuse("jitter is a part of the delay, from 0 to 1")

    def delay(self, attempts: int, *, chance: float, retry_after: int | None = None) -> int | None:
        """Seconds until the next attempt after so many were made, or None where that was the last.

        `chance` is a random number from 0 to below 1. A receiver's `Retry-After` counts between the delay of the
        schedule and twice that: it can neither stop the sender nor make it hammer.
        """
        if attempts < 1 or attempts >= len(self.schedule):
            return None
        base = self.schedule[attempts]
        if retry_after is not None and retry_after > base:
            return min(retry_after, 2 * base)
        return base + int(base * self.jitter * chance)


def outcome_of(status: int | None) -> Outcome:
    """What an answer means; None is no answer, whatever the reason.

    2xx is success. 410 says that nobody is there any more. 429, 502 and 504 ask for patience. Anything else is tried
    again, 3xx too: a redirection is never followed.
    """
    if status is None:
        return "retry"
    if 200 <= status < 300:
        return "ok"
    if status == 410:
        return "gone"
    return "throttle" if status in {429, 502, 504} else "retry"


def retry_after_of(value: str | None) -> int | None:
    """The seconds of a `Retry-After` (RFC 9110 section 10.2.3); a date and anything odd is as none."""
    if value is None or len(value) > 9 or not (value.isascii() and value.isdigit()):
        return None
    return int(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How an endpoint has been doing: failures in a row, since when, and when it was switched off, if it was."""

    failures: int = 0
    failing_since: int | None = None
    disabled_at: int | None = None
    why: Literal["", "gone", "failing", "asked"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When an endpoint is switched off: after so many failures in a row, over so many seconds."""

    failures: int = 100
    seconds: int = 7 * 86_400

    def __post_init__(self) -> None:
        if self.failures < 1 or self.seconds < 0:
            raise Misuse("patience is at least one failure, and no negative time")

    def after(self, health: Health, outcome: Outcome, *, now: int) -> Health:
        """The health after one more attempt. A success forgives all; what is off stays off until it is enabled."""
        if health.disabled_at is not None:
            return health
        if outcome == "ok":
            return Health()
        if outcome == "gone":
            return replace(health, disabled_at=now, why="gone")
        since = now if health.failing_since is None else health.failing_since
        failing = Health(failures=health.failures + 1, failing_since=since)
        if failing.failures >= self.failures and now - since >= self.seconds:
            return replace(failing, disabled_at=now, why="failing")
        return failing


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookPolicy:
    """How webhooks are sent.

    `endpoint` says where they may go, and how long one attempt may take. `schedule` are the seconds before each
    attempt, `jitter` by which part of it a delay grows at most. An endpoint that failed `failures` times in a row, over
    `failing_for` seconds, is switched off. `provider` is the scheme, `agent` the `User-Agent`; `told` names headers in
    which the `delivery`'s id, the `endpoint`'s and the number of `retries` are told besides.
    """

    endpoint: EndpointPolicy = field(default_factory=lambda: EndpointPolicy(seconds=20, max_bytes=65_536))
    schedule: tuple[int, ...] = STANDARD_SCHEDULE
    jitter: float = JITTER
    failures: int = 100
    failing_for: int = 7 * 86_400
    provider: Provider = STANDARD
    agent: str = "Bartizan"
    told: Mapping[Literal["delivery", "endpoint", "retries"], str] = field(default_factory=dict)
    retries: Retries = field(init=False, repr=False, compare=False)
    patience: Patience = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.agent or len(self.agent) > 100 or not _VALUE.fullmatch(self.agent):
            raise Misuse("agent is 1 to 100 characters of printable ASCII")
        object.__setattr__(self, "retries", Retries(schedule=tuple(self.schedule), jitter=self.jitter))
        object.__setattr__(self, "patience", Patience(failures=self.failures, seconds=self.failing_for))

    @property
    def ours(self) -> tuple[str, ...]:
        """The headers of a message besides the usual ones, in lower case: no endpoint has one of them of its own."""
        row = self.provider
        names = (row.signature, row.timestamp, row.id, row.type_header, *self.told.values())
        return tuple(name.lower() for name in names if name is not None)


WEBHOOKS: Final = WebhookPolicy()


def request_headers(
    signed: Mapping[str, str],
    custom: Mapping[str, str],
    *,
    content_type: str = "application/json",
    agent: str = "Bartizan",
) -> dict[str, str]:
    """The headers of one attempt: the endpoint's own, and over them ours and the signature's, whatever theirs are."""
    ours = {"content-type": content_type, "user-agent": agent, **signed}
    return {**checked_headers(custom, reserved=tuple(signed)), **ours}


def checked_headers(custom: Mapping[str, str], *, reserved: Sequence[str] = ()) -> dict[str, str]:
    """The headers that somebody may add to an endpoint, names in lower case; `Misuse` for one that is not theirs."""
    if len(custom) > MOST_HEADERS:
        raise Misuse(f"an endpoint has at most {MOST_HEADERS} headers of its own")
    found: dict[str, str] = {}
    for name, value in custom.items():
        lower = name.lower()
        if not _NAME.fullmatch(name) or lower in found:
            raise Misuse("a header's name is of RFC 9110 section 5.1, and comes once")
        if lower in _OURS or lower in reserved or lower.startswith(_OUR_PREFIXES):
            raise Misuse("this header is the sender's: an endpoint's own headers never replace it")
        found[lower] = checked_value(value)
    return found


def checked_value(value: str) -> str:
    """The value of a header, on which nothing else follows; `Misuse` for what is none."""
    if len(value) > LONGEST_VALUE or not _VALUE.fullmatch(value) or value != value.strip():
        raise Misuse("a header's value is printable ASCII, without space around it, in at most 1024 characters")
    return value
