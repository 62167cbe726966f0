"""The journal: events that change something go into that change, the others are noted and told to the log."""

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from weakref import WeakSet

from bartizan.core.events import OUTBOX, AuditEvent, OutboxRow, event_id, outbox_row
from bartizan.core.ports import Clock, Entropy, fresh
from bartizan.core.tables import Insert
from bartizan.errors import Misuse

_line = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode  # made once: `json.dumps` makes one a call
_log = logging.getLogger("bartizan.audit")
AT_ONCE = 100  # ids drawn in one system call
_journals: "WeakSet[OutboxJournal]" = WeakSet()


class OutboxJournal:
    """`Journal` for both forms: `within` gives the insert, `note` keeps the latest `size` events for `drain`.

    `wake` is called when there is something to drain and nothing was; it must not block.
    """

    __slots__ = (
        "__weakref__", "_entropy", "_lost", "_nanoseconds", "_notes", "_random", "_size", "_told", "_wake",
    )  # fmt: skip

    def __init__(
        self, clock: Clock, entropy: Entropy = fresh, size: int = 10_000, wake: Callable[[], object] = lambda: None
    ) -> None:
        if size < 1:
            raise Misuse("a journal has room for a note")
        self._nanoseconds = clock.nanoseconds
        self._entropy = entropy
        self._size = size
        self._wake = wake
        self._random: Iterator[str] = iter(())
        self._notes: deque[tuple[int, str, AuditEvent]] = deque()
        self._lost = count()  # a counter whose step is atomic; `_told` is its next value as of the last drain
        self._told = 0
        _journals.add(self)

    def within(self, event: AuditEvent, /) -> tuple[Insert[OutboxRow], ...]:
        """The steps that write the event in the change that causes it."""
        at = self._nanoseconds()
        return (Insert(OUTBOX, outbox_row(event, event_id(at, self._fresh()), nanoseconds=at)),)

    def note(self, event: AuditEvent, /) -> str:
        """Keep the event until the next drain; the rest of its row is made then: a flood of refusals pays for none."""
        notes = self._notes
        if not notes:
            self._wake()
        at = self._nanoseconds()
        row_id = event_id(at, next(self._random, None) or self._fresh())
        notes.append((at, row_id, event))
        if len(notes) > self._size:
            with suppress(IndexError):
                notes.popleft()
                next(self._lost)
        return row_id

    def _fresh(self) -> str:
        """80 random bits. A system call for each would be half the price of a refusal."""
        while True:
            for random in self._random:  # taking one is atomic: no two threads get the same
                return random
            block = self._entropy(10 * AT_ONCE).hex()
            self._random = iter([block[at : at + 20] for at in range(0, 20 * AT_ONCE, 20)])

    def drain(self) -> int:
        """How many notes were told to the logger `bartizan.audit`: a line of JSON each, and how many were lost, if any.

        Called by one thread at a time. Whatever a log handler raises loses that note, and is counted.
        """
        told = 0
        for _ in range(len(self._notes)):  # not while there are any: notes may come faster than they are written
            try:
                at, row_id, event = self._notes.popleft()
            except IndexError:
                break
            try:
                _log.info(line(outbox_row(event, row_id, nanoseconds=at)))
                told += 1
            except Exception:  # noqa: BLE001 - a handler is foreign code, and the next note is not its business
                next(self._lost)
        lost = next(self._lost)
        if lost > self._told:
            with suppress(Exception):
                _log.warning("%d audit events were lost", lost - self._told)
        self._told = lost + 1
        return told


class MutedJournal(OutboxJournal):
    """A journal that tells nobody: for what only looks."""

    __slots__ = ()

    def within(self, _: AuditEvent, /) -> tuple[Insert[OutboxRow], ...]:
        """No step."""
        return ()

    def note(self, _: AuditEvent, /) -> str:
        """No note, and an id that no event has."""
        return "0" * 32


def line(row: OutboxRow) -> str:
    """One line of JSON with sorted keys, in ASCII: terminals and line readers act on some characters beyond it."""
    return _line(dict(zip(OUTBOX.columns, OUTBOX.values(row), strict=True)))


def _forked() -> None:
    # What was noted before the fork is told by the parent, and the ids that it has drawn are the parent's.
    for journal in _journals:
        journal._random = iter(())  # noqa: SLF001
        journal._notes.clear()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
