"""Access tokens of our own at the gate."""

from base64 import urlsafe_b64decode
from collections.abc import Collection
from typing import Literal

from bartizan.core.principal import ConsumerPrincipal, Environment, Principal
from bartizan.core.request import Request
from bartizan.credentials.access_tokens import AccessTokens
from bartizan.errors import InvalidToken, Reason

CHALLENGES: dict[str, bytes] = {"consumer": b"Bearer"}
_LOOKED_AT = 680  # characters of a header; whatever is longer is refused where it is read


class ConsumerAuthenticator:
    """Verifies the access tokens of consumers."""

    def __init__(self, tokens: AccessTokens, environments: Collection[Environment]) -> None:
        self.slot: Literal["authorization", "x-publishable-key"] = "authorization"
        self.kinds: frozenset[str] = frozenset({"consumer"})
        self.accompanies: bool = False
        self._tokens = tokens
        self._environments = frozenset(environments)

    def recognises(self, presented: bytes, /) -> bool:
        """Whether the value begins as a JWS: with a header that names an algorithm (RFC 7515 section 4.1.1).

        Other texts begin with JSON in base64url too, such as a page's cursor in a query.
        """
        if presented[:2] != b"ey":
            return False
        head = presented[:_LOOKED_AT].partition(b".")[0]
        try:
            return b'"alg"' in urlsafe_b64decode(head[: len(head) // 4 * 4])
        except ValueError:  # a letter beyond ASCII
            return False

    async def authenticate(self, presented: bytes, _: Request, /) -> Principal:
        """The consumer whose token it is."""
        principal = await self._tokens.verify(presented.decode("latin-1"))
        if principal.environment not in self._environments:
            raise InvalidToken(Reason.WRONG_ENVIRONMENT)
        return principal

    async def recheck(self, principal: Principal, /) -> None:
        """Return until the token ends."""
        if isinstance(principal, ConsumerPrincipal):
            await self._tokens.recheck(principal)
