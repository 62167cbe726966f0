"""Tickets: what a page that cannot set headers opens one websocket with, within half a minute and once."""

import json
from collections.abc import Callable
from types import MappingProxyType

from bartizan.core.encoding import canonical, joined
from bartizan.core.once import Markers, marker_id, new_owner
from bartizan.core.ports import Clock, Entropy
from bartizan.core.principal import ConsumerPrincipal, Environment
from bartizan.core.ring import Purpose, SecretRing
from bartizan.core.stamp import Stamp, Stamped
from bartizan.credentials.access_tokens import AccessTokens, Said
from bartizan.errors import InvalidToken, Misuse, Reason

LIFE = 30  # seconds
LONGEST = 5000  # bytes: a header line has room for it
PREFIX = b"ticket_"


class Tickets:
    """Makes tickets of consumers who were verified, and verifies them. Whether the session lives is asked elsewhere."""

    def __init__(
        self,
        *,
        markers: Markers,
        ring: SecretRing,
        tokens: AccessTokens,
        environment: Environment,
        issuer: str,
        clock: Clock,
        entropy: Entropy,
        wake: Callable[[], None],
    ) -> None:
        self._markers = markers
        self._tokens = tokens
        self._environment = environment
        self._clock = clock
        self._entropy = entropy
        self._wake = wake
        self._stamp = Stamp(
            ring, Purpose.TICKET, environment, prefix="ticket", longest=LONGEST, life=LIFE, error=InvalidToken,
            issuer=issuer, entropy=entropy,
        )  # fmt: skip

    def make(self, me: ConsumerPrincipal, path: object) -> str:
        """A text that opens the websocket at `path` as this consumer."""
        if not isinstance(path, str) or path[:1] != "/" or {"?", "#"} & set(path):
            raise Misuse("a ticket is for the path of a websocket, as its rule sees it")
        said: Said = me._said  # noqa: SLF001 - made for us
        body = canonical([
            me.org, me.subject, me.session_id, said.generation, sorted(me.scopes), me.guest, dict(me.factors),
            sorted(said.audience), said.epochs, me.expires_at, said.binding,
        ])  # fmt: skip
        return self._stamp.make(body.encode(), now=self._clock.seconds(), seconds=LIFE, bind=_bound(path))

    def read(self, ticket: str, path: str) -> tuple[ConsumerPrincipal, Stamped]:
        """Whose ticket this is, for the websocket at `path`; `InvalidToken` if it is not, or its time is over."""
        stamped = self._stamp.read(ticket, now=self._clock.seconds(), bind=_bound(path))
        org, subject, session, generation, scopes, guest, factors, audience, epochs, expires, binding = json.loads(
            stamped.body
        )
        principal = self._tokens.consumer(
            org=org, subject=subject, session=session, generation=generation, scopes=scopes, guest=guest,
            factors=MappingProxyType(factors), audience=audience, until=expires,
            epochs=None if epochs is None else tuple(epochs), binding=binding,
        )  # fmt: skip
        return principal, stamped

    async def use(self, stamped: Stamped) -> None:
        """Use the ticket up; `InvalidToken` where it was."""
        marker = marker_id(b"ticket", self._environment.encode(), stamped.id)
        self._wake()
        if not await self._markers.spend(marker, new_owner(self._entropy), stamped.expires_at):
            raise InvalidToken(Reason.ALREADY_USED)


def _bound(path: str) -> bytes:
    return joined(path.encode("utf-8", "surrogatepass"))
