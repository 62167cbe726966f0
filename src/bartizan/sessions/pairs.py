"""What a consumer is given: both tokens, as texts or as cookies."""

from typing import Any, Literal, NoReturn

from bartizan.core.cookies import ACCESS, BIND, REFRESH, Cookie
from bartizan.errors import Misuse
from bartizan.sessions.families import FamilyRow, Session, shown


class TokenPair:
    """What a consumer is given: both tokens are shown this once. Times are UTC seconds.

    `bind` is a cookie that has to go along with tokens that travel in bodies, where the session is bound to one.
    `dpop_nonce` is for the header `DPoP-Nonce` of the answer, where it is bound to a key (RFC 9449 section 8.2).
    """

    __slots__ = (
        "_now", "_row", "access_expires_at", "access_token", "bind", "dpop_nonce", "refresh_expires_at",
        "refresh_token",
    )  # fmt: skip

    def __init__(
        self,
        access_token: str,
        refresh_token: str,
        *,
        access_expires_at: int,
        refresh_expires_at: int,
        row: FamilyRow,
        now: int,
        bind: Cookie | None = None,
        nonce: str | None = None,
    ) -> None:
        self.access_token: str = access_token
        self.refresh_token: str = refresh_token
        self.access_expires_at: int = access_expires_at
        self.refresh_expires_at: int = refresh_expires_at
        self.bind: Cookie | None = bind
        self.dpop_nonce: str | None = nonce
        self._row = row
        self._now = now

    @property
    def session(self) -> Session:
        """The session that they are of."""
        return shown(self._row)

    @property
    def token_type(self) -> Literal["Bearer", "DPoP"]:
        """The scheme in which the access token travels (RFC 9449 section 5)."""
        return "Bearer" if self.dpop_nonce is None else "DPoP"

    @property
    def cookies(self) -> tuple[Cookie, ...]:
        """Both as cookies, for pages that a server renders: `response.set_cookie(**cookie.args())` for each."""
        return (
            Cookie(ACCESS, self.access_token, self.access_expires_at - self._now),
            Cookie(REFRESH, self.refresh_token, self.refresh_expires_at - self._now),
            *(() if self.bind is None else (self.bind,)),
        )

    def __repr__(self) -> str:
        return f"<TokenPair of session {self._row.id}>"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Misuse("tokens are not copied or pickled")


def cleared_cookies() -> tuple[Cookie, ...]:
    """What takes our cookies from a browser that signs out."""
    return Cookie(ACCESS, "", 0), Cookie(REFRESH, "", 0), Cookie(BIND, "", 0)
