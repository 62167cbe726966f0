"""Sessions at rest: a row for each family of refresh tokens, a row for each epoch, and when a family has ended. Pure.

An epoch counts how often everything of somebody was ended at once: of a subject in an organization, of an organization,
of everyone. A family keeps the counts of its beginning, so that one write ends all that began before it.
"""

from dataclasses import dataclass
from typing import NamedTuple

from bartizan.core.encoding import Json, canonical
from bartizan.core.principal import Environment
from bartizan.core.tables import Added, Expect, Is, Table
from bartizan.errors import Reason

SALT = 8  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRow:
    """One session: all refresh tokens that followed each other, of which `generation` and `salt` tell the newest.

    Nothing here is a token, and no token can be made of it without the root secret. Organization, subject, environment,
    `granted` (canonical JSON: audience, scopes, factors), binding, the epochs and the absolute end never change. Times
    are the store's, in UTC seconds; `rotated_at` is 0 before the first rotation. `confirmed` is 1 once the newest
    generation was seen in use, and before that 2 once it was given late; `late` is the day of the last generation that
    was given late times 1000, plus how many there were that day. `binding` is what must be shown beside the tokens,
    `device` a MAC of what the application said of the device in which the session began.
    """

    id: str
    environment: str
    org: str
    subject: str
    guest: int
    granted: str
    generation: int
    salt: bytes
    previous_salt: bytes
    rotated_at: int
    confirmed: int
    late: int
    binding: str | None
    subject_epoch: int
    org_epoch: int
    everyone_epoch: int
    created_at: int
    idle_ends: int
    absolute_ends: int
    revoked_at: int | None
    revoked_for: str | None
    device: str | None


FAMILIES = Table(
    name="bartizan_sessions",
    record=FamilyRow,
    key="id",
    expires="idle_ends",
    indexes=(("org", "subject"),),
    version=2,
    added={"device": Added(2, None)},
)


class Bound(NamedTuple):
    """What a family begins with: what must be shown beside its tokens, and the MAC of its device."""

    binding: str | None
    device: str | None


class Guest:
    """What a guest's first refresh token says beside its MACed generation: the row that it will have."""

    __slots__ = ("absolute_ends", "began", "binding", "created_at", "device", "granted", "org", "subject")

    def __init__(  # noqa: PLR0917 - in the order of the text, whose last two the first version had not
        self,
        org: str,
        subject: str,
        granted: Json,
        since: list[int],
        created_at: int,
        absolute: int,
        binding: str | None = None,
        device: str | None = None,
    ) -> None:
        self.org: str = org
        self.subject: str = subject
        self.granted: str = canonical(granted)
        self.began: list[int] = since
        self.created_at: int = created_at
        self.absolute_ends: int = absolute
        self.binding: str | None = binding
        self.device: str | None = device


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """How often all sessions of somebody were ended; of a subject also which one was spared the last time.

    `disabled` is 1 while no session may begin or go on. `started` counts the sessions that began, where their number is
    limited: it makes those who begin one at the same time see each other.
    """

    id: str
    epoch: int
    disabled: int
    spared: str | None
    started: int


EPOCHS = Table(name="bartizan_session_epochs", record=EpochRow, key="id")
UNTOUCHED = EpochRow(id="-", epoch=0, disabled=0, spared=None, started=0)  # what a missing row means


def subject_key(environment: Environment | str, org: str, subject: str) -> str:
    """The key of a subject's epoch in an organization."""
    return f"s {environment} {len(org)} {org} {subject}"


def org_key(environment: Environment | str, org: str) -> str:
    """The key of an organization's epoch."""
    return f"o {environment} {org}"


def everyone_key(environment: Environment | str) -> str:
    """The key of everyone's epoch in an environment."""
    return f"e {environment}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as its owner may see it. Times are UTC seconds; `expires_at` is when it ends if it is not used."""

    id: str
    org: str
    subject: str
    guest: bool
    created_at: int
    last_seen_at: int
    expires_at: int


def shown(row: FamilyRow) -> Session:
    """What may be seen of a row."""
    return Session(
        id=row.id,
        org=row.org,
        subject=row.subject,
        guest=bool(row.guest),
        created_at=row.created_at,
        last_seen_at=max(row.created_at, row.rotated_at),
        expires_at=ends(row),
    )


def ends(row: FamilyRow) -> int:
    """When the session ends if it is not used any more."""
    return min(row.idle_ends, row.absolute_ends)


def over(row: FamilyRow, now: int) -> Reason | None:
    """Why this family has ended, as far as its own row tells."""
    if row.revoked_at is not None:
        return Reason.SESSION_REVOKED
    return Reason.SESSION_EXPIRED if now >= row.absolute_ends or now >= row.idle_ends else None


Epochs = tuple[int, int, int]  # of a subject, its organization, and everyone


def passed(family: str, subject: EpochRow, org: EpochRow, everyone: EpochRow, since: Epochs) -> Reason | None:
    """Why a family that began in the epochs `since` has ended, if one of them has passed."""
    if subject.disabled or org.disabled or everyone.disabled:
        return Reason.SUBJECT_DISABLED
    if org.epoch > since[1] or everyone.epoch > since[2]:
        return Reason.SESSION_REVOKED
    return Reason.SESSION_REVOKED if subject.epoch > since[0] and subject.spared != family else None


def began(row: FamilyRow) -> Epochs:
    """The epochs in which the family began."""
    return row.subject_epoch, row.org_epoch, row.everyone_epoch


def unpassed(row: FamilyRow, *, spared: bool = False) -> tuple[Expect[EpochRow], ...]:
    """The steps that hold a change of this family to its epochs until the commit; `spared`: the last time it was."""
    of_subject = Is("spared", "=", row.id) if spared else Is("epoch", "<=", row.subject_epoch)
    enabled = Is("disabled", "=", 0)
    environment = row.environment
    return (
        Expect(EPOCHS, subject_key(environment, row.org, row.subject), (of_subject, enabled), missing=not spared),
        Expect(EPOCHS, org_key(environment, row.org), (Is("epoch", "<=", row.org_epoch), enabled), missing=True),
        Expect(EPOCHS, everyone_key(environment), (Is("epoch", "<=", row.everyone_epoch), enabled), missing=True),
    )
