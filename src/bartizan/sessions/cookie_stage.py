"""Consumers at the gate by our cookies, which browsers send by themselves: who they are, and what the answer gets.

Where the access cookie is over, the gate only looks at the refresh cookie. It is used up when the head of the answer
leaves, so that a page which fails uses up nothing, and an answer that signs somebody in or out is left alone.
"""

import json

from bartizan.core.cookies import ACCESS, REFRESH
from bartizan.core.encoding import loose_base64url
from bartizan.core.passage import Edits, HeaderPairs, Origins
from bartizan.core.principal import ConsumerPrincipal
from bartizan.core.request import SAFE_METHODS, Request
from bartizan.credentials.tokens import CLAIMS
from bartizan.errors import InvalidProof, InvalidSession, InvalidToken, Reason, Rejected, Unavailable
from bartizan.sessions.sessions import Sessions

OURS = _ACCESS, _REFRESH = f"{ACCESS}=".encode(), f"{REFRESH}=".encode()
CACHING = frozenset({b"cache-control", b"expires", b"cdn-cache-control", b"surrogate-control", b"pragma"})
NO_STORE: HeaderPairs = [(b"cache-control", b"no-store")]
KEPT_ELSEWHERE = frozenset({b"cache-control", b"expires", b"cdn-cache-control", b"surrogate-control"})
PRIVATE: HeaderPairs = [(b"cache-control", b"private"), (b"vary", b"Cookie")]
LOOKED_AT = CACHING | {b"vary", b"set-cookie"}
_USUAL = Edits(frozenset(), PRIVATE)


class CookieConsumers:
    """Our cookies as a credential of kind `consumer`, for pages of some origins."""

    kind = "consumer"

    def __init__(self, sessions: Sessions, origins: Origins) -> None:
        self._sessions = sessions
        self._origins = origins
        self.head: Head = Head(sessions, None)

    async def authenticate(self, cookie: bytes, request: Request, /) -> "tuple[ConsumerPrincipal, Head] | None":
        """Whose cookies these are, and what their answer gets; None where they are none of ours."""
        token = _value(cookie, _ACCESS)
        expired: InvalidToken | None = None
        if token:
            try:
                return await self._sessions.authenticate(token.decode("latin-1"), proof=request), self.head
            except InvalidToken as error:
                if error.reason is not Reason.TOKEN_EXPIRED:
                    raise
                expired = error
        refresh = _value(cookie, _REFRESH)
        if not token and not refresh:
            return None
        if not refresh or request.method == "WEBSOCKET":
            raise expired or InvalidToken(Reason.TOKEN_EXPIRED)  # its cookie went with it
        text = refresh.decode("latin-1")
        principal = await self._sessions.look(text, request)
        if expired is not None and _session_of(token) != principal.session_id:
            raise expired  # of two sessions at once, which of them is meant?
        return principal, Head(self._sessions, text, request)

    def check(self, request: Request, origin: bytes | None, site: bytes | None, /) -> None:
        """Refuse what a page of another origin may have sent; what only reads may be linked to."""
        if request.method not in SAFE_METHODS:
            self._origins.judge(origin, site, websocket=request.method == "WEBSOCKET")

    @staticmethod
    def dead(error: Rejected) -> bool:
        """Whether the cookies are merely no credential any more."""
        return isinstance(error, (InvalidSession, InvalidToken, InvalidProof))


class Head:
    """What becomes of the head of one answer under a rule that our cookies can satisfy."""

    __slots__ = ("_request", "_sessions", "_token", "pending")

    def __init__(self, sessions: Sessions, token: str | None, request: Request | None = None) -> None:
        self._sessions = sessions
        self._token = token
        self._request = request
        self.pending: bool = token is not None

    def shaped(self, headers: HeaderPairs) -> Edits:
        """What keeps an answer out of caches that others share."""
        varies = named = ours = False
        if LOOKED_AT.isdisjoint([pair[0] for pair in headers]):
            return _USUAL
        for name, value in headers:
            if name == b"vary":
                varies = varies or b"*" in value or b"cookie" in value.lower()
            elif name in CACHING:
                named = True
            elif name == b"set-cookie" and value.startswith(OURS):
                ours = True
        vary: HeaderPairs = [] if varies else [(b"vary", b"Cookie")]
        if ours:
            return Edits(KEPT_ELSEWHERE, [*NO_STORE, *vary])
        return Edits(frozenset(), vary if named else [(b"cache-control", b"private"), *vary])

    async def begin(self, headers: HeaderPairs) -> Edits:
        """As `shaped`, now that the head is about to leave: the session is renewed, unless the answer does that."""
        token, self._token, self.pending = self._token, None, False
        edits = self.shaped(headers)
        if token is None or edits.drop:
            return edits
        try:
            pair = await self._sessions.refresh(token, proof=self._request)
        except (Rejected, Unavailable):
            return edits  # it has ended meanwhile, or the store fails: what was made for them is theirs all the same
        return Edits(KEPT_ELSEWHERE, [*NO_STORE, *(each for each in edits.put if each[0] == b"vary")], pair.cookies)


def _value(cookie: bytes, name: bytes) -> bytes:
    """The value of a cookie (RFC 6265 section 4.2.1), or nothing."""
    at = cookie.find(name)
    while at > 0 and cookie[at - 2 : at] != b"; " and cookie[:at].rstrip(b" \t")[-1:] not in b";":
        at = cookie.find(name, at + 1)  # it ends another name
    if at < 0:
        return b""
    end = cookie.find(b";", at)
    return cookie[at + len(name) : end if end >= 0 else None].strip(b" \t")


def _session_of(token: bytes) -> object:
    """The session of an access token whose signature was verified."""
    claims = json.loads(loose_base64url(token.split(b".")[1]))
    return claims[CLAIMS.session]
