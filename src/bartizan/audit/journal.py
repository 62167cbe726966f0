"""The journal: events that change something go into that change, the others are noted and told to the log."""

import json
import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from weakref import WeakSet

from bartizan.core.events import OUTBOX, AuditEvent, OutboxRow, outbox_row
from bartizan.core.ports import Clock, Entropy, fresh
from bartizan.core.tables import Insert
from bartizan.errors import Misuse

_line = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode  # made once: `json.dumps` makes one a call
_log = logging.getLogger("bartizan.audit")
_journals: "WeakSet[OutboxJournal]" = WeakSet()


class OutboxJournal:
    """`Journal` for both forms: `within` gives the insert, `note` keeps the latest `size` events for `drain`.

    `wake` is called when there is something to drain and nothing was; it must not block.
    """

    __slots__ = ("__weakref__", "_clock", "_entropy", "_lost", "_nanoseconds", "_notes", "_size", "_told", "_wake")

    def __init__(
        self, clock: Clock, entropy: Entropy = fresh, size: int = 10_000, wake: Callable[[], object] = lambda: None
    ) -> None:
        if size < 1:
            raise Misuse("a journal has room for a note")
        self._clock = clock
        self._nanoseconds = clock.nanoseconds
        self._entropy = entropy
        self._size = size
        self._wake = wake
        self._notes: deque[tuple[int, AuditEvent]] = deque()
        self._lost = count()  # a counter whose step is atomic; `_told` is its next value as of the last drain
        self._told = 0
        _journals.add(self)

    def within(self, event: AuditEvent, /) -> tuple[Insert[OutboxRow], ...]:
        """The steps that write the event in the change that causes it."""
        row = outbox_row(event, nanoseconds=self._clock.nanoseconds(), entropy=self._entropy)
        return (Insert(OUTBOX, row),)

    def note(self, event: AuditEvent, /) -> None:
        """Keep the event until the next drain. It gets its id then: a flood of refusals pays for none."""
        notes = self._notes
        if not notes:
            self._wake()
        notes.append((self._nanoseconds(), event))
        if len(notes) > self._size:
            with suppress(IndexError):
                notes.popleft()
                next(self._lost)

    def drain(self) -> int:
        """How many notes were told to the logger `bartizan.audit`: a line of JSON each, and how many were lost, if any.

        Called by one thread at a time. Whatever a log handler raises loses that note, and is counted.
        """
        told = 0
        for _ in range(len(self._notes)):  # not while there are any: notes may come faster than they are written
            try:
                at, event = self._notes.popleft()
            except IndexError:
                break
            try:
                _log.info(line(outbox_row(event, nanoseconds=at, entropy=self._entropy)))
                told += 1
            except Exception:  # noqa: BLE001 - a handler is foreign code, and the next note is not its business
                next(self._lost)
        lost = next(self._lost)
        if lost > self._told:
            with suppress(Exception):
                _log.warning("%d audit events were lost", lost - self._told)
        self._told = lost + 1
        return told


def line(row: OutboxRow) -> str:
    """One line of JSON with sorted keys, in ASCII: terminals and line readers act on some characters beyond it."""
    return _line(dict(zip(OUTBOX.columns, OUTBOX.values(row), strict=True)))


def _forked() -> None:
    # What was noted before the fork is told by the parent.
    for journal in _journals:
        journal._notes.clear()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
