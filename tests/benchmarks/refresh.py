"""Refreshing, simulated: clients without a lock, replies lost and reordered, thieves; ours beside models of others.

Ours is `decide_refresh` itself over a row that its outcomes change, so a million bursts cost seconds and no store. The
others are models of what their sources and pages say, not the products. `python -m benchmarks.refresh [bursts]`.

A burst: 1 to 6 requests of one client, all with the token it holds when each of them is sent, reach the server within
two seconds in any order; the replies come back in another order, and some never do. A client keeps the last reply that
arrives. What it keeps it uses, unless the reply was lost. Between bursts there are minutes to hours.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple, Protocol

from bartizan.sessions.families import UNTOUCHED, FamilyRow
from bartizan.sessions.refresh import (
    ANSWERED,
    DAY,
    GIVEN_LATE,
    UNUSED,
    USED,
    Outcome,
    Presented,
    decide_refresh,
    lates,
)

GRACE, RECOVERY = 10, 3600
LOST = 0.015
START = 20_000 * DAY
CLEAR = (UNTOUCHED, UNTOUCHED, UNTOUCHED)
Token = tuple[int, ...]


class Server(Protocol):
    """One session of a machine. `refresh` gives the next token or None; `ended` is whether the session is over."""

    ended: bool

    def first(self) -> Token:
        """The token of the sign-in."""

    def refresh(self, token: Token, now: int) -> Token | None:
        """What a refresh is answered with."""

    def used(self, token: Token, now: int) -> None:
        """An access token that came with this refresh token was used."""


class Ours:
    """The row of a family, moved by what is decided."""

    def __init__(self, grace: int = GRACE, recovery: int = RECOVERY) -> None:
        self.ended = False
        self._grace = grace
        self._recovery = recovery
        self._row = FamilyRow(
            id="f", environment="live", org="o", subject="s", guest=0, granted="", generation=0, salt=b"",
            previous_salt=b"", rotated_at=0, confirmed=0, late=0, binding=None, subject_epoch=0, org_epoch=0,
            everyone_epoch=0, created_at=0, idle_ends=2**60, absolute_ends=2**60, revoked_at=None, revoked_for=None, device=None,
        )  # fmt: skip

    def first(self) -> Token:
        """Generation 0."""
        return (0,)

    def refresh(self, token: Token, now: int) -> Token | None:
        """As the service does it."""
        row = self._row
        outcome = decide_refresh(
            row, Presented("f", token[0], b""), epochs=CLEAR, binding=None, environment="live", now=now,
            grace=self._grace, recovery=self._recovery,
        )  # fmt: skip
        if outcome is Outcome.ROTATED:
            self._row = replace(row, generation=row.generation + 1, rotated_at=now, confirmed=0)
        elif outcome is Outcome.LATE_RECOVERY and row.confirmed == UNUSED:
            self._row = replace(row, confirmed=GIVEN_LATE, late=now // DAY * 1000 + lates(row, now) + 1)
        elif outcome not in ANSWERED:
            self.ended = True
            self._row = replace(row, revoked_at=now)
            return None
        return (self._row.generation,)

    def used(self, token: Token, now: int) -> None:
        """Confirm on use."""
        row = self._row
        if token[0] == row.generation and row.confirmed != USED and row.revoked_at is None:
            self._row = replace(row, confirmed=USED)


class Strict:
    """RFC 9700 section 4.14.2 as it is read: whatever is not the active token ends the session."""

    def __init__(self) -> None:
        self.ended = False
        self._active = 0

    def first(self) -> Token:
        """Number 0."""
        return (0,)

    def refresh(self, token: Token, _: int) -> Token | None:
        """The next number."""
        if self.ended or token[0] != self._active:
            self.ended = True
            return None
        self._active += 1
        return (self._active,)

    def used(self, token: Token, now: int) -> None:
        """Nothing."""


class Graceful:
    """Hydra with a grace period: a used token is answered for so long, each time with a further sibling."""

    def __init__(self, period: int = 60) -> None:
        self.ended = False
        self._period = period
        self._next = 0
        self._first_used: dict[int, int] = {}

    def first(self) -> Token:
        """Number 0."""
        return (0,)

    def refresh(self, token: Token, now: int) -> Token | None:
        """A sibling."""
        used = self._first_used.setdefault(token[0], now)
        if self.ended or now > used + self._period:
            self.ended = True
            return None
        self._next += 1
        return (self._next,)

    def used(self, token: Token, now: int) -> None:
        """Nothing."""


class SuperTokens:
    """supertokens-core, CDI 5.6: the current token, or the one before within 30 seconds, which displaces its child."""

    def __init__(self, window: int = 30) -> None:
        self.ended = False
        self._window = window
        self._next = self._current = 0
        self._previous = -1
        self._rotated_at = 0

    def first(self) -> Token:
        """Number 0."""
        return (0,)

    def refresh(self, token: Token, now: int) -> Token | None:
        """A child of the current one, or another in its place."""
        if self.ended:
            return None
        if token[0] == self._current:
            self._previous, self._rotated_at = self._current, now
        elif token[0] != self._previous or now > self._rotated_at + self._window:
            self.ended = True
            return None
        self._next += 1
        self._current = self._next
        return (self._current,)

    def used(self, token: Token, now: int) -> None:
        """Nothing."""


class Supabase:
    """supabase/auth v2: a counter; the one before is always answered, older ones for 10 seconds."""

    def __init__(self, interval: int = 10) -> None:
        self.ended = False
        self._interval = interval
        self._counter = 0
        self._refreshed_at = 0

    def first(self) -> Token:
        """Counter 0."""
        return (0,)

    def refresh(self, token: Token, now: int) -> Token | None:
        """The current counter."""
        behind = self._counter - token[0]
        if self.ended or (behind > 1 and now > self._refreshed_at + self._interval):
            self.ended = True
            return None
        if behind == 0:
            self._counter += 1
            self._refreshed_at = now
        return (self._counter,)

    def used(self, token: Token, now: int) -> None:
        """Nothing."""


class BetterAuth:
    """better-auth's OAuth provider: the loser of a race that comes before the answer is kept is refused."""

    def __init__(self, window: int = 30, chance: Random | None = None) -> None:
        self.ended = False
        self._window = window
        self._chance = chance or Random(1)
        self._next = 0
        self._answers: dict[int, tuple[int, int]] = {}

    def first(self) -> Token:
        """Number 0."""
        return (0,)

    def refresh(self, token: Token, now: int) -> Token | None:
        """The next number, or the kept answer."""
        if self.ended:
            return None
        known = self._answers.get(token[0])
        if known is None:
            self._next += 1
            self._answers[token[0]] = (now, self._next)
            return (self._next,)
        if now > known[0] + self._window:
            self.ended = True
            return None
        # A refusal in the race is a sign-out: the client has no way to tell it from any other.
        return None if now == known[0] and self._chance.random() < 0.5 else (known[1],)

    def used(self, token: Token, now: int) -> None:
        """Nothing."""


