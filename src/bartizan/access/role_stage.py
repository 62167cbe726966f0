"""Members at the gate, with what their roles grant."""

from typing import Literal

from bartizan.access.roles import Roles
from bartizan.core.passage import Authenticator, Carriage
from bartizan.core.principal import MemberPrincipal, Principal
from bartizan.core.request import Request
from bartizan.core.scopes import lacking
from bartizan.errors import MissingScope


class RoledMembers:
    """An authenticator of members behind which their roles are looked up."""

    def __init__(self, members: Authenticator, roles: Roles) -> None:
        self.slot: Literal["authorization", "x-publishable-key"] = members.slot
        self.ways: Carriage = members.ways
        self.kinds: frozenset[str] = members.kinds
        self.accompanies: bool = members.accompanies
        self._members = members
        self._roles = roles

    def recognises(self, presented: bytes, /) -> object:
        """As the authenticator of members."""
        return self._members.recognises(presented)

    async def authenticate(self, presented: bytes, request: Request, /) -> Principal:
        """The member, with the scopes of their roles."""
        member = await self._members.authenticate(presented, request)
        return await self._roles.given(member) if isinstance(member, MemberPrincipal) else member

    async def recheck(self, principal: Principal, /) -> None:
        """Return while the member's token lives, and their roles grant no less than when they were let in."""
        await self._members.recheck(principal)
        if isinstance(principal, MemberPrincipal):
            granted = await self._roles.granted(principal.org, principal.roles)
            if lacking(principal.scopes, granted.scopes):
                raise MissingScope
