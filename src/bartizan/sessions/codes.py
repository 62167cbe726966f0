"""One-time codes: how many are sent, how long they are, and how often they may be guessed. Pure.

A guess at a code of six digits is right once in a million. What guesses cost is counted in hundredths of that, which is
what a guess at eight digits costs, so that one budget bounds all of a day: ten guesses at six digits, 10**-5. One of
the ten is kept for codes of eight digits, which are sent once the others are spent: no stranger locks anybody out.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bartizan.core.encoding import canonical
from bartizan.core.tables import Table
from bartizan.errors import InvalidRequest, Misuse, Reason

SHORT, LONG = 6, 8  # digits
COST = {SHORT: 100, LONG: 1}  # of a guess, in 10**-8
TRIES = 5  # guesses at one code
CODE_LIFE = 600  # seconds
QUIET = 60  # seconds after a code in which none is sent
HOUR, DAY = 3600, 86_400

_MAIL = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}")
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")
_PREFIX = re.compile(r"\+[1-9][0-9]{0,6}")
LONGEST_MAIL = 254  # characters (RFC 5321 section 4.5.3.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigninPolicy:
    """How many codes are sent to an address of an organization, and how many wrong ones are compared.

    `failures_per_day` is in guesses at six digits. Phones are sent nothing but where `countries` names the beginning of
    their number, such as `"+49"`, and `daily_ceiling` how many codes an organization sends to phones in a day.
    """

    codes_per_hour: int = 5
    codes_per_day: int = 10
    failures_per_day: int = 10
    countries: Collection[str] = ()
    daily_ceiling: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("codes_per_hour", 1, 60), ("codes_per_day", self.codes_per_hour, 100), ("failures_per_day", 2, 100),
            ("daily_ceiling", 1, 2**40),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None and name == "daily_ceiling":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise Misuse(f"{name} is a whole number from {least} to {most}")
        if isinstance(self.countries, str) or not all(_PREFIX.fullmatch(country) for country in self.countries):
            raise Misuse('countries are beginnings of numbers, such as {"+49", "+43"}')
        if bool(self.countries) != (self.daily_ceiling is not None):
            raise Misuse("codes to phones need both: countries, and the daily_ceiling of what they may cost")


SIGNIN = SigninPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRow:
    """A code that was sent. The code is not here, only its MAC; `budget` is whose guesses it counts to."""

    id: str
    environment: str
    org: str
    budget: str
    mac: bytes
    digits: int
    tries: int
    used: int
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRow:
    """What was sent to an address, and what was guessed at it, in the last day; its id is a MAC of the address.

    `codes` is canonical JSON of times, `guesses` of times and costs. A device that signed in before has a row of its
    own. An organization's phones have one too, of which `day` and `sent` count the codes.
    """

    id: str
    environment: str
    org: str
    codes: str
    guesses: str
    day: int
    sent: int
    expires_at: int


CODES = Table(name="bartizan_signin_codes", record=CodeRow, key="id", expires="expires_at")
BUDGETS = Table(name="bartizan_signin_budgets", record=BudgetRow, key="id", expires="expires_at")


def kind_of(address: str) -> str:
    """`email` or `phone`, for an address that `normal` gave."""
    return "phone" if address[0] == "+" else "email"


def normal(address: object, policy: SigninPolicy) -> str:
    """The one spelling of an address, which is what is sent to; `InvalidRequest` where nothing is sent to it.

    Mail addresses are ASCII and in lower case: two spellings of one mailbox would have two budgets, and two of one
    account could be two mailboxes.
    """
    if not isinstance(address, str) or not address.isascii() or len(address) > LONGEST_MAIL:
        raise InvalidRequest(Reason.ADDRESS_NOT_ALLOWED)
    if address[:1] == "+":
        number = address.translate({ord(sign): None for sign in " -.()"})
        if not _PHONE.fullmatch(number) or not number.startswith(tuple(policy.countries)):
            raise InvalidRequest(Reason.ADDRESS_NOT_ALLOWED)
        return number
    address = address.lower()
    if not _MAIL.fullmatch(address):
        raise InvalidRequest(Reason.ADDRESS_NOT_ALLOWED)
    return address


def sent_at(row: BudgetRow | None, now: int) -> Sequence[int]:
    """When codes were sent in the last day."""
    return [] if row is None else [at for at in json.loads(row.codes) if at > now - DAY]


def guessed(row: BudgetRow | None, now: int) -> Sequence[Sequence[int]]:
    """The guesses of the last day, each with its time and its cost."""
    return [] if row is None else [guess for guess in json.loads(row.guesses) if guess[0] > now - DAY]


def decide_digits(row: BudgetRow | None, policy: SigninPolicy, now: int) -> int:
    """How many digits the next code has; 0 where none is sent."""
    sent = sent_at(row, now)
    if sent and sent[-1] > now - QUIET:
        return 0
    if len(sent) >= policy.codes_per_day or sum(at > now - HOUR for at in sent) >= policy.codes_per_hour:
        return 0
    return next((digits for digits in (SHORT, LONG) if _affords(row, digits, policy, now)), 0)


def decide_guess(code: CodeRow | None, row: BudgetRow | None, policy: SigninPolicy, now: int) -> Reason | None:
    """Why a guess at a code is not compared; None where it is."""
    if code is None:
        return Reason.CODE_UNKNOWN
    if now >= code.expires_at:
        return Reason.EXPIRED
    if code.used:
        return Reason.ALREADY_USED
    if code.tries < 1 or not _affords(row, code.digits, policy, now):
        return Reason.CODE_SPENT
    return None


def _affords(row: BudgetRow | None, digits: int, policy: SigninPolicy, now: int) -> bool:
    kept = 1 if digits == SHORT else 0  # for the long ones
    spent = sum(cost for _, cost in guessed(row, now))
    return spent + COST[digits] <= (policy.failures_per_day - kept) * COST[SHORT]


def with_code(row: BudgetRow | None, now: int) -> str:
    """`codes` with one more, now."""
    return canonical([*sent_at(row, now), now])


def with_guess(row: BudgetRow | None, digits: int, now: int) -> str:
    """`guesses` with one more, now."""
    return canonical([*guessed(row, now), [now, COST[digits]]])
