import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident

import pytest

from bartizan.audit.journal import OutboxJournal, line
from bartizan.core.drive import run
from bartizan.core.events import OUTBOX, AuditEvent, OutboxRow
from bartizan.core.tables import Insert
from bartizan.errors import Misuse, Reason
from bartizan.stores.memory import MemoryBackend
from bartizan.testing import FakeClock
from bartizan.testing.samples import SAMPLES, Sample

REFUSED = AuditEvent(
    name="request.refused", org="o\n\u2028\x9b", actor="a", outcome="refused", reason=Reason.NO_RULE, data={"n": 1}
)


def own(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What this thread said: the upkeep of another test may drain its own journal meanwhile."""
    return [record for record in caplog.records if record.thread == get_ident()]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in own(caplog)]


@pytest.fixture
def journal(caplog: pytest.LogCaptureFixture) -> Iterator[OutboxJournal]:
    with caplog.at_level(logging.INFO, "bartizan.audit"):
        yield OutboxJournal(FakeClock(), entropy=lambda n: b"\xab" * n, size=3)


def test_within_is_part_of_the_change(journal: OutboxJournal) -> None:
    store = MemoryBackend()
    (step,) = journal.within(REFUSED)
    assert step.row.id == f"{1_800_000_000_000:012x}" + "ab" * 10
    assert step.row.at == 1_800_000_000_000_000
    run(store.change(Insert(SAMPLES, Sample(id="a")), also=[step]))
    assert run(store.change(Insert(SAMPLES, Sample(id="a")), also=journal.within(REFUSED))) is None
    assert run(store.find(OUTBOX, ())) == [step.row]


def test_note_is_one_line_of_json(journal: OutboxJournal, caplog: pytest.LogCaptureFixture) -> None:
    journal.note(REFUSED)
    assert not own(caplog)
    assert journal.drain() == 1
    (record,) = own(caplog)
    assert (record.name, record.levelno) == ("bartizan.audit", logging.INFO)
    assert record.getMessage().isascii()
    assert record.getMessage().isprintable()  # no line end, no escape that a terminal obeys
    row = OutboxRow(**json.loads(record.getMessage()))
    assert row == journal.within(REFUSED)[0].row
    assert record.getMessage() == line(row)
    assert journal.drain() == 0


def test_time_is_that_of_the_note(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    journal = OutboxJournal(clock)
    journal.note(REFUSED)
    clock.advance(60)
    with caplog.at_level(logging.INFO, "bartizan.audit"):
        journal.drain()
    assert json.loads(messages(caplog)[0])["at"] == 1_800_000_000_000_000


def test_oldest_goes_and_is_counted(journal: OutboxJournal, caplog: pytest.LogCaptureFixture) -> None:
    for turn in range(2):
        for i in range(5):
            journal.note(AuditEvent(name="request.refused", org=str(i), actor="a"))
        assert journal.drain() == 3
        *told, lost = messages(caplog)[turn * 4 :]
        assert [json.loads(text)["org"] for text in told] == ["2", "3", "4"]
        assert lost == "2 audit events were lost"
    assert journal.drain() == 0
    assert len(messages(caplog)) == 8


def test_threads_lose_what_does_not_fit_and_no_more(journal: OutboxJournal, caplog: pytest.LogCaptureFixture) -> None:
    def work(_: int) -> None:
        for _ in range(200):
            journal.note(REFUSED)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert journal.drain() == 3
    assert messages(caplog)[-1] == f"{8 * 200 - 3} audit events were lost"


def test_handler_that_raises_loses_its_note_only(journal: OutboxJournal, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "lost" in record.getMessage() or json.loads(record.getMessage())["org"] == "bad":
                raise OSError

    handler = Failing()
    logging.getLogger("bartizan.audit").addHandler(handler)
    try:
        for org in ("bad", "good"):
            journal.note(AuditEvent(name="request.refused", org=org, actor="a"))
        assert journal.drain() == 1
    finally:
        logging.getLogger("bartizan.audit").removeHandler(handler)
    journal.note(REFUSED)
    assert journal.drain() == 1


def test_event_that_is_no_json_is_lost(journal: OutboxJournal, caplog: pytest.LogCaptureFixture) -> None:
    journal.note(AuditEvent(name="request.refused", org=None, actor="a", data={"n": 1.5}))  # type: ignore[dict-item]
    assert journal.drain() == 0
    assert messages(caplog) == ["1 audit events were lost"]


def test_wakes_when_there_is_something() -> None:
    woken = []
    journal = OutboxJournal(FakeClock(), wake=lambda: woken.append(1))
    for _ in range(3):
        journal.note(REFUSED)
    assert woken == [1]
    journal.drain()
    journal.note(REFUSED)
    assert woken == [1, 1]


def test_journal_without_room() -> None:
    with pytest.raises(Misuse):
        OutboxJournal(FakeClock(), size=0)


FORK = """
import os
from bartizan.audit.journal import OutboxJournal
from bartizan.core.events import AuditEvent
from bartizan.core.ports import SystemClock
journal = OutboxJournal(SystemClock())
journal.note(AuditEvent(name="request.refused", org=None, actor="a"))
child = os.fork()
told = journal.drain()
if not child:
    os._exit(told + 7)
print(told, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_child_does_not_tell_what_its_parent_noted() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 7"