MACHINES: dict[str, Callable[[], Server]] = {
    "strict (RFC 9700)": Strict,
    "hydra graceful, 60 s": Graceful,
    "supertokens 5.6, 30 s": SuperTokens,
    "supabase v2, 10 s": Supabase,
    "better-auth, 30 s": BetterAuth,
    "ours, no late recovery": lambda: Ours(recovery=0),
    "ours": Ours,
}


# --- clients ---


class Client:
    """Someone who holds a token, sends bursts and keeps what arrives last."""

    __slots__ = ("chance", "lost", "out", "token")

    def __init__(self, token: Token, chance: Random, lost: float) -> None:
        self.token = token
        self.chance = chance
        self.lost = lost
        self.out = False

    def burst(self, server: Server, now: int, *, most: int = 6) -> None:
        """1 to `most` requests at once."""
        chance = self.chance
        count = 1 + int(chance.random() * most)
        arrivals = sorted(int(chance.random() * 2) for _ in range(count))
        replies = []
        refused = False
        for late in arrivals:
            answer = server.refresh(self.token, now + late)
            if chance.random() < self.lost:
                continue
            if answer is None:
                refused = True
            else:
                replies.append(answer)
        if refused:
            self.out = True  # whatever else came: the page shows the sign-in
        elif replies:
            self.token = replies[int(chance.random() * len(replies))]  # reordered: any may come last
            server.used(self.token, now + 3)


