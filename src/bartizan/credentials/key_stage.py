"""API keys at the gate: one authenticator for each of the two places in which a key may come."""

from collections.abc import Callable, Collection
from typing import Literal

from bartizan.core.client import Clients
from bartizan.core.passage import Carriage
from bartizan.core.principal import Environment, Principal, PublishablePrincipal, SecretPrincipal
from bartizan.core.request import Request
from bartizan.credentials.key_format import origin_allowed
from bartizan.credentials.key_text import Kind
from bartizan.credentials.keys import Keys
from bartizan.errors import CrossOrigin, InvalidKey, Reason, Rejected, WrongCredential

# What a 401 asks for (RFC 9110 section 11.6.1). The second scheme is ours: none is registered for a header of its own.
CHALLENGES: dict[str, bytes] = {"secret": b"Bearer", "publishable": b'Key header="X-Publishable-Key"'}


class KeyAuthenticator:
    """Verifies keys of one slot. A key of the other kind is told so only after it has verified."""

    def __init__(self, keys: Keys, kind: Kind, environments: Collection[Environment], clients: Clients) -> None:
        self.slot: Literal["authorization", "x-publishable-key"]
        self.slot = "authorization" if kind == "secret" else "x-publishable-key"
        self.ways: Carriage = frozenset({"bearer"})
        self.kinds: frozenset[str] = frozenset({kind})
        self.accompanies: bool = kind == "publishable"
        self._keys = keys
        self._kind = kind
        self._environments = frozenset(environments)
        self._clients = clients
        self.recognises: Callable[[bytes], object] = keys.looks_like  # of either kind, mangled ones included

    async def authenticate(self, presented: bytes, request: Request, /) -> Principal:
        """The key's caller."""
        entry, principal = await self._keys.verified(presented)
        try:
            if principal.kind == "secret" and request.from_browser():
                # Only now: ids are public, and whoever knows one could else have its owner believe in a leak.
                await self._keys.in_browser(principal)
                raise WrongCredential(Reason.KEY_IN_BROWSER)
            if principal.environment not in self._environments:
                raise InvalidKey(Reason.WRONG_ENVIRONMENT)
            if principal.kind != self._kind:
                raise WrongCredential(Reason.WRONG_SLOT)
            if entry.origins is not None:
                _check_origin(entry.origins, request, native=entry.native)
            if entry.networks is not None:
                entry.located(self._clients.address(request))
        except Rejected as error:
            error.about = principal.actor
            raise
        self._keys.used(entry)
        return principal

    async def recheck(self, principal: Principal, /) -> None:
        """Return while the key lives."""
        if isinstance(principal, (SecretPrincipal, PublishablePrincipal)):
            await self._keys.recheck(principal)


def _check_origin(allowed: frozenset[str], request: Request, *, native: bool) -> None:
    # Without `Origin` only the browser's own word that the page is ours will do: a script elsewhere can leave it out.
    # A native key is for what is no browser too: it sends neither header.
    origin = request.header("origin")
    if origin is None:
        site = request.header("sec-fetch-site")
        if site != "same-origin" and not (native and site is None):
            raise CrossOrigin
    elif not origin_allowed(allowed, origin):
        raise CrossOrigin
