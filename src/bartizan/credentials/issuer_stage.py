"""Members at the gate: tokens of outside issuers in `Authorization: Bearer`."""

from collections.abc import Collection
from typing import Literal

from bartizan.core.passage import Carriage
from bartizan.core.principal import Environment, MemberPrincipal, Principal
from bartizan.core.request import Request
from bartizan.credentials.issuer_keys import Issuers
from bartizan.errors import InvalidToken, Reason

CHALLENGES: dict[str, bytes] = {"member": b"Bearer"}


class MemberAuthenticator:
    """Verifies the tokens that name one of our issuers; with `rest`, every text that has the form of a token."""

    def __init__(self, issuers: Issuers, environments: Collection[Environment], *, rest: bool) -> None:
        self.slot: Literal["authorization", "x-publishable-key"] = "authorization"
        self.ways: Carriage = frozenset({"bearer", "websocket"})
        self.kinds: frozenset[str] = frozenset({"member"})
        self.accompanies: bool = False
        self._issuers = issuers
        self._served = issuers.environment in environments
        self._rest = rest

    def recognises(self, presented: bytes, /) -> object:
        """Truthy where the text begins as a token's header in base64url does, and is for us."""
        return presented[:2] == b"ey" and b"." in presented and (self._rest or self._issuers.named(presented))

    async def authenticate(self, presented: bytes, _: Request, /) -> Principal:
        """The member."""
        if not self._served:
            raise InvalidToken(Reason.WRONG_ENVIRONMENT)
        return await self._issuers.authenticate(presented)

    async def recheck(self, principal: Principal, /) -> None:
        """Return until the token ends: nothing renews it, and its issuer does not tell what became of it."""
        if isinstance(principal, MemberPrincipal) and self._issuers.clock.seconds() >= principal.expires_at:
            raise InvalidToken(Reason.TOKEN_EXPIRED)