def logouts(make: Callable[[], Server], bursts: int, *, lost: float, seed: int) -> int:
    """How many sessions of honest clients ended, over so many bursts; a new one begins for each."""
    chance = Random(seed)
    found = done = 0
    while done < bursts:
        server = make()
        client = Client(server.first(), chance, lost)
        now = START + int(chance.random() * DAY)
        for _ in range(min(bursts - done, 144)):  # 12 hours and more
            now += 60 + int(chance.random() * 480)
            client.burst(server, now)
            done += 1
            if client.out or server.ended:
                found += 1
                break
    return found


# --- thieves: each gives the moments at which it refreshes with what it stole, and whether it uses what it gets ---


def active(chance: Random) -> Iterator[tuple[int, bool]]:
    """Refreshes every five minutes, and uses what it gets."""
    while True:
        yield 240 + int(chance.random() * 120), True


def lurker(chance: Random) -> Iterator[tuple[int, bool]]:
    """Comes by once in an hour or two."""
    while True:
        yield 3600 + int(chance.random() * 3600), True


def parasite(_: Random) -> Iterator[tuple[int, bool]]:
    """Asks every five seconds with what it has, so as to walk along behind the owner."""
    while True:
        yield 5, True


def rotator(chance: Random) -> Iterator[tuple[int, bool]]:
    """Refreshes in silence and never uses what it gets, so that nothing is confirmed."""
    while True:
        yield 240 + int(chance.random() * 120), False


THIEVES = {"active": active, "lurker": lurker, "parasite": parasite, "silent rotator": rotator}


class Theft(NamedTuple):
    """Whether the session ended, after how many seconds, and how many tokens were taken until then."""

    caught: bool
    seconds: int
    taken: int


def theft(make: Callable[[], Server], thief: Callable[[Random], Any], *, lost: float, chance: Random) -> Theft:
    """Twelve hours of an owner and a thief who stole the token that the owner holds."""
    server = make()
    now = START + int(chance.random() * DAY)
    owner = Client(server.first(), chance, lost)
    for _ in range(1 + int(chance.random() * 3)):
        now += 60 + int(chance.random() * 480)
        owner.burst(server, now)
    stolen, begun, taken = owner.token, now, 0
    moves = thief(chance)
    pause, uses = next(moves)
    mine, theirs = now + 60 + int(chance.random() * 480), now + int(chance.random() * pause)
    while now < begun + DAY // 2 and not server.ended:
        now = min(mine, theirs)
        if mine <= theirs:
            if owner.out:  # signed in anew, in another session
                return Theft(caught=server.ended, seconds=now - begun, taken=taken)
            owner.burst(server, now)
            mine = now + 60 + int(chance.random() * 480)
        else:
            answer = server.refresh(stolen, now)
            if answer is not None:
                stolen, taken = answer, taken + 1
                if uses:
                    server.used(stolen, now)
            pause, uses = next(moves)
            theirs = now + pause
    return Theft(caught=server.ended, seconds=now - begun, taken=taken)


def thefts(make: Callable[[], Server], thief: Callable[[Random], Any], runs: int, *, seed: int) -> list[Theft]:
    """As many as asked for, replies lost as usual."""
    chance = Random(seed)
    return [theft(make, thief, lost=LOST, chance=chance) for _ in range(runs)]


def table(bursts: int, runs: int) -> str:
    """Every machine's line."""
    told = (
        f"logouts of honest clients per 1000 of {bursts:,} bursts, without and with {LOST:.1%} of the replies lost; "
        f"and of {runs:,} thefts each, how many were found, and after how long (median)"
    )
    lines = [
        told,
        f"{'':24} {'reordered':>10} {'lossy':>8}" + "".join(f" {name:>18}" for name in THIEVES),
    ]
    for name, make in MACHINES.items():
        clean = logouts(make, bursts, lost=0, seed=1) * 1000 / bursts
        lossy = logouts(make, bursts, lost=LOST, seed=2) * 1000 / bursts
        cells = []
        for thief in THIEVES.values():
            found = thefts(make, thief, runs, seed=3)
            times = sorted(each.seconds for each in found if each.caught)
            median = f" ({times[len(times) // 2] // 60} min)" if times else ""
            cells.append(f"{100 * len(times) / runs:.1f} %{median}")
        lines.append(f"{name:24} {clean:10.2f} {lossy:8.2f}" + "".join(f" {cell:>18}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(table(asked, max(100, asked // 500)))
