"""Exchange codes: who somebody is, as the application's own server says, for one browser and one minute. Pure."""

import re
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from hmac import compare_digest

from bartizan.core.encoding import hashed, joined
from bartizan.core.principal import checked_org
from bartizan.core.tables import Table
from bartizan.errors import Misuse, Reason

EXCHANGE_LIFE = 60  # seconds
AGAIN = 10  # seconds in which the browser that has used a code may ask again
LONGEST_NAME = 255
OURS = "otp"  # the provider of those who entered a one-time code

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")  # RFC 7636 section 4.2, of SHA-256
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")  # section 4.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who somebody is: `subject` as `issuer` names them, by way of `provider`, for one organization.

    All four together are one person. Nothing else makes two of them the same, a mail address neither.
    """

    org: str
    provider: str
    issuer: str
    subject: str
    exchange: str | None = field(default=None, repr=False, compare=False)  # which exchange code it came by

    def __post_init__(self) -> None:
        checked_org(self.org)
        for name in ("provider", "issuer", "subject"):
            value: object = getattr(self, name)
            if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_NAME or not value.isprintable():
                raise Misuse(f"{name} is 1 to {LONGEST_NAME} printable characters")

    @property
    def session_id(self) -> str | None:
        """The one session that its exchange code begins, however often it is asked for."""
        if self.exchange is None:
            return None
        return sha256(joined(b"exchange/v1", self.exchange.encode())).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRow:
    """An exchange code that was given out; the code says only its id."""

    id: str
    environment: str
    org: str
    provider: str
    issuer: str
    subject: str
    challenge: str | None
    used_at: int | None
    expires_at: int


EXCHANGES = Table(name="bartizan_signin_exchanges", record=ExchangeRow, key="id", expires="expires_at")


def checked_challenge(challenge: object) -> str | None:
    """A `code_challenge` of the method S256."""
    if challenge is not None and not (isinstance(challenge, str) and _CHALLENGE.fullmatch(challenge)):
        raise Misuse("code_challenge is BASE64URL(SHA256(code_verifier)): 43 characters")
    return challenge


def proves(row: ExchangeRow, verifier: object) -> bool:
    """Whether this is the verifier of the code's challenge; none, where it has none."""
    if row.challenge is None or verifier is None:
        return row.challenge is None and verifier is None
    if not isinstance(verifier, str) or not _VERIFIER.fullmatch(verifier):
        return False
    return compare_digest(hashed(verifier), row.challenge)


class Exchanged(Enum):
    """What becomes of a code that is good: it is used now, or was by the same browser just now, or long ago."""

    FIRST = 1
    AGAIN = 2
    THEFT = 3


def decide_exchange(
    row: ExchangeRow | None, *, org: str, environment: str, verifier: object, now: int
) -> Exchanged | Reason:
    """What becomes of a code that was presented, or why it is refused.

    Who cannot prove that the code is theirs changes nothing: neither burns it nor ends what it began.
    """
    if row is None or row.environment != environment:
        return Reason.CODE_UNKNOWN
    if row.org != org:
        return Reason.WRONG_ORGANIZATION
    if not proves(row, verifier):
        return Reason.CHALLENGE_WRONG
    if now >= row.expires_at:
        return Reason.EXPIRED
    if row.used_at is None:
        return Exchanged.FIRST
    if now - row.used_at <= AGAIN:
        return Reason.ALREADY_USED if row.challenge is None else Exchanged.AGAIN
    return Exchanged.THEFT
