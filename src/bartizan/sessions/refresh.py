"""What becomes of a refresh token that was presented: one pure decision, and the steps that carry it out.

A family rotates at most once in a grace window, so a token that is two generations behind was used up longer ago than
that. The window never begins anew, since an answer within it writes nothing. Who has used an access token of the newest
generation has evidently received it; until then the answer may have been lost, and is given again, a few times a day.
"""

from enum import StrEnum
from functools import lru_cache

from bartizan.core.tables import Assignments, Insert, Is, Now, Update
from bartizan.errors import Reason
from bartizan.sessions.families import FAMILIES, EpochRow, FamilyRow, began, over, passed

DAY = 86_400
LATE_A_DAY = 2  # generations of a family that are given late; more would let a thief who rotates and waits ride along
UNUSED, USED, GIVEN_LATE = 0, 1, 2  # what is known of the newest generation


class Outcome(StrEnum):
    """What becomes of it, a closed list; the first four are answered with tokens."""

    ROTATED = "rotated"  # the newest generation: it is used up, and has a successor
    FRESH = "fresh"  # the newest, but the window is open: the same token again
    GRACE = "grace"  # the one before, in the window: the same successor as everybody got
    LATE_RECOVERY = "late_recovery"  # the one before, and the successor was never used: its answer was lost
    MISBOUND = "misbound"  # of another device: nothing is written
    AHEAD = "ahead"  # authentic and not of this history: the store has forgotten; nothing is written
    REUSE = "reuse"  # used up long ago: two parties have the session
    DEAD = "dead"  # ended, expired, disabled, or an epoch has passed it
    UNKNOWN = "unknown"


ANSWERED = frozenset({Outcome.ROTATED, Outcome.FRESH, Outcome.GRACE, Outcome.LATE_RECOVERY})
REASONS = {
    Outcome.MISBOUND: Reason.SESSION_MISBOUND,
    Outcome.AHEAD: Reason.STORE_ROLLED_BACK,
    Outcome.REUSE: Reason.SESSION_REUSED,
    Outcome.DEAD: Reason.SESSION_REVOKED,
    Outcome.UNKNOWN: Reason.SESSION_UNKNOWN,
}


class Presented:
    """What a refresh token says that our MAC holds together: family, generation, salt."""

    __slots__ = ("family", "generation", "salt")

    def __init__(self, family: str, generation: int, salt: bytes) -> None:
        self.family: str = family
        self.generation: int = generation
        self.salt: bytes = salt


def decide_refresh(
    family: FamilyRow | None,
    presented: Presented,
    *,
    epochs: tuple[EpochRow, EpochRow, EpochRow],
    binding: str | None,
    environment: str,
    now: int,
    grace: int,
    recovery: int,
) -> Outcome:
    """What becomes of `presented`, by the family and the epochs (subject, organization, everyone) in the store.

    `binding` is what the request proved, `grace` and `recovery` are the two windows in seconds (no `recovery`: 0).
    """
    if family is None:
        return Outcome.UNKNOWN
    if (
        family.environment != environment
        or over(family, now) is not None
        or passed(family.id, *epochs, began(family)) is not None
    ):
        return Outcome.DEAD
    if family.binding != binding:
        return Outcome.MISBOUND
    behind = family.generation - presented.generation
    if behind < 0:
        return Outcome.AHEAD
    age = now - family.rotated_at  # a clock behind the one that rotated makes it negative, which is young
    if behind == 0:
        if presented.salt != family.salt:
            return Outcome.AHEAD
        return Outcome.ROTATED if age >= grace else Outcome.FRESH
    if behind > 1:
        return Outcome.REUSE  # its salt is not kept: whatever it was, it is not what anybody should have now
    if presented.salt != family.previous_salt:
        return Outcome.AHEAD
    if age <= grace:
        return Outcome.GRACE
    if age <= recovery and may_be_late(family, now):
        return Outcome.LATE_RECOVERY
    return Outcome.REUSE


def turns(outcome: Outcome, family: FamilyRow, presented: Presented, now: int) -> tuple[Outcome, ...]:
    """What is tried in its order, where the store refuses and nothing has changed: its clock says otherwise than ours.

    Only what time decides has another turn, and the last one writes nothing.
    """
    if outcome is Outcome.ROTATED:
        return Outcome.ROTATED, Outcome.FRESH
    if outcome not in {Outcome.REUSE, Outcome.LATE_RECOVERY} or family.generation - presented.generation != 1:
        return (outcome,)
    if not may_be_late(family, now):
        return Outcome.REUSE, Outcome.GRACE
    other = Outcome.REUSE if outcome is Outcome.LATE_RECOVERY else Outcome.LATE_RECOVERY
    return outcome, other, Outcome.GRACE


