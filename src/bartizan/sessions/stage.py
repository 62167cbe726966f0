"""Consumers at the gate, by their access tokens: the signature first, then whether the session lives."""

from base64 import urlsafe_b64decode
from collections.abc import Collection
from typing import Literal

from bartizan.core.passage import Carriage
from bartizan.core.principal import ConsumerPrincipal, Environment, Principal
from bartizan.core.request import AUTHORIZATION, Request
from bartizan.errors import InvalidToken, Reason
from bartizan.sessions.possession import CHALLENGE
from bartizan.sessions.sessions import Sessions
from bartizan.sessions.tickets import PREFIX

CHALLENGES: dict[str, bytes] = {"consumer": b"Bearer"}
BOUND: dict[str, bytes] = {"consumer": CHALLENGE.encode()}  # where every session is bound to a key
_SHORTEST = 95  # characters of a refresh token, and fewer than a ticket has
_LOOKED_AT = 680  # characters of a header; whatever is longer is refused where it is read


class ConsumerAuthenticator:
    """Verifies the access tokens of consumers, and knows refresh tokens as what does not belong here."""

    def __init__(self, sessions: Sessions, environments: Collection[Environment]) -> None:
        self.slot: Literal["authorization", "x-publishable-key"] = "authorization"
        self.ways: Carriage = frozenset({"bearer", "dpop", "websocket"})
        self.kinds: frozenset[str] = frozenset({"consumer"})
        self.accompanies: bool = False
        self._sessions = sessions
        self._environments = frozenset(environments)

    def recognises(self, presented: bytes, /) -> bool:
        """Whether the value begins as a text of ours, or as a JWS: with a header that names an algorithm (RFC 7515).

        Other texts begin with JSON in base64url too, such as a page's cursor in a query.
        """
        if presented[:2] != b"ey":
            ours = presented[:3] == b"rt_" or presented[:7] == PREFIX
            return ours and len(presented) >= _SHORTEST and b"." in presented
        head = presented[:_LOOKED_AT].partition(b".")[0]
        try:
            return b'"alg"' in urlsafe_b64decode(head[: len(head) // 4 * 4])
        except ValueError:  # a letter beyond ASCII
            return False

    async def authenticate(self, presented: bytes, request: Request, /) -> Principal:
        """The consumer whose token, or ticket for this websocket, it is."""
        text = presented.decode("latin-1")
        if presented[:2] == b"ey":
            principal = await self._sessions.authenticate(text, proof=request)
        elif presented[:7] == PREFIX and request.method == "WEBSOCKET" and request.slots[AUTHORIZATION] is None:
            principal = await self._sessions.admit(text, request.path)
        else:
            raise InvalidToken(Reason.WRONG_TOKEN_TYPE)  # it is for renewing tokens, or for one websocket
        if principal.environment not in self._environments:
            raise InvalidToken(Reason.WRONG_ENVIRONMENT)
        return principal

    async def recheck(self, principal: Principal, /) -> None:
        """Return while the session lives; the token that opened a stream may have ended."""
        if isinstance(principal, ConsumerPrincipal):
            await self._sessions.recheck(principal)
