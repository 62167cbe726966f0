"""Links: a text that lets whoever holds it do one thing, such as accept an invitation, change an address, download."""

import json
from collections.abc import Callable

from bartizan.core.encoding import canonical, joined
from bartizan.core.events import AuditEvent, Journal, current_actor, entered
from bartizan.core.once import Markers, marker_id, new_owner
from bartizan.core.ports import Clock, Entropy, fresh
from bartizan.core.principal import Environment, Verified, checked_org, current_unit, verified
from bartizan.core.ring import Purpose, SecretRing
from bartizan.core.stamp import Stamp, Stamped
from bartizan.core.tables import Backend
from bartizan.errors import InvalidCode, MethodNotAllowed, Misuse, Reason

LONGEST_LIFE = 30 * 86_400
LONGEST_STATE = 1000  # characters
LONGEST_BODY = 1100  # two ids of 128 characters of up to four bytes each, as JSON
FOLLOWED = {"GET", "HEAD"}  # methods by which programs look at links


class Link(Verified):
    """What a link that was redeemed said: for what, whose, about whom, and until when (UTC seconds)."""

    __slots__ = ("expires_at", "org", "purpose", "subject")

    purpose: str
    org: str
    subject: str
    expires_at: int

    def __repr__(self) -> str:
        return f"<Link {self.purpose} of {self.org}>"


class Links:
    """Makes links and redeems them. There is no table of links: the text says it all, and only its use is kept.

    The ids of organization and subject can be read in the text. While a principal is current, another organization's
    is `NotFound`.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        ring: SecretRing,
        environment: Environment,
        clock: Clock,
        journal: Journal,
        wake: Callable[[], None],
        entropy: Entropy = fresh,
    ) -> None:
        self._markers = Markers(backend)
        self._stamp = Stamp(
            ring,
            Purpose.LINK,
            environment,
            prefix="link",
            longest=LONGEST_BODY,
            life=LONGEST_LIFE,
            error=InvalidCode,
            entropy=entropy,
        )
        self._environment = environment
        self._clock = clock
        self._journal = journal
        self._wake = wake
        self._entropy = entropy

    async def issue(
        self, purpose: str, *, org: str, subject: str, seconds: int, state: str = "", once: bool = True
    ) -> str:
        """A text to put into a link, good for `seconds` (30 days at most), and with `once` for one redemption.

        `purpose` is the program's own word. `state` is what must still be so when it is redeemed, such as the address
        that is to be replaced: it is not in the text.
        """
        entered(org, self._journal)
        checked_org(org)
        _checked(subject, 128, "subject is an id")
        if len(state) > LONGEST_STATE:
            raise Misuse(f"state is at most {LONGEST_STATE} characters")
        body = canonical([org, subject, bool(once)]).encode()
        now = self._clock.seconds()
        text = self._stamp.make(body, now=now, seconds=seconds, bind=_bound(purpose, state))
        self._journal.note(self._event("link.issued", purpose, org, subject))
        return text

    async def redeem(self, text: str, *, purpose: str, org: str, state: str = "") -> Link:
        """What the link says; `InvalidCode` if it is not one of ours for exactly this, has expired or was used.

        A link for one redemption is used up by this, whatever happens after; in a GET or HEAD passage it raises
        `MethodNotAllowed` instead, because mail scanners and browsers that fetch ahead follow links too.
        """
        entered(org, self._journal)  # it may be the peer's: whatever it is, no link says it
        bound = _bound(purpose, state)
        if len(state) > LONGEST_STATE:
            raise InvalidCode(Reason.FORGED)  # none was issued with it
        stamped = self._stamp.read(text, now=self._clock.seconds(), bind=bound)
        whose, subject, once = json.loads(stamped.body)
        if whose != org:
            raise InvalidCode(Reason.WRONG_ORGANIZATION)
        event = self._event("link.redeemed", purpose, org, subject)
        if not once:
            self._journal.note(event)
        else:
            if current_unit.get().method in FOLLOWED:
                raise MethodNotAllowed(Reason.LINK_BY_GET, headers=(("Allow", "POST"),))
            await self._use(stamped, event)
        return verified(Link, purpose=purpose, org=org, subject=subject, expires_at=stamped.expires_at)

    async def _use(self, stamped: Stamped, event: AuditEvent) -> None:
        marker = marker_id(b"link", self._environment.encode(), stamped.id)
        self._wake()
        first = await self._markers.spend(
            marker, new_owner(self._entropy), stamped.expires_at, also=self._journal.within(event)
        )
        if not first:
            raise InvalidCode(Reason.ALREADY_USED)

    def _event(self, name: str, purpose: str, org: str, subject: str) -> AuditEvent:
        return AuditEvent(name=name, org=org, actor=current_actor(), target=subject, data={"purpose": purpose})


def _bound(purpose: str, state: str) -> bytes:
    _checked(purpose, 100, "purpose is the program's own word")
    given: object = state
    if not isinstance(given, str):
        raise Misuse("state is text")
    return joined(purpose.encode(), state.encode("utf-8", "surrogatepass"))


def _checked(text: object, longest: int, what: str) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= longest or not text.isprintable():
        raise Misuse(f"{what}: 1 to {longest} printable characters")
