"""What others must know leaves a room as an event: the record, the journal that takes it, the table it rests in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from bartizan.core.encoding import Json, canonical
from bartizan.core.principal import JobPrincipal, current_unit
from bartizan.core.tables import Insert, Table
from bartizan.errors import Misuse, NotFound, Reason

NAMES = frozenset({
    "key.created", "key.rotated", "key.revoked", "key.disabled", "key.enabled", "key.row_edited",
    "key.resealed", "key.in_browser", "key.leak_unmatched",
    "signing_key.created", "signing_key.rotated", "signing_key.revoked", "signing_key.row_edited",
    "client.rewritten", "request.refused", "gate.would_refuse", "stream.ended", "observer.failed", "organization.named",
    "issuer.unreadable",
    "session.started", "session.upgraded", "session.revoked", "session.reused", "session.recovered", "session.misbound",
    "session.device_changed",
    "code.requested", "code.withheld", "code.undelivered", "code.refused", "code.verified",
    "exchange.authorized", "exchange.redeemed", "exchange.refused", "exchange.reused",
    "subject.revoked", "subject.disabled", "subject.enabled", "store.rolled_back",
    "organization.revoked", "organization.disabled", "organization.enabled", "everyone.revoked",
    "role.defined", "role.removed", "data.accessed", "isolation.bypassed", "isolation.resumed", "isolation.held",
    "once.lease_lost", "link.issued", "link.redeemed", "context.carried", "context.resumed",
    "webhook.refused", "webhook.undelivered",
    "webhook_endpoint.created", "webhook_endpoint.updated", "webhook_endpoint.rotated", "webhook_endpoint.disabled",
    "webhook_endpoint.enabled", "webhook_endpoint.deleted", "webhook_endpoint.row_edited",
})  # fmt: skip
Outcome = Literal["success", "refused"]
SYSTEM = "system"  # the actor where nobody is current: a script, a start-up hook


class AuditEvent:
    """Something that happened: its name, whose it is, who did it to what, and how it ended.

    Its id and time are the journal's. One is made for every refusal, so it is a plain slotted class.
    """

    __slots__ = ("actor", "data", "name", "org", "outcome", "reason", "target")

    def __init__(  # noqa: PLR0917 - keywords cost a dictionary, and one is made for every refusal
        self,
        name: str,
        org: str | None,
        actor: str,
        target: str | None = None,
        outcome: Outcome = "success",
        reason: Reason | None = None,
        data: Mapping[str, Json] | None = None,
    ) -> None:
        if name not in NAMES:
            raise Misuse("an event is named in core/events.NAMES")
        self.name: str = name
        self.org: str | None = org
        self.actor: str = actor
        self.target: str | None = target
        self.outcome: Outcome = outcome
        self.reason: Reason | None = reason
        self.data: Mapping[str, Json] | None = data


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """An event at rest: `id` sorts by time, `at` is UTC in microseconds, `data` canonical JSON."""

    id: str
    at: int
    name: str
    org: str | None
    actor: str
    target: str | None
    outcome: str
    reason: str | None
    data: str


OUTBOX = Table(name="bartizan_outbox", record=OutboxRow, key="id", indexes=(("org",),))


class Journal(Protocol):
    """Where events go. It gives each its id and time."""

    def within(self, event: AuditEvent, /) -> tuple[Insert[OutboxRow], ...]:
        """The steps that write the event in the change that causes it: they go into `also=`."""

    def note(self, event: AuditEvent, /) -> str:
        """For facts that change nothing: never blocks, never raises. The event's id."""


def event_id(nanoseconds: int, random: str) -> str:
    """48 bits of time in milliseconds and 80 random bits (`random`), in 32 hexadecimal digits."""
    return f"{nanoseconds // 1_000_000:012x}{random}"


def outbox_row(event: AuditEvent, row_id: str, *, nanoseconds: int) -> OutboxRow:
    """The row of an event."""
    return OutboxRow(
        id=row_id,
        at=nanoseconds // 1_000,
        name=event.name,
        org=event.org,
        actor=event.actor,
        target=event.target,
        outcome=event.outcome,
        reason=None if event.reason is None else event.reason.value,
        data=canonical(event.data or {}),
    )


def current_actor() -> str:
    """The name of whoever acts now."""
    held = current_unit.get().callers
    return held[0].actor if held else SYSTEM


def entered(org: str, journal: Journal) -> None:
    """Refuse another organization while a principal is current; a job without one may name any, and is noted."""
    held = current_unit.get().callers
    if not held:
        return
    if held[0].org is None and isinstance(held[0], JobPrincipal):
        journal.note(AuditEvent(name="organization.named", org=org, actor=held[0].actor))
    elif held[0].org != org:
        raise NotFound(Reason.WRONG_ORGANIZATION)