def may_be_late(family: FamilyRow, now: int) -> bool:
    """Whether the newest generation may be given late: nobody has used it, and it was already, or today's are left.

    It is counted once, however many requests of one burst ask for it.
    """
    return family.confirmed == GIVEN_LATE or (family.confirmed == UNUSED and lates(family, now) < LATE_A_DAY)


def lates(family: FamilyRow, now: int) -> int:
    """How many generations were given late today."""
    day, count = divmod(family.late, 1000)
    return count if day == now // DAY else 0


def rotation(
    presented: Presented, *, binding: str | None, environment: str, salt: bytes, grace: int, idle: int
) -> Update[FamilyRow]:
    """The next generation, if this is the newest one, the family lives, and the window is closed."""
    open_, times = _always(environment, grace, idle)
    generation = Is("generation", "=", presented.generation)
    where = (generation, Is("salt", "=", presented.salt), Is("binding", "=", binding), *open_)
    new = (("generation", presented.generation + 1), ("previous_salt", presented.salt), ("salt", salt), *times)
    return Update(FAMILIES, presented.family, where, new)


@lru_cache(64)
def _always(environment: str, grace: int, idle: int) -> tuple[tuple[Is, ...], Assignments]:
    """What is asked, and set, whatever the token: it lives here and now, and its window is closed."""
    where = (
        Is("environment", "=", environment),
        Is("revoked_at", "=", None),
        Is("absolute_ends", ">", Now()),
        Is("idle_ends", ">", Now()),
        Is("rotated_at", "<=", Now(-grace)),
    )
    return where, (("rotated_at", Now()), ("confirmed", UNUSED), ("idle_ends", Now(idle)))


def recovered(family: FamilyRow, *, now: int, recovery: int) -> Update[FamilyRow]:
    """One generation more that is given late, if nothing has changed meanwhile. The window stays where it is."""
    return Update(
        FAMILIES,
        family.id,
        where=(
            Is("generation", "=", family.generation),
            Is("salt", "=", family.salt),
            Is("confirmed", "=", UNUSED),
            Is("late", "=", family.late),
            Is("revoked_at", "=", None),
            Is("rotated_at", ">", Now(-recovery - 1)),
        ),
        set=(("confirmed", GIVEN_LATE), ("late", now // DAY * 1000 + lates(family, now) + 1)),
    )


def kill(family: FamilyRow, presented: Presented, *, now: int, grace: int, recovery: int) -> Update[FamilyRow]:
    """The family's end by reuse. Where time made it reuse, it has to be so by the store's clock too."""
    where = [Is("generation", "=", family.generation), Is("salt", "=", family.salt), Is("revoked_at", "=", None)]
    if family.generation - presented.generation == 1:
        window = max(grace, recovery) if may_be_late(family, now) else grace
        where.append(Is("rotated_at", "<=", Now(-window - 1)))
    return ending(family.id, tuple(where), Reason.SESSION_REUSED)


def confirmation(family: FamilyRow) -> Update[FamilyRow]:
    """The newest generation was seen in use."""
    newest = (Is("generation", "=", family.generation), Is("salt", "=", family.salt))
    where = (*newest, Is("confirmed", "=", family.confirmed), Is("revoked_at", "=", None))
    return Update(FAMILIES, family.id, where, (("confirmed", USED),))


def ending(family: str, where: tuple[Is, ...], reason: Reason | None) -> Update[FamilyRow]:
    """The family's end."""
    ended = (("revoked_at", Now()), ("revoked_for", None if reason is None else reason.value))
    return Update(FAMILIES, family, where, ended)


def begun(row: FamilyRow, *, idle: int, absolute: int | None = None) -> Insert[FamilyRow]:
    """A family that was not there, its times by the store's clock; without `absolute` its absolute end is the row's."""
    times = [("created_at", Now()), ("absolute_ends", Now(absolute))] if absolute is not None else []
    if row.generation:  # a guest's, whose first refresh it is
        times.append(("rotated_at", Now()))
    return Insert(FAMILIES, row, set=(*times, ("idle_ends", Now(idle))))
